"""TRL's PPO on the reward model of a study: the other side of the cross-check of `train.ppo`.

TRL 1.12.0 is the last release with a PPO trainer. `make bench-ppo` lays that release in front of
this environment's own TRL and runs this file in a process of its own, which is why nothing here
imports what needs the newer one.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback

from alignment_tax.models import (
    RewardModel,
    load_policy,
    load_reward_model,
    prompt_ids,
    save_policy,
)
from alignment_tax.presets import PpoConfig
from alignment_tax.world.base import Prompt

LAST_WITH_PPO = "1.12.0"


@dataclass(frozen=True)
class Files:
    """What the two processes hand to each other in one folder."""

    folder: Path

    @property
    def policy(self) -> Path:
        """Folder of theta_0, where both runs start."""
        return self.folder / "theta_0"

    @property
    def reward(self) -> Path:
        """Folder of the reward model."""
        return self.folder / "reward"

    @property
    def task(self) -> Path:
        """Config, prompts (a list per iteration), seed and threads, as JSON."""
        return self.folder / "task.json"

    @property
    def log(self) -> Path:
        """One row per iteration: reward, kl, seconds."""
        return self.folder / "log.csv"

    @property
    def trained(self) -> Path:
        """Folder of the policy that TRL trained."""
        return self.folder / "trained"


class Hidden:
    """What TRL reads of a network's output: the last of its hidden states."""

    def __init__(self, states: Tensor) -> None:
        self.hidden_states = (states,)


class PrefixRewards(torch.nn.Module):
    """The reward of every prefix of a text, (batch, length, 1).

    `RewardModel` reads the last token and the mean over all; both are known at every position, so
    the reward at the end token is the very reward that our own PPO is given.
    """

    def __init__(self, reward_model: RewardModel) -> None:
        super().__init__()
        self.reward_model = reward_model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **_: Any
    ) -> Hidden:
        """Return the rewards in place of hidden states; padding may be on either side."""
        mask = attention_mask.long()
        hidden = self.reward_model.backbone(
            input_ids=input_ids, attention_mask=mask, position_ids=position_ids
        ).last_hidden_state.float()
        weights = mask.unsqueeze(-1).float()
        seen = weights.cumsum(dim=1).clamp(min=1.0)
        mean = (hidden * weights).cumsum(dim=1) / seen
        features = torch.cat([hidden, mean], dim=-1)
        head = self.reward_model.head.weight.float()
        return Hidden((features * head).sum(dim=-1, keepdim=True))


class Scored(torch.nn.Module):
    """A network in the form TRL's PPO takes: `score` on the hidden states of `backbone`."""

    base_model_prefix = "backbone"

    def __init__(self, backbone: torch.nn.Module, score: torch.nn.Module) -> None:
        super().__init__()
        self.backbone, self.score = backbone, score


def as_trl_reward(reward_model: RewardModel) -> Scored:
    """Return the reward model as TRL's PPO takes it."""
    return Scored(PrefixRewards(reward_model), torch.nn.Identity())


def as_trl_critic(reward_model: RewardModel) -> Scored:
    """Return a critic as in `train.ppo`: a copy of the reward model's body, a head at zero."""
    body = copy.deepcopy(reward_model.backbone)
    head = torch.nn.Linear(body.config.get_text_config().hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return Scored(body, head)


class Clock(TrainerCallback):
    """Collects TRL's log of each iteration and the seconds it took."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.started = time.perf_counter()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Keep the reward and the KL of an iteration; the clock starts anew."""
        if logs is None or "objective/scores" not in logs:
            return
        now = time.perf_counter()
        self.rows.append(
            {
                "reward": logs["objective/scores"],
                "kl": logs["objective/kl"],
                "seconds": now - self.started,
            }
        )
        self.started = now


def train(files: Files, config: PpoConfig, prompts: Sequence[Prompt], seed: int) -> pd.DataFrame:
    """Run TRL's PPO with our numbers; write the policy, return one row per iteration."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, tokenizer = load_policy(files.policy)
    reference, _ = load_policy(files.policy)
    reward_model, _ = load_reward_model(files.reward)
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = PPOConfig(
            output_dir=scratch,
            # one micro-batch of all replies: with accumulation TRL would step once a batch
            per_device_train_batch_size=config.prompts_per_iteration,
            gradient_accumulation_steps=1,
            num_mini_batches=config.prompts_per_iteration // config.minibatch,
            num_ppo_epochs=config.epochs,
            total_episodes=len(prompts),
            response_length=config.max_new_tokens,
            local_rollout_forward_batch_size=config.sampling_batch,
            stop_token="eos",
            temperature=config.temperature,
            missing_eos_penalty=config.missing_eos_penalty,
            kl_coef=config.kl_coef,
            cliprange=config.clip,
            cliprange_value=config.value_clip,
            vf_coef=config.value_coef,
            gamma=config.gamma,
            lam=config.lam,
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant",
            num_sample_generations=0,
            gradient_checkpointing=False,
            bf16=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        )
        rows = [{"input_ids": prompt_ids(tokenizer, prompt)} for prompt in prompts]
        trainer = PPOTrainer(
            args=arguments,
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=as_trl_reward(reward_model),
            value_model=as_trl_critic(reward_model),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:1]),
            callbacks=[clock],
        )
        clock.started = time.perf_counter()
        trainer.train()
    save_policy(policy, tokenizer, files.trained)
    return pd.DataFrame(clock.rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the task file in a folder says; write the log and the policy beside it."""
    parser = argparse.ArgumentParser(prog="python -m alignment_tax.trl_ppo", description=__doc__)
    parser.add_argument("folder", type=Path)
    files = Files(parser.parse_args(argv).folder)
    task = json.loads(files.task.read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    log = train(files, PpoConfig(**task["config"]), task["prompts"], task["seed"])
    log.to_csv(files.log, index=False)


if __name__ == "__main__":
    main()
