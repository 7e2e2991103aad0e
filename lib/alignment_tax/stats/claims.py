"""Every claim that a recorded run is asked about, as data; one evaluator, one renderer.

A claim compares two selectors (`results.select`), paired by seed, a minus b: a loss is negative.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alignment_tax import labels, settings
from alignment_tax.labels import FAMILIES, FORGIVEN
from alignment_tax.results.items import SkillScores, corpus_bleu
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
#: Draws of the bootstrap over items, where there are few seeds.
DRAWS = 2000
#: Beside the items, by prompt: of each reply sampled from a model.
REPLIES = ("reward", "gold")
#: Ends the id of a claim that is asked again, of fewer seeds.
TWIN = r"\.(?:shared|seed\d+)$"
Gaps = Mapping[int, float] | pd.Series


# --- measures: one difference a seed --------------------------------------------------------------
def _curve_rows(rows: Selection, claim: Claim) -> Iterator[tuple[int, pd.DataFrame, pd.DataFrame]]:
    """Both curves of a seed; with a ratio per block or part, at the mean ratios that both have."""
    texts = (claim.a, claim.b)
    parts, blocks = (any(getattr(parse(t), name) for t in texts) for name in ("part", "blocks"))
    ratios = rows.ratios(*texts) if parts or blocks else None
    a, b = (rows.curve(text, ratios, not parts) for text in texts)
    for seed in sorted(a.keys() & b.keys()):
        yield seed, a[seed], b[seed]


def _curves(rows: Selection, claim: Claim, axis: str) -> Iterator[tuple[int, Array, Array]]:
    for seed, *both in _curve_rows(rows, claim):
        first, second = (each[[axis, claim.score]].to_numpy(dtype=float) for each in both)
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


def _equal_kl(rows: Selection, claim: Claim, axis: str, along: bool = False) -> Gaps:
    """At the furthest KL from theta_0 that both reach, or `along` all the way to it, in the mean.

    Both are read as lines through their models.
    """
    gaps = {}
    for seed, *both in _curves(rows, claim, axis):
        a, b = (each[each[:, 0].argsort()].T for each in both)
        reach = min(a[0, -1], b[0, -1])
        at = np.linspace(max(a[0, 0], b[0, 0]), reach, pareto.STRIPS) if along else reach
        gaps[seed] = float((np.interp(at, *a) - np.interp(at, *b)).mean())
    return gaps


def _bend(rows: Selection, claim: Claim) -> Gaps:
    """How far averages lie above the straight line from theta_0 to the aligned model."""
    curves = rows.curve(claim.a, rows.ratios(claim.a)).items()
    return {s: pareto.bend([0, *c["alpha"].iloc[1:-1], 1], c[claim.score]) for s, c in curves}


MEASURES: Mapping[str, Callable[[Selection, Claim], Gaps]] = {
    "difference": lambda rows, c: rows.model(c.a)[c.score] - rows.model(c.b)[c.score],
    "equal_reward": partial(_equal, axis="reward"),
    "equal_gold": partial(_equal, axis="gold"),
    "equal_kl": partial(_equal_kl, axis="kl"),  # KL(theta || theta_0)
    "equal_forward_kl": partial(_equal_kl, axis="forward_kl"),  # KL(theta_0 || theta)
    "along_kl": partial(_equal_kl, axis="kl", along=True),
    "along_forward_kl": partial(_equal_kl, axis="forward_kl", along=True),
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
    if (there := rows.rows[claim.score].notna()).sum() < len(there):
        rows = Selection(rows.rows[there])
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


def drawn(items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return what each model (its key) scores on resamples of its items: a row a draw.

    The first row is all items as they are. Of each slot, and of the replies whose reward and gold
    are kept beside the items, all models have the same draws, so that their differences are paired.
    """
    found = {}
    for key, own in items.groupby("key", observed=True):
        rng, table = np.random.default_rng(0), pd.DataFrame(index=range(DRAWS + 1))
        both = [SkillScores({}, own).values(forgiven) for forgiven in (False, True)]
        slots: list[dict[str, Array]] = [{}, {}]
        for slot in both[0]:
            size = len(both[0][slot])
            chosen = np.vstack([np.arange(size), rng.integers(size, size=(DRAWS, size))])
            for way, values in zip(slots, both, strict=True):
                every = values[slot][chosen]
                bleu = slot == "bleu"
                way[slot] = (
                    np.array([corpus_bleu(x) for x in every]) if bleu else every.mean(axis=1)
                )
                way[slot] *= 1 if bleu or slot in REPLIES else 100
        for way, names in zip(slots, ({name: name for name in FORGIVEN}, FORGIVEN), strict=True):
            for family, own_slots in FAMILIES.items():
                if scored := [way[slot] for slot in own_slots if slot in way]:
                    table[names[family]] = np.mean(scored, axis=0)
            if set(families := [names[f] for f in FAMILIES]) <= set(table):
                table[names["skill"]] = table[families].mean(axis=1)
        found[str(key)] = table.assign(**slots[0])
        found[str(key)].attrs["n_items"] = len(own)
    return found


