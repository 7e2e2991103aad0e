"""SLERP, from theta_0 to theta along the sphere, tensor by tensor, and WARP, which joins two so.

    theta(alpha) = sin((1 - alpha) w) / sin(w) theta_0 + sin(alpha w) / sin(w) theta

w is the angle between the two (Shoemake 1985; as in mergekit). Averaging takes the chord, which is
shorter in the middle. WARP draws two joined policies back to theta_0:

    d = slerp(theta_1 - theta_0, theta_2 - theta_0, 1/2),    theta(alpha) = theta_0 + alpha d

Ramé et al. 2024 (2406.16768), steps 2 and 3, one iteration. The two policies learn the same replies
in another order. Step 1, a KL penalty toward a moving average, is left out: it needs on-policy RL.
"""

from functools import partial

import torch
from torch import Tensor

from alignment_tax.merge.average import State, mix, own_tensors
from alignment_tax.mitigate.average import Average
from alignment_tax.mitigate.base import Setting


def slerp(theta_0: State, theta: State, alpha: float) -> dict[str, Tensor]:
    """Return theta(alpha) as new tensors, exact to the bit at alpha 0 and 1."""
    return {name: _arc(start, theta[name], alpha) for name, start in theta_0.items()}


def _arc(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    """One tensor; a chord where an end is zero, where they are parallel or opposite."""
    a, b = start.double().flatten(), end.double().flatten()
    cosine = torch.dot(a, b) / (a.norm() * b.norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    # below a millionth of a radian sphere and chord are the same to the last digit
    if alpha in (0, 1) or not bool(angle.sin() > 1e-6):
        return mix(start, end, alpha)
    both = ((1 - alpha) * angle).sin() * a + (alpha * angle).sin() * b
    return (both / angle.sin()).view_as(start).to(start.dtype)


along_sphere = partial(Average, merge=slerp)


class Warp(Average):
    """Joins the outcome with a second policy, and averages both with theta_0."""

    def __init__(self, setting: Setting, alpha: float) -> None:
        super().__init__(setting, alpha, self.joined)
        self.setting = setting

    def joined(self, theta_0: State, theta: State, alpha: float) -> State:
        """Return theta(alpha) of both policies."""
        ends = (theta, own_tensors(self.setting.sibling))
        first, second = ({n: end[n] - start for n, start in theta_0.items()} for end in ends)
        both = slerp(first, second, 0.5)
        return {name: start + alpha * both[name] for name, start in theta_0.items()}
