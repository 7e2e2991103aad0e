"""Averaging part by part: a true partition, exact ends, refusals that name the offender."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from alignment_tax.merge.average import MergeError, average
from alignment_tax.merge.layout import Partition, block_names, block_sizes, ratios_of_blocks
from alignment_tax.merge.parts import Mixture, one_part, partition

PLAIN = Partition({"one": ("0.weight",), "two": ("1.weight",)}, {"rest": ("1.bias",)})


def llama(seed: int, layers: int = 3, tied: bool = True, **changes: float) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 13, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
    sizes |= {"num_hidden_layers": layers, "max_position_embeddings": 16} | changes
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=tied)).eval()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


def sweep() -> Mixture:
    model = llama(5)
    return Mixture(model, state(llama(0)), state(llama(1)), partition(model, 3))


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1))


# blocks
def test_the_papers_thirds_of_26_layers_and_what_is_no_layer():
    assert block_sizes(26, 3) == (8, 9, 9)  # 1-8, 9-17, 18-26
    assert block_sizes(9, 3) == (3, 3, 3)
    assert block_sizes(26, 6) == (4, 4, 5, 4, 4, 5)
    assert block_sizes(26, 9) == (2, 3, 3, 3, 3, 3, 3, 3, 3)
    assert block_names((8, 9, 9)) == ("input", "middle", "output")
    assert block_names((1, 4)) == ("layer 1", "layers 2-5")
    parts = partition(llama(0, layers=4, tied=False), 3)
    assert list(parts.parts) == ["input", "middle", "output", "embeddings", "head", "norms"]
    # four layers: one, one, two; seven matrices each
    assert [len(names) for names in parts.blocks.values()] == [7, 7, 14]
    assert parts.blocks["middle"][0] == "model.layers.1.self_attn.q_proj.weight"
    assert {name.split(".")[2] for name in parts.blocks["output"]} == {"2", "3"}
    assert (parts.others["head"], len(parts.others["norms"])) == (("lm_head.weight",), 2 * 4 + 1)
    tied = partition(llama(0), 3).others  # a tied head belongs to the embeddings
    assert list(tied) == ["embeddings", "norms"]
    for others in (parts.others, tied):
        assert others["embeddings"] == ("model.embed_tokens.weight",)
    given = partition(llama(0, layers=4), (1, 3)).blocks
    assert {name: len(names) for name, names in given.items()} == {"layer 1": 7, "layers 2-4": 21}
    parts = partition(GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=2, n_head=2)), 2)
    assert "transformer.h.1.mlp.c_fc.bias" in parts.blocks["layer 2"]
    assert "transformer.h.0.ln_1.bias" in parts.others["norms"]
    assert set(parts.others) == {"embeddings", "norms"}


@given(st.integers(1, 80), st.data())
def test_blocks_cover_all_layers_evenly(layers: int, data: st.DataObject) -> None:
    sizes = block_sizes(layers, data.draw(st.integers(1, layers)))
    assert (sum(sizes), max(sizes) - min(sizes) <= 1) == (layers, True)


# mixing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", [0, 5])  # the model may hold one of the ends
def test_the_ends_are_exact_to_the_last_bit(dtype: torch.dtype, held: int) -> None:
    before, after = state(llama(0).to(dtype)), state(llama(1).to(dtype))
    model = llama(held).to(dtype)
    start = model.state_dict() if held == 0 else before
    sweep = Mixture(model, start, after, partition(model, 3))
    for alpha, end in ((1.0, after), (0.0, before)):
        sweep.set(alpha)
        assert same(state(model), end)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3, 0.5, 2 / 3, 1.0])
def test_equal_ratios_are_plain_averaging_to_the_bit(alpha: float) -> None:
    mixture = sweep()
    own = [tensor.data_ptr() for tensor in mixture.targets.values()]
    equal = dict.fromkeys(mixture.partition.parts, alpha)
    mixture.set(equal)
    assert [tensor.data_ptr() for tensor in mixture.targets.values()] == own  # in place
    plain = average(state(llama(0)), state(llama(1)), alpha)
    for mixed in (mixture.targets, mixture.weights(equal)):
        assert all(torch.equal(tensor, plain[name]) for name, tensor in mixed.items())


def test_each_part_and_the_ratios_of_blocks_by_hand():
    model = two_layers()
    ends = {"0.weight": (0.0, 8.0), "1.weight": (1.0, 3.0), "1.bias": (10.0, 20.0)}
    own = model.state_dict().items()
    start, end = ({n: torch.full_like(t, ends[n][k]) for n, t in own} for k in (0, 1))
    Mixture(model, start, end, PLAIN).set({"one": 0.25, "two": 0.5, "rest": 0.1})
    assert [model.state_dict()[n].item() for n in ends] == [2.0, 2.0, 11.0]
    assert one_part(PLAIN, "two", 0.25) == {"one": 1.0, "two": 0.25, "rest": 1.0}
    assert one_part(PLAIN, "linear", 0.25) == {"one": 0.25, "two": 0.25, "rest": 1.0}
    parts = partition(llama(0, tied=False), 3)
    ratios = ratios_of_blocks(parts, [0.9, 0.6, 0.3], 0.6, fixed={"norms": 0.0})
    assert list(ratios) == ["input", "middle", "output", "embeddings", "head", "norms"]
    assert list(ratios.values()) == [0.9, 0.6, 0.3, 0.6, 0.6, 0.0]


# what does not fit
def ratios(values: list[float], alpha: float = 0.6, **options) -> dict:
    return ratios_of_blocks(partition(llama(0), 3), values, alpha, **options)


def with_ratio(**change: float) -> None:
    mixture = sweep()
    mixture.set(dict.fromkeys(mixture.partition.parts, 1.0) | change)


def parted(blocks: str, **others: tuple[str, ...]) -> Mixture:
    model = two_layers()
    return Mixture(model, state(model), state(model), Partition({"a": blocks.split()}, others))


def with_end(layers: int, up: str) -> Mixture:
    end = {name.replace("up_proj", up): t for name, t in state(llama(1, layers)).items()}
    return Mixture(llama(0), state(llama(0)), end, partition(llama(0), 3))


THIRDS = dict.fromkeys("input middle output".split(), 1.0)
REFUSED = {
    r"2, 3 layers.*at least 1 each and 4 in all": lambda: partition(llama(0, 4), (2, 3)),
    r"0, 4 layers": lambda: partition(llama(0, 4), (0, 4)),
    "5 blocks cannot be cut from 4 layers: choose K from 1": lambda: partition(llama(0, 4), 5),
    "0 blocks": lambda: partition(llama(0, 4), 0),
    "No tensor's name holds the number": lambda: partition(nn.Linear(2, 2), 1),
    "0.9, 0.5, 0.2 have the mean 0.533.*must be 0.6": lambda: ratios([0.9, 0.5, 0.2]),
    r"2 ratios for 3 blocks \(input, middle, output\)": lambda: ratios([0.6, 0.6]),
    r"ratio of part 'input' is 1.2: .* in \[0, 1\]": lambda: ratios([1.2, 0.4, 0.2]),
    "'middle' has no ratio to fix": lambda: ratios([0.6] * 3, fixed={"middle": 0.0}),
    r"outside \[0, 1\]": lambda: ratios([0.6] * 3, -0.1),
    "There is no part 'head'": lambda: with_ratio(head=1.0),
    r"ratio of part 'output' is -0\.1": lambda: with_ratio(output=-0.1),
    "ratio of part 'output' is nan": lambda: with_ratio(output=float("nan")),
    "ratio of part 'embeddings' is None": lambda: sweep().set(THIRDS),
    "ratio of part 'input' is": lambda: sweep().set(1.5),
    "no part 'inputs'": lambda: one_part(sweep().partition, "inputs", 0.5),
    "'1.weight' is in 2 parts": lambda: parted("0.weight 1.weight", b=("1.weight", "1.bias")),
    "'1.bias' is in 0 parts": lambda: parted("0.weight 1.weight"),
    "'2.weight' is in 1 parts": lambda: parted("0.weight 1.weight 2.weight", b=("1.bias",)),
    "'0.weight' is in 0 parts": lambda: parted("0.weight 1.weight", a=("1.bias",)),
    "theta_0 has 3 layers and theta 4": lambda: with_end(4, "up_proj"),
    r"layers.0.mlp.up_proj.weight' is in theta_0 but not": lambda: with_end(3, "up"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused_and_the_offender_named(message: str) -> None:
    with pytest.raises(MergeError, match=message):
        REFUSED[message]()
