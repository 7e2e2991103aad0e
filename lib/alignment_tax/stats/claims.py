"""Every claim that a recorded run is asked about, as data; one evaluator, one renderer.

A claim compares two selectors (`results.select`), paired by seed, a minus b: a loss is negative.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alignment_tax import labels, settings
from alignment_tax.labels import FORGIVEN, SCORES
from alignment_tax.results.items import SkillScores, family_percent, slots_of, written
from alignment_tax.results.points import NotRecorded, shared
from alignment_tax.results.select import Selection, parse
from alignment_tax.stats import compare, pareto
from alignment_tax.stats.claim_list import CLAIMS, Claim, forgiven_id
from alignment_tax.stats.pareto import Array

#: Columns of claims.csv.
COLUMNS = """
    id chapter place paper claim unit a b score measure seeds n_seeds difference low high sesoi
    direction verdict
""".split()
#: Draws of the bootstrap over items, where there is one seed.
DRAWS = 2000
Gaps = Mapping[int, float] | pd.Series


# --- measures: one difference a seed --------------------------------------------------------------
def _curves(rows: Selection, claim: Claim, axis: str) -> Iterator[tuple[int, Array, Array]]:
    """Both curves of a seed; with a ratio per block or part, at the mean ratios that both have."""
    texts = (claim.a, claim.b)
    parts, blocks = (any(getattr(parse(t), name) for t in texts) for name in ("part", "blocks"))
    ratios = rows.ratios(*texts) if parts or blocks else None
    a, b = (rows.curve(text, ratios, not parts) for text in texts)
    for seed in sorted(a.keys() & b.keys()):
        first, second = (each[seed][[axis, claim.score]].to_numpy(dtype=float) for each in (a, b))
        yield seed, first, second


def _equal(rows: Selection, claim: Claim, axis: str) -> Gaps:
    return {s: pareto.gap_at_equal_reward(a, b) for s, a, b in _curves(rows, claim, axis)}


def reference(points: pd.DataFrame, score: str = "skill") -> tuple[float, float]:
    """Return the point from which hypervolumes are measured: no gain, and the lowest aligned skill.

    That of RSF's last round or the plain distilled run, rounded down (NotRecorded: of neither).
    """
    rsf = points[points["algorithm"] == "rsf"]
    trained = rsf[rsf["method"] == "none"]
    ends = [trained[trained["rounds"] == trained["rounds"].max()], rsf[rsf["method"] == "distil"]]
    lowest = pd.concat(ends)[score].min()
    if np.isnan(lowest):
        raise NotRecorded("There is no aligned model of RSF, from which areas are measured.")
    return 0.0, float(np.floor(lowest))


def _hypervolume(rows: Selection, claim: Claim) -> Gaps:
    """The finer curve is thinned to as many points as the other has: more points cover more."""
    where, gaps = reference(rows.rows, claim.score), {}
    for seed, *both in _curves(rows, claim, "reward"):
        n = min(map(len, both))
        thin = (each[np.linspace(0, len(each) - 1, n).round().astype(int)] for each in both)
        a, b = (pareto.hypervolume(each, where) for each in thin)
        gaps[seed] = a - b
    return gaps


def same_alpha(rows: Selection, a: str, b: str, score: str) -> pd.DataFrame:
    """Return a minus b at the same mean ratio: a row per seed, a column per mean ratio.

    Averages are taken at the mean that the ratios of a really have, interpolated if need be.
    """
    gaps = {}
    for ratio in rows.ratios(a, b):
        own = rows.models(a)
        own = own[np.isclose(own["mean"], ratio)].set_index("seed")
        gaps[ratio] = own[score].astype(float) - _there(rows, b, own["alpha"], ratio, score)
    return pd.DataFrame(gaps)


def _there(rows: Selection, b: str, alphas: pd.Series, ratio: float, score: str) -> pd.Series:
    other = rows.models(b)
    if parse(b).method != "average":
        return other[np.isclose(other["mean"], ratio)].set_index("seed")[score].astype(float)
    found = {}
    for seed, line in other.sort_values("alpha").groupby("seed"):
        if seed in alphas.index:
            at, values = (line[name].to_numpy(dtype=float) for name in ("alpha", score))
            found[seed] = float(np.interp(alphas[seed], at, values))
    return pd.Series(found, dtype=float)


def _off_curve(rows: Selection, claim: Claim) -> Gaps:
    """Models of a minus what the curve of b keeps at their rewards, the mean over the models.

    A model of more reward than the curve reaches cannot be compared, and is left out.
    """
    gaps, own = {}, rows.models(claim.a)
    complete, columns = own.groupby("seed").size().max(), ["reward", claim.score]
    for seed, line in rows.curve(claim.b).items():
        mine, curve = own[own["seed"] == seed][columns].astype(float), line[columns].astype(float)
        beyond = mine[claim.score] - pareto.interpolate(curve.to_numpy(), mine["reward"].to_numpy())
        if len(mine) == complete and beyond.notna().any():
            gaps[seed] = float(beyond.mean())
    return gaps


def _equal_kl(rows: Selection, claim: Claim) -> Gaps:
    """At the furthest KL from theta_0 that both reach, on the lines through their rounds."""
    gaps = {}
    for seed, *both in _curves(rows, claim, "kl"):
        a, b = (each[each[:, 0].argsort()].T for each in both)
        reach = min(a[0, -1], b[0, -1])
        gaps[seed] = float(np.interp(reach, *a) - np.interp(reach, *b))
    return gaps


def _bend(rows: Selection, claim: Claim) -> Gaps:
    """How far averages lie above the straight line from theta_0 to the aligned model."""
    curves = rows.curve(claim.a, rows.ratios(claim.a)).items()
    return {s: pareto.bend([0, *c["alpha"].iloc[1:-1], 1], c[claim.score]) for s, c in curves}


MEASURES: Mapping[str, Callable[[Selection, Claim], Gaps]] = {
    "difference": lambda rows, c: rows.model(c.a)[c.score] - rows.model(c.b)[c.score],
    "equal_reward": partial(_equal, axis="reward"),
    "equal_gold": partial(_equal, axis="gold"),
    "equal_kl": _equal_kl,
    "hypervolume": _hypervolume,
    "same_alpha": lambda rows, claim: same_alpha(rows, claim.a, claim.b, claim.score).mean(axis=1),
    "off_curve": _off_curve,
    "bend": _bend,
}


# --- the evaluator --------------------------------------------------------------------------------
def differences(points: pd.DataFrame | Selection, claim: Claim) -> pd.Series:
    """Return a minus b by seed, of the seeds that have both (NotRecorded: none is compared)."""
    rows = points if isinstance(points, Selection) else Selection(points)
    if claim.score not in rows.rows or rows.rows[claim.score].isna().all():
        raise NotRecorded(f"The points have no {claim.score}.")
    found = pd.Series(MEASURES[claim.measure](rows, claim), dtype=float)
    return found.dropna() if claim.measure in ("difference", "same_alpha") else found


def evaluate(points: pd.DataFrame | Selection, claim: Claim) -> compare.Comparison:
    """Return what the points say of a claim, over seeds (NotRecorded: fewer than two have both).

    `points` are the columns of points.csv, one study; the claim may be one of your own:

    >>> evaluate(points, Claim("", "", "", "rsf/last", "sft"))  # the tax, in points; losses are < 0
    """
    return judged(differences(points, claim), claim)


def judged(gaps: pd.Series, claim: Claim) -> compare.Comparison:
    """Return what differences by seed say of a claim (NotRecorded: there are fewer than two)."""
    if len(gaps) < 2:
        raise NotRecorded(f"{len(gaps)} seed(s) have both {claim.a} and {claim.b}: two are needed.")
    return compare.compare_seeds(gaps, direction=claim.direction, sesoi=claim.sesoi)


def over_items(rows: Selection, claim: Claim, items: pd.DataFrame) -> compare.Comparison:
    """Return what one seed says of a difference in skill, by a paired bootstrap over its items."""
    if claim.measure != "difference" or claim.score not in SCORES:
        raise NotRecorded(f"{claim.id} is no difference of skills.")
    slots, (_, forgiven) = slots_of(claim.score), written(claim.score)
    sides = []
    for text in (claim.a, claim.b):
        own = rows.model(text)
        if len(own) != 1 or "key" not in own:
            raise NotRecorded(f"{text} is not one model.")
        mine = items[(items["key"] == own["key"].iloc[0]) & items["slot"].isin(slots)]
        if mine.empty:
            raise NotRecorded(f"A model of {claim.id} has no items.")
        sides.append([SkillScores({}, mine).values(forgiven)])
    return compare.paired_bootstrap(
        *sides, rng=np.random.default_rng(0), n_boot=DRAWS, statistic=family_percent(claim.score),
        direction=claim.direction, sesoi=claim.sesoi,
    )  # fmt: skip


def table(
    points: pd.DataFrame, wanted: Iterable[Claim] | None = None, items: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return a row per claim (else all) that points can be asked; of one seed over its `items`."""
    every, found = Selection(points), []
    # algorithms side by side are compared on the seeds that have all of them
    beside = Selection(shared(points))
    for claim in CLAIMS.values() if wanted is None else wanted:
        rows = beside if claim.shared else every
        with suppress(NotRecorded):
            if items is not None and every.rows["seed"].nunique() == 1:
                seeds, each = sorted(set(rows.rows["seed"])), over_items(rows, claim, items)
            else:
                gaps = differences(rows, claim)
                seeds, each = sorted(gaps.index), judged(gaps, claim)
            facts = {"sesoi": claim.sesoi, "unit": claim.unit, "seeds": " ".join(map(str, seeds))}
            found.append(asdict(claim) | facts | asdict(each))
    return pd.DataFrame(found, columns=COLUMNS)


