"""Weight averaging: exact ends, linearity, and refusals that name the offender."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_parts import llama, same, state
from torch import Tensor
from transformers import LlamaForCausalLM

from alignment_tax.merge.average import average
from alignment_tax.merge.layout import MergeError, kind_of
from alignment_tax.merge.parts import Mixture, partition
from alignment_tax.weights import CheckpointError, check_same_vocabulary

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def weights(seed: int, tied: bool = True) -> dict[str, Tensor]:
    return state(llama(seed, 2, tied))


def sweep_of(model: LlamaForCausalLM, *ends: dict[str, Tensor]) -> Mixture:
    return Mixture(model, *ends, partition(model, 2))


@pytest.fixture
def pair() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return weights(0), weights(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_ends_are_exact_to_the_last_bit(dtype: torch.dtype) -> None:
    # numbers of very different size, where start + 1.0 * (end - start) misses the end
    before = {"w": torch.tensor([1e8, 1.0, -3.3, 1e-8], dtype=dtype)}
    after = {"w": torch.tensor([1.1, 1e-7, 3e7, 0.1], dtype=dtype)}
    assert torch.equal(average(before, after, 0.0)["w"], before["w"])
    assert torch.equal(average(before, after, 1.0)["w"], after["w"])
    assert average(before, after, 0.5)["w"].dtype == dtype


def test_bfloat16_is_mixed_in_float32() -> None:
    before = {"w": torch.tensor([1.0], dtype=torch.bfloat16)}
    after = {"w": torch.tensor([1.0078125], dtype=torch.bfloat16)}  # the next bfloat16
    # 0.6 of one step rounds to that step; alpha itself in bfloat16 would be 0.6016
    assert average(before, after, 0.6)["w"].item() == 1.0078125
    assert average(before, after, 0.4)["w"].item() == 1.0


numbers = st.lists(
    st.floats(-100, 100, width=32, allow_subnormal=False), min_size=6, max_size=6
).map(lambda values: torch.tensor(values, dtype=torch.float32))
ratios = st.floats(0, 1, width=32)


@given(numbers, numbers, ratios)
def test_linear_symmetric_and_mean_preserving(a: Tensor, b: Tensor, alpha: float) -> None:
    mixed = average({"w": a}, {"w": b}, alpha)["w"].double()
    exact = (1 - alpha) * a.double() + alpha * b.double()
    assert torch.allclose(mixed, exact, rtol=1e-5, atol=1e-4)
    swapped = average({"w": b}, {"w": a}, 1 - alpha)["w"].double()
    assert torch.allclose(mixed, swapped, rtol=1e-5, atol=1e-4)
    mean = (1 - alpha) * a.double().mean() + alpha * b.double().mean()
    assert math.isclose(mixed.mean().item(), mean.item(), rel_tol=1e-5, abs_tol=1e-4)
    assert torch.equal(average({"w": a}, {"w": a.clone()}, alpha)["w"], a)


def test_inputs_are_neither_changed_nor_shared_and_no_graph_is_kept(pair) -> None:
    average(*pair, 0.0)[QUERY].zero_()
    average(*pair, 0.3)
    assert same(pair[0], weights(0))
    first, second = (dict(llama(seed, 2).named_parameters()) for seed in (0, 1))
    mixed = average(first, second, np.float32(0.5))
    assert not any(tensor.requires_grad for tensor in mixed.values())


def test_kinds_of_weights_and_linear_ones_alone(pair) -> None:
    state = llama(0, 2, tied=False).state_dict()
    kinds = {name: kind_of(name, tensor) for name, tensor in state.items()}
    assert kinds[EMBEDDING] == "embedding"
    assert kinds[HEAD] == "head"
    assert kinds[QUERY] == kinds["model.layers.1.mlp.down_proj.weight"] == "linear"
    assert kinds["model.norm.weight"] == kinds["model.layers.0.input_layernorm.weight"] == "norm"
    assert kind_of("model.layers.0.self_attn.q_proj.bias", torch.zeros(3)) == "other"
    before, after = pair
    mixed = average(before, after, 1.0, what="linear")
    both = average(before, after, 1.0, what={"linear", "embedding"})
    assert torch.equal(mixed[QUERY], after[QUERY])
    assert torch.equal(mixed[EMBEDDING], before[EMBEDDING])
    assert torch.equal(both[EMBEDDING], after[EMBEDDING])


@pytest.mark.parametrize("kind", ["attention", "head"])
def test_a_missing_or_unknown_kind_is_refused(pair, kind: str) -> None:
    no_head = ({n: t for n, t in state.items() if n != HEAD} for state in pair)
    with pytest.raises(MergeError, match=rf"'{kind}'. Choose .*tied to the embedding counts as"):
        average(*no_head, 0.5, what=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("drop", [("first",), ("second",), ("first", "second")])
def test_a_tied_head_may_be_stored_once_or_twice(pair, drop) -> None:
    # safetensors drops the second name of a tied tensor, state_dict() keeps it
    before, after = pair
    full = average(before, after, 0.4)
    if "first" in drop:
        before = {n: t for n, t in before.items() if n != HEAD}
    if "second" in drop:
        after = {n: t for n, t in after.items() if n != HEAD}
    mixed = average(before, after, 0.4)
    assert all(torch.equal(mixed[n], full[n]) for n in mixed)
    assert list(mixed) == list(before)
    model = llama(5, 2)
    sweep_of(model, before, after).set(0.4)
    assert same(dict(model.state_dict()), full)


def test_tied_against_untied_is_refused() -> None:
    tied, untied = weights(0), weights(1, tied=False)
    without_head = {n: t for n, t in tied.items() if n != HEAD}
    own = dict(llama(0, 2).state_dict())
    for first, second in [(without_head, untied), (untied, without_head), (own, untied)]:
        with pytest.raises(MergeError, match=r"'lm_head.weight' is tied to the embedding in one"):
            average(first, second, 0.5)
    with pytest.raises(MergeError, match="tie_word_embeddings=False"):
        sweep_of(llama(0, 2), weights(0, tied=False), untied)
    with pytest.raises(MergeError, match="tie_word_embeddings=True"):
        sweep_of(llama(0, 2, tied=False), without_head, without_head)


def dropped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in state.items() if n != QUERY}


def with_query(state: dict[str, Tensor], value: float) -> dict[str, Tensor]:
    return {**state, QUERY: torch.full_like(state[QUERY], value)}


@pytest.mark.parametrize(
    ("change_before", "change_after", "message"),
    [
        (dict, dropped, f"'{re.escape(QUERY)}' is in theta_0 but not in theta"),
        (dropped, dict, f"'{re.escape(QUERY)}' is in theta but not in theta_0"),
        (dict, lambda s: {**s, QUERY: s[QUERY][:4]}, r"\(8, 8\) .* but \(4, 8\).*architectures"),
        (
            dict,
            lambda s: state(llama(1, 2, vocab_size=19)),
            r"\(13, 8\) in theta_0 but \(19, 8\).*resize_token_embeddings\(13",
        ),
        (dict, lambda s: {n: t.double() for n, t in s.items()}, "load both alike"),
        (lambda s: {f"_orig_mod.{n}": s[n] for n in s}, dict, "'_orig_mod' is torch"),
        (dict, lambda s: {f"module.{n}": s[n] for n in s}, "'module' that of DDP"),
        (*[lambda s: {"w": torch.ones(2).to(torch.float8_e4m3fn)}] * 2, "quantised"),
        (lambda s: {}, dict, "empty"),
        (lambda s: {"n": torch.tensor([1])}, lambda s: {"n": torch.tensor([2])}, "whole numbers"),
        (dict, lambda s: with_query(s, math.nan), f"'{re.escape(QUERY)}' of theta holds NaN"),
        (lambda s: with_query(s, math.inf), dict, f"'{re.escape(QUERY)}' of theta_0 holds NaN"),
    ],
)
def test_refusals_name_the_first_offender(pair, change_before, change_after, message: str) -> None:
    with pytest.raises(MergeError, match=message):
        average(change_before(pair[0]), change_after(pair[1]), 0.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, "0.5", None, True])
def test_alpha_must_be_a_finite_number(bad: object) -> None:
    with pytest.raises(MergeError, match="finite number"):
        average({"w": torch.ones(1)}, {"w": torch.ones(1)}, bad)  # type: ignore[arg-type]


def test_extrapolation_must_be_asked_for() -> None:
    before, after = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
    with pytest.raises(MergeError, match=r"extrapolate=True"):
        average(before, after, 1.5)
    assert average(before, after, 1.5, extrapolate=True)["w"].item() == 2.5


def test_vocabularies_must_agree_token_by_token() -> None:
    first = {"a": 0, "b": 1, "c": 2}
    check_same_vocabulary(first, dict(first), "")
    for other, message in (
        ({"a": 0, "b": 2, "c": 1}, "token 'b' is number 1 in the first and 2 in the second"),
        ({"a": 0, "b": 1}, r"token 'c' is number 2 in the first and None.*3 and 2"),
    ):
        with pytest.raises(CheckpointError, match=message):
            check_same_vocabulary(first, other, "")
