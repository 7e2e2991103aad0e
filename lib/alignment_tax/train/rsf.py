"""Rejection sampling finetuning (RSF, also RAFT or iterative best-of-n): the paper's RLHF (D.1).

One round: sample n replies to every prompt, keep the one with the highest reward, finetune on what
was kept. The control keeps a random reply: what finetuning on own samples does by itself.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from alignment_tax.models import Model, Reply, Tokenizer
from alignment_tax.presets import DistilConfig, RsfConfig
from alignment_tax.train.checks import check_finished, check_rewards, short_prompts
from alignment_tax.train.loop import Extra, finetune
from alignment_tax.train.rounds import RewardFunction, RoundResult, Start, round_seed
from alignment_tax.train.sample import kept_replies, reply_columns, sample_replies, sampling
from alignment_tax.world.base import Prompt


def rsf(config: RsfConfig, start: Start, how: str = "best") -> RoundResult:
    """Run one round of RSF, or of its control (`how` "random")."""
    given = (start.policy, start.tokenizer, start.reward_fn, start.prompts)
    return rsf_round(*given, config, round_seed(start.seed, start.number), how)


def select(
    replies: Sequence[Sequence[Reply]], rewards: np.ndarray, how: str, rng: np.random.Generator
) -> list[int | None]:
    """Return the number of the chosen reply of each prompt's n, or None where none is finished.

    `rewards` are (prompts, n); `how` is "best" (the first of equals) or "random" (the control). A
    reply that was cut off never wins: it would teach replies that do not end.
    """
    if how not in ("best", "random"):
        raise ValueError(f"how must be 'best' or 'random', not {how!r}.")
    chosen: list[int | None] = []
    for group, values in zip(replies, rewards, strict=True):
        finished = [i for i, reply in enumerate(group) if reply.finished]
        if how == "best":
            chosen.append(max(finished, key=values.__getitem__, default=None))
        else:
            chosen.append(int(rng.choice(finished)) if finished else None)
    return chosen


def rsf_round(
    policy: Model, tokenizer: Tokenizer, reward_fn: RewardFunction, prompts: Sequence[Prompt],
    config: RsfConfig, seed: int, how: str = "best", extras: Sequence[Extra] = (),
) -> RoundResult:  # fmt: skip
    """Run one round of RSF, or of its control, on `policy`, in place; `extras` are remedies."""
    samples = draw_samples(policy, tokenizer, reward_fn, prompts, config, seed, how)
    kept = samples[samples["chosen"]]
    pairs = list(zip(kept["prompt"], kept_replies(kept), strict=True))
    numbers = {**asdict(DistilConfig.like(config)), "seed": seed, "extras": extras}
    log = finetune(policy, tokenizer, pairs, **numbers, describe=f"RSF ({how})")
    asked, finished = samples["group"].nunique(), samples[samples["finished"]]
    stats = {
        "mean_reward": samples["reward"].mean(),
        "best_reward": finished.groupby("group")["reward"].max().mean(),
        "kept_reward": kept["reward"].mean(),
        "finished": samples["finished"].mean(),
    }
    stats |= {"kept": len(kept), "dropped": asked - len(kept), "too_long": len(prompts) - asked}
    return RoundResult(policy, log, samples, stats)


def draw_samples(
    policy: Model, tokenizer: Tokenizer, reward_fn: RewardFunction, prompts: Sequence[Prompt],
    config: RsfConfig, seed: int, how: str = "best",
) -> pd.DataFrame:  # fmt: skip
    """Sample n replies to each prompt, score them and choose one of each group: a row a reply."""
    short = short_prompts(tokenizer, prompts, config.max_prompt_length)
    groups = sample_replies(policy, tokenizer, short, n=config.n, seed=seed, **sampling(config))
    asked = [prompt for prompt in short for _ in range(config.n)]
    replies = [reply for group in groups for reply in group]
    check_finished([reply.finished for reply in replies], config.max_new_tokens)
    rewards = check_rewards(reward_fn(asked, replies), len(replies))
    chosen = select(groups, rewards.reshape(len(short), -1), how, np.random.default_rng(seed))
    number = np.repeat(np.arange(len(short)), config.n)
    table = {"group": number, "prompt": asked, **reply_columns(replies), "reward": rewards}
    picked = [i == best for best in chosen for i in range(config.n)]
    return pd.DataFrame({**table, "chosen": picked})
