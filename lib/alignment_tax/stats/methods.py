"""One row per method: how good its front is against averaging, what it keeps, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from alignment_tax.labels import METHOD_NAMES, markdown, number, spread
from alignment_tax.registry import REMEDIES
from alignment_tax.results.select import Selection
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE, PART, PATTERN
from alignment_tax.stats import claims, pareto
from alignment_tax.stats.compare import interval

#: Shares of theta_0's skill, in percent, at which the reward that is left is read off.
KEPT = (90, 95)
#: What remedies are compared with, and they themselves.
COMPARED = ("average", DISTILLED_AVERAGE, "early_stopping", *REMEDIES)


def recorded_methods(points: pd.DataFrame) -> list[str]:
    """Return the methods of a run that have a curve: averages, early stopping, remedies, others."""
    words = set(points.loc[points["algorithm"] == "rsf", "method"])
    if "none" in words:
        words.add("early_stopping")
    order = dict.fromkeys([*COMPARED, *sorted(words)])
    return [name for name in order if name in words - {"none", DISTIL, PART, PATTERN}]


def method_table(
    points: pd.DataFrame,
    costs: pd.DataFrame,
    average: str = DISTILLED_AVERAGE,
    found: pd.DataFrame | None = None,
    score: str = "skill",
) -> pd.DataFrame:
    """Return one row per method: how good its front is, what it keeps, and what it costs.

    Args:
        points: The columns of points.csv, one study.
        costs: The columns of costs.csv, perhaps empty.
        average: What all others are compared with: "average" (of RSF) or "distil+average".
        found: Rows of `claims.table`, if they are there already.
        score: skill, or forgetting.

    Returns:
        Columns method, seeds, points, hypervolume; ahead, low, high, verdict of "averaging is ahead
        of the method" by hypervolume, equal, equal_low, ... by skill at equal reward; kept_90,
        kept_95 (with _low, _high), the gain left where the curve has that share of theta_0's skill,
        least and reached, the lowest and highest gain on it (percent of RSF's gain); minutes and
        memory_mb of one training.
    """
    every = Selection(points)
    if found is None:
        wanted = [c for c in claims.CLAIMS.values() if (c.a, c.score) == (f"rsf/{average}", score)]
        found = claims.table(points, wanted)
    full, skill = every.model("rsf/last")["reward"], every.model("sft")[score]
    where = claims.reference(every.rows, score)
    rows = []
    for method in recorded_methods(points):
        curves = every.curve(f"rsf/{method}")
        own = {s: c[["reward", score]].to_numpy(dtype=float) for s, c in curves.items()}
        row: dict[str, object] = {"method": method, "seeds": len(own)}
        row["points"] = max(map(len, own.values()))
        row["hypervolume"] = np.mean([pareto.hypervolume(c, where) for c in own.values()])
        row |= _ahead(found, f"rsf/{average}", f"rsf/{method}", score)
        for share in KEPT:
            at = {s: pareto.interpolate(c[:, ::-1], share / 100 * skill[s]) for s, c in own.items()}
            left = interval(100 * float(at[s][0]) / full[s] for s in own)
            row |= dict(zip((f"kept_{share}{end}" for end in ENDS), left, strict=True))
        row["least"] = np.mean([100 * c[1:, 0].min() / full[s] for s, c in own.items()])
        row["reached"] = np.mean([100 * c[:, 0].max() / full[s] for s, c in own.items()])
        mine = costs[costs["method"] == method] if len(costs) else costs
        for name, column, unit in (("minutes", "seconds", 60), ("memory_mb", "peak_memory_mb", 1)):
            row[name] = float(mine[column].mean()) / unit if len(mine) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


VERDICT = ["unit", "difference", "low", "high", "verdict"]
ENDS = ("", "_low", "_high")


def _ahead(found: pd.DataFrame, a: str, b: str, score: str) -> dict[str, object]:
    row: dict[str, object] = {}
    nothing = dict.fromkeys(VERDICT, np.nan) | {"verdict": "" if a == b else "not recorded"}
    for measure, names in (
        ("hypervolume", ("ahead", "low", "high", "verdict")),
        ("equal_reward", ("equal", "equal_low", "equal_high", "equal_verdict")),
    ):
        own = _between(found, a, b).get((score, measure), nothing)
        row |= {name: own[column] for name, column in zip(names, VERDICT[1:], strict=True)}
    return row


def _between(found: pd.DataFrame, a: str, b: str) -> dict[tuple[str, str], dict[Any, Any]]:
    """Return the claims on a and b, of all their seeds, by score and measure."""
    own = found[(found["a"] == a) & (found["b"] == b)]
    own = own[~own["id"].str.contains(".shared", regex=False)]
    return {(row["score"], row["measure"]): row for row in own.to_dict("records")}


def method_markdown(table: pd.DataFrame) -> str:
    """Return a `method_table` as Markdown."""
    heads = ["method", "seeds", "points", "hypervolume", "averaging ahead by", "verdict"]
    heads += ["at equal reward (points)", "verdict"]
    heads += [f"reward kept at {share} %" for share in KEPT]
    heads += ["rewards spanned", "minutes", "memory (MB)"]
    rows = []
    for row in table.to_dict("records"):
        cells = [METHOD_NAMES.get(row["method"], row["method"]), row["seeds"], row["points"]]
        cells += [number(row["hypervolume"])]
        cells += [_spread(row, ("ahead", "low", "high"), 2, True), row["verdict"] or "-"]
        cells += [_spread(row, ("equal", "equal_low", "equal_high"), 2, True)]
        cells += [row["equal_verdict"] or "-"]
        cells += [_spread(row, [f"kept_{share}{end}" for end in ENDS], 0) for share in KEPT]
        cells += [f"{number(row['least'], 0)} to {number(row['reached'], 0)}"]
        cells += ["-" if np.isnan(row[name]) else number(row[name], digits)
                  for name, digits in (("minutes", 1), ("memory_mb", 0))]  # fmt: skip
        rows.append(cells)
    return markdown(heads, rows)


def _spread(row: Mapping[Any, Any], names: Sequence[str], digits: int, sign: bool = False) -> str:
    mean, low, high = (row[name] for name in names)
    return "-" if np.isnan(mean) else spread(mean, low, high, digits, sign)
