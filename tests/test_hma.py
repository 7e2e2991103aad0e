"""HMA: the mean is held, gradients are right, the optimum is the grid's; the released faults."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_parts import llama as small_llama
from torch import Tensor, nn
from torch.func import functional_call
from transformers import LlamaForCausalLM

from alignment_tax.merge import hma, released_code
from alignment_tax.merge.average import MergeError, average, own_tensors
from alignment_tax.merge.layout import ratios_of_blocks
from alignment_tax.merge.parts import Mixture, partition
from alignment_tax.train.loop import TrainingDiverged

EXAMPLES = [
    ([3, 4, 5, 6, 1], [-100, -100, 5, 6, 1]),
    ([7, 8, 1], [-100, 8, 1]),
    ([9, 2, 3, 10, 11, 1], [-100, -100, -100, 10, 11, 1]),
]
KL_TEXTS = [[2, 5, 7], [4, 9]]
TOY = hma.HmaConfig(alpha=0.5, learning_rate=0.1, epochs=150, batch_size=1, evaluate_every=25)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# a toy whose optimum is known: three layers of one number each, theta_0 = 0 and theta = 1, so that
# a weight IS its ratio
class Distance:
    """sum_k (w_k - target_k)^2: on a simplex its optimum is a projection, done by hand."""

    def __init__(self, targets: Sequence[float]) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return 1

    def __call__(self, weights: Mapping[str, Tensor], chosen: Sequence[int]) -> Tensor:
        gaps = [weights[f"{k}.weight"] - target for k, target in enumerate(self.targets)]
        return torch.stack([gap.square().sum() for gap in gaps]).sum()


def toy(sizes: tuple[int, ...] = (1, 1, 1)) -> Mixture:
    model = nn.Sequential(*(nn.Linear(size, 1, bias=False) for size in sizes))
    start = {name: torch.zeros_like(t) for name, t in model.state_dict().items()}
    end = {name: torch.ones_like(t) for name, t in start.items()}
    return Mixture(model, start, end, partition(model, len(sizes)))


llama = partial(small_llama, initializer_range=0.3)


def mixture_of_llamas(dtype: torch.dtype = torch.float32) -> tuple[LlamaForCausalLM, Mixture]:
    before, after = llama(0).to(dtype), llama(1).to(dtype)
    start = {n: t.clone() for n, t in before.state_dict().items()}
    return after, Mixture(after, start, after.state_dict(), partition(after, 3))


def found_for_llamas(**changes: Any) -> tuple[Mixture, hma.Found]:
    """What a short search finds."""
    model, mixture = mixture_of_llamas()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    numbers = {"learning_rate": 0.2, "epochs": 10, "batch_size": 3, "evaluate_every": 5}
    config = hma.HmaConfig(**{"alpha": 0.5, **numbers, **changes})
    found = hma.learn_ratios(mixture, hma.ReplyLikelihood(model, EXAMPLES), config)
    # two models are held, and none is trained
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    return mixture, found


# from scores to ratios

scores_of = st.lists(st.floats(-20, 20), min_size=2, max_size=9).map(lambda v: doubles(*v))


@given(scores_of, st.floats(0.01, 0.99), st.floats(0, 0.9))
def test_ratios_hold_the_mean_and_the_softmax_the_box(scores, alpha, eps):
    by_paper = hma.eq11_ratios(scores, alpha, eps)
    assert math.isclose(float(by_paper.mean()), alpha, rel_tol=1e-12)
    equal = hma.eq11_ratios(torch.zeros_like(scores), alpha, eps)
    assert torch.allclose(equal, torch.full_like(equal, alpha), rtol=1e-12)
    ratios = hma.softmax_ratios(scores, alpha)
    assert math.isclose(float(ratios.mean()), alpha, abs_tol=1e-12)
    assert ratios.min() >= 0
    assert ratios.max() <= 1
    again = hma.project(ratios, alpha)
    assert torch.allclose(again, ratios, rtol=1e-12, atol=1e-12)
    # a block with a higher score never gets less
    order = scores.argsort()
    assert (ratios[order].diff() >= -1e-12).all()


def test_eq11_and_what_overflows_the_box_by_hand() -> None:
    # sigmoid(3), sigmoid(0), sigmoid(-3) plus 0.2 are 1.1526, 0.7, 0.2474, of mean 0.7
    ratios = hma.eq11_ratios(doubles(3, 0, -3), 0.2, 0.2)
    assert ratios.tolist() == pytest.approx([0.3293, 0.2, 0.0707], abs=1e-4)
    # the interval for eps = 1 and K = 3 is [0.6 alpha, 1.5 alpha]
    assert hma.eq11_ratios(doubles(99, -99, -99), 0.2, 1.0)[0] == pytest.approx(0.3)
    assert hma.eq11_ratios(doubles(-99, 99, 99), 0.2, 1.0)[0] == pytest.approx(0.12)
    # 0.5 x 3 = 1.5 to share: 6/9 of it is 1.0, twice 4/3 of that is too much
    assert hma.project(doubles(6, 2, 1), 0.5).tolist() == pytest.approx([1, 1 / 3, 1 / 6])
    assert hma.project(doubles(8, 2, 1), 0.5).tolist() == pytest.approx([1, 1 / 3, 1 / 6])
    # the first overflow makes a second: 2.4 to share, 1 + 1 + 0.4
    assert hma.project(doubles(10, 5, 1), 0.8).tolist() == pytest.approx([1, 1, 0.4])


def test_the_gradient_of_the_box_follows_finite_differences() -> None:
    scores = doubles(2.0, 0.3, -0.5).requires_grad_()
    for alpha in (0.2, 0.7):  # at 0.7 the first ratio is 1
        ratios = hma.softmax_ratios(scores, alpha)
        assert (ratios[0].item() == 1) == (alpha == 0.7)
        assert torch.autograd.gradcheck(lambda s, a=alpha: hma.softmax_ratios(s, a), (scores,))


def test_the_grid_by_hand() -> None:
    points = hma.grid_ratios(0.5, 0.5)
    # two of {0, 1/2, 1} free, the third 3/2 minus both, if in the box
    assert sorted(points) == sorted([*permutations((0.0, 0.5, 1.0)), (0.5, 0.5, 0.5)])
    assert len(hma.grid_ratios(0.5, 0.1)) == 121 - 2 * 15
    assert (0.3, 0.3, 0.3) in hma.grid_ratios(0.3, 0.1)
    with pytest.raises(MergeError, match="step of the grid is 0"):
        hma.grid_ratios(0.3, 0)


def test_the_learning_rate_warms_up_and_falls() -> None:
    factors = [hma.schedule(step, 100) for step in range(100)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert factors[3] == 1
    assert factors[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 96 / 97)))
    assert [hma.schedule(0, 1), hma.schedule(0, 2)] == [1, 1]


# optimum
def test_grid_and_gradient_find_the_optimum_in_a_corner() -> None:
    # nearest point of {mean 0.5, box} to (1.2, 0.3, 0.1): 1 is the most; 0.3 and 0.1 gain 0.05 each
    objective = Distance([1.2, 0.3, 0.1])
    grid = hma.grid_search(toy(), objective, TOY, step=0.05)
    assert grid.blocks == pytest.approx((1, 0.35, 0.15))
    assert grid.objective == pytest.approx(0.04 + 0.0025 + 0.0025)
    assert grid.equal == pytest.approx(0.49 + 0.04 + 0.16)
    learned = hma.learn_ratios(toy(), objective, TOY)
    assert learned.blocks == pytest.approx((1, 0.35, 0.15), abs=0.01)
    assert learned.objective == pytest.approx(grid.objective, abs=1e-3)


@pytest.mark.parametrize(
    ("sizes", "targets", "changes"),
    [
        ((1,) * 3, [0.7, 0.5, 0.3], {}),
        ((1,) * 3, [0.7, 0.5, 0.3], {"parameterisation": "eq11", "eps": 0.5}),
        ((1,) * 6, np.linspace(0.8, 0.2, 6).tolist(), {}),
        ((1,) * 9, np.linspace(0.8, 0.2, 9).tolist(), {}),
    ],
)
def test_the_gradient_finds_an_optimum_inside(sizes, targets, changes) -> None:
    found = hma.learn_ratios(toy(sizes), Distance(targets), dataclasses.replace(TOY, **changes))
    assert found.blocks == pytest.approx(targets, abs=0.02)
    assert math.fsum(found.blocks) == pytest.approx(0.5 * len(sizes), abs=1e-9)


def test_the_extra_term_is_part_of_the_objective() -> None:
    def keep_output(weights: Mapping[str, Tensor]) -> Tensor:
        return 3 * weights["2.weight"].square().sum()

    # sum of (a - t)^2 + 3 c^2 with t = 0.5 and a + b + c = 1.5: 2 (a - t) = 2 (c - t) + 6 c, so
    # a - t = 4 c - t, and 2 a + c = 1.5 gives a = 4 c, c = 1/6
    found = hma.learn_ratios(toy(), Distance([0.5, 0.5, 0.5]), TOY, extra=keep_output)
    assert found.blocks == pytest.approx((2 / 3, 2 / 3, 1 / 6), abs=0.01)
    assert found.equal == pytest.approx(0.75)


def test_the_best_ratios_are_kept_and_the_path_is_whole() -> None:
    wild = dataclasses.replace(TOY, learning_rate=30.0, epochs=7, evaluate_every=3)
    found = hma.learn_ratios(toy(), Distance([0.52, 0.5, 0.48]), wild)
    assert [row["step"] for row in found.path] == list(range(8))
    evaluated = [row for row in found.path if row["full"] is not None]
    assert [row["step"] for row in evaluated] == [0, 3, 6, 7]
    assert found.path[0]["ratios"] == pytest.approx((0.5,) * 3)
    best = min(evaluated, key=lambda row: row["full"])
    assert (best["full"], tuple(best["ratios"])) == (found.objective, found.blocks)
    assert found.objective <= found.equal


# models
@pytest.mark.parametrize(
    ("parameterisation", "alpha"),
    [*(("softmax", a) for a in (0.1, 0.3, 0.6, 0.7, 0.9)), *(("eq11", a) for a in (0.1, 0.2, 0.3))],
)
def test_every_search_starts_from_plain_averaging_to_the_bit(parameterisation, alpha) -> None:
    mixture, found = found_for_llamas(alpha=alpha, parameterisation=parameterisation, epochs=1)
    parts = mixture.partition
    mixed = mixture.weights(parts.ratios(found.path[0]["ratios"], alpha))
    plain = average(mixture.theta_0, mixture.theta, alpha)
    assert all(torch.equal(mixed[name], plain[name]) for name in mixed)


def test_learned_ratios_make_the_model_that_was_evaluated_and_are_found_again() -> None:
    mixture, found = found_for_llamas(alpha=0.6, seed=1, batch_size=2)
    other = llama(7)
    sweep = Mixture(other, mixture.theta_0, mixture.theta, partition(other, 3))
    sweep.set(ratios_of_blocks(mixture.partition, found.blocks, found.alpha))
    own = hma.ReplyLikelihood(other, EXAMPLES)
    assert hma.mean_objective(own, own_tensors(other), 3) == pytest.approx(
        found.objective, rel=1e-6
    )
    assert found.objective < found.equal
    assert found.fixed == {}
    assert found == found_for_llamas(alpha=0.6, seed=1, batch_size=2)[1]


def test_the_gradient_of_the_ratios_follows_finite_differences() -> None:
    model, mixture = mixture_of_llamas(torch.float64)
    objective = hma.ReplyLikelihood(model, EXAMPLES)
    extra = hma.KlToStart(model, mixture.theta_0, KL_TEXTS, weight=0.5)

    def loss(ratios: Tensor) -> Tensor:
        weights = mixture.weights(mixture.partition.ratios(ratios.unbind(), 0.6))
        return objective(weights, range(3)) + extra(weights)

    ratios = doubles(0.9, 0.5, 0.4).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(ratios), ratios)
    for k in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[k] = 2e-3  # no smaller: Llama's norms round to float32 in any model
        with torch.no_grad():
            slope = (loss(ratios + step) - loss(ratios - step)) / 4e-3
        assert gradient[k].item() == pytest.approx(slope.item(), rel=1e-3)
        assert abs(gradient[k].item()) > 1e-2


def test_a_bfloat16_model_is_mixed_as_average_does_and_has_gradients() -> None:
    model, mixture = mixture_of_llamas(torch.bfloat16)
    ratio = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    weights = mixture.weights(dict.fromkeys(mixture.partition.parts, ratio))
    plain = average(mixture.theta_0, mixture.theta, 0.3)
    assert all(torch.equal(weights[name], plain[name]) for name in weights)
    (slope,) = torch.autograd.grad(hma.ReplyLikelihood(model, EXAMPLES)(weights, [0, 1, 2]), ratio)
    assert slope.dtype == torch.float64
    assert slope != 0


def test_the_likelihood_by_hand() -> None:
    model, mixture = mixture_of_llamas(torch.float64)
    objective = hma.ReplyLikelihood(model, EXAMPLES)
    total, tokens = 0.0, 0
    for ids, labels in EXAMPLES:
        log_probs = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
        for place, label in enumerate(labels):
            if label != -100:
                total, tokens = total - log_probs[place - 1, label].item(), tokens + 1
    assert tokens == 8
    assert objective(mixture.theta, [0, 1, 2]).item() == pytest.approx(total / tokens)
    # batches of any size have Eq. 9 as their mean, although replies differ in length
    for size in (1, 2, 3):
        assert hma.mean_objective(objective, mixture.theta, size) == pytest.approx(total / tokens)


def test_the_kl_term_by_hand() -> None:
    model, mixture = mixture_of_llamas(torch.float64)
    term = hma.KlToStart(model, mixture.theta_0, KL_TEXTS, weight=2.0)
    assert term(mixture.theta_0).item() == pytest.approx(0, abs=1e-12)
    total = 0.0
    for ids in KL_TEXTS:
        place = torch.tensor([ids])
        start = functional_call(model, dict(mixture.theta_0), (place,)).logits.log_softmax(-1)
        end = functional_call(model, dict(mixture.theta), (place,)).logits.log_softmax(-1)
        total += (start.exp() * (start - end)).sum().item()
    assert term(mixture.theta).item() == pytest.approx(2.0 * total / 5)


# refusals
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.0}, "alpha = 1.0: it must lie strictly between 0 and 1"),
        ({"alpha": float("nan")}, "strictly between"),
        ({"learning_rate": 0.0}, "needs learning_rate"),
        ({"batch_size": 0}, "batch_size, evaluate_every above 0"),
        # (3 x 0.6 - 1) / (3 x 0.4) = 2/3
        ({"alpha": 0.6, "parameterisation": "eq11"}, "at alpha = 0.6: take an eps of 0.666"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(change: dict, message: str) -> None:
    with pytest.raises(MergeError, match=message):
        hma.learn_ratios(toy(), Distance([0.5] * 3), dataclasses.replace(TOY, **change))
    with pytest.raises(MergeError, match="With one block there is nothing to search"):
        hma.learn_ratios(toy((1,)), Distance([0.5]), TOY)
    with pytest.raises(MergeError, match="strictly between 0 and 1"):
        released_code.run(toy(), Distance([0.5] * 3), dataclasses.replace(TOY, alpha=1.0))


def test_examples_without_a_reply_and_objectives_that_are_no_number_are_refused() -> None:
    for examples, message in (
        ([EXAMPLES[0], ([1], [-100])], "1 has none"),
        ([], "are no examples"),
    ):
        with pytest.raises(ValueError, match=message):
            hma.ReplyLikelihood(llama(0), examples)
    with pytest.raises(ValueError, match="at least one token each"):
        hma.KlToStart(llama(0), {}, [[1], []], 1.0)
    with pytest.raises(TrainingDiverged, match="objective is nan at step 1"):
        hma.learn_ratios(toy(), Distance([float("nan"), 0.5, 0.5]), TOY)


# the released code
def bench(faults: released_code.Faults) -> released_code.BenchResult:
    config = dataclasses.replace(TOY, alpha=0.2, epochs=20, learning_rate=0.01)
    return released_code.run(toy((2, 1, 1)), Distance([0.3, 0.2, 0.1]), config, faults)


def test_the_bench_without_faults_is_hma() -> None:
    config = dataclasses.replace(TOY, epochs=150, parameterisation="eq11", eps=0.5)
    clean = released_code.run(toy(), Distance([0.7, 0.5, 0.3]), config)
    assert clean.ratios == pytest.approx((0.7, 0.5, 0.3), abs=0.01)
    assert clean.ratios == pytest.approx(clean.training_ratios)
    assert clean.before == pytest.approx(0.08)
    assert clean.objective < 0.001


def test_the_frozen_numerator_gives_every_block_the_same_ratio() -> None:
    # measured on the authors' class: intended (0.329, 0.200, 0.071), used 0.1144 in every layer
    config = dataclasses.replace(TOY, alpha=0.2)
    scores, initial = doubles(3, 0, -3), torch.logit(doubles(0.2, 0.2, 0.2))
    frozen = released_code.Faults(frozen_numerator=True)
    used = released_code.training_ratios(scores, initial, config, frozen)
    assert used.tolist() == pytest.approx([0.6 * 0.4 / 2.1] * 3)  # 0.1143
    assert released_code.merged_ratios(scores, config, frozen).tolist() == pytest.approx(
        [0.3293, 0.2, 0.0707], abs=1e-4
    )
    found = bench(frozen)
    assert len({round(ratio, 12) for ratio in found.training_ratios}) == 1
    assert found.moved[0] > 0.05  # gradients still flow
    assert found.moved[2] < -0.05


def test_a_score_moves_once_per_linear_layer() -> None:
    config = dataclasses.replace(TOY, alpha=0.5, epochs=1, learning_rate=0.001)
    model = nn.Sequential(*(nn.Sequential(*(nn.Linear(1, 1) for _ in range(n))) for n in (3, 1)))
    start = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    end = {name: torch.ones_like(tensor) for name, tensor in start.items()}
    mixture = Mixture(model, start, end, partition(model, 2))

    class Pull(Distance):
        def __call__(self, weights: Mapping[str, Tensor], chosen: Sequence[int]) -> Tensor:
            return weights["1.0.weight"].sum() - weights["0.0.weight"].sum()

    for wrong, steps in ((False, 1), (True, 3)):
        found = released_code.run(
            mixture, Pull([]), config, released_code.Faults(multiplied_learning_rate=wrong)
        )
        # Adam's step is the learning rate, whatever the gradient
        assert found.moved == pytest.approx((0.001 * steps, -0.001), rel=1e-3)


def test_alpha_turned_round_and_the_text_has_a_third_of_alpha() -> None:
    turned = bench(released_code.Faults(alpha_of_theta_0=True))
    assert math.fsum(turned.ratios) == pytest.approx(3 * 0.8)
    assert turned.before == pytest.approx(2 * 0.5**2 + 0.6**2 + 0.7**2)
    assert math.fsum(bench(released_code.AS_PRINTED).ratios) == pytest.approx(0.2)
    assert math.fsum(bench(released_code.AS_MEANT).ratios) == pytest.approx(0.6)


def test_bfloat16_ratios_hide_a_small_step() -> None:
    config = dataclasses.replace(TOY, alpha=0.2)
    scores = torch.logit(doubles(0.2, 0.2, 0.2)) + doubles(0.001, 0, -0.001)
    rounded = released_code.merged_ratios(scores, config, released_code.Faults(bf16_ratios=True))
    assert rounded.tolist() == [0.2001953125] * 3  # bfloat16(0.2)
    assert (
        released_code.merged_ratios(scores, config, released_code.AS_MEANT)[0]
        > released_code.merged_ratios(scores, config, released_code.AS_MEANT)[1]
    )


def test_embeddings_stay_before_alignment_in_the_released_code() -> None:
    model, mixture = mixture_of_llamas()
    objective = hma.ReplyLikelihood(model, EXAMPLES)
    config = hma.HmaConfig(alpha=0.5, learning_rate=1e-9, epochs=1, batch_size=3)
    found = released_code.run(
        mixture, objective, config, released_code.Faults(embeddings_of_theta_0=True)
    )
    expected = average(mixture.theta_0, mixture.theta, 0.5, "linear")
    assert found.objective == pytest.approx(hma.mean_objective(objective, expected, 3), rel=1e-6)
    all_faults = dataclasses.replace(config, alpha=0.2, learning_rate=1e-3)
    released = released_code.run(mixture, objective, all_faults, released_code.AS_RELEASED)
    assert released.ratios == pytest.approx((0.8,) * 3, abs=0.02)
    assert len(set(released.training_ratios)) == 1
