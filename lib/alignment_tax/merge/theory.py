"""Why averaging works: the feature model of Proposition 5.1, simulated beside its formula.

Two models, one for the skills (theta_0), one for alignment (theta), each use `n` features of the
world, `n_o` of them the same. A feature shows the true class of an input with probability 1 - p
and any class at random otherwise. A model adds up what its features show, and answers with the
class that got most. Averaging helps where the two use different features for the same labels:
they rarely fail together (paper, section 5 and appendix F; noise sigma = 0 here).

The proposition is printed for averaged weights, yet its formula is that of averaged OUTPUTS. In
averaged weights (Def. F.2 as printed) a shared feature is counted four times: twice in the head,
and twice in what the head sees. This module has both, so that a reader can see how far apart they
are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr

Labels = Literal["same", "different"]

SHARED_IN_OUTPUTS = 2  # a shared feature has a voice in both models
SHARED_IN_WEIGHTS = 4  # (w_a + w_b) holds it twice, (Phi_a + Phi_b) shows it twice


@dataclass(frozen=True)
class FeatureModel:
    """The world of Proposition 5.1 (ValueError: a number that makes no sense)."""

    features: int = 20  # n, features that each model uses
    shared: int = 5  # n_o, how many of them both use
    classes: int = 10  # K, labels of a task
    p: float = 0.8  # probability that a feature shows a class at random

    def __post_init__(self) -> None:
        if self.features < 1 or not 0 <= self.shared <= self.features:
            raise ValueError(
                "Each model needs at least one feature, and can share none to all of them; got "
                f"features={self.features}, shared={self.shared}."
            )
        if self.classes < 2 or not 0 < self.p < 1:
            raise ValueError(
                "There must be two classes or more, and p must lie between 0 and 1 (at 0 nothing "
                f"ever fails, at 1 nothing is known); got classes={self.classes}, p={self.p}."
            )


@dataclass(frozen=True)
class Accuracies:
    """Accuracy (0 to 1) on a task of a single model, of averaged weights, of averaged outputs.

    The effectiveness xi of section 5 is `weights - single` or `outputs - single`: both tasks are
    alike here, so the gain on one is the mean gain.
    """

    single: float
    weights: float
    outputs: float


def simulate(
    model: FeatureModel, labels: Labels = "same", *, draws: int = 100_000, seed: int = 0
) -> Accuracies:
    """Draw inputs of the skills' task and return how often each way of answering is right.

    With "different" labels the other model was never trained on these classes: its head is zero
    there, and its own features add nothing. What both share is still shown twice to the averaged
    head. A failing feature then shows any of the 2 K classes of the world, so that a single model
    errs less often than with the same labels.

    Args:
        model: the world.
        labels: whether the two tasks have the same classes (case 1) or none in common (case 2).
        draws: number of inputs; the standard error is at most 0.5 / sqrt(draws).
        seed: of the draws.

    Raises:
        ValueError: unknown `labels`, or no draws.
    """
    if labels not in ("same", "different") or draws < 1:
        raise ValueError(
            f"labels must be 'same' or 'different' and draws at least 1; got {labels!r}, {draws}."
        )
    world = model.classes if labels == "same" else 2 * model.classes
    shows = np.full(world, model.p / world)
    shows[0] += 1 - model.p  # the true class is number 0: classes are alike
    rng = np.random.default_rng(seed)
    own = model.features - model.shared
    # how many features of each group show each class of the task: (draws, K)
    only_a, shared, only_b = (
        rng.multinomial(size, shows, draws)[:, : model.classes] for size in (own, model.shared, own)
    )
    if labels == "same":
        weights = only_a + SHARED_IN_WEIGHTS * shared + only_b
        outputs = only_a + SHARED_IN_OUTPUTS * shared + only_b
    else:
        weights = only_a + 2 * shared  # w_a holds it once, (Phi_a + Phi_b) shows it twice
        outputs = only_a + shared
    return Accuracies(*(accuracy(votes) for votes in (only_a + shared, weights, outputs)))


def repeated(
    model: FeatureModel, labels: Labels = "same", *, repeats: int, draws: int, seed: int = 0
) -> list[Accuracies]:
    """Simulate several times, each on inputs of its own: the spread between repeats is the error.

    Repeat i of one seed draws the same numbers for every world.
    """
    seeds = np.random.SeedSequence(seed).generate_state(repeats)
    return [simulate(model, labels, draws=draws, seed=int(each)) for each in seeds]


def accuracy(votes: np.ndarray) -> float:
    """Return the share of rows (draws, K) whose class 0 got most votes; equals share a draw."""
    most = votes.max(axis=1)
    return float(np.mean((votes[:, 0] == most) / (votes == most[:, None]).sum(axis=1)))


def f_p(x: float, p: float, classes: int) -> float:
    """Return F_p(x) = P(eta_1 > 0, ..., eta_{K-1} > 0), eta ~ N(x 1, M) (paper, F.4).

    M_ii = p (K + 2 - p K) / K and M_ij = p (K + 1 - p K) / K. The K - 1 margins (true class against
    each other one) have the votes of the true class in common, so they are independent once that
    one number is given: F_p is an integral over one normal variable.
    """
    common = math.sqrt(p * (classes + 1 - p * classes) / classes)
    own = math.sqrt(p / classes)
    z = np.linspace(-9, 9, 4001)  # equal steps are exact to rounding for so smooth a function
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.sum(density * ndtr((x + common * z) / own) ** (classes - 1)) * (z[1] - z[0]))


def margin(model: FeatureModel, shared_counts: int) -> float:
    """Return the x of F_p(x) for two models together: mean over spread of the summed votes.

    Votes of weight v_i give x = (1 - p) sum v_i / sqrt(sum v_i^2): here 2 (n - n_o) features count
    once and n_o features `shared_counts` times. Counted 2 times this is the formula of the
    proposition, sqrt(2) (1 - p) n / sqrt(n + n_o).
    """
    single, shared = 2 * (model.features - model.shared), model.shared
    total = single + shared_counts * shared
    return (1 - model.p) * total / math.sqrt(single + shared_counts**2 * shared)


def predicted(model: FeatureModel) -> Accuracies:
    """Return the accuracies for the same labels in the limit of many features (F_p).

    The limit is normal; for few features it promises too much (n = 20, K = 10, p = 0.8: 0.820 for
    a single model, where simulation gives 0.765).
    """
    single = (1 - model.p) * math.sqrt(model.features)
    places = (single, margin(model, SHARED_IN_WEIGHTS), margin(model, SHARED_IN_OUTPUTS))
    return Accuracies(*(f_p(x, model.p, model.classes) for x in places))


def proposition_5_1(model: FeatureModel) -> float:
    """Return xi(1) - xi(2) as printed: how much more averaging gains when the labels are the same.

    F_p(sqrt(2) (1 - p) n / sqrt(n + n_o)) - F_p((1 - p) sqrt(n)): never negative, and zero if and
    only if n_o = n.
    """
    limit = predicted(model)
    return limit.outputs - limit.single
