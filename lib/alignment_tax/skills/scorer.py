"""The one function that scores a model: lm-eval, in memory, with every item kept."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.labels import BLEU_COLUMNS, FAMILIES, SLOTS

Split = Literal["reported", "validation"]
Array = np.ndarray


class SkillsError(ValueError):
    """A suite, a model or two sets of scores cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Task:
    """One slot of a suite: the lm-eval task that fills it, and which of its metrics counts."""

    name: str
    metric: str


# Both suites fill the same slots, so that one table and one figure serve both: where the tiny world
# asks for one hop, the real suite has ARC-Easy, and so on.
SUITES: dict[str, dict[str, Task]] = {
    "tiny": {
        "one_hop": Task("tiny_one_hop", "acc"),
        "two_hop": Task("tiny_two_hop", "acc"),
        "piqa_like": Task("tiny_piqa_like", "acc"),
        "race_like": Task("tiny_race_like", "acc"),
        "span": Task("tiny_span", "exact_match"),
        "counting": Task("tiny_counting", "exact_match"),
        "bleu": Task("tiny_translation", "bleu"),
    },
    "real": {
        "one_hop": Task("real_arc_easy", "acc"),
        "two_hop": Task("real_arc_challenge", "acc"),
        "piqa_like": Task("real_piqa", "acc"),
        "race_like": Task("real_race", "acc"),
        "span": Task("real_squad", "f1"),
        "counting": Task("real_drop", "f1"),
        "bleu": Task("real_wmt14", "bleu"),
    },
}


def suite(name: str) -> dict[str, str]:
    """Return the lm-eval task of every slot of a suite: {slot: task name}.

    Raises:
        SkillsError: no such suite; the message lists those that exist.
    """
    return {slot: task.name for slot, task in _suite(name).items()}


