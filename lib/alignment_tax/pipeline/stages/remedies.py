"""theta_0 finetuned once on RSF's best replies, under remedies: the paper's protocol (D.1)."""

import dataclasses
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from alignment_tax.mitigate import best_of_n, distil, distil_along, replay, treat, treatments
from alignment_tax.mitigate.base import Example, Setting
from alignment_tax.models import measured, save_policy
from alignment_tax.pipeline.stages import base
from alignment_tax.pipeline.stages.run import Run, keep_training, trained
from alignment_tax.registry import REMEDIES
from alignment_tax.spec import DISTIL, DISTILLED, INSIDE, Spec, UnknownStage, check_known
from alignment_tax.store import Artifact, digest, read_json, write_json
from alignment_tax.world.corpus import Document


def wanted(spec: Spec) -> dict[str, float]:
    """The remedy and the strength that a spec names, none for the plain run."""
    if spec.algorithm != "rsf":
        raise UnknownStage(f"{spec.method!r}: remedies work on the samples of rsf alone.")
    if spec.remedy is None:
        if spec.strength is not None:
            raise ValueError(f"{DISTIL} has no remedy: it has no strength={spec.strength}.")
        return {}
    check_known([spec.remedy], [DISTIL, *REMEDIES], "method")
    if spec.strength is None:
        raise ValueError(f"{spec.remedy!r} needs a strength: {REMEDIES[spec.remedy].describe}.")
    return {spec.remedy: spec.strength}


def check(run: Run, remedies: Mapping[str, float], rounds: int) -> None:
    """Refuse what would be refused after hours of RSF, before anything is trained for it."""
    check_known(remedies, REMEDIES, "remedy")
    run.end("rsf", rounds)
    if run.preset.distil is None:
        raise UnknownStage(f"Preset {run.preset.name} trains no remedies: set its `distil`.")
    if remedies:
        # the base has the shapes of theta_0, and the pool is at most as long
        longest: list[Example] = [([], "")] * (rounds * run.preset.rsf.prompts_per_round)
        of_base = run.load(base.base(run))
        assumed = Setting(
            *of_base, longest, run.preset.distil, run.seed, load_base=lambda: of_base[0]
        )
        treatments(with_texts(run, assumed, remedies), remedies)


def distilled(run: Run, spec: Spec) -> Artifact:
    """The policy under one remedy, or none."""
    return _combined(run, wanted(spec), spec.rounds)


def combined(run: Run, remedies: Mapping[str, float], rounds: int | None = None) -> Artifact:
    """theta_0 finetuned once on RSF's best replies of the first rounds, under remedies together."""
    last = run.end("rsf", rounds).rounds
    check(run, remedies, last)
    return _combined(run, remedies, last)


def _combined(run: Run, remedies: Mapping[str, float], rounds: int) -> Artifact:
    """The same, once `check` has let it pass: model, log.jsonl and stats.json, what it cost.

    What acts on the outcome alone (graft, average) is made from the run without it, and what
    collects along a plain run (sma, ema, bema) from one run for all strengths of the preset.
    """
    chosen = dict(sorted(remedies.items()))
    later = {n: s for n, s in remedies.items() if REMEDIES[n].when == "afterwards"}
    label = " + ".join(f"{name} {value:g}" for name, value in remedies.items()) or "plain"
    if later:
        before = _combined(run, {n: s for n, s in chosen.items() if n not in later}, rounds)
        return _reworked(run, before, later, rounds, label)
    if len(chosen) == 1 and (only := next(iter(chosen.items()))) in riding(run):
        return _ridden(run, only, rounds, label)

    def make(folder: Path) -> None:
        own = setting(run, chosen, rounds)
        outcome, seconds, memory = measured(lambda: distil(own, chosen))
        keep_training(folder, outcome.log, cost_of(len(outcome.log), seconds, memory))
        save_policy(outcome.policy, own.tokenizer, folder / "model")

    inputs = _inputs(run, chosen) | {"remedies": list(chosen.items())}
    return run.get("distilled", inputs, make, _parents(run, rounds), f"the distilled run ({label})")


def riding(run: Run) -> list[tuple[str, float]]:
    """The remedies and strengths of the preset that one plain run serves together."""
    along = [grid for grid in run.preset.remedies if REMEDIES[grid[0]].when == "along"]
    return [(name, strength) for name, strengths in along for strength in strengths]


def _ridden(run: Run, remedy: tuple[str, float], rounds: int, label: str) -> Artifact:
    """One of the policies that are collected along the plain run, which has a folder for each."""

    def make_all(folder: Path) -> None:
        own = setting(run, {}, rounds)
        (plain, outcomes), seconds, memory = measured(lambda: distil_along(own, riding(run)))
        keep_training(folder, plain.log, cost_of(len(plain.log), seconds, memory))
        for (name, strength), policy in zip(riding(run), outcomes, strict=True):
            save_policy(policy, own.tokenizer, folder / f"{name} {strength:g}")

    inputs, parents = _inputs(run, {}) | {"along": riding(run)}, _parents(run, rounds)
    whole = run.get("along", inputs, make_all, parents, "averages along the plain run")

    def make(folder: Path) -> None:
        shutil.copytree(whole.path / f"{remedy[0]} {remedy[1]:g}", folder / "model")
        for name in ("log.jsonl", "stats.json"):
            shutil.copy(whole.path / name, folder / name)

    return run.get("ridden", {"remedy": remedy}, make, {"run": whole}, f"the outcome ({label})")