# --- reading and rendering ------------------------------------------------------------------------
def write(found: pd.DataFrame, path: Path) -> None:
    """Write a table of claims at full precision."""
    found.to_csv(path, index=False, lineterminator="\n")


def read(preset: str = "tiny") -> pd.DataFrame:
    """Read the recorded claims of a preset; FileNotFoundError names the command that makes them."""
    path = settings.results_folder() / preset / "claims.csv"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Make it with: alignment-tax report")
    found = pd.read_csv(path, dtype=dict.fromkeys(("chapter", "place", "paper", "seeds"), str))
    return found.fillna(dict.fromkeys(("place", "paper"), ""))


def pick(found: pd.DataFrame, *starts: str) -> pd.DataFrame:
    """Return the rows with these ids, or whose ids begin with these, in their order.

    Claims with format forgiven and those on shared seeds alone are picked by their whole id only.
    """
    rows = []
    for start in starts:
        own = found[found["id"] == start]
        if own.empty:
            own = found[found["id"].str.startswith(start)]
            twin = own["score"].isin(FORGIVEN.values()) | own["id"].str.endswith(".shared")
            own = own[~twin]
        rows.append(own)
    return pd.concat(rows).drop_duplicates("id") if rows else pick(found, "")


def one(found: pd.DataFrame, name: str) -> pd.Series:
    """Return the row of one claim; KeyError if it is not in the table."""
    rows = found[found["id"] == name]
    if rows.empty:
        raise KeyError(f"The table holds no claim {name!r}.")
    return rows.iloc[0]


