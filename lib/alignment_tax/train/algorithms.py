"""The RLHF algorithms by name, behind one signature: what `Study` runs and keeps by rounds."""

from collections.abc import Callable
from functools import partial

from alignment_tax import presets
from alignment_tax.train import dpo, grpo, ppo, rloo, rsf
from alignment_tax.train.rounds import RoundResult, Start

#: What configures each algorithm, and its round; a new one is one file and one line here.
ALGORITHMS: dict[str, tuple[type[presets.AlgorithmConfig], Callable[..., RoundResult]]] = {
    "rsf": (presets.RsfConfig, rsf.rsf),
    "rsf_random": (presets.RsfConfig, partial(rsf.rsf, how="random")),
    "dpo": (presets.DpoConfig, dpo.dpo_round),
    "rloo": (presets.RlooConfig, rloo.rloo_round),
    "ppo": (presets.PpoConfig, ppo.ppo_round),
    "grpo": (presets.GrpoConfig, grpo.grpo_round),
}


def run_round(algorithm: str, config: presets.AlgorithmConfig, start: Start) -> RoundResult:
    """Run one round of an algorithm (TypeError: the configuration is of another)."""
    kind, run = ALGORITHMS[algorithm]
    if not isinstance(config, kind):
        raise TypeError(f"{algorithm} takes a {kind.__name__}, not a {type(config).__name__}.")
    return run(config, start)
