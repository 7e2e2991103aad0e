"""Online merging: merge inside every optimiser step. Lu et al. 2024 (2405.17931), as released.

    theta_t = theta_(t-1) + (1 - a) F(d_t) + a F(tau),    tau = theta_0 - base

d_t is the optimiser's own step, tau what instruction tuning changed. OnDARE's F keeps a share p of
the elements at random, OnTIES' the largest of each tensor, and drops of both what has not the sign
of their sum. Nothing is rescaled, so p also shrinks the step. The strength is p; a is fixed.
"""

from functools import partial

import torch
from torch import Tensor

from alignment_tax.mitigate.base import Setting, Treatment, check_share, snapshot, trained
from alignment_tax.models import Model
from alignment_tax.train.rounds import sub_seed

#: a times the steps of the run: how much of tau the whole run adds.
PULL = 0.1


class OnlineMerging(Treatment):
    """Merges what every step changes with what instruction tuning changed (ValueError: no base)."""

    def __init__(self, setting: Setting, share: float, largest: bool) -> None:
        self.setting, self.largest = setting, largest
        self.share = check_share(share, "kept share of every step")
        if setting.load_base is None:
            raise ValueError("Online merging needs the model before instruction tuning: load_base.")
        self.alpha = PULL / setting.steps

    def begin(self, model: Model) -> Model:
        """Take tau, sparse as the steps will be."""
        assert self.setting.load_base is not None  # refused above
        self.generator = torch.Generator().manual_seed(sub_seed(self.setting.seed, 9))
        base, self.last = snapshot(self.setting.load_base()), snapshot(model)
        start = snapshot(self.setting.theta_0)
        self.tau = {n: self.sparse(p - base[n].to(p)) for n, p in start.items() if n in self.last}
        return model

    def after_step(self, model: Model, step: int) -> None:
        """Put the merge in place of the step."""
        for name, p in trained(model).items():
            delta = self.sparse(p - self.last[name])
            tau = self.tau.get(name, torch.zeros_like(p)).to(p)
            if self.largest:
                sign = torch.where(tau + delta >= 0, 1.0, -1.0)
                tau, delta = (each * (each.sign() == sign) for each in (tau, delta))
            p.copy_(self.last[name] + (1 - self.alpha) * delta + self.alpha * tau)
            self.last[name] = p.detach().clone()

    def sparse(self, change: Tensor) -> Tensor:
        """Return F(change): a share of its elements, zero elsewhere."""
        if self.largest:
            sizes, kept = change.abs().flatten(), max(1, round(self.share * change.numel()))
            return change * (change.abs() >= sizes.kthvalue(sizes.numel() - kept + 1).values)
        drawn = torch.rand(change.shape, generator=self.generator).to(change.device)
        return change * (drawn < self.share)


on_dare, on_ties = partial(OnlineMerging, largest=False), partial(OnlineMerging, largest=True)
