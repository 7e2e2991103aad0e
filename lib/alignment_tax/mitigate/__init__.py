"""Every remedy of the paper against the alignment tax, and the protocol that compares them.

One file a remedy. A remedy at a strength is a `Treatment`: something added to the loss, done to the
weights along the way or afterwards, or another parameterisation. Treatments combine:

>>> policy = distil(setting, {"l2": 0.04, "average": 0.8}).policy
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
from transformers import PreTrainedModel

from alignment_tax.mitigate import (
    average,
    bema,
    graft,
    lora,
    moving_average,
    output_penalty,
    replay,
    weight_penalty,
)
from alignment_tax.mitigate.base import Example, Setting, Treatment, treat
from alignment_tax.presets import DistilConfig
from alignment_tax.train.loop import Extra, Log, finetune
from alignment_tax.train.sample import kept_replies

__all__ = [
    "REMEDIES",
    "DistilConfig",
    "Distilled",
    "Remedy",
    "Setting",
    "Treatment",
    "best_of_n",
    "distil",
    "distil_along",
    "treat",
    "treatments",
]

#: When a remedy acts, in the order in which remedies end. "along" collects from a run without
#: changing it; "afterwards" needs nothing but the outcome, so one run serves all its strengths.
When = Literal["along", "training", "model", "afterwards"]


@dataclass(frozen=True)
class Remedy:
    """A remedy of the registry.

    Attributes:
        name: The word for it in the table of points.
        strengths: The grid that is shown, see the remedy's file for its reasons.
        describe: What the strength is, for an axis or a legend.
        source: Where it comes from.
        when: When it acts.
        make: Takes the setting and a strength, returns the treatment (ValueError: bad strength).
        off: The strength that changes nothing, if there is one.
        fades: Whether ever weaker strengths end at the plain run. (LoRA does not: of whatever rank,
            it trains other parameters.)
        weak_is_high: Whether the remedy is the weaker, the higher its strength.
    """

    name: str
    strengths: tuple[float, ...]
    describe: str
    source: str
    when: When
    make: Callable[[Setting, float], Treatment]
    off: float | None = None
    fades: bool = True
    weak_is_high: bool = False


@dataclass(frozen=True)
class Distilled:
    """The policy that came out, in eval mode, and one row per training step (see `finetune`)."""

    policy: PreTrainedModel
    log: Log


def distil(
    setting: Setting,
    remedies: Mapping[str, float] | None = None,
    riders: Sequence[Treatment] = (),
) -> Distilled:
    """Finetune theta_0 once on the pool, under remedies: the paper's protocol (D.1).

    The pool holds the best-of-n samples of one RSF run. Every remedy gets the same examples in the
    same order and equally many steps, so that they differ in nothing but the remedy.

    Args:
        setting: theta_0 (a copy of it is trained), the pool and the numbers.
        remedies: Name in `REMEDIES` to strength; none is the plain run.
        riders: Treatments that only watch the run; to end them is left to the caller.

    Raises:
        ValueError: an unknown remedy, a strength or setting it cannot use, an empty pool.
        TrainingDiverged: see `finetune`.
    """
    chosen = treatments(setting, remedies or {})
    config = setting.config
    factor = math.prod(treatment.learning_rate_factor for treatment in chosen)
    label = " + ".join(f"{name} {value:g}" for name, value in (remedies or {}).items())

    def train(model: PreTrainedModel, extras: Sequence[Extra]) -> Log:
        for rider in riders:
            rider.begin(model)
        return finetune(
            model,
            setting.tokenizer,
            setting.pool,
            learning_rate=config.learning_rate * factor,
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=setting.seed,
            max_length=config.max_length,
            extras=[*extras, *riders],
            describe=f"distilling ({label or 'plain'})",
        )

    policy, log = treat(copy.deepcopy(setting.theta_0), chosen, train)
    return Distilled(policy, log)


def distil_along(
    setting: Setting, wanted: Sequence[tuple[str, float]]
) -> tuple[Distilled, Iterator[PreTrainedModel]]:
    """Finetune plainly, once, and take from that run the outcome of many "along" remedies.

    Args:
        setting: As for `distil`.
        wanted: Names and strengths of remedies that collect along the run without changing it.

    Returns:
        The plain run, and for each of `wanted` its policy, made one at a time.

    Raises:
        ValueError: a remedy that acts otherwise; and as `distil`.
    """
    if changing := [name for name, _ in wanted if REMEDIES[name].when != "along"]:
        raise ValueError(f"{changing[0]!r} does not act along the run: it needs one of its own.")
    riders = [REMEDIES[name].make(setting, strength) for name, strength in wanted]
    plain = distil(setting, riders=riders)
    return plain, (rider.end(copy.deepcopy(plain.policy)) for rider in riders)


def treatments(setting: Setting, remedies: Mapping[str, float]) -> list[Treatment]:
    """Return one treatment per remedy, in the order in which they must end (see `When`).

    A moving average ends before LoRA is merged, graft and averaging after it; several of the last
    kind act one after the other as listed.

    Raises:
        ValueError: an unknown remedy, or a strength or setting it cannot use.
    """
    if unknown := remedies.keys() - REMEDIES.keys():
        known = ", ".join(REMEDIES)
        raise ValueError(f"There is no remedy {min(unknown)!r}. Choose from: {known}.")
    order = sorted(remedies, key=lambda name: get_args(When).index(REMEDIES[name].when))
    return [REMEDIES[name].make(setting, remedies[name]) for name in order]


def best_of_n(rounds: Iterable[pd.DataFrame]) -> list[Example]:
    """Pool what RSF kept in its rounds: pairs of prompt and reply.

    Args:
        rounds: The `samples` of each `RoundResult`: prompt, reply, ids, finished, chosen.
    """
    kept = [samples[samples["chosen"]] for samples in rounds]
    return [pair for rows in kept for pair in zip(rows["prompt"], kept_replies(rows), strict=True)]


def _weight_penalty(power: Literal[1, 2]) -> Callable[[Setting, float], Treatment]:
    return lambda setting, strength: weight_penalty.WeightPenalty(
        setting.theta_0, strength, power, setting.config.learning_rate
    )


def _output_penalty(distance: output_penalty.Distance) -> Callable[[Setting, float], Treatment]:
    return lambda setting, strength: output_penalty.OutputPenalty(
        setting.teacher, strength, distance
    )


def _lora(where: lora.Where) -> Callable[[Setting, float], Treatment]:
    def make(setting: Setting, rank: float) -> Treatment:
        treatment = lora.Lora(rank, where, setting.seed)
        names = lora.target_names(setting.theta_0, where)
        lora.check_rank(setting.theta_0, names, treatment.rank)
        return treatment

    return make


def _replay(evaluated_formats: bool) -> Callable[[Setting, float], Treatment]:
    def make(setting: Setting, strength: float) -> Treatment:
        return replay.Replay(
            setting.tokenizer,
            setting.replay if evaluated_formats else setting.replay_other,
            setting.reported,
            strength,
            setting.seed,
            setting.config.max_length,
        )

    return make


REMEDIES: dict[str, Remedy] = {
    remedy.name: remedy
    for remedy in (
        Remedy(
            "l1",
            weight_penalty.L1_STRENGTHS,
            "lambda of the L1 distance to theta_0",
            "paper, 4.1 and Eq. 2",
            "training",
            _weight_penalty(1),
            off=0.0,
        ),
        Remedy(
            "l2",
            weight_penalty.L2_STRENGTHS,
            "lambda of the squared L2 distance to theta_0",
            "paper, 4.1 and Eq. 2",
            "training",
            _weight_penalty(2),
            off=0.0,
        ),
        Remedy(
            "kd",
            output_penalty.STRENGTHS,
            "lambda of KL(theta_0 || policy)",
            "paper, 4.1, as in its code",
            "training",
            _output_penalty(output_penalty.forward_kl),
            off=0.0,
        ),
        Remedy(
            "kd_squared",
            output_penalty.SQUARED_STRENGTHS,
            "lambda of the squared distance of the outputs",
            "paper, 4.1, as in its text",
            "training",
            _output_penalty(output_penalty.squared_distance),
            off=0.0,
        ),
        Remedy(
            "kl",
            output_penalty.STRENGTHS,
            "lambda of KL(policy || theta_0)",
            "paper, C.2 and Eq. 10",
            "training",
            _output_penalty(output_penalty.reverse_kl),
            off=0.0,
        ),
        Remedy(
            "lora",
            lora.STRENGTHS,
            "rank of LoRA on attention and MLP",
            "paper, 4.1 and D.4c; Hu et al. 2021",
            "model",
            _lora("all"),
            fades=False,
            weak_is_high=True,
        ),
        Remedy(
            "lora_mlp",
            lora.STRENGTHS,
            "rank of LoRA on the MLP",
            "paper, 4.1 and D.4c; Hu et al. 2021",
            "model",
            _lora("mlp"),
            fades=False,
            weak_is_high=True,
        ),
        Remedy(
            "replay",
            replay.STRENGTHS,
            "pretraining tokens per reply token",
            "paper, 4.1 and C.1",
            "training",
            _replay(evaluated_formats=True),
            off=0.0,
        ),
        Remedy(
            "replay_other",
            replay.STRENGTHS,
            "pretraining tokens per reply token, no evaluated formats",
            "paper, 4.1 and C.1",
            "training",
            _replay(evaluated_formats=False),
            off=0.0,
        ),
        Remedy(
            "sma",
            moving_average.SMA_STRENGTHS,
            "share of the steps that is averaged",
            "paper, 4.1; Noukhovitch et al. 2023",
            "along",
            lambda setting, share: moving_average.last_steps(share, setting.steps),
        ),
        Remedy(
            "ema",
            moving_average.EMA_STRENGTHS,
            "horizon of the average as a share of the steps",
            "paper, 4.1; Noukhovitch et al. 2023",
            "along",
            lambda setting, horizon: moving_average.Ema(
                setting.theta_0, moving_average.decay_of(horizon, setting.steps)
            ),
        ),
        Remedy(
            "bema",
            bema.STRENGTHS,
            "power p in b_t, the weight of the new model",
            "Block and Zhang 2025",
            "along",
            lambda setting, power: bema.Bema(power),
            fades=False,
        ),
        Remedy(
            "graft",
            graft.STRENGTHS,
            "share of the changes that is kept, the largest",
            "paper, 1; Panigrahi et al. 2023",
            "afterwards",
            graft.largest,
            off=1.0,
            weak_is_high=True,
        ),
        Remedy(
            "graft_random",
            graft.STRENGTHS,
            "share of the changes that is kept, at random",
            "control of graft",
            "afterwards",
            graft.at_random,
            off=1.0,
            weak_is_high=True,
        ),
        Remedy(
            "graft_learnt",
            graft.STRENGTHS,
            "share of the changes that is kept, learnt",
            "Panigrahi et al. 2023",
            "afterwards",
            graft.learnt,
            off=1.0,
            weak_is_high=True,
        ),
        Remedy(
            "average",
            average.STRENGTHS,
            "alpha, the weight of the aligned model",
            "paper, 4.1; Wortsman et al. 2022",
            "afterwards",
            lambda setting, alpha: average.Average(setting.theta_0, alpha),
            off=1.0,
            weak_is_high=True,
        ),
    )
}
