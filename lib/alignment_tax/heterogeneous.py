"""What a recorded run says of averaging part by part, and of a ratio for every block.

Drawn from the table of points alone, with no model. A curve is named by its method and its number
of blocks: ("hma", 3). Plain averaging has one block, ("average", 1). Reward is always what was
gained over theta_0 of the same seed, `alpha` the (mean) weight of the aligned model.

Fair means here: two curves are compared at the same mean ratios, with theta_0 and the aligned model
added to both as their ends, so that neither has more points than the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from alignment_tax.algorithms_claims import NAMES as NAMES_OF_ALGORITHMS
from alignment_tax.claims import AGREEMENT
from alignment_tax.figures.style import METHODS
from alignment_tax.labels import FAMILY_NAMES
from alignment_tax.merge.parts import THIRDS
from alignment_tax.merge.search import SEARCHES
from alignment_tax.results.points import NotRecorded
from alignment_tax.spec import PART, PATTERN, block_count, patterns, ratios_text
from alignment_tax.stats import compare, pareto
from alignment_tax.stats.compare import Comparison

Curve = tuple[str, int]

#: Averaging all blocks with one ratio.
AVERAGE: Curve = ("average", 1)
#: The paper's HMA, and the numbers of blocks of its ablation.
HMA: Curve = ("hma", 3)
ABLATION = (3, 6, 9)
ADAMERGING: Curve = ("adamerging", 9)
#: In `put_back`: the sum over the parts, each put back by itself.
TOGETHER = "one by one, summed"
SCORES = ("reward", "gold", "skill", "commonsense", "reading", "translation")


def reported(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of RSF and theta_0, ready to be compared.

    Args:
        points: the columns of points.csv, one study.

    Returns:
        The same columns, with reward as the gain over theta_0 of the same seed, and two more:
        `blocks` (K of a model with a ratio per block, 1 of an average, else 0) and `mean` (alpha
        to one digit: the mean of the released code's ratios is only near what it was asked for).

    Raises:
        NotRecorded: a seed without theta_0.
    """
    rows = points[points["algorithm"].isin(["sft", "rsf"])].copy()
    start = rows[rows["algorithm"] == "sft"].set_index("seed")["reward"]
    if missing := sorted(set(rows["seed"]) - set(start.index)):
        raise NotRecorded(f"Seed {missing[0]} has no row of theta_0 (algorithm sft).")
    rows["reward"] = rows["reward"] - rows["seed"].map(start)
    rows["blocks"] = [block_count(part) for part in rows["part"]]
    rows.loc[rows["method"] == "average", "blocks"] = 1
    rows["mean"] = rows["alpha"].astype(float).round(1)
    return rows


def of_algorithm(points: pd.DataFrame, algorithm: str) -> pd.DataFrame:
    """Return points in which the models of one algorithm stand where RSF's stood.

    All else in this module, and the figures of parts and ratios, is then about that algorithm.

    Args:
        points: the columns of points.csv, one study.
        algorithm: rsf, dpo, rloo or ppo.

    Raises:
        NotRecorded: no model of the algorithm is recorded.
    """
    if algorithm not in set(points["algorithm"]):
        raise NotRecorded(f"There are no rows of {algorithm}.")
    rows = points[points["algorithm"].isin(["base", "sft", algorithm])]
    return rows.assign(algorithm=rows["algorithm"].replace(algorithm, "rsf"))


def algorithms_with(points: pd.DataFrame, method: str) -> list[str]:
    """Return the algorithms of which a method is recorded in two seeds or more, RSF first.

    Args:
        points: the columns of points.csv, one study.
        method: "part", or a search for ratios.
    """
    seeds = points[points["method"] == method].groupby("algorithm")["seed"].nunique()
    return [each for each in NAMES_OF_ALGORITHMS if seeds.get(each, 0) > 1]


