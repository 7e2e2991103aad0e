"""Translations that are right and then go on talking, and BLEU with them cut at their reference.

BLEU takes talk behind a translation for wrong words. Capped BLEU keeps all matches and caps the
numbers of n-grams and the length: an upper bound of the BLEU of a text that is cut anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from alignment_tax.labels import BLEU_COLUMNS, CUT_COLUMNS
from alignment_tax.results.items import capped_bleu, corpus_bleu, goes_on, right
from alignment_tax.results.points import SETTING
from alignment_tax.results.select import Selection
from alignment_tax.stats.compare import summarise

MODEL = ["seed", "key"]
#: What `measures` says of a model: BLEU as written, of translations cut where their sentence ends,
#: and of translations cut anywhere, at best.
MEASURES = ("bleu", "cut", "capped")


def translations(items: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the items that are translations (ValueError if none is)."""
    rows = items[items["slot"] == "bleu"]
    if rows.empty:
        raise ValueError("No item is a translation: was the slot bleu left out of this run?")
    return rows


def _bleu(rows: pd.DataFrame, counts: Sequence[str] = BLEU_COLUMNS) -> float:
    return corpus_bleu(rows[list(counts)].to_numpy(dtype=float))


def measures(items: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model (seed, key) of some items, with the columns of `MEASURES`."""
    found = []
    for (seed, key), model in translations(items).groupby(MODEL, observed=True):
        scores = (_bleu(model), _bleu(model, CUT_COLUMNS), capped_bleu(model))
        named = {"seed": int(str(seed)), "key": str(key)}
        found.append(named | dict(zip(MEASURES, scores, strict=True)))
    return pd.DataFrame(found)


def measured_points(points: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return points with the measures of each model beside its scores; each needs items."""
    rows = translations(items)
    there = set(zip(rows["seed"], rows["key"], strict=True))
    for seed, key in zip(points["seed"], points["key"], strict=True):
        if (seed, key) not in there:
            raise ValueError(f"The model {key} has no translations among the items.")
    own = rows[rows["key"].isin(points["key"])]  # items may be of more models
    scored = points.drop(columns=["bleu"], errors="ignore")  # the same number is in the measures
    return scored.merge(measures(own), on=MODEL, how="left", validate="many_to_one")


def table(points: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model: NAME, NAME_low, NAME_high of each of `MEASURES`, over seeds.

    Args:
        points: Recorded points; rows of one setting are one model of several seeds.
        items: Their items.
    """
    return summarise(measured_points(points, items), SETTING, MEASURES)


def lost_to_talk(points: pd.DataFrame, items: pd.DataFrame) -> pd.Series:
    """Return, by seed, which share of the lost translations is right and then goes on talking.

    Args:
        points: The columns of points.csv, one study.
        items: The recorded items.
    """
    selected, shares = Selection(points), {}
    ends = [selected.model(text)["key"] for text in ("sft", "rsf/last")]
    for seed in ends[1].index.intersection(ends[0].index):
        of_seed = items[(items["seed"] == seed) & (items["slot"] == "bleu")]
        before, after = (of_seed[of_seed["key"] == keys[seed]].sort_values("item") for keys in ends)
        lost = right(before) & ~right(after)
        if not lost.any():
            raise ValueError(f"No translation was lost in seed {seed}.")
        shares[seed] = (lost & goes_on(after)).sum() / lost.sum()
    return pd.Series(shares, dtype=float)
