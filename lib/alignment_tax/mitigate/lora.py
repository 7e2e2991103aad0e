"""LoRA: theta - theta_0 has low rank. Paper, sections 4.1 and D.4c; Hu et al. 2021; by peft.

    W = W_0 + (alpha / r) B A,    A (r, in) random, B (out, r) zero at first, W_0 frozen

Here the strength is the rank r, and the remedy is stronger the LOWER it is. Embeddings, norms and
head stay frozen. At the end B A is added to the weights, so that the outcome is an ordinary policy.
"""

import warnings
from functools import partial
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from alignment_tax.merge.layout import kind_of
from alignment_tax.mitigate.base import Setting, Treatment
from alignment_tax.models import Model
from alignment_tax.train.rounds import sub_seed

#: alpha / r: the paper's alpha 32 at its rank 16. A constant ratio keeps the learning rate
#: meaningful from rank to rank (with a constant alpha, rank 1 would move 64 times as fast as 64).
SCALING = 2
#: The paper's PPO takes ten times the learning rate with LoRA (Table 2: 1e-5 against 1e-6). At ours
#: (seed 101, tuning.csv) that collapses at rank 16, and three times gains as much reward.
LEARNING_RATE_FACTOR = 3.0
MLP_WORDS = ("mlp", "feed_forward", "ffn")

Where = Literal["all", "mlp"]


class Lora(Treatment):
    """Trains low-rank factors on the linear layers: "all" (attention and MLP) or "mlp"."""

    learning_rate_factor = LEARNING_RATE_FACTOR

    def __init__(self, rank: float, where: Where, seed: int) -> None:
        if rank != rank // 1 or rank < 1:
            raise ValueError(f"The rank of LoRA is {rank}: it must be a whole number, 1 or more.")
        self.rank, self.where, self.seed = int(rank), where, seed

    def begin(self, model: Model) -> Model:
        """Return the policy wrapped by peft, only the factors trainable."""
        sizes: Any = {"r": self.rank, "lora_alpha": SCALING * self.rank}
        where = target_names(model, self.where)
        config = LoraConfig(**sizes, target_modules=where, task_type="CAUSAL_LM")
        with torch.random.fork_rng(), warnings.catch_warnings():
            # peft asks transformers by an attribute's old name, which still works
            warnings.simplefilter("ignore", FutureWarning)
            torch.manual_seed(sub_seed(self.seed))
            return cast(Model, get_peft_model(model, config))

    def end(self, model: Model) -> Model:
        """Merge the factors into the weights and return the ordinary policy."""
        return cast(Model, cast(Any, model).merge_and_unload()).requires_grad_(True)


def lora(setting: Setting, rank: float, where: Where = "all") -> Lora:
    """Return LoRA on attention and MLP (ValueError: a rank that a layer cannot have)."""
    treatment = Lora(rank, where, setting.seed)
    for name in target_names(setting.theta_0, where):
        outputs, inputs = setting.theta_0.get_parameter(f"{name}.weight").shape
        if rank > (largest := min(inputs, outputs)):
            size = f"the size of {name!r} ({inputs} to {outputs})"
            raise ValueError(f"Rank {treatment.rank} is above {size}: choose {largest} or less.")
    return treatment


lora_mlp = partial(lora, where="mlp")


def target_names(model: Model, where: Where) -> list[str]:
    """Return the names of the linear layers to adapt, the head not.

    ValueError: there are none, or experts in one stack, which peft would silently leave out.
    """
    head = model.get_output_embeddings()
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    matrices = {n for n, p in model.named_parameters() if kind_of(n, p) == "linear"}
    left_out = matrices - {f"{name}.weight" for name in linear}
    if linear and left_out:
        raise ValueError(f"LoRA would leave out {min(left_out)!r}, which is no nn.Linear.")
    names = [n for n in linear if where == "all" or set(n.split(".")) & set(MLP_WORDS)]
    if not names:
        told = f"Found no linear layer for LoRA on {where!r} in {type(model).__name__}"
        raise ValueError(f"{told} (those of an MLP are in {' or '.join(MLP_WORDS)}).")
    return names
