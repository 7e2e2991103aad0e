"""Averaging the outcome of another remedy with theta_0: `merge.average` as the last step of a run.

For a whole sweep over alpha of one trained policy use `merge.parts.Mixture`, which trains nothing.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from alignment_tax.merge.average import average, own_tensors, write_weights
from alignment_tax.merge.layout import check_alpha
from alignment_tax.mitigate.base import Setting, Treatment


class Average(Treatment):
    """Writes (1 - alpha) theta_0 + alpha theta into the outcome (MergeError: a bad alpha)."""

    def __init__(self, setting: Setting, alpha: float) -> None:
        check_alpha(alpha)
        self.theta_0, self.alpha = setting.theta_0, alpha

    def end(self, model: PreTrainedModel) -> PreTrainedModel:
        """Average the policy with theta_0, in place."""
        mixed = average(own_tensors(self.theta_0), own_tensors(model), self.alpha)
        write_weights(model, mixed)
        return model
