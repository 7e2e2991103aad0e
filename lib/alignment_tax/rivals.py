"""Averaging against each remedy, by two measures and two scores, and the answer they give together.

Everything here is averaging minus the remedy, paired by seed, over the seeds that both have. The
measures are hypervolume, which counts what a remedy cannot be dialled to as lost, and skill at
equal reward, which does not. The scores are mean skill, and mean skill with talk forgiven (`talk`).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from alignment_tax import remedies
from alignment_tax.labels import number, seeds_text, spread
from alignment_tax.remedies import NAMES
from alignment_tax.results.points import NotRecorded, main_line, with_rsf
from alignment_tax.spec import AVERAGED, DISTIL, DISTILLED_AVERAGE

HYPERVOLUME, EQUAL_REWARD = "hypervolume", "at equal reward"
MEASURES = {HYPERVOLUME: remedies.ahead, EQUAL_REWARD: remedies.ahead_at_equal_reward}
UNITS = {HYPERVOLUME: remedies.AREA, EQUAL_REWARD: remedies.POINTS}
SKILL, FORGIVEN = "mean skill", "talk forgiven"
#: What a verdict on "averaging is ahead" says of the remedy.
SIDES = {"holds": "behind", "does not hold": "ahead", "inconclusive": "open"}
#: A remedy whose lowest reward is above this share (percent) of RSF's gain has no weak setting.
HALF_WAY = 50


def averaging_of(method: str) -> str:
    """Return the averages that are a method's fair rival: they start and end where it does."""
    return "average" if method == "early_stopping" else DISTILLED_AVERAGE


