"""What the YAML files of the real benchmarks call: items, few-shot examples, reading scores."""

from collections import Counter
from functools import partial
from typing import Any

from datasets import Dataset, DatasetDict
from lm_eval.tasks.drop.utils import get_metrics
from lm_eval.tasks.qasper.metrics import normalize_answer

from alignment_tax.world.real import benchmark


def items(benchmark_name: str, part: str, **_: object) -> DatasetDict:
    """Return the items of a benchmark as the one split "items" (lm-eval also passes metadata)."""
    return DatasetDict({"items": Dataset.from_list(benchmark(benchmark_name, part))})


squad_examples = partial(benchmark, "squad", "examples")
drop_examples = partial(benchmark, "drop", "examples")
translation_examples = partial(benchmark, "wmt14", "examples")


def squad_f1(predicted: list[str], expected: list[str]) -> float:
    """Return the F1, 0 to 1, of two bags of words."""
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


def score_squad(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return em and f1 of one reply, 0 to 1, against the best of the accepted answers."""
    # normalised as SQuAD's official script does: small, no punctuation, no article
    reply, *answers = (normalize_answer(text).split() for text in (results[0], *doc["answers"]))
    return {"em": float(reply in answers), "f1": max(squad_f1(reply, each) for each in answers)}


def score_drop(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return em and f1 of one reply, 0 to 1, by DROP's rules (a number must match)."""
    scores = [get_metrics(results[0].strip(), answer) for answer in doc["answers"]]
    return {"em": max(em for em, _ in scores), "f1": float(max(f1 for _, f1 in scores))}


def score_translation(doc: dict[str, Any], results: list[str]) -> dict[str, tuple[str, str]]:
    """Return (reference, translation) of one item; lm-eval makes corpus BLEU of all (sacrebleu)."""
    return {"bleu": (doc["en"], results[0].strip())}
