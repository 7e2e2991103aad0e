"""Weight averaging: exact ends, linearity, and refusals that name the offender."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_parts import llama, same
from torch import Tensor
from transformers import LlamaForCausalLM

from alignment_tax.merge.average import MergeError, Sweep, average, check_same_vocabulary, kind_of

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def tiny_llama(seed: int, tied: bool = True, vocabulary: int = 17) -> LlamaForCausalLM:
    return llama(seed, 2, tied, vocab_size=vocabulary)


def weights(seed: int, tied: bool = True) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in tiny_llama(seed, tied).state_dict().items()}


@pytest.fixture
def pair() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return weights(0), weights(1)


def test_a_quarter_of_the_way_by_hand() -> None:
    before, after = {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([8.0, -4.0])}
    assert average(before, after, 0.25)["w"].tolist() == [2.0, 2.0]


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
@settings(max_examples=60, deadline=None)
def test_linear_symmetric_and_mean_preserving(a: Tensor, b: Tensor, alpha: float) -> None:
    mixed = average({"w": a}, {"w": b}, alpha)["w"].double()
    exact = (1 - alpha) * a.double() + alpha * b.double()
    assert torch.allclose(mixed, exact, rtol=1e-5, atol=1e-4)
    swapped = average({"w": b}, {"w": a}, 1 - alpha)["w"].double()
    assert torch.allclose(mixed, swapped, rtol=1e-5, atol=1e-4)
    mean = (1 - alpha) * a.double().mean() + alpha * b.double().mean()
    assert math.isclose(mixed.mean().item(), mean.item(), rel_tol=1e-5, abs_tol=1e-4)


@given(numbers, ratios)
@settings(max_examples=20, deadline=None)
def test_averaging_a_model_with_itself_changes_nothing(a: Tensor, alpha: float) -> None:
    assert torch.equal(average({"w": a}, {"w": a.clone()}, alpha)["w"], a)


def test_average_neither_changes_nor_shares_its_inputs(pair) -> None:
    before, after = pair
    kept = {n: t.clone() for n, t in before.items()}
    average(before, after, 0.0)[QUERY].zero_()
    average(before, after, 0.3)
    assert same(before, kept)


def test_kinds_of_weights() -> None:
    state = tiny_llama(0, tied=False).state_dict()
    kinds = {name: kind_of(name, tensor) for name, tensor in state.items()}
    assert kinds[EMBEDDING] == "embedding"
    assert kinds[HEAD] == "head"
    assert kinds[QUERY] == kinds["model.layers.1.mlp.down_proj.weight"] == "linear"
    assert kinds["model.norm.weight"] == kinds["model.layers.0.input_layernorm.weight"] == "norm"
    assert kind_of("model.layers.0.self_attn.q_proj.bias", torch.zeros(3)) == "other"


def test_linear_only_leaves_the_rest_at_theta_0(pair) -> None:
    before, after = pair
    mixed = average(before, after, 1.0, what="linear")
    assert torch.equal(mixed[QUERY], after[QUERY])
    assert torch.equal(mixed[EMBEDDING], before[EMBEDDING])
    both = average(before, after, 1.0, what={"linear", "embedding"})
    assert torch.equal(both[EMBEDDING], after[EMBEDDING])


def test_a_missing_or_unknown_kind_is_refused(pair) -> None:
    with pytest.raises(MergeError, match=r"no kind of weight 'attention'.*linear"):
        average(*pair, 0.5, what="attention")  # type: ignore[arg-type]
    no_head = [{n: t for n, t in state.items() if n != HEAD} for state in pair]
    with pytest.raises(MergeError, match=r"'head'.*tied to the embedding counts as 'embedding'"):
        average(*no_head, 0.5, what="head")


def test_sweep_writes_the_same_weights_as_average(pair) -> None:
    model = tiny_llama(5)
    sweep = Sweep(model, *pair)
    for alpha in (0.3, 1.0, 0.0, 0.7):
        sweep.set(alpha)
        assert same(dict(model.state_dict()), average(*pair, alpha))
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_sweep_keeps_the_parameters_and_moves_the_outputs(pair) -> None:
    model = tiny_llama(5)
    before = [p.data_ptr() for p in model.parameters()]
    sweep, tokens = Sweep(model, *pair), torch.tensor([[1, 2, 3]])
    sweep.set(0.0)
    start = model(tokens).logits
    sweep.set(0.5)
    assert not torch.allclose(model(tokens).logits, start)
    sweep.set(0.0)
    assert torch.equal(model(tokens).logits, start)
    assert [p.data_ptr() for p in model.parameters()] == before


def test_sweep_survives_weights_that_are_the_models_own() -> None:
    model, after = tiny_llama(0), weights(1)
    start = weights(0)
    sweep = Sweep(model, model.state_dict(), after)
    sweep.set(1.0)
    sweep.set(0.0)
    assert same(dict(model.state_dict()), start)


def test_sweep_in_a_bfloat16_model() -> None:
    model = tiny_llama(0).to(torch.bfloat16)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    after = {n: t + 1 for n, t in before.items()}
    sweep = Sweep(model, before, after)
    sweep.set(1.0)
    assert torch.equal(model.state_dict()[QUERY], after[QUERY])
    assert model.state_dict()[QUERY].dtype == torch.bfloat16


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
    model = tiny_llama(5)
    Sweep(model, before, after).set(0.4)
    assert same(dict(model.state_dict()), full)


def test_tied_against_untied_is_refused() -> None:
    tied, untied = weights(0), weights(1, tied=False)
    without_head = {n: t for n, t in tied.items() if n != HEAD}
    own = dict(tiny_llama(0).state_dict())
    for first, second in [(without_head, untied), (untied, without_head), (own, untied)]:
        with pytest.raises(MergeError, match=r"'lm_head.weight' is tied to the embedding in one"):
            average(first, second, 0.5)


def test_a_sweep_refuses_a_model_that_ties_what_the_weights_do_not() -> None:
    untied = weights(0, tied=False), weights(1, tied=False)
    with pytest.raises(MergeError, match="tie_word_embeddings=False"):
        Sweep(tiny_llama(0, tied=True), *untied)


def test_refusals_name_the_first_offender(pair) -> None:
    before, after = pair
    without = {n: t for n, t in after.items() if n != QUERY}
    with pytest.raises(MergeError, match=f"'{re.escape(QUERY)}' is in theta_0 but not in theta"):
        average(before, without, 0.5)
    with pytest.raises(MergeError, match=f"'{re.escape(QUERY)}' is in theta but not in theta_0"):
        average(without, before, 0.5)
    narrow = {**after, QUERY: after[QUERY][:4]}
    with pytest.raises(MergeError, match=r"\(8, 8\) in theta_0 but \(4, 8\).*architectures"):
        average(before, narrow, 0.5)
    other = dict(tiny_llama(1, vocabulary=19).state_dict())
    with pytest.raises(MergeError, match=r"\(17, 8\) in theta_0 but \(19, 8\).*vocabularies"):
        average(before, other, 0.5)
    with pytest.raises(MergeError, match="load both alike"):
        average(before, {n: t.double() for n, t in after.items()}, 0.5)
    with pytest.raises(MergeError, match="empty"):
        average({}, after, 0.5)
    with pytest.raises(MergeError, match="whole numbers"):
        average({"steps": torch.tensor([1])}, {"steps": torch.tensor([2])}, 0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_diverged_weights_are_refused(pair, bad: float) -> None:
    before, after = pair
    after[QUERY][0, 0] = bad
    with pytest.raises(MergeError, match=rf"'{re.escape(QUERY)}' of theta holds NaN or infinity"):
        average(before, after, 0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "0.5", None, True])
def test_alpha_must_be_a_finite_number(pair, bad: object) -> None:
    with pytest.raises(MergeError, match="alpha"):
        average(*pair, bad)  # type: ignore[arg-type]


def test_extrapolation_must_be_asked_for() -> None:
    before, after = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
    with pytest.raises(MergeError, match=r"extrapolate=True"):
        average(before, after, 1.5)
    assert average(before, after, 1.5, extrapolate=True)["w"].item() == 2.5
    model = torch.nn.Linear(1, 1, bias=False)
    sweep = Sweep(model, {"weight": torch.ones(1, 1)}, {"weight": torch.full((1, 1), 2.0)})
    with pytest.raises(MergeError, match=r"extrapolate=True"):
        sweep.set(-0.5)
    sweep.set(-0.5, extrapolate=True)
    assert model.weight.item() == 0.5


def test_vocabularies_must_agree_token_by_token() -> None:
    first = {"a": 0, "b": 1, "c": 2}
    check_same_vocabulary(first, dict(first))
    with pytest.raises(MergeError, match="token 'b' is number 1 in the first and 2 in the second"):
        check_same_vocabulary(first, {"a": 0, "b": 2, "c": 1})
    with pytest.raises(MergeError, match=r"token 'c' is number 2 in the first and None.*3 and 2"):
        check_same_vocabulary(first, {"a": 0, "b": 1})