@dataclass(frozen=True)
class SkillScores:
    """What one model can do.

    `metrics`: every slot, every family and `skill`, in percent. `items`: one row per slot and item
    with columns slot, item (its number in the task), fingerprint (of its text), value (accuracy,
    exact match or F1 in 0..1; NaN for translation) and the ten BLEU counts (NaN elsewhere), from
    which the corpus BLEU of any choice of items can be worked out.
    """

    metrics: dict[str, float]
    items: pd.DataFrame

    @property
    def n_items(self) -> int:
        """Number of items over all slots."""
        return len(self.items)

    def values(self) -> dict[str, Array]:
        """Return {slot: array}: (n,) in 0..1, for translation the counts (n, 10).

        This is what `front.paired_bootstrap` draws from, with `family_percent(...)` as statistic.
        """
        groups: dict[str, Array] = {}
        for slot, rows in self.items.groupby("slot", sort=False):
            columns = list(BLEU_COLUMNS) if slot == "bleu" else "value"
            groups[str(slot)] = rows[columns].to_numpy(dtype=float)
        return groups

    def save(self, folder: Path) -> None:
        """Write `skills.json` and `items.parquet` into a folder, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        with _whole_file(folder / "items.parquet") as part:
            self.items.to_parquet(part, index=False)
        with _whole_file(folder / "skills.json") as part:
            part.write_text(json.dumps(self.metrics, indent=2) + "\n", encoding="utf-8")

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


class Scorer:
    """Score many models on one suite: tasks are built once, the model is passed as an object.

    Each task is run by itself, so that its numbers don't depend on which others run beside it.
    Decoding is greedy and the batch size fixed: the same model gives the same numbers.

    Args:
        suite: "tiny" or "real".
        limit: number of items per task, from the first; None for all.
        batch_size: items per forward pass. Numbers move a little with it: compare only equal ones.
        split: "reported", or "validation" (for choosing strengths and for stopping early).
        without: slots that are left out, say since their data cannot be had here. Their family is
            then the mean of the rest. A slot whose task does not exist is never left out silently.
        folder: where the task files are; default: the suite's folder in this package.

    Raises:
        SkillsError: unknown suite, split or slot, or a task that the folder does not have.
    """

    def __init__(
        self,
        suite: str,
        limit: int | None,
        batch_size: int,
        split: Split = "reported",
        *,
        without: Sequence[str] = (),
        folder: Path | None = None,
    ) -> None:
        if split not in ("reported", "validation"):
            raise SkillsError(f"There is no split {split!r}: choose 'reported' or 'validation'.")
        if limit is not None and limit < 1:
            raise SkillsError(f"limit is {limit}: it must be None (all items) or at least 1.")
        slots = _suite(suite)
        if unknown := set(without) - set(slots):
            raise SkillsError(f"There is no slot {sorted(unknown)[0]!r} to leave out of {suite!r}.")
        self.limit, self.batch_size = limit, batch_size
        suffix = "" if split == "reported" else "_validation"
        self.slots = {
            slot: Task(task.name + suffix, task.metric)
            for slot, task in slots.items()
            if slot not in without
        }
        folder = folder or Path(__file__).parent / suite
        self.tasks = _build_tasks([task.name for task in self.slots.values()], folder)

    def score(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SkillScores:
        """Score one model; it is left in the mode (training or evaluation) it came in.

        Raises:
            SkillsError: generation would not stop at the tokenizer's end of sequence, or a task
                does not report what its slot needs.
        """
        from lm_eval.models.huggingface import HFLM

        _check_stops(model, tokenizer)
        training = model.training
        with _log_level("lm_eval", logging.ERROR):
            language_model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size)
        tables = []
        try:
            for slot, task in tqdm(self.slots.items(), desc="scoring skills", leave=False):
                result = self._evaluate(language_model, task)
                tables.append(_items(slot, task, result["samples"][task.name]))
        finally:
            model.train(training)
        items = pd.concat(tables, ignore_index=True)
        return SkillScores(_metrics(items), items)

    def _evaluate(self, language_model: Any, task: Task) -> Any:
        """Run one task; lm-eval's progress bars stay out of the notebook, its warnings do not."""
        from lm_eval.evaluator import evaluate

        bars = contextlib.redirect_stderr(io.StringIO())
        with bars, _log_level("sacrebleu", logging.ERROR), _warnings_of("lm_eval") as heard:
            result = evaluate(
                language_model,
                {"tasks": {task.name: self.tasks[task.name]}},
                limit=self.limit,
                bootstrap_iters=0,
            )
        for message in heard:
            warnings.warn(f"{task.name}: {message}", stacklevel=3)
        return result


def bleu_statistics(reference: str, prediction: str) -> list[float]:
    """Return the ten counts of one translation, in the order of `BLEU_COLUMNS`.

    Tokenised as lm-eval's metric does it (sacrebleu's default, 13a). Sums of these counts over
    items are all that corpus BLEU needs (Papineni et al. 2002).
    """
    from sacrebleu.metrics import BLEU

    score = BLEU(effective_order=True).sentence_score(prediction, [reference])
    return [float(n) for n in (*score.counts, *score.totals, score.sys_len, score.ref_len)]


def corpus_bleu(statistics: Array) -> float:
    """Return the corpus BLEU (0 to 100) of items given by their counts (n, 10).

    Summed over items first: corpus BLEU is no mean of sentence scores. Smoothing as in sacrebleu's
    and lm-eval's default ("exp").
    """
    from sacrebleu.metrics import BLEU

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
    """Return the items of two models per seed, paired, for `front.paired_bootstrap`.

    Only the slots that `family` needs are returned.

    Raises:
        SkillsError: the two were not scored on the very same items.
    """
    if len(first) != len(second):
        raise SkillsError(f"Seeds must be paired: {len(first)} against {len(second)} scores.")
    slots = FAMILIES.get(family, SLOTS if family == "skill" else (family,))
    for a, b in zip(first, second, strict=True):
        key = ["slot", "item", "fingerprint"]
        if not a.items[key].equals(b.items[key]):
            raise SkillsError(
                "The two models were scored on different items: use one suite, split and limit, "
                "and score again what was scored before the tasks changed."
            )
    pair = [
        [{s: v for s, v in x.values().items() if s in slots} for x in y] for y in (first, second)
    ]
    return pair[0], pair[1]


