"""The one function that scores a model: lm-eval, in memory, with every item kept."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.labels import BLEU_COLUMNS
from alignment_tax.results.items import SkillScores, SkillsError, bleu_statistics

Split = Literal["reported", "validation"]


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
        return SkillScores.of(pd.concat(tables, ignore_index=True))

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
