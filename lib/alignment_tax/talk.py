"""Translations that are right and then go on talking, and BLEU with them cut at their reference.

A model that closes its replies in chat ("let me know how it goes !") may do so behind a
translation, too. BLEU takes words too many for wrong words. `measures` counts such translations,
and scores them a second time with what is counted of each capped at its reference's length.

That second score is post hoc: it was chosen after the results had been seen, to find out what the
loss in translation is made of. And it is an approximation. The items hold counts and no texts, so
all matches are kept, wherever in the translation they are, and only the numbers of n-grams and the
length are capped. A text that is really cut has the same numbers and at most these matches: capped
BLEU is an upper bound of its BLEU. It stands beside BLEU, not in its place.
"""

from __future__ import annotations

import pandas as pd

from alignment_tax.figures.tables import SETTING, summarise
from alignment_tax.results import Recorded
from alignment_tax.skills.scorer import BLEU_COLUMNS, FAMILIES, corpus_bleu

MODEL = ["seed", "key"]
#: What `measures` says of a model: two scores, three shares in percent and two numbers of words.
MEASURES = (
    "bleu",
    "capped",
    "begins_right",
    "exact",
    "longer",
    "words",
    "reference_words",
)


def translations(items: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the items that are translations.

    Raises:
        ValueError: there is none.
    """
    rows = items[items["slot"] == "bleu"]
    if rows.empty:
        raise ValueError("No item is a translation: was the slot bleu left out of this run?")
    return rows


def holds_reference(rows: pd.DataFrame) -> pd.Series:
    """Whether each translation holds every n-gram (n = 1..4) of its reference, from BLEU counts."""
    whole = pd.Series(True, index=rows.index)
    for n in range(1, 5):
        wanted = (rows["reference_length"] - n + 1).clip(lower=0)
        whole &= rows[f"matches_{n}"] == wanted
    return whole


def exact(rows: pd.DataFrame) -> pd.Series:
    """Whether each translation is its reference, word for word."""
    return holds_reference(rows) & (rows["length"] == rows["reference_length"])


def goes_on(rows: pd.DataFrame) -> pd.Series:
    """Whether each translation holds its whole reference and is longer."""
    return holds_reference(rows) & (rows["length"] > rows["reference_length"])


def capped(rows: pd.DataFrame) -> pd.DataFrame:
    """Return translations with the numbers of n-grams and the length capped at the reference's."""
    counts = rows.copy()
    for n in range(1, 5):
        most = (rows["reference_length"] - n + 1).clip(lower=0)
        counts[f"ngrams_{n}"] = rows[f"ngrams_{n}"].clip(upper=most)
    counts["length"] = rows["length"].clip(upper=rows["reference_length"])
    return counts


def bleu(rows: pd.DataFrame) -> float:
    """Return the corpus BLEU of translations, from their counts."""
    return corpus_bleu(rows[list(BLEU_COLUMNS)].to_numpy(dtype=float))


def capped_bleu(rows: pd.DataFrame) -> float:
    """Return the corpus BLEU of translations as if each ended where its reference does.

    Post hoc and an upper bound: see the top of this file.
    """
    return bleu(capped(rows))


def measures(items: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model (seed, key), with the columns of `MEASURES`.

    Args:
        items: Items of any number of models (`results.recorded_items`).

    Raises:
        ValueError: no item is a translation.
    """
    rows, counts = translations(items), list(BLEU_COLUMNS)
    models = [rows["seed"].astype(int), rows["key"].astype(str)]
    shares = pd.DataFrame(
        {
            "begins_right": holds_reference(rows),
            "exact": exact(rows),
            "longer": rows["length"] > rows["reference_length"],
        }
    )
    # corpus BLEU asks for the sums over items only
    whole = rows[counts].astype(float).groupby(models).sum()
    short = capped(rows)[counts].astype(float).groupby(models).sum()
    found = 100 * shares.groupby(models).mean()
    found["bleu"] = [corpus_bleu(sums[None]) for sums in whole.to_numpy()]
    found["capped"] = [corpus_bleu(sums[None]) for sums in short.to_numpy()]
    lengths = rows[["length", "reference_length"]].astype(float).groupby(models).mean()
    found["words"], found["reference_words"] = lengths["length"], lengths["reference_length"]
    return found[list(MEASURES)].reset_index()


def measured_points(points: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return a table of points with the measures of each model beside its scores.

    Raises:
        ValueError: a model has no items.
    """
    scored = points.drop(columns=["bleu"], errors="ignore")  # the same number is in the measures
    joined = scored.merge(measures(items), on=MODEL, how="left", validate="many_to_one")
    if joined["capped"].isna().any():
        key = joined.loc[joined["capped"].isna(), "key"].iloc[0]
        raise ValueError(f"The model {key} has no translations among the items.")
    return joined


def table(points: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model: NAME, NAME_low, NAME_high of each measure, over seeds (95 % t).

    Args:
        points: Recorded points; their settings (algorithm, method, alpha, rounds, …) say which
            rows are one model of several seeds.
        items: Their items.
    """
    return summarise(measured_points(points, items), SETTING, MEASURES)


def with_capped(points: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return points whose translation, and so whose mean skill, is by capped BLEU."""
    joined = measured_points(points, items)
    changed = points.copy()
    changed["translation"] = changed["bleu"] = joined["capped"].to_numpy()
    changed["skill"] = changed[list(FAMILIES)].mean(axis=1, skipna=False)
    return changed


def lost_to_talk(run: Recorded, items: pd.DataFrame) -> pd.Series:
    """Return, by seed, which share of the lost translations is right and then goes on talking.

    Lost: word for word right before RSF and not after its last round. A share (0 to 1) of lost
    ones still holds the whole reference, with something added.

    Args:
        run: The recorded run.
        items: Its items (`results.recorded_items`).

    Raises:
        ValueError: no translation was lost in some seed.
    """
    rows = translations(items)
    trained = run.points[run.points["method"] == "none"].sort_values("rounds")
    shares = {}
    for seed, points in trained.groupby("seed"):
        keys = points.groupby("algorithm")["key"].last()
        before, after = (
            rows[(rows["seed"] == seed) & (rows["key"] == keys[name])].set_index("item")
            for name in ("sft", "rsf")
        )
        lost = exact(before) & ~exact(after)
        if not lost.any():
            raise ValueError(f"No translation was lost in seed {seed}.")
        shares[seed] = float(goes_on(after)[lost].mean())
    return pd.Series(shares)
