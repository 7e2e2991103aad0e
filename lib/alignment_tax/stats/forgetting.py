"""Forgetting: over-optimisation of the reward model, and what is forgotten against KL.

Pure functions on the columns of points.csv and kl.csv, paired by seed. Where a comparison cannot
be made (rows missing, one seed, no rewards in common) it is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
#: Runs whose forgetting is set against KL: as trained, with the preset's numbers or another KL
#: coefficient.
TRAINED = ("none", "kl_coef")
#: Curves through theta_0 that forgetting is fitted with, and how many numbers each has. What
#: forgetting does is level off, and so does the first; the last is the shape of Shenfeld et al.
#: 2025 (roughly quadratic), which must turn down instead.
SHAPES = {"saturating": 2, "line": 1, "parabola": 2}

#: The algorithms, and the control, as they stand in a sentence.
WITH_CONTROL = ALGORITHM_NAMES | {"rsf_random": "the random control"}

Comparisons = dict[str, compare.Comparison | None]


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
        last: The last round.
        verdict: Of "the true reward falls while the optimised one rises".
    """

    gold: compare.Comparison | None
    reward: compare.Comparison | None
    best: dict[int, int]
    last: int
    verdict: str

    @property
    def best_at_the_end(self) -> bool:
        """Whether gold was still at its best in the last round of every seed: nothing fell."""
        return set(self.best.values()) == {self.last}


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
    return OverOptimisation(fall, rise, best, int(gold.columns[-1]), both(fall, rise))


# --- forgetting against KL -----------------------------------------------------------------------


