"""Cross-check of our PPO against TRL's last one: `make bench-ppo`, to data/results/bench_ppo.json.

Both start from theta_0 of preset `tiny` with the same reward model, prompts, batch, steps and
numbers, for several seeds; then both policies are judged by the same code on validation prompts.
Differences that stay: TRL does not clip gradients, takes the prompts in another order, and puts a
reply's score one place behind its end token.

TRL 1.12.0 is the last release with a PPO trainer. It lies in front of this environment's own in a
process of its own, this very file; so nothing at the top imports what needs the newer one.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from alignment_tax import settings
from alignment_tax.models import (
    RewardModel,
    load_policy,
    load_reward_model,
    prompt_ids,
    save_policy,
)
from alignment_tax.presets import PpoConfig, as_dict
from alignment_tax.provenance import provenance
from alignment_tax.stats import compare
from alignment_tax.store import write_whole
from alignment_tax.world.base import Prompt, World

if TYPE_CHECKING:
    from alignment_tax.pipeline.study import Study

LAST_WITH_PPO = "1.12.0"
#: The numbers of the cross-check: those of both, chosen before either was run.
CONFIG = PpoConfig(
    rounds=1,
    iterations=12,
    prompts_per_iteration=128,
    temperature=1.0,
    max_new_tokens=40,
    max_prompt_length=64,
    sampling_batch=128,
    minibatch=32,
    epochs=2,
    learning_rate=1e-4,
    critic_learning_rate=1e-4,
    kl_coef=0.05,
)
SEEDS = (0, 1, 2)
JUDGED = 256
#: Iterations at the start whose seconds are left out: they also load and compile.
WARM_UP = 1


def prompts_of(world: World, config: PpoConfig, seed: int) -> list[Prompt]:
    """Return the prompts of a whole run; a world with fewer begins again."""
    n = config.iterations * config.prompts_per_iteration
    prompts = world.prompts(n, seed, "rlhf")
    return (prompts * (1 + n // len(prompts)))[:n]


def ours(study: Study, config: PpoConfig, seed: int) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Run our PPO; return the policy and one row per iteration: reward, kl, seconds."""
    from alignment_tax.train import ppo

    policy, tokenizer = study.policy("sft")
    state = ppo.start(policy, tokenizer, config, seed, study.reward_model())
    prompts, size = prompts_of(study.world, config, seed), config.prompts_per_iteration
    rows = []
    for start in tqdm(range(0, len(prompts), size), desc=f"our PPO, seed {seed}", leave=False):
        state, row = ppo.step(state, prompts[start : start + size], study.rewards)
        # as TRL logs it: the penalty for a missing end is off already
        penalty = config.missing_eos_penalty * (1 - row["finished"])
        parts = {name: row[name] for name in row if name.startswith("seconds_")}
        numbers = {"reward": row["reward"] - penalty, "kl": row["kl"]}
        rows.append({**numbers, "seconds": sum(parts.values()), **parts})
    return state.policy, pd.DataFrame(rows)


def trls(
    study: Study, config: PpoConfig, seed: int, overlay: Path
) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Run TRL's PPO from `overlay` in a process of its own; return what `ours` does."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "theta_0").symlink_to(study.sft.path / "model")
        (folder / "reward").symlink_to(study.reward.path / "model")
        prompts = prompts_of(study.world, config, seed)
        task = {"config": as_dict(config), "prompts": prompts, "seed": seed}
        task["threads"] = study.preset.threads
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(overlay), str(Path(settings.__file__).parents[1])]),
            "OMP_NUM_THREADS": str(study.preset.threads),
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        command = [sys.executable, __file__, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"TRL's PPO failed ({done.returncode}):\n{done.stderr[-2000:]}")
        return load_policy(folder / "trained")[0], pd.read_csv(folder / "log.csv")


# --- the other process ---------------------------------------------------------------------------


class Hidden:
    """What TRL reads of a network's output: the last of its hidden states."""

    def __init__(self, states: Tensor) -> None:
        self.hidden_states = (states,)


class PrefixRewards(torch.nn.Module):
    """The reward of every prefix of a text, (batch, length, 1), in place of hidden states.

    `RewardModel` reads the last token and the mean over all; both are known at every position, so
    the reward at the end token is the very reward that our own PPO is given.
    """

    def __init__(self, reward_model: RewardModel) -> None:
        super().__init__()
        self.reward_model = reward_model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **_: Any
    ) -> Hidden:
        """Return the rewards; padding may be on either side."""
        mask = attention_mask.long()
        hidden = self.reward_model.backbone(
            input_ids=input_ids, attention_mask=mask, position_ids=position_ids
        ).last_hidden_state.float()
        weights = mask.unsqueeze(-1).float()
        mean = (hidden * weights).cumsum(dim=1) / weights.cumsum(dim=1).clamp(min=1.0)
        features = torch.cat([hidden, mean], dim=-1)
        return Hidden((features * self.reward_model.head.weight.float()).sum(-1, keepdim=True))


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
        numbers = {"reward": logs["objective/scores"], "kl": logs["objective/kl"]}
        self.rows.append({**numbers, "seconds": time.perf_counter() - self.started})
        self.started = time.perf_counter()