def name(curve: Curve) -> str:
    """Return a curve's name for a reader: "HMA, K = 3"."""
    method, blocks = curve
    label = METHODS[method].label if method in METHODS else method
    return label if blocks == 1 else f"{label}, K = {blocks}"


# --- the models of a curve ------------------------------------------------------------------------


def _theta_0(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["algorithm"] == "sft"].set_index("seed")


def _aligned(rows: pd.DataFrame) -> pd.DataFrame:
    trained = rows[(rows["algorithm"] == "rsf") & (rows["method"] == "none")]
    return trained[trained["rounds"] == trained["rounds"].max()].set_index("seed")


def _models(rows: pd.DataFrame, curve: Curve) -> pd.DataFrame:
    method, blocks = curve
    return rows[(rows["method"] == method) & (rows["blocks"] == blocks)]


def mean_ratios(points: pd.DataFrame, curve: Curve) -> list[float]:
    """Return the mean ratios strictly between 0 and 1 at which every seed of a curve is recorded.

    Raises:
        NotRecorded: there is none.
    """
    own = _models(reported(points), curve)
    own = own[own["mean"].between(0, 1, inclusive="neither")]
    everywhere = [set(each["mean"]) for _, each in own.groupby("seed")]
    found = sorted(set.intersection(*everywhere)) if everywhere else []
    if not found:
        raise NotRecorded(f"There are no rows of {name(curve)}.")
    return found


def common_ratios(points: pd.DataFrame, a: Curve, b: Curve) -> list[float]:
    """Return the mean ratios that two curves share.

    Raises:
        NotRecorded: there is none.
    """
    shared = sorted(set(mean_ratios(points, a)) & set(mean_ratios(points, b)))
    if not shared:
        raise NotRecorded(f"{name(a)} and {name(b)} have no mean ratio in common.")
    return shared


def at(points: pd.DataFrame, curve: Curve, alpha: float) -> pd.DataFrame:
    """Return the models of a curve at one mean ratio: SCORES by seed.

    Raises:
        NotRecorded: there is none.
    """
    rows = _models(reported(points), curve)
    rows = rows[np.isclose(rows["mean"], alpha)].set_index("seed").sort_index()
    if rows.empty:
        raise NotRecorded(f"There is no {name(curve)} at alpha {alpha:g}.")
    return rows[list(SCORES)].astype(float)


def average_at(points: pd.DataFrame, alphas: pd.Series) -> pd.DataFrame:
    """Return plain averaging at an alpha of its own for each seed: SCORES by seed.

    Between two recorded alphas it is interpolated: the released code's mean ratio is no tenth.

    Args:
        points: the columns of points.csv.
        alphas: one alpha per seed (the index).

    Raises:
        NotRecorded: a seed without averages.
    """
    rows = _models(reported(points), AVERAGE)
    found = {}
    for seed, alpha in alphas.items():
        own = rows[rows["seed"] == seed].sort_values("alpha")
        if own.empty:
            raise NotRecorded(f"Seed {seed} has no averages.")
        line = own["alpha"].to_numpy(dtype=float)
        found[seed] = {s: float(np.interp(alpha, line, own[s].astype(float))) for s in SCORES}
    return pd.DataFrame(found).T.rename_axis("seed")


def curve_points(
    points: pd.DataFrame,
    curve: Curve,
    alphas: Sequence[float],
    score: str = "skill",
    reward: str = "reward",
) -> dict[int, np.ndarray]:
    """Return a curve by seed: theta_0, the models at these mean ratios, the aligned model.

    Args:
        points: the columns of points.csv.
        curve: method and number of blocks.
        alphas: mean ratios between the two ends.
        score, reward: the columns of skill and of reward ("reward" or "gold").

    Returns:
        seed -> (len(alphas) + 2, 2) reward and score.
    """
    rows = reported(points)
    start, end = _theta_0(rows), _aligned(rows)
    own = _models(rows, curve)
    found = {}
    for seed in sorted(set(own["seed"]) & set(start.index) & set(end.index)):
        mine = own[(own["seed"] == seed) & own["mean"].isin(alphas)].sort_values("mean")
        table = pd.concat([start.loc[[seed]], mine, end.loc[[seed]]])
        found[int(seed)] = table[[reward, score]].to_numpy(dtype=float)
    return found


