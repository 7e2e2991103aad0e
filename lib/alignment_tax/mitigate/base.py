"""What all remedies share: where they plug into training, what they may use, what they refuse."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TypeVar, get_args

import pandas as pd
import torch
from torch import Tensor, nn

from alignment_tax.models import AnyReply, Model, Tokenizer
from alignment_tax.presets import DistilConfig
from alignment_tax.registry import REMEDIES, When
from alignment_tax.train.loop import IGNORED, Batch, Extra, Log, finetune
from alignment_tax.train.rounds import sub_seed
from alignment_tax.train.sample import kept_replies
from alignment_tax.world.base import Prompt
from alignment_tax.world.corpus import Document

ROOM = 2**30  # bytes of remembered log-probabilities: a tiny pool fits, that of a large model not

T = TypeVar("T")
Example = tuple[Prompt, AnyReply]


class Treatment(Extra):
    """One remedy at one strength: an `Extra` that may also act before and after training."""

    learning_rate_factor: float = 1.0  # of the run's own learning rate

    def begin(self, model: Model) -> Model:
        """Prepare the policy that is about to be trained; return it, or a wrapper around it."""
        return model

    def end(self, model: Model) -> Model:
        """Return the policy that is the outcome, an ordinary one; `model` may be changed."""
        return model


def treat(
    policy: Model, treatments: Sequence[Treatment], train: Callable[[Model, Sequence[Extra]], T]
) -> tuple[Model, T]:
    """Train a policy under treatments: begin all, train, end all; return it and what `train` did.

    They begin in the reverse of the given order; `learning_rate_factor` is left to `train`.
    """
    for treatment in reversed(treatments):
        policy = treatment.begin(policy)
    result = train(policy, treatments)
    for treatment in treatments:
        policy = treatment.end(policy)
    return policy.eval(), result


class Teacher:
    """theta_0, frozen, in float32: what it says of each example, remembered up to `room` bytes."""

    def __init__(self, model: Model, room: int = ROOM) -> None:
        self.model = model.float().eval()
        self.room = room
        self.known: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def log_probs(self, batch: Batch) -> Tensor:
        """Return log-probabilities (reply tokens of the batch, vocabulary), row after row."""
        # what each row is known by: how many tokens are the prompt, and all without padding
        labels, real = batch["labels"], batch["attention_mask"].bool()
        keys = [
            (labels[i, real[i]].tolist().count(IGNORED), *batch["input_ids"][i, real[i]].tolist())
            for i in range(len(labels))
        ]
        if set(keys) <= self.known.keys():
            return torch.cat([self.known[key] for key in keys])
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = self.model(**given).logits
        rows = [reply_log_probs(logits[[i]], labels[[i]]) for i in range(len(keys))]
        for key, row in zip(keys, rows, strict=True):
            if key not in self.known and row.nbytes <= self.room:
                self.known[key] = row
                self.room -= row.nbytes
        return torch.cat(rows)


def reply_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Return float32 log-probabilities (reply tokens, vocabulary) where a reply token is predicted.

    `logits` (batch, length, vocabulary) at place t predict `labels` (batch, length) at t + 1.
    """
    return torch.log_softmax(logits[:, :-1][labels[:, 1:] != IGNORED].float(), dim=-1)


@dataclass(frozen=True)
class Setting:
    """What every remedy starts from and may use."""

    theta_0: Model  # the policy before RLHF; never trained itself
    tokenizer: Tokenizer
    pool: Sequence[Example]  # what is finetuned on: pairs of prompt and reply
    config: DistilConfig  # numbers of the finetuning
    seed: int  # order of the examples, and every random draw of a remedy
    replay: Sequence[Document] = ()  # pretraining documents
    replay_other: Sequence[Document] = ()  # the same without the formats that are evaluated
    reported: Sequence[str] = ()  # texts that no replayed document may contain
    load_base: Callable[[], Model] | None = None  # the model before instruction tuning

    @property
    def steps(self) -> int:
        """Number of optimiser steps of the finetuning."""
        return self.config.epochs * math.ceil(len(self.pool) / self.config.batch_size)

    @cached_property
    def teacher(self) -> Teacher:
        """theta_0 as a teacher, one for all remedies, so that it reads each example once."""
        return Teacher(self.theta_0)

    @cached_property
    def runs(self) -> dict[int, Model]:
        """What `run` has made."""
        return {}

    def run(self, number: int) -> Model:
        """Return the plain run (0), or one on the pool in another order; for all strengths."""
        if number not in self.runs:
            seed = sub_seed(self.seed, 1 + number) if number else self.seed
            self.runs[number] = distil(replace(self, seed=seed)).policy
        return self.runs[number]


