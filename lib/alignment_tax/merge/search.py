"""Ways to find a ratio for each block of layers, by name: HMA, its variants and AdaMerging.

Each takes two models, data and a mean alpha, and returns K ratios with that mean. `merge.hma` holds
the search itself; here is what it is given.

=============  =========================================================================
hma            likelihood of the policy's own best replies, by gradient (Eq. 8-9)
hma_eq11       the same by the paper's parameterisation, Eq. 11
hma_grid       the same on a grid over the simplex (K = 3): the reference for both
hma_released   the same as the paper's released code does it, all its faults switched on
hma_reward     the reward of sampled replies itself (Eq. 3), on a grid (K = 3)
hma_kl         likelihood plus KL(theta_0 || mixture) on pretraining text
hma_kl_other   the same on text without the formats of the skills that are scored
adamerging     likelihood of labelled reading items (paper, E.4; Yang et al. 2023 have the entropy
               of the predictions in its place, which needs no label)
=============  =========================================================================
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignment_tax.merge import released_code
from alignment_tax.merge.average import MergeError, State
from alignment_tax.merge.hma import (
    Example,
    HmaConfig,
    HmaResult,
    KlToStart,
    Mixture,
    ReplyLikelihood,
    check_config,
    check_reach,
    grid_ratios,
    grid_search,
    learn_ratios,
)
from alignment_tax.mitigate.base import write_weights
from alignment_tax.presets import RatioConfig

#: The released code leaves these parts at theta_0, whatever alpha.
LEFT_AT_START = {"embeddings": 0.0, "norms": 0.0}


@dataclass(frozen=True)
class Data:
    """What the searches may look at; each needs one of these.

    Attributes:
        replies: The aligned policy's own best replies, encoded.
        texts: Token ids of the text on which theta_0 is to be kept, by method.
        labelled: Items of one skill with their answers, encoded.
        prompts: How many prompts `reward` can sample for.
        reward: Mean reward of a model's replies to the prompts of these numbers, sampled with the
            same random numbers for every model.
    """

    replies: Sequence[Example] = ()
    texts: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    labelled: Sequence[Example] = ()
    prompts: int = 0
    reward: Callable[[PreTrainedModel, Sequence[int]], float] | None = None


@dataclass(frozen=True)
class Found:
    """The ratios that a search came to.

    Attributes:
        blocks: One per block, in order from the input; weights of the aligned model.
        fixed: Ratios of parts that are no blocks, where they are not the mean.
        objective: At `blocks`; lower is better. `equal` is the same at equal ratios.
        path: One row per step (or point of the grid): step, ratios, batch, full.
    """

    blocks: tuple[float, ...]
    fixed: dict[str, float]
    objective: float
    equal: float
    path: list[dict[str, Any]]

    @property
    def alpha(self) -> float:
        """The mean of the ratios."""
        return math.fsum(self.blocks) / len(self.blocks)

    def save(self, folder: Path) -> None:
        """Write ratios.json and path.jsonl into a folder."""
        kept = {name: value for name, value in dataclasses.asdict(self).items() if name != "path"}
        (folder / "ratios.json").write_text(json.dumps(kept, indent=2))
        (folder / "path.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.path))

    @classmethod
    def load(cls, folder: Path) -> Found:
        """Read what `save` wrote."""
        kept = json.loads((folder / "ratios.json").read_text())
        path = [json.loads(line) for line in (folder / "path.jsonl").read_text().splitlines()]
        return cls(**{**kept, "blocks": tuple(kept["blocks"])}, path=path)


class SampledReward:
    """Minus the mean reward of sampled replies (Eq. 3): an objective without a gradient.

    Args:
        model: the network to sample from; its weights are overwritten.
        count: number of prompts.
        reward: see `Data.reward`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        count: int,
        reward: Callable[[PreTrainedModel, Sequence[int]], float],
    ) -> None:
        self.model, self.count, self.reward = model, count, reward

    def __len__(self) -> int:
        """Return the number of prompts."""
        return self.count

    def __call__(self, weights: State, chosen: Sequence[int]) -> Tensor:
        """Return minus the mean reward of replies to the chosen prompts, a scalar."""
        write_weights(self.model, weights)
        return torch.tensor(-self.reward(self.model, chosen), dtype=torch.float64)


@dataclass(frozen=True)
class Task:
    """One search: between which models, on what, by which numbers, at which mean ratio.

    `model` is a network to run the mixture in; a search by reward writes into it.
    """

    mixture: Mixture
    model: PreTrainedModel
    data: Data
    config: RatioConfig
    alpha: float
    seed: int

    @property
    def numbers(self) -> HmaConfig:
        """The numbers of the search by gradient on the simplex."""
        return hma_numbers(self.config, self.alpha, self.seed)

    @property
    def likelihood(self) -> ReplyLikelihood:
        """The objective of Eq. 9: how likely the mixture makes the policy's best replies."""
        return ReplyLikelihood(self.model, self.data.replies)


