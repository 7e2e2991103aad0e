"""HMA: the mean is held, gradients are right, the optimum is the grid's; the released faults."""

import dataclasses
import math
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from conftest import refuses
from hypothesis import given, strategies as st
from test_merge import llama as small_llama, same, state
from torch import nn
from torch.func import functional_call

from alignment_tax.merge import hma, released_code
from alignment_tax.merge.average import MergeError, average, own_tensors
from alignment_tax.merge.layout import kind_of, ratios_of_blocks
from alignment_tax.merge.parts import Mixture, partition
from alignment_tax.train.loop import TrainingDiverged

EXAMPLES = [
    ([3, 4, 5, 6, 1], [-100, -100, 5, 6, 1]), ([7, 8, 1], [-100, 8, 1]),
    ([9, 2, 3, 10, 11, 1], [-100, -100, -100, 10, 11, 1]),
]  # fmt: skip
KL_TEXTS = [[2, 5, 7], [4, 9]]
TOY = hma.HmaConfig(alpha=0.5, learning_rate=0.1, epochs=150, batch_size=1, evaluate_every=25)
toy_with = partial(dataclasses.replace, TOY)
llama = partial(small_llama, initializer_range=0.3)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


# a toy whose optimum is known: three layers of one number each, theta_0 = 0 and theta = 1, so that
# a weight IS its ratio
class Distance:
    """sum_k (w_k - target_k)^2: on a simplex its optimum is a projection, done by hand."""

    def __init__(self, *targets):
        self.targets = targets

    def __len__(self):
        return 1

    def __call__(self, weights, chosen):
        gaps = [weights[f"{k}.weight"] - target for k, target in enumerate(self.targets)]
        return torch.stack([gap.square().sum() for gap in gaps]).sum()


def from_0_to_1(model, blocks):
    start = {name: torch.zeros_like(t) for name, t in model.state_dict().items()}
    end = {name: torch.ones_like(t) for name, t in start.items()}
    return Mixture(model, start, end, partition(model, blocks))


def toy(*sizes):
    layers = [nn.Linear(size, 1, bias=False) for size in sizes or (1, 1, 1)]
    return from_0_to_1(nn.Sequential(*layers), len(layers))


def mixture_of_llamas(dtype=torch.float32):
    """A model, its mixture with another, and the likelihood of examples under it."""
    before, after = llama(0).to(dtype), llama(1).to(dtype)
    mixture = Mixture(after, state(before), after.state_dict(), partition(after, 3))
    return after, mixture, hma.ReplyLikelihood(after, EXAMPLES)


def found_for_llamas(**changes):
    model, mixture, objective = mixture_of_llamas()
    kept = state(model)
    numbers = {"learning_rate": 0.2, "epochs": 10, "batch_size": 3, "evaluate_every": 5}
    config = hma.HmaConfig(**{"alpha": 0.5, **numbers, **changes})
    found = hma.learn_ratios(mixture, objective, config)
    # two models are held, and none is trained
    assert same(kept, state(model))
    assert all(parameter.grad is None for parameter in model.parameters())
    return mixture, found


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=9), st.floats(0.01, 0.99),
       st.floats(0, 0.9))  # fmt: skip
def test_ratios_hold_the_mean_and_the_softmax_the_box(scores, alpha, eps):
    scores = doubles(*scores)
    assert math.isclose(float(hma.eq11_ratios(scores, alpha, eps).mean()), alpha, rel_tol=1e-12)
    equal = hma.eq11_ratios(torch.zeros_like(scores), alpha, eps)
    assert torch.allclose(equal, torch.full_like(equal, alpha), rtol=1e-12)
    ratios = hma.softmax_ratios(scores, alpha)
    assert math.isclose(float(ratios.mean()), alpha, abs_tol=1e-12)
    assert 0 <= ratios.min() <= ratios.max() <= 1
    assert torch.allclose(hma.project(ratios, alpha), ratios, rtol=1e-12, atol=1e-12)
    # a block with a higher score never gets less
    assert (ratios[scores.argsort()].diff() >= -1e-12).all()


