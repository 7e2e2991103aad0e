"""Trade-offs: points (reward, skill), both to be maximised, in the order of a method's strength."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from alignment_tax.results.points import NotRecorded

Array = np.ndarray
Points = Array | Sequence[Sequence[float]]
STRIPS = 200  # in which two lines are compared, each at its middle


class NoSharedRewards(NotRecorded):
    """Two curves have no range of rewards that both reach, so they cannot be compared there."""


def as_points(points: Points) -> Array:
    """Return points as a float array (n, 2)."""
    array = np.asarray(points, dtype=float)
    if array.size == 0:
        raise ValueError("There are no points: is the table filtered by a name that is not in it?")
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"Points must be rows (reward, skill); got an array {array.shape}.")
    if len(bad := np.flatnonzero(~np.isfinite(array).all(axis=1))):
        point = f"Point {bad[0]} is {tuple(array[bad[0]].tolist())}"
        raise ValueError(f"{point}: a run diverged or was not scored. Drop it and say so.")
    return array


def hypervolume(points: Points, reference: Sequence[float]) -> float:
    """Return the area that the points dominate above `reference`, exactly, in reward x skill units.

    Of equally good methods the one with more points gets more: compare as many of each.
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
    """Return the best skill (m,) a curve (n, 2) offers at some rewards (m,), NaN beyond its end.

    It is read as a line through its points in their order: steps would favour a finer grid.
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


def gap_at_equal_reward(curve_a: Points, curve_b: Points) -> float:
    """Return the mean skill of a minus b over the rewards both reach (NoSharedRewards: none)."""
    a, b = as_points(curve_a), as_points(curve_b)
    low = max(a[:, 0].min(), b[:, 0].min())
    high = min(a[:, 0].max(), b[:, 0].max())
    if not high > low:
        raise NoSharedRewards(f"The curves share no range of rewards ({low:.3g} to {high:.3g}).")
    middles = low + (np.arange(STRIPS) + 0.5) / STRIPS * (high - low)
    return float((interpolate(a, middles) - interpolate(b, middles)).mean())


def bend(alphas: Sequence[float], values: Sequence[float] | pd.Series) -> float:
    """Return how far a curve lies above the line between its ends, the mean of inner points."""
    at, value = (np.asarray(each, dtype=float) for each in (alphas, values))
    return float((value - np.interp(at, at[[0, -1]], value[[0, -1]]))[1:-1].mean())
