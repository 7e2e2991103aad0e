"""Measure what a model can do: the alignment tax is measured here and nowhere else.

Skills are tasks of lm-eval (`skills/tiny`, `skills/real`), so that any checkpoint can also be
scored with the public command, to the same numbers:

    lm_eval --model hf --model_args pretrained=FOLDER --tasks tiny_span --batch_size 128 \
        --include_path lib/alignment_tax/skills/tiny

Families as in the paper (section 3): common sense (accuracy), reading (exact match or F1),
translation (BLEU). The skill of a model is the mean of the three. What is computed from answered
items is in `results.items`; its names can be had from here too.
"""

from alignment_tax.labels import FAMILIES, SLOTS
from alignment_tax.results.items import (
    SkillScores,
    SkillsError,
    bleu_statistics,
    corpus_bleu,
    family_percent,
    pair_scores,
    right,
    slot_percent,
)
from alignment_tax.skills.scorer import Scorer, suite

__all__ = [
    "FAMILIES",
    "SLOTS",
    "Scorer",
    "SkillScores",
    "SkillsError",
    "bleu_statistics",
    "corpus_bleu",
    "family_percent",
    "pair_scores",
    "right",
    "slot_percent",
    "suite",
]
