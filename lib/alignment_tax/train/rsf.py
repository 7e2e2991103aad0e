"""Rejection sampling finetuning (RSF, also RAFT or iterative best-of-n): the paper's RLHF (D.1).

One round: sample n replies to every prompt from the current policy, keep the one with the highest
reward, finetune on what was kept. Repeat. The control keeps a random reply instead, so that what
finetuning on own samples does by itself can be told from what the reward does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.models import prompt_ids
from alignment_tax.presets import RsfConfig
from alignment_tax.train.loop import Extra, Log, finetune
from alignment_tax.train.sample import Reply, sample_replies
from alignment_tax.world.base import Prompt

RewardFunction = Callable[[list[Prompt], list[str]], np.ndarray]


@dataclass(frozen=True)
class RoundResult:
    """What one round of RSF made.

    Attributes:
        policy: The finetuned policy (the object that came in).
        log: One row per training step, see `finetune`.
        samples: One row per reply: group (number of the prompt), prompt, reply, reward, finished,
            chosen.
        stats: mean_reward (of all samples), best_reward (mean over prompts of the highest finished
            one), kept_reward (mean of what was trained on), finished (share, 0-1), kept, dropped
            (prompts without a finished reply), too_long (prompts over max_prompt_length).
    """

    policy: PreTrainedModel
    log: Log
    samples: pd.DataFrame
    stats: dict[str, float]


def select(
    replies: Sequence[Sequence[Reply]], rewards: np.ndarray, how: str, rng: np.random.Generator
) -> list[int | None]:
    """Choose one finished reply per prompt.

    A reply that was cut off never wins: training on it would teach replies that do not end.

    Args:
        replies: n replies for each prompt.
        rewards: (prompts, n).
        how: "best" (highest reward; the first of equals) or "random" (the control).
        rng: Draws for "random".

    Returns:
        The number of the chosen reply for each prompt, or None where no reply is finished.

    Raises:
        ValueError: another `how`.
    """
    if how not in ("best", "random"):
        raise ValueError(f"how must be 'best' or 'random', not {how!r}.")
    chosen: list[int | None] = []
    for group, values in zip(replies, rewards, strict=True):
        finished = [i for i, reply in enumerate(group) if reply.finished]
        if not finished:
            chosen.append(None)
        elif how == "best":
            chosen.append(max(finished, key=values.__getitem__))
        else:
            chosen.append(int(rng.choice(finished)))
    return chosen


def rsf_round(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reward_fn: RewardFunction,
    prompts: Sequence[Prompt],
    config: RsfConfig,
    seed: int,
    how: str = "best",
    extras: Sequence[Extra] = (),
) -> RoundResult:
    """Run one round of RSF on `policy`, in place.

    Args:
        policy: The current policy.
        tokenizer: Its tokenizer.
        reward_fn: Takes n prompts and n replies, returns n rewards.
        prompts: The round's prompts; those over `config.max_prompt_length` tokens are left out.
        config: n, temperature, learning rate, ...; `rounds` and `prompts_per_round` are not used.
        seed: Of this round: give every round another one.
        how: "best", or "random" for the control.
        extras: Remedies, see `finetune`.

    Raises:
        ValueError: no usable prompt, no finished reply, or rewards that cannot be compared.
        TrainingDiverged: see `finetune`.
    """
    samples = draw_samples(policy, tokenizer, reward_fn, prompts, config, seed, how)
    kept = samples[samples["chosen"]]
    log = finetune(
        policy,
        tokenizer,
        list(zip(kept["prompt"], kept["reply"], strict=True)),
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=seed,
        # room to spare: text written and read again may have more tokens than were drawn
        max_length=config.max_prompt_length + 2 * config.max_new_tokens + 1,
        extras=extras,
        describe=f"RSF ({how})",
    )
    asked = samples["group"].nunique()
    stats = {
        "mean_reward": samples["reward"].mean(),
        "best_reward": samples[samples["finished"]].groupby("group")["reward"].max().mean(),
        "kept_reward": kept["reward"].mean(),
        "finished": samples["finished"].mean(),
        "kept": len(kept),
        "dropped": asked - len(kept),
        "too_long": len(prompts) - asked,
    }
    return RoundResult(policy, log, samples, {name: float(v) for name, v in stats.items()})


def draw_samples(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reward_fn: RewardFunction,
    prompts: Sequence[Prompt],
    config: RsfConfig,
    seed: int,
    how: str = "best",
) -> pd.DataFrame:
    """Sample n replies to each prompt, score them and choose one of each group.

    Args:
        policy, tokenizer, reward_fn, prompts, config, seed, how: see `rsf_round`.

    Returns:
        One row a reply: group (number of the prompt), prompt, reply, reward, finished, chosen (one
        finished reply a group, none if all were cut off).

    Raises:
        ValueError: no usable prompt, no finished reply, or rewards that cannot be compared.
    """
    short = short_prompts(tokenizer, prompts, config.max_prompt_length)
    replies = sample_replies(
        policy,
        tokenizer,
        short,
        n=config.n,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.sampling_batch,
        seed=seed,
    )
    flat = [
        (prompt, reply) for prompt, group in zip(short, replies, strict=True) for reply in group
    ]
    rewards = check_rewards(reward_fn([p for p, _ in flat], [r.text for _, r in flat]), len(flat))
    rewards = rewards.reshape(len(short), config.n)
    chosen = select(replies, rewards, how, np.random.default_rng(seed))
    if all(best is None for best in chosen):
        raise ValueError(no_finished_reply(len(flat), config.max_new_tokens))
    return pd.DataFrame(
        {
            "group": np.repeat(np.arange(len(short)), config.n),
            "prompt": [prompt for prompt, _ in flat],
            "reply": [reply.text for _, reply in flat],
            "reward": rewards.ravel(),
            "finished": [reply.finished for _, reply in flat],
            "chosen": [i == best for best in chosen for i in range(config.n)],
        }
    )


def short_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], max_prompt_length: int
) -> list[Prompt]:
    """Return the prompts of at most so many tokens (ValueError: there are none)."""
    short = [p for p in prompts if len(prompt_ids(tokenizer, p)) <= max_prompt_length]
    if not short:
        raise ValueError(
            f"None of {len(prompts)} prompts has at most {max_prompt_length} tokens. "
            "Raise max_prompt_length."
        )
    return short


def no_finished_reply(count: int, max_new_tokens: int) -> str:
    """Return what to tell a user whose policy never ends its replies."""
    return (
        f"None of {count} sampled replies ended within {max_new_tokens} tokens. "
        "Raise max_new_tokens, or check that the policy was trained to end its replies."
    )


def check_rewards(rewards: np.ndarray, count: int) -> np.ndarray:
    """Return rewards as float64 (count,).

    Raises:
        ValueError: another number of rewards, one that is not finite, or all the same.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if values.shape != (count,):
        raise ValueError(
            f"The reward function returned shape {values.shape} for {count} replies; it must "
            f"return one number per reply, shape ({count},)."
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {count} rewards are NaN or infinite, the first at reply {bad[0]}. "
            "Check the reward model's weights and empty replies."
        )
    if count > 1 and np.ptp(values) == 0:
        raise ValueError(
            f"All {count} rewards are {values[0]:g}, so there is nothing to select by. A reward "
            "model that was never trained gives 0 to everything."
        )
    return values