def test_eq11_and_what_overflows_the_box_by_hand():
    # sigmoid(3), sigmoid(0), sigmoid(-3) plus 0.2 are 1.1526, 0.7, 0.2474, of mean 0.7
    ratios = hma.eq11_ratios(doubles(3, 0, -3), 0.2, 0.2)
    assert ratios.tolist() == pytest.approx([0.3293, 0.2, 0.0707], abs=1e-4)
    # the interval for eps = 1 and K = 3 is [0.6 alpha, 1.5 alpha]
    assert hma.eq11_ratios(doubles(99, -99, -99), 0.2, 1.0)[0] == pytest.approx(0.3)
    assert hma.eq11_ratios(doubles(-99, 99, 99), 0.2, 1.0)[0] == pytest.approx(0.12)
    # 0.5 x 3 = 1.5 to share: 6/9 of it is 1.0, twice 4/3 of that is too much
    for first in (6, 8):
        assert hma.project(doubles(first, 2, 1), 0.5).tolist() == pytest.approx([1, 1 / 3, 1 / 6])
    # the first overflow makes a second: 2.4 to share, 1 + 1 + 0.4
    assert hma.project(doubles(10, 5, 1), 0.8).tolist() == pytest.approx([1, 1, 0.4])


def test_the_gradient_of_the_box_follows_finite_differences():
    scores = doubles(2.0, 0.3, -0.5).requires_grad_()
    for alpha in (0.2, 0.7):  # at 0.7 the first ratio is 1
        assert (hma.softmax_ratios(scores, alpha)[0].item() == 1) == (alpha == 0.7)
        assert torch.autograd.gradcheck(lambda s, a=alpha: hma.softmax_ratios(s, a), (scores,))


def test_the_grid_and_the_learning_rate_by_hand():
    # two of {0, 1/2, 1} free, the third 3/2 minus both, if in the box
    points = [*permutations((0.0, 0.5, 1.0)), (0.5, 0.5, 0.5)]
    assert sorted(hma.grid_ratios(0.5, 0.5)) == sorted(points)
    assert len(hma.grid_ratios(0.5, 0.1)) == 121 - 2 * 15
    assert (0.3, 0.3, 0.3) in hma.grid_ratios(0.3, 0.1)
    refuses(MergeError, "step of the grid is 0", hma.grid_ratios, 0.3, 0)
    # it warms up and falls
    factors = [hma.schedule(step, 100) for step in (0, 1, 2, 3, 99)]
    last = 0.5 * (1 + math.cos(math.pi * 96 / 97))
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 1, last])
    assert [hma.schedule(0, 1), hma.schedule(0, 2)] == [1, 1]


def test_grid_and_gradient_find_the_optimum_in_a_corner():
    # nearest point of {mean 0.5, box} to (1.2, 0.3, 0.1): 1 is the most; 0.3 and 0.1 gain 0.05 each
    objective = Distance(1.2, 0.3, 0.1)
    grid = hma.grid_search(toy(), objective, TOY, step=0.05)
    assert grid.blocks == pytest.approx((1, 0.35, 0.15))
    sums = (0.04 + 0.0025 + 0.0025, 0.49 + 0.04 + 0.16)
    assert (grid.objective, grid.equal) == pytest.approx(sums)
    learned = hma.learn_ratios(toy(), objective, TOY)
    assert learned.blocks == pytest.approx((1, 0.35, 0.15), abs=0.01)
    assert learned.objective == pytest.approx(grid.objective, abs=1e-3)


@pytest.mark.parametrize(("targets", "changes"), [
    ([0.7, 0.5, 0.3], {}),
    ([0.7, 0.5, 0.3], {"parameterisation": "eq11", "eps": 0.5}),
    (np.linspace(0.8, 0.2, 6).tolist(), {}),
    (np.linspace(0.8, 0.2, 9).tolist(), {}),
])  # fmt: skip
def test_the_gradient_finds_an_optimum_inside(targets, changes):
    found = hma.learn_ratios(toy(*[1] * len(targets)), Distance(*targets), toy_with(**changes))
    assert found.blocks == pytest.approx(targets, abs=0.02)
    assert math.fsum(found.blocks) == pytest.approx(0.5 * len(targets), abs=1e-9)


