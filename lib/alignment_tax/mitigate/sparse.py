"""Averaging that takes only some of the changes: DARE and TIES, of one model with theta_0.

    theta(alpha) = theta_0 + alpha * s * mask * (theta - theta_0)

DARE (Yu et al. 2024, 2311.03099) keeps a share of the changes at random and rescales by its inverse
s, so that their sum is the same on average. TIES (Yadav et al. 2023, 2306.01708) keeps the largest,
without rescaling; with one model there are no signs to elect. A graft keeps changes whole.
"""

from functools import partial

import torch
from torch import Tensor

from alignment_tax.merge.average import State
from alignment_tax.mitigate.average import Average
from alignment_tax.mitigate.base import Setting
from alignment_tax.mitigate.graft import largest_mask, random_mask

#: Share of the changed weights that is kept; TIES' is its paper's. DARE's paper goes down to 0.1 of
#: changes far smaller than RSF's.
DARE_KEEPS, TIES_KEEPS = 0.5, 0.2


def dare(theta_0: State, theta: State, alpha: float, seed: int) -> dict[str, Tensor]:
    """Return theta(alpha) of DARE as new tensors, theta_0 to the bit at alpha 0."""
    mask = random_mask(theta_0, theta, DARE_KEEPS, seed)
    return _scaled(theta_0, theta, mask, alpha / DARE_KEEPS)


def ties(theta_0: State, theta: State, alpha: float) -> dict[str, Tensor]:
    """Return theta(alpha) of TIES as new tensors, theta_0 to the bit at alpha 0."""
    return _scaled(theta_0, theta, largest_mask(theta_0, theta, TIES_KEEPS), alpha)


def _scaled(theta_0: State, theta: State, mask: State, scale: float) -> dict[str, Tensor]:
    """Return theta_0 plus the masked changes, scaled."""
    changed = {n: start + scale * (theta[n] - start) for n, start in theta_0.items()}
    return {n: torch.where(mask[n], changed[n], start) for n, start in theta_0.items()}


def at_random(setting: Setting, alpha: float) -> Average:
    """Return DARE, its mask drawn from the run's seed."""
    return Average(setting, alpha, partial(dare, seed=setting.seed))


largest = partial(Average, merge=ties)
