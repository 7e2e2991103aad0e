"""What a run says that the recording does not: values and claims, each in a band of its own.

The same seed on a machine that makes the same theta_0 gives the same numbers, up to rounding. On
others it drifts as another seed would, so the mean of the new seeds is held against the spread of
the recorded ones (`compare.move`). What the recording does not hold is not judged.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from alignment_tax.results.points import NotRecorded, shared
from alignment_tax.results.recorded import identified, other_start
from alignment_tax.results.select import Selection
from alignment_tax.results.values import MISSING, values
from alignment_tax.spec import NAMED
from alignment_tax.stats import claims, compare
from alignment_tax.stats.claim_list import CLAIMS

#: Tables hold six digits (`results.recorded.written`), and what is worked out from numbers up to
#: 100 loses that much; two runs' own values are alike to as many digits as a sum in another order.
OF_TABLES, OF_RUNS = 1e-5 * 100, 1e-6
#: Told apart from the recorded seeds where both sides go through one evaluation.
NEW = 2**40
SAME_SEED, SEEDS, EQUAL, NONE = "same seed", "over seeds", "equal", "not judged"
#: The columns that name a model of any seed.
MODEL = [name for name in NAMED if name != "seed"]


@dataclass(frozen=True)
class Held:
    """What one side says of a value, by seed; `tables`: worked out from tables of six digits."""

    values: Mapping[int, Any]
    tables: bool = False


@dataclass(frozen=True)
class Change:
    """A value then and now: means over seeds where it is a number."""

    chapter: str
    name: str
    then: Any
    now: Any
    errors: float = math.nan  # the difference in standard errors of the recorded seeds' spread
    half: float = math.nan  # the half width of its band
    how: str = NONE  # what it was judged by
    moved: bool = False  # whether it left its band
    p: float = math.nan
    was: str = ""  # the verdict of a claim
    verdict: str = ""

    @property
    def turned(self) -> bool:
        """Whether this is a claim whose verdict changed, and not for want of seeds."""
        changed = bool(self.was and self.verdict) and self.was != self.verdict
        return changed and (self.moved or self.verdict != "inconclusive")


def by_place(runs: Mapping[int, dict[str, Any]], tables: bool = False) -> dict[str, Held]:
    """Return every recorded value of chapters that ended well: place -> seed -> value."""
    found: dict[str, dict[int, Any]] = {}
    for seed, run in runs.items():
        well = [chapter for chapter in run["chapters"] if chapter["status"] == "ok"]
        for place, value in values({"chapters": well}):
            found.setdefault(place, {})[seed] = value
    return {place: Held(each, tables) for place, each in found.items()}


def judge(place: str, then: Held, now: Held, paired: Collection[int]) -> Change:
    """Compare a value; `paired` seeds have one theta_0. Over seeds `settled` says what moved."""
    chapter, _, name = place.partition(" ")
    old, new = then.values, now.values
    both = [seed for seed in new if seed in paired and seed in old]
    if not old:
        return Change(chapter, name, MISSING, next(iter(new.values())))
    if not new:
        return Change(chapter, name, next(iter(old.values())), MISSING, how=EQUAL, moved=True)
    every = (*old.values(), *new.values())
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in every):
        return _of_texts(Change(chapter, name, old, new), both)
    rounding = OF_TABLES if then.tables or now.tables else 0.0
    asked = both or [*new]
    mean, means = sum(new[s] for s in asked) / len(asked), [*old.values()]
    before = sum(old[s] for s in both) / len(both) if both else sum(means) / len(means)
    found, spread = Change(chapter, name, before, mean), None
    if len(old) > 1:
        spread = compare.move(means, [new[s] for s in asked], rounding)
        found = replace(found, errors=_ratio(mean - before, spread.error))
    if both:
        apart = [not math.isclose(old[s], new[s], rel_tol=OF_RUNS, abs_tol=rounding) for s in both]
        return replace(found, how=SAME_SEED, half=rounding, moved=any(apart))
    if spread is None:
        return found
    return replace(found, how=SEEDS, half=spread.half, p=spread.p)


def _ratio(gap: float, error: float) -> float:
    return gap / error if error else math.copysign(math.inf, gap) if gap else 0.0


def _of_texts(found: Change, both: Sequence[int]) -> Change:
    """Judge what is no number: seed by seed, or against the one thing that every seed said."""
    old, new = found.then, found.now
    if both:
        wrong, how = [s for s in both if old[s] != new[s]], SAME_SEED
    else:
        first = next(iter(old.values()))
        # a check that held is asked of every seed; what one seed alone said, of none
        constant = all(value == first for value in old.values()) and (first is True or len(old) > 1)
        how = EQUAL if constant else NONE
        wrong = [s for s in new if constant and new[s] != first]
    at = wrong[0] if wrong else next(iter(both or new))
    said = old.get(at, next(iter(old.values())))
    return replace(found, then=said, now=new[at], how=how, moved=bool(wrong))


def settled(changes: Iterable[Change]) -> list[Change]:
    """Mark what moved over seeds: many are asked, so the worst of them have to be told together."""
    every = list(changes)
    asked = [i for i, each in enumerate(every) if each.how == SEEDS]
    for i, found in zip(asked, compare.discoveries([every[i].p for i in asked]), strict=True):
        every[i] = replace(every[i], moved=found)
    return every


def same_starts(then: pd.DataFrame, now: pd.DataFrame) -> set[int]:
    """Return the seeds with the same theta_0 in both tables, whatever reward it is given."""
    if then.empty or now.empty:
        return set()
    then, now = (each.assign(reward=math.nan) for each in (then, now))
    starts = now[now["algorithm"] == "sft"].to_dict("records")
    known = set(then.loc[then["algorithm"] == "sft", "seed"])
    return {r["seed"] for r in starts if r["seed"] in known and not other_start(then, r)}


def claimed(then: pd.DataFrame, now: pd.DataFrame, paired: Collection[int]) -> list[Change]:
    """Compare every claim that both tables of points can be asked, on the models that both have.

    One evaluation serves both: curves have as many points, and areas the same corner.
    """
    if then.empty or now.empty:
        return []
    points = pd.concat([then, now.assign(seed=now["seed"] + NEW)], ignore_index=True)
    names = pd.Series([str(identified(row, MODEL)) for row in points.to_dict("records")])
    is_old = points["seed"] < NEW
    points = points[names.isin(names[is_old]) & names.isin(names[~is_old])]
    if points.empty:
        return []
    every, beside, found = Selection(points), Selection(shared(points)), []
    for claim in CLAIMS.values():
        try:
            gaps = claims.differences(beside if claim.shared else every, claim).dropna()
        except NotRecorded:
            continue
        old, new = gaps[gaps.index < NEW], gaps[gaps.index >= NEW]
        if len(old) and len(new):
            new.index -= NEW
            held = [Held(dict(zip(s.index.tolist(), s, strict=True)), True) for s in (old, new)]
            change = judge(f"{claim.chapter} {claim.id}", held[0], held[1], paired)
            # seed by seed, a verdict on fewer seeds is held against one on the same
            own = old[old.index.isin(new.index)] if change.how == SAME_SEED else old
            verdicts = [claims.judged(s, claim).verdict if len(s) > 1 else "" for s in (own, new)]
            found.append(replace(change, was=verdicts[0], verdict=verdicts[1]))
    return found


def read_anew(points: pd.DataFrame, stored: pd.DataFrame) -> list[Change]:
    """Compare a stored table of claims with what this code makes of the same recorded points."""
    fresh, found = claims.table(points).set_index("id"), []
    for row in stored.to_dict("records"):
        place = f"{row['chapter']} {row['id']}: of the recorded points"
        new = fresh.loc[row["id"], ["difference", "verdict"]] if row["id"] in fresh.index else None
        now = Held({} if new is None else {0: float(new["difference"])}, tables=True)
        change = judge(place, Held({0: float(row["difference"])}), now, [0])
        verdict = "" if new is None else str(new["verdict"])
        change = replace(change, was=row["verdict"], verdict=verdict)
        found.append(replace(change, moved=change.moved or change.was != change.verdict))
    return found
