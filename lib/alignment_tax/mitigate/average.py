"""Merging the outcome of a run with theta_0 as its last step: `merge.average`, or another merge.

For a sweep over alpha of one trained policy use `merge.parts.Mixture`, which trains nothing.
"""

from collections.abc import Callable

from alignment_tax.merge.average import State, average, own_tensors, write_weights
from alignment_tax.merge.layout import check_alpha
from alignment_tax.mitigate.base import Setting, Treatment
from alignment_tax.models import Model

#: Takes the weights of theta_0, of the aligned model, and alpha.
Merge = Callable[[State, State, float], State]


class Average(Treatment):
    """Writes `merge(theta_0, theta, alpha)` into the outcome (MergeError: a bad alpha)."""

    def __init__(
        self, setting: Setting, alpha: float, merge: Merge = average, extrapolate: bool = False
    ) -> None:
        check_alpha(alpha, extrapolate=extrapolate)
        self.theta_0, self.alpha, self.merge = setting.theta_0, alpha, merge

    def end(self, model: Model) -> Model:
        """Merge the policy with theta_0, in place."""
        write_weights(model, self.merge(own_tensors(self.theta_0), own_tensors(model), self.alpha))
        return model
