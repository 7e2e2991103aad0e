"""What training refuses: prompts, replies, rewards and data that it could only go wrong with."""

import warnings
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from alignment_tax.models import Model, Tokenizer, prompt_ids
from alignment_tax.presets import AlgorithmConfig
from alignment_tax.world.base import Prompt


def short_prompts(tokenizer: Tokenizer, prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """Return the prompts of at most so many tokens (ValueError: there are none)."""
    short = [p for p in prompts if len(prompt_ids(tokenizer, p)) <= most]
    if not short:
        raise ValueError(f"None of {len(prompts)} prompts has at most {most} tokens.")
    return short


def check_context(model: Model, tokens: int, what: str) -> None:
    """Raise ValueError if `what`, so many tokens, does not fit into the model's context."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if room is not None and tokens > room:
        raise ValueError(f"{what} may take {tokens} tokens, but the model's context has {room}.")


def prompts_that_fit(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: AlgorithmConfig
) -> list[Prompt]:
    """Return the short prompts (ValueError: with their replies they do not fit into the model)."""
    check_context(model, config.max_prompt_length + config.max_new_tokens, "Prompt and reply")
    return short_prompts(tokenizer, prompts, config.max_prompt_length)


def check_finished(finished: Sequence[bool], max_new_tokens: int, more: str = "") -> None:
    """Refuse replies of which none ends (ValueError)."""
    if not any(finished):
        told = f"None of {len(finished)} sampled replies ended within {max_new_tokens} tokens"
        raise ValueError(f"{told} (max_new_tokens): was the policy trained to end them?{more}")


def check_rewards(rewards: np.ndarray, count: int, may_be_equal: bool = False) -> np.ndarray:
    """Return rewards as float64 (ValueError: not (count,), one is not finite, or all the same)."""
    values = np.asarray(rewards, dtype=np.float64)
    if values.shape != (count,):
        raise ValueError(f"The reward function returned shape {values.shape} for {count} replies.")
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        told = f"{len(bad)} of {count} rewards are NaN or infinite, the first at reply {bad[0]}"
        raise ValueError(f"{told}. Check the reward model's weights and empty replies.")
    if count > 1 and np.ptp(values) == 0 and not may_be_equal:
        told = f"All {count} rewards are {values[0]:g}, so there is nothing to select by"
        raise ValueError(f"{told} (a reward model that was never trained gives 0 to everything).")
    return values


def require_columns(dataset: Dataset, columns: tuple[str, ...]) -> None:
    """Raise ValueError unless the dataset has rows and these columns."""
    if len(dataset) == 0 or not set(columns) <= set(dataset.column_names):
        there = f"{len(dataset)} rows and {', '.join(dataset.column_names) or 'no columns'}"
        raise ValueError(f"The dataset has {there}: it needs the columns {', '.join(columns)}.")


def check_dropped(dropped: dict[str, int], total: int, max_length: int) -> None:
    """Warn about examples left out; raise ValueError if they are more than half."""
    count = sum(dropped.values())
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items() if number)
    told = f"{count} of {total} examples cannot be used ({reasons}; max_length={max_length})."
    if 2 * count > total:
        raise ValueError(f"{told} Raise max_length, or look at how the data are made.")
    if count:
        warnings.warn(told, stacklevel=3)