# --- comparisons ----------------------------------------------------------------------------------


def _compared(gaps: pd.Series, what: str, level: float = 0.95) -> Comparison:
    values = gaps.dropna()
    if len(values) < 2:
        raise NotRecorded(f"{len(values)} seed(s) have {what}: two are the least.")
    return compare.compare_seeds(values, level=level)


def ahead(
    points: pd.DataFrame,
    a: Curve,
    b: Curve = AVERAGE,
    score: str = "skill",
    *,
    reward: str = "reward",
    level: float = 0.95,
    alphas: Sequence[float] | None = None,
) -> Comparison:
    """Compare two fronts at equal reward, paired by seed: points of `score` of a minus b.

    Both curves have the mean ratios `alphas` (by default all that they share), and both ends.

    Raises:
        NotRecorded: fewer than two seeds have both.
    """
    alphas = common_ratios(points, a, b) if alphas is None else alphas
    one, other = (curve_points(points, each, alphas, score, reward) for each in (a, b))
    gaps = {
        seed: pareto.gap_at_equal_reward(one[seed], other[seed])
        for seed in sorted(one.keys() & other.keys())
    }
    return _compared(pd.Series(gaps, dtype=float), f"both {name(a)} and {name(b)}", level)


def gaps_at_equal_alpha(points: pd.DataFrame, curve: Curve, score: str) -> pd.DataFrame:
    """Return a curve minus plain averaging at the same mean ratio: a row per seed, a column per
    alpha.

    Averaging is taken at the mean that the ratios really have, interpolated if need be.
    """
    rows = _models(reported(points), curve)
    gaps = {}
    for alpha in mean_ratios(points, curve):
        own = rows[np.isclose(rows["mean"], alpha)].set_index("seed").sort_index()
        plain = average_at(points, own["alpha"].astype(float))
        gaps[alpha] = own[score].astype(float) - plain[score]
    return pd.DataFrame(gaps)


def at_equal_alpha(points: pd.DataFrame, curve: Curve, score: str) -> pd.DataFrame:
    """Compare a curve with plain averaging at every mean ratio.

    Returns:
        One row per alpha (the index): difference, low, high, verdict of "more than averaging".
    """
    gaps = gaps_at_equal_alpha(points, curve, score)
    what = f"{name(curve)} and averaging"
    return pd.DataFrame({a: _row(_compared(gaps[a], what)) for a in gaps}).T.rename_axis("alpha")


def mean_gap(points: pd.DataFrame, curve: Curve, score: str) -> Comparison:
    """Compare a curve with averaging at equal alpha by one number a seed: the mean over alphas."""
    gaps = gaps_at_equal_alpha(points, curve, score)
    return _compared(gaps.mean(axis=1), f"{name(curve)} and averaging")


def change_with_blocks(
    points: pd.DataFrame, score: str, few: int = ABLATION[0], many: int = ABLATION[-1]
) -> Comparison:
    """Compare HMA of many blocks with few at the same alpha: the mean over alphas, many - few.

    Raises:
        NotRecorded: fewer than two seeds have both.
    """
    alphas = common_ratios(points, ("hma", few), ("hma", many))
    gaps = [
        at(points, ("hma", many), alpha)[score] - at(points, ("hma", few), alpha)[score]
        for alpha in alphas
    ]
    return _compared(pd.concat(gaps, axis=1).mean(axis=1), f"HMA of {few} and of {many} blocks")