@dataclass(frozen=True)
class Distilled:
    """The policy that came out, in eval mode, and one row per training step (see `finetune`)."""

    policy: Model
    log: Log


def distil(
    setting: Setting, remedies: Mapping[str, float] | None = None, riders: Sequence[Treatment] = ()
) -> Distilled:
    """Finetune a copy of theta_0 once on the pool, under remedies: the paper's protocol (D.1).

    Every remedy (name in `REMEDIES` to strength; none is the plain run) gets the same examples in
    the same order. Riders only watch the run; the caller ends them. ValueError, TrainingDiverged: a
    senseless remedy or strength; see `finetune`.
    """
    remedies = remedies or {}
    chosen = treatments(setting, remedies)
    numbers = {**asdict(setting.config), "seed": setting.seed}
    numbers["learning_rate"] *= math.prod(each.learning_rate_factor for each in chosen)
    label = " + ".join(f"{name} {value:g}" for name, value in remedies.items()) or "plain"

    def train(model: Model, extras: Sequence[Extra]) -> Log:
        for rider in riders:
            rider.begin(model)
        numbers["extras"], numbers["describe"] = [*extras, *riders], f"distilling ({label})"
        return finetune(model, setting.tokenizer, setting.pool, **numbers)

    policy, log = treat(copy.deepcopy(setting.theta_0), chosen, train)
    return Distilled(policy, log)


def distil_along(
    setting: Setting, wanted: Sequence[tuple[str, float]]
) -> tuple[Distilled, Iterator[Model]]:
    """Finetune plainly, once; return that, and the outcome of each of many "along" remedies."""
    if changing := [name for name, _ in wanted if REMEDIES[name].when != "along"]:
        raise ValueError(f"{changing[0]!r} does not act along the run: it needs one of its own.")
    riders = [REMEDIES[name].make(setting, strength) for name, strength in wanted]
    plain = distil(setting, riders=riders)
    return plain, (rider.end(copy.deepcopy(plain.policy)) for rider in riders)


def treatments(setting: Setting, remedies: Mapping[str, float]) -> list[Treatment]:
    """Return a treatment per remedy, in the order in which they must end (ValueError: unknown)."""
    if unknown := remedies.keys() - REMEDIES.keys():
        known = ", ".join(REMEDIES)
        raise ValueError(f"There is no remedy {min(unknown)!r}. Choose from: {known}.")
    order = sorted(remedies, key=lambda name: get_args(When).index(REMEDIES[name].when))
    return [REMEDIES[name].make(setting, remedies[name]) for name in order]


def best_of_n(rounds: Iterable[pd.DataFrame]) -> list[Example]:
    """Pool what RSF kept in its rounds (`samples` of each): pairs of prompt and reply."""
    kept = [samples[samples["chosen"]] for samples in rounds]
    return [pair for rows in kept for pair in zip(rows["prompt"], kept_replies(rows), strict=True)]


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, each tied one once, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters that are trained, by name."""
    return {name: p.detach().clone() for name, p in trained(model).items()}


def check_strength(value: float, remedy: str) -> float:
    """Return a strength that is a finite number of 0 or more (ValueError otherwise)."""
    if isinstance(value, bool) or not (math.isfinite(value) and value >= 0):
        wanted = "it must be a finite number, 0 (off) or more."
        raise ValueError(f"The strength of {remedy} is {value}: {wanted}")
    return float(value)


def check_share(value: float, what: str) -> float:
    """Return a share that lies in (0, 1] (ValueError otherwise)."""
    if isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError(f"The {what} is {value}: it must lie in (0, 1]; 1 takes everything.")
    return float(value)
