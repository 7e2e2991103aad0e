"""The claims themselves: read from claims.txt, with the effect that would be of interest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from alignment_tax.labels import ALGORITHM_NAMES, FAMILY_NAMES, FORGIVEN, METHOD_NAMES

#: The smallest effect of interest by unit. Chosen from what a reader could notice, before any
#: verdict was looked at, and the same for all claims of a unit.
SESOI = {
    "points": 0.5,  # one item in two hundred; seeds of theta_0 differ by about twice that
    "reward": 0.1,  # 3 % of what RSF gains, less than one seed's gain differs from another's
    "gold": 0.1,  # one reply in ten that is better by one of the true reward's units
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


def _claims(text: str) -> Iterator[Claim]:
    """Read the rows of claims.txt (see its first lines); of an id that comes twice the first."""
    loops: list[list[tuple[str, str]]] = []
    block: list[str] = []
    for line in [*text.splitlines(), "for once"]:
        if line.startswith("for "):
            for values, row in product(product(*loops), block):
                yield _claim(row.format(**_named(dict(values))))
            parts = [] if line == "for once" else line.removeprefix("for ").split("; ")
            named = [part.split(" in ") for part in parts]
            loops, block = [[(name, value) for value in of.split()] for name, of in named], []
        elif line and not line.startswith(("#", "because ")):
            block.append(line)


def _claim(row: str) -> Claim:
    cells = [cell.strip() for cell in row.split("|")]
    name, chapter, paper, claim, a, b, score, measure = cells
    place, _, says = paper.partition(": ")
    how, _, sign = measure.partition(" ")
    name = name.removesuffix(".skill") if ".hypervolume." in name else name
    return Claim(name, chapter, claim, a, b, score, how, 1 if sign == "+" else -1, place, says)


def _all() -> dict[str, Claim]:
    found: dict[str, Claim] = {}
    for claim in _claims(TEXT):
        twins = [claim]
        if claim.id.startswith(("tax.", "gain.", "average_vs_early.")) and claim.chapter == "06":
            twins.append(replace(claim, id=claim.id + ".shared", shared=True))
        for each in twins:
            found.setdefault(each.id, each)
            if each.score in FORGIVEN:
                name = forgiven_id(each.id, each.score)
                other = replace(each, id=name, score=FORGIVEN[each.score])
                found.setdefault(other.id, other)
    return found


def forgiven_id(name: str, score: str) -> str:
    """Return the id of the same claim with format forgiven: tax.rsf.skill -> tax.rsf.forgetting."""
    start, found, rest = name.rpartition(f".{score}")
    return f"{start}.{FORGIVEN[score]}{rest}" if found else f"{name}.{FORGIVEN[score]}"


def _reasons() -> dict[str, str]:
    lines = [line[8:] for line in TEXT.splitlines() if line.startswith("because ")]
    pairs = [line.split(": ", 1) for line in lines]
    return {name: text for names, text in pairs for name in names.split()}


TEXT = Path(__file__).with_name("claims.txt").read_text(encoding="utf-8")
#: Every claim by its id, and what we think where a claim of the paper came out opposite.
CLAIMS, REASONS = _all(), _reasons()
