"""Weight averaging: exact ends, linearity, and refusals that name the offender."""

import math
import re

import numpy as np
import pytest
import torch
from conftest import refuses
from hypothesis import given, strategies as st
from test_parts import llama, same, state

from alignment_tax.merge.average import average
from alignment_tax.merge.layout import MergeError, kind_of
from alignment_tax.merge.parts import Mixture, partition
from alignment_tax.weights import CheckpointError, check_same_vocabulary

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def weights(seed, tied=True):
    return state(llama(seed, 2, tied))


def without(state, name):
    return {n: t for n, t in state.items() if n != name}


def sweep_of(model, *ends):
    return Mixture(model, *ends, partition(model, 2))


@pytest.fixture
def pair():
    return weights(0), weights(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_ends_are_exact_to_the_last_bit(dtype):
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


floats = st.floats(-100, 100, width=32, allow_subnormal=False)
numbers = st.lists(floats, min_size=6, max_size=6).map(torch.tensor)


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


def test_kinds_of_weights_and_linear_ones_alone(pair):
    kinds = {name: kind_of(name, tensor) for name, tensor in weights(0, tied=False).items()}
    names = [EMBEDDING, HEAD, QUERY, "model.layers.1.mlp.down_proj.weight", "model.norm.weight",
             "model.layers.0.input_layernorm.weight"]  # fmt: skip
    told = ["embedding", "head", "linear", "linear", "norm", "norm"]
    assert [kinds[name] for name in names] == told
    assert kind_of("model.layers.0.self_attn.q_proj.bias", torch.zeros(3)) == "other"
    before, after = pair
    mixed = average(before, after, 1.0, what="linear")
    both = average(before, after, 1.0, what={"linear", "embedding"})
    assert torch.equal(mixed[QUERY], after[QUERY])
    assert torch.equal(mixed[EMBEDDING], before[EMBEDDING])
    assert torch.equal(both[EMBEDDING], after[EMBEDDING])
    no_head = [without(end, HEAD) for end in pair]
    for kind in ("attention", "head"):
        said = rf"'{kind}'. Choose .*tied to the embedding"
        refuses(MergeError, said, average, *no_head, 0.5, what=kind)


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


def dropped(state):
    return without(state, QUERY)


def with_query(state, value):
    return state | {QUERY: torch.full_like(state[QUERY], value)}


@pytest.mark.parametrize(("change_before", "change_after", "message"), [
    (dict, dropped, f"'{re.escape(QUERY)}' is in theta_0 but not in theta"),
    (dropped, dict, f"'{re.escape(QUERY)}' is in theta but not in theta_0"),
    (dict, lambda s: s | {QUERY: s[QUERY][:4]}, r"\(8, 8\) .* but \(4, 8\).*architectures"),
    (dict, lambda s: state(llama(1, 2, vocab_size=19)),
     r"\(13, 8\) in theta_0 but \(19, 8\).*resize_token_embeddings\(13"),
    (dict, lambda s: {n: t.double() for n, t in s.items()}, "load both alike"),
    (lambda s: {f"_orig_mod.{n}": s[n] for n in s}, dict, "'_orig_mod' is torch"),
    (dict, lambda s: {f"module.{n}": s[n] for n in s}, "'module' that of DDP"),
    (*[lambda s: {"w": torch.ones(2).to(torch.float8_e4m3fn)}] * 2, "quantised"),
    (lambda s: {}, dict, "empty"),
    (lambda s: {"n": torch.tensor([1])}, lambda s: {"n": torch.tensor([2])}, "whole numbers"),
    (dict, lambda s: with_query(s, math.nan), f"'{re.escape(QUERY)}' of theta holds NaN"),
    (lambda s: with_query(s, math.inf), dict, f"'{re.escape(QUERY)}' of theta_0 holds NaN"),
])  # fmt: skip
def test_refusals_name_the_first_offender(pair, change_before, change_after, message):
    refuses(MergeError, message, average, change_before(pair[0]), change_after(pair[1]), 0.5)


# an alpha beyond the ends that was not asked for is one of the malformed inputs
def test_alpha_is_a_finite_number_that_may_lie_beyond_the_ends_if_asked_for():
    before, after = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
    assert average(before, after, 1.5, extrapolate=True)["w"].item() == 2.5
    for bad in (math.nan, math.inf, "0.5", None, True):
        refuses(MergeError, "finite number", average, before, after, bad)


def test_vocabularies_must_agree_token_by_token():
    first = {"a": 0, "b": 1, "c": 2}
    check_same_vocabulary(first, dict(first), "")
    for other, message in (
        ({"a": 0, "b": 2, "c": 1}, "token 'b' is number 1 in the first and 2 in the second"),
        ({"a": 0, "b": 1}, r"token 'c' is number 2 in the first and None.*3 and 2"),
    ):
        refuses(CheckpointError, message, check_same_vocabulary, first, other, "")
