"""The Bradley-Terry reward model, by TRL's RewardTrainer, and how good it is.

P(chosen is preferred) = sigmoid(r(chosen) - r(rejected)); the loss is -log of it. Only differences
count, so the zero of the scale is arbitrary: rewards are not centred.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardConfig as TrlRewardConfig
from trl import RewardTrainer

from alignment_tax.models import RewardModel, conversation_ids, score_ids
from alignment_tax.presets import RewardConfig
from alignment_tax.train.checks import check_dropped, require_columns
from alignment_tax.train.trainer import Trained, run_trainer, trainer_arguments


def train_reward_model(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    config: RewardConfig,
    seed: int,
    workdir: Path,
) -> Trained:
    """Train a reward model that starts from a copy of `policy` (theta_0) on preference pairs."""
    chosen, rejected = pair_ids(tokenizer, dataset)
    usable, dropped = usable_pairs(chosen, rejected, config.max_length)
    rows = [{"chosen_ids": chosen[i], "rejected_ids": rejected[i]} for i in usable]
    numbers = trainer_arguments(config, seed, workdir)
    arguments = TrlRewardConfig(**numbers, max_length=config.max_length)
    start, data = RewardModel.from_policy(policy, tokenizer), Dataset.from_list(rows)
    given = (start, tokenizer, arguments, data, "reward model", dropped)
    return run_trainer(RewardTrainer, *given)


def pair_ids(
    tokenizer: PreTrainedTokenizerBase, dataset: Dataset
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the tokens of each chosen and each rejected conversation (ValueError: columns)."""
    require_columns(dataset, ("prompt", "chosen", "rejected"))
    chosen = [conversation_ids(tokenizer, row["prompt"], row["chosen"]) for row in dataset]
    return chosen, [conversation_ids(tokenizer, row["prompt"], row["rejected"]) for row in dataset]


def usable_pairs(
    chosen: Sequence[list[int]], rejected: Sequence[list[int]], max_length: int
) -> tuple[list[int], dict[str, int]]:
    """Return the numbers of the pairs that teach something, and how many do not and why.

    The loss of a pair of the same tokens is log 2 whatever the weights.
    """
    pairs = list(zip(chosen, rejected, strict=True))
    short = [i for i, pair in enumerate(pairs) if max(map(len, pair)) <= max_length]
    usable = [i for i in short if chosen[i] != rejected[i]]
    dropped = {"too long": len(pairs) - len(short), "identical": len(short) - len(usable)}
    check_dropped(dropped, len(pairs), max_length)
    return usable, dropped


def margins(
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    batch_size: int,
    max_length: int,
) -> np.ndarray:
    """Return r(chosen) - r(rejected) of every pair, float32 (pairs,); overlong ones are cut."""
    chosen, rejected = pair_ids(tokenizer, dataset)
    sequences = [ids[-max_length:] for ids in chosen + rejected]
    given = (sequences, tokenizer.pad_token_id, batch_size, "scoring pairs")
    return np.subtract(*np.split(score_ids(reward_model.eval(), *given), 2))


def accuracy(margin: np.ndarray) -> float:
    """Return the share (0-1) of positive margins; a zero counts half."""
    return float(np.mean((margin > 0) + 0.5 * (margin == 0)))