def _reworked(
    run: Run, before: Artifact, later: Mapping[str, float], rounds: int, label: str
) -> Artifact:
    """The outcome of a run after remedies that need nothing but that outcome."""

    def make(folder: Path) -> None:
        own, policy = setting(run, later, rounds), run.load(before)[0]
        (outcome, _), seconds, memory = measured(
            lambda: treat(policy, treatments(own, later), lambda model, extras: None)
        )
        costs = [read_json(before.path / "stats.json"), cost_of(0, seconds, memory)]
        shutil.copy(before.path / "log.jsonl", folder / "log.jsonl")
        write_json(folder / "stats.json", _together(costs))
        save_policy(outcome, own.tokenizer, folder / "model")

    inputs = _inputs(run, later) | {"later": list(later.items())}
    parents = {"run": before} | _parents(run, rounds)
    return run.get("reworked", inputs, make, parents, f"the outcome ({label})")


def _inputs(run: Run, remedies: Mapping[str, float]) -> dict[str, Any]:
    return {"distil": run.preset.distil, "batch": run.batch} | texts_inputs(run, remedies)


def _parents(run: Run, rounds: int) -> dict[str, Artifact]:
    of_rsf = {f"round {r}": trained(run, Spec("rsf", r)) for r in range(1, rounds + 1)}
    return {"theta_0": base.sft(run), "reward": base.reward(run), **of_rsf}


def setting(run: Run, remedies: Collection[str], rounds: int) -> Setting:
    """What remedies start from; one for all of them, so that theta_0 reads the pool once."""
    config = run.preset.distil
    assert config is not None  # check has refused it

    def make() -> Setting:
        start = (*run.load(base.sft(run)), pool(run, rounds), config, run.seed)
        return Setting(*start, load_base=lambda: run.load(base.base(run))[0])

    return with_texts(run, run.once("setting", make, rounds), remedies)


def pool(run: Run, rounds: int | None = None) -> list[Example]:
    """The best-of-n samples of the first rounds of RSF (default all): prompt and reply each."""
    ends = [Spec("rsf", r + 1) for r in range(run.end("rsf", rounds).rounds)]
    tables = [pd.read_parquet(trained(run, end).path / "samples.parquet") for end in ends]
    return best_of_n(table.assign(prompt=table["prompt"].map(json.loads)) for table in tables)


def replay_documents(run: Run, evaluated_formats: bool = True) -> list[Document]:
    """Text to replay, in the tiny world with or without the scored formats (UnknownStage: none)."""
    n, tiny = run.preset.replay_documents, run.preset.world == "tiny"
    if n == 0:
        raise UnknownStage(
            f"Preset {run.preset.name} has no pretraining text to replay: set its "
            "`replay_documents`, or choose another remedy."
        )
    slot = ("documents", evaluated_formats)
    if tiny:
        return run.once(slot, lambda: replay.tiny_documents(n, run.seed, evaluated_formats))
    return run.once("documents", lambda: replay.real_documents(n, run.seed))


def _texts(run: Run, remedies: Collection[str]) -> dict[str, Any]:
    used = sorted({text for name in remedies if (text := REMEDIES[name].texts)})
    return {text: replay_documents(run, text == "replay") for text in used}


def with_texts(run: Run, setting: Setting, remedies: Collection[str]) -> Setting:
    """Return a setting with the pretraining text that these remedies use, if any."""
    texts = _texts(run, remedies)
    if not texts:
        return setting
    reported = replay.tiny_reported() if run.preset.world == "tiny" else replay.real_reported()
    return dataclasses.replace(setting, **texts, reported=reported)


def texts_inputs(run: Run, remedies: Mapping[str, float]) -> dict[str, Any]:
    """What determines the replayed text: other documents are another artifact."""
    texts = _texts(run, remedies)
    return {name: digest([document.text for document in text]) for name, text in texts.items()}


def cost_of(steps: int, seconds: float, memory: float | None) -> dict[str, Any]:
    """What a training cost, as it is kept in stats.json."""
    return {"steps": steps, "seconds": round(seconds, 3), "peak_memory_mb": memory}


def cost(run: Run, spec: Spec) -> dict[str, float | None] | None:
    """Steps, seconds and peak memory (MB) of the training behind a remedied model, else None.

    What averages or grafts is charged the run it starts from; inside RSF all rounds count.
    """
    if spec.protocol not in (DISTILLED, INSIDE):
        return None
    numbers = range(1, spec.rounds + 1) if spec.protocol == INSIDE else [spec.rounds]
    artifacts = [trained(run, dataclasses.replace(spec.end, rounds=number)) for number in numbers]
    return _together([read_json(each.path / "stats.json") for each in artifacts])


def _together(costs: list[dict[str, Any]]) -> dict[str, Any]:
    peaks = [cost["peak_memory_mb"] for cost in costs if cost["peak_memory_mb"] is not None]
    sums = {name: sum(cost[name] for cost in costs) for name in ("steps", "seconds")}
    return {**sums, "peak_memory_mb": max(peaks, default=None)}
