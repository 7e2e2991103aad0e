"""What every RLHF algorithm is given for a round, and what it gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from alignment_tax.models import Model, Reply, RewardModel, Tokenizer
from alignment_tax.train.loop import Log
from alignment_tax.world.base import Prompt, World

#: Takes n prompts and n replies, returns n rewards.
RewardFunction = Callable[[list[Prompt], list[Reply]], np.ndarray]


class Start(NamedTuple):
    """Where a round of RLHF starts from, and what it may use."""

    policy: Model  # of the round before, or theta_0; trained in place
    theta_0: Model
    tokenizer: Tokenizer
    reward_fn: RewardFunction
    gold_fn: RewardFunction
    reward_model: tuple[RewardModel, Tokenizer]
    world: World
    prompts: Sequence[Prompt]
    seed: int  # of the run
    number: int  # of the round; the first is 1
    before: Path | None  # the folder of the round before
    folder: Path  # its own


def round_seed(seed: int, number: int) -> int:
    """Return the seed of a round: another one in every round of every run."""
    return sub_seed(seed, number)


def sub_seed(*numbers: int) -> int:
    """Return 32 bits of a hash of numbers of any size: a seed that every library takes."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@dataclass
class RoundResult:
    """What a round of RLHF made; `samples` has a row per reply (of DPO per pair, of PPO none)."""

    policy: Model
    log: Log
    samples: pd.DataFrame
    stats: dict[str, float]

    def __post_init__(self) -> None:
        self.stats = {name: float(value) for name, value in self.stats.items()}
