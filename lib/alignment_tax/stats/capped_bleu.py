"""Translations that are right and then go on talking, and BLEU with them cut at their reference.

Capped BLEU keeps all matches, caps n-grams and length: an upper bound for a text cut anywhere.
"""

import pandas as pd

from alignment_tax.results.items import WAYS, capped_bleu, corpus_bleu, goes_on, right
from alignment_tax.results.select import Selection


def measures(items: pd.DataFrame) -> pd.DataFrame:
    """Return each model's (seed, key) BLEU: as written, cut where its sentence ends, and capped."""
    found = []
    for model, own in items[items["slot"] == "bleu"].groupby(["seed", "key"], observed=True):
        bleu, cut = (corpus_bleu(own[counts].to_numpy(float)) for counts, _ in WAYS.values())
        found.append((*model, bleu, cut, capped_bleu(own)))
    return pd.DataFrame(found, columns=["seed", "key", "bleu", "cut", "capped"])


def lost_to_talk(points: pd.DataFrame, items: pd.DataFrame) -> pd.Series:
    """Return, by seed, which share of the lost translations is right and then goes on talking."""
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
