"""Rounds of RLHF: of every algorithm, of PPO under another KL penalty, of RSF under a remedy."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from alignment_tax.mitigate import REMEDIES, DistilConfig, Setting, treat, treatments
from alignment_tax.models import Model, measured, save_policy
from alignment_tax.pipeline.stages import base, remedies
from alignment_tax.pipeline.stages.run import STAGES, Run, keep_training
from alignment_tax.presets import AlgorithmConfig
from alignment_tax.spec import CHANGED, Spec, UnknownStage
from alignment_tax.store import Artifact
from alignment_tax.train.algorithms import run_round
from alignment_tax.train.loop import Extra
from alignment_tax.train.rounds import RoundResult, Start, round_seed
from alignment_tax.train.rsf import rsf_round
from alignment_tax.world.base import Prompt


def rounds(run: Run, spec: Spec) -> Artifact:
    """The policy after a round of RLHF, perhaps with a number of `CHANGED` (paper, Fig. 8)."""
    algorithm, config = spec.algorithm, run.algorithm(spec.algorithm)
    if spec.protocol in CHANGED:
        other: dict[str, Any] = {spec.protocol: spec.strength}
        config = dataclasses.replace(config, **other)
    name = f"{algorithm} round {spec.rounds} of {config.rounds}"
    work = partial(run_round, algorithm, config)
    return _round(run, spec, algorithm, name, config, {"algorithm": algorithm}, work)


def check_changed(run: Run, spec: Spec) -> None:
    """Refuse a number that the algorithm does not have, or that it cannot be."""
    owner = CHANGED[spec.protocol]
    if spec.algorithm != owner or spec.strength is None or spec.strength < 0:
        told = f"{spec.protocol!r} is a method of {owner} alone, with a strength of 0 or more"
        raise ValueError(f"{told}; got {spec.strength} of {spec.algorithm}.")
    run.end(spec.algorithm, spec.rounds)


def check_inside(run: Run, spec: Spec) -> None:
    """Refuse a remedy that has no rounds of its own, or that cannot be used."""
    wanted = remedies.wanted(spec)
    inside = [name for name, r in REMEDIES.items() if r.when in ("training", "model")]
    if spec.remedy not in inside:
        told = f"{spec.remedy!r} needs no rounds of its own; inside those of RSF act"
        raise UnknownStage(f"{told}: {', '.join(inside)}.")
    remedies.check(run, wanted, spec.rounds)


def inside_rounds(run: Run, spec: Spec) -> Artifact:
    """The policy after a round of RSF with a remedy in each (the paper's other protocol)."""
    config, wanted = run.preset.rsf, remedies.wanted(spec)

    def work(start: Start) -> RoundResult:
        seed = round_seed(start.seed, start.number)
        like_rsf = Setting(start.theta_0, start.tokenizer, (), DistilConfig.like(config), seed)
        chosen = treatments(remedies.with_texts(run, like_rsf, wanted), wanted)
        factor = math.prod(treatment.learning_rate_factor for treatment in chosen)
        faster = dataclasses.replace(config, learning_rate=config.learning_rate * factor)
        given = start.tokenizer, start.reward_fn, start.prompts, faster, seed

        def train(model: Model, extras: Sequence[Extra]) -> RoundResult:
            return rsf_round(model, *given, extras=extras)

        # penalties pull to theta_0 in every round, LoRA is merged at the end of each
        (outcome, result), seconds, memory = measured(lambda: treat(start.policy, chosen, train))
        stats = result.stats | remedies.cost_of(len(result.log), seconds, memory)
        return dataclasses.replace(result, policy=outcome, stats=stats)

    ((remedy, strength),) = wanted.items()
    name = f"rsf round {spec.rounds} of {config.rounds} with {remedy} {strength:g}"
    inputs = {"remedy": [remedy, strength], **remedies.texts_inputs(run, wanted)}
    return _round(run, spec, "rsf_remedied", name, config, inputs, work)


def _round(
    run: Run, spec: Spec, stage: str, name: str, config: AlgorithmConfig, inputs: dict[str, Any],
    work: Callable[[Start], RoundResult],
) -> Artifact:  # fmt: skip
    """The artifact of a round, after those before it: samples with gold reward, log, policy."""
    number, theta_0, before = spec.rounds, base.sft(run), None
    if number > 1:
        before = STAGES[spec.protocol].get(run, dataclasses.replace(spec, rounds=number - 1))
    parent = before or theta_0

    def make(folder: Path) -> None:
        policy, tokenizer = run.load(parent)
        start = Start(
            policy=policy, theta_0=run.load(theta_0)[0], tokenizer=tokenizer, world=run.world,
            reward_fn=partial(base.rewards, run), gold_fn=partial(base.golds, run),
            reward_model=base.reward_model(run), prompts=round_prompts(run, number, spec.algorithm),
            seed=run.seed, number=number, before=before.path if before else None, folder=folder,
        )  # fmt: skip
        result = work(start)
        prompts, replies = list(result.samples["prompt"]), list(result.samples["reply"])
        golds = base.golds(run, prompts, replies)
        samples = result.samples.assign(prompt=[json.dumps(p) for p in prompts], gold=golds)
        samples.to_parquet(folder / "samples.parquet", index=False)
        keep_training(folder, result.log, result.stats)
        save_policy(result.policy, tokenizer, folder / "model")

    # the number of rounds does not determine one: a run goes on from a shorter one
    numbers = {"config": {**dataclasses.asdict(config), "rounds": None}, "round": number}
    parents = {"policy": parent, "reward": base.reward(run), "theta_0": theta_0}
    return run.get(stage, inputs | numbers | {"batch": run.batch}, make, parents, name)


def round_prompts(run: Run, number: int, algorithm: str = "rsf") -> list[Prompt]:
    """The prompts of one round: the next slice of a seeded walk over the RLHF prompts."""
    n = run.algorithm(algorithm).prompts_per_round
    prompts = run.world.prompts(10**6, run.seed, "rlhf")
    start = (number - 1) * n % len(prompts)
    return (prompts * (1 + n // len(prompts)) + prompts)[start : start + n]
