"""What a recorded run says of the remedies: a table of methods, and the paper's claims one by one.

Drawn from the recorded tables alone, with no model. `alignment-tax report` writes the page
`data/results/<preset>/remedies.md`. Reward is always what was gained over theta_0 of the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from alignment_tax import heterogeneous
from alignment_tax.algorithms_claims import NAMES as NAMES_OF_ALGORITHMS
from alignment_tax.algorithms_claims import front_claims
from alignment_tax.figures.style import METHODS
from alignment_tax.labels import FAMILY_NAMES, number
from alignment_tax.registry import REMEDIES
from alignment_tax.results.points import NotRecorded, curve_rows
from alignment_tax.results.recorded import Recorded
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE, PART, PATTERN
from alignment_tax.stats import compare, pareto
from alignment_tax.stats.compare import Comparison, interval
from alignment_tax.talk import with_capped

#: A row of a table of claims.
Row = dict[Any, Any]

#: Every remedy on one front, beside the page.
FIGURE = "remedies.png"
#: Shares of theta_0's skill, in percent, at which the reward that is left is read off.
KEPT = (90, 95)
#: An average that gives up less of the gain in reward than this share costs "no alignment".
NO_LOSS = 0.05
#: The remedies of the paper's Fig. 3, and variants of its own appendix or of ours; replay and KL
#: have figures of their own.
FIGURE_3 = ("early_stopping", "l1", "l2", "kd", "kd_squared", "lora", "lora_mlp", "sma", "graft")
NOT_IN_THE_PAPER = ("ema", "bema", "graft_random", "graft_learnt")
#: What methods are called, in text and figures alike. Of averages there are two here: of which run?
NAMES = {method: look.label for method, look in METHODS.items()} | {
    "average": "averaging RSF",
    DISTIL: "the plain run",
    DISTILLED_AVERAGE: "averaging the distilled run",
}


#: What we think where a claim of the paper that holds these words is refuted; the first counts.
REASONS = {
    "ahead of replay without the evaluated formats": "We think: text that holds no test still "
    "states the facts that tests ask for, and theta_0 has room to regain what instruction tuning "
    "cost the base.",
    "ahead of replay": "We think: the replayed text rehearses the very formats of the tests, and "
    "its translations end where they should. That is more pretraining; it lifts skills above "
    "theta_0's, where averages of theta_0 with an aligned model do not come. The paper's replayed "
    "text holds next to nothing in the format of its benchmarks.",
    "ahead of KD": "We think: most of what is lost is a habit, to stop after a "
    "translation. A penalty on outputs prices each token of the replies, the end among them, and "
    "so can hold that habit while reward rises; an average scales all changes down together.",
    "(alpha 0.2) costs less": "We think: reward comes early along alpha, but not so early that a "
    "fifth of the way holds 95 % of it. In the other reading, with a as theta_0's weight, little "
    "reward is lost and little skill comes back.",
    "ahead of stopping RSF early in common sense": "We think: common sense rises a little in the "
    "first rounds of RSF and falls in the last. Stopping in between keeps that rise at more reward "
    "than averages of theta_0 with the last round have. The interval only just reaches zero.",
    "DPO: averaging the input part alone raises reward": "We think: DPO's own reward still rises "
    "where it ends here (chapter 06), so undoing a part of the change takes reward back. Nine "
    "narrow layers may also share less between a chat and a test than 26 wide ones.",
    "PPO: averaging the input part alone raises reward": "We think: it is nearly true. Of PPO the "
    "input part costs next to no reward, and gives skill back; but little is not nothing, and the "
    "interval only just excludes zero.",
    "input part alone raises reward": "We think: RSF has overshot gold here (chapter 06), not its "
    "own reward, so undoing a part of the change costs reward, and more gold comes back from any "
    "part, the input's or another (chapter 11). Nine narrow layers may also share less between a "
    "chat and a test than 26 wide ones.",
}


# --- curves --------------------------------------------------------------------------------------


def gained(points: pd.DataFrame) -> pd.DataFrame:
    """Return points whose reward is what was gained over theta_0 of the same seed.

    Raises:
        NotRecorded: a seed without theta_0.
    """
    start = points[points["algorithm"] == "sft"].set_index("seed")["reward"]
    if missing := sorted(set(points["seed"]) - set(start.index)):
        raise NotRecorded(f"Seed {missing[0]} has no row of theta_0 (algorithm sft).")
    return points.assign(reward=points["reward"] - points["seed"].map(start))


def curves(points: pd.DataFrame, method: str, score: str = "skill") -> dict[int, np.ndarray]:
    """Return the curve of a method by seed, (n, 2) reward and score, see `results.curve_rows`."""
    found = {}
    for seed in sorted(set(points["seed"])):
        try:
            rows = curve_rows(points, method, seed)
        except ValueError:
            continue
        found[int(seed)] = rows[["reward", score]].to_numpy(dtype=float)
    return found


def thin(curve: np.ndarray, n: int) -> np.ndarray:
    """Return `n` rows of a curve (2 or more), both ends among them, evenly spaced."""
    return curve[np.linspace(0, len(curve) - 1, n).round().astype(int)]


def reference(points: pd.DataFrame, score: str = "skill") -> tuple[float, float]:
    """Return the point from which hypervolumes are measured: no gain, and the lowest aligned skill.

    The skill is the lowest, over seeds, of RSF's last round and of the plain distilled run, rounded
    down: nobody needs a remedy to fall below it.
    """
    rsf = points[points["algorithm"] == "rsf"]
    trained = rsf[rsf["method"] == "none"]
    ends = [trained[trained["rounds"] == trained["rounds"].max()], rsf[rsf["method"] == DISTIL]]
    return 0.0, float(np.floor(pd.concat(ends)[score].min()))


def ahead(points: pd.DataFrame, method: str, other: str, score: str = "skill") -> Comparison:
    """Compare the hypervolumes of two methods, paired by seed: `method` minus `other`.

    The finer grid is thinned to as many points as the other has, since more points cover more.

    Args:
        points: Rows of `gained`.
        method, other: See `results.curve_rows`.
        score: What is kept: skill or a family.

    Raises:
        NotRecorded: fewer than two seeds have both.
    """
    a, b = curves(points, method, score), curves(points, other, score)
    seeds = _two(sorted(a.keys() & b.keys()), f"both {method} and {other}")
    where = reference(points, score)
    gaps = []
    for seed in seeds:
        n = min(len(a[seed]), len(b[seed]))
        volumes = [pareto.hypervolume(thin(curve[seed], n), where) for curve in (a, b)]
        gaps.append(volumes[0] - volumes[1])
    return compare.compare_seeds(gaps)


def ahead_at_equal_reward(
    points: pd.DataFrame, method: str, other: str, score: str = "skill"
) -> Comparison:
    """Compare two methods by the skill they keep at equal reward, paired by seed, in points.

    Both curves are read as lines over the rewards that both reach (`front.gap_at_equal_reward`), so
    that no reference point counts and the number of models little. Arguments and errors as `ahead`.
    """
    a, b = curves(points, method, score), curves(points, other, score)
    seeds = _two(sorted(a.keys() & b.keys()), f"both {method} and {other}")
    try:
        return compare.compare_at_equal_reward([a[s] for s in seeds], [b[s] for s in seeds])
    except pareto.NoSharedRewards as error:
        raise NotRecorded(f"{method} and {other} cannot be compared: {error}") from error


def _two(seeds: list[int], what: str) -> list[int]:
    if len(seeds) < 2:
        raise NotRecorded(f"{len(seeds)} seed(s) have {what}: two are the least.")
    return seeds


# --- the table of methods ------------------------------------------------------------------------


def recorded_methods(points: pd.DataFrame) -> list[str]:
    """Return the methods of a run that have a curve: averages, early stopping, remedies, others."""
    known = ["average", DISTILLED_AVERAGE, "early_stopping", *REMEDIES]
    words = set(points.loc[points["algorithm"] == "rsf", "method"])
    if "none" in words:
        words.add("early_stopping")
    order = dict.fromkeys([*known, *sorted(words)])
    return [name for name in order if name in words - {"none", DISTIL, PART, PATTERN}]


def method_table(
    points: pd.DataFrame, costs: pd.DataFrame, against: str = DISTILLED_AVERAGE
) -> pd.DataFrame:
    """Return one row per method: how good its front is, what it keeps, and what it costs.

    Args:
        points: The columns of points.csv, one study.
        costs: The columns of costs.csv, perhaps empty.
        against: The averaging that all others are compared with: "average" (of RSF's last round) or
            "distil+average".

    Returns:
        Columns method, seeds, points (of a curve); hypervolume; ahead, low, high, verdict of the
        claim "averaging is ahead of the method" (hypervolumes, paired by seed, 95 % t interval; NaN
        and "" for averaging itself, and "not recorded" under two common seeds); equal, equal_low,
        equal_high, equal_verdict: the same by skill at equal reward, in points; kept_90 and
        kept_95, each with _low and _high: the gain in reward that is left where the curve still has
        90 and 95 % of theta_0's skill, in percent of the gain of RSF's last round; least and
        reached: the lowest gain on the curve beyond theta_0 and the highest, in the same percent;
        minutes and memory_mb of one training (NaN: no training beyond RSF).
    """
    rows = gained(points)
    ends = rows[(rows["algorithm"] == "rsf") & (rows["method"] == "none")]
    full = ends.sort_values("rounds").groupby("seed")["reward"].last()
    skill = rows[rows["algorithm"] == "sft"].set_index("seed")["skill"]
    where = reference(rows)
    table = []
    for method in recorded_methods(rows):
        own = curves(rows, method)
        record: dict[str, object] = {
            "method": method,
            "seeds": len(own),
            "points": max(map(len, own.values())),
            "hypervolume": np.mean([pareto.hypervolume(curve, where) for curve in own.values()]),
            **_ahead_of(rows, method, against),
        }
        for share in KEPT:
            left = [
                100 * float(pareto.interpolate(c[:, ::-1], share / 100 * skill[s])[0]) / full[s]
                for s, c in own.items()
            ]
            names = [f"kept_{share}{end}" for end in ("", "_low", "_high")]
            record |= dict(zip(names, interval(left), strict=True))
        record["least"] = np.mean([100 * c[1:, 0].min() / full[s] for s, c in own.items()])
        record["reached"] = np.mean([100 * c[:, 0].max() / full[s] for s, c in own.items()])
        table.append(record | _costs_of(costs, method))
    return pd.DataFrame(table)


def of_remedies(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a `method_table` on averaging, early stopping and remedies."""
    return table[table["method"].isin(["average", DISTILLED_AVERAGE, "early_stopping", *REMEDIES])]


def _ahead_of(points: pd.DataFrame, method: str, against: str) -> dict[str, object]:
    """Return the columns of the two comparisons with averaging."""
    measures = {"": ahead, "equal_": ahead_at_equal_reward}
    record: dict[str, object] = {}
    for start, measure in measures.items():
        names = ["equal" if start else "ahead", f"{start}low", f"{start}high", f"{start}verdict"]
        values: tuple[object, ...] = (*[float("nan")] * 3, "")
        if method != against:
            try:
                found = measure(points, against, method)
                values = (found.difference, found.low, found.high, found.verdict)
            except NotRecorded:
                values = (*values[:3], "not recorded")
        record |= dict(zip(names, values, strict=True))
    return record


def _costs_of(costs: pd.DataFrame, method: str) -> dict[str, float]:
    """Return minutes and memory of one training of a method, means over seeds and strengths."""
    own = costs[costs["method"] == method] if len(costs) else costs
    if own.empty:
        return {"minutes": float("nan"), "memory_mb": float("nan")}
    return {
        "minutes": float(own["seconds"].mean()) / 60,
        "memory_mb": float(own["peak_memory_mb"].mean()),
    }


def against_averaging(points: pd.DataFrame) -> dict[str, Comparison]:
    """Return averages of the distilled run minus each remedy, mean skill at equal reward, by name.

    Args:
        points: The columns of points.csv, one study.

    Returns:
        No remedy that fewer than two seeds have.
    """
    rows, found = gained(points), {}
    for method in (each for each in REMEDIES if each != "average"):
        try:
            found[NAMES[method]] = ahead_at_equal_reward(rows, DISTILLED_AVERAGE, method)
        except NotRecorded:
            continue
    return found


def short_markdown(
    by_bleu: Mapping[str, Comparison], by_capped: Mapping[str, Comparison]
) -> list[str]:
    """Return paragraphs for a reader in a hurry: each remedy against averages of the same run.

    Args:
        by_bleu: What `against_averaging` returned.
        by_capped: The same with capped BLEU (`talk.with_capped`).
    """
    lines = [
        "| remedy | seeds | averaging minus the remedy, skill at equal reward | verdict | "
        "talk forgiven | verdict |",
        "| --- | ---: | ---: | --- | ---: | --- |",
    ]
    for name, each in by_bleu.items():
        cells = [name, str(each.n_seeds)]
        for found in (each, by_capped[name]):
            effect = _spread(found.difference, found.low, found.high, 2, sign=True)
            cells += [effect, found.verdict]
        lines.append("| " + " | ".join(cells) + " |")
    return [
        "Remedies that act while the model learns, or along its path (chapters 07 and 08), in the "
        "paper's distillation style: theta_0 learns once from RSF's best replies under the remedy. "
        "Averaging is that of the run without a remedy. Points of mean skill at equal reward; the "
        "claim is that averaging keeps more. Talk forgiven is with capped BLEU: translations are "
        "cut at their reference's length, so that talk behind a right one costs nothing.",
        "\n".join(lines),
    ]


# --- the paper's claims --------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A claim of the paper on mitigation: where it stands, what it says, and our test of it.

    `compare` takes rows of `gained` and returns the difference that must be above 0 for the claim
    to hold, in `unit`.
    """

    place: str
    text: str
    unit: str
    compare: Callable[[pd.DataFrame], Comparison]


#: The place of claims of the paper's form on methods that it does not have.
OURS = "not in the paper"
#: What the second measure is.
CAPPED = (
    "The same with translations cut at the reference's length, so that talk behind them costs "
    "nothing (capped BLEU: the numbers of n-grams and the length are capped at those of the "
    "reference). This measure was chosen after seeing the results and is an upper bound: it stands "
    "beside BLEU, not in its place."
)
AREA = "reward x points"
POINTS = "points"
REWARD = "reward"


def claims() -> list[Claim]:
    """Return every claim of the paper on mitigation (with ours of the same form), in its order.

    Those on parts and on ratios per block are tested in `heterogeneous`.
    """
    return [
        *(_fig_3(method, score) for method in FIGURE_3 for score in FAMILY_NAMES),
        *(claim for m in ("l1", "l2", "kd", "lora", "replay", "sma", "graft") for claim in _4_1(m)),
        Claim(
            "D.4c",
            "LoRA gains more reward on attention and MLP than on the MLP alone, rank by rank",
            REWARD,
            _difference(_mean("lora"), _mean("lora_mlp"), "reward"),
        ),
        Claim(
            "D.4c",
            "on the MLP alone only the highest rank reaches a reasonable reward (highest minus "
            "second)",
            REWARD,
            _difference(_strength("lora_mlp", -1), _strength("lora_mlp", -2), "reward"),
        ),
        *_fig_7("replay"),
        *_fig_7("replay_other"),
        Claim(
            "Fig. 8",
            "a larger KL penalty keeps more skill (largest minus smallest; there under PPO)",
            POINTS,
            _difference(_strength("kl", -1), _strength("kl", 0), "skill"),
        ),
        *(_fig_3("kl", score, "Fig. 8") for score in FAMILY_NAMES),
        *(claim for alpha in (0.8, 0.2) for claim in _c_4(alpha)),
        *_fig_12(),
        *(Claim(own.place, own.text, own.unit, own.compare) for own in heterogeneous.claims()),
        Claim(
            "Fig. 14",
            "the front of RSF lies above that of DPO (averages, skill at equal reward)",
            POINTS,
            _front_of_rsf("dpo"),
        ),
        *(_fig_3(method, "skill", OURS) for method in NOT_IN_THE_PAPER),
    ]


def _family(score: str) -> str:
    return "the mean skill" if score == "skill" else FAMILY_NAMES[score]


def _front_of_rsf(other: str) -> Callable[[pd.DataFrame], Comparison]:
    """Return the comparison of the averages of RSF with those of another algorithm."""

    def compare(points: pd.DataFrame) -> Comparison:
        claim = f"the front of RSF lies above that of {NAMES_OF_ALGORITHMS[other]}"
        found = front_claims(points).get(claim)
        if found is None:
            raise NotRecorded(f"There are no averages of {other} that reach rewards of RSF's.")
        return found

    return compare


def _area(method: str, other: str, score: str) -> Callable[[pd.DataFrame], Comparison]:
    return lambda points: ahead(points, method, other, score)


def _fig_3(method: str, score: str, place: str = "Fig. 3") -> Claim:
    """Averaging is ahead of a method; a distilled one is compared with the distilled average."""
    averaging = "average" if method == "early_stopping" else DISTILLED_AVERAGE
    text = f"{NAMES[averaging]} is ahead of {NAMES[method]} in {_family(score)}"
    return Claim(place, text, AREA, _area(averaging, method, score))


def _4_1(method: str) -> list[Claim]:
    """A remedy at its strongest keeps skill, and pays for it with reward."""
    at = 0 if REMEDIES[method].weak_is_high else -1
    strongest, name = _strength(method, at), NAMES[method]
    return [
        Claim(
            "4.1",
            f"{name} at its strongest keeps more skill than the plain run",
            POINTS,
            _difference(strongest, _mean(DISTIL), "skill"),
        ),
        Claim(
            "4.1",
            f"{name} at its strongest gains less reward than the plain run",
            REWARD,
            _difference(_mean(DISTIL), strongest, "reward"),
        ),
    ]


def _fig_7(method: str) -> list[Claim]:
    """Replay is better than averaging in reading, worse in the other two."""
    name, averaging = NAMES[method], NAMES[DISTILLED_AVERAGE]
    better = f"{name} is ahead of {averaging} in reading"
    found = [Claim("Fig. 7", better, AREA, _area(method, DISTILLED_AVERAGE, "reading"))]
    for score in ("commonsense", "translation"):
        text = f"{averaging} is ahead of {name} in {_family(score)}"
        found.append(Claim("Fig. 7", text, AREA, _area(DISTILLED_AVERAGE, method, score)))
    return found


def _c_4(alpha: float) -> list[Claim]:
    """The recommended ratio, in both readings of the paper's a (which may be theta_0's weight)."""
    whose = "theta_0's" if alpha > 0.5 else "the aligned model's"
    chosen, whole = _alpha(alpha), _alpha(1.0)

    def cheap(points: pd.DataFrame) -> Comparison:
        part, full = chosen(points)["reward"], whole(points)["reward"]
        return _paired(NO_LOSS * full - (full - part), pd.Series(0.0, full.index))

    return [
        Claim(
            "C.4",
            f"a = 0.2 as {whose} weight (alpha {alpha:g}) gives back skill",
            POINTS,
            _difference(chosen, whole, "skill"),
        ),
        Claim(
            "C.4",
            f"a = 0.2 as {whose} weight (alpha {alpha:g}) costs less than {100 * NO_LOSS:g} % of "
            "the gained reward",
            REWARD,
            cheap,
        ),
    ]


def _fig_12() -> list[Claim]:
    """What happens to the families along the rounds of RSF."""
    found = [
        Claim(
            "Fig. 12",
            f"{_family(score)} falls from theta_0 to the last round of RSF",
            POINTS,
            _difference(_theta_0, _round(-1), score),
        )
        for score in ("reading", "translation")
    ]
    return [
        *found,
        Claim(
            "Fig. 12",
            "common sense rises in the first round of RSF",
            POINTS,
            _difference(_round(0), _theta_0, "commonsense"),
        ),
        Claim(
            "Fig. 12",
            "common sense falls from the first round of RSF to the last",
            POINTS,
            _difference(_round(0), _round(-1), "commonsense"),
        ),
    ]


# Each of these picks one row a seed (or their mean): a frame by seed with the columns of scores.
Pick = Callable[[pd.DataFrame], pd.DataFrame]
SCORES = ["reward", *FAMILY_NAMES]


def _theta_0(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["algorithm"] == "sft"].set_index("seed")[SCORES]


def _rsf(points: pd.DataFrame, method: str) -> pd.DataFrame:
    rows = points[(points["algorithm"] == "rsf") & (points["method"] == method)]
    if rows.empty:
        raise NotRecorded(f"There are no rows of {method}.")
    return rows


def _mean(method: str) -> Pick:
    return lambda points: _rsf(points, method).groupby("seed")[SCORES].mean()


def _round(place: int) -> Pick:
    def pick(points: pd.DataFrame) -> pd.DataFrame:
        rows = _rsf(points, "none")
        rounds = sorted(rows["rounds"].unique())
        return rows[rows["rounds"] == rounds[place]].set_index("seed")[SCORES]

    return pick


def _strength(method: str, place: int) -> Pick:
    def pick(points: pd.DataFrame) -> pd.DataFrame:
        rows = _rsf(points, method)
        strengths = sorted(rows["strength"].unique())
        if len(strengths) < 2:
            raise NotRecorded(f"{method} has one strength.")
        return rows[rows["strength"] == strengths[place]].set_index("seed")[SCORES]

    return pick


def _alpha(alpha: float) -> Pick:
    def pick(points: pd.DataFrame) -> pd.DataFrame:
        rows = _rsf(points, "average")
        rows = rows[(rows["alpha"] - alpha).abs() < 1e-6]
        if rows.empty:
            raise NotRecorded(f"There is no average at alpha {alpha:g}.")
        return rows.set_index("seed")[SCORES]

    return pick


def _difference(first: Pick, second: Pick, score: str) -> Callable[..., Comparison]:
    """Return the comparison of one score of two models, paired by seed: first minus second."""
    return lambda points: _paired(first(points)[score], second(points)[score])


def _paired(first: pd.Series, second: pd.Series) -> Comparison:
    gaps = (first - second).dropna()
    _two(list(gaps.index), "both models")
    return compare.compare_seeds(gaps)


def claim_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return one row per claim: place, claim, difference, low, high, unit, seeds, verdict.

    The verdict is that of `front.verdict`, or "not recorded" where the run lacks rows.

    Args:
        points: The columns of points.csv, one study.
    """
    rows = gained(points)
    table = []
    for claim in claims():
        record: dict[str, object] = {"place": claim.place, "claim": claim.text, "unit": claim.unit}
        record |= dict.fromkeys(("difference", "low", "high"), float("nan")) | {"seeds": 0}
        try:
            found = claim.compare(rows)
            record |= {"difference": found.difference, "low": found.low, "high": found.high}
            record |= {"seeds": found.n_seeds, "verdict": found.verdict}
        except NotRecorded:
            record["verdict"] = "not recorded"
        table.append(record)
    return pd.DataFrame(table)


