"""Rounds of RLHF: of every algorithm, of PPO under another KL penalty, of RSF under a remedy."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from alignment_tax.mitigate import REMEDIES, DistilConfig, Setting, treat, treatments
from alignment_tax.models import measured, save_policy
from alignment_tax.pipeline.stages import base, remedies
from alignment_tax.pipeline.stages.run import Loaded, Run, keep_training, stage
from alignment_tax.presets import AlgorithmConfig
from alignment_tax.spec import CHANGED, INSIDE, KL_COEF, LEARNING_RATE, ROUNDS, Spec, UnknownStage
from alignment_tax.store import Artifact
from alignment_tax.train.algorithms import run_round
from alignment_tax.train.loop import Extra
from alignment_tax.train.rounds import RoundResult, Start, round_seed
from alignment_tax.train.rsf import rsf_round
from alignment_tax.world.base import Prompt


def check_round(run: Run, spec: Spec) -> None:
    """Refuse an algorithm that the preset does not have, and more rounds than it has."""
    last = run.algorithm(spec.algorithm).rounds
    if not 1 <= spec.rounds <= last:
        raise UnknownStage(
            f"There is no {spec.algorithm} round {spec.rounds} in preset {run.preset.name}: its "
            f"rounds are 1 to {last}."
        )


@stage(ROUNDS, check_round)
def rounds(run: Run, spec: Spec) -> Artifact:
    """The policy after a round of RLHF; each round is an artifact, so a run resumes."""
    return _round_of(run, spec, run.algorithm(spec.algorithm))


def check_changed(run: Run, spec: Spec) -> None:
    """Refuse a number that the algorithm does not have, or that it cannot be."""
    owner = CHANGED[spec.protocol]
    if spec.algorithm != owner or spec.strength is None or spec.strength < 0:
        raise ValueError(
            f"{spec.protocol!r} is a method of {owner} alone and needs a strength of 0 or more, "
            f"the number itself; got {spec.strength} of {spec.algorithm}."
        )
    check_round(run, spec)


@stage(KL_COEF, check_changed)
@stage(LEARNING_RATE, check_changed)
def changed(run: Run, spec: Spec) -> Artifact:
    """A round with another weight of PPO's KL penalty (paper, Fig. 8), or size of RSF's steps."""
    config = run.algorithm(spec.algorithm)
    other: dict[str, Any] = {spec.protocol: spec.strength}
    return _round_of(run, spec, dataclasses.replace(config, **other))


def _round_of(run: Run, spec: Spec, config: AlgorithmConfig) -> Artifact:
    """A round of an algorithm under any numbers, after the rounds before it."""
    number, algorithm = spec.rounds, spec.algorithm
    before = _round_of(run, _previous(spec), config) if number > 1 else None

    def train(folder: Path, policy: Loaded, theta_0: PreTrainedModel) -> RoundResult:
        start = Start(
            policy=policy[0],
            theta_0=theta_0,
            tokenizer=policy[1],
            reward_fn=partial(base.rewards, run),
            gold_fn=partial(base.golds, run),
            reward_model=base.reward_model(run),
            world=run.world,
            prompts=round_prompts(run, number, algorithm),
            seed=run.seed,
            number=number,
            before=None if before is None else before.path,
            folder=folder,
        )
        return run_round(algorithm, config, start)

    name = f"{algorithm} round {number} of {config.rounds}"
    inputs = {"algorithm": algorithm, **_numbers(config, number)}
    return _kept(run, algorithm, name, before, train, inputs)


def check_inside(run: Run, spec: Spec) -> None:
    """Refuse a remedy that has no rounds of its own, or that cannot be used."""
    wanted = remedies.wanted(spec)
    inside = [name for name, r in REMEDIES.items() if r.when in ("training", "model")]
    if spec.remedy not in inside:
        raise UnknownStage(
            f"{spec.remedy!r} needs no rounds of its own: it acts along a run or on its outcome. "
            f"Inside the rounds of RSF act: {', '.join(inside)}."
        )
    remedies.check(run, wanted, spec.rounds)


@stage(INSIDE, check_inside)
def inside_rounds(run: Run, spec: Spec) -> Artifact:
    """The policy after a round of RSF with a remedy inside each: the paper's other protocol.

    L1, L2, KD and KL pull to theta_0 in every round, LoRA is merged at the end of each.
    """
    number, config, wanted = spec.rounds, run.preset.rsf, remedies.wanted(spec)
    before = inside_rounds(run, _previous(spec)) if number > 1 else None

    def train(folder: Path, policy: Loaded, theta_0: PreTrainedModel) -> RoundResult:
        seed, tokenizer = round_seed(run.seed, number), policy[1]
        like_rsf = Setting(theta_0, tokenizer, (), DistilConfig.like(config), seed)
        chosen = treatments(remedies.with_texts(run, like_rsf, wanted), wanted)
        factor = math.prod(treatment.learning_rate_factor for treatment in chosen)
        faster = dataclasses.replace(config, learning_rate=config.learning_rate * factor)
        rewards, prompts = partial(base.rewards, run), round_prompts(run, number)

        def work(model: PreTrainedModel, extras: Sequence[Extra]) -> RoundResult:
            return rsf_round(model, tokenizer, rewards, prompts, faster, seed, extras=extras)

        (outcome, result), seconds, memory = measured(lambda: treat(policy[0], chosen, work))
        stats = result.stats | remedies.cost_of(len(result.log), seconds, memory)
        return dataclasses.replace(result, policy=outcome, stats=stats)

    ((remedy, strength),) = wanted.items()
    name = f"rsf round {number} of {config.rounds} with {remedy} {strength:g}"
    inputs = {"remedy": [remedy, strength], **_numbers(config, number)}
    inputs |= remedies.texts_inputs(run, wanted)
    return _kept(run, "rsf_remedied", name, before, train, inputs)


def _previous(spec: Spec) -> Spec:
    return dataclasses.replace(spec, rounds=spec.rounds - 1)


def _numbers(config: AlgorithmConfig, number: int) -> dict[str, Any]:
    """What determines a round; the number of rounds does not: a run goes on from a shorter one."""
    return {"config": {**dataclasses.asdict(config), "rounds": None}, "round": number}


def _kept(
    run: Run,
    stage: str,
    name: str,
    before: Artifact | None,
    train: Callable[[Path, Loaded, PreTrainedModel], RoundResult],
    inputs: dict[str, Any],
) -> Artifact:
    """The artifact of a round: samples with their gold reward, log, stats, policy."""
    theta_0 = base.sft(run)
    parent = before or theta_0

    def make(folder: Path) -> None:
        policy = run.load(parent)
        result = train(folder, policy, run.load(theta_0)[0])
        prompts, replies = list(result.samples["prompt"]), list(result.samples["reply"])
        golds = base.golds(run, prompts, replies)
        samples = result.samples.assign(prompt=[json.dumps(p) for p in prompts], gold=golds)
        samples.to_parquet(folder / "samples.parquet", index=False)
        keep_training(folder, result.log, result.stats)
        save_policy(result.policy, policy[1], folder / "model")

    parents = {"policy": parent, "reward": base.reward(run), "theta_0": theta_0}
    return run.get(stage, inputs | {"batch": run.batch}, make, parents, name)


def round_prompts(run: Run, number: int, algorithm: str = "rsf") -> list[Prompt]:
    """The prompts of one round: the next slice of a seeded walk over the RLHF prompts."""
    n = run.algorithm(algorithm).prompts_per_round
    prompts = run.world.prompts(10**6, run.seed, "rlhf")
    start = (number - 1) * n % len(prompts)
    return (prompts * (1 + n // len(prompts)) + prompts)[start : start + n]
