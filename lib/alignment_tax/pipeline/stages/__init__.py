"""The stages of a run: from a run and a spec each makes an artifact, or loads it.

What trains a model is here by the spec's `protocol`; its check refuses, before anything is made.
"""

from alignment_tax.pipeline.stages import base, ratios, remedies, rlhf, scores
from alignment_tax.pipeline.stages.run import STAGES, Stage, trained
from alignment_tax.spec import DISTILLED, INSIDE, KL_COEF, LEARNING_RATE, ROUNDS

STAGES |= {
    "base": Stage(base.base),
    "sft": Stage(base.sft),
    ROUNDS: Stage(rlhf.rounds, lambda run, spec: run.end(spec.algorithm, spec.rounds)),
    KL_COEF: Stage(rlhf.rounds, rlhf.check_changed),
    LEARNING_RATE: Stage(rlhf.rounds, rlhf.check_changed),
    DISTILLED: Stage(
        remedies.distilled, lambda r, s: remedies.check(r, remedies.wanted(s), s.rounds)
    ),
    INSIDE: Stage(rlhf.inside_rounds, rlhf.check_inside),
    # a mixture has no files of its own: its aligned end has
    "mixture": Stage(trained, ratios.check_mixture),
}