# --- the page ------------------------------------------------------------------------------------


def page(run: Recorded, items: pd.DataFrame) -> str:
    """Return the whole page of a recorded run as Markdown.

    Args:
        run: The recorded run.
        items: Its items (`results.recorded_items`).
    """
    points = run.points
    forgiven = with_capped(points, items)
    seeds, n_items = run.seeds, int(points["n_items"].max())
    where = reference(gained(points))
    verdicts, capped = claim_table(points), claim_table(forgiven)
    counts = ", ".join(f"{n} {name}" for name, n in verdicts["verdict"].value_counts().items())
    name = run.provenance["preset"]["name"]
    return "\n\n".join(
        [
            "# The paper's claims on mitigation, on the recorded run",
            "Generated by `alignment-tax report` from the tables in this folder; do not edit. "
            f"Preset `{name}`, seeds {', '.join(map(str, seeds))}, {n_items} reported items a "
            "model. Reward is what was gained over theta_0 of the same seed; intervals are 95 % t "
            "intervals of differences paired by seed. alpha is the weight of the aligned model.",
            "Remedies are compared in the paper's distillation style: theta_0 is finetuned once on "
            "the best-of-n samples of the same RSF run, in as many steps for all. Their curves run "
            "from theta_0 over the strengths to the plain run without a remedy (that of LoRA and "
            "BEMA ends at the weakest strength). Hypervolume is the area above reward "
            f"{where[0]:g} and skill {where[1]:g}; of two curves the finer one is thinned to as "
            "many points as the other has.",
            "Every remedy beside the averages of the distilled run, a panel for each kind, with "
            "means and intervals over the seeds that all curves of the panel have.",
            f"![Mean skill against reward, a curve for every remedy]({FIGURE})",
            "## Methods against the average of the distilled run",
            method_markdown(of_remedies(method_table(points, run.costs, DISTILLED_AVERAGE))),
            "## Methods against the average of RSF itself",
            method_markdown(method_table(points, run.costs, "average")),
            "\"Averaging ahead by\" is averaging's hypervolume minus the method's, and the verdict "
            'that of the claim that averaging is ahead. "At equal reward" is the same by a second '
            "measure: averaging's skill minus the method's, mean over the rewards that both reach, "
            'with straight lines between the models of a curve. "Reward kept" is the gain that is '
            'left where the curve still has that share of theta_0\'s skill, "rewards spanned" goes '
            "from the lowest on the curve beyond theta_0 to the highest, all in percent of the "
            "gain of RSF's last round: a remedy whose range begins high or ends low never comes "
            "near theta_0, or never reaches RSF's reward. By hypervolume, rewards that a remedy "
            "cannot be dialled to count as lost; at equal reward they do not count. Minutes and "
            "memory are of one training, all libraries included; a dash means no training beyond "
            "RSF.",
            "## Methods against the average of the distilled run, talk forgiven",
            f"{CAPPED} Hypervolume is above skill {reference(gained(forgiven))[1]:g} here.",
            method_markdown(of_remedies(method_table(forgiven, run.costs, DISTILLED_AVERAGE))),
            "## Claim by claim",
            f"{len(verdicts)} claims: {counts}. Each is tested by itself: of many that are tried, "
            "one in twenty intervals misses its value by chance.",
            claim_markdown(verdicts, capped),
            "## Where we disagree with the paper",
            'Numbers are measured; what begins with "We think" is our reading of them, and not '
            f"tested. {lost_words(points)}",
            disagreements(verdicts, capped),
        ]
    )


