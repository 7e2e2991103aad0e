"""What all remedies share: where they plug into training, what they may use, what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.merge.average import own_tensors
from alignment_tax.mitigate.teacher import Teacher
from alignment_tax.models import AnyReply
from alignment_tax.presets import DistilConfig
from alignment_tax.train.loop import Extra
from alignment_tax.world.base import Prompt
from alignment_tax.world.corpus import Document

T = TypeVar("T")
Example = tuple[Prompt, AnyReply]


class Treatment(Extra):
    """One remedy at one strength: an `Extra` that may also act before and after training.

    Override what the remedy needs. `learning_rate_factor` multiplies the learning rate of the run.
    """

    learning_rate_factor: float = 1.0

    def begin(self, model: PreTrainedModel) -> PreTrainedModel:
        """Prepare the policy that is about to be trained; return it, or a wrapper around it."""
        return model

    def end(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the policy that is the outcome, an ordinary one; `model` may be changed."""
        return model


def treat(
    policy: PreTrainedModel,
    treatments: Sequence[Treatment],
    train: Callable[[PreTrainedModel, Sequence[Extra]], T],
) -> tuple[PreTrainedModel, T]:
    """Train a policy under treatments: begin all, train, end all.

    They end in the given order and begin in the reverse one: whatever works on the outcome of
    others comes after them. It serves RSF's rounds as well as one finetuning (there the learning
    rate is the caller's, `learning_rate_factor` included):

    >>> treat(policy, treatments, lambda model, extras: rsf_round(model, ..., extras=extras))

    Args:
        policy: Changed in place.
        treatments: In the order in which they end; `mitigate.treatments` sorts them.
        train: Takes the policy to train and the extras, trains it in place.

    Returns:
        The outcome in eval mode, and what `train` returned.
    """
    for treatment in reversed(treatments):
        policy = treatment.begin(policy)
    result = train(policy, treatments)
    for treatment in treatments:
        policy = treatment.end(policy)
    return policy.eval(), result


@dataclass(frozen=True)
class Setting:
    """What every remedy starts from and may use.

    Attributes:
        theta_0: The policy before RLHF; never trained itself.
        tokenizer: Its tokenizer.
        pool: What is finetuned on: pairs of prompt and reply.
        config: Numbers of the finetuning.
        seed: Order of the examples, and every random draw of a remedy.
        replay: Pretraining documents, for replay; plain text is `Document(((text, 1.0),))`.
        replay_other: The same without the formats that are evaluated.
        reported: Texts that no replayed document may contain (see `replay.find_overlap`).
    """

    theta_0: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pool: Sequence[Example]
    config: DistilConfig
    seed: int
    replay: Sequence[Document] = ()
    replay_other: Sequence[Document] = ()
    reported: Sequence[str] = ()

    @property
    def steps(self) -> int:
        """Number of optimiser steps of the finetuning."""
        return self.config.epochs * math.ceil(len(self.pool) / self.config.batch_size)

    @cached_property
    def teacher(self) -> Teacher:
        """theta_0 as a teacher, one for all remedies, so that it reads each example once."""
        return Teacher(self.theta_0)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, each tied one once, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters that are trained, by name."""
    return {name: p.detach().clone() for name, p in trained(model).items()}


@torch.no_grad()
def write_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy tensors into the model's own of the same names, in place.

    Raises:
        ValueError: the model has no tensor of such a name.
    """
    targets = own_tensors(model)
    if unknown := weights.keys() - targets.keys():
        raise ValueError(
            f"The model has no weight {min(unknown)!r}. A moving average of a LoRA run must end "
            "before LoRA is merged: list it before LoRA."
        )
    for name, tensor in weights.items():
        targets[name].copy_(tensor)


def check_strength(value: float, remedy: str) -> float:
    """Return a strength that is a finite number of 0 or more (ValueError otherwise)."""
    if isinstance(value, bool) or not (math.isfinite(value) and value >= 0):
        raise ValueError(
            f"The strength of {remedy} is {value}: it must be a finite number of 0 or more. "
            "0 leaves the training as it is."
        )
    return float(value)


def check_share(value: float, what: str) -> float:
    """Return a share that lies in (0, 1] (ValueError otherwise)."""
    if isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError(f"The {what} is {value}: it must lie in (0, 1]; 1 takes everything.")
    return float(value)
