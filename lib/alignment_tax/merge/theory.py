"""Why averaging works: the feature model of Proposition 5.1 (section 5, appendix F; sigma = 0).

The proposition is printed for averaged weights; its formula is that of averaged OUTPUTS. Both here.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.special import ndtr

Labels = Literal["same", "different"]

SHARED_IN_OUTPUTS = 2  # a shared feature has a voice in both models
SHARED_IN_WEIGHTS = 4  # (w_a + w_b) holds it twice, (Phi_a + Phi_b) shows it twice


@dataclass(frozen=True)
class FeatureModel:
    """The world of Proposition 5.1: two models (ValueError: a number that makes no sense).

    A feature shows the true class of an input with probability 1 - p and any class at random
    otherwise. A model answers with the class that most of its features show.
    """

    features: int = 20  # n, features that each model uses
    shared: int = 5  # n_o, how many of them both use
    classes: int = 10  # K, labels of a task
    p: float = 0.8  # probability that a feature shows a class at random

    def __post_init__(self) -> None:
        if self.features < 1 or not 0 <= self.shared <= self.features:
            raise ValueError(f"{self}: a model needs at least one feature, can share none to all.")
        if self.classes < 2 or not 0 < self.p < 1:
            raise ValueError(f"{self}: it needs two classes, and p must lie between 0 and 1.")


class Accuracies(NamedTuple):
    """Accuracy (0 to 1) of a single model, of averaged weights, of averaged outputs."""

    single: float
    weights: float
    outputs: float


def simulate(
    model: FeatureModel, labels: Labels = "same", *, draws: int = 100_000, seed: int = 0
) -> Accuracies:
    """Draw inputs of the skills' task and return how often each way of answering is right.

    With labels "different" (case 2) the other model's head is zero on these classes, and a failing
    feature shows any of the 2 K classes of the world. The standard error is at most 0.5 /
    sqrt(draws); one seed draws the same numbers for every world.
    """
    if labels not in get_args(Labels) or draws < 1:
        raise ValueError(f"labels ({labels!r}) must be 'same' or 'different', draws 1 or more.")
    world = model.classes if labels == "same" else 2 * model.classes
    shows = np.full(world, model.p / world)
    shows[0] += 1 - model.p  # the true class is number 0: classes are alike
    rng = np.random.default_rng(seed)
    own = model.features - model.shared
    # how many features of each group show each class of the task: (draws, K)
    only_a, both, only_b = (
        rng.multinomial(size, shows, draws)[:, : model.classes] for size in (own, model.shared, own)
    )
    if labels == "same":
        others = (only_a + k * both + only_b for k in (SHARED_IN_WEIGHTS, SHARED_IN_OUTPUTS))
    else:  # w_a holds a shared feature once, (Phi_a + Phi_b) shows it twice
        others = (only_a + k * both for k in (2, 1))
    return Accuracies(*(accuracy(votes) for votes in (only_a + both, *others)))


def repeated(
    model: FeatureModel, labels: Labels = "same", *, repeats: int, draws: int, seed: int = 0
) -> list[Accuracies]:
    """Simulate several times, each on inputs of its own: the spread is the error."""
    seeds = np.random.SeedSequence(seed).generate_state(repeats)
    return [simulate(model, labels, draws=draws, seed=int(each)) for each in seeds]


def accuracy(votes: np.ndarray) -> float:
    """Return the share of rows (draws, K) whose class 0 got most votes; equals share a draw."""
    most = votes.max(axis=1)
    return float(np.mean((votes[:, 0] == most) / (votes == most[:, None]).sum(axis=1)))


def f_p(x: float, p: float, classes: int) -> float:
    """Return F_p(x) = P(eta_1 > 0, ..., eta_{K-1} > 0), eta ~ N(x 1, M) (paper, F.4).

    M_ii = p (K + 2 - p K) / K and M_ij = p (K + 1 - p K) / K: the K - 1 margins are independent
    once the votes of the true class, which they share, are given.
    """
    common = math.sqrt(p * (classes + 1 - p * classes) / classes)
    own = math.sqrt(p / classes)
    z = np.linspace(-9, 9, 4001)  # equal steps are exact to rounding for so smooth a function
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.sum(density * ndtr((x + common * z) / own) ** (classes - 1)) * (z[1] - z[0]))


def margin(model: FeatureModel, shared_counts: int) -> float:
    """Return the x of F_p(x) for two models together: mean over spread of the summed votes.

    Votes of weight v_i give x = (1 - p) sum v_i / sqrt(sum v_i^2). With shared features counted 2
    times this is the formula of the proposition, sqrt(2) (1 - p) n / sqrt(n + n_o).
    """
    single, shared = 2 * (model.features - model.shared), model.shared
    total = single + shared_counts * shared
    return (1 - model.p) * total / math.sqrt(single + shared_counts**2 * shared)


def predicted(model: FeatureModel) -> Accuracies:
    """Return the accuracies for the same labels in the limit of many features (F_p)."""
    single = (1 - model.p) * math.sqrt(model.features)
    places = (single, margin(model, SHARED_IN_WEIGHTS), margin(model, SHARED_IN_OUTPUTS))
    return Accuracies(*(f_p(x, model.p, model.classes) for x in places))


def proposition_5_1(model: FeatureModel) -> float:
    """Return xi(1) - xi(2) as printed: how much more averaging gains when the labels are the same.

    F_p(sqrt(2) (1 - p) n / sqrt(n + n_o)) - F_p((1 - p) sqrt(n)): zero if and only if n_o = n.
    """
    limit = predicted(model)
    return limit.outputs - limit.single