def own_rows(points: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return what a chapter compares: the main line, the plain run, its averages, and remedies.

    Of the seeds with RSF alone; a remedy's averages with theta_0 ("l2+average") are among the rows.

    Args:
        points: The recorded run.
        methods: Remedies.
    """
    wanted = {DISTIL, DISTILLED_AVERAGE, *methods, *(name + AVERAGED for name in methods)}
    extra = points[(points["algorithm"] == "rsf") & points["method"].isin(wanted)]
    return with_rsf(pd.concat([main_line(points), extra]))


def shared_seeds(points: pd.DataFrame, method: str) -> list[int]:
    """Return the seeds that have both a method and its `averaging_of`."""
    both = (remedies.curves(points, name) for name in (averaging_of(method), method))
    first, second = both
    return sorted(first.keys() & second.keys())


def compare(points: pd.DataFrame, forgiven: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return averaging minus each method: one row per method, score and measure.

    Args:
        points: The columns of points.csv, one study.
        forgiven: The same with talk forgiven (`talk.with_capped`).
        methods: Remedies, "early_stopping" among them if it is asked for.

    Returns:
        Columns method, name, seeds (in words), n_seeds, score, measure, unit, difference, low, high
        and verdict of the claim that averaging is ahead. Methods that share fewer than two seeds
        with their averages, or no reward, are left out.
    """
    rows = []
    for score, table in ((SKILL, points), (FORGIVEN, forgiven)):
        gained = remedies.gained(table)
        for method in methods:
            seeds = shared_seeds(gained, method)
            try:
                found = {
                    name: measure(gained, averaging_of(method), method)
                    for name, measure in MEASURES.items()
                }
            except NotRecorded:
                continue
            about = {"method": method, "name": NAMES[method], "seeds": seeds_text(seeds)}
            for name, each in found.items():
                rows.append(
                    about
                    | {"n_seeds": each.n_seeds, "score": score, "measure": name}
                    | {"unit": UNITS[name], "difference": each.difference}
                    | {"low": each.low, "high": each.high, "verdict": each.verdict}
                )
    columns = ["method", "name", "seeds", "n_seeds", "score", "measure", "unit"]
    return pd.DataFrame(rows, columns=[*columns, "difference", "low", "high", "verdict"])


def verdicts(found: pd.DataFrame, score: str, measure: str) -> dict[str, str]:
    """Return the verdict on "averaging is ahead" by method, for one score and one measure.

    Args:
        found: See `compare`.
        score, measure: Of its columns.
    """
    own = found[(found["score"] == score) & (found["measure"] == measure)]
    return dict(zip(own["method"], own["verdict"], strict=True))


def verdict_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return what `compare` found for a reader: a row a method, a column per score and measure."""
    cells = [
        f"{spread(row['difference'], row['low'], row['high'], 2, sign=True)}, {row['verdict']}"
        for row in found.to_dict("records")
    ]
    heads = found["score"] + ", " + found["measure"] + " (" + found["unit"] + ")"
    wide = found.assign(cell=cells, head=heads).pivot(
        index=["name", "seeds"], columns="head", values="cell"
    )
    order = found[["name", "seeds"]].drop_duplicates().apply(tuple, axis=1)
    return wide.loc[list(order), list(heads.unique())].rename_axis(columns=None)


def undialled(table: pd.DataFrame) -> str:
    """Say which remedies have no weak setting, and so lose hypervolume for that alone.

    Args:
        table: Rows of `remedies.method_table`.

    Returns:
        Remedies whose lowest reward is above `HALF_WAY` percent of RSF's gain; a sentence that says
        so where there is none.
    """
    short = table[table["least"] > HALF_WAY]
    if short.empty:
        return f"Each of them can be dialled to less than {HALF_WAY} % of RSF's gain in reward."
    least = dict(zip(short["method"], short["least"], strict=True))
    each = [f"{NAMES[method]} {number(value, 0)} %" for method, value in least.items()]
    return (
        "Hypervolume also counts how much of the way a method can be dialled. These have no "
        f"setting below so much of RSF's gain in reward: {', '.join(each)}. What lies between θ₀ "
        "and there counts as lost by hypervolume, and does not count at equal reward."
    )


def answer(found: pd.DataFrame, missing: Sequence[str] = ()) -> str:
    """Answer in words which remedies are ahead of averaging, and by which of the four comparisons.

    Args:
        found: See `compare`.
        missing: Methods that are not recorded over seeds.
    """
    if found.empty:
        text = "Not answered yet: these remedies are not recorded over seeds, and one seed is none."
    else:
        sides = {score: _sides(found, score) for score in (SKILL, FORGIVEN)}
        agreed = {score: _agreed(each) for score, each in sides.items()}
        same = agreed[SKILL].where(agreed[SKILL] == agreed[FORGIVEN], "open")
        parts = [_short(same, pd.concat(list(agreed.values())))]
        parts += [f"By {SKILL}, {_grouped(agreed[SKILL])}"]
        parts += [f"With {FORGIVEN}, {_grouped(agreed[FORGIVEN])}"]
        parts += [f"Under both scores, {_grouped(same)}"]
        for score, each in sides.items():
            parts += _alone(each, score)
        undecided = pd.concat(list(sides.values()), axis=1)
        undecided = undecided[(undecided == "open").all(axis=1)]
        if len(undecided):
            parts.append(f"Inconclusive by all four comparisons: {_names(list(undecided.index))}")
        text = ". ".join(parts) + "."
    if missing:
        text += f" Not recorded over seeds: {_names(missing)}."
    return text


def _sides(found: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return on which side each method is, a column a measure."""
    columns = {measure: verdicts(found, score, measure) for measure in MEASURES}
    return pd.DataFrame(columns).replace(SIDES)


def _name(method: str) -> str:
    """Return a remedy's name as it can stand in a list: without a comma of its own."""
    name, _, which = NAMES[method].partition(", ")
    return f"{which} {name}" if which else name


def _names(methods: Sequence[str]) -> str:
    return ", ".join(_name(method) for method in methods)


def _agreed(sides: pd.DataFrame) -> pd.Series:
    """Return the side that both measures see, "open" where they don't agree."""
    first, second = sides[HYPERVOLUME], sides[EQUAL_REWARD]
    return first.where(first == second, "open")


def _short(same: pd.Series, either: pd.Series) -> str:
    """Return the answer in a few words: yes where both scores say so, else whether one does."""
    if (same == "ahead").any():
        return f"Yes for {_names(list(same.index[same == 'ahead']))}, whichever score is taken"
    if (either == "ahead").any():
        return "It depends on the score: no remedy is shown to be ahead under both"
    return "Not shown for any remedy"


def _grouped(sides: pd.Series) -> str:
    """Return "ahead of averaging by both measures: ...; behind it by both: ..."""
    ahead, behind = (list(sides.index[sides == side]) for side in ("ahead", "behind"))
    return (
        f"ahead of averaging by both measures: {_names(ahead) or 'none'}; behind it by both: "
        f"{_names(behind) or 'none'}"
    )


def _alone(sides: pd.DataFrame, score: str) -> list[str]:
    """Return a sentence for each measure on which a verdict rests alone, and one for conflicts."""
    parts = []
    for measure, other in ((HYPERVOLUME, EQUAL_REWARD), (EQUAL_REWARD, HYPERVOLUME)):
        alone = sides[(sides[measure] != "open") & (sides[other] == "open")]
        if len(alone):
            each = [f"{_name(str(m))} ({side})" for m, side in alone[measure].items()]
            where = f"on {measure}" if measure == HYPERVOLUME else "on skill at equal reward"
            parts.append(f"Resting {where} alone ({score}): {', '.join(each)}")
    against = sides[(sides[HYPERVOLUME] != sides[EQUAL_REWARD]) & (sides != "open").all(axis=1)]
    if len(against):
        each = [f"{_name(str(m))} ({row[HYPERVOLUME]}, {row[EQUAL_REWARD]})"
                for m, row in against.iterrows()]  # fmt: skip
        parts.append(f"The two measures contradict each other ({score}): {', '.join(each)}")
    return parts