def _suite(name: str) -> dict[str, Task]:
    """Look a suite up."""
    if name not in SUITES:
        raise SkillsError(f"There is no suite {name!r}. Choose one of: {', '.join(SUITES)}.")
    return SUITES[name]


def _build_tasks(names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Build lm-eval tasks from the YAML files of a folder, without reading lm-eval's own."""
    from lm_eval.tasks import TaskManager

    with _log_level("lm_eval", logging.ERROR):
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        if missing := [name for name in names if name not in manager.all_subtasks]:
            raise SkillsError(
                f"{folder} has no lm-eval task {missing[0]!r}. Add its YAML file, or name the slot "
                "in `without`."
            )
        return dict(manager.load(list(names))["tasks"])


def _check_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model that would go on after the end of sequence: lm-eval keeps what follows."""
    config = getattr(model, "generation_config", None)
    stops = getattr(config, "eos_token_id", None)
    stops = [stops] if isinstance(stops, int) else list(stops or [])
    if tokenizer.eos_token_id not in stops:
        raise SkillsError(
            f"The model stops at token(s) {stops}, the tokenizer's end of sequence is "
            f"{tokenizer.eos_token_id} ({tokenizer.eos_token!r}). Set "
            "model.generation_config.eos_token_id = tokenizer.eos_token_id."
        )


def _items(slot: str, task: Task, samples: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per item of a task from lm-eval's samples."""
    rows = []
    for sample in samples:
        if task.metric not in sample["metrics"]:
            raise SkillsError(
                f"Task {task.name!r} reports {', '.join(sample['metrics'])}, but the slot {slot!r} "
                f"needs {task.metric!r}: name it in the task's metric_list."
            )
        row = {"slot": slot, "item": sample["doc_id"], "fingerprint": sample["doc_hash"][:16]}
        if slot == "bleu":
            reference, prediction = sample["bleu"]
            counts = bleu_statistics(reference, prediction)
            row |= {"value": np.nan, **dict(zip(BLEU_COLUMNS, counts, strict=True))}
        else:
            value = float(sample[task.metric])
            if not 0 <= value <= 1:
                raise SkillsError(f"Task {task.name!r}: {task.metric} = {value} is not in 0..1.")
            row |= {"value": value, **dict.fromkeys(BLEU_COLUMNS, np.nan)}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("item", ignore_index=True)


def _metrics(items: pd.DataFrame) -> dict[str, float]:
    """Return slots, families and skill in percent."""
    values = SkillScores({}, items).values()
    slots = {slot: slot_percent(slot, v) for slot, v in values.items()}
    return slots | _means(slots)


def _means(slots: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each family whose slots were scored, and of all three as `skill`."""
    means = {
        family: float(np.mean([slots[s] for s in members if s in slots]))
        for family, members in FAMILIES.items()
        if any(s in slots for s in members)
    }
    return means | ({"skill": float(np.mean(list(means.values())))} if len(means) == 3 else {})


@contextlib.contextmanager
def _log_level(name: str, level: int) -> Iterator[None]:
    """Set the level of a logger for a while: its notes are for users of a command line."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _warnings_of(name: str) -> Iterator[list[str]]:
    """Collect what a logger warns of, each message once: a prompt that was cut, say."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (message := record.getMessage()) not in heard:
                heard.append(message)

    logger, ear = logging.getLogger(name), Ear(logging.WARNING)
    logger.addHandler(ear)
    try:
        yield heard
    finally:
        logger.removeHandler(ear)


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` only when everything was written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
