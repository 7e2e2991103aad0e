"""Weights weighed by how much they matter: Fisher-weighted averaging, and EWC.

    averaging: theta_i = (a F_i theta_i + (1 - a) F0_i theta0_i) / (a F_i + (1 - a) F0_i)
    EWC:       lambda * 0.1 * mean(F0 * (d / u)^2),    d = theta - theta_0

Matena and Raffel 2022 (2111.09832); Kirkpatrick et al. 2017. F is the diagonal of the (empirical)
Fisher information, the mean squared gradient of an example's loss: F0 of theta_0 on pretraining
text, F of theta on the replies that it learnt. Each is divided by its mean, so that alpha is a mean
weight, and EWC with equal F0 is L2 (weight_penalty.py) at the same lambda.
"""

import copy
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from alignment_tax.merge.average import State
from alignment_tax.mitigate.average import Average
from alignment_tax.mitigate.base import Setting, trained
from alignment_tax.mitigate.graft import pool_batches
from alignment_tax.mitigate.replay import check_texts, text_losses
from alignment_tax.mitigate.weight_penalty import WeightPenalty
from alignment_tax.models import Model

#: Examples that a Fisher information is the mean of.
EXAMPLES = 256
#: Added to a Fisher information of mean 1: a weight that neither model's loss feels is averaged.
FLOOR = 1e-3


def information(model: Model, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the mean squared gradient of each loss, over its own mean: one tensor a parameter."""
    weights = trained(model)
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    for loss in losses:
        found = torch.autograd.grad(loss, list(weights.values()))
        for name, gradient in zip(total, found, strict=True):
            total[name] += gradient.square()
    whole = sum(float(each.sum()) for each in total.values())
    count = sum(each.numel() for each in total.values())
    return {name: each * (count / whole) for name, each in total.items()}


def of_texts(setting: Setting) -> dict[str, Tensor]:
    """Return the information of theta_0 on pretraining text."""
    model = copy.deepcopy(setting.theta_0).requires_grad_(True)
    return information(model, text_losses(setting, model, EXAMPLES, 1))


def weighted(theta_0: State, theta: State, alpha: float, start: State, end: State) -> State:
    """Return the average weighted by the information of both ends, exact at alpha 0 and 1."""
    if alpha in (0, 1):
        return {name: each.clone() for name, each in (theta if alpha else theta_0).items()}
    shares = {n: (1 - alpha) * (start[n] + FLOOR) for n in theta_0}
    shares = {n: 1 - share / (share + alpha * (end[n] + FLOOR)) for n, share in shares.items()}
    return {n: torch.lerp(each, theta[n], shares[n]) for n, each in theta_0.items()}


class FisherAverage(Average):
    """Averages the outcome with theta_0, each weight by both models' information."""

    def __init__(self, setting: Setting, alpha: float) -> None:
        super().__init__(setting, alpha)
        check_texts(setting, 1)
        one_by_one = replace(setting.config, batch_size=1)
        self.setting = replace(setting, pool=setting.pool[:EXAMPLES], config=one_by_one)

    def end(self, model: Model) -> Model:
        """Measure both ends' information, the outcome's on replies of the pool, and average."""
        model.requires_grad_(True)
        own = information(model, (model(**batch).loss for batch in pool_batches(self.setting)))
        self.merge = partial(weighted, start=of_texts(self.setting), end=own)
        return super().end(model)


class Ewc(WeightPenalty):
    """The L2 penalty with each weight's change weighed by theta_0's information."""

    def __init__(self, setting: Setting, strength: float) -> None:
        super().__init__(setting.theta_0, strength, 2, setting.config.learning_rate)
        check_texts(setting, 1)
        self.setting = setting

    def begin(self, model: Model) -> Model:
        """Measure the information, once."""
        self.information = of_texts(self.setting)
        return super().begin(model)

    def size(self, name: str, change: Tensor) -> Tensor:
        """Return the weighed square of a change (KeyError: theta_0 has no such parameter)."""
        return (self.information[name] * change.square()).sum()
