"""WARP without its anchor: two policies joined on the sphere, then drawn back to theta_0.

    d = slerp(theta_1 - theta_0, theta_2 - theta_0, 1/2),    theta(alpha) = theta_0 + alpha d

Ramé et al. 2024 (2406.16768), steps 2 and 3, one iteration. The two policies learn the same replies
in another order. Step 1, a KL penalty toward a moving average of the policy, is left out: it needs
on-policy RL, and here every remedy learns from one pool of replies.
"""

from alignment_tax.merge.average import State, own_tensors
from alignment_tax.mitigate.average import Average
from alignment_tax.mitigate.base import Setting
from alignment_tax.mitigate.slerp import slerp


class Warp(Average):
    """Joins the outcome with a second policy, and averages both with theta_0."""

    def __init__(self, setting: Setting, alpha: float) -> None:
        super().__init__(setting, alpha, self.joined)
        self.setting = setting

    def joined(self, theta_0: State, theta: State, alpha: float) -> State:
        """Return theta(alpha) of both policies."""
        ends = (theta, own_tensors(self.setting.run(1)))
        first, second = ({n: end[n] - start for n, start in theta_0.items()} for end in ends)
        both = slerp(first, second, 0.5)
        return {name: start + alpha * both[name] for name, start in theta_0.items()}