def test_the_extra_term_is_part_of_the_objective():
    def keep_output(weights):
        return 3 * weights["2.weight"].square().sum()

    # sum of (a - t)^2 + 3 c^2 with t = 0.5 and a + b + c = 1.5: 2 (a - t) = 2 (c - t) + 6 c, so
    # a - t = 4 c - t, and 2 a + c = 1.5 gives a = 4 c, c = 1/6
    found = hma.learn_ratios(toy(), Distance(0.5, 0.5, 0.5), TOY, extra=keep_output)
    assert found.blocks == pytest.approx((2 / 3, 2 / 3, 1 / 6), abs=0.01)
    assert found.equal == pytest.approx(0.75)


def test_the_best_ratios_are_kept_and_the_path_is_whole():
    wild = toy_with(learning_rate=30.0, epochs=7, evaluate_every=3)
    found = hma.learn_ratios(toy(), Distance(0.52, 0.5, 0.48), wild)
    assert [row["step"] for row in found.path] == list(range(8))
    evaluated = [row for row in found.path if row["full"] is not None]
    assert [row["step"] for row in evaluated] == [0, 3, 6, 7]
    assert found.path[0]["ratios"] == pytest.approx((0.5,) * 3)
    best = min(evaluated, key=lambda row: row["full"])
    assert (best["full"], tuple(best["ratios"])) == (found.objective, found.blocks)
    assert found.objective <= found.equal


@pytest.mark.parametrize(
    ("parameterisation", "alpha"),
    [*(("softmax", a) for a in (0.1, 0.3, 0.6, 0.7, 0.9)), *(("eq11", a) for a in (0.1, 0.2, 0.3))],
)
def test_every_search_starts_from_plain_averaging_to_the_bit(parameterisation, alpha):
    mixture, found = found_for_llamas(alpha=alpha, parameterisation=parameterisation, epochs=1)
    mixed = mixture.weights(mixture.partition.ratios(found.path[0]["ratios"], alpha))
    plain = average(mixture.theta_0, mixture.theta, alpha)
    assert all(torch.equal(mixed[name], plain[name]) for name in mixed)


def test_learned_ratios_make_the_model_that_was_evaluated_and_are_found_again():
    mixture, found = found_for_llamas(alpha=0.6, seed=1, batch_size=2)
    other = llama(7)
    sweep = Mixture(other, mixture.theta_0, mixture.theta, partition(other, 3))
    sweep.set(ratios_of_blocks(mixture.partition, found.blocks, found.alpha))
    own = hma.mean_objective(hma.ReplyLikelihood(other, EXAMPLES), own_tensors(other), 3)
    assert own == pytest.approx(found.objective, rel=1e-6)
    assert (found.objective < found.equal, found.fixed) == (True, {})
    assert found == found_for_llamas(alpha=0.6, seed=1, batch_size=2)[1]


def test_the_gradient_of_the_ratios_follows_finite_differences():
    model, mixture, objective = mixture_of_llamas(torch.float64)
    extra = hma.KlToStart(model, mixture.theta_0, KL_TEXTS, weight=0.5)

    def loss(ratios):
        weights = mixture.weights(mixture.partition.ratios(ratios.unbind(), 0.6))
        return objective(weights, range(3)) + extra(weights)

    ratios = doubles(0.9, 0.5, 0.4).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(ratios), ratios)
    steps = 2e-3 * torch.eye(3, dtype=torch.float64)  # no smaller: Llama's norms are float32
    with torch.no_grad():
        slopes = torch.stack([(loss(ratios + step) - loss(ratios - step)) / 4e-3 for step in steps])
    torch.testing.assert_close(gradient, slopes, rtol=1e-3, atol=0)
    assert gradient.abs().min() > 1e-2


