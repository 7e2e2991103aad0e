"""SLERP: from theta_0 to theta along the sphere, tensor by tensor. Shoemake 1985; as in mergekit.

    theta(alpha) = sin((1 - alpha) w) / sin(w) theta_0 + sin(alpha w) / sin(w) theta

w is the angle between the two. Averaging takes the chord, which is shorter in the middle.
"""

from functools import partial

import torch
from torch import Tensor

from alignment_tax.merge.average import State, mix
from alignment_tax.mitigate.average import Average


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
