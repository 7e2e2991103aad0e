"""One round of each RLHF algorithm behind one signature: what `Study` runs and keeps.

All start from theta_0 and pursue the same reward model. A round is the unit of keeping and of
resuming, and its budget of sampled replies is the same for all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.models import RewardModel
from alignment_tax.presets import AlgorithmConfig, DpoConfig, PpoConfig, RlooConfig, RsfConfig
from alignment_tax.train import ppo
from alignment_tax.train.dpo import on_policy_pairs, train_dpo
from alignment_tax.train.rloo import train_rloo
from alignment_tax.train.rsf import RewardFunction, RoundResult, rsf_round
from alignment_tax.world.base import Prompt, World

#: Where PPO leaves its critic and its optimisers for the next round, beside the policy.
PPO_STATE = "ppo"


@dataclass(frozen=True)
class Start:
    """Where a round of RLHF starts from, and what it may use.

    Attributes:
        policy: The policy of the round before, or theta_0; it is trained in place.
        theta_0: The reference of every round; it stays as it is.
        tokenizer: The tokenizer of both.
        reward_fn: Takes n prompts and n replies, returns n rewards.
        gold_fn: The same for the reward that is not optimised, for the log.
        reward_model: The reward model and its tokenizer: PPO's critic starts from a copy of it.
        world: Where offline preference pairs come from.
        prompts: The round's.
        seed: Of the run.
        number: Of the round; the first is 1.
        before: Folder of the round before, or None in the first.
        folder: Of this round: for scratch in `work`, and for what the next round needs.
    """

    policy: PreTrainedModel
    theta_0: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reward_fn: RewardFunction
    gold_fn: RewardFunction
    reward_model: tuple[RewardModel, PreTrainedTokenizerBase]
    world: World
    prompts: Sequence[Prompt]
    seed: int
    number: int
    before: Path | None
    folder: Path

    @property
    def round_seed(self) -> int:
        """The seed of this round, see the function of this name."""
        return round_seed(self.seed, self.number)


def round_seed(seed: int, number: int) -> int:
    """Return the seed of a round: another one in every round of every run."""
    return 1000 * (seed + 1) + number


def rsf(config: RsfConfig, start: Start, how: str = "best") -> RoundResult:
    """Run one round of RSF, or of its control (`how` "random")."""
    return rsf_round(
        start.policy,
        start.tokenizer,
        start.reward_fn,
        start.prompts,
        config,
        start.round_seed,
        how,
    )


def dpo(config: DpoConfig, start: Start) -> RoundResult:
    """Run one round of DPO: pairs of theta_0's own replies, or the world's; then training.

    `samples` has one row per pair: prompt, reply (the chosen one), rejected, margin.
    """
    if config.source == "on_policy":
        pairs = on_policy_pairs(
            start.theta_0,
            start.tokenizer,
            start.reward_fn,
            start.prompts,
            config,
            start.round_seed,
        )
    else:
        pairs = start.world.preferences(len(start.prompts), start.round_seed, "train")
    trained = train_dpo(
        start.policy,
        start.theta_0,
        start.tokenizer,
        pairs,
        config,
        start.round_seed,
        start.folder / "work",
    )
    samples = pd.DataFrame(
        {
            "prompt": list(pairs["prompt"]),
            "reply": [messages[0]["content"] for messages in pairs["chosen"]],
            "rejected": [messages[0]["content"] for messages in pairs["rejected"]],
            "margin": list(pairs["margin"]) if "margin" in pairs.column_names else float("nan"),
            "chosen": True,
        }
    )
    stats = {"kept": trained.used, "dropped": len(start.prompts) - trained.used}
    return RoundResult(trained.model, trained.log, samples, {k: float(v) for k, v in stats.items()})


def rloo(config: RlooConfig, start: Start) -> RoundResult:
    """Run one round of RLOO; `samples` has one row per reply that it was trained on."""
    trained = train_rloo(
        start.policy,
        start.theta_0,
        start.tokenizer,
        start.reward_fn,
        start.prompts,
        config,
        start.round_seed,
        start.folder / "work",
    )
    samples = trained.samples.assign(chosen=True)
    stats = {
        "mean_reward": samples["reward"].mean(),
        "finished": samples["finished"].mean(),
        "kept": trained.used,
        "dropped": sum(trained.dropped.values()),
    }
    return RoundResult(trained.model, trained.log, samples, {k: float(v) for k, v in stats.items()})


def ppo_rounds(config: PpoConfig, start: Start) -> RoundResult:
    """Run the iterations of one round of PPO, going on from the critic of the round before.

    The log has one row per iteration; single replies are not kept, so `samples` is empty.
    """
    critic = None if config.shared_trunk else start.reward_model
    state = ppo.start(start.theta_0, start.tokenizer, config, start.seed, critic)
    if start.before is not None:
        state = ppo.resume(state, start.before / PPO_STATE)
    size, log = config.prompts_per_iteration, []
    for i in tqdm(range(config.iterations), desc=f"PPO, round {start.number}", unit="iteration"):
        prompts = start.prompts[i * size : (i + 1) * size]
        state, row = ppo.step(state, prompts, start.reward_fn, start.gold_fn)
        log.append(row)
    ppo.save(state, start.folder / PPO_STATE)
    rows = pd.DataFrame(log)
    stats = {
        "mean_reward": rows["reward"].mean(),
        "finished": rows["finished"].mean(),
        "kept": len(rows) * size,
        "dropped": 0,
    }
    samples = pd.DataFrame(columns=["prompt", "reply", "chosen"])
    return RoundResult(state.policy, log, samples, {k: float(v) for k, v in stats.items()})


#: A new algorithm is one file and one line here.
ALGORITHMS: dict[str, Callable[[Any, Start], RoundResult]] = {
    "rsf": rsf,
    "rsf_random": functools.partial(rsf, how="random"),
    "dpo": dpo,
    "rloo": rloo,
    "ppo": ppo_rounds,
}


def run_round(algorithm: str, config: AlgorithmConfig, start: Start) -> RoundResult:
    """Run one round of an algorithm in `ALGORITHMS`; rsf_random is RSF's control."""
    return ALGORITHMS[algorithm](config, start)
