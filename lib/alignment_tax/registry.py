"""Every remedy against the alignment tax: its word, what its strength is, where it comes from.

A new remedy is one entry here and one file in `mitigate`, imported (with torch) on `make` alone.
"""

import pkgutil
from typing import Any, Literal, NamedTuple

#: When a remedy acts, in the order in which remedies end. "along" collects from a run without
#: changing it; "afterwards" needs nothing but the outcome, so one run serves all its strengths.
When = Literal["along", "training", "model", "afterwards"]


class Remedy(NamedTuple):
    """A remedy of the registry."""

    name: str  # the word for it in the table of points
    title: str  # what a reader calls it
    code: str  # where it is: "module:function" in `mitigate`
    when: When
    describe: str  # what the strength is, for an axis or a legend
    source: str  # where it comes from
    off: float | None = None  # the strength that changes nothing, if there is one
    #: Whether ever weaker strengths end at the plain run (LoRA trains other parameters).
    fades: bool = True
    beyond: bool = False  # whether it goes on from the plain run, away from theta_0
    weak_is_high: bool = False  # whether the remedy is the weaker, the higher its strength
    kind: type = float  # of a strength: a rank is an int
    #: The pretraining text of the `Setting` that it uses: with the formats that are scored, or not.
    texts: Literal["replay", "replay_other"] | None = None

    def make(self, setting: Any, strength: float) -> Any:
        """Return the treatment of a `mitigate.Setting` (ValueError: a senseless strength)."""
        return pkgutil.resolve_name(f"alignment_tax.mitigate.{self.code}")(setting, strength)


