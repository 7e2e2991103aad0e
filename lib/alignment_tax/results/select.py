"""Which models a short string means: the one place where selectors are parsed.

base, sft                     a model as trained; sft is theta_0
rsf/last, rsf/2               the last round of an algorithm, or round 2
rsf/early_stopping            a curve: theta_0 and the rounds
rsf/average                   a curve: averages of theta_0 and the last round, by alpha
rsf/average@0.2               the average at alpha 0.2 (alpha is the aligned model's weight)
rsf/distil, rsf/l2            the plain distilled run; a curve: a remedy by its strength
rsf/l2/strongest              one strength: strongest, second_strongest, ..., weakest
rsf/lora/mean                 the mean over the models of a method
rsf/part=input@0.4            one part averaged at alpha 0.4, the others aligned
rsf/part=input/mean           the mean over its alphas
rsf/hma/K=3                   a curve: a search for three ratios, by mean ratio
rsf/pattern=start-1           ratios set by hand: a weighs theta_0 (or "aligned"), one is lower
ppo/kl_coef                   a curve: PPO from its heaviest KL penalty to its lightest
rsf/learning_rate             a curve: RSF from its smallest steps to its own
0.95*rsf/last                 the same with its scores times 0.95
"""

import re
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from alignment_tax.results.points import NotRecorded, curve_rows, weak_is_high
from alignment_tax.spec import PATTERN, block_count, patterns, ratios_text

GRAMMAR = re.compile(
    r"(?:(?P<factor>[\d.]+)\*)?(?P<algorithm>\w+)"
    r"(?:/(?P<rounds>last|\d+)"
    r"|/(?P<method>(?!last\b)[a-z]\w*(?:\+average)?)(?:=(?P<part>[a-z]+(?:-\d)?))?"
    r"(?:@(?P<alpha>[\d.]+))?"
    r"(?:/K=(?P<blocks>\d+))?(?:/(?P<place>(?:second_)?(?:strongest|weakest)|mean))?)?"
)
PLACES = {"strongest": 0, "second_strongest": 1, "second_weakest": -2, "weakest": -1}


class Selector(NamedTuple):
    """A selector, parsed; see the top of this file."""

    algorithm: str
    method: str = "none"
    rounds: str = ""
    part: str = ""
    alpha: float | None = None
    blocks: int = 0
    place: str = ""
    factor: float = 1.0


def parse(text: str) -> Selector:
    """Return the selector that a string means (ValueError if it means none)."""
    found = GRAMMAR.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} selects nothing: write it like rsf/last or rsf/average@0.2.")
    kinds: dict[str, Any] = {"factor": float, "alpha": float, "blocks": int}
    given = {name: value for name, value in found.groupdict().items() if value is not None}
    return Selector(**{name: kinds.get(name, str)(value) for name, value in given.items()})


class Selection:
    """Rows of points.csv, one study, to select from; reward is gained over theta_0 of the seed."""

    def __init__(self, points: pd.DataFrame):
        start = points[points["algorithm"] == "sft"].set_index("seed")["reward"]
        if missing := sorted(set(points["seed"]) - set(start.index)):
            raise NotRecorded(f"Seed {missing[0]} has no row of theta_0 (algorithm sft).")
        rows = points.assign(
            reward=points["reward"] - points["seed"].map(start),
            method=points["method"].fillna("none"),
            blocks=[block_count(part) for part in points["part"]],
            # the mean of the released code's ratios is only near what it was asked for
            mean=points["alpha"].astype(float).round(1),
        )
        self.rows = rows.sort_values("seed", kind="stable").copy()
        # caches of this object's own: those of a class would keep every table alive
        self.models, self.curve = cache(self._models), cache(self._curve)

    def _models(self, text: str) -> pd.DataFrame:
        """Return all rows of a selector, of all seeds, whatever place it names."""
        wanted, rows = parse(text), self.rows
        method = "none" if wanted.method == "early_stopping" else wanted.method
        own = rows[(rows["algorithm"] == wanted.algorithm) & (rows["method"] == method)]
        if wanted.method == PATTERN:  # of "start-1": a weighs theta_0 (start), and 1 is lower
            whose, _, lowered = wanted.part.partition("-")
            every = patterns(whose == "start")
            ratios = [ratios_text(r) for r in every if r.count(r[-1]) == int(lowered)]
            own = own[own["part"].isin(ratios)]
        elif wanted.part:
            own = own[own["part"] == wanted.part]
        if wanted.blocks:
            own = own[own["blocks"] == wanted.blocks]
        if wanted.alpha is not None:
            own = own[np.isclose(own["mean" if wanted.blocks else "alpha"], wanted.alpha)]
        if wanted.rounds:
            last = own["rounds"].max() if wanted.rounds == "last" else int(wanted.rounds)
            own = own[own["rounds"] == last]
        if own.empty:
            raise NotRecorded(f"The points hold no {text}.")
        return own

    def model(self, text: str) -> pd.DataFrame:
        """Return the one model that a selector means in each seed (the index)."""
        wanted, own = parse(text), self.models(text)
        if wanted.place == "mean":
            return own.groupby("seed").mean(numeric_only=True)
        if wanted.place:
            strengths = sorted(own["strength"].unique(), reverse=not weak_is_high(wanted.method))
            if len(strengths) < 2:
                raise NotRecorded(f"{wanted.method} has one strength.")
            own = own[own["strength"] == strengths[PLACES[wanted.place]]]
        if own["seed"].duplicated().any():
            raise ValueError(f"{text!r} means several models a seed: choose one of its curve.")
        own = own.set_index("seed")
        if wanted.factor != 1:
            numbers = own.select_dtypes("number").columns
            own = own.assign(**{name: own[name] * wanted.factor for name in numbers})
        return own

    def _curve(
        self, text: str, ratios: tuple[float, ...] | None = None, from_start: bool = True
    ) -> dict[int, pd.DataFrame]:
        """Return the rows of a curve by seed, in their order.

        With `ratios` mixtures of these means, the end and, `from_start` (not of one part), theta_0.
        """
        wanted, found = parse(text), {}
        if ratios is None:
            for seed in self.rows["seed"].unique().tolist():
                with suppress(NotRecorded):
                    found[seed] = curve_rows(self.rows, wanted.method, seed, wanted.algorithm)
            return found
        own, start = self.models(text), self.model("sft")
        end = self.model(f"{wanted.algorithm}/last")
        for seed in sorted(set(own["seed"]) & set(start.index) & set(end.index)):
            mine = own[(own["seed"] == seed) & own["mean"].isin(ratios)].sort_values("mean")
            first = [start.loc[[seed]]] if from_start else []
            found[int(seed)] = pd.concat([*first, mine, end.loc[[seed]]])
        return found

    def ratios(self, *texts: str) -> tuple[float, ...]:
        """Return the mean ratios between 0 and 1 that every seed of all these curves has."""
        each = []
        for text in texts:
            own = self.models(text)
            inside = own[own["mean"].between(0, 1, inclusive="neither")]
            each += [set(rows["mean"]) for _, rows in inside.groupby("seed")]
        shared = tuple(sorted(set.intersection(*each))) if each else ()
        if not shared:
            raise NotRecorded(f"There is no mean ratio that all of {', '.join(texts)} have.")
        return shared
