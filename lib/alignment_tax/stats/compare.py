"""The only intervals over seeds and items, and the only verdicts.

Over few seeds the percentile bootstrap is too narrow (of five it covers 83 % instead of 95 %), so
verdicts use the paired t interval (`compare_seeds`); `paired_bootstrap` is for items of one seed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtr, stdtrit
from scipy.stats import false_discovery_control

from alignment_tax.stats.pareto import Array

Items = Array | Sequence[float] | Mapping[str, Array]
Verdict = Literal["holds", "opposite", "negligible", "inconclusive"]
LEVEL = 0.95  # coverage of an interval


@dataclass(frozen=True)
class Comparison:
    """A mean difference a - b, its interval and the verdict; `n_items` is 0 if not over items."""

    difference: float
    low: float
    high: float
    n_seeds: int
    n_items: int
    verdict: Verdict


def verdict(low: float, high: float, direction: int = 1, sesoi: float = 0.0) -> Verdict:
    """Return what an interval says of a claim (+1: positive), as `templates/verdicts.md` has it."""
    if not (np.isfinite([low, high]).all() and low <= high and sesoi >= 0):
        raise ValueError(f"[{low}, {high}] with sesoi {sesoi} is no interval of finite numbers.")
    if direction not in (1, -1):
        raise ValueError(f"A direction is +1 or -1, not {direction}.")
    if max(abs(low), abs(high)) <= sesoi:
        return "negligible"
    if low > 0 or high < 0:
        return "holds" if (low > 0) == (direction > 0) else "opposite"
    return "inconclusive"


# --- intervals over seeds -------------------------------------------------------------------------
def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Return mean, low and high of Student's t interval; low and high are NaN for one value."""
    array = np.asarray(list(values), dtype=float)
    mean = float(array.mean())
    if array.size < 2:
        return mean, float("nan"), float("nan")
    error = float(array.std(ddof=1)) / np.sqrt(array.size)
    half = float(stdtrit(array.size - 1, 0.5 + LEVEL / 2)) * error
    return mean, float(mean - half), float(mean + half)


def wilson(right: float, n: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval (0-1) of a share of `right` among `n` trials."""
    z, share = float(ndtri(0.975)), right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half


def summarise(rows: pd.DataFrame, by: list[str], values: Sequence[str]) -> pd.DataFrame:
    """Return one row per group: seeds, and NAME, NAME_low, NAME_high for each of `values`."""
    records = []
    for key, group in rows.groupby(by, dropna=False):
        record: dict[str, object] = dict(zip(by, key, strict=True)) | {"seeds": len(group)}
        for name in values:
            record[name], record[f"{name}_low"], record[f"{name}_high"] = interval(group[name])
        records.append(record)
    return pd.DataFrame(records)


def compare_seeds(
    differences: Iterable[float], *, direction: int = 1, sesoi: float = 0.0
) -> Comparison:
    """Compare two methods by one paired difference per seed: Student's t interval, df = seeds - 1.

    All seeds share the items: the error from drawing them counts as far as it differs by seed.
    `differences` are a minus b; `direction` is +1 if the claim is that a has more, -1 if less;
    `sesoi` the smallest effect of interest. ValueError: fewer than two seeds, or a difference that
    is not finite.
    """
    values = np.asarray(list(differences), dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"{values.size} seed(s) have no spread between them: run at least two.")
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        raise ValueError(f"The difference of seed number {bad[0]} is {values[bad[0]]}: not scored?")
    mean, low, high = interval(values)
    return Comparison(mean, low, high, len(values), 0, verdict(low, high, direction, sesoi))


# --- new seeds against recorded ones --------------------------------------------------------------
@dataclass(frozen=True)
class Move:
    """The mean of new seeds minus that of recorded ones, in a prediction interval around zero."""

    difference: float
    error: float  # standard error of the difference
    half: float  # half the width of the interval that it stays in while nothing changed
    p: float  # how likely one as large is then


def move(then: Sequence[float], now: Sequence[float], rounding: float = 0.0) -> Move:
    """Compare n new seeds with m recorded ones, whose spread s alone makes the band.

    The error is s sqrt(1/n + 1/m), with m - 1 degrees of freedom. A difference up to `rounding` is
    none. ValueError: fewer than two recorded seeds, or no new one.
    """
    old, new = (np.asarray(list(values), dtype=float) for values in (then, now))
    if old.size < 2 or not new.size:
        raise ValueError(f"{old.size} recorded and {new.size} new values: 2 and 1 are needed.")
    gap = float(new.mean() - old.mean())
    error = float(old.std(ddof=1)) * float(np.sqrt(1 / new.size + 1 / old.size))
    half = max(float(stdtrit(old.size - 1, 0.5 + LEVEL / 2)) * error, rounding)
    if abs(gap) <= rounding:
        return Move(gap, error, half, 1.0)
    p = 2 * float(stdtr(old.size - 1, -abs(gap) / error)) if error else 0.0
    return Move(gap, error, half, p)


def discoveries(p: Sequence[float]) -> list[bool]:
    """Say which of many p values are no chance; of those 5 % are (Benjamini and Hochberg)."""
    adjusted = false_discovery_control(np.asarray(p)) if len(p) else []
    return [bool(each <= 1 - LEVEL) for each in adjusted]


# --- intervals over seeds and items ---------------------------------------------------------------
def _mean_of_groups(items: Mapping[str, Array]) -> float:
    return float(np.mean([values.mean() for values in items.values()]))


def paired_bootstrap(
    a: Sequence[Items], b: Sequence[Items], *, rng: np.random.Generator, n_boot: int = 1000,
    statistic: Callable[[Mapping[str, Array]], float] = _mean_of_groups, direction: int = 1,
    sesoi: float = 0.0, level: float = LEVEL,
) -> Comparison:  # fmt: skip
    """Compare two methods by drawing seeds, then items, with replacement: percentile interval.

    Each draw takes the same items for both models and all seeds, each group (a slot) within itself.
    `a` and `b` have by seed the items of a model, {group: array (n_items, ...)}, or one array for
    group "items"; `statistic` maps them to a number, `level` is the coverage of the interval.
    ValueError: no or unequal seeds, groups or items, or values that are not finite.
    """
    if len(a) == 0 or len(a) != len(b):
        raise ValueError(f"Seeds must be paired, in one order: a has {len(a)}, b has {len(b)}.")
    pairs = [(_groups(x), _groups(y)) for x, y in zip(a, b, strict=True)]
    sizes = {name: len(values) for name, values in pairs[0][0].items()}
    for seed, side in [(seed, side) for seed, pair in enumerate(pairs) for side in pair]:
        if (other := {name: len(values) for name, values in side.items()}) != sizes:
            raise ValueError(f"Seed number {seed} has other items than {sizes}: {other}.")

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
        draws[i] = np.average([gap(int(seed), items) for seed in seeds], weights=counts)
    low, high = map(float, np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2]))
    said = verdict(low, high, direction, sesoi)
    return Comparison(observed, low, high, len(pairs), sum(sizes.values()), said)


def _groups(items: Items) -> dict[str, Array]:
    named = items if isinstance(items, Mapping) else {"items": items}
    groups = {name: np.asarray(values, dtype=float) for name, values in named.items()}
    if not groups or any(len(values) == 0 for values in groups.values()):
        raise ValueError("There are no items to draw from: was the model scored with this suite?")
    for name, values in groups.items():
        if not np.isfinite(values).all():
            raise ValueError(f"The items of {name!r} hold NaN or infinity: score the model again.")
    return groups
