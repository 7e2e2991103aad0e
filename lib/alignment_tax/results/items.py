"""What a model answered, item by item, and all that is computed from it without the model.

A table of items has a row per slot and item: slot, item, fingerprint (of its text), value and
forgiven (accuracy, exact match or F1 in 0..1; NaN for translation), the ten counts of BLEU, twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sacrebleu.metrics import BLEU

from alignment_tax.labels import BLEU_COLUMNS, CUT_COLUMNS, FAMILIES, FORGIVEN, SLOTS
from alignment_tax.store import write_whole

Array = np.ndarray
SENTENCE = BLEU(effective_order=True)
ORDERS = range(1, 5)  # BLEU counts phrases of one to four words
#: The columns of an item's counts and of its value; True: with format forgiven.
WAYS = {False: (BLEU_COLUMNS, "value"), True: (CUT_COLUMNS, "forgiven")}


class SkillsError(ValueError):
    """A suite, a model or two sets of scores cannot be used; the message says what to do."""


@dataclass(frozen=True)
class SkillScores:
    """What one model can do: `metrics` in percent (as written, and forgiven), and its `items`."""

    metrics: dict[str, float]
    items: pd.DataFrame

    @classmethod
    def of(cls, items: pd.DataFrame) -> SkillScores:
        """Return the scores of a table of items."""
        table = cls({}, items)
        written, forgiven = (_percents(table.values(cut)) for cut in (False, True))
        means = {FORGIVEN[name]: value for name, value in _means(forgiven).items()}
        return cls(written | _means(written) | means, items)

    @property
    def n_items(self) -> int:
        """Number of items over all slots."""
        return len(self.items)

    def values(self, forgiven: bool = False) -> dict[str, Array]:
        """Return {slot: array}: (n,) in 0..1, for translation the counts (n, 10)."""
        counts, value = WAYS[forgiven]
        return {
            str(slot): rows[counts if slot == "bleu" else value].to_numpy(dtype=float)
            for slot, rows in self.items.groupby("slot", sort=False)
        }

    def save(self, folder: Path) -> None:
        """Write `skills.json` and `items.parquet` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.items.to_parquet(folder / "items.parquet", index=False)
        write_whole(folder / "skills.json", json.dumps(self.metrics, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> SkillScores:
        """Read what `save` wrote (SkillsError if the folder holds no scores)."""
        for name in ("skills.json", "items.parquet"):
            if not (folder / name).is_file():
                raise SkillsError(f"{folder} has no {name}: score the model there first.")
        metrics = json.loads((folder / "skills.json").read_text(encoding="utf-8"))
        return cls(metrics, pd.read_parquet(folder / "items.parquet"))


def bleu_statistics(reference: str, prediction: str) -> list[float]:
    """Return the `BLEU_COLUMNS` of a translation; their sums make BLEU (Papineni et al. 2002)."""
    score = SENTENCE.sentence_score(prediction, [reference])
    return [float(n) for n in (*score.counts, *score.totals, score.sys_len, score.ref_len)]


def corpus_bleu(statistics: Array) -> float:
    """Return the corpus BLEU (0 to 100) of items given by their counts (n, 10), summed first."""
    sums = [int(n) for n in np.asarray(statistics).sum(axis=0)]
    score = BLEU.compute_bleu(sums[:4], sums[4:8], sums[8], sums[9], smooth_method="exp").score
    # a perfect translation comes out a rounding error above 100
    return min(score, 100.0)


def slot_percent(slot: str, values: Array) -> float:
    """Return the score of one slot in percent: the mean over items, or the corpus BLEU."""
    return corpus_bleu(values) if slot == "bleu" else 100 * float(values.mean())


def family_percent(family: str) -> Callable[[Mapping[str, Array]], float]:
    """Return {slot: items} -> percent of a slot, a family or all; parts of a whole weigh alike."""
    name, _ = written(family)
    if name in SLOTS:
        return lambda values: slot_percent(name, values[name])
    return lambda values: _means(_percents(values))[name]


def written(score: str) -> tuple[str, bool]:
    """Return the score as written that one stands beside, and whether format is forgiven in it."""
    found = {forgiven: name for name, forgiven in FORGIVEN.items()}
    if score not in (known := (*SLOTS, *FORGIVEN, *found)):
        raise SkillsError(f"There is no score {score!r}. Choose from: {', '.join(known)}.")
    return found.get(score, score), score in found


def pair_scores(
    first: Sequence[SkillScores], second: Sequence[SkillScores], family: str = "skill"
) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Return the items of two models per seed, paired, for `compare.paired_bootstrap`.

    Only slots that `family` needs. SkillsError: other items, or seeds in another order.
    """
    if len(first) != len(second):
        raise SkillsError(f"Seeds must be paired: {len(first)} against {len(second)} scores.")
    name, forgiven = written(family)
    slots = FAMILIES.get(name, SLOTS if name == "skill" else (name,))
    key = ["slot", "item", "fingerprint"]
    if not all(a.items[key].equals(b.items[key]) for a, b in zip(first, second, strict=True)):
        raise SkillsError("The two were scored on different items: use one suite, split and limit.")

    def wanted(side: Sequence[SkillScores]) -> list[dict[str, Array]]:
        return [{s: x for s, x in each.values(forgiven).items() if s in slots} for each in side]

    return wanted(first), wanted(second)


def right(items: pd.DataFrame, forgiven: bool = False) -> Array:
    """Return whether each item is right (n,): half the credit or more; a translation every word."""
    counts, value = WAYS[forgiven]
    matches, ngrams = (items[counts[i : i + 4]].to_numpy() for i in (0, 4))
    length, reference = items[counts[8:]].to_numpy().T
    whole = (matches == ngrams).all(axis=1) & (length == reference)
    return np.where(items["slot"] == "bleu", whole, items[value] >= 0.5)


def sort_losses(before: Array, after: Array, after_forgiven: Array) -> tuple[Array, Array]:
    """Return which right items were lost to format (right if that is forgiven) or forgotten."""
    lost = before & ~after
    return lost & after_forgiven, lost & ~after_forgiven


def goes_on(items: pd.DataFrame) -> Array:
    """Return whether each item is a translation with all of the reference in it, and more (n,)."""
    longer = [items["slot"] == "bleu", items["length"] > items["reference_length"]]
    whole = [items[f"matches_{n}"] == _possible(items, n) for n in ORDERS]
    return np.logical_and.reduce([*longer, *whole])


def _possible(items: pd.DataFrame, n: int) -> pd.Series:
    """Return how many phrases of n words each reference has."""
    return (items["reference_length"] - n + 1).clip(lower=0)


def capped_bleu(items: pd.DataFrame) -> float:
    """Return an upper bound of corpus BLEU if nothing beyond the reference's length counted."""
    length = np.minimum(items["length"], items["reference_length"])
    matches = [items[f"matches_{n}"] for n in ORDERS]
    # surplus phrases are taken to be wrong ones as far as there are such
    counted = [np.minimum(items[f"ngrams_{n}"], _possible(items, n)) for n in ORDERS]
    return corpus_bleu(np.column_stack([*matches, *counted, length, items["reference_length"]]))


def _percents(values: Mapping[str, Array]) -> dict[str, float]:
    return {slot: slot_percent(slot, each) for slot, each in values.items()}


def _means(slots: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each family whose slots were scored, and of all three as `skill`."""
    scored = {f: [slots[s] for s in own if s in slots] for f, own in FAMILIES.items()}
    means = {family: float(np.mean(own)) for family, own in scored.items() if own}
    return means | ({"skill": float(np.mean(list(means.values())))} if len(means) == 3 else {})
