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

    AdamW, cosine schedule with 3 % warm-up (paper, Table 3), no dropout. Examples longer than
    `config.max_length` tokens are dropped, not cut: a cut reply would teach replies without an end.
    Demonstrations are texts that nobody sampled, so the trainer may tokenise them itself.
    """
    require_columns(dataset, ("prompt", "completion"))
    fits = [
        index
        for index, row in enumerate(dataset)
        if len(conversation_ids(tokenizer, row["prompt"], row["completion"])) <= config.max_length
    ]
    dropped = {"too long": len(dataset) - len(fits)}
    check_dropped(dropped, len(dataset), config.max_length)
    arguments = TrlSftConfig(
        **trainer_arguments(config, seed, workdir),
        completion_only_loss=True,
        max_length=config.max_length,
    )
    rows = dataset.select(fits).select_columns(["prompt", "completion"])
    model, log = run_trainer(SFTTrainer, policy, tokenizer, arguments, rows, "instruction tuning")
    return Trained(model, log, len(fits), dropped)
