"""Supervised finetuning by TRL's SFTTrainer: base model -> theta_0, and what its trainers share."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from alignment_tax.models import conversation_ids, device, silence_dropout, use_bf16
from alignment_tax.presets import DpoConfig, RewardConfig, RlooConfig, SftConfig
from alignment_tax.train.loop import Log, check_finite

WARMUP = 0.03  # paper, Table 3: cosine with 3 % warm-up
CHECKED = ("loss", "grad_norm")


@dataclass(frozen=True)
class Trained:
    """A trained model in eval mode, and how it went.

    `log` has one row per step (step, loss, and what the trainer adds). `used` counts the examples
    trained on, `dropped` those left out, by reason.
    """

    model: Any
    log: Log
    used: int
    dropped: dict[str, int] = field(default_factory=dict)


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

    Args:
        policy: Base model; its weights are changed.
        tokenizer: With a chat template that ends an assistant message with the end token.
        dataset: Columns prompt and completion, both lists of messages.
        config: Numbers of the stage.
        seed: Order of the examples.
        workdir: Scratch folder for the trainer.

    Returns:
        The policy (`.model`), the log, and how many examples were used and dropped.

    Raises:
        ValueError: the dataset lacks its columns, or more than half of it is too long.
        TrainingDiverged: a loss that is no finite number.
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
    policy.float()
    silence_dropout(policy)
    with quiet_libraries():
        trainer = SFTTrainer(
            model=policy,
            args=arguments,
            train_dataset=dataset.select(fits).select_columns(["prompt", "completion"]),
            processing_class=tokenizer,
        )
        log = run_trainer(trainer, "instruction tuning")
    return Trained(finished_model(trainer), log, len(fits), dropped)


def trainer_arguments(
    config: SftConfig | RewardConfig | DpoConfig | RlooConfig, seed: int, workdir: Path
) -> dict[str, Any]:
    """Return the arguments all TRL trainers share: nothing saved, nothing reported, seeded."""
    return {
        "output_dir": str(workdir),
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "num_train_epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": WARMUP,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "bf16": use_bf16(device()),
        "activation_checkpointing": False,
        "dataloader_pin_memory": device().type == "cuda",
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
    }


class StopOnNaN(TrainerCallback):
    """Stop training at the first loss or gradient norm that is no finite number."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check what was logged (TrainingDiverged)."""
        values = {name: float(v) for name, v in (logs or {}).items() if name in CHECKED}
        check_finite(values, state.global_step, args.learning_rate)


class PlainProgress(TrainerCallback):
    """One plain tqdm bar named after the stage, in a terminal as in a notebook."""

    def __init__(self, describe: str):
        self.describe = describe
        self.bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar."""
        self.bar = tqdm(total=state.max_steps, desc=self.describe, unit="step", leave=False)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar one step."""
        if self.bar is not None:
            self.bar.update(1)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def run_trainer(trainer: Trainer, describe: str) -> Log:
    """Train with a plain progress bar and the NaN stop; return one row per step."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(PlainProgress(describe))
    trainer.add_callback(StopOnNaN())
    trainer.train()
    return [
        {name: float(value) for name, value in row.items()}
        for row in trainer.state.log_history
        if "loss" in row
    ]


def finished_model(trainer: Trainer) -> PreTrainedModel:
    """Return the trainer's model in eval mode, without what trainers wrap around its forward.

    A wrapped forward stays bound to this very model, so that a deep copy of it would go on using
    the weights it was copied from.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    vars(model).pop("forward", None)
    return model.eval()


def require_columns(dataset: Dataset, columns: tuple[str, ...]) -> None:
    """Raise ValueError unless the dataset has rows and these columns."""
    missing = [column for column in columns if column not in dataset.column_names]
    if missing or len(dataset) == 0:
        raise ValueError(
            f"The dataset needs rows and the columns {', '.join(columns)}; it has {len(dataset)} "
            f"rows and {', '.join(dataset.column_names) or 'no columns'}."
        )


def check_dropped(dropped: dict[str, int], total: int, max_length: int) -> None:
    """Warn about examples left out; raise ValueError if they are more than half."""
    count = sum(dropped.values())
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items() if number)
    if 2 * count > total:
        raise ValueError(
            f"{count} of {total} examples cannot be used ({reasons}; max_length={max_length}). "
            "Raise max_length, or look at how the data are made."
        )
    if count:
        warnings.warn(
            f"{count} of {total} examples left out ({reasons}; max_length={max_length}).",
            stacklevel=3,
        )


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the bars of the datasets library (widgets, in a notebook) out of the output."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
