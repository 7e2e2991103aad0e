"""Averages of the weights along the trajectory: SMA and EMA, after Noukhovitch et al. 2023.

SMA  mean of theta_t over the steps t of the last part of training
EMA  theta'_t = d theta'_(t-1) + (1 - d) theta_t,    theta'_0 = theta_0

BEMA is an EMA that is corrected for its lag. Block and Zhang 2025; by TRL.

theta'_t = a_t (theta_t - theta_0) + EMA_t,    a_t = (lag + t)^-0.2
EMA_t = (1 - b_t) EMA_(t-1) + b_t theta_t,     b_t = (lag + t)^-power
"""

from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import TrainerState
from trl import BEMACallback

from alignment_tax.merge.average import write_weights
from alignment_tax.mitigate.base import Setting, Treatment, check_share, snapshot, trained
from alignment_tax.models import Model

#: Arguments and control of a Trainer, which TRL's callback takes but does not look at.
NOT_USED: Any = None


class MovingAverage(Treatment):
    """Averages what is trained (LoRA: the factors) after every step; float64 keeps small ones."""

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}

    def weights(self) -> dict[str, Tensor]:
        """Return the average so far, by name of the parameter."""
        return self.average

    def end(self, model: Model) -> Model:
        """Write the average into the policy."""
        write_weights(model, self.weights())
        return model


class Sma(MovingAverage):
    """Plain mean of the weights from step `start` on; steps go on counting through RSF's rounds."""

    def __init__(self, start: int = 1) -> None:
        super().__init__()
        self.start, self.steps = start, 0

    def after_step(self, model: Model, step: int) -> None:
        """Add the weights to the sums, if this step counts."""
        self.steps += 1
        if self.steps >= self.start:
            for name, value in trained(model).items():
                self.average[name] = self.average.get(name, 0) + value.double()

    def weights(self) -> dict[str, Tensor]:
        """Return the mean."""
        count = self.steps - self.start + 1
        return {name: total / count for name, total in self.average.items()}


class Ema(MovingAverage):
    """Exponential moving average of the weights, of decay d in [0, 1), that starts at theta_0."""

    def __init__(self, theta_0: Model, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"The decay of EMA is {decay}: it must lie in [0, 1).")
        self.decay, self.start = decay, snapshot(theta_0)

    def begin(self, model: Model) -> Model:
        """Also start the average of parameters that theta_0 does not have (LoRA's)."""
        self.start = snapshot(model) | self.start
        return model

    def after_step(self, model: Model, step: int) -> None:
        """Move the average toward the weights."""
        for name, value in trained(model).items():
            before = self.average.get(name, self.start[name].to(value.device)).double()
            self.average[name] = torch.lerp(value.double(), before, self.decay)


class Bema(MovingAverage):
    """Feeds every step to TRL's callback, and takes its weights: no pull to theta_0, as EMA has."""

    def __init__(self, setting: Setting, power: float) -> None:
        super().__init__()
        self.power, self.state = check_share(power, "power of BEMA"), TrainerState()

    def begin(self, model: Model) -> Model:
        """Start the callback's copies of the policy (ValueError: the policy is a LoRA one)."""
        if isinstance(model, PeftModel):
            raise ValueError("TRL's BEMA copies whole models and cannot follow LoRA: use EMA.")
        where = cast(Any, model.device)
        self.callback = BEMACallback(update_freq=1, ema_power=self.power, device=where)
        self.callback.on_train_begin(NOT_USED, self.state, NOT_USED, model)
        return model

    def after_step(self, model: Model, step: int) -> None:
        """Update the callback's weights."""
        self.state.global_step += 1
        self.callback.on_step_end(NOT_USED, self.state, NOT_USED, model)

    def weights(self) -> dict[str, Tensor]:
        """Return the callback's weights so far, by name of the parameter."""
        return dict(cast(Model, self.callback.running_model).named_parameters())


def sma(setting: Setting, share: float) -> Sma:
    """Return the mean over the last share of the run's steps (ValueError: fewer than two)."""
    counted = round(check_share(share, "share of the trajectory") * setting.steps)
    if counted < 2:
        raise ValueError(f"SMA averages two steps at least, and this one has {counted}.")
    return Sma(start=setting.steps - counted + 1)


def ema(setting: Setting, horizon: float) -> Ema:
    """Return the EMA whose horizon 1 / (1 - d) is so large a share of the run's steps."""
    if not 0 < horizon < float("inf"):
        raise ValueError(f"The horizon of EMA is {horizon}: it must be a finite number above 0.")
    return Ema(setting.theta_0, 1 - 1 / max(1.0, horizon * setting.steps))