def recorded_curves(points: pd.DataFrame) -> list[Curve]:
    """Return all searches for ratios that are recorded of RSF, in the order of `SEARCHES`."""
    rows = points[(points["algorithm"] == "rsf") & points["method"].isin(list(SEARCHES))]
    found = {(m, block_count(p)) for m, p in zip(rows["method"], rows["part"], strict=True)}
    order = list(SEARCHES)
    return sorted(found, key=lambda curve: (order.index(curve[0]), curve[1]))


def search_table(
    points: pd.DataFrame, score: str = "skill", reward: str = "reward"
) -> pd.DataFrame:
    """Return every search against plain averaging at equal reward, one row each.

    Returns:
        Columns search, method, blocks, alphas (how many), difference, low, high (points of `score`,
        95 %), verdict, strict: the verdict if the interval is widened so that all searches together
        err in 5 % (Bonferroni): who tries many things finds a winner by luck.
    """
    curves = recorded_curves(points)
    rows = []
    for curve in curves:
        found = ahead(points, curve, score=score, reward=reward)
        level = 1 - 0.05 / len(curves)
        strict = ahead(points, curve, score=score, reward=reward, level=level)
        alphas = common_ratios(points, curve, AVERAGE)
        place = {"search": name(curve), "method": curve[0], "blocks": curve[1]}
        rows.append({**place, "alphas": len(alphas), **_row(found), "strict": strict.verdict})
    columns = ["search", "method", "blocks", "alphas", "difference", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=[*columns, "strict"])


def _row(found: Comparison) -> dict[str, object]:
    """Return the columns of a comparison."""
    names = {"difference": found.difference, "low": found.low, "high": found.high}
    return {**names, "verdict": found.verdict}


# --- one part averaged ----------------------------------------------------------------------------


def part_curve(points: pd.DataFrame, part: str, seed: int) -> pd.DataFrame:
    """Return the models with one part averaged, from the aligned model (alpha 1) down.

    Returns:
        One row per alpha (the index, falling): SCORES.

    Raises:
        NotRecorded: this seed has no such part.
    """
    rows = reported(points)
    own = rows[(rows["method"] == PART) & (rows["part"] == part) & (rows["seed"] == seed)]
    if own.empty:
        raise NotRecorded(f"Seed {seed} has no rows of part {part!r}.")
    end = _aligned(rows).loc[[seed]].assign(alpha=1.0)
    both = pd.concat([end, own]).set_index("alpha").sort_index(ascending=False)
    return both[list(SCORES)].astype(float)


def recorded_parts(points: pd.DataFrame) -> list[str]:
    """Return the parts that are averaged alone in RSF's recorded run: thirds first."""
    found = dict.fromkeys(points.loc[_of_parts(points), "part"])
    return [*(p for p in THIRDS if p in found), *(p for p in found if p not in THIRDS)]


def _of_parts(points: pd.DataFrame) -> pd.Series:
    """Return which rows are of RSF with one part averaged: other algorithms may have more seeds."""
    return (points["algorithm"] == "rsf") & (points["method"] == PART)


def part_gaps(points: pd.DataFrame, part: str, score: str) -> pd.DataFrame:
    """Return what averaging one part changes against the aligned model of the same seed.

    Returns:
        One row per seed, one column per alpha below 1, falling.
    """
    seeds = sorted(points.loc[_of_parts(points) & (points["part"] == part), "seed"])
    curves = {seed: part_curve(points, part, seed)[score] for seed in dict.fromkeys(seeds)}
    gaps = {seed: (curve - curve.loc[1.0]).drop(1.0) for seed, curve in curves.items()}
    return pd.DataFrame(gaps).T.rename_axis("seed")