def lost_words(points: pd.DataFrame) -> str:
    """Say what the plain distilled run loses of each family, which is what there is to keep."""
    start, end = _theta_0(points), _rsf(points, DISTIL).set_index("seed")[SCORES]
    lost = {
        name: _spread(*interval((start[score] - end[score]).dropna()), 1, sign=True)
        for score, name in FAMILY_NAMES.items()
        if score != "skill"
    }
    return (
        "The plain distilled run loses, in points since theta_0, "
        + ", ".join(f"{spread} of {name}" for name, spread in lost.items())
        + ": where little is lost there is little to keep, and fronts differ by tenths of a point."
    )


def method_markdown(table: pd.DataFrame, rival: str = "averaging") -> str:
    """Return a table of methods as Markdown.

    Args:
        table: Rows of `method_table`.
        rival: What the methods are compared with, in words.
    """
    heads = ["method", "seeds", "points", "hypervolume", f"{rival} ahead by", "verdict"]
    heads += ["at equal reward (points)", "verdict"]
    heads += [f"reward kept at {share} %" for share in KEPT]
    heads += ["rewards spanned", "minutes", "memory (MB)"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for row in table.to_dict("records"):
        kept = [
            _spread(row[f"kept_{share}"], row[f"kept_{share}_low"], row[f"kept_{share}_high"], 0)
            for share in KEPT
        ]
        cells = [
            NAMES.get(row["method"], row["method"]),
            str(row["seeds"]),
            str(row["points"]),
            number(row["hypervolume"]),
            _spread(row["ahead"], row["low"], row["high"], 2, sign=True),
            row["verdict"] or "-",
            _spread(row["equal"], row["equal_low"], row["equal_high"], 2, sign=True),
            row["equal_verdict"] or "-",
            *kept,
            f"{number(row['least'], 0)} to {number(row['reached'], 0)}",
            "-" if np.isnan(row["minutes"]) else number(row["minutes"]),
            "-" if np.isnan(row["memory_mb"]) else f"{row['memory_mb']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def claim_markdown(table: pd.DataFrame, capped: pd.DataFrame) -> str:
    """Return a table of claims as Markdown.

    Args:
        table: What `claim_table` returns.
        capped: The same with talk forgiven; named where it differs.
    """
    lines = [
        "| where | claim | difference (95 % interval) | unit | verdict | talk forgiven |",
        "| --- | --- | ---: | --- | --- | --- |",
    ]
    for row, other in _beside(table, capped):
        lines.append(
            f"| {row['place']} | {row['claim']} | {_effect(row)} | {row['unit']} | "
            f"{row['verdict']} | {_forgiven(row, other)} |"
        )
    return "\n".join(lines)


def disagreements(table: pd.DataFrame, capped: pd.DataFrame) -> str:
    """Return the paper's claims that do not hold here, and why we think so, as a Markdown list."""
    lines = []
    for row, other in _beside(table, capped):
        if row["verdict"] != "does not hold" or row["place"] == OURS:
            continue
        text = f"- **{row['place']}: {row['claim']}**: {_effect(row)} {row['unit']}."
        if (forgiven := _forgiven(row, other)) != "-":
            text += f" With talk forgiven: {forgiven}."
        lines.append(f"{text} {reason(row['claim'])}")
    return "\n".join(lines) or "None of the paper's claims is refuted by these seeds."


def reason(claim: str) -> str:
    """Return what we think is behind a claim that does not hold; empty if we have no idea."""
    return next((text for words, text in REASONS.items() if words in claim), "")


def _beside(table: pd.DataFrame, capped: pd.DataFrame) -> Iterator[tuple[Row, Row]]:
    """Pair the rows of two tables of the same claims."""
    return zip(table.to_dict("records"), capped.to_dict("records"), strict=True)


def _effect(row: Row) -> str:
    return _spread(row["difference"], row["low"], row["high"], 2, sign=True)


def _forgiven(row: Row, other: Row) -> str:
    """Return what a claim becomes with capped BLEU: a dash where it is not about translation."""
    if not abs(row["difference"] - other["difference"]) > 1e-9:
        return "-"
    return f"{_effect(other)}, {other['verdict']}"


def _spread(mean: float, low: float, high: float, digits: int, sign: bool = False) -> str:
    """Return "mean (low to high)", a dash where there is no number."""
    if np.isnan(mean):
        return "-"
    texts = [number(value, digits, sign) for value in (mean, low, high) if not np.isnan(value)]
    return texts[0] if len(texts) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"