# where a remedy is off
AT_0: Any = {"off": 0.0}
AT_1: Any = {"off": 1.0, "weak_is_high": True}
LORA: Any = {"fades": False, "weak_is_high": True, "kind": int}
TEXT: Any = {"texts": "replay"}
ALPHA = "alpha, the weight of the aligned model"
# fmt: off
REMEDIES: dict[str, Remedy] = {remedy.name: remedy for remedy in (
    Remedy("l1", "L1", "weight_penalty:l1", "training",
           "lambda of the L1 distance to theta_0", "paper, 4.1 and Eq. 2", **AT_0),
    Remedy("l2", "L2", "weight_penalty:l2", "training",
           "lambda of the squared L2 distance to theta_0", "paper, 4.1 and Eq. 2", **AT_0),
    Remedy("kd", "KD", "output_penalty:kd", "training",
           "lambda of KL(theta_0 || policy)", "paper, 4.1, as in its code", **AT_0),
    Remedy("kd_squared", "KD, squared", "output_penalty:kd_squared", "training",
           "lambda of the squared distance of the outputs", "paper, 4.1, as in its text", **AT_0),
    Remedy("kl", "KL penalty", "output_penalty:kl", "training",
           "lambda of KL(policy || theta_0)", "paper, C.2 and Eq. 10", **AT_0),
    Remedy("lora", "LoRA", "lora:lora", "model",
           "rank of LoRA on attention and MLP", "paper, 4.1 and D.4c; Hu et al. 2021", **LORA),
    Remedy("lora_mlp", "LoRA on the MLP", "lora:lora_mlp", "model",
           "rank of LoRA on the MLP", "paper, 4.1 and D.4c; Hu et al. 2021", **LORA),
    Remedy("replay", "replay", "replay:replay", "training",
           "pretraining tokens per reply token", "paper, 4.1 and C.1", texts="replay", **AT_0),
    Remedy("replay_other", "replay without the evaluated formats", "replay:replay_other",
           "training", "pretraining tokens per reply token, no evaluated formats",
           "paper, 4.1 and C.1", texts="replay_other", **AT_0),
    # counted from the end
    Remedy("sma", "SMA", "moving_average:sma", "along",
           "share of the steps that is averaged", "paper, 4.1; Noukhovitch et al. 2023"),
    # the horizon is 1 / (1 - d). A decay d as such (0.99, say) would mean little averaging in a
    # long run and almost theta_0 in a short one
    Remedy("ema", "EMA", "moving_average:ema", "along",
           "horizon of the average as a share of the steps", "paper, 4.1; Noukhovitch et al. 2023"),
    # TRL's default is 0.5; a higher one averages over more steps
    Remedy("bema", "BEMA", "moving_average:Bema", "along",
           "power p in b_t, the weight of the new model", "Block and Zhang 2025", fades=False),
    Remedy("graft", "graft", "graft:largest", "afterwards",
           "share of the changes that is kept, the largest", "paper, 1; Panigrahi et al. 2023",
           **AT_1),
    Remedy("graft_random", "graft at random", "graft:at_random", "afterwards",
           "share of the changes that is kept, at random", "control of graft", **AT_1),
    Remedy("graft_learnt", "learnt graft", "graft:learnt", "afterwards",
           "share of the changes that is kept, learnt", "Panigrahi et al. 2023", **AT_1),
    Remedy("average", "averaging the weights", "average:Average", "afterwards",
           ALPHA, "paper, 4.1; Wortsman et al. 2022", **AT_1),
    # what came after the paper
    Remedy("expo", "ExPO", "expo:expo", "afterwards",
           "alpha, above 1", "Zheng et al. 2024", off=1.0, beyond=True),
    Remedy("slerp", "SLERP", "slerp:along_sphere", "afterwards", ALPHA, "Shoemake 1985", **AT_1),
    Remedy("dare", "DARE", "sparse:at_random", "afterwards",
           ALPHA, "Yu et al. 2024", fades=False, weak_is_high=True),
    Remedy("ties", "TIES", "sparse:largest", "afterwards",
           ALPHA, "Yadav et al. 2023", fades=False, weak_is_high=True),
    Remedy("fisher", "Fisher averaging", "fisher:FisherAverage", "afterwards",
           ALPHA, "Matena and Raffel 2022", **TEXT, **AT_1),
    Remedy("warp", "WARP", "warp:Warp", "afterwards",
           ALPHA, "Ramé et al. 2024", fades=False, weak_is_high=True),
    Remedy("relearn", "relearning", "relearn:Relearn", "afterwards",
           "documents read after RLHF", "Zheng et al. 2025", kind=int, **TEXT, **AT_0),
    Remedy("ewc", "EWC", "fisher:Ewc", "training",
           "lambda of the weighted L2 distance", "Kirkpatrick et al. 2017", **TEXT, **AT_0),
    Remedy("replay_self", "replay of own answers", "replay:SelfReplay", "training",
           "replayed tokens per reply token", "Shin et al. 2017", **TEXT, **AT_0),
    Remedy("ogpsa", "OGPSA", "projection:Orthogonal", "training",
           "gradients that are projected off", "2602.07892", kind=int, **TEXT, **AT_0),
    Remedy("null_space", "null space", "projection:NullSpace", "training",
           "share of the inputs' power that is protected", "2512.11391", fades=False, **TEXT),
    Remedy("oplora", "OPLoRA", "oplora:OpLora", "model",
           "singular directions that are protected", "2510.13003", fades=False, kind=int),
    Remedy("on_dare", "OnDARE", "online:on_dare", "training",
           "share of every step that is kept", "Lu et al. 2024", fades=False, weak_is_high=True),
    Remedy("on_ties", "OnTIES", "online:on_ties", "training",
           "share of every step that is kept", "Lu et al. 2024", fades=False, weak_is_high=True),
    Remedy("soup", "soup of four runs", "soup:Soup", "afterwards",
           ALPHA, "Wortsman et al. 2022", fades=False, weak_is_high=True),
    Remedy("kl_average", "KL to a moving average", "output_penalty:KlToAverage", "training",
           "lambda of KL(policy || its moving average)", "Ramé et al. 2024", **AT_0),
    Remedy("replay_lost", "replay of what was lost", "replay:LostReplay", "training",
           "replayed tokens per reply token", "after Aljundi et al. 2019", **TEXT, **AT_0),
)}
# fmt: on
