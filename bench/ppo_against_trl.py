"""Cross-check of our PPO against TRL's last one: `make bench-ppo`, to data/results/bench_ppo.json.

Both have the same theta_0, reward model, prompts, batch, steps, numbers and judge; TRL clips no
gradients, takes prompts in another order, and puts a score one place behind the end token. It is in
front of our own in a process of this file, whose top must import nothing of the newer release.
"""

import copy
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, TrainerCallback

from alignment_tax import models, settings
from alignment_tax.presets import TINY_PPO, PpoConfig
from alignment_tax.stats import compare
from alignment_tax.world.base import Prompt, World
from bench import keep, python

if TYPE_CHECKING:
    from alignment_tax.pipeline.study import Study

#: The numbers of the cross-check: those of both, chosen before either was run.
RATES: dict[str, Any] = dict.fromkeys(("learning_rate", "critic_learning_rate"), 1e-4)
CONFIG = replace(TINY_PPO, rounds=1, iterations=12, sampling_batch=128, **RATES)
SEEDS = (0, 1, 2)
JUDGED = 256
#: Iterations at the start whose seconds are left out: they also load and compile.
WARM_UP = 1

Trained = tuple[PreTrainedModel, pd.DataFrame]


def prompts_of(world: World, config: PpoConfig, seed: int) -> list[Prompt]:
    """Return the prompts of a whole run; a world with fewer begins again."""
    n = config.iterations * config.prompts_per_iteration
    prompts = world.prompts(n, seed, "rlhf")
    return (prompts * (1 + n // len(prompts)))[:n]


def ours(study: "Study", config: PpoConfig, seed: int) -> Trained:
    """Run our PPO; return the policy and one row per iteration: reward, kl, seconds."""
    from alignment_tax.train import ppo

    policy, tokenizer = study.policy("sft")
    state = ppo.start(policy, tokenizer, config, seed, study.reward_model())
    prompts, size = prompts_of(study.world, config, seed), config.prompts_per_iteration
    rows = []
    for start in tqdm(range(0, len(prompts), size), desc=f"our PPO, seed {seed}", leave=False):
        state, row = ppo.step(state, prompts[start : start + size], study.rewards)
        # as TRL logs it: the penalty for a missing end is off already
        reward = row["reward"] - config.missing_eos_penalty * (1 - row["finished"])
        parts = {name: row[name] for name in row if name.startswith("seconds_")}
        rows.append({"reward": reward, "kl": row["kl"], "seconds": sum(parts.values()), **parts})
    return state.policy, pd.DataFrame(rows)


def trls(study: "Study", config: PpoConfig, seed: int, overlay: Path) -> Trained:
    """Run TRL's PPO from `overlay` in a process of its own; return what `ours` does."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, artifact in (("theta_0", study.sft), ("reward", study.reward)):
            (folder / name).symlink_to(artifact.path / "model")
        prompts, threads = prompts_of(study.world, config, seed), study.preset.threads
        task = {"config": asdict(config), "prompts": prompts, "seed": seed, "threads": threads}
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        paths = (overlay, Path(settings.__file__).parents[1], settings.repo_root())
        command, silence = [__file__, str(folder)], {"TRL_EXPERIMENTAL_SILENCE": "1"}
        python(command, paths, None, OMP_NUM_THREADS=str(threads), **silence)
        return models.load_policy(folder / "trained")[0], pd.read_csv(folder / "log.csv")


class PrefixRewards(torch.nn.Module):
    """The reward of every prefix of a text, (batch, length, 1), in place of hidden states.

    At the end token it is the very reward that our own PPO is given.
    """

    def __init__(self, reward_model: models.RewardModel) -> None:
        super().__init__()
        self.reward_model = reward_model

    def forward(self, attention_mask: Tensor, **given: Any) -> SimpleNamespace:
        """Return the rewards; padding may be on either side."""
        mask, read = attention_mask.long(), {n: given[n] for n in ("input_ids", "position_ids")}
        output = self.reward_model.backbone(attention_mask=mask, **read)
        hidden = output.last_hidden_state.float()
        weights = mask.unsqueeze(-1).float()
        mean = (hidden * weights).cumsum(dim=1) / weights.cumsum(dim=1).clamp(min=1.0)
        features = torch.cat([hidden, mean], dim=-1)
        rewards = (features * self.reward_model.head.weight.float()).sum(-1, keepdim=True)
        return SimpleNamespace(hidden_states=(rewards,))


class Scored(torch.nn.ModuleDict):
    """A network in the form TRL's PPO takes: `score` on the hidden states of `backbone`."""

    base_model_prefix = "backbone"


def as_trl_reward(reward_model: models.RewardModel) -> Scored:
    """Return the reward model as TRL's PPO takes it."""
    return Scored({"backbone": PrefixRewards(reward_model), "score": torch.nn.Identity()})


def as_trl_critic(reward_model: models.RewardModel) -> Scored:
    """Return a critic as in `train.ppo`: a copy of the reward model's body, a head at zero."""
    body = copy.deepcopy(reward_model.backbone)
    head = torch.nn.Linear(body.config.get_text_config().hidden_size, 1)
    head.load_state_dict({name: tensor * 0 for name, tensor in head.state_dict().items()})
    return Scored({"backbone": body, "score": head})


class Clock(TrainerCallback):
    """Collects TRL's log of each iteration and the seconds it took."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.started = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the reward and the KL of an iteration; the clock starts anew."""
        if "objective/scores" in (logs or {}):
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
    policy, tokenizer = models.load_policy(folder / "theta_0")
    reward_model, _ = models.load_reward_model(folder / "reward")
    same = ("temperature", "missing_eos_penalty", "kl_coef", "gamma", "lam", "learning_rate")
    clock = Clock()
    rows = [{"input_ids": models.prompt_ids(tokenizer, prompt)} for prompt in prompts]
    arguments = PPOConfig(
        output_dir=str(folder / "scratch"),
        # one micro-batch of all replies: with accumulation TRL would step once a batch
        per_device_train_batch_size=config.prompts_per_iteration, gradient_accumulation_steps=1,
        num_mini_batches=config.prompts_per_iteration // config.minibatch, stop_token="eos",
        num_ppo_epochs=config.epochs, total_episodes=len(prompts), seed=task["seed"],
        response_length=config.max_new_tokens,
        local_rollout_forward_batch_size=config.sampling_batch,
        cliprange=config.clip, cliprange_value=config.value_clip, vf_coef=config.value_coef,
        lr_scheduler_type="constant", num_sample_generations=0, gradient_checkpointing=False,
        bf16=False, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        **{name: getattr(config, name) for name in same},
    )  # fmt: skip
    trainer = PPOTrainer(
        args=arguments, processing_class=tokenizer, model=policy,
        ref_model=models.load_policy(folder / "theta_0")[0],
        reward_model=as_trl_reward(reward_model), value_model=as_trl_critic(reward_model),
        train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows[:1]),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    models.save_policy(policy, tokenizer, folder / "trained")
    pd.DataFrame(clock.rows).to_csv(folder / "log.csv", index=False)


def judge(study: "Study", policy: PreTrainedModel, tokenizer: Any, seed: int) -> dict[str, float]:
    """Return reward, KL from theta_0 (nats a reply) and share of finished replies, by one code."""
    from alignment_tax.train.kl import kl_estimate, reply_log_probs
    from alignment_tax.train.sample import sample_replies, sampling

    prompts = study.world.prompts(JUDGED, seed, "validation")
    numbers = {"n": 1, "seed": seed, **sampling(study.preset.rsf)}
    replies = [group[0] for group in sample_replies(policy, tokenizer, prompts, **numbers)]
    said = (tokenizer, prompts, replies, study.preset.eval.batch_size)
    after, before = (reply_log_probs(each, *said) for each in (policy, study.policy("sft")[0]))
    found = {"judged_reward": float(study.rewards(prompts, replies).mean())}
    finished = float(np.mean([reply.finished for reply in replies]))
    return {**found, "judged_kl": kl_estimate(after, before), "finished": finished}


def compared(runs: pd.DataFrame) -> dict[str, Any]:
    """Return paired differences over seeds and the speed, of one row an implementation and seed."""
    by = runs.set_index(["implementation", "seed"]).sort_index()
    mine, theirs = by.loc["ours"], by.loc["trl"]
    gaps = {name: mine[name] - theirs[name] for name in ("judged_reward", "judged_kl")}
    gaps["seconds_saved"] = theirs["seconds_per_step"] - mine["seconds_per_step"]
    found: dict[str, Any] = {n: asdict(compare.compare_seeds(gap)) for n, gap in gaps.items()}
    faster = theirs["seconds_per_step"].mean() / mine["seconds_per_step"].mean()
    return {**found, "times_faster": float(faster)}


def run(trl: Path, iterations: int | None = None, out: Path | None = None) -> int:
    """Run both for several seeds, compare them and write bench_ppo.json."""
    from alignment_tax.pipeline.study import Study

    if not (trl / "trl" / "experimental" / "ppo").is_dir():
        raise settings.SettingsError(f"{trl} holds no TRL with PPO; see `make bench-ppo`.")
    config = replace(CONFIG, iterations=iterations or CONFIG.iterations)
    if config.iterations <= WARM_UP:
        raise settings.SettingsError(f"Only {WARM_UP} iteration, which is not timed: give more.")
    study = Study("tiny")
    theta_0, tokenizer = study.policy("sft")
    rows, curves = [], []
    for seed in tqdm(SEEDS, desc="cross-check of PPO", unit="seed"):
        trained = {"ours": ours(study, config, seed), "trl": trls(study, config, seed, trl)}
        for implementation, (policy, log) in trained.items():
            name: dict[str, Any] = {"implementation": implementation, "seed": seed}
            numbers = judge(study, policy, tokenizer, seed)
            warm = float(log["seconds"].iloc[WARM_UP:].mean())
            rows.append({**name, **numbers, "seconds_per_step": warm})
            curves += log.assign(**name, iteration=log.index + 1).to_dict("records")
    start = judge(study, theta_0, tokenizer, SEEDS[0])
    found: dict[str, Any] = {"config": asdict(config), "trl": "1.12.0", "theta_0": start}
    found |= {"runs": rows, "comparison": compared(pd.DataFrame(rows)), "curves": curves}
    print(pd.DataFrame(rows).to_string(index=False))
    print(json.dumps(found["comparison"], indent=2))
    return keep(found, "bench_ppo.json", out)


if __name__ == "__main__":
    train_by_trl(Path(sys.argv[1]))
