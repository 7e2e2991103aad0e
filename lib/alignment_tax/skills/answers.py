"""What became of single answers: right, or the right one with more said after it.

A translation that is right and then goes on talking scores a low BLEU, as if the French were
forgotten. The ten counts that are kept of every translation tell the two apart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from alignment_tax.skills.scorer import corpus_bleu

Array = np.ndarray
ORDERS = range(1, 5)  # BLEU counts phrases of one to four words


def right(items: pd.DataFrame) -> Array:
    """Return whether each item is right (n,): half the credit or more; a translation every word.

    Args:
        items: as SkillScores.items: slot, value, and for translations the ten counts.
    """
    whole = (items["length"] == items["reference_length"]).to_numpy()
    for n in ORDERS:
        whole = whole & (items[f"matches_{n}"] == items[f"ngrams_{n}"]).to_numpy()
    return np.where((items["slot"] == "bleu").to_numpy(), whole, (items["value"] >= 0.5).to_numpy())


def goes_on(items: pd.DataFrame) -> Array:
    """Return whether each item is a translation with all of the reference in it, and more (n,)."""
    longer = ((items["slot"] == "bleu") & (items["length"] > items["reference_length"])).to_numpy()
    for n in ORDERS:
        phrases = (items["reference_length"] - n + 1).clip(lower=0)
        longer = longer & (items[f"matches_{n}"] == phrases).to_numpy()
    return longer


def capped_bleu(items: pd.DataFrame) -> float:
    """Return the corpus BLEU if nothing said beyond the length of the reference counted.

    Surplus words and phrases are taken to be wrong ones as far as there are such, so this is an
    upper bound of what the translations are worth without what was added to them.

    Args:
        items: translations, with the ten counts.
    """
    length = np.minimum(items["length"], items["reference_length"])
    matches = [items[f"matches_{n}"] for n in ORDERS]
    possible = [(items["reference_length"] - n + 1).clip(lower=0) for n in ORDERS]
    counted = [np.minimum(items[f"ngrams_{n}"], possible[n - 1]) for n in ORDERS]
    return corpus_bleu(np.column_stack([*matches, *counted, length, items["reference_length"]]))
