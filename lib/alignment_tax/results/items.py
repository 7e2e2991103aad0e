"""What a model answered, item by item, and all that is computed from it without the model.

A table of items has a row per slot and item: slot, item (its number in the task), fingerprint (of
its text), value (accuracy, exact match or F1 in 0..1; NaN for translation) and the ten counts of
BLEU (NaN elsewhere), from which the corpus BLEU of any choice of items can be worked out. A
translation that is right and then goes on talking scores a low BLEU, as if the French were
forgotten; the counts tell the two apart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sacrebleu.metrics import BLEU

from alignment_tax.labels import BLEU_COLUMNS, FAMILIES, SLOTS

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
        """Return {slot: array}: (n,) in 0..1, for translation the counts (n, 10).

        This is what `compare.paired_bootstrap` draws from, with `family_percent(...)` as statistic.
        """
        groups: dict[str, Array] = {}
        for slot, rows in self.items.groupby("slot", sort=False):
            columns = list(BLEU_COLUMNS) if slot == "bleu" else "value"
            groups[str(slot)] = rows[columns].to_numpy(dtype=float)
        return groups

    def save(self, folder: Path) -> None:
        """Write `skills.json` and `items.parquet` into a folder, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.metrics, indent=2) + "\n"
        _write(folder / "items.parquet", lambda part: self.items.to_parquet(part, index=False))
        _write(folder / "skills.json", lambda part: part.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, folder: Path) -> SkillScores:
        """Read what `save` wrote.

        Raises:
            SkillsError: the folder holds no scores.
        """
        for name in ("skills.json", "items.parquet"):
            if not (folder / name).is_file():
                raise SkillsError(f"{folder} has no {name}: score the model there first.")
        metrics = json.loads((folder / "skills.json").read_text(encoding="utf-8"))
        return cls(metrics, pd.read_parquet(folder / "items.parquet"))


def bleu_statistics(reference: str, prediction: str) -> list[float]:
    """Return the ten counts of one translation, in the order of `BLEU_COLUMNS`.

    Tokenised as lm-eval's metric does it (sacrebleu's default, 13a). Sums of these counts over
    items are all that corpus BLEU needs (Papineni et al. 2002).
    """
    score = SENTENCE.sentence_score(prediction, [reference])
    return [float(n) for n in (*score.counts, *score.totals, score.sys_len, score.ref_len)]


def corpus_bleu(statistics: Array) -> float:
    """Return the corpus BLEU (0 to 100) of items given by their counts (n, 10).

    Summed over items first: corpus BLEU is no mean of sentence scores. Smoothing as in sacrebleu's
    and lm-eval's default ("exp").
    """
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

    Only the slots that `family` needs are returned.

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
    pair = [
        [{s: v for s, v in x.values().items() if s in slots} for x in y] for y in (first, second)
    ]
    return pair[0], pair[1]


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


def _means(slots: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each family whose slots were scored, and of all three as `skill`."""
    means = {
        family: float(np.mean([slots[s] for s in members if s in slots]))
        for family, members in FAMILIES.items()
        if any(s in slots for s in members)
    }
    return means | ({"skill": float(np.mean(list(means.values())))} if len(means) == 3 else {})


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` make a file beside `path`, and move it there once it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
