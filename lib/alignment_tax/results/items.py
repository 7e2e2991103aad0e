"""What a model answered, item by item, and all that is computed from it without the model.

A table of items has a row per slot and item: slot, item (its number in the task), fingerprint (of
its text), value (accuracy, exact match or F1 in 0..1; NaN for translation) and the ten counts of
BLEU (NaN elsewhere), which also tell a translation that goes on talking from a wrong one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sacrebleu.metrics import BLEU

from alignment_tax.labels import BLEU_COLUMNS, FAMILIES, SLOTS
from alignment_tax.store import write_whole

Array = np.ndarray
SENTENCE = BLEU(effective_order=True)
ORDERS = range(1, 5)  # BLEU counts phrases of one to four words


class SkillsError(ValueError):
    """A suite, a model or two sets of scores cannot be used; the message says what to do."""


@dataclass(frozen=True)
class SkillScores:
    """What one model can do: `metrics` in percent (slots, families, `skill`), and its `items`."""

    metrics: dict[str, float]
    items: pd.DataFrame

    @classmethod
    def of(cls, items: pd.DataFrame) -> SkillScores:
        """Return the scores of a table of items."""
        slots = {slot: slot_percent(slot, v) for slot, v in cls({}, items).values().items()}
        return cls(slots | _means(slots), items)

    @property
    def n_items(self) -> int:
        """Number of items over all slots."""
        return len(self.items)

    def values(self) -> dict[str, Array]:
        """Return {slot: array}: (n,) in 0..1, for translation the counts (n, 10)."""
        return {
            str(slot): rows[list(BLEU_COLUMNS) if slot == "bleu" else "value"].to_numpy(dtype=float)
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
    """Return the ten counts of one translation, in the order of `BLEU_COLUMNS`.

    Their sums over items are all that corpus BLEU needs (Papineni et al. 2002).
    """
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
    """Return the statistic {slot: items} -> percent of a slot, a family, or of "skill".

    Slots of a family weigh alike whatever their number of items, as do families in "skill".

    Raises:
        SkillsError: no such slot or family.
    """
    known = (*SLOTS, *FAMILIES, "skill")
    if family not in known:
        raise SkillsError(f"There is no score {family!r}. Choose from: {', '.join(known)}.")

    def statistic(values: Mapping[str, Array]) -> float:
        if family in SLOTS:
            return slot_percent(family, values[family])
        return _means({slot: slot_percent(slot, v) for slot, v in values.items()})[family]

    return statistic


def pair_scores(
    first: Sequence[SkillScores], second: Sequence[SkillScores], family: str = "skill"
) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Return the items of two models per seed, paired, for `compare.paired_bootstrap`.

    Args:
        first, second: The scores of each model, the seeds in the same order.
        family: What is compared; only the slots that it needs are returned.

    Raises:
        SkillsError: the two were not scored on the very same items.
    """
    if len(first) != len(second):
        raise SkillsError(f"Seeds must be paired: {len(first)} against {len(second)} scores.")
    slots = FAMILIES.get(family, SLOTS if family == "skill" else (family,))
    key = ["slot", "item", "fingerprint"]
    if not all(a.items[key].equals(b.items[key]) for a, b in zip(first, second, strict=True)):
        raise SkillsError(
            "The two models were scored on different items: use one suite, split and limit, "
            "and score again what was scored before the tasks changed."
        )

    def own(scores: SkillScores) -> dict[str, Array]:
        return {slot: each for slot, each in scores.values().items() if slot in slots}

    return list(map(own, first)), list(map(own, second))


def right(items: pd.DataFrame) -> Array:
    """Return whether each item is right (n,): half the credit or more; a translation every word."""
    whole = (items["length"] == items["reference_length"]).to_numpy()
    for n in ORDERS:
        whole = whole & (items[f"matches_{n}"] == items[f"ngrams_{n}"]).to_numpy()
    return np.where((items["slot"] == "bleu").to_numpy(), whole, (items["value"] >= 0.5).to_numpy())


def goes_on(items: pd.DataFrame) -> Array:
    """Return whether each item is a translation with all of the reference in it, and more (n,)."""
    longer = ((items["slot"] == "bleu") & (items["length"] > items["reference_length"])).to_numpy()
    for n in ORDERS:
        longer = longer & (items[f"matches_{n}"] == _possible(items, n)).to_numpy()
    return longer


def _possible(items: pd.DataFrame, n: int) -> pd.Series:
    """Return how many phrases of n words each reference has."""
    return (items["reference_length"] - n + 1).clip(lower=0)


def capped_bleu(items: pd.DataFrame) -> float:
    """Return the corpus BLEU of translations if nothing beyond the reference's length counted.

    Surplus phrases are taken to be wrong ones as far as there are such: an upper bound.
    """
    length = np.minimum(items["length"], items["reference_length"])
    matches = [items[f"matches_{n}"] for n in ORDERS]
    counted = [np.minimum(items[f"ngrams_{n}"], _possible(items, n)) for n in ORDERS]
    return corpus_bleu(np.column_stack([*matches, *counted, length, items["reference_length"]]))


def _means(slots: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each family whose slots were scored, and of all three as `skill`."""
    scored = {f: [slots[s] for s in own if s in slots] for f, own in FAMILIES.items()}
    means = {family: float(np.mean(own)) for family, own in scored.items() if own}
    return means | ({"skill": float(np.mean(list(means.values())))} if len(means) == 3 else {})