def forgetting(points: pd.DataFrame, kl: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one row per trained model: what it forgot, what it gained, how far it went.

    Args:
        points: The columns of points.csv.
        kl: The columns of kl.csv, if it is recorded.

    Returns:
        Columns seed, algorithm, method, strength, rounds; tax and one column for each family (what
        theta_0 of the same seed had more, points); gain and gold_gain (reward and gold reward over
        theta_0; NaN where there is no gold); kl (KL(theta || theta_0), nats a reply) and forward_kl
        (KL(theta_0 || theta); NaN where not recorded). theta_0 itself and the base are left out.
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

    `coefficients` of a saturating curve a (1 - exp(-x / b)) are a, what it levels off at (points),
    and b, where it has risen to 63 % of that (units of x); of a polynomial the highest power comes
    first, and the last is 0: theta_0 has gone nowhere and forgotten nothing.
    """

    shape: str
    coefficients: tuple[float, ...]
    r_squared: float
    low: float
    high: float
    n: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the curve at `x`."""
        return curve_at(self.shape, np.array(self.coefficients), x)


def curve_at(shape: str, coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return a curve (see `Fit`) at `x`."""
    if shape == "saturating":
        level, scale = coefficients
        return level * _rise(x, scale)
    return np.polyval(coefficients, x)


def _rise(x: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Return 1 - exp(-x / scale); far below 0 it is cut where its square would overflow."""
    return -np.expm1(np.minimum(-x / scale, 300.0))


def r_squared(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of variance explained: 0 as good as the mean of y; NaN if y never varies."""
    spread = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - predicted) ** 2).sum()) / spread if spread > 0 else float("nan")


def _fitted(x: np.ndarray, y: np.ndarray, shape: str) -> tuple[np.ndarray, float]:
    """Return coefficients and R squared of a curve through (0, 0); NaN with too few values of x."""
    numbers = SHAPES[shape]
    if np.unique(x[x != 0]).size < numbers:
        return np.full(2 if shape == "saturating" else numbers + 1, np.nan), float("nan")
    if shape == "saturating":
        coefficients = _saturating(x, y)
    else:
        powers = np.vander(x, numbers + 1)[:, :-1]
        coefficients = np.append(np.linalg.lstsq(powers, y)[0], 0.0)
    return coefficients, r_squared(y, curve_at(shape, coefficients, x))


def _saturating(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a and b of the least-squares curve a (1 - exp(-x / b)).

    For each b the best a is known in closed form, so only b is searched: on a grid of its logarithm
    that closes in on the best place, from a thousandth of the furthest |x| (a step) to a hundred
    times it (a line).
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
    rows: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], n_boot: int = 500
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic over seeds drawn with replacement.

    All models of a drawn seed come along. For few seeds it is too narrow; NaN below two.
    """
    parts = [part for _, part in rows.groupby("seed")]
    if len(parts) < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(0).integers(len(parts), size=(n_boot, len(parts)))
    # the order of the seeds in a draw does not matter: compute each set of seeds once
    sets, counts = np.unique(np.sort(draws, axis=1), axis=0, return_counts=True)
    found = np.array([statistic(pd.concat([parts[i] for i in chosen])) for chosen in sets])
    values = np.repeat(found, counts)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def fit(rows: pd.DataFrame, x: str = "kl", shape: str = "saturating", y: str = "tax") -> Fit | None:
    """Fit what was forgotten against a column of `forgetting`; None where there is too little.

    The curve passes through theta_0, which is no row, at (0, 0). R squared still compares it with
    the mean of what was forgotten, so it may be below 0.

    Args:
        rows: Rows of `forgetting`; those without `x` are left out.
        x: kl, forward_kl or gain.
        shape: A word of `SHAPES`.
        y: tax, or a family.
    """
    rows = rows.dropna(subset=[x, y])
    if rows[x].nunique() < SHAPES[shape] + 2:
        return None
    xs, ys = rows[x].to_numpy(dtype=float), rows[y].to_numpy(dtype=float)
    coefficients, found = _fitted(xs, ys, shape)

    def again(drawn: pd.DataFrame) -> float:
        return _fitted(drawn[x].to_numpy(float), drawn[y].to_numpy(float), shape)[1]

    low, high = resampled(rows, again)
    return Fit(shape, tuple(map(float, coefficients)), found, low, high, len(rows))


def razor_table(
    rows: pd.DataFrame, xs: Sequence[str] = ("forward_kl", "kl", "gain")
) -> pd.DataFrame:
    """Return the fits of forgetting, pooled and by algorithm: a row per runs, x and shape.

    Fits that cannot be made are left out, and so is the control alone: it has one model a seed.
    """
    own = rows.groupby("algorithm")
    groups = {ALGORITHM_NAMES[name]: own.get_group(name) for name in RLHF if name in own.groups}
    table = []
    for who, part in (groups | {"all": rows}).items():
        for x in xs:
            for shape in SHAPES:
                found = fit(part, x, shape)
                if found is not None:
                    numbers = (found.n, found.r_squared, found.low, found.high)
                    table.append((who, x, shape, *numbers))
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

    The same models for both; the interval is that of `resampled`. None where there is too little.
    `y` is what `x` explains, `other_y` what `other` does, if that is another column.
    """
    other_y = y if other_y is None else other_y
    rows = rows.dropna(subset=list({x, other, y, other_y}))
    values = min(rows[x].nunique(), rows[other].nunique())
    if values < SHAPES[shape] + 2 or rows["seed"].nunique() < 2:
        return None

    def gap(drawn: pd.DataFrame) -> float:
        first, second = (
            _fitted(drawn[of].to_numpy(float), drawn[what].to_numpy(float), shape)[1]
            for of, what in ((x, y), (other, other_y))
        )
        return first - second

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
) -> Comparisons:
    """Return by algorithm (and for the control) what it forgets beyond the curve of the *others*.

    The curve is fitted to all other algorithms; the difference is what the one left out forgot
    minus what the curve says at its `x`, in points, the mean over its models of a seed, paired by
    seed. If `x` is all that counts, it is 0. Only models no further out than the others' furthest
    are asked about. None where fewer than two seeds have one, or the control is the only other.
    """
    rows = rows.dropna(subset=[x, y])
    found: Comparisons = {}
    for name in [name for name in (*RLHF, "rsf_random") if name in set(rows["algorithm"])]:
        others, own = rows[rows["algorithm"] != name], rows[rows["algorithm"] == name]
        claim = f"{WITH_CONTROL[name]} forgets more than the curve of the others says"
        found[claim] = None
        enough = others[x].nunique() >= SHAPES[shape] + 2
        if enough and not set(RLHF).isdisjoint(others["algorithm"]):
            of_others, _ = _fitted(others[x].to_numpy(float), others[y].to_numpy(float), shape)
            own = own[own[x] <= others[x].max()]
            beyond = own[y] - curve_at(shape, of_others, own[x].to_numpy(dtype=float))
            found[claim] = compare.judge(beyond.groupby(own["seed"]).mean())
    return found


def at_equal_kl(
    rows: pd.DataFrame, first: str, second: str, x: str = "kl", y: str = "tax"
) -> compare.Comparison | None:
    """Compare two algorithms at the same KL, paired by seed: `y` of first minus `y` of second.

    Each is taken on the line through theta_0 (0 at no KL) and its rounds, in the order of the KL,
    at the furthest that both get. None with fewer than two seeds of both.
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
    """Return the share of a tax in mean skill that capped BLEU leaves, and its interval.

    The points need `capped_skill`. None unless the tax is shown: a share of nothing is nothing.
    """
    rounds = {name: by_round(points, algorithm, name) for name in ("skill", "capped_skill")}
    whole, left = (each[0] - each.iloc[:, -1] for each in rounds.values())
    shown = compare.judge(whole)
    if shown is None or shown.verdict != "holds":
        return None
    rows = pd.DataFrame({"seed": whole.index, "whole": whole.values, "left": left.values})

    def share(drawn: pd.DataFrame) -> float:
        whole = float(drawn["whole"].mean())
        return float(drawn["left"].mean()) / whole if whole > 0 else float("nan")

    return share(rows), *resampled(rows, share)
