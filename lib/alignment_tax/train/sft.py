"""Supervised finetuning by TRL's SFTTrainer: base model -> theta_0."""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from trl import SFTConfig as TrlSftConfig, SFTTrainer

from alignment_tax.models import Model, Tokenizer, conversation_ids, prompt_ids
from alignment_tax.presets import SftConfig
from alignment_tax.train import checks, pretrain, trainer
from alignment_tax.world.corpus import Document


def train_sft(
    policy: Model, tokenizer: Tokenizer, dataset: Dataset, config: SftConfig, seed: int,
    workdir: Path, replay: Sequence[Document] = (),
) -> trainer.Trained:  # fmt: skip
    """Finetune `policy` on demonstrations, in place, with the loss on completions only.

    Overlong examples are dropped, not cut: a cut reply would teach replies without an end. `replay`
    is pretraining text that is mixed in, with the loss on what counts in full in pretraining.
    """
    checks.require_columns(dataset, ("prompt", "completion"))
    every = []
    for row in dataset:
        ids = conversation_ids(tokenizer, row["prompt"], row["completion"])
        asked = len(prompt_ids(tokenizer, row["prompt"]))
        every.append((ids, [0] * asked + [1] * (len(ids) - asked)))
    texts = [pretrain.encode(document, tokenizer) for document in replay]
    every += [(text.ids, [int(weight == 1) for weight in text.weights]) for text in texts]
    short = [both for both in every if len(both[0]) <= config.max_length]
    dropped = {"too long": len(every) - len(short)}
    checks.check_dropped(dropped, len(every), config.max_length)
    rows = Dataset.from_list([{"input_ids": ids, "completion_mask": mask} for ids, mask in short])
    numbers = trainer.trainer_arguments(config, seed, workdir) | {"max_length": config.max_length}
    arguments = TrlSftConfig(**numbers, completion_only_loss=True)
    given = (policy, tokenizer, arguments, rows, "instruction tuning", dropped)
    return trainer.run_trainer(SFTTrainer, *given)
