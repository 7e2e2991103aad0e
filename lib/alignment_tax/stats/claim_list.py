"""The claims themselves: read from claims.txt, with the effect that would be of interest."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from alignment_tax.labels import ALGORITHM_NAMES, FAMILY_NAMES, FORGIVEN, METHOD_NAMES

TEXT = Path(__file__).with_name("claims.txt").read_text(encoding="utf-8")
#: The smallest effect of interest by unit. Chosen from what a reader could notice, before any
#: verdict was looked at, and the same for all claims of a unit.
SESOI = {
    "points": 0.5,  # one item in two hundred; seeds of theta_0 differ by about twice that
    "reward": 0.1,  # 3 % of what RSF gains, less than one seed's gain differs from another's
    "gold": 0.1,  # one reply in ten that is better by one of the true reward's units
    "nats": 0.5,  # a reply's; the rounds of RSF go thirty times as far from theta_0
    "reward x points": 0.5,  # half a point of skill along one unit of reward
}


@dataclass(frozen=True)
class Claim:
    """A claim about the difference of two selectors (see `results.select`), a minus b."""

    id: str
    chapter: str
    claim: str
    a: str
    b: str
    score: str = "skill"
    measure: str = "difference"  # a word of `claims.MEASURES`
    direction: int = 1  # +1 if the difference is said to be positive, -1 if negative
    place: str = ""  # in the paper; empty if the claim is ours
    paper: str = ""  # what it says there
    shared: bool = False  # whether only seeds count that have every algorithm

    @property
    def unit(self) -> str:
        """What the difference is measured in."""
        if self.measure == "hypervolume":
            return "reward x points"
        if self.score == "entropy":
            return "nats"
        return self.score if self.score in ("reward", "gold") else "points"

    @property
    def sesoi(self) -> float:
        """The smallest effect of interest, in the unit."""
        return SESOI[self.unit]


def _named(given: dict[str, str]) -> dict[str, str]:
    """Return what stands for the names in a row: as given, and as they are called in a sentence."""
    score, method, algorithm = (given.get(name, "") for name in ("score", "method", "algorithm"))
    words = "mean skill" if score == "skill" else FAMILY_NAMES.get(score, score)
    name, who = METHOD_NAMES.get(method, method), ALGORITHM_NAMES.get(algorithm, algorithm)
    return given | {"words": words, "name": name, "who": who}


def _claims() -> Iterator[Claim]:
    """Read the rows of claims.txt (see its first lines), each behind its `for`."""
    _, *parts = re.split(r"^for (.+)$", TEXT, flags=re.MULTILINE)
    for loops, block in zip(parts[::2], parts[1::2], strict=True):
        named = [loop.split(" in ") for loop in loops.split("; ") if loop != "once"]
        values = product(*([(name, value) for value in of.split()] for name, of in named))
        rows = re.findall(r"^(?!#|because ).+$", block, flags=re.MULTILINE)
        for given, row in product(values, rows):
            yield from _with_twins(_claim(row.format(**_named(dict(given)))))


def _claim(row: str) -> Claim:
    name, chapter, paper, claim, a, b, score, measure = map(str.strip, row.split("|"))
    place, _, says = paper.partition(": ")
    how, _, sign = measure.partition(" ")
    name = name.removesuffix(".skill") if ".hypervolume." in name else name
    return Claim(name, chapter, claim, a, b, score, how, 1 if sign == "+" else -1, place, says)


def _with_twins(claim: Claim) -> Iterator[Claim]:
    """Yield a claim, its twin on shared seeds, and those of both with format forgiven."""
    twins = [claim]
    if claim.id.startswith(("tax.", "gain.", "average_vs_early.")) and claim.chapter == "06":
        twins.append(replace(claim, id=f"{claim.id}.shared", shared=True))
    for each in twins:
        yield each
        if each.score in FORGIVEN:
            yield replace(each, id=forgiven_id(each.id, each.score), score=FORGIVEN[each.score])


def forgiven_id(name: str, score: str) -> str:
    """Return the id of the same claim with format forgiven: tax.rsf.skill -> tax.rsf.forgetting."""
    start, found, rest = name.rpartition(f".{score}")
    return f"{start}.{FORGIVEN[score]}{rest}" if found else f"{name}.{FORGIVEN[score]}"


#: Every claim by its id; of an id that comes twice the first.
CLAIMS: dict[str, Claim] = {}
for _each in _claims():
    CLAIMS.setdefault(_each.id, _each)
#: What we think where a claim of the paper came out opposite.
_BECAUSE = re.findall(r"^because (.+?): (.+)$", TEXT, flags=re.MULTILINE)
REASONS = {name: text for names, text in _BECAUSE for name in names.split()}
