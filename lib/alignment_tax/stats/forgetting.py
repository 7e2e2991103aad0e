"""Forgetting: over-optimisation of the reward model, and what is forgotten against KL.

Functions of points.csv and kl.csv, paired by seed; what cannot be compared is None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from alignment_tax.labels import ALGORITHM_NAMES, FAMILY_NAMES
from alignment_tax.results.points import RLHF, by_round, start
from alignment_tax.stats import compare

#: What forgetting is set against, as columns of `forgetting`.
X_NAMES = {
    "forward_kl": "KL(θ₀ ‖ θ)",
    "kl": "KL(θ ‖ θ₀)",
    "gain": "the reward gained",
}
#: Runs whose forgetting is set against KL: by the preset, or with another KL coefficient.
TRAINED = ("none", "kl_coef")
#: Curves through theta_0 that forgetting is fitted with, and how many numbers each has. The first
#: levels off as forgetting does; the last (Shenfeld et al. 2025) must turn down instead.
SHAPES = {"saturating": 2, "line": 1, "parabola": 2}

#: The algorithms, and the control, as they stand in a sentence.
WITH_CONTROL = ALGORITHM_NAMES | {"rsf_random": "the random control"}


def both(first: compare.Comparison | None, second: compare.Comparison | None) -> str:
    """Return the verdict of "both claims hold"."""
    verdicts = {each.verdict if each else "inconclusive" for each in (first, second)}
    worst = ("opposite", "negligible", "inconclusive", "holds")
    return next(word for word in worst if word in verdicts)


@dataclass(frozen=True)
class OverOptimisation:
    """What happens from the round with the best gold reward to the last (after Gao et al. 2023).

    Attributes:
        gold: How far the true reward falls.
        reward: How far the optimised one rises meanwhile.
        best: The round of each seed, chosen by the mean gold of the *other* seeds, so that it is
            not the luck of this seed that is measured (of one seed: by its own).
        verdict: Of "the true reward falls while the optimised one rises".
    """

    gold: compare.Comparison | None
    reward: compare.Comparison | None
    best: dict[int, int]
    verdict: str


def over_optimisation(points: pd.DataFrame, algorithm: str) -> OverOptimisation:
    """Return whether an algorithm over-optimises the reward model; round 0 is theta_0."""
    gold, reward = (by_round(points, algorithm, name) for name in ("gold", "reward"))
    if gold.isna().any(axis=None):
        raise ValueError(f"The rounds of {algorithm!r} have no gold reward to compare with.")
    seeds = [int(seed) for seed in gold.index]
    golds, rewards = gold.to_numpy(dtype=float), reward.to_numpy(dtype=float)
    best, falls, rises = {}, [], []
    for row, seed in enumerate(seeds):
        others = np.delete(golds, row, axis=0) if len(seeds) > 1 else golds
        at = int(others.mean(axis=0).argmax())
        best[seed] = int(gold.columns[at])
        falls.append(golds[row, at] - golds[row, -1])
        rises.append(rewards[row, -1] - rewards[row, at])
    fall, rise = compare.judge(falls), compare.judge(rises)
    return OverOptimisation(fall, rise, best, both(fall, rise))


# --- forgetting against KL -----------------------------------------------------------------------


def forgetting(points: pd.DataFrame, kl: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one row per trained model: what it forgot, what it gained, how far it went.

    Args:
        points: The columns of points.csv.
        kl: The columns of kl.csv, if it is recorded.

    Returns:
        Columns seed, algorithm, method, strength, rounds; tax and one column for each family (what
        theta_0 of the same seed had more, points); gain and gold_gain over theta_0; kl
        (KL(theta || theta_0), nats a reply), forward_kl (KL(theta_0 || theta), NaN if unknown).
    """
    rows = points[points["method"].isin(TRAINED) & ~points["algorithm"].isin(["base", "sft"])]
    names = ["seed", "algorithm", "method", "strength", "rounds"]
    table = rows[[*names, "kl"]].copy()
    for score in FAMILY_NAMES:
        table[score] = rows["seed"].map(start(points, score)) - rows[score].astype(float)
    table["tax"] = table["skill"]
    for gained, score in (("gain", "reward"), ("gold_gain", "gold")):
        table[gained] = rows[score].astype(float) - rows["seed"].map(start(points, score))
    if kl is None or kl.empty:
        return table.assign(forward_kl=np.nan).reset_index(drop=True)
    # a missing strength is no number, and no number equals another
    keyed = [each.assign(at=each["strength"].astype(float).fillna(-1.0)) for each in (table, kl)]
    by = ["seed", "algorithm", "method", "at", "rounds"]
    found = keyed[1][keyed[1]["method"].isin(TRAINED)][[*by, "forward_kl"]]
    return keyed[0].merge(found, on=by, how="left", validate="one_to_one").drop(columns="at")


