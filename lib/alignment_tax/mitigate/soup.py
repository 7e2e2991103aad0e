"""Soup: the mean of several runs in place of one, then averaged with theta_0. Wortsman et al. 2022.

    theta(alpha) = theta_0 + alpha (mean_i theta_i - theta_0)

The runs learn the same replies, each in another order. At alpha 1 it is the soup itself.
"""

import torch

from alignment_tax.merge.average import State, average, own_tensors
from alignment_tax.mitigate.average import Average
from alignment_tax.mitigate.base import Setting

#: Runs in the soup, the plain one among them.
RUNS = 4


class Soup(Average):
    """Averages the outcome with three more runs, and all with theta_0."""

    def __init__(self, setting: Setting, alpha: float) -> None:
        super().__init__(setting, alpha, self.mixed)
        self.setting = setting

    def mixed(self, theta_0: State, theta: State, alpha: float) -> State:
        """Return theta(alpha) of all runs."""
        others = [own_tensors(self.setting.run(number)) for number in range(1, RUNS)]
        every = [theta, *others]
        mean = {n: torch.stack([each[n] for each in every]).mean(dim=0) for n in theta}
        return average(theta_0, mean, alpha)