def part_effects(points: pd.DataFrame, parts: Sequence[str] = ()) -> pd.DataFrame:
    """Compare every part at every alpha with the aligned model, in every score.

    Args:
        points: the columns of points.csv.
        parts: all recorded ones by default.

    Returns:
        Columns part, alpha, score, difference, low, high (averaged minus aligned, 95 %), verdict
        of "averaging this part raises the score", strict: the same with intervals so wide that all
        alphas of the part and score together err in 5 % (Bonferroni).
    """
    rows = []
    for part in parts or recorded_parts(points):
        for score in SCORES:
            if points[score].isna().all():
                continue
            gaps = part_gaps(points, part, score)
            for alpha in gaps:
                what = f"part {part!r} at alpha {alpha:g}"
                strict = _compared(gaps[alpha], what, 1 - 0.05 / gaps.shape[1])
                place = {"part": part, "alpha": alpha, "score": score}
                found = _compared(gaps[alpha], what)
                rows.append({**place, **_row(found), "strict": strict.verdict})
    return pd.DataFrame(rows)


def part_effect(points: pd.DataFrame, part: str, score: str, level: float = 0.95) -> Comparison:
    """Compare one part averaged with the aligned model by one number a seed: the mean over alphas.

    Nothing is chosen, so this is the test of a claim; the best of several alphas would flatter it.

    Raises:
        NotRecorded: fewer than two seeds have this part.
    """
    if part not in recorded_parts(points):
        raise NotRecorded(f"There are no rows of part {part!r}.")
    return _compared(part_gaps(points, part, score).mean(axis=1), f"part {part!r}", level)


def part_difference(points: pd.DataFrame, a: str, b: str, score: str) -> Comparison:
    """Compare two parts, each averaged alone: a minus b, the mean over the alphas they share.

    Raises:
        NotRecorded: fewer than two seeds have both parts.
    """
    one, other = (part_gaps(points, part, score) for part in (a, b))
    shared = [alpha for alpha in one if alpha in other]
    gaps = (one[shared] - other[shared]).mean(axis=1)
    return _compared(gaps, f"both {a} and {b} averaged alone")


def raises_both(
    effects: pd.DataFrame, part: str, column: str = "verdict", reward: str = "reward"
) -> list[float]:
    """Return the alphas at which averaging a part raises reward and skill, both with a verdict.

    Args:
        effects: what `part_effects` returned.
        part: the part.
        column: "verdict", or "strict" for the one that allows for looking at all alphas.
        reward: "reward" or "gold".
    """
    own = effects[(effects["part"] == part) & effects["score"].isin([reward, "skill"])]
    good = own[own[column] == "holds"].groupby("alpha").size()
    return [float(alpha) for alpha in good[good == 2].index]


def put_back(points: pd.DataFrame) -> pd.DataFrame:
    """Return what putting a single part back to theta_0 (alpha 0) gives back, and what it costs.

    Returns:
        One row per part recorded at alpha 0, and TOGETHER for the sum over them (the index), means
        over seeds, each with _low and _high (95 %, seeds paired with their aligned model):
        skill_back (mean skill regained, in percent of what RLHF cost in the mean), reward_lost (in
        percent of the mean gain in reward) and gold_gained (in gold's own units: what RLHF gained
        of it may be nothing).
    """
    rows = reported(points)
    start, end = _theta_0(rows), _aligned(rows)
    scales = {
        "skill_back": ("skill", 100 / (start["skill"] - end["skill"]).mean()),
        "reward_lost": ("reward", -100 / end["reward"].mean()),
        "gold_gained": ("gold", 1.0),
    }
    changes: dict[str, dict[str, pd.Series]] = {column: {} for column in scales}
    for part in recorded_parts(points):
        for column, (score, scale) in scales.items():
            gaps = part_gaps(points, part, score)
            if 0.0 in gaps:
                changes[column][part] = scale * gaps[0.0]
    table: dict[str, dict[str, float]] = {}
    for column, by_part in changes.items():
        total = {TOGETHER: pd.DataFrame(by_part).sum(axis=1, skipna=False)} if by_part else {}
        for part, change in {**by_part, **total}.items():
            found = _compared(change, f"part {part!r}")
            ends = {f"{column}_low": found.low, f"{column}_high": found.high}
            table.setdefault(part, {}).update({column: found.difference, **ends})
    return pd.DataFrame(table).T.rename_axis("part")