@dataclass(frozen=True)
class Fit:
    """A least-squares curve through theta_0, its R squared and 95 % interval (NaN below two seeds).

    `coefficients` are a (points) and b (units of x) of a saturating curve a (1 - exp(-x / b)); of a
    polynomial the highest power comes first.
    """

    shape: str
    coefficients: tuple[float, ...]
    r_squared: float
    low: float
    high: float
    n: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the curve at `x`."""
        return _curve_at(self.shape, np.array(self.coefficients), x)


def _curve_at(shape: str, coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    if shape == "saturating":
        level, scale = coefficients
        return level * _rise(x, scale)
    return np.polyval(coefficients, x)


def _rise(x: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Return 1 - exp(-x / scale); far below 0 it is cut where its square would overflow."""
    return -np.expm1(np.minimum(-x / scale, 300.0))


def _fitted(rows: pd.DataFrame, x_name: str, y_name: str, shape: str) -> tuple[np.ndarray, float]:
    """Return coefficients and R squared of a curve through (0, 0); NaN with too few values of x."""
    x, y = (rows[name].to_numpy(dtype=float) for name in (x_name, y_name))
    numbers = SHAPES[shape]
    if np.unique(x[x != 0]).size < numbers:
        return np.full(2 if shape == "saturating" else numbers + 1, np.nan), float("nan")
    if shape == "saturating":
        coefficients = _saturating(x, y)
    else:
        powers = np.vander(x, numbers + 1)[:, :-1]
        coefficients = np.append(np.linalg.lstsq(powers, y)[0], 0.0)
    spread = float(((y - y.mean()) ** 2).sum())  # R squared is 0 if as good as the mean of y
    missed = float(((y - _curve_at(shape, coefficients, x)) ** 2).sum())
    return coefficients, 1 - missed / spread if spread > 0 else float("nan")


