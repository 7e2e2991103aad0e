"""Stay close to theta_0 in what is said rather than in the weights: KD and KL.

With p = pi_theta0(. | prompt, reply so far) of the teacher and q = pi_theta(. | ...) of the policy
in training, both over the whole vocabulary, summed over it and averaged over the reply tokens of
the batch (as the loss itself is, so that a strength means the same for short and long replies):

    KD          lambda * KL(p || q) = lambda * sum p log(p / q)    the paper's code, T = 1
    KD squared  lambda * sum (p - q)^2                             the paper's text, section 4.1
    KL          lambda * KL(q || p) = lambda * sum q log(q / p)    Eq. 10, there for PPO only

KD covers all that the teacher would say; KL forbids what the teacher would not. With KD the best q
for a token is (data + lambda p) / (1 + lambda): lambda acts as averaging with alpha = 1 / (1 +
lambda), but of outputs, and on the prompts of the pool alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from alignment_tax.mitigate.base import Setting, Treatment, check_strength
from alignment_tax.mitigate.teacher import Teacher, reply_log_probs
from alignment_tax.train.loop import Batch

Distance = Callable[[Tensor, Tensor], Tensor]


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student) of log-probabilities (tokens, vocabulary): (tokens,)."""
    return (teacher.exp() * (teacher - student)).sum(dim=-1)


def reverse_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(student || teacher) of log-probabilities (tokens, vocabulary): (tokens,)."""
    return forward_kl(student, teacher)


def squared_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Return ||p - q||^2 of log-probabilities (tokens, vocabulary): (tokens,)."""
    return (student.exp() - teacher.exp()).square().sum(dim=-1)


class OutputPenalty(Treatment):
    """Adds lambda times a distance between the outputs of teacher and policy on the replies.

    Args:
        teacher: theta_0.
        strength: lambda, finite and 0 or more (ValueError otherwise).
        distance: `forward_kl`, `reverse_kl` or `squared_distance`.
    """

    def __init__(self, teacher: Teacher, strength: float, distance: Distance) -> None:
        self.strength = check_strength(strength, distance.__name__)
        self.teacher, self.distance = teacher, distance

    def loss(self, model: PreTrainedModel, batch: Batch, outputs: CausalLMOutputWithPast) -> Tensor:
        """Return the penalty, a scalar."""
        student = reply_log_probs(cast(Tensor, outputs.logits), batch["labels"])
        return self.strength * self.distance(self.teacher.log_probs(batch), student).mean()


def kd(setting: Setting, strength: float) -> OutputPenalty:
    """Return knowledge distillation as in the paper's code."""
    return OutputPenalty(setting.teacher, strength, forward_kl)


def kd_squared(setting: Setting, strength: float) -> OutputPenalty:
    """Return knowledge distillation as in the paper's text."""
    return OutputPenalty(setting.teacher, strength, squared_distance)


def kl(setting: Setting, strength: float) -> OutputPenalty:
    """Return the KL penalty of RLHF."""
    return OutputPenalty(setting.teacher, strength, reverse_kl)
