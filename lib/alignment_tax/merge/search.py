"""Ways to find a ratio for each block of layers, by name: HMA, its variants and AdaMerging.

Each takes two models, data and a mean alpha, and returns K ratios with that mean. `merge.hma` holds
the search itself; here is what it is given.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alignment_tax.merge import hma, released_code
from alignment_tax.merge.adamerging import adamerging
from alignment_tax.merge.average import State, write_weights
from alignment_tax.merge.hma import Example, Found, HmaConfig, ReplyLikelihood
from alignment_tax.merge.layout import THIRDS, MergeError
from alignment_tax.merge.parts import Mixture
from alignment_tax.presets import RatioConfig


@dataclass(frozen=True)
class Data:
    """What the searches may look at; each needs one of these."""

    replies: Sequence[Example] = ()  # the aligned policy's own best replies, encoded
    #: Token ids of the text on which theta_0 is to be kept, by method.
    texts: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    labelled: Sequence[Example] = ()  # items of one skill with their answers, encoded
    prompts: int = 0  # how many prompts `reward` can sample for
    #: Mean reward of a model's replies to the prompts of these numbers, sampled with the same
    #: random numbers for every model.
    reward: Callable[[Any, Sequence[int]], float] | None = None


@dataclass
class SampledReward:
    """Minus the mean reward of sampled replies (Eq. 3), without a gradient."""

    model: nn.Module
    count: int
    reward: Callable[[Any, Sequence[int]], float]

    def __len__(self) -> int:
        return self.count

    def __call__(self, weights: State, chosen: Sequence[int]) -> Tensor:
        """Return the value for the chosen prompts; the weights are written into the model."""
        write_weights(self.model, weights)
        return torch.tensor(-self.reward(self.model, chosen), dtype=torch.float64)


@dataclass(frozen=True)
class Task:
    """One search; a search by reward writes into `model`, a network to run the mixture in."""

    mixture: Mixture
    model: nn.Module
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
    shared = ("learning_rate", "epochs", "batch_size", "eps", "evaluate_every")
    return HmaConfig(alpha=alpha, seed=seed, **{name: getattr(config, name) for name in shared})


def _hma(task: Task, kept: str | None = None, **changes: Any) -> Found:
    """By gradient; `kept` is the method whose texts theta_0 is to be kept on."""
    numbers, extra = dataclasses.replace(task.numbers, **changes), None
    if kept:
        texts, weight = task.data.texts[kept], task.config.kept_weight
        extra = hma.KlToStart(task.model, task.mixture.theta_0, texts, weight)
    return hma.learn_ratios(task.mixture, task.likelihood, numbers, extra)


def _released(task: Task) -> Found:
    # its alpha weighs theta_0; its ratios are rounded to bfloat16, so their mean is a little off
    numbers = dataclasses.replace(
        task.numbers,
        alpha=1 - task.alpha,
        learning_rate=task.config.released_learning_rate,
        epochs=1,
        batch_size=task.config.released_batch_size,
    )
    result = released_code.run(task.mixture, task.likelihood, numbers, released_code.AS_RELEASED)
    left = {"embeddings": 0.0, "norms": 0.0}  # at theta_0, whatever alpha
    return Found(result.ratios, left, result.objective, result.before, [])


def _reward(task: Task) -> Found:
    data = task.data
    if data.reward is None:
        raise ValueError("A search by reward needs a function that samples and scores replies.")
    objective = SampledReward(task.model, data.prompts, data.reward)
    numbers = dataclasses.replace(task.numbers, batch_size=data.prompts)
    return hma.grid_search(task.mixture, objective, numbers, task.config.reward_step)


#: The methods that keep theta_0 on texts, and whether these have the formats that are scored.
KEEPING = {"hma_kl": True, "hma_kl_other": False}
SEARCHES: dict[str, Callable[[Task], Found]] = {
    # likelihood of the policy's own best replies, by gradient (Eq. 8-9)
    "hma": _hma,
    # the same by the paper's parameterisation, Eq. 11, its factor K put back
    "hma_eq11": partial(_hma, parameterisation="eq11"),
    # the same on a grid over the simplex (K = 3): the reference for both
    "hma_grid": lambda task: hma.grid_search(
        task.mixture, task.likelihood, task.numbers, task.config.grid_step
    ),
    # the same as the paper's released code does it, all its faults switched on
    "hma_released": _released,
    # the reward of sampled replies itself (Eq. 3), on a grid, with common random numbers
    "hma_reward": _reward,
    # likelihood plus KL(theta_0 || mixture) on pretraining text, with and without scored formats
    **{method: partial(_hma, kept=method) for method in KEEPING},
    # likelihood of labelled reading items
    "adamerging": lambda task: adamerging(
        task.mixture, task.model, task.data.labelled, task.numbers
    ),
}
#: The step of the grid, a field of `RatioConfig`, of the searches that walk on one.
GRID_STEPS = {"hma_grid": "grid_step", "hma_reward": "reward_step"}
#: Fields of `RatioConfig` that may be 0; all other numbers must be above it.
MAY_BE_ZERO = ("eps", "kept_weight")


def check_search(method: str, blocks: int, alpha: float, config: RatioConfig) -> None:
    """Refuse a search for K blocks that would fail after its models are trained (MergeError)."""
    for field_ in dataclasses.fields(config):
        value = getattr(config, field_.name)
        if isinstance(value, tuple):
            continue
        low = "0 or more" if field_.name in MAY_BE_ZERO else "above 0"
        if not math.isfinite(value) or value < 0 or (value == 0 and low == "above 0"):
            raise MergeError(f"{field_.name} of the ratios is {value}: it must be {low}, finite.")
    numbers = hma_numbers(config, alpha)
    hma.check_config(numbers, blocks)
    if method == "hma_eq11":
        hma.check_reach(dataclasses.replace(numbers, parameterisation="eq11"), blocks)
    if method in GRID_STEPS:
        if blocks != len(THIRDS):
            raise MergeError(f"The grid search is for K = 3 blocks, not {blocks}.")
        hma.grid_ratios(alpha, getattr(config, GRID_STEPS[method]))