def item_gaps(rows: Selection, claim: Claim, draws: Mapping[str, pd.DataFrame]) -> dict[int, Array]:
    """Return a minus b by seed, (draws + 1,): over all its items, then over each resample of them.

    NotRecorded: a claim that is no difference and not at equal reward or gold, or has no items.
    """
    kind, _, axis = claim.measure.partition("_")
    if kind not in ("difference", "equal") or axis.endswith("kl"):
        raise NotRecorded(f"{claim.id} is no difference of models or of their fronts.")
    texts, scores = (claim.a, claim.b), [axis, claim.score]
    if kind == "difference":
        factors, scores = [parse(text).factor for text in texts], scores[1:]
        a, b = (rows.model(text).get("key", pd.Series(dtype=str)) for text in texts)
        sides = {seed: ([a[seed]], [b[seed]]) for seed in a.index.intersection(b.index)}
    else:
        factors = [1.0, 1.0]
        curves = _curve_rows(rows, claim)
        sides = {seed: (list(first["key"]), list(second["key"])) for seed, first, second in curves}
    found = {}
    for seed, both in sides.items():
        if any(not set(scores) <= set(draws.get(key, ())) for side in both for key in side):
            continue
        # (draws, models, scores)
        first, second = (
            factor * np.stack([draws[key][scores].to_numpy() for key in side], axis=1)
            for side, factor in zip(both, factors, strict=True)
        )
        if kind == "difference":
            found[int(seed)] = (first - second)[:, 0, 0]
        else:
            pairs = zip(first, second, strict=True)
            found[int(seed)] = np.array([pareto.gap_at_equal_reward(*each) for each in pairs])
    if not found:
        raise NotRecorded(f"No seed has items of both models of {claim.id} with {scores}.")
    return found


def over_items(
    rows: Selection, claim: Claim, draws: Mapping[str, pd.DataFrame]
) -> tuple[list[int], compare.Comparison]:
    """Return seeds, and what they say of a claim by a paired bootstrap over items and replies.

    It is the mean over the seeds, each resampled alike: about these trainings, and no others.
    """
    found = item_gaps(rows, claim, draws)
    gaps, tails = np.mean(list(found.values()), axis=0), (1 - compare.LEVEL) / 2
    low, high = map(float, np.quantile(gaps[1:], [tails, 1 - tails]))
    n_items = next(iter(draws.values())).attrs["n_items"]
    verdict = compare.verdict(low, high, claim.direction, claim.sesoi)
    each = compare.Comparison(float(gaps[0]), low, high, len(found), n_items, verdict)
    return sorted(found), each


def of_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return how far above half of the held-out pairs a reward model orders as people did.

    In points, the mean over seeds with Wilson's interval, to which pairs that seeds share count
    once; of the judge too, where its pairs are there (column model).
    """
    found = []
    models = pairs["model"] if "model" in pairs else pd.Series("reward_model", pairs.index)
    for name, own in pairs.groupby(models):
        who = str(name).replace("_", " ")
        claim = Claim(
            f"{name}.pairs_beyond_chance", "12", f"the {who} orders held-out pairs as people did",
            who, "chance", "pairs",
        )  # fmt: skip
        share = float(((own["margin"] > 0) + 0.5 * (own["margin"] == 0)).mean())
        seeds, n = sorted(set(own["seed"])), len(own) / own["seed"].nunique()
        low, high = (100 * end - 50 for end in compare.wilson(share * n, n))
        verdict = compare.verdict(low, high, claim.direction, claim.sesoi)
        each = compare.Comparison(100 * share - 50, low, high, len(seeds), len(own), verdict)
        facts = {"sesoi": claim.sesoi, "unit": claim.unit, "seeds": " ".join(map(str, seeds))}
        found.append(asdict(claim) | facts | asdict(each))
    return pd.DataFrame(found, columns=COLUMNS)


def table(
    points: pd.DataFrame, wanted: Iterable[Claim] | None = None, items: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return a row per claim (else all) that points can be asked: over seeds, or their `items`."""
    every, found = Selection(points), []
    draws = None if items is None else drawn(items)
    # algorithms side by side are compared on the seeds that have all of them
    beside = Selection(shared(points))
    for claim in CLAIMS.values() if wanted is None else wanted:
        rows = beside if claim.shared else every
        with suppress(NotRecorded):
            if draws is not None:
                seeds, each = over_items(rows, claim, draws)
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

    Claims with format forgiven, on shared seeds or of one seed alone are picked by whole ids only.
    """
    rows = []
    for start in starts:
        own = found[found["id"] == start]
        if own.empty:
            own = found[found["id"].str.startswith(start)]
            twin = own["score"].isin(FORGIVEN.values()) | own["id"].str.contains(TWIN)
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


def by_seed(found: pd.DataFrame, *starts: str) -> pd.DataFrame:
    """Return what `pick` picks, said of all seeds and of each alone, where that was asked too."""
    rows, every = pick(found, *starts), {row["id"]: row for row in found.to_dict("records")}
    seeds = sorted(
        {name.rpartition(".seed")[2] for name in every if re.search(r"\.seed\d+$", name)}
    )
    shown = {"claim": rows["claim"], "all seeds": [said(every[name]) for name in rows["id"]]}
    for seed in seeds:
        own = [every.get(f"{name}.seed{seed}") for name in rows["id"]]
        shown[f"seed {seed}"] = ["-" if row is None else said(row) for row in own]
    return pd.DataFrame(shown).reset_index(drop=True)


def markdown(found: pd.DataFrame, *starts: str) -> str:
    """Return `show` as Markdown."""
    shown = show(found, *starts)
    right = {"seeds", "difference (95 % interval)"}
    return labels.markdown(list(shown.columns), shown.to_numpy().tolist(), right)
