"""How TRL's trainers are run here: quietly, seeded, stopped at NaN, nothing saved or reported."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from alignment_tax.models import device, quiet_libraries, silence_dropout, use_bf16
from alignment_tax.presets import DpoConfig, RewardConfig, RlooConfig, SftConfig
from alignment_tax.train.loop import Log, check_finite
from alignment_tax.train.rounds import sub_seed

WARMUP = 0.03  # paper, Table 3: cosine with 3 % warm-up
# every round at the same rate, as in RSF: with a cosine each round would start anew from the peak
CONSTANT_RATE = {"lr_scheduler_type": "constant", "warmup_steps": 0}


@dataclass(frozen=True)
class Trained:
    """A trained model in eval mode, a log row per step, counts of examples, and sampled replies."""

    model: Any
    log: Log
    used: int
    dropped: dict[str, int] = field(default_factory=dict)
    samples: pd.DataFrame = field(default_factory=pd.DataFrame)


def trainer_arguments(
    config: SftConfig | RewardConfig | DpoConfig | RlooConfig, seed: int, workdir: Path
) -> dict[str, Any]:
    """Return the arguments all TRL trainers share: nothing saved, nothing reported, seeded."""
    return {
        "num_train_epochs": config.epochs, "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulation, "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine", "warmup_steps": WARMUP, "max_grad_norm": 1.0,
        "weight_decay": 0.0, "bf16": use_bf16(device()), "use_cpu": device().type == "cpu",
        "activation_checkpointing": False,
        "dataloader_pin_memory": device().type == "cuda", "seed": sub_seed(seed),
        "data_seed": sub_seed(seed), "output_dir": str(workdir), "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "logging_steps": 1,
        "logging_nan_inf_filter": False,
    }  # fmt: skip


def run_trainer(
    trainer_class: type[Trainer], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
    arguments: Any, rows: Dataset, describe: str, dropped: dict[str, int], **more: Any,
) -> Trained:  # fmt: skip
    """Train `model` on the rows, in place, in float32 and without dropout."""
    silence_dropout(model.float())
    with quiet_libraries():
        # the bars of what a trainer does while it is made (in a notebook, widgets)
        with mock.patch.dict(os.environ, TQDM_DISABLE="1"):
            given = {"model": model, "args": arguments, "train_dataset": rows}
            trainer = trainer_class(**given, processing_class=tokenizer, **more)
        trainer.remove_callback(PrinterCallback)
        with tqdm(desc=describe, unit="step", leave=False) as bar:
            trainer.add_callback(_Watch(bar))
            trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    log = [{name: float(value) for name, value in row.items()} for row in history]
    # A wrapped forward stays bound to this very model: a deep copy would go on using its weights. A
    # model marked as prepared would not be wrapped for mixed precision by another round's trainer.
    released = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    for name in ("forward", "_is_accelerate_prepared"):
        vars(released).pop(name, None)
    return Trained(released.eval(), log, len(rows), dropped)


class _Watch(TrainerCallback):
    """One plain tqdm bar, in a terminal as in a notebook; stops at the first NaN (or infinity)."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.total = state.max_steps
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        checked = {name: float(logs[name]) for name in ("loss", "grad_norm") if name in logs or ()}
        check_finite(checked, state.global_step, args.learning_rate)
