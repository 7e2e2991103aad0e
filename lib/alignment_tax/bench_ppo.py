"""Cross-check of our PPO against TRL's last one: `make bench-ppo`, to data/results/bench_ppo.json.

Both start from theta_0 of preset `tiny` with the same reward model, prompts, batch, steps and
numbers, for several seeds; then both policies are judged by the same code on validation prompts.
Differences that stay: TRL does not clip gradients, takes the prompts in another order, and puts a
reply's score one place behind its end token.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax import settings
from alignment_tax.models import load_policy
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import PpoConfig, as_dict
from alignment_tax.stats import compare
from alignment_tax.store import provenance, write_whole
from alignment_tax.train import ppo
from alignment_tax.train.kl import kl_estimate, reply_log_probs
from alignment_tax.train.sample import sample_replies
from alignment_tax.trl_ppo import LAST_WITH_PPO, Files
from alignment_tax.world.base import Prompt, World

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
    policy, tokenizer = study.policy("sft")
    state = ppo.start(policy, tokenizer, config, seed, study.reward_model())
    prompts, size = prompts_of(study.world, config, seed), config.prompts_per_iteration
    rows = []
    for start in tqdm(range(0, len(prompts), size), desc=f"our PPO, seed {seed}", leave=False):
        state, row = ppo.step(state, prompts[start : start + size], study.rewards)
        # as TRL logs it: the penalty for a missing end is off already
        penalty = config.missing_eos_penalty * (1 - row["finished"])
        parts = {name: row[name] for name in row if name.startswith("seconds_")}
        rows.append(
            {
                "reward": row["reward"] - penalty,
                "kl": row["kl"],
                "seconds": sum(parts.values()),
                **parts,
            }
        )
    return state.policy, pd.DataFrame(rows)


def trls(
    study: Study, config: PpoConfig, seed: int, overlay: Path
) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Run TRL's PPO in a process of its own; return what `ours` does.

    Args:
        study: Where theta_0, reward model and prompts come from.
        config: The same numbers.
        seed: The same seed; TRL draws other numbers from it.
        overlay: Folder with the release of TRL that has PPO.

    Raises:
        RuntimeError: the other process failed; holds the end of its error output.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = Files(Path(scratch))
        files.policy.symlink_to(study.sft.path / "model")
        files.reward.symlink_to(study.reward.path / "model")
        task = {
            "config": as_dict(config),
            "prompts": prompts_of(study.world, config, seed),
            "seed": seed,
            "threads": study.preset.threads,
        }
        files.task.write_text(json.dumps(task), encoding="utf-8")
        package = str(Path(__file__).resolve().parents[1])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(overlay), package]),
            "OMP_NUM_THREADS": str(study.preset.threads),
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        command = [sys.executable, "-m", "alignment_tax.trl_ppo", str(files.folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"TRL's PPO failed ({done.returncode}):\n{done.stderr[-2000:]}")
        return load_policy(files.trained)[0], pd.read_csv(files.log)


def judge(
    study: Study, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
) -> dict[str, float]:
    """Return reward, KL from theta_0 (nats a reply) and share of finished replies, by one code."""
    prompts = study.world.prompts(JUDGED, seed, "validation")
    config = study.preset.rsf
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
    theta_0, _ = study.policy("sft")
    batch = study.preset.eval.batch_size
    after, before = (
        reply_log_probs(model, tokenizer, prompts, replies, batch) for model in (policy, theta_0)
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
    """Return what the cross-check says: paired differences over seeds, and the speed.

    Args:
        runs: One row per implementation ("ours", "trl") and seed: judged_reward, judged_kl,
            finished, seconds_per_step.
    """
    by = runs.set_index(["implementation", "seed"]).sort_index()
    mine, theirs = by.loc["ours"], by.loc["trl"]
    found: dict[str, Any] = {
        name: compare.compare_seeds(mine[name] - theirs[name]).as_dict()
        for name in ("judged_reward", "judged_kl")
    }
    saved = theirs["seconds_per_step"] - mine["seconds_per_step"]
    found["seconds_saved"] = compare.compare_seeds(saved).as_dict()
    found["times_faster"] = float(
        theirs["seconds_per_step"].mean() / mine["seconds_per_step"].mean()
    )
    return found


def markdown(numbers: dict[str, Any]) -> str:
    """Return the table of a cross-check for a reader."""
    lines = [
        "| PPO | seed | reward on validation prompts | KL | finished | seconds a step |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in numbers["runs"]:
        name = "ours" if row["implementation"] == "ours" else f"TRL {LAST_WITH_PPO}"
        lines.append(
            f"| {name} | {row['seed']} | {row['judged_reward']:.2f} | {row['judged_kl']:.2f} "
            f"| {row['finished']:.2f} | {row['seconds_per_step']:.2f} |"
        )
    compared = numbers["comparison"]
    gap, saved = compared["judged_reward"], compared["seconds_saved"]
    lines.append(
        f"\nReward, ours minus TRL: {gap['difference']:+.2f} "
        f"({gap['low']:+.2f} to {gap['high']:+.2f}). Seconds a step, TRL minus ours: "
        f"{saved['difference']:+.2f} ({saved['low']:+.2f} to {saved['high']:+.2f}); ours being "
        f"faster: {saved['verdict']} (ratio of the means {compared['times_faster']:.2f})."
    )
    return "\n".join(lines)


def run(study: Study, config: PpoConfig, seeds: Sequence[int], overlay: Path) -> dict[str, Any]:
    """Run both implementations for several seeds and compare them."""
    _, tokenizer = study.policy("sft")
    rows, curves = [], []
    for seed in tqdm(seeds, desc="cross-check of PPO", unit="seed"):
        trained = {
            "ours": ours(study, config, seed),
            "trl": trls(study, config, seed, overlay),
        }
        for implementation, (policy, log) in trained.items():
            name = {"implementation": implementation, "seed": seed}
            measured = judge(study, policy, tokenizer, seed)
            rows.append(name | measured | {"seconds_per_step": seconds_per_step(log)})
            log = log.assign(implementation=implementation, seed=seed, iteration=log.index + 1)
            curves += log.to_dict("records")
    theta_0, _ = study.policy("sft")
    start = judge(study, theta_0, tokenizer, seeds[0])
    return {
        "config": as_dict(config),
        "trl": LAST_WITH_PPO,
        "theta_0": start,
        "runs": rows,
        "comparison": compared(pd.DataFrame(rows)),
        "curves": curves,
        "provenance": provenance(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cross-check and write bench_ppo.json: what `make bench-ppo` does."""
    parser = argparse.ArgumentParser(
        prog="alignment-tax bench-ppo",
        description="Compare our PPO with TRL's last one (make bench-ppo fetches that).",
    )
    parser.add_argument("--trl", type=Path, required=True, help=f"folder with TRL {LAST_WITH_PPO}")
    parser.add_argument("--iterations", type=int, default=CONFIG.iterations, help="of each run")
    parser.add_argument("--out", type=Path, help="default: data/results/bench_ppo.json")
    given = parser.parse_args(argv)
    if not (given.trl / "trl" / "experimental" / "ppo").is_dir():
        parser.error(f"{given.trl} holds no TRL with PPO; `make bench-ppo` puts one there")
    if given.iterations <= WARM_UP:
        parser.error(f"--iterations must be above {WARM_UP}: the first is not timed")
    config = dataclasses.replace(CONFIG, iterations=given.iterations)
    numbers = run(Study("tiny"), config, SEEDS, given.trl)
    out = given.out or settings.results_folder() / "bench_ppo.json"
    write_whole(out, json.dumps(numbers, indent=2) + "\n")
    print(markdown(numbers))
    print(f"Written to {out}.")
    return 0