def hma_numbers(config: RatioConfig, alpha: float, seed: int = 0) -> HmaConfig:
    """Return the numbers of the search by gradient on the simplex."""
    return HmaConfig(
        alpha=alpha,
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        batch_size=config.batch_size,
        eps=config.eps,
        evaluate_every=config.evaluate_every,
        seed=seed,
    )


def hma(task: Task) -> Found:
    """HMA: the likelihood of the best replies, softmax on the simplex."""
    return _found(learn_ratios(task.mixture, task.likelihood, task.numbers))


def hma_eq11(task: Task) -> Found:
    """HMA by Eq. 11, with its factor K put back."""
    numbers = dataclasses.replace(task.numbers, parameterisation="eq11")
    return _found(learn_ratios(task.mixture, task.likelihood, numbers))


def hma_grid(task: Task) -> Found:
    """The best point of a grid over the simplex, K = 3."""
    return _found(grid_search(task.mixture, task.likelihood, task.numbers, task.config.grid_step))


def hma_released(task: Task) -> Found:
    """HMA as the released code has it; its alpha weighs theta_0, so it is given 1 - alpha.

    Its ratios are rounded to bfloat16, which moves their mean a little off alpha.
    """
    numbers = dataclasses.replace(
        task.numbers,
        alpha=1 - task.alpha,
        learning_rate=task.config.released_learning_rate,
        epochs=1,
        batch_size=task.config.released_batch_size,
    )
    result = released_code.run(task.mixture, task.likelihood, numbers, released_code.AS_RELEASED)
    return Found(result.ratios, dict(LEFT_AT_START), result.objective, result.before, [])


def hma_reward(task: Task) -> Found:
    """The reward itself, sampled with common random numbers at every point of a grid, K = 3."""
    data = task.data
    if data.reward is None:
        raise ValueError("A search by reward needs a function that samples and scores replies.")
    objective = SampledReward(task.model, data.prompts, data.reward)
    numbers = dataclasses.replace(task.numbers, batch_size=data.prompts)
    return _found(grid_search(task.mixture, objective, numbers, task.config.reward_step))


def _keeping(method: str) -> Callable[[Task], Found]:
    """Return HMA with a term that keeps theta_0 on the texts of a method."""

    def search(task: Task) -> Found:
        start, weight = task.mixture.theta_0, task.config.kept_weight
        keep = KlToStart(task.model, start, task.data.texts[method], weight)
        return _found(learn_ratios(task.mixture, task.likelihood, task.numbers, keep))

    return search


def adamerging(task: Task) -> Found:
    """The likelihood of labelled items of one skill: what HMA does without."""
    objective = ReplyLikelihood(task.model, task.data.labelled)
    return _found(learn_ratios(task.mixture, objective, task.numbers))


#: The methods that keep theta_0 on texts, and whether these have the formats that are scored.
KEEPING = {"hma_kl": True, "hma_kl_other": False}
SEARCHES: dict[str, Callable[[Task], Found]] = {
    "hma": hma,
    "hma_eq11": hma_eq11,
    "hma_grid": hma_grid,
    "hma_released": hma_released,
    "hma_reward": hma_reward,
    **{name: _keeping(name) for name in KEEPING},
    "adamerging": adamerging,
}
#: The step of the grid, a field of `RatioConfig`, of the searches that walk on one.
GRID_STEPS = {"hma_grid": "grid_step", "hma_reward": "reward_step"}
#: Fields of `RatioConfig` that may be 0; all other numbers must be above it.
MAY_BE_ZERO = ("eps", "kept_weight")


def check_search(method: str, blocks: int, alpha: float, config: RatioConfig) -> None:
    """Refuse a search that would fail after its models are trained.

    Args:
        method: a name in `SEARCHES`.
        blocks: K.
        alpha: the mean of the ratios.
        config: the numbers of the preset.

    Raises:
        MergeError: a number that the search cannot use; the message names it.
    """
    for field_ in dataclasses.fields(config):
        value = getattr(config, field_.name)
        if isinstance(value, tuple):
            continue
        low = "0 or more" if field_.name in MAY_BE_ZERO else "above 0"
        if not math.isfinite(value) or value < 0 or (value == 0 and low == "above 0"):
            raise MergeError(f"{field_.name} of the ratios is {value}: it must be {low}, finite.")
    shares = (1 / blocks,) * blocks if blocks > 0 else ()
    numbers = hma_numbers(config, alpha)
    check_config(numbers, shares)
    if method == "hma_eq11":
        check_reach(dataclasses.replace(numbers, parameterisation="eq11"), shares)
    if method in GRID_STEPS:
        grid_ratios(alpha, getattr(config, GRID_STEPS[method]), shares)


def _found(result: HmaResult) -> Found:
    path = [{**dataclasses.asdict(step), "ratios": list(step.ratios)} for step in result.path]
    return Found(result.blocks, {}, result.objective, result.equal, path)
