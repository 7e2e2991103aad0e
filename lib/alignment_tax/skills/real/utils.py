"""What the YAML files of the real benchmarks call: items, few-shot examples, reading scores."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import Any

from datasets import Dataset, DatasetDict
from lm_eval.tasks.drop.utils import get_metrics

from alignment_tax.world.real import benchmark


def items(benchmark_name: str, part: str, **_: object) -> DatasetDict:
    """Return the items of a benchmark as the one split "items" (lm-eval also passes metadata)."""
    return DatasetDict({"items": Dataset.from_list(benchmark(benchmark_name, part))})


def squad_examples() -> list[dict[str, Any]]:
    """Return the fixed few-shot examples of SQuAD: short training passages, in no other part."""
    return benchmark("squad", "examples")


def drop_examples() -> list[dict[str, Any]]:
    """Return the fixed few-shot examples of DROP: short passages, in no other part."""
    return benchmark("drop", "examples")


def translation_examples() -> list[dict[str, Any]]:
    """Return the fixed few-shot examples: sentences of newstest2013 that are in no other part."""
    return benchmark("wmt14", "examples")


def normalise(text: str) -> str:
    """Return `text` as SQuAD's official script compares it.

    Lower case, no punctuation, no articles, single spaces.
    """
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def squad_em(prediction: str, answer: str) -> float:
    """Return 1.0 if both are the same after `normalise`, else 0.0."""
    return float(normalise(prediction) == normalise(answer))


def squad_f1(prediction: str, answer: str) -> float:
    """Return the F1, 0 to 1, of the two bags of words after `normalise`."""
    predicted, expected = normalise(prediction).split(), normalise(answer).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


def score_squad(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return em and f1 of one reply, 0 to 1, against the best of the accepted answers."""
    reply = results[0].strip()
    return {
        "em": max(squad_em(reply, answer) for answer in doc["answers"]),
        "f1": max(squad_f1(reply, answer) for answer in doc["answers"]),
    }


def score_drop(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return em and f1 of one reply, 0 to 1, by DROP's rules (a number must match)."""
    scores = [get_metrics(results[0].strip(), answer) for answer in doc["answers"]]
    return {"em": max(em for em, _ in scores), "f1": float(max(f1 for _, f1 in scores))}


def score_translation(doc: dict[str, Any], results: list[str]) -> dict[str, tuple[str, str]]:
    """Return (reference, translation) of one item; lm-eval makes corpus BLEU of all (sacrebleu)."""
    return {"bleu": (doc["en"], results[0].strip())}