def test_a_bfloat16_model_is_mixed_as_average_does_and_has_gradients():
    _, mixture, objective = mixture_of_llamas(torch.bfloat16)
    ratio = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    weights = mixture.weights(dict.fromkeys(mixture.partition.parts, ratio))
    plain = average(mixture.theta_0, mixture.theta, 0.3)
    assert all(torch.equal(weights[name], plain[name]) for name in weights)
    (slope,) = torch.autograd.grad(objective(weights, [0, 1, 2]), ratio)
    assert (slope.dtype, slope.item() == 0) == (torch.float64, False)


def test_the_likelihood_by_hand():
    model, mixture, objective = mixture_of_llamas(torch.float64)
    log_probs = []
    for ids, labels in EXAMPLES:
        logs = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
        log_probs += [logs[i - 1, label].item() for i, label in enumerate(labels) if label != -100]
    by_hand = pytest.approx(-sum(log_probs) / 8)
    assert objective(mixture.theta, [0, 1, 2]).item() == by_hand
    # batches of any size have Eq. 9 as their mean, although replies differ in length
    for size in (1, 2, 3):
        assert hma.mean_objective(objective, mixture.theta, size) == by_hand


def test_the_kl_term_by_hand():
    model, mixture, _ = mixture_of_llamas(torch.float64)
    term = hma.KlToStart(model, mixture.theta_0, KL_TEXTS, weight=2.0)
    assert term(mixture.theta_0).item() == pytest.approx(0, abs=1e-12)
    total = 0.0
    for ids in KL_TEXTS:
        start, end = (
            functional_call(model, dict(own), (torch.tensor([ids]),)).logits.log_softmax(-1)
            for own in (mixture.theta_0, mixture.theta)
        )
        total += (start.exp() * (start - end)).sum().item()
    assert term(mixture.theta).item() == pytest.approx(2.0 * total / 5)


def test_what_cannot_be_searched_is_refused():
    half, nan = Distance(0.5, 0.5, 0.5), Distance(math.nan, 0.5, 0.5)
    for said, change in (
        ("strictly between 0 and 1", {"alpha": 1.0}), ("strictly between", {"alpha": math.nan}),
        ("needs learning_rate", {"learning_rate": 0.0}), ("every above 0", {"batch_size": 0}),
        # (3 x 0.6 - 1) / (3 x 0.4) = 2/3
        ("take an eps of 0.666", {"alpha": 0.6, "parameterisation": "eq11"}),
    ):  # fmt: skip
        refuses(MergeError, said, hma.learn_ratios, toy(), half, toy_with(**change))
    refuses(MergeError, "With one block", hma.learn_ratios, toy(1), Distance(0.5), TOY)
    refuses(MergeError, "between 0 and 1", released_code.run, toy(), half, toy_with(alpha=1.0))
    mute = [EXAMPLES[0], ([1], [-100])]
    refuses(ValueError, "1 has none", hma.ReplyLikelihood, llama(0), mute)
    refuses(ValueError, "are no examples", hma.ReplyLikelihood, llama(0), [])
    refuses(ValueError, "at least one token each", hma.KlToStart, llama(0), {}, [[1], []], 1.0)
    refuses(TrainingDiverged, "nan at step 1", hma.learn_ratios, toy(), nan, TOY)


SHORT = toy_with(alpha=0.2, epochs=20, learning_rate=0.01)


def bench(faults):
    return released_code.run(toy(2, 1, 1), Distance(0.3, 0.2, 0.1), SHORT, faults)


def in_training(scores, config, faults):
    initial = torch.logit(torch.full_like(scores, config.alpha))
    return released_code.training_ratios(scores, initial, config, faults).tolist()


