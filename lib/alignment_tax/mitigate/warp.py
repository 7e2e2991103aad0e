"""WARP without its anchor: two policies joined on the sphere, then drawn back to theta_0.

    d = slerp(theta_1 - theta_0, theta_2 - theta_0, 1/2),    theta(alpha) = theta_0 + alpha d

Ramé et al. 2024 (2406.16768), steps 2 and 3, one iteration. The two policies learn the same replies
in another order. Step 1, a KL penalty toward a moving average of the policy, is left out: it needs
on-policy RL, and here every remedy learns from one pool of replies.
"""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from alignment_tax.merge.average import State, own_tensors
from alignment_tax.mitigate.average import Average
from alignment_tax.mitigate.base import Setting, distil
from alignment_tax.mitigate.slerp import slerp
from alignment_tax.train.rounds import sub_seed


class Warp(Average):
    """Trains a second policy once the first has ended, joins both and averages with theta_0."""

    def __init__(self, setting: Setting, alpha: float) -> None:
        super().__init__(setting, alpha, self.joined)
        self.setting = replace(setting, seed=sub_seed(setting.seed, 2))

    def joined(self, theta_0: State, theta: State, alpha: float) -> State:
        """Return theta(alpha) of both policies."""
        second = own_tensors(self.second)
        changes = [{n: each[n] - start for n, start in theta_0.items()} for each in (theta, second)]
        both = slerp(*changes, 0.5)
        return {name: start + alpha * both[name] for name, start in theta_0.items()}

    def end(self, model: PreTrainedModel) -> PreTrainedModel:
        """Train the second policy, and merge."""
        self.second = distil(self.setting).policy
        return super().end(model)
