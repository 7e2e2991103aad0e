"""The Bradley-Terry reward model, by TRL's RewardTrainer or as a head alone, and how good it is.

P(chosen is preferred) = sigmoid(r(chosen) - r(rejected)); the loss is -log of it. The zero of the
scale is arbitrary: rewards are not centred.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegressionCV
from trl import RewardConfig as TrlRewardConfig, RewardTrainer

from alignment_tax.models import Model, RewardModel, Tokenizer, conversation_ids, score_ids
from alignment_tax.presets import HeadConfig, RewardConfig
from alignment_tax.train.checks import check_dropped, require_columns
from alignment_tax.train.trainer import Trained, run_trainer, trainer_arguments

STRENGTHS = [10.0**power for power in range(-6, 1)]  # of a head's regularisation, inverse


def train_reward_model(
    policy: Model, tokenizer: Tokenizer, dataset: Dataset, config: RewardConfig, seed: int,
    workdir: Path,
) -> Trained:  # fmt: skip
    """Train a reward model that starts from a copy of `policy` (theta_0) on preference pairs."""
    chosen, rejected = pair_ids(tokenizer, dataset)
    usable, dropped = usable_pairs(chosen, rejected, config.max_length)
    rows = [{"chosen_ids": chosen[i], "rejected_ids": rejected[i]} for i in usable]
    numbers = trainer_arguments(config, seed, workdir)
    arguments = TrlRewardConfig(**numbers, max_length=config.max_length)
    start, data = RewardModel.from_policy(policy, tokenizer), Dataset.from_list(rows)
    return run_trainer(RewardTrainer, start, tokenizer, arguments, data, "reward model", dropped)


def train_head(
    policy: Model, tokenizer: Tokenizer, dataset: Dataset, config: HeadConfig, batch_size: int
) -> Trained:
    """Fit the head of a reward model on frozen layers of `policy` (theta_0) to preference pairs.

    With a linear reward Bradley-Terry is a logistic regression without intercept on differences of
    what the head reads, regularised by cross-validation. Overlong conversations lose their start.
    """
    model = RewardModel.from_policy(policy, tokenizer, config.layers)
    chosen, rejected = pair_ids(tokenizer, dataset)
    ids = [each[-config.max_length :] for each in chosen + rejected]
    given = (model, ids, tokenizer.pad_token_id, batch_size, "reading pairs")
    difference = np.subtract(*np.split(score_ids(*given, features=True), 2))
    scale = difference.std(axis=0)
    # every second pair is turned around, since a regression wants both answers
    sign = np.where(np.arange(len(difference)) % 2, -1, 1)
    fit = LogisticRegressionCV(
        Cs=STRENGTHS, l1_ratios=(0.0,), use_legacy_attributes=False, fit_intercept=False,
        scoring="neg_log_loss", max_iter=1000,
    )  # fmt: skip
    fit.fit(sign[:, None] * difference / scale, sign)
    with torch.no_grad():
        model.head.weight.copy_(torch.as_tensor(fit.coef_ / scale))
    return Trained(model, [{"step": 1, "C": float(fit.C_)}], len(dataset))


def pair_ids(tokenizer: Tokenizer, dataset: Dataset) -> tuple[list[list[int]], list[list[int]]]:
    """Return the tokens of each chosen and each rejected conversation (ValueError: columns)."""
    require_columns(dataset, ("prompt", "chosen", "rejected"))
    chosen = [conversation_ids(tokenizer, row["prompt"], row["chosen"]) for row in dataset]
    return chosen, [conversation_ids(tokenizer, row["prompt"], row["rejected"]) for row in dataset]


def usable_pairs(
    chosen: Sequence[list[int]], rejected: Sequence[list[int]], max_length: int
) -> tuple[list[int], dict[str, int]]:
    """Return the numbers of the pairs that teach something, and how many do not and why."""
    pairs = list(zip(chosen, rejected, strict=True))
    short = [i for i, pair in enumerate(pairs) if max(map(len, pair)) <= max_length]
    usable = [i for i in short if chosen[i] != rejected[i]]
    dropped = {"too long": len(pairs) - len(short), "identical": len(short) - len(usable)}
    check_dropped(dropped, len(pairs), max_length)
    return usable, dropped


def margins(
    reward_model: Model, tokenizer: Tokenizer, dataset: Dataset, batch_size: int, max_length: int
) -> np.ndarray:
    """Return r(chosen) - r(rejected) of every pair, float32 (pairs,); overlong ones are cut."""
    chosen, rejected = pair_ids(tokenizer, dataset)
    sequences = [ids[-max_length:] for ids in chosen + rejected]
    given = (sequences, tokenizer.pad_token_id, batch_size, "scoring pairs")
    return np.subtract(*np.split(score_ids(reward_model.eval(), *given), 2))


def accuracy(margin: np.ndarray) -> float:
    """Return the share (0-1) of positive margins; a zero counts half."""
    return float(np.mean((margin > 0) + 0.5 * (margin == 0)))