def train_by_trl(folder: Path) -> None:
    """Run TRL's PPO as task.json in a folder says; write the log and the policy beside it."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    config, prompts = PpoConfig(**task["config"]), task["prompts"]
    policy, tokenizer = load_policy(folder / "theta_0")
    reward_model, _ = load_reward_model(folder / "reward")
    clock, rows = Clock(), [{"input_ids": prompt_ids(tokenizer, prompt)} for prompt in prompts]
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
            seed=task["seed"],
        )
        trainer = PPOTrainer(
            args=arguments,
            processing_class=tokenizer,
            model=policy,
            ref_model=load_policy(folder / "theta_0")[0],
            reward_model=as_trl_reward(reward_model),
            value_model=as_trl_critic(reward_model),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:1]),
            callbacks=[clock],
        )
        clock.started = time.perf_counter()
        trainer.train()
    save_policy(policy, tokenizer, folder / "trained")
    pd.DataFrame(clock.rows).to_csv(folder / "log.csv", index=False)


# --- both compared -------------------------------------------------------------------------------


def judge(
    study: Study, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
) -> dict[str, float]:
    """Return reward, KL from theta_0 (nats a reply) and share of finished replies, by one code."""
    from alignment_tax.train.kl import kl_estimate, reply_log_probs
    from alignment_tax.train.sample import sample_replies

    prompts = study.world.prompts(JUDGED, seed, "validation")
    config, batch = study.preset.rsf, study.preset.eval.batch_size
    groups = sample_replies(
        policy,
        tokenizer,
        prompts,
        n=1,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.sampling_batch,
        seed=seed,
    )
    replies = [group[0] for group in groups]
    after, before = (
        reply_log_probs(model, tokenizer, prompts, replies, batch)
        for model in (policy, study.policy("sft")[0])
    )
    return {
        "judged_reward": float(study.rewards(prompts, replies).mean()),
        "judged_kl": kl_estimate(after, before),
        "finished": float(np.mean([reply.finished for reply in replies])),
    }


def seconds_per_step(log: pd.DataFrame) -> float:
    """Return the mean seconds of an iteration once it is warm."""
    return float(log["seconds"].iloc[WARM_UP:].mean())


def compared(runs: pd.DataFrame) -> dict[str, Any]:
    """Return paired differences over seeds and the speed, of one row an implementation and seed."""
    by = runs.set_index(["implementation", "seed"]).sort_index()
    mine, theirs = by.loc["ours"], by.loc["trl"]
    gaps = {name: mine[name] - theirs[name] for name in ("judged_reward", "judged_kl")}
    gaps["seconds_saved"] = theirs["seconds_per_step"] - mine["seconds_per_step"]
    found: dict[str, Any] = {
        name: compare.compare_seeds(gap).as_dict() for name, gap in gaps.items()
    }
    faster = theirs["seconds_per_step"].mean() / mine["seconds_per_step"].mean()
    return {**found, "times_faster": float(faster)}


def cross_check(
    study: Study, config: PpoConfig, seeds: Sequence[int], overlay: Path
) -> dict[str, Any]:
    """Run both implementations for several seeds and compare them."""
    _, tokenizer = study.policy("sft")
    rows, curves = [], []
    for seed in tqdm(seeds, desc="cross-check of PPO", unit="seed"):
        trained = {"ours": ours(study, config, seed), "trl": trls(study, config, seed, overlay)}
        for implementation, (policy, log) in trained.items():
            name: dict[str, Any] = {"implementation": implementation, "seed": seed}
            numbers = judge(study, policy, tokenizer, seed)
            rows.append({**name, **numbers, "seconds_per_step": seconds_per_step(log)})
            curves += log.assign(**name, iteration=log.index + 1).to_dict("records")
    return {
        "config": as_dict(config),
        "trl": LAST_WITH_PPO,
        "theta_0": judge(study, study.policy("sft")[0], tokenizer, seeds[0]),
        "runs": rows,
        "comparison": compared(pd.DataFrame(rows)),
        "curves": curves,
        "provenance": provenance(),
    }


def run(trl: Path, iterations: int | None = None, out: Path | None = None) -> int:
    """Run the cross-check and write bench_ppo.json: what `make bench-ppo` does."""
    from alignment_tax.pipeline.study import Study

    if not (trl / "trl" / "experimental" / "ppo").is_dir():
        raise settings.SettingsError(
            f"{trl} holds no TRL with PPO; `make bench-ppo` puts one there."
        )
    config = dataclasses.replace(CONFIG, iterations=iterations or CONFIG.iterations)
    if config.iterations <= WARM_UP:
        raise settings.SettingsError(
            f"Give more than {WARM_UP} iterations: the first is not timed."
        )
    numbers = cross_check(Study("tiny"), config, SEEDS, trl)
    out = out or settings.results_folder() / "bench_ppo.json"
    write_whole(out, json.dumps(numbers, indent=2) + "\n")
    print(pd.DataFrame(numbers["runs"]).to_string(index=False))
    print(f"{json.dumps(numbers['comparison'], indent=2)}\nWritten to {out}.")
    return 0


if __name__ == "__main__":
    train_by_trl(Path(sys.argv[1]))
