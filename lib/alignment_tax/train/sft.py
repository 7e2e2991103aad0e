"""Supervised finetuning by TRL's SFTTrainer: base model -> theta_0."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from alignment_tax.models import conversation_ids
from alignment_tax.presets import SftConfig
from alignment_tax.train.checks import check_dropped, require_columns
from alignment_tax.train.trainer import Trained, run_trainer, trainer_arguments


def train_sft(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    config: SftConfig,
    seed: int,
    workdir: Path,
) -> Trained:
    """Finetune `policy` on demonstrations, in place, with the loss on completions only.

    Overlong examples are dropped, not cut: a cut reply would teach replies without an end.
    """
    columns = ("prompt", "completion")
    require_columns(dataset, columns)
    said = [conversation_ids(tokenizer, *(row[column] for column in columns)) for row in dataset]
    fits = [index for index, ids in enumerate(said) if len(ids) <= config.max_length]
    dropped = {"too long": len(dataset) - len(fits)}
    check_dropped(dropped, len(dataset), config.max_length)
    arguments = TrlSftConfig(
        **trainer_arguments(config, seed, workdir),
        completion_only_loss=True,
        max_length=config.max_length,
    )
    rows = dataset.select(fits).select_columns(list(columns))
    describe = "instruction tuning"
    return run_trainer(SFTTrainer, policy, tokenizer, arguments, rows, describe, dropped)
