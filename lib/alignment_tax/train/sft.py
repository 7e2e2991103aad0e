"""Supervised finetuning by TRL's SFTTrainer: base model -> theta_0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from alignment_tax.models import conversation_ids, prompt_ids
from alignment_tax.presets import SftConfig
from alignment_tax.train.checks import check_dropped, require_columns
from alignment_tax.train.pretrain import encode
from alignment_tax.train.trainer import Trained, run_trainer, trainer_arguments
from alignment_tax.world.base import Prompt
from alignment_tax.world.corpus import Document


def train_sft(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    config: SftConfig,
    seed: int,
    workdir: Path,
    replay: Sequence[Document] = (),
) -> Trained:
    """Finetune `policy` on demonstrations, in place, with the loss on completions only.

    Overlong examples are dropped, not cut: a cut reply would teach replies without an end. `replay`
    is pretraining text that is mixed in, with the loss on what counts in full in pretraining.
    """
    columns = ("prompt", "completion")
    require_columns(dataset, columns)
    every = [_demonstration(tokenizer, *(row[column] for column in columns)) for row in dataset]
    every += [_document(tokenizer, document) for document in replay]
    rows = [row for row in every if len(row["input_ids"]) <= config.max_length]
    dropped = {"too long": len(every) - len(rows)}
    check_dropped(dropped, len(every), config.max_length)
    arguments = TrlSftConfig(
        **trainer_arguments(config, seed, workdir),
        completion_only_loss=True,
        max_length=config.max_length,
    )
    data, describe = Dataset.from_list(rows), "instruction tuning"
    return run_trainer(SFTTrainer, policy, tokenizer, arguments, data, describe, dropped)


def _demonstration(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: Prompt
) -> dict[str, list[int]]:
    """Return the tokens of a demonstration, and which of them the loss is on."""
    ids, asked = conversation_ids(tokenizer, prompt, completion), len(prompt_ids(tokenizer, prompt))
    return {"input_ids": ids, "completion_mask": [0] * asked + [1] * (len(ids) - asked)}


def _document(tokenizer: PreTrainedTokenizerBase, document: Document) -> dict[str, list[int]]:
    """Return the tokens of pretraining text, and which of them the loss is on."""
    row = encode(document, tokenizer)
    return {"input_ids": row.ids, "completion_mask": [int(weight == 1) for weight in row.weights]}
