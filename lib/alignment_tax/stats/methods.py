"""One row per method: how good its front is against averaging, what it keeps, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from alignment_tax.labels import METHOD_NAMES, number, seeds_text, spread
from alignment_tax.registry import REMEDIES
from alignment_tax.results.select import Selection
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE, PART, PATTERN
from alignment_tax.stats import claims, pareto
from alignment_tax.stats.compare import interval

#: Shares of theta_0's skill, in percent, at which the reward that is left is read off.
KEPT = (90, 95)


def recorded_methods(points: pd.DataFrame) -> list[str]:
    """Return the methods of a run that have a curve: averages, early stopping, remedies, others."""
    known = ["average", DISTILLED_AVERAGE, "early_stopping", *REMEDIES]
    words = set(points.loc[points["algorithm"] == "rsf", "method"])
    if "none" in words:
        words.add("early_stopping")
    order = dict.fromkeys([*known, *sorted(words)])
    return [name for name in order if name in words - {"none", DISTIL, PART, PATTERN}]


def against(average: str, score: str = "skill") -> list[claims.Claim]:
    """Return the claims that averages are ahead of a method, by hypervolume and at equal reward."""
    return [
        claim
        for claim in claims.CLAIMS.values()
        if claim.a == f"rsf/{average}" and claim.score == score and not claim.shared
        and claim.measure in ("hypervolume", "equal_reward")
    ]  # fmt: skip


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
        average: The averaging that all others are compared with: "average" (of RSF's last round)
            or "distil+average".
        found: Rows of `claims.table`, if they are there already.
        score: skill, or capped_skill.

    Returns:
        Columns method, seeds, points; hypervolume; ahead, low, high, verdict of "averaging is ahead
        of the method" by hypervolume ("not recorded" under two common seeds), equal, equal_low, ...
        the same by skill at equal reward; kept_90, kept_95 (with _low, _high): the gain in reward
        left where the curve still has that share of theta_0's skill; least and reached: the lowest
        and highest gain on the curve (all in percent of the gain of RSF's last round); minutes and
        memory_mb of one training.
    """
    every = Selection(points)
    if found is None:
        found = claims.table(points, against(average, score))
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
        row["minutes"] = float(mine["seconds"].mean()) / 60 if len(mine) else np.nan
        row["memory_mb"] = float(mine["peak_memory_mb"].mean()) if len(mine) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def averaging_minus(found: pd.DataFrame, wanted: Sequence[str]) -> pd.DataFrame:
    """Return averaging minus each method, by two scores and two measures, to draw and to show.

    Averaging is that of the distilled run, which starts and ends where remedies do; of early
    stopping it is that of RSF.

    Args:
        found: Rows of `claims.table`, or of claims.csv (`claims.read`).
        wanted: Remedies, and "early_stopping" if it is asked for.

    Returns:
        Columns method, name, seeds (in words), score (mean skill, talk forgiven), measure
        (hypervolume, at equal reward), unit, difference, low, high, verdict.
    """
    scores = {"skill": "mean skill", "capped_skill": "talk forgiven"}
    measures = {"hypervolume": "hypervolume", "equal_reward": "at equal reward"}
    rows = []
    for method in wanted:
        average = "average" if method == "early_stopping" else DISTILLED_AVERAGE
        own = found[(found["a"] == f"rsf/{average}") & (found["b"] == f"rsf/{method}")]
        own = own[~own["id"].str.contains(".shared", regex=False)].set_index(["score", "measure"])
        about = {"method": method, "name": METHOD_NAMES[method]}
        by_place = dict(zip(own.index, own.to_dict("records"), strict=True))
        for score, measure in product(scores, measures):
            if row := by_place.get((score, measure)):
                told = {"seeds": seeds_text(map(int, str(row["seeds"]).split()))}
                told |= {"score": scores[score], "measure": measures[measure]}
                rows.append(about | told | {name: row[name] for name in VERDICT})
    return pd.DataFrame(rows, columns=["method", "name", "seeds", "score", "measure", *VERDICT])


VERDICT = ["unit", "difference", "low", "high", "verdict"]
ENDS = ("", "_low", "_high")


def _ahead(found: pd.DataFrame, a: str, b: str, score: str) -> dict[str, object]:
    """Return the columns of the two comparisons with averaging."""
    row: dict[str, object] = {}
    for measure, names in (
        ("hypervolume", ("ahead", "low", "high", "verdict")),
        ("equal_reward", ("equal", "equal_low", "equal_high", "equal_verdict")),
    ):
        own = found[(found["a"] == a) & (found["b"] == b) & (found["score"] == score)]
        own = own[own["measure"] == measure]
        values = [np.nan] * 3 + ["" if a == b else "not recorded"]
        if len(own):
            values = own.iloc[0][["difference", "low", "high", "verdict"]].tolist()
        row |= dict(zip(names, values, strict=True))
    return row


def of_remedies(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a `method_table` on averaging, early stopping and remedies."""
    return table[table["method"].isin(["average", DISTILLED_AVERAGE, "early_stopping", *REMEDIES])]


def method_markdown(table: pd.DataFrame) -> str:
    """Return a `method_table` as Markdown."""
    heads = ["method", "seeds", "points", "hypervolume", "averaging ahead by", "verdict"]
    heads += ["at equal reward (points)", "verdict"]
    heads += [f"reward kept at {share} %" for share in KEPT]
    heads += ["rewards spanned", "minutes", "memory (MB)"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
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
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _spread(row: Mapping[Any, Any], names: Sequence[str], digits: int, sign: bool = False) -> str:
    mean, low, high = (row[name] for name in names)
    return "-" if np.isnan(mean) else spread(mean, low, high, digits, sign)