def test_the_bench_without_faults_is_hma():
    config = toy_with(parameterisation="eq11", eps=0.5)
    clean, scores = released_code.run(toy(), Distance(0.7, 0.5, 0.3), config)
    assert clean.blocks == pytest.approx((0.7, 0.5, 0.3), abs=0.01)
    assert clean.blocks == pytest.approx(in_training(scores, config, released_code.AS_MEANT))
    assert clean.equal == pytest.approx(0.08)
    assert clean.objective < 0.001


def test_the_frozen_numerator_gives_every_block_the_same_ratio():
    # measured on the authors' class: intended (0.329, 0.200, 0.071), used 0.1144 in every layer
    frozen = released_code.Faults(frozen_numerator=True)
    scores = doubles(3, 0, -3)
    assert in_training(scores, SHORT, frozen) == pytest.approx([0.6 * 0.4 / 2.1] * 3)  # 0.1143
    merged = released_code.merged_ratios(scores, SHORT, frozen)
    assert merged.tolist() == pytest.approx([0.3293, 0.2, 0.0707], abs=1e-4)
    _, scores = bench(frozen)
    assert len({round(ratio, 12) for ratio in in_training(scores, SHORT, frozen)}) == 1
    moved = scores - math.log(0.2 / 0.8)
    assert moved[2] < -0.05 < 0.05 < moved[0]  # gradients still flow


def test_a_score_moves_once_per_linear_layer():
    config = toy_with(epochs=1, learning_rate=0.001)
    layers = [nn.Sequential(*(nn.Linear(1, 1) for _ in range(n))) for n in (3, 1)]
    mixture = from_0_to_1(nn.Sequential(*layers), 2)

    class Pull(Distance):
        def __call__(self, weights, chosen):
            return weights["1.0.weight"].sum() - weights["0.0.weight"].sum()

    for wrong, steps in ((False, 1), (True, 3)):
        faults = released_code.Faults(multiplied_learning_rate=wrong)
        _, scores = released_code.run(mixture, Pull(), config, faults)
        # from 0; Adam's step is the learning rate, whatever the gradient
        assert scores.tolist() == pytest.approx((0.001 * steps, -0.001), rel=1e-3)


def test_alpha_turned_round():
    turned, _ = bench(released_code.Faults(alpha_of_theta_0=True))
    assert math.fsum(turned.blocks) == pytest.approx(3 * 0.8)
    assert turned.equal == pytest.approx(2 * 0.5**2 + 0.6**2 + 0.7**2)
    assert math.fsum(bench(released_code.AS_MEANT)[0].blocks) == pytest.approx(0.6)


def test_bfloat16_ratios_hide_a_small_step():
    config = toy_with(alpha=0.2)
    scores = torch.logit(doubles(0.2, 0.2, 0.2)) + doubles(0.001, 0, -0.001)
    rounded = released_code.merged_ratios(scores, config, released_code.Faults(bf16_ratios=True))
    assert rounded.tolist() == [0.2001953125] * 3  # bfloat16(0.2)
    first, second, _ = released_code.merged_ratios(scores, config, released_code.AS_MEANT)
    assert first > second


def test_embeddings_stay_before_alignment_in_the_released_code():
    _, mixture, objective = mixture_of_llamas()
    config = hma.HmaConfig(alpha=0.5, learning_rate=1e-9, epochs=1, batch_size=3)
    faults = released_code.Faults(embeddings_of_theta_0=True)
    found, _ = released_code.run(mixture, objective, config, faults)
    linear = [name for name, end in mixture.theta.items() if kind_of(name, end) == "linear"]
    half = average(mixture.theta_0, mixture.theta, 0.5)
    expected = {**mixture.theta_0, **{name: half[name] for name in linear}}
    assert found.objective == pytest.approx(hma.mean_objective(objective, expected, 3), rel=1e-6)
    given = dataclasses.replace(config, alpha=0.2, learning_rate=1e-3), released_code.AS_RELEASED
    released, scores = released_code.run(mixture, objective, *given)
    assert released.blocks == pytest.approx((0.8,) * 3, abs=0.02)
    assert len(set(in_training(scores, *given))) == 1
