"""Compare trade-offs between reward and skill: Pareto front, hypervolume, intervals, verdicts.

A point is one evaluated model: (reward, skill), both to be maximised. A curve is the list of points
that a method reaches when its strength is turned up, in that order: averaging by alpha, early
stopping by rounds. Nothing here knows what a model is.

A word on intervals, since runs are few. With S seeds the percentile bootstrap over seeds is too
narrow: it takes the spread with a divisor S instead of S - 1, and a normal tail where Student's t
is due. For S = 5 it is about 0.63 times as wide as the t interval (sqrt(4/5) * 1.96 / 2.78), and
covers the truth about 83 % of the time instead of 95 %. Verdicts therefore use the paired t
interval over seeds (`compare_seeds`); `paired_bootstrap` is for one seed, for statistics of items
such as a corpus BLEU, and for seeing how much of the noise comes from the items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
from scipy import stats

T = TypeVar("T")
Array = np.ndarray
Points = Array | pd.DataFrame | Sequence[Sequence[float]]
Items = Array | Sequence[float] | Mapping[str, Array]
Verdict = Literal["holds", "does not hold", "inconclusive"]


class NoSharedRewards(ValueError):
    """Two curves have no range of rewards that both reach, so they cannot be compared there."""


@dataclass(frozen=True)
class Comparison:
    """The mean difference a - b, its interval, and what follows for the claim "a - b > margin".

    `n_items` is 0 where the difference was not taken over items.
    """

    difference: float
    low: float
    high: float
    n_seeds: int
    n_items: int
    verdict: Verdict

    def as_dict(self) -> dict[str, float | int | str]:
        """Return plain JSON types, ready for `record`."""
        return asdict(self)


# --- points -------------------------------------------------------------------------------------


def as_points(points: Points) -> Array:
    """Return points as a float array (n, 2): reward, skill.

    A data frame gives its columns `reward` and `skill`.

    Raises:
        ValueError: no points, not two numbers each, or a number that is not finite.
    """
    if isinstance(points, pd.DataFrame):
        if missing := {"reward", "skill"} - set(points.columns):
            raise ValueError(f"The table of points has no column {sorted(missing)[0]!r}.")
        points = points[["reward", "skill"]].to_numpy(dtype=float)
    array = np.asarray(points, dtype=float)
    if array.size == 0:
        raise ValueError("There are no points: is the table filtered by a name that is not in it?")
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"Points must be rows (reward, skill); got an array {array.shape}.")
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise ValueError(
            f"Point {row} is {tuple(array[row].tolist())}: a run diverged or was not scored. Drop "
            "it and say so; it can be neither better nor worse than another."
        )
    return array


def pareto_front(points: Points) -> Array:
    """Return the indices of the points that no other point dominates, by rising reward.

    A point dominates another if it has at least as much reward and skill, and more of one.
    Equal points do not dominate one another: both stay.
    """
    array = as_points(points)
    kept = np.flatnonzero(~_dominated(array, array))
    return kept[np.lexsort((array[kept, 1], array[kept, 0]))]


def dominated_share(points: Points, by: Points) -> float:
    """Return which share (0 to 1) of `points` is dominated by some point of `by`."""
    return float(_dominated(as_points(points), as_points(by)).mean())


def hypervolume(points: Points, reference: Sequence[float]) -> float:
    """Return the area that the points dominate above `reference`, exactly, in reward x skill units.

    Args:
        points: (n, 2) reward, skill.
        reference: (reward, skill) of a point that is worse than any of interest; state it with the
            number. A point that is not above it in both contributes nothing.

    The area counts only what was measured: among equally good methods the one with more points
    gets more. Compare methods with equally many points, or use `compare_at_equal_reward`.
    """
    reference_reward, reference_skill = as_points([reference])[0]
    array = as_points(points)
    array = array[(array[:, 0] > reference_reward) & (array[:, 1] > reference_skill)]
    area, covered_skill = 0.0, reference_skill
    # from the highest reward down: each point adds a slab above what is already covered
    for reward, skill in sorted(array.tolist(), reverse=True):
        if skill > covered_skill:
            area += (reward - reference_reward) * (skill - covered_skill)
            covered_skill = skill
    return float(area)


def interpolate(curve: Points, at_reward: float | Sequence[float] | Array) -> Array:
    """Return the best skill a curve offers at a given reward or more; NaN where it reaches less.

    The curve is read as a line through its points in the given order (by alpha, by rounds), and
    the highest skill on it at `at_reward` or to the right of it is taken. Lines rather than steps,
    since the models in between exist and could be had (another alpha, a checkpoint inside a
    round), and since steps would favour the method with the finer grid. Along the curve rather
    than from one Pareto point to the next, since only neighbours on a curve are alike.

    Args:
        curve: (n, 2) points in the order of the method's strength.
        at_reward: one or more rewards (m,).

    Returns:
        Skills (m,).
    """
    array = as_points(curve)
    wanted = np.atleast_1d(np.asarray(at_reward, dtype=float))
    reward, skill = array[:, :1], array[:, 1:]
    reached = [np.where(reward >= wanted, skill, -np.inf)]
    if len(array) > 1:
        (r0, r1), (s0, s1) = (reward[:-1], reward[1:]), (skill[:-1], skill[1:])
        crosses = (np.minimum(r0, r1) <= wanted) & (wanted <= np.maximum(r0, r1)) & (r0 != r1)
        way = (wanted - r0) / np.where(r0 == r1, 1.0, r1 - r0)
        reached.append(np.where(crosses, s0 + way * (s1 - s0), -np.inf))
    best = np.concatenate(reached).max(axis=0)
    return np.where(np.isfinite(best), best, np.nan)


def gap_at_equal_reward(
    curve_a: Points, curve_b: Points, *, from_share: float = 0.0, steps: int = 200
) -> float:
    """Return the mean skill of a minus that of b over the rewards that both reach.

    The range goes from the higher of the two lowest rewards to the lower of the two highest;
    `from_share` leaves out its lower part (0.5: only the upper half, where reward was bought).

    Args:
        curve_a, curve_b: points of the two methods for one seed, both from theta_0 to theta.
        from_share: share of the range, in [0, 1), that is left out at its lower end.
        steps: number of equal strips in which the two lines are compared (at their middle).

    Raises:
        NoSharedRewards: the two share no range of rewards.
        ValueError: from_share lies outside [0, 1).
    """
    if not 0 <= from_share < 1:
        raise ValueError(f"from_share is {from_share}: it must lie in [0, 1).")
    a, b = as_points(curve_a), as_points(curve_b)
    low = max(a[:, 0].min(), b[:, 0].min())
    high = min(a[:, 0].max(), b[:, 0].max())
    if not high > low:
        raise NoSharedRewards(
            f"The two curves share no range of rewards (from {low:.3g} up to {high:.3g}). Give "
            "each its start at theta_0, and run the weaker one until it reaches the other's reward."
        )
    low += from_share * (high - low)
    middles = low + (np.arange(steps) + 0.5) / steps * (high - low)
    return float((interpolate(a, middles) - interpolate(b, middles)).mean())


# --- intervals over seeds -----------------------------------------------------------------------


def verdict(low: float, high: float, margin: float = 0.0) -> Verdict:
    """Return what the interval [low, high] of a difference says of "the difference exceeds margin".

    holds: the whole interval lies above the margin. does not hold: all of it lies at or below.
    inconclusive: the margin lies inside; more seeds would decide.
    """
    if not (np.isfinite([low, high, margin]).all() and low <= high):
        raise ValueError(f"[{low}, {high}] with margin {margin} is no interval of finite numbers.")
    if low > margin:
        return "holds"
    return "does not hold" if high <= margin else "inconclusive"


def compare_seeds(
    differences: Iterable[float], *, margin: float = 0.0, level: float = 0.95, n_items: int = 0
) -> Comparison:
    """Compare two methods by one paired difference per seed: Student's t interval, df = seeds - 1.

    This is the default for verdicts: a seed is the unit that a reader would draw anew, and for a
    handful of them the t interval keeps its promise (see the top of this file). Since all seeds
    are scored on the same items, the interval speaks of these items: the error from drawing the
    items is in it only as far as it differs from seed to seed.

    Args:
        differences: a minus b, one number per seed.
        margin: the claim is "a - b > margin".
        level: coverage of the interval.
        n_items: number of items behind each difference, kept for the record.

    Raises:
        ValueError: fewer than two seeds, or a difference that is not finite.
    """
    values = np.asarray(list(differences), dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"{values.size} seed(s) say nothing about the spread between seeds: run at least two, "
            "five for a claim. For one seed use paired_bootstrap over its items."
        )
    if not np.isfinite(values).all():
        seed = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"The difference of seed number {seed} is {values[seed]}: not scored?")
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    half = float(stats.t.ppf(0.5 + level / 2, df=len(values) - 1)) * error
    low, high = float(mean - half), float(mean + half)
    return Comparison(mean, low, high, len(values), n_items, verdict(low, high, margin))


def compare_at_equal_reward(
    curves_a: Sequence[Points],
    curves_b: Sequence[Points],
    *,
    from_share: float = 0.0,
    margin: float = 0.0,
    level: float = 0.95,
    n_items: int = 0,
) -> Comparison:
    """Compare the skill two methods keep at equal reward: `gap_at_equal_reward` per seed, then t.

    Args:
        curves_a, curves_b: one curve per seed and method, the seeds in the same order.
        from_share, margin, level, n_items: see `gap_at_equal_reward` and `compare_seeds`.
    """
    pairs = _paired(curves_a, curves_b)
    gaps = [gap_at_equal_reward(a, b, from_share=from_share) for a, b in pairs]
    return compare_seeds(gaps, margin=margin, level=level, n_items=n_items)


def compare_hypervolume(
    curves_a: Sequence[Points],
    curves_b: Sequence[Points],
    reference: Sequence[float],
    *,
    margin: float = 0.0,
    level: float = 0.95,
    n_items: int = 0,
) -> Comparison:
    """Compare two methods by hypervolume per seed, above one reference point for all, then t."""
    pairs = _paired(curves_a, curves_b)
    gaps = [hypervolume(a, reference) - hypervolume(b, reference) for a, b in pairs]
    return compare_seeds(gaps, margin=margin, level=level, n_items=n_items)


# --- intervals over seeds and items -------------------------------------------------------------


def mean_of_groups(items: Mapping[str, Array]) -> float:
    """Return the mean over the items of each group, then over groups: the default statistic."""
    return float(np.mean([values.mean() for values in items.values()]))


def paired_bootstrap(
    a: Sequence[Items],
    b: Sequence[Items],
    *,
    rng: np.random.Generator,
    n_boot: int = 1000,
    statistic: Callable[[Mapping[str, Array]], float] = mean_of_groups,
    margin: float = 0.0,
    level: float = 0.95,
) -> Comparison:
    """Compare two methods by drawing seeds, then items, with replacement: percentile interval.

    Each draw takes seeds anew, and items anew: the same items for both models and all seeds, since
    every seed is scored on the same suite. With several groups of items (the slots of a suite)
    each group is drawn within itself, so that its size stays.

    For few seeds this interval is too narrow (see the top of this file): take verdicts over
    seeds from `compare_seeds`. With one seed it is the noise from the items alone.

    Args:
        a, b: per seed the items of one model: an array (n_items, ...), or {group: array}. An array
            (seeds, items) will do.
        rng: source of the draws.
        n_boot: number of draws.
        statistic: maps {group: array (n_items, ...)} to one number; a plain array is the one group
            "items". Default: the mean. A corpus BLEU takes arrays (n_items, 10).
        margin: the claim is "a - b > margin".
        level: coverage of the interval.

    Raises:
        ValueError: no seeds, unequal seeds, groups or items, or values that are not finite.
    """
    pairs = [(_groups(x), _groups(y)) for x, y in _paired(a, b)]
    sizes = {name: len(values) for name, values in pairs[0][0].items()}
    for seed, pair in enumerate(pairs):
        for side in pair:
            if {name: len(values) for name, values in side.items()} != sizes:
                raise ValueError(
                    f"Seed number {seed} has other items than the first: "
                    f"{ {n: len(v) for n, v in side.items()} } against {sizes}. Score all models "
                    "on the same suite with the same limit."
                )

    def gap(seed: int, chosen: Mapping[str, Array]) -> float:
        first, second = ({n: side[n][chosen[n]] for n in chosen} for side in pairs[seed])
        return statistic(first) - statistic(second)

    every = {name: np.arange(size) for name, size in sizes.items()}
    observed = float(np.mean([gap(seed, every) for seed in range(len(pairs))]))
    draws = np.empty(n_boot)
    for i in range(n_boot):
        items = {name: rng.integers(size, size=size) for name, size in sizes.items()}
        # the same seed twice is the same number twice: compute it once
        seeds, counts = np.unique(rng.integers(len(pairs), size=len(pairs)), return_counts=True)
        gaps = [gap(int(seed), items) for seed in seeds]
        draws[i] = np.average(gaps, weights=counts)
    low, high = (float(q) for q in np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2]))
    n_items = sum(sizes.values())
    return Comparison(observed, low, high, len(pairs), n_items, verdict(low, high, margin))


def _groups(items: Items) -> dict[str, Array]:
    """Return items of one model as {group: array}, checked."""
    named = items if isinstance(items, Mapping) else {"items": items}
    groups = {name: np.asarray(values, dtype=float) for name, values in named.items()}
    if not groups or any(len(values) == 0 for values in groups.values()):
        raise ValueError("There are no items to draw from: was the model scored with this suite?")
    for name, values in groups.items():
        if not np.isfinite(values).all():
            raise ValueError(f"The items of {name!r} hold NaN or infinity: score the model again.")
    return groups


def _paired(a: Sequence[T], b: Sequence[T]) -> list[tuple[T, T]]:
    """Pair the seeds of two methods."""
    if len(a) == 0 or len(a) != len(b):
        raise ValueError(
            f"Seeds must be paired: a has {len(a)}, b has {len(b)}. Keep the seeds that both have, "
            "in the same order."
        )
    return list(zip(a, b, strict=True))


def _dominated(points: Array, by: Array) -> Array:
    """Which rows of `points` (n, 2) some row of `by` (m, 2) dominates: bool (n,)."""
    at_least = np.all(by[None, :, :] >= points[:, None, :], axis=2)
    more = np.any(by[None, :, :] > points[:, None, :], axis=2)
    return np.any(at_least & more, axis=1)