def _saturating(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a and b of the least-squares curve a (1 - exp(-x / b)).

    The best a of each b is known in closed form, so only log b is searched, on a grid that closes
    in: from a thousandth of the furthest |x| (a step) to a hundred times it (a line).
    """
    furthest = np.log(np.abs(x).max())
    low, high = furthest - np.log(1000), furthest + np.log(100)
    for _ in range(6):
        grid = np.linspace(low, high, 48)
        rises = _rise(x[:, None], np.exp(grid))
        levels = y @ rises / (rises**2).sum(axis=0)
        best = int((levels * (y @ rises)).argmax())  # of the sum of squares, what it explains
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return np.array([levels[best], np.exp(grid[best])])


def resampled(
    rows: pd.DataFrame, statistic: Callable[[pd.DataFrame], float]
) -> tuple[float, float]:
    """Return the percentile interval of a statistic over seeds drawn with replacement.

    All models of a drawn seed come along. For few seeds it is too narrow; NaN below two.
    """
    parts = [part for _, part in rows.groupby("seed")]
    if len(parts) < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(0).integers(len(parts), size=(500, len(parts)))
    # the order of the seeds in a draw does not matter: compute each set of seeds once
    sets, counts = np.unique(np.sort(draws, axis=1), axis=0, return_counts=True)
    found = np.array([statistic(pd.concat([parts[i] for i in chosen])) for chosen in sets])
    values = np.repeat(found, counts)
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def fit(rows: pd.DataFrame, x: str = "kl", shape: str = "saturating", y: str = "tax") -> Fit | None:
    """Fit what was forgotten against a column of `forgetting`; None where there is too little.

    The curve passes through theta_0, which is no row, at (0, 0), so R squared may be below 0.

    Args:
        rows: Rows of `forgetting`; those without `x` are left out.
        x: kl, forward_kl or gain.
        shape: A word of `SHAPES`.
        y: tax, or a family.
    """
    rows = rows.dropna(subset=[x, y])
    if rows[x].nunique() < SHAPES[shape] + 2:
        return None
    coefficients, found = _fitted(rows, x, y, shape)
    low, high = resampled(rows, lambda drawn: _fitted(drawn, x, y, shape)[1])
    return Fit(shape, tuple(map(float, coefficients)), found, low, high, len(rows))


def razor_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the fits of forgetting, pooled and by algorithm: a row per runs, x and shape.

    Fits that cannot be made are left out, and so is the control alone: it has one model a seed.
    """
    own = rows.groupby("algorithm")
    groups = {ALGORITHM_NAMES[name]: own.get_group(name) for name in RLHF if name in own.groups}
    table = [
        (who, x, shape, found.n, found.r_squared, found.low, found.high)
        for (who, part), x, shape in product((groups | {"all": rows}).items(), X_NAMES, SHAPES)
        if (found := fit(part, x, shape)) is not None
    ]
    return pd.DataFrame(table, columns=["runs", "x", "shape", "n", "r_squared", "low", "high"])


def explains_more(
    rows: pd.DataFrame,
    x: str,
    other: str,
    shape: str = "saturating",
    y: str = "tax",
    other_y: str | None = None,
) -> compare.Comparison | None:
    """Compare how well two columns explain forgetting: R squared of `x` minus that of `other`.

    The same models for both; None where there is too little. `y` is what `x` explains, `other_y`
    what `other` does, if that is another column.
    """
    other_y = y if other_y is None else other_y
    rows = rows.dropna(subset=list({x, other, y, other_y}))
    values = min(rows[x].nunique(), rows[other].nunique())
    if values < SHAPES[shape] + 2 or rows["seed"].nunique() < 2:
        return None

    def gap(drawn: pd.DataFrame) -> float:
        return _fitted(drawn, x, y, shape)[1] - _fitted(drawn, other, other_y, shape)[1]

    low, high = resampled(rows, gap)
    seeds = int(rows["seed"].nunique())
    return compare.Comparison(gap(rows), low, high, seeds, 0, compare.verdict(low, high))


def explains_half(found: Fit, seeds: int) -> compare.Comparison | None:
    """Compare the R squared of a fit with one half; None where it has no interval."""
    if not np.isfinite(found.low):
        return None
    gap, low, high = found.r_squared - 0.5, found.low - 0.5, found.high - 0.5
    return compare.Comparison(gap, low, high, seeds, 0, compare.verdict(low, high))


def off_the_curve(
    rows: pd.DataFrame, x: str = "kl", shape: str = "saturating", y: str = "tax"
) -> dict[str, compare.Comparison | None]:
    """Return by algorithm (and for the control) what it forgets beyond the curve of the *others*.

    In points, the mean over its models of a seed that are no further out than the others'
    furthest; 0 if `x` is all that counts. None under two seeds, or with no other but the control.
    """
    rows = rows.dropna(subset=[x, y])
    found: dict[str, compare.Comparison | None] = {}
    for name in [name for name in (*RLHF, "rsf_random") if name in set(rows["algorithm"])]:
        others, own = rows[rows["algorithm"] != name], rows[rows["algorithm"] == name]
        claim = f"{WITH_CONTROL[name]} forgets more than the curve of the others says"
        found[claim] = None
        enough = others[x].nunique() >= SHAPES[shape] + 2
        if enough and not set(RLHF).isdisjoint(others["algorithm"]):
            of_others, _ = _fitted(others, x, y, shape)
            own = own[own[x] <= others[x].max()]
            beyond = own[y] - _curve_at(shape, of_others, own[x].to_numpy(dtype=float))
            found[claim] = compare.judge(beyond.groupby(own["seed"]).mean())
    return found


def at_equal_kl(
    rows: pd.DataFrame, first: str, second: str, x: str = "kl", y: str = "tax"
) -> compare.Comparison | None:
    """Compare two algorithms at the same KL, paired by seed: `y` of first minus `y` of second.

    Each is taken on the line through theta_0 and its rounds, at the furthest KL that both get.
    None with fewer than two seeds of both.
    """
    gaps = []
    for _, own in rows[rows["method"] == "none"].dropna(subset=[x, y]).groupby("seed"):
        lines = [own[own["algorithm"] == name].sort_values(x) for name in (first, second)]
        if any(line.empty for line in lines):
            continue
        reach = min(line[x].iloc[-1] for line in lines)
        at = [float(np.interp(reach, [0.0, *line[x]], [0.0, *line[y]])) for line in lines]
        gaps.append(at[0] - at[1])
    return compare.judge(gaps)


def share_kept(points: pd.DataFrame, algorithm: str) -> tuple[float, float, float] | None:
    """Return the share of a tax in mean skill that is left with format forgiven, and its interval.

    None unless the tax is shown: a share of nothing is nothing.
    """
    rounds = {name: by_round(points, algorithm, name) for name in ("skill", "forgetting")}
    whole, left = (each[0] - each.iloc[:, -1] for each in rounds.values())
    shown = compare.judge(whole)
    if shown is None or shown.verdict != "holds":
        return None
    rows = pd.DataFrame({"seed": whole.index, "whole": whole.values, "left": left.values})

    def share(drawn: pd.DataFrame) -> float:
        mean = drawn.mean()
        return float(mean["left"] / mean["whole"]) if mean["whole"] > 0 else float("nan")

    return share(rows), *resampled(rows, share)