# --- ratios set by hand ---------------------------------------------------------------------------


def pattern_gap(points: pd.DataFrame, lowered: int, of_start: bool, score: str) -> Comparison:
    """Compare unequal ratios of three blocks with equal ones at equal reward (paper, Fig. 9).

    One number a seed, the mean over the bases a: `score` minus that of the plain averages of the
    same seed, which are interpolated at the pattern's reward.

    Args:
        points: the columns of points.csv.
        lowered: How many blocks, counted from the output, have a - 0.1 instead of a.
        of_start: Whether a is the weight of theta_0 or that of the aligned model.
        score: What is kept: skill or a family.

    Raises:
        NotRecorded: fewer than two seeds have all of these models.
    """
    rows = reported(points)
    wanted = [ratios_text(own) for own in patterns(of_start) if own.count(own[-1]) == lowered]
    gaps = {}
    for seed, own in rows[rows["part"].isin(wanted) & (rows["method"] == PATTERN)].groupby("seed"):
        plain = _models(rows[rows["seed"] == seed], AVERAGE).sort_values("alpha")
        if len(own) == len(wanted) and len(plain) > 1:
            curve = plain[["reward", score]].to_numpy(dtype=float)
            there = pareto.interpolate(curve, own["reward"].to_numpy(dtype=float))
            gaps[seed] = float((own[score].to_numpy(dtype=float) - there).mean())
    return _compared(pd.Series(gaps, dtype=float), "these ratios and averaging")


def all_of(verdicts: Iterable[compare.Verdict]) -> compare.Verdict:
    """Return the verdict on several claims together: they hold if each does."""
    said = set(verdicts)
    if "does not hold" in said:
        return "does not hold"
    return "inconclusive" if "inconclusive" in said else "holds"


# --- the paper's claims ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and a comparison that is above 0 if it holds, in `unit`."""

    place: str
    text: str
    unit: str
    compare: Callable[[pd.DataFrame], Comparison]


#: Where the paper varies the number of blocks.
ABLATION_PLACE = "Fig. 5, right"
POINTS = "points"
REWARD = "reward"
#: What HMA is compared with averaging in.
HMA_SCORES = ("skill", "commonsense", "reading", "translation")


def claims() -> list[Claim]:
    """Return the paper's claims on parts and on ratios per block, in its order."""
    few, many = ("hma", ABLATION[0]), ("hma", ABLATION[-1])
    return [
        _part_claim("input", "reward", "raises"),
        _part_claim("input", "skill", "raises"),
        *(
            _part_claim(part, score, verb)
            for part in ("middle", "output")
            for score, verb in (("reward", "lowers"), ("skill", "raises"))
        ),
        *(_hma_claim(score) for score in HMA_SCORES),
        Claim(
            ABLATION_PLACE,
            f"the front falls from K = {few[1]} to {many[1]} (reading at equal reward)",
            POINTS,
            _ahead(few, many, "reading"),
        ),
        *(
            Claim(
                ABLATION_PLACE,
                f"with K = {blocks} the front is still above averaging (reading at equal reward)",
                POINTS,
                _ahead(("hma", blocks), AVERAGE, "reading"),
            )
            for blocks in ABLATION[1:]
        ),
        Claim(
            ABLATION_PLACE,
            f"at fixed alpha reward rises with K ({few[1]} to {many[1]})",
            REWARD,
            lambda points: change_with_blocks(points, "reward"),
        ),
        Claim(
            ABLATION_PLACE,
            f"at fixed alpha reading falls with K ({few[1]} to {many[1]})",
            POINTS,
            lambda points: _negative(change_with_blocks(points, "reading")),
        ),
        *(
            _of_other(claim, algorithm, place)
            for algorithm in ("dpo", "ppo")
            for claim, place in (
                (_part_claim("input", "reward", "raises"), "Fig. 13"),
                (_part_claim("input", "skill", "raises"), "Fig. 13"),
                *((_hma_claim(score), "Fig. 16") for score in HMA_SCORES),
            )
        ),
        *(
            _pattern_claim(lowered, of_start, score)
            for of_start in (True, False)
            for lowered in (1, 2)
            for score in ("commonsense", "reading", "translation")
        ),
        Claim(
            "Fig. 15",
            "AdaMerging on reading items keeps more reading than averaging at equal reward",
            POINTS,
            _ahead(ADAMERGING, AVERAGE, "reading"),
        ),
        Claim(
            "Fig. 15",
            "AdaMerging on reading items keeps less common sense than averaging at equal reward",
            POINTS,
            _ahead(AVERAGE, ADAMERGING, "commonsense"),
        ),
    ]