def effect(row: pd.Series | Mapping[Any, Any], digits: int = 2) -> str:
    """Return "difference (low to high)" of a row, signed."""
    return labels.spread(row["difference"], row["low"], row["high"], digits, sign=True)


def said(row: pd.Series | Mapping[Any, Any]) -> str:
    """Return the effect and the verdict of a row."""
    return f"{effect(row)}, {row['verdict']}"


def show(found: pd.DataFrame, *starts: str, paper: bool = False) -> pd.DataFrame:
    """Return what `pick` picks as a table for a reader, with what the paper says if `paper`."""
    rows, every = pick(found, *starts), {row["id"]: row for row in found.to_dict("records")}
    scored = zip(rows["id"], rows["score"], strict=True)
    twins = [every.get(forgiven_id(*each)) if each[1] in FORGIVEN else None for each in scored]
    columns = {
        "where": rows["place"].replace("", "-"),
        "the paper": rows["paper"].replace("", "-") if paper else "-",
        "claim": rows["claim"],
        "difference (95 % interval)": [effect(every[name]) for name in rows["id"]],
        "unit": rows["unit"],
        "seeds": rows["n_seeds"],
        "verdict": rows["verdict"],
        "format forgiven": ["-" if twin is None else said(twin) for twin in twins],
    }
    shown = pd.DataFrame(columns).reset_index(drop=True)
    maybe = ("where", "the paper", "format forgiven")
    return shown.drop(columns=[name for name in maybe if (shown[name] == "-").all()])


def markdown(found: pd.DataFrame, *starts: str) -> str:
    """Return `show` as Markdown."""
    shown = show(found, *starts)
    right = {"seeds", "difference (95 % interval)"}
    return labels.markdown(list(shown.columns), shown.to_numpy().tolist(), right)
