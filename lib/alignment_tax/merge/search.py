"""Ways to find a ratio for each block of layers, by name: what each gives to `merge.hma`."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alignment_tax.merge import hma, released_code
from alignment_tax.merge.average import State, write_weights
from alignment_tax.merge.hma import Example, Found, HmaConfig, Parameterisation, ReplyLikelihood
from alignment_tax.merge.layout import THIRDS, MergeError
from alignment_tax.merge.parts import Mixture
from alignment_tax.presets import RatioConfig

#: Mean reward of a model's replies to the prompts of these numbers, sampled with the same random
#: numbers for every model.
Reward = Callable[[Any, Sequence[int]], float]


class Data(NamedTuple):
    """What the searches may look at; each needs one of these."""

    replies: Sequence[Example]  # the aligned policy's own best replies, encoded
    texts: Sequence[Sequence[int]]  # token ids of the text on which theta_0 is to be kept
    labelled: Sequence[Example]  # items of one skill with their answers, encoded
    prompts: int  # how many prompts `reward` can sample for
    reward: Reward


@dataclass
class SampledReward:
    """Minus the mean reward of sampled replies (Eq. 3), without a gradient."""

    model: nn.Module
    count: int
    reward: Reward

    def __len__(self) -> int:
        return self.count

    def __call__(self, weights: State, chosen: Sequence[int]) -> Tensor:
        """Return the value for the chosen prompts; the weights are written into the model."""
        write_weights(self.model, weights)
        return torch.tensor(-self.reward(self.model, chosen), dtype=torch.float64)


class Task(NamedTuple):
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


def _hma(task: Task, keep: bool = False, examples: str = "replies", **changes: Any) -> Found:
    """By gradient; `keep` adds how far the mixture is from theta_0 on the texts."""
    extra = None
    if keep:
        texts, weight = task.data.texts, task.config.kept_weight
        extra = hma.KlToStart(task.model, task.mixture.theta_0, texts, weight)
    objective = ReplyLikelihood(task.model, getattr(task.data, examples))
    numbers = dataclasses.replace(task.numbers, **changes)
    return hma.learn_ratios(task.mixture, objective, numbers, extra)


def _released(task: Task) -> Found:
    # its alpha weighs theta_0; its ratios are rounded to bfloat16, so their mean is a little off
    rate, size = task.config.released_learning_rate, task.config.released_batch_size
    changes: Any = {"alpha": 1 - task.alpha, "learning_rate": rate, "epochs": 1, "batch_size": size}
    numbers = dataclasses.replace(task.numbers, **changes)
    return released_code.run(task.mixture, task.likelihood, numbers, released_code.AS_RELEASED)[0]


def _reward(task: Task) -> Found:
    objective = SampledReward(task.model, task.data.prompts, task.data.reward)
    numbers = dataclasses.replace(task.numbers, batch_size=task.data.prompts)
    return hma.grid_search(task.mixture, objective, numbers, task.config.reward_step)


#: The methods that keep theta_0 on texts, and whether these have the formats that are scored.
KEEPING = {"hma_kl": True, "hma_kl_other": False}
SEARCHES: dict[str, Callable[[Task], Found]] = {
    # likelihood of the policy's own best replies, by gradient (Eq. 8-9)
    "hma": _hma,
    # the same by the paper's parameterisation, Eq. 11, its factor K put back
    "hma_eq11": partial(_hma, parameterisation="eq11"),
    # the same on a grid over the simplex (K = 3): the reference for both
    "hma_grid": lambda t: hma.grid_search(t.mixture, t.likelihood, t.numbers, t.config.grid_step),
    # the same as the paper's released code does it, all its faults switched on
    "hma_released": _released,
    # the reward of sampled replies itself (Eq. 3), on a grid, with common random numbers
    "hma_reward": _reward,
    # likelihood plus KL(theta_0 || mixture) on pretraining text, with and without scored formats
    **dict.fromkeys(KEEPING, partial(_hma, keep=True)),
    # likelihood of labelled items of the very skills that are to be kept (paper, E.4), in place of
    # the entropy on unlabelled ones of Yang et al. 2023
    "adamerging": partial(_hma, examples="labelled"),
}
#: The step of the grid, a field of `RatioConfig`, of the searches that walk on one.
GRID_STEPS = {"hma_grid": "grid_step", "hma_reward": "reward_step"}


def check_search(method: str, blocks: int, alpha: float, config: RatioConfig) -> None:
    """Refuse a search for K blocks that would fail after its models are trained (MergeError)."""
    numbers = hma_numbers(config, alpha)
    way: Parameterisation = "eq11" if method == "hma_eq11" else "softmax"
    hma.check_config(dataclasses.replace(numbers, parameterisation=way), blocks)
    if method in GRID_STEPS:
        if blocks != len(THIRDS):
            raise MergeError(f"The grid search is for K = 3 blocks, not {blocks}.")
        hma.grid_ratios(alpha, getattr(config, GRID_STEPS[method]))
