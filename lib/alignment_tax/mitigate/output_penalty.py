"""Stay close to theta_0 in what is said rather than in the weights: KD and KL.

p = pi_theta0(. | prompt, reply so far) of the teacher, q of the policy in training; summed over the
vocabulary, averaged over the reply tokens of the batch, as the loss itself is.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import cast

from torch import Tensor

from alignment_tax.mitigate import base
from alignment_tax.models import Model
from alignment_tax.train.loop import Batch, Outputs

#: Share of the policy that its moving average takes up at every step: WARP's.
ANCHOR_RATE = 0.01
Distance = Callable[[Tensor, Tensor], Tensor]


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(p || q) of log-probabilities (tokens, vocabulary): KD as in the paper's code."""
    return (teacher.exp() * (teacher - student)).sum(dim=-1)


def reverse_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(q || p) of log-probabilities (tokens, vocabulary): Eq. 10, there for PPO only."""
    return forward_kl(student, teacher)


def squared_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Return ||p - q||^2 of log-probabilities (tokens, vocabulary): KD as in section 4.1."""
    return (student.exp() - teacher.exp()).square().sum(dim=-1)


class OutputPenalty(base.Treatment):
    """Adds lambda times a distance between the outputs of teacher and policy on the replies.

    With KD the best q for a token is (data + lambda p) / (1 + lambda): averaging of outputs.
    `strength` is lambda (ValueError: it is below 0).
    """

    def __init__(self, teacher: base.Teacher, strength: float, distance: Distance) -> None:
        self.strength = base.check_strength(strength, distance.__name__)
        self.teacher, self.distance = teacher, distance

    def loss(self, model: Model, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the penalty, a scalar."""
        student = base.reply_log_probs(cast(Tensor, outputs.logits), batch["labels"])
        return self.strength * self.distance(self.teacher.log_probs(batch), student).mean()


def to_theta_0(distance: Distance, setting: base.Setting, strength: float) -> OutputPenalty:
    """Return the penalty on the distance from what theta_0 says."""
    return OutputPenalty(setting.teacher, strength, distance)


class KlToAverage(OutputPenalty):
    """WARP's anchor: KL(policy || moving average of the policy). Ramé et al. 2024, step 1."""

    def __init__(self, setting: base.Setting, strength: float) -> None:
        super().__init__(base.Teacher(copy.deepcopy(setting.theta_0), room=0), strength, reverse_kl)

    def after_step(self, model: Model, step: int) -> None:
        """Move the anchor toward the policy."""
        anchor = base.trained(self.teacher.model)
        for name, p in base.trained(model).items():
            anchor[name].lerp_(p, ANCHOR_RATE)


kd, kd_squared, kl = (partial(to_theta_0, d) for d in (forward_kl, squared_distance, reverse_kl))
