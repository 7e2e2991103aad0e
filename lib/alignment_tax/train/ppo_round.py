"""PPO by rounds: a run that is cut into parts, saved after each, and gone on with."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.optim import Optimizer
from tqdm import tqdm

from alignment_tax.presets import PpoConfig, as_dict
from alignment_tax.train import ppo
from alignment_tax.train.checkpoint import load_run, save_run, saved_run
from alignment_tax.train.ppo import PpoState
from alignment_tax.train.rounds import RoundResult, Start

#: Where PPO leaves its critic and its optimisers for the next round, beside the policy.
PPO_STATE = "ppo"
LENGTHS = ("rounds", "iterations")  # how long a run is does not change what it does


def ppo_round(config: PpoConfig, start: Start) -> RoundResult:
    """Run the iterations of one round of PPO, going on from the critic of the round before.

    The log has one row per iteration; single replies are not kept, so `samples` is empty.
    """
    critic = None if config.shared_trunk else start.reward_model
    state = ppo.start(start.theta_0, start.tokenizer, config, start.seed, critic)
    if start.before is not None:
        state = resume(state, start.before / PPO_STATE)
    size, log = config.prompts_per_iteration, []
    for i in tqdm(range(config.iterations), desc=f"PPO, round {start.number}", unit="iteration"):
        prompts = start.prompts[i * size : (i + 1) * size]
        state, row = ppo.step(state, prompts, start.reward_fn, start.gold_fn)
        log.append(row)
    save(state, start.folder / PPO_STATE)
    means = pd.DataFrame(log).mean()
    stats = {"mean_reward": means["reward"], "finished": means["finished"]}
    stats |= {"kept": len(log) * size, "dropped": 0}
    samples = pd.DataFrame(columns=["prompt", "reply", "chosen"])
    return RoundResult.of(state.policy, log, samples, stats)


def save(state: PpoState, folder: Path) -> None:
    """Write all that a run needs to go on into `folder`, whole or not at all."""
    if state.accelerator.is_main_process:
        numbers = {"iteration": state.iteration, "kl_coef": state.kl_control.coef}
        save_run(folder, state.iteration, _parts(state), numbers | identity(state))
    state.accelerator.wait_for_everyone()


def resume(state: PpoState, folder: Path) -> PpoState:
    """Return the run that `save` wrote into `folder`; `state` is as that run's was at the start."""
    saved = saved_run(folder)
    if saved is None:
        raise FileNotFoundError(f"There is no saved PPO run in {folder}. Begin one with `start`.")
    for name, value in identity(state).items():
        if saved[name] != value:
            raise ValueError(
                f"The run saved in {folder} has another {name}: {saved[name]}, not {value}. Start "
                "with the same theta_0, seed and configuration, or save into another folder."
            )
    load_run(folder, _parts(state))
    kl_control = dataclasses.replace(state.kl_control, coef=saved["kl_coef"])
    return dataclasses.replace(state, kl_control=kl_control, iteration=saved["iteration"])


def _parts(state: PpoState) -> dict[str, torch.nn.Module | Optimizer]:
    optimizers = ("policy_optimizer", "critic_optimizer")
    return {"model": state.actor_critic, **{name: getattr(state, name) for name in optimizers}}


def identity(state: PpoState) -> dict[str, Any]:
    """Return what tells a run from others: its seed, its numbers, and a hash of theta_0."""
    config = {k: v for k, v in as_dict(state.config).items() if k not in LENGTHS}
    digest = hashlib.sha256()
    for name, tensor in state.reference.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return {"seed": state.seed, "config": config, "theta_0": digest.hexdigest()}
