"""ExPO: go on beyond the aligned model. Zheng et al. 2024 (2404.16792), Eq. 2.

    theta(alpha) = theta + (alpha - 1) (theta - theta_0),    alpha > 1

It is averaging with an alpha above 1: the bet that the way from theta_0 to theta leads further up.
"""

from functools import partial

from alignment_tax.merge.average import average
from alignment_tax.mitigate.average import Average
from alignment_tax.mitigate.base import Setting


def expo(setting: Setting, alpha: float) -> Average:
    """Return the extrapolation (ValueError: alpha is below 1, where averaging begins)."""
    if not alpha >= 1:
        raise ValueError(f"ExPO's alpha is {alpha}: it must be 1 or more. Below it is averaging.")
    return Average(setting, alpha, partial(average, extrapolate=True), extrapolate=True)
