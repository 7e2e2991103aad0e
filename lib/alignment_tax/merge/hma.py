"""Heterogeneous model averaging (HMA): the best ratio for each block of layers, found by gradient.

theta^[k] = theta_0^[k] + alpha_k (theta - theta_0)^[k] for K blocks of layers, whose ratios have
the fixed mean alpha (paper, section 6). They maximise the likelihood of the RLHF policy's own best
replies (Eq. 8-9): no data from the skills that are to be kept. Both models are frozen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from tqdm import tqdm

from alignment_tax.merge.average import State, wide
from alignment_tax.merge.layout import TOLERANCE, MergeError
from alignment_tax.merge.parts import Mixture
from alignment_tax.train.loop import IGNORED, Example, check_finite, collate, minibatches

Parameterisation = Literal["softmax", "eq11"]
Extra = Callable[[State], Tensor]

WARMUP = 0.03  # paper, Table 4: cosine with 3 % warm-up


@dataclass(frozen=True)
class HmaConfig:
    """Every number of one search for ratios."""

    alpha: float  # mean ratio, strictly between 0 and 1; the weight of the aligned model
    learning_rate: float  # Adam's, for the K scores (of order 1: think 0.05, not 2e-5)
    epochs: int
    batch_size: int  # examples per step, and in the evaluation on all of them
    parameterisation: Parameterisation = "softmax"
    eps: float = 0.2  # Eq. 11 only; how much of every ratio is fixed. Paper: 0 to 0.9
    evaluate_every: int = 50  # steps; the best ratios among those evaluated on everything are kept
    seed: int = 0  # order of the examples


@dataclass(frozen=True)
class Found:
    """The ratios that a search came to."""

    blocks: tuple[float, ...]  # one each, from the input on; weights of the aligned model
    fixed: dict[str, float]  # ratios of parts that are no blocks, where they are not the mean
    objective: float  # at `blocks`, on all examples: mean loss in nats per reply token
    equal: float  # the same at equal ratios, that is for plain averaging at alpha
    path: list[dict[str, Any]]  # by step: step, ratios, objective on its batch and in full, or None

    @property
    def alpha(self) -> float:
        """The mean of the ratios."""
        return math.fsum(self.blocks) / len(self.blocks)

    def save(self, folder: Path) -> None:
        """Write ratios.json and path.jsonl into a folder."""
        kept = asdict(self)
        rows = [json.dumps(row) + "\n" for row in kept.pop("path")]
        (folder / "ratios.json").write_text(json.dumps(kept, indent=2))
        (folder / "path.jsonl").write_text("".join(rows))

    @classmethod
    def load(cls, folder: Path) -> Found:
        """Read what `save` wrote."""
        kept = json.loads((folder / "ratios.json").read_text())
        path = [json.loads(line) for line in (folder / "path.jsonl").read_text().splitlines()]
        return cls(**kept | {"blocks": tuple(kept["blocks"])}, path=path)


class Objective(Protocol):
    """A mean loss over `len(self)` examples, as a function of the weights."""

    def __len__(self) -> int: ...

    def __call__(self, weights: State, chosen: Sequence[int]) -> Tensor:
        """Return the mean over the chosen examples, a scalar."""


class ReplyLikelihood:
    """Negative log-likelihood of replies (Eq. 9), in nats per reply token.

    A batch is scaled by the mean length of ALL replies, so that the mean over batches is Eq. 9
    times a constant. No autocast: in bfloat16 the effect of a small change would vanish.
    """

    def __init__(self, model: nn.Module, examples: Sequence[Example]) -> None:
        counts = [sum(label != IGNORED for label in labels) for _, labels in examples]
        if not counts or min(counts) == 0:
            which = f"example {counts.index(0)} has none" if counts else "there are no examples"
            raise ValueError(f"Every example needs a reply of at least one token; {which}.")
        self.model, self.examples = model, examples
        self.tokens_per_reply = sum(counts) / len(counts)

    def __len__(self) -> int:
        return len(self.examples)

    def __call__(self, weights: State, chosen: Sequence[int]) -> Tensor:
        """Return the loss of the chosen replies under these weights, a scalar."""
        where = next(iter(weights.values())).device
        batch = collate([self.examples[i] for i in chosen], 0, where)
        labels = batch.pop("labels")[:, 1:]
        logits = functional_call(self.model, dict(weights), kwargs=batch).logits[:, :-1]
        total = functional.cross_entropy(
            wide(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / (len(chosen) * self.tokens_per_reply)


class KlToStart:
    """KL(theta_0 || mixed model) on a few texts (ids), in nats a token: an `extra` to minimise."""

    def __init__(
        self, model: nn.Module, theta_0: State, texts: Sequence[Sequence[int]], weight: float
    ) -> None:
        if not texts or not all(texts):
            raise ValueError("The KL term needs texts of at least one token each.")
        where = next(model.parameters()).device
        self.model, self.weight = model, weight
        self.batch = collate([(list(ids), list(ids)) for ids in texts], 0, where)
        del self.batch["labels"]
        with torch.no_grad():
            self.start = self._log_probs(theta_0)

    def _log_probs(self, weights: State) -> Tensor:
        logits = functional_call(self.model, dict(weights), kwargs=self.batch).logits
        kept = logits[self.batch["attention_mask"].bool()]
        return torch.log_softmax(wide(kept), dim=-1)

    def __call__(self, weights: State) -> Tensor:
        """Return weight * KL under these weights, a scalar."""
        now = self._log_probs(weights)
        total = functional.kl_div(now, self.start, log_target=True, reduction="sum")
        return self.weight * total / len(self.start)


def softmax_ratios(scores: Tensor, alpha: float) -> Tensor:
    """Return ratios (K,) like softmax(scores), of mean alpha and none above 1 (see `project`)."""
    return project(torch.softmax(scores, dim=0), alpha)


def eq11_ratios(scores: Tensor, alpha: float, eps: float) -> Tensor:
    """Return the ratios of the paper's Eq. 11, with the factor K that its text lacks. Shape (K,).

    a_k = sigmoid(s_k) + eps and alpha_k = alpha a_k / mean(a). As printed (sum in place of mean)
    the ratios would have the mean alpha / K.
    """
    raw = torch.sigmoid(scores) + eps
    return alpha * raw / (torch.full_like(raw, 1 / len(raw)) @ raw)


def project(raw: Tensor, alpha: float) -> Tensor:
    """Return the ratios of mean alpha in [0, 1] that are nearest to `raw` in relative entropy.

    All are scaled alike until a ratio reaches 1; it stays there, and the others share the rest.
    """
    full, shares = torch.zeros_like(raw, dtype=torch.bool), torch.full_like(raw, 1 / len(raw))
    while True:
        room = alpha - shares[full].sum()
        ratios = torch.where(full, 1.0, raw * (room / (shares * raw)[~full].sum()))
        over = ratios.detach() > 1
        if not over.any():
            return ratios
        full = full | over


def grid_ratios(alpha: float, step: float) -> list[tuple[float, ...]]:
    """Return all triples of mean alpha in [0, 1], the first two on a grid of steps from alpha."""
    if not 0 < step <= 1:
        raise MergeError(f"The step of the grid is {step}: it must lie in (0, 1].")
    reach, share = math.ceil(1 / step), 1 / 3
    moves = np.arange(-reach, reach + 1) * step
    first, second = np.repeat(moves, len(moves)), np.tile(moves, len(moves))
    third = -(share * first + share * second) / share
    triples = alpha + np.column_stack([first, second, third])
    inside = ((triples >= -TOLERANCE) & (triples <= 1 + TOLERANCE)).all(axis=1)
    # rounding of the last bit may lead out of the box
    return [tuple(triple) for triple in triples[inside].clip(0.0, 1.0).tolist()]


def learn_ratios(
    mixture: Mixture, objective: Objective, config: HmaConfig, extra: Extra | None = None
) -> Found:
    """Find the ratios of the blocks that minimise the objective at a fixed mean (Algorithm 1).

    Adam on K scores, from equal ratios to the best evaluated on all examples. `extra` is added.
    """
    search = _Search(mixture, objective, config, extra)
    equal = torch.full((len(mixture.partition.blocks),), config.alpha, dtype=torch.float64)
    # equal scores, so equal ratios; for Eq. 11 as in the released code
    eq11 = config.parameterisation == "eq11"
    scores = (torch.logit(equal) if eq11 else torch.zeros_like(equal)).requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=config.learning_rate)
    batches = batches_of(len(objective), config)
    path = []
    for step, chosen in enumerate(tqdm(batches, desc="learning ratios", unit="step", leave=False)):
        ratios = search.ratios(scores)
        full = search.full(ratios) if step % config.evaluate_every == 0 else None
        loss = search.loss(ratios, chosen)
        optimizer.param_groups[0]["lr"] = config.learning_rate * schedule(step, len(batches))
        (scores.grad,) = torch.autograd.grad(loss, scores)
        values = {"objective": loss.item(), "gradient": scores.grad.norm().item()}
        check_finite(values, step + 1, config.learning_rate)
        optimizer.step()
        path.append(_row(step, ratios, loss.item(), full))
    last = search.ratios(scores)
    path.append(_row(len(batches), last, None, search.full(last)))
    return _best(path, equal=path[0])


def grid_search(mixture: Mixture, objective: Objective, config: HmaConfig, step: float) -> Found:
    """Evaluate the objective on a grid over the simplex (K = 3), a reference for `learn_ratios`."""
    search = _Search(mixture, objective, config)
    points = [torch.tensor(p, dtype=torch.float64) for p in grid_ratios(config.alpha, step)]
    bar = tqdm(points, desc="searching the grid", unit="point", leave=False)
    path = [_row(i, point, None, search.full(point)) for i, point in enumerate(bar)]
    return _best(path, equal=next(row for row in path if set(row["ratios"]) == {config.alpha}))


def _row(step: int, ratios: Tensor, batch: float | None, full: float | None) -> dict[str, Any]:
    return {"step": step, "ratios": ratios.tolist(), "batch": batch, "full": full}


def _best(path: list[dict[str, Any]], equal: dict[str, Any]) -> Found:
    """The best of the steps that were evaluated on all examples, the first among equals."""
    best = min((row for row in path if row["full"] is not None), key=lambda row: row["full"])
    return Found(tuple(best["ratios"]), {}, best["full"], equal["full"], path)


@dataclass
class _Search:
    """What the two searches share: the objective, with what `extra` adds, at ratios of blocks."""

    mixture: Mixture
    objective: Objective
    config: HmaConfig
    extra: Extra | None = None

    def __post_init__(self) -> None:
        check_config(self.config, len(self.mixture.partition.blocks))

    def ratios(self, scores: Tensor) -> Tensor:
        if self.config.parameterisation == "eq11":
            return eq11_ratios(scores, self.config.alpha, self.config.eps)
        return softmax_ratios(scores, self.config.alpha)

    def loss(self, ratios: Tensor, chosen: Sequence[int] | None = None) -> Tensor:
        """Return it on the chosen examples, or on all."""
        parts = self.mixture.partition.ratios(ratios.unbind(), self.config.alpha)
        weights, added = self.mixture.weights(parts), torch.zeros((), dtype=torch.float64)
        if self.extra is not None:
            added = self.extra(weights).to(added)
        if chosen is None:
            return mean_objective(self.objective, weights, self.config.batch_size) + added
        return self.objective(weights, chosen).to(added) + added

    @torch.no_grad()
    def full(self, ratios: Tensor) -> float:
        value = self.loss(ratios).item()
        check_finite({"objective": value}, 1, self.config.learning_rate)
        return value


@torch.no_grad()
def mean_objective(objective: Objective, weights: State, batch_size: int) -> float:
    """Return the objective on all its examples, computed in batches."""
    count = len(objective)
    chunks = [range(i, min(i + batch_size, count)) for i in range(0, count, batch_size)]
    return math.fsum(len(c) * objective(weights, c).item() for c in chunks) / count


def schedule(step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step (from 0): linear warm-up, half cosine."""
    warm = math.ceil(WARMUP * steps)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def batches_of(count: int, config: HmaConfig) -> list[list[int]]:
    """Return batches of example numbers, each epoch in another order."""
    rng = np.random.default_rng(config.seed)
    return [each.tolist() for each in minibatches(count, config.batch_size, config.epochs, rng)]


def check_config(config: HmaConfig, blocks: int) -> None:
    """Refuse numbers of a search that make no sense for so many blocks (MergeError)."""
    if blocks < 2:
        raise MergeError("With one block there is nothing to search: its ratio is the mean.")
    if not 0 < config.alpha < 1:
        raise MergeError(f"alpha = {config.alpha}: it must lie strictly between 0 and 1.")
    if min(config.learning_rate, config.epochs, config.batch_size, config.evaluate_every) <= 0:
        raise MergeError("It needs learning_rate, epochs, batch_size, evaluate_every above 0.")
    least = max(0.0, (config.alpha - 1 / blocks) / (1 - config.alpha))
    if config.parameterisation == "eq11" and config.eps < least:
        told = f"With eps = {config.eps} Eq. 11 can give a ratio above 1 at alpha = {config.alpha}"
        raise MergeError(f"{told}: take an eps of {least:.4g} or more, or the softmax.")