def _words(score: str) -> str:
    return "mean skill" if score == "skill" else FAMILY_NAMES.get(score, score)


def _ahead(a: Curve, b: Curve, score: str) -> Callable[[pd.DataFrame], Comparison]:
    return lambda points: ahead(points, a, b, score)


def _hma_claim(score: str) -> Claim:
    """HMA of three blocks is ahead of averaging in one score."""
    text = f"HMA (K = 3) keeps more {_words(score)} than averaging at equal reward"
    return Claim("Fig. 5", text, POINTS, _ahead(HMA, AVERAGE, score))


def _of_other(claim: Claim, algorithm: str, place: str) -> Claim:
    """Return a claim on RSF's models as one on another algorithm's."""
    return Claim(
        place,
        f"{NAMES_OF_ALGORITHMS[algorithm]}: {claim.text}",
        claim.unit,
        lambda points: claim.compare(of_algorithm(points, algorithm)),
    )


def _pattern_claim(lowered: int, of_start: bool, score: str) -> Claim:
    """Unequal ratios keep more than equal ones, in one reading of the paper's a."""
    ratios = "(a, a, a - 0.1)" if lowered == 1 else "(a, a - 0.1, a - 0.1)"
    whose = "theta_0's weight" if of_start else "the aligned model's weight"
    return Claim(
        "Fig. 9",
        f"ratios {ratios}, with a as {whose}, keep more {_words(score)} than equal ones at equal "
        "reward",
        POINTS,
        lambda points: pattern_gap(points, lowered, of_start, score),
    )


def _part_claim(part: str, score: str, verb: str) -> Claim:
    """Averaging one part moves a score, in the mean over its alphas."""

    def compare(points: pd.DataFrame) -> Comparison:
        found = part_effect(points, part, score)
        return found if verb == "raises" else _negative(found)

    unit = REWARD if score == "reward" else POINTS
    text = f"averaging the {part} part alone {verb} {_words(score)}"
    return Claim("Fig. 4", text, unit, compare)


def _negative(found: Comparison) -> Comparison:
    """Return the comparison of b with a from that of a with b."""
    low, high = -found.high, -found.low
    return Comparison(
        -found.difference, low, high, found.n_seeds, found.n_items, compare.verdict(low, high)
    )


def claim_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return one row per claim of the paper, with what the recorded run says of it.

    Returns:
        Columns place, claim, unit, difference, low, high (95 %, paired by seed), seeds, verdict
        ("not recorded" where rows are missing) and agrees.

    Args:
        points: the columns of points.csv, one study.
    """
    table = []
    for claim in claims():
        row: dict[str, object] = {"place": claim.place, "claim": claim.text, "unit": claim.unit}
        try:
            found = claim.compare(points)
            row |= {**_row(found), "seeds": found.n_seeds, "agrees": AGREEMENT[found.verdict]}
        except NotRecorded:
            row |= dict.fromkeys(("difference", "low", "high"), float("nan"))
            row |= {"verdict": "not recorded", "seeds": 0, "agrees": "not recorded"}
        table.append(row)
    columns = ["place", "claim", "unit", "difference", "low", "high", "seeds", "verdict", "agrees"]
    return pd.DataFrame(table, columns=columns)
