"""One row per method: how good its front is against averaging, what it keeps, what it costs."""

from collections.abc import Mapping
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
    points: pd.DataFrame, costs: pd.DataFrame, average: str = DISTILLED_AVERAGE,
    found: pd.DataFrame | None = None, score: str = "skill",
) -> pd.DataFrame:  # fmt: skip
    """Return one row per method: how good its front is, what it keeps, and what it costs.

    `average` is what all others are compared with, `found` rows of `claims.table` if they are
    there, `score` skill or forgetting. Columns: method, seeds, points, hypervolume; ahead (_low,
    _high, _verdict) by hypervolume and equal (the same) by skill at equal reward, of averaging over
    the method; kept_90, kept_95 (_low, _high), the gain left where the curve has that share of
    theta_0's skill, least and reached, the lowest and highest gain on it (percent of RSF's);
    minutes, memory_mb.
    """
    every = Selection(points)
    if found is None:
        wanted = [c for c in claims.CLAIMS.values() if (c.a, c.score) == (f"rsf/{average}", score)]
        found = claims.table(points, wanted)
    full, skill = every.model("rsf/last")["reward"], every.model("sft")[score]
    where = claims.reference(every.rows, score)
    asked = found[(found["a"] == f"rsf/{average}") & (found["score"] == score)]
    asked = asked[~asked["id"].str.contains(".shared", regex=False)].set_index(["b", "measure"])
    costs = costs.reindex(columns=["method", "seconds", "peak_memory_mb"])
    rows = []
    for method in recorded_methods(points):
        curves = every.curve(f"rsf/{method}")
        own = {s: c[["reward", score]].to_numpy(dtype=float) for s, c in curves.items()}
        row: dict[str, Any] = {"method": method, "seeds": len(own)}
        row["points"] = max(map(len, own.values()))
        row["hypervolume"] = np.mean([pareto.hypervolume(c, where) for c in own.values()])
        unknown: Any = {"verdict": "" if method == average else "not recorded"}
        unknown |= dict.fromkeys(("difference", "low", "high"), np.nan)
        for name, measure in (("ahead", "hypervolume"), ("equal", "equal_reward")):
            key = (f"rsf/{method}", measure)
            told: Any = asked.loc[key] if key in asked.index else unknown
            row |= {name: told["difference"], f"{name}_verdict": told["verdict"]}
            row |= {f"{name}_low": told["low"], f"{name}_high": told["high"]}
        for share in KEPT:
            at = {s: pareto.interpolate(c[:, ::-1], share / 100 * skill[s]) for s, c in own.items()}
            left = interval(100 * float(at[s][0]) / full[s] for s in own)
            row |= {f"kept_{share}{e}": x for e, x in zip(("", "_low", "_high"), left, strict=True)}
        row["least"] = np.mean([100 * c[1:, 0].min() / full[s] for s, c in own.items()])
        row["reached"] = np.mean([100 * c[:, 0].max() / full[s] for s, c in own.items()])
        mine = costs[costs["method"] == method]
        row |= {"minutes": mine["seconds"].mean() / 60, "memory_mb": mine["peak_memory_mb"].mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def method_markdown(table: pd.DataFrame) -> str:
    """Return a `method_table` as Markdown."""
    heads = ["method", "seeds", "points", "hypervolume", "averaging ahead by", "verdict"]
    heads += ["at equal reward (points)", "verdict", *(f"reward kept at {s} %" for s in KEPT)]
    heads += ["rewards spanned", "minutes", "memory (MB)"]
    rows = []
    for row in table.to_dict("records"):
        cells = [METHOD_NAMES.get(row["method"], row["method"]), row["seeds"], row["points"]]
        cells += [number(row["hypervolume"])]
        for name in ("ahead", "equal"):
            cells += [_spread(row, name, 2, True), row[f"{name}_verdict"] or "-"]
        cells += [_spread(row, f"kept_{share}", 0) for share in KEPT]
        cells += [f"{number(row['least'], 0)} to {number(row['reached'], 0)}"]
        rows.append([*cells, spread(row["minutes"]), spread(row["memory_mb"], digits=0)])
    return markdown(heads, rows)


def _spread(row: Mapping[Any, Any], name: str, digits: int, sign: bool = False) -> str:
    return spread(row[name], row[f"{name}_low"], row[f"{name}_high"], digits, sign)
