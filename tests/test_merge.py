"""Averaging, whole and part by part: exact ends, a true partition, refusals by name; its theory."""

import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from conftest import golden, refuses
from hypothesis import given, strategies as st
from scipy.stats import norm
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from alignment_tax.merge import layout, theory
from alignment_tax.merge.average import MergeError, average
from alignment_tax.merge.layout import Partition, block_sizes, kind_of, ratios_of_blocks
from alignment_tax.merge.parts import Mixture, one_part, partition
from alignment_tax.merge.theory import FeatureModel, margin, proposition_5_1

PLAIN = Partition({"one": ("0.weight",), "two": ("1.weight",)}, {"rest": ("1.bias",)})
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
floats = st.floats(-100, 100, width=32, allow_subnormal=False)
numbers = st.lists(floats, min_size=6, max_size=6).map(torch.tensor)


def llama(seed: int, layers=3, tied=True, config=LlamaConfig, **changes) -> PreTrainedModel:
    """A small model of random weights, or one of another architecture."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 13, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
    sizes |= {"num_hidden_layers": layers, "max_position_embeddings": 16} | changes
    return AutoModelForCausalLM.from_config(config(**sizes, tie_word_embeddings=tied)).eval()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


def sweep_of(model: nn.Module, *ends: dict[str, Tensor]) -> Mixture:
    return Mixture(model, *ends, partition(model, model.config.num_hidden_layers))


def sweep() -> Mixture:
    return sweep_of(llama(5), state(llama(0)), state(llama(1)))


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1))


# blocks
def test_the_papers_thirds_of_26_layers_and_what_is_no_layer():
    assert block_sizes(26, 3) == (8, 9, 9)  # 1-8, 9-17, 18-26
    assert block_sizes(9, 3) == (3, 3, 3)
    assert block_sizes(26, 6) == (4, 4, 5, 4, 4, 5)
    assert block_sizes(26, 9) == (2, 3, 3, 3, 3, 3, 3, 3, 3)
    assert layout.block_names((8, 9, 9)) == ("input", "middle", "output")
    assert layout.block_names((1, 4)) == ("layer 1", "layers 2-5")
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
    parts = partition(llama(0, 2, config=GPT2Config), 2)
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
    sweep = sweep_of(model, model.state_dict() if held == 0 else before, after)
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
    return sweep_of(llama(0), state(llama(0)), end)


THIRDS = dict.fromkeys("input middle output".split(), 1.0)


@pytest.mark.parametrize(("message", "attempt"), {
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
}.items())  # fmt: skip
def test_what_does_not_fit_is_refused_and_the_offender_named(message, attempt):
    refuses(MergeError, message, attempt)


def weights(seed, tied=True):
    return state(llama(seed, 2, tied))


def without(state, name):
    return {n: t for n, t in state.items() if n != name}


@pytest.fixture
def pair():
    return weights(0), weights(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_an_average_is_exact_at_its_ends_to_the_last_bit(dtype):
    # numbers of very different size, where start + 1.0 * (end - start) misses the end
    before = {"w": torch.tensor([1e8, 1.0, -3.3, 1e-8], dtype=dtype)}
    after = {"w": torch.tensor([1.1, 1e-7, 3e7, 0.1], dtype=dtype)}
    for alpha, end in ((0.0, before), (1.0, after)):
        assert torch.equal(average(before, after, alpha)["w"], end["w"])
    assert average(before, after, 0.5)["w"].dtype == dtype


def test_bfloat16_is_mixed_in_float32():
    before = {"w": torch.tensor([1.0], dtype=torch.bfloat16)}
    after = {"w": torch.tensor([1.0078125], dtype=torch.bfloat16)}  # the next bfloat16
    # 0.6 of one step rounds to that step; alpha itself in bfloat16 would be 0.6016
    assert [average(before, after, a)["w"].item() for a in (0.6, 0.4)] == [1.0078125, 1.0]


@given(numbers, numbers, st.floats(0, 1, width=32))
def test_linear_symmetric_and_mean_preserving(a, b, alpha):
    mixed = average({"w": a}, {"w": b}, alpha)["w"].double()
    exact = (1 - alpha) * a.double() + alpha * b.double()
    for other in (exact, average({"w": b}, {"w": a}, 1 - alpha)["w"].double()):
        assert torch.allclose(mixed, other, rtol=1e-5, atol=1e-4)
    assert mixed.mean().item() == pytest.approx(exact.mean().item(), rel=1e-5, abs=1e-4)
    assert torch.equal(average({"w": a}, {"w": a.clone()}, alpha)["w"], a)


def test_inputs_are_neither_changed_nor_shared_and_no_graph_is_kept(pair):
    average(*pair, 0.0)[QUERY].zero_()
    average(*pair, 0.3)
    assert same(pair[0], weights(0))
    first, second = (dict(llama(seed, 2).named_parameters()) for seed in (0, 1))
    mixed = average(first, second, np.float32(0.5))
    assert not any(tensor.requires_grad for tensor in mixed.values())


def test_kinds_of_weights():
    kinds = {name: kind_of(name, tensor) for name, tensor in weights(0, tied=False).items()}
    names = [EMBEDDING, HEAD, QUERY, "model.layers.1.mlp.down_proj.weight", "model.norm.weight",
             "model.layers.0.input_layernorm.weight"]  # fmt: skip
    told = ["embedding", "head", "linear", "linear", "norm", "norm"]
    assert [kinds[name] for name in names] == told
    assert kind_of("model.layers.0.self_attn.q_proj.bias", torch.zeros(3)) == "other"


@pytest.mark.parametrize("drop", [(0,), (1,), (0, 1)])
def test_a_tied_head_may_be_stored_once_or_twice(pair, drop):
    # safetensors drops the second name of a tied tensor, state_dict() keeps it
    full = average(*pair, 0.4)
    ends = [without(end, HEAD) if i in drop else end for i, end in enumerate(pair)]
    mixed = average(*ends, 0.4)
    assert all(torch.equal(mixed[n], full[n]) for n in mixed)
    assert list(mixed) == list(ends[0])
    model = llama(5, 2)
    sweep_of(model, *ends).set(0.4)
    assert same(dict(model.state_dict()), full)


def test_tied_against_untied_is_refused():
    untied, own = weights(1, tied=False), dict(llama(0, 2).state_dict())
    no_head = without(weights(0), HEAD)
    for first, second in [(no_head, untied), (untied, no_head), (own, untied)]:
        refuses(MergeError, "'lm_head.weight' is tied to", average, first, second, 0.5)
    ends = weights(0, tied=False), untied
    refuses(MergeError, "tie_word_embeddings=False", sweep_of, llama(0, 2), *ends)
    model = llama(0, 2, tied=False)
    refuses(MergeError, "tie_word_embeddings=True", sweep_of, model, no_head, no_head)


@pytest.mark.parametrize(("change_before", "change_after", "message"), [
    (dict, partial(without, name=QUERY), f"'{re.escape(QUERY)}' is in theta_0 but not in theta"),
    (partial(without, name=QUERY), dict, f"'{re.escape(QUERY)}' is in theta but not in theta_0"),
    (dict, lambda s: s | {QUERY: s[QUERY][:4]}, r"\(8, 8\) .* but \(4, 8\).*architectures"),
    (dict, lambda s: state(llama(1, 2, vocab_size=19)), r"\(19, 8\).*resize_token_embeddings\(13"),
    (dict, lambda s: {n: t.double() for n, t in s.items()}, "load both alike"),
    (lambda s: {f"_orig_mod.{n}": s[n] for n in s}, dict, "'_orig_mod' is torch"),
    (dict, lambda s: {f"module.{n}": s[n] for n in s}, "'module' that of DDP"),
    (*[lambda s: {"w": torch.ones(2).to(torch.float8_e4m3fn)}] * 2, "quantised"),
    (lambda s: {}, dict, "empty"),
    (lambda s: {"n": torch.tensor([1])}, lambda s: {"n": torch.tensor([2])}, "whole numbers"),
    (dict, lambda s: s | {QUERY: s[QUERY] * math.nan}, f"'{QUERY}' of theta holds NaN"),
    (lambda s: s | {QUERY: s[QUERY] + math.inf}, dict, f"'{QUERY}' of theta_0 holds NaN"),
])  # fmt: skip
def test_refusals_name_the_first_offender(pair, change_before, change_after, message):
    refuses(MergeError, message, average, change_before(pair[0]), change_after(pair[1]), 0.5)


# an alpha beyond the ends that was not asked for is one of the malformed inputs
def test_alpha_is_a_finite_number_that_may_lie_beyond_the_ends_if_asked_for():
    before, after = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
    assert average(before, after, 1.5, extrapolate=True)["w"].item() == 2.5
    for bad in (math.nan, math.inf, "0.5", None, True):
        refuses(MergeError, "finite number", average, before, after, bad)


# --- the feature model: formula against simulation, what averaging does to shared features --------
DRAWS = 40_000
SIMULATED = ("single", "weights", "outputs")
# three standard errors of an accuracy near 0.76, and the rounding of the expected number
NEAR = 3 * math.sqrt(0.76 * 0.24 / DRAWS) + 0.0005


@pytest.mark.parametrize(("shared", "labels", "expected"), golden("theory.yaml"))
def test_accuracies_as_simulated(shared: int, labels: str, expected: list[float]) -> None:
    found = theory.simulate(FeatureModel(shared=shared), labels, draws=DRAWS)
    assert [getattr(found, name) for name in SIMULATED] == pytest.approx(expected, abs=NEAR)
    # with different labels the other head is silent on these classes, to the last draw
    assert labels == "same" or found.single == found.outputs


@pytest.mark.parametrize("shared", [0, 150, 400])
def test_the_formula_is_the_limit_of_many_features(shared: int) -> None:
    # (1 - p) sqrt(n) = 1: far from certainty, with as many votes as the limit needs
    world = FeatureModel(features=400, shared=shared, classes=5, p=0.95)
    found, limit = theory.simulate(world, draws=40_000), theory.predicted(world)
    for name in SIMULATED:
        assert getattr(found, name) == pytest.approx(getattr(limit, name), abs=0.01)
    assert found.outputs - found.single == pytest.approx(proposition_5_1(world), abs=0.015)
    # for twenty features it promises too much
    assert theory.predicted(FeatureModel(shared=0)).single == pytest.approx(0.820, abs=0.0006)


def test_f_p_margins_and_equal_votes_by_hand() -> None:
    # two classes: one margin, N(x, M_11) with M_11 = p (4 - 2 p) / 2 = 0.75 at p = 1/2
    assert theory.f_p(0.6, 0.5, 2) == pytest.approx(norm.cdf(0.6 / math.sqrt(0.75)), abs=1e-9)
    # p = 1: three classes of equal votes, each wins a third of the time
    assert theory.f_p(0.0, 1.0, 3) == pytest.approx(1 / 3, abs=1e-9)
    assert theory.f_p(9.0, 0.5, 10) == pytest.approx(1.0, abs=1e-6)
    # n = 4, n_o = 2, 1 - p = 1/2: votes 1,1,1,1 and twice 2 or 4
    world = FeatureModel(features=4, shared=2, classes=3, p=0.5)
    assert margin(world, 2) == pytest.approx(0.5 * 8 / math.sqrt(12))
    assert margin(world, 2) == pytest.approx(math.sqrt(2) * 0.5 * 4 / math.sqrt(4 + 2))
    assert margin(world, 4) == pytest.approx(0.5 * 12 / math.sqrt(36))
    assert margin(world, 4) == pytest.approx(math.sqrt(2) * 0.5 * (4 + 2) / math.sqrt(4 + 7 * 2))
    votes = np.array([[3, 1, 0], [2, 2, 1], [1, 1, 1], [0, 4, 1]])
    assert theory.accuracy(votes) == pytest.approx((1 + 1 / 2 + 1 / 3 + 0) / 4)
    # the proposition vanishes at full overlap alone
    gains = [proposition_5_1(FeatureModel(shared=shared)) for shared in (0, 5, 10, 15, 20)]
    assert gains == sorted(gains, reverse=True)
    assert gains[3] > 0.005
    assert gains[4] == pytest.approx(0, abs=1e-9)


def test_repeats_are_independent_and_average_to_the_accuracy() -> None:
    world = FeatureModel(shared=5)
    found = [each.outputs for each in theory.repeated(world, repeats=8, draws=5000, seed=1)]
    assert len(set(found)) == 8
    # their spread is that of 5000 draws: sqrt(0.88 * 0.12 / 5000) = 0.0046
    assert 0.002 < np.std(found, ddof=1) < 0.009
    assert np.mean(found) == pytest.approx(0.882, abs=NEAR)
    first, again, other = (theory.repeated(world, repeats=2, draws=100, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_a_world_that_makes_no_sense_is_refused() -> None:
    refuses(ValueError, "share none to all", FeatureModel, shared=21)
    refuses(ValueError, "two classes", FeatureModel, classes=1)
    refuses(ValueError, "at least one feature", FeatureModel, features=0, shared=0)
    refuses(ValueError, "p must lie between 0 and 1", FeatureModel, p=1.0)
    refuses(ValueError, "'same' or 'different'", theory.simulate, FeatureModel(), "none")
