"""Measure what a model can do: the alignment tax is measured here and nowhere else.

Skills are tasks of lm-eval, so that its command gives the same numbers for any checkpoint:

    lm_eval --model hf --model_args pretrained=FOLDER --tasks tiny_span --batch_size 128 \
        --include_path lib/alignment_tax/skills/tiny

Families as in the paper (section 3): common sense (accuracy), reading (exact match or F1),
translation (BLEU). The skill of a model is the mean of the three.
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
from alignment_tax.skills.scorer import Scorer
