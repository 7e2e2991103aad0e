"""L1 and L2 penalties toward theta_0 in weight space: paper, section 4.1, Eq. 2.

    L1: lambda * mean(|d| / u)    L2: lambda * 0.1 * mean((d / u)^2)    d = theta - theta_0

The paper prints a plus in a maximisation. Its code has mean|d| * 1e5 and mean(d^2) * 1e9, which is
the same at u = 1e-5, its learning rate: about the step of Adam. Here u is the learning rate.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from alignment_tax.mitigate.base import Setting, Treatment, check_strength, snapshot, trained
from alignment_tax.models import Model
from alignment_tax.train.loop import Batch, Outputs

#: The paper's 1e9 in units of its learning rate: 1e9 * (1e-5)^2.
L2_SCALE = 0.1
Power = Literal[1, 2]


class WeightPenalty(Treatment):
    """Adds lambda times the distance of the weights from theta_0, averaged over the weights.

    LoRA's trained parameters are its two factors: they are pulled to where they started. `strength`
    is lambda, `unit` the learning rate. ValueError: a strength below 0, a unit not above 0.
    """

    def __init__(self, theta_0: Model, strength: float, power: Power, unit: float):
        self.strength = check_strength(strength, f"L{power}")
        if not unit > 0:
            raise ValueError(f"unit is {unit}: it must be the learning rate, above 0.")
        self.power, self.unit, self.start = power, unit, snapshot(theta_0)

    def begin(self, model: Model) -> Model:
        """Also remember where parameters start that theta_0 does not have (LoRA's)."""
        self.start = snapshot(model) | self.start
        return model

    def loss(self, model: Model, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the penalty, a scalar."""
        changes = {n: (p - self.start[n].to(p)) / self.unit for n, p in trained(model).items()}
        total = torch.stack([self.size(*named) for named in changes.items()]).sum()
        scale = 1.0 if self.power == 1 else L2_SCALE
        return self.strength * scale * total / sum(change.numel() for change in changes.values())

    def size(self, name: str, change: Tensor) -> Tensor:
        """Return what a parameter's change (in units) adds to the distance."""
        return change.abs().pow(self.power).sum()


def in_learning_rates(setting: Setting, strength: float, power: Power) -> WeightPenalty:
    """Return the penalty in units of the run's learning rate."""
    return WeightPenalty(setting.theta_0, strength, power, setting.config.learning_rate)


l1, l2 = partial(in_learning_rates, power=1), partial(in_learning_rates, power=2)
