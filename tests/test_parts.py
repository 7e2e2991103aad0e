"""Averaging part by part: a true partition, exact ends, refusals that name the offender."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from alignment_tax.merge.average import MergeError, average
from alignment_tax.merge.layout import Partition, block_names, block_sizes, ratios_of_blocks
from alignment_tax.merge.parts import Mixture, one_part, partition

PLAIN = Partition({"one": ("0.weight",), "two": ("1.weight",)}, {"rest": ("1.bias",)})


def llama(seed: int, layers: int = 3, tied: bool = True, **changes: float) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 13, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
    config = LlamaConfig(
        **sizes | {"num_hidden_layers": layers, "max_position_embeddings": 16} | changes,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


@pytest.fixture
def sweep() -> Mixture:
    model = llama(5)
    return Mixture(model, state(llama(0)), state(llama(1)), partition(model, 3))


# blocks
def test_the_papers_thirds_of_26_layers() -> None:
    assert block_sizes(26, 3) == (8, 9, 9)  # 1-8, 9-17, 18-26
    assert block_sizes(9, 3) == (3, 3, 3)
    assert block_sizes(26, 6) == (4, 4, 5, 4, 4, 5)
    assert block_sizes(26, 9) == (2, 3, 3, 3, 3, 3, 3, 3, 3)
    assert block_names((8, 9, 9)) == ("input", "middle", "output")
    assert block_names((1, 4)) == ("layer 1", "layers 2-5")


@given(st.integers(1, 80), st.data())
def test_blocks_cover_all_layers_evenly(layers: int, data: st.DataObject) -> None:
    sizes = block_sizes(layers, data.draw(st.integers(1, layers)))
    assert sum(sizes) == layers
    assert max(sizes) - min(sizes) <= 1


def test_a_llama_is_cut_into_thirds_and_what_is_no_layer() -> None:
    parts = partition(llama(0, layers=4, tied=False), 3)
    assert list(parts.parts) == ["input", "middle", "output", "embeddings", "head", "norms"]
    # four layers: one, one, two; seven matrices each
    assert [len(names) for names in parts.blocks.values()] == [7, 7, 14]
    assert parts.blocks["middle"][0] == "model.layers.1.self_attn.q_proj.weight"
    assert {name.split(".")[2] for name in parts.blocks["output"]} == {"2", "3"}
    assert parts.others["embeddings"] == ("model.embed_tokens.weight",)
    assert parts.others["head"] == ("lm_head.weight",)
    assert len(parts.others["norms"]) == 2 * 4 + 1
    tied = partition(llama(0), 3).others  # a tied head belongs to the embeddings
    assert list(tied) == ["embeddings", "norms"]
    assert tied["embeddings"] == ("model.embed_tokens.weight",)
    given = partition(llama(0, layers=4), (1, 3)).blocks
    assert {name: len(names) for name, names in given.items()} == {"layer 1": 7, "layers 2-4": 21}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=2, n_head=2))
    parts = partition(model, 2)
    assert "transformer.h.1.mlp.c_fc.bias" in parts.blocks["layer 2"]
    assert "transformer.h.0.ln_1.bias" in parts.others["norms"]
    assert set(parts.others) == {"embeddings", "norms"}


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((2, 3), r"2, 3 layers.*at least 1 each and 4 in all"),
        ((0, 4), r"0, 4 layers"),
        (5, "5 blocks cannot be cut from 4 layers: choose K from 1"),
        (0, "0 blocks"),
    ],
)
def test_blocks_that_cannot_be_cut_are_refused(blocks: int | tuple, message: str) -> None:
    with pytest.raises(MergeError, match=message):
        partition(llama(0, layers=4), blocks)
    with pytest.raises(MergeError, match="No tensor's name holds the number of a layer"):
        partition(nn.Linear(2, 2), 1)


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
def test_equal_ratios_are_plain_averaging_to_the_bit(sweep: Mixture, alpha: float) -> None:
    own = [tensor.data_ptr() for tensor in sweep.targets.values()]
    equal = dict.fromkeys(sweep.partition.parts, alpha)
    sweep.set(equal)
    assert [tensor.data_ptr() for tensor in sweep.targets.values()] == own  # in place
    plain = average(state(llama(0)), state(llama(1)), alpha)
    for mixed in (sweep.targets, sweep.weights(equal)):
        assert all(torch.equal(tensor, plain[name]) for name, tensor in mixed.items())


def test_each_part_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1))
    ends = {"0.weight": (0.0, 8.0), "1.weight": (1.0, 3.0), "1.bias": (10.0, 20.0)}
    own = model.state_dict().items()
    start, end = ({n: torch.full_like(t, ends[n][k]) for n, t in own} for k in (0, 1))
    mixture = Mixture(model, start, end, PLAIN)
    mixture.set({"one": 0.25, "two": 0.5, "rest": 0.1})
    assert [model.state_dict()[n].item() for n in ends] == [2.0, 2.0, 11.0]
    assert one_part(PLAIN, "two", 0.25) == {"one": 1.0, "two": 0.25, "rest": 1.0}
    assert one_part(PLAIN, "linear", 0.25) == {"one": 0.25, "two": 0.25, "rest": 1.0}


# ratios
def test_ratios_of_blocks_give_every_part_one() -> None:
    parts = partition(llama(0, tied=False), 3)
    ratios = ratios_of_blocks(parts, [0.9, 0.6, 0.3], 0.6, fixed={"norms": 0.0})
    assert list(ratios) == ["input", "middle", "output", "embeddings", "head", "norms"]
    assert list(ratios.values()) == [0.9, 0.6, 0.3, 0.6, 0.6, 0.0]


@pytest.mark.parametrize(
    ("values", "alpha", "options", "message"),
    [
        ([0.9, 0.5, 0.2], 0.6, {}, r"0.9, 0.5, 0.2 have the mean 0.533.*must be 0.6"),
        ([0.6, 0.6], 0.6, {}, r"2 ratios for 3 blocks \(input, middle, output\)"),
        ([1.2, 0.4, 0.2], 0.6, {}, r"ratio of part 'input' is 1.2: .* in \[0, 1\]"),
        ([0.6] * 3, 0.6, {"fixed": {"middle": 0.0}}, "'middle' has no ratio to fix"),
        ([0.6] * 3, -0.1, {}, r"outside \[0, 1\]"),
    ],
)
def test_ratios_that_do_not_fit_are_refused(values, alpha, options, message: str) -> None:
    with pytest.raises(MergeError, match=message):
        ratios_of_blocks(partition(llama(0), 3), values, alpha, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": 1.0}, "There is no part 'head'"),
        ({"output": -0.1}, r"ratio of part 'output' is -0\.1"),
        ({"output": float("nan")}, "ratio of part 'output' is nan"),
    ],
)
def test_a_sweep_refuses_ratios_by_the_name_of_the_part(sweep: Mixture, change, message) -> None:
    full = dict.fromkeys(sweep.partition.parts, 1.0)
    with pytest.raises(MergeError, match=message):
        sweep.set({**full, **change})
    with pytest.raises(MergeError, match="ratio of part 'norms' is None"):
        sweep.set({name: 1.0 for name in full if name != "norms"})
    with pytest.raises(MergeError, match="ratio of part 'input' is"):
        sweep.set(1.5)
    with pytest.raises(MergeError, match="no part 'inputs'"):
        one_part(sweep.partition, "inputs", 0.5)


# partitions and models that do not fit
@pytest.mark.parametrize(
    ("blocks", "others", "message"),
    [
        (("0.weight", "1.weight"), {"b": ("1.weight", "1.bias")}, "'1.weight' is in 2 parts"),
        (("0.weight", "1.weight"), {}, "'1.bias' is in 0 parts"),
        (("0.weight", "1.weight", "2.weight"), {"b": ("1.bias",)}, "'2.weight' is in 1 parts"),
        (("0.weight", "1.weight"), {"a": ("1.bias",)}, "'0.weight' is in 0 parts"),
    ],
)
def test_what_is_no_partition_is_refused(blocks, others, message: str) -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1))
    with pytest.raises(MergeError, match=message):
        Mixture(model, state(model), state(model), Partition({"a": blocks}, others))


def test_other_depths_and_names_are_refused() -> None:
    model = llama(0)
    parts = partition(model, 3)
    with pytest.raises(MergeError, match="theta_0 has 3 layers and theta 4"):
        Mixture(model, state(model), state(llama(1, layers=4)), parts)
    renamed = {name.replace("up_proj", "up"): t for name, t in state(llama(1)).items()}
    with pytest.raises(MergeError, match=r"layers.0.mlp.up_proj.weight' is in theta_0 but not"):
        Mixture(model, state(model), renamed, parts)
