"""The RLHF algorithms by name, behind one signature: what `Study` runs and keeps by rounds.

A new algorithm is one file with a function from configuration and `Start` to `RoundResult`, and one
line here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from alignment_tax.presets import (
    AlgorithmConfig,
    DpoConfig,
    GrpoConfig,
    PpoConfig,
    RlooConfig,
    RsfConfig,
)
from alignment_tax.train.dpo import dpo_round
from alignment_tax.train.grpo import grpo_round
from alignment_tax.train.ppo import ppo_round
from alignment_tax.train.rloo import rloo_round
from alignment_tax.train.rounds import RoundResult, Start
from alignment_tax.train.rsf import rsf

Round = Callable[[Any, Start], RoundResult]

#: What configures each algorithm, and its round.
ALGORITHMS: dict[str, tuple[type[AlgorithmConfig], Round]] = {
    "rsf": (RsfConfig, rsf),
    "rsf_random": (RsfConfig, partial(rsf, how="random")),
    "dpo": (DpoConfig, dpo_round),
    "rloo": (RlooConfig, rloo_round),
    "ppo": (PpoConfig, ppo_round),
    "grpo": (GrpoConfig, grpo_round),
}


def run_round(algorithm: str, config: AlgorithmConfig, start: Start) -> RoundResult:
    """Run one round of an algorithm (TypeError: the configuration is of another)."""
    configured_by, run = ALGORITHMS[algorithm]
    if not isinstance(config, configured_by):
        raise TypeError(
            f"{algorithm} takes a {configured_by.__name__}, not a {type(config).__name__}."
        )
    return run(config, start)
