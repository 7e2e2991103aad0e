"""The feature model: formula against simulation, and what averaging does to shared features."""

import math

import numpy as np
import pytest
from conftest import refuses
from scipy.stats import norm

from alignment_tax.merge import theory
from alignment_tax.merge.theory import FeatureModel, margin, proposition_5_1

DRAWS = 40_000
SIMULATED = ("single", "weights", "outputs")
# three standard errors of an accuracy near 0.76, and the rounding of the expected number
NEAR = 3 * math.sqrt(0.76 * 0.24 / DRAWS) + 0.0005


#: Shared features; accuracies of the one, the averaged weights, the averaged outputs: labels the
#: same, or different.
ACCURACIES = {
    # xi(2) = 0 in outputs: the other head is silent on these classes
    0: {"same": (0.764, 0.930, 0.930), "different": (0.858, 0.858, 0.858)},
    5: {"same": (0.762, 0.779, 0.882), "different": (0.858, 0.828, 0.858)},
    10: {"same": (0.765, 0.758, 0.841), "different": (0.858, 0.833, 0.858)},
    20: {"same": (0.765, 0.765, 0.765), "different": (0.858, 0.858, 0.858)},
}


@pytest.mark.parametrize("shared", ACCURACIES)
def test_accuracies_as_simulated(shared: int) -> None:
    for labels, expected in ACCURACIES[shared].items():
        found = theory.simulate(FeatureModel(shared=shared), labels, draws=DRAWS)
        assert [getattr(found, name) for name in SIMULATED] == pytest.approx(expected, abs=NEAR)
    assert found.single == found.outputs


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
    for numbers, message in (
        ({"shared": 21}, "share none to all"), ({"classes": 1}, "two classes"),
        ({"features": 0, "shared": 0}, "at least one feature"),
        ({"p": 1.0}, "p must lie between 0 and 1"),
    ):  # fmt: skip
        refuses(ValueError, message, FeatureModel, **numbers)
    refuses(ValueError, "'same' or 'different'", theory.simulate, FeatureModel(), "none")
