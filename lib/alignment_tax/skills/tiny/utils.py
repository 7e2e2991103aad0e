"""Data of the tiny world's lm-eval tasks: the YAML files beside this one point here."""

from datasets import DatasetDict

from alignment_tax.world.tiny import items


def load(slot: str, **kwargs: object) -> DatasetDict:
    """Both splits of a skill; lm-eval passes `dataset_kwargs` and its own metadata."""
    return DatasetDict({split: items(slot, split) for split in ("reported", "validation")})


def exact_match(doc: dict[str, object], results: list[str]) -> dict[str, float]:
    """1 when the generated answer is the reference, word for word."""
    return {"exact_match": float(str(results[0]).split() == str(doc["target"]).split())}
