"""Every remedy against the alignment tax: its word, its grid of strengths, where it comes from.

A new remedy is one file in `mitigate` and one entry here. Nothing here imports torch: the code of a
remedy is imported on `make`.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Any, Literal

#: When a remedy acts, in the order in which remedies end. "along" collects from a run without
#: changing it; "afterwards" needs nothing but the outcome, so one run serves all its strengths.
When = Literal["along", "training", "model", "afterwards"]


@dataclass(frozen=True)
class Remedy:
    """A remedy of the registry."""

    name: str  # the word for it in the table of points
    title: str  # what a reader calls it
    code: str  # where it is: "module:function" in `mitigate`
    when: When
    strengths: tuple[float, ...]  # the grid that is shown
    describe: str  # what the strength is, for an axis or a legend
    source: str  # where it comes from
    off: float | None = None  # the strength that changes nothing, if there is one
    #: Whether ever weaker strengths end at the plain run (LoRA trains other parameters).
    fades: bool = True
    weak_is_high: bool = False  # whether the remedy is the weaker, the higher its strength

    @property
    def middle(self) -> float:
        """The strength in the middle of the grid: chosen by its place, not by its result."""
        return self.strengths[len(self.strengths) // 2]

    def make(self, setting: Any, strength: float) -> Any:
        """Return the treatment of a `mitigate.Setting` (ValueError: a senseless strength)."""
        return pkgutil.resolve_name(f"alignment_tax.mitigate.{self.code}")(setting, strength)


#: The squared distance is at most 2 and flat where both are unsure, so it needs larger strengths.
SQUARED = (0.3, 1.0, 3.0, 10.0, 30.0)
#: The paper's 1e-5, 1e-3, 1e-1 (KD) multiply a sum over the tokens of an example, some hundreds;
#: here the mean is taken, so the strong ones become about 0.1 and 10. KL: 0.05, 0.1, 0.2 in the
#: paper multiply a sum over the reply too. 1 / (1 + lambda) runs from 0.91 to 0.09.
OUTPUTS = (0.1, 0.3, 1.0, 3.0, 10.0)
#: The paper: 16 of width 3200 suffices on attention and MLP, MLP alone needs 512. Ranks shrink with
#: the width; relative to it they start where the paper's do and end at a full half.
RANKS = (1, 4, 16, 64)
#: As in the paper (C.1): a proportion of data means the same at every size.
PROPORTIONS = (0.25, 0.5, 1.0, 2.0, 4.0)
#: Half of the changes down to one in a hundred; Panigrahi et al. keep far fewer of a model that is
#: hundreds of times larger, but finetuned for one small task.
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.01)
#: The ends are theta_0 and the run without averaging.
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

# where a remedy is off
AT_0: Any = {"off": 0.0}
AT_1: Any = {"off": 1.0, "weak_is_high": True}
LORA: Any = {"fades": False, "weak_is_high": True}
# fmt: off
REMEDIES: dict[str, Remedy] = {remedy.name: remedy for remedy in (
    # L1, L2: as in the paper (D.4b); the unit of `weight_penalty` makes a rescaling unnecessary
    Remedy("l1", "L1", "weight_penalty:l1", "training", (0.04, 0.1, 0.4, 0.6, 1.0),
           "lambda of the L1 distance to theta_0", "paper, 4.1 and Eq. 2", **AT_0),
    Remedy("l2", "L2", "weight_penalty:l2", "training", (0.01, 0.04, 0.06, 0.08, 0.1),
           "lambda of the squared L2 distance to theta_0", "paper, 4.1 and Eq. 2", **AT_0),
    Remedy("kd", "KD", "output_penalty:kd", "training", OUTPUTS,
           "lambda of KL(theta_0 || policy)", "paper, 4.1, as in its code", **AT_0),
    Remedy("kd_squared", "KD, squared", "output_penalty:kd_squared", "training", SQUARED,
           "lambda of the squared distance of the outputs", "paper, 4.1, as in its text", **AT_0),
    Remedy("kl", "KL penalty", "output_penalty:kl", "training", OUTPUTS,
           "lambda of KL(policy || theta_0)", "paper, C.2 and Eq. 10", **AT_0),
    Remedy("lora", "LoRA", "lora:lora", "model", RANKS,
           "rank of LoRA on attention and MLP", "paper, 4.1 and D.4c; Hu et al. 2021", **LORA),
    Remedy("lora_mlp", "LoRA on the MLP", "lora:lora_mlp", "model", RANKS,
           "rank of LoRA on the MLP", "paper, 4.1 and D.4c; Hu et al. 2021", **LORA),
    Remedy("replay", "replay", "replay:replay", "training", PROPORTIONS,
           "pretraining tokens per reply token", "paper, 4.1 and C.1", **AT_0),
    Remedy("replay_other", "replay without the evaluated formats", "replay:replay_other",
           "training", PROPORTIONS, "pretraining tokens per reply token, no evaluated formats",
           "paper, 4.1 and C.1", **AT_0),
    # counted from the end
    Remedy("sma", "SMA", "moving_average:sma", "along", (0.25, 0.5, 0.75, 1.0),
           "share of the steps that is averaged", "paper, 4.1; Noukhovitch et al. 2023"),
    # the horizon is 1 / (1 - d). A decay d as such (0.99, say) would mean little averaging in a
    # long run and almost theta_0 in a short one
    Remedy("ema", "EMA", "moving_average:ema", "along", (0.1, 0.25, 0.5, 1.0, 2.0),
           "horizon of the average as a share of the steps", "paper, 4.1; Noukhovitch et al. 2023"),
    # TRL's default is 0.5; a higher one averages over more steps
    Remedy("bema", "BEMA", "bema:bema", "along", (0.3, 0.5, 0.7, 0.9),
           "power p in b_t, the weight of the new model", "Block and Zhang 2025", fades=False),
    Remedy("graft", "graft", "graft:largest", "afterwards", DENSITIES,
           "share of the changes that is kept, the largest", "paper, 1; Panigrahi et al. 2023",
           **AT_1),
    Remedy("graft_random", "graft at random", "graft:at_random", "afterwards", DENSITIES,
           "share of the changes that is kept, at random", "control of graft", **AT_1),
    Remedy("graft_learnt", "learnt graft", "graft:learnt", "afterwards", DENSITIES,
           "share of the changes that is kept, learnt", "Panigrahi et al. 2023", **AT_1),
    Remedy("average", "averaging the weights", "average:Average", "afterwards", ALPHAS,
           "alpha, the weight of the aligned model", "paper, 4.1; Wortsman et al. 2022", **AT_1),
)}
# fmt: on
