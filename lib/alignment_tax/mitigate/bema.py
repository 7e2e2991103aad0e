"""BEMA: an EMA of the weights that is corrected for its lag. Block and Zhang 2025; by TRL.

theta'_t = a_t (theta_t - theta_0) + EMA_t,    a_t = (lag + t)^-0.2
EMA_t = (1 - b_t) EMA_(t-1) + b_t theta_t,     b_t = (lag + t)^-power
"""

from __future__ import annotations

from typing import Any, cast

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, TrainerState
from trl import BEMACallback

from alignment_tax.mitigate.base import Setting, check_share
from alignment_tax.mitigate.moving_average import MovingAverage

#: Arguments and control of a Trainer, which the callback takes but does not look at.
NOT_USED: Any = None


class Bema(MovingAverage):
    """Feeds every step to TRL's callback, and takes its weights: no pull to theta_0, as EMA has."""

    def __init__(self, setting: Setting, power: float) -> None:
        super().__init__()
        self.power, self.state = check_share(power, "power of BEMA"), TrainerState()

    def begin(self, model: PreTrainedModel) -> PreTrainedModel:
        """Start the callback's copies of the policy (ValueError: the policy is a LoRA one)."""
        if isinstance(model, PeftModel):
            raise ValueError("TRL's BEMA copies whole models and cannot follow LoRA: use EMA.")
        where = cast(Any, model.device)
        self.callback = BEMACallback(update_freq=1, ema_power=self.power, device=where)
        self.callback.on_train_begin(NOT_USED, self.state, NOT_USED, model)
        return model

    def after_step(self, model: PreTrainedModel, step: int) -> None:
        """Update the callback's weights."""
        self.state.global_step += 1
        self.callback.on_step_end(NOT_USED, self.state, NOT_USED, model)

    def weights(self) -> dict[str, Tensor]:
        """Return the callback's weights so far, by name of the parameter."""
        return dict(cast(PreTrainedModel, self.callback.running_model).named_parameters())
