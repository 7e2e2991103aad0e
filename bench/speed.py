"""Speed and memory of the course on this machine: `make bench`, to data/results/bench.json.

Measured on theta_0 and RSF of preset `tiny`, seed 0, made first if need be. With `--against` the
whole work is timed, in copies of this checkout and of another, in turn, each from empty folders.
"""

import contextlib
import dataclasses
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch
from trl import RLOOTrainer

from alignment_tax import models, settings
from alignment_tax.merge import hma
from alignment_tax.merge.parts import Mixture
from alignment_tax.merge.search import hma_numbers
from alignment_tax.pipeline import stages
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import TINY, AlgorithmConfig, DistilConfig, PpoConfig
from alignment_tax.provenance import git_commit, provenance
from alignment_tax.store import say
from alignment_tax.train import dpo, loop, ppo, rounds, rsf, sample
from alignment_tax.train.algorithms import run_round
from bench import UNIT, Numbers, keep, kept, python, timed

#: The mean ratio at which searches are measured, and the step of their grid.
RATIO_ALPHA, RATIO_STEP = 0.4, 0.1
#: Scores the shipped base on all skills, in either checkout, and prints the seconds.
SCORE = """
import time, torch
from alignment_tax.pipeline.study import Study
study = Study({preset!r})
torch.set_num_threads(study.preset.threads)
given, scorer = study.policy("base"), study.scorer
started = time.perf_counter()
scorer.score(*given)
print(time.perf_counter() - started)
"""
NAME = "bench.json"
#: Results that are not copied: those of the machine, not of the code.
NOT_COPIED = ("runs", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache")


def rates(study: Study) -> dict[str, Numbers]:
    """Measure sampling (tokens drawn), scoring by a reward model, and training (tokens read)."""
    config, limit = study.preset.rsf, study.preset.eval.limit
    policy, tokenizer = study.policy("sft")
    count = 512 if limit is None else max(config.n, min(512, 4 * limit))
    prompts = study.world.prompts(-(-count // config.n), 0, "reported")
    how = {"n": config.n, "seed": 0, **sample.sampling(config)}
    drawing, groups = timed(lambda: sample.sample_replies(policy, tokenizer, prompts, **how))
    asked = [prompt for prompt in prompts for _ in range(config.n)]
    replies = [reply for group in groups for reply in group]
    drawn = sum(len(reply.token_ids) + reply.finished for reply in replies)
    reward_model = models.RewardModel.from_policy(policy, tokenizer)  # as slow as a trained one
    said, length = (tokenizer, asked, replies), study.preset.reward.max_length
    scoring, _ = timed(lambda: models.score_replies(reward_model, *said, study.batch, length))
    read = sum(len(ids) for ids in models.closed_ids(*said))
    examples = list(zip(asked, replies, strict=True))
    like_rsf = dataclasses.replace(DistilConfig.like(config), epochs=1)
    numbers = {**dataclasses.asdict(like_rsf), "seed": 0}
    training, _ = timed(lambda: loop.finetune(policy, tokenizer, examples, **numbers))
    found = {"sampling": (drawn, drawing), "scoring": (read, scoring), "training": (read, training)}
    return {
        n: {"tokens": t, "seconds": s, "tokens_per_second": t / s} for n, (t, s) in found.items()
    }


def algorithms(study: Study) -> dict[str, Numbers]:
    """Measure one round of each RLHF algorithm: replies a second, and where its time goes."""
    configs = study.preset.algorithms.items()
    return {name: one_round(study, name, c) for name, c in configs if name != "rsf_random"}


def one_round(study: Study, name: str, config: AlgorithmConfig) -> Numbers:
    """Measure a round, and the shares of sampling, scoring and learning, which is what is left.

    For PPO its own log says it, and `step_over_parts` is 1 if nothing else in a step takes time.
    """
    (policy, tokenizer), (theta_0, _) = study.policy("sft"), study.policy("sft")
    prompts, spent = study.round_prompts(1, name), Numbers()
    scorers = [clocked(spent, "scoring", work) for work in (study.rewards, study.golds)]
    given: list[Any] = [policy, theta_0, tokenizer, *scorers, study.reward_model(), study.world]
    samplers = [(rsf, "sample_replies"), (dpo, "sample_replies"), (RLOOTrainer, "_generate")]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for place, function in (*samplers, (ppo, "step")):
            part = "step" if place is ppo else "sampling"
            timing = clocked(spent, part, getattr(place, function))
            stack.enter_context(mock.patch.object(place, function, timing))
        given += [prompts, study.seed, 1, None, Path(folder)]  # of round 1, with none before
        start = rounds.Start(*given)
        seconds, result = timed(lambda: run_round(name, config, start))
    more = Numbers()
    if isinstance(config, PpoConfig):
        log = pd.DataFrame(result.log).filter(like="seconds_")
        spent |= {part: float(log[f"seconds_{part}"].sum()) for part in ("sampling", "scoring")}
        step, parts = spent["step"] / len(log), float(log.sum(axis=1).mean())
        more = {"step_seconds": step, "parts_seconds": parts, "step_over_parts": step / parts}
    replies = len(prompts) * getattr(config, "n", 1)
    found = {"replies": replies, "seconds": seconds, "replies_per_second": replies / seconds}
    found |= {part: spent[part] / seconds for part in ("sampling", "scoring")}
    return {**found, "learning": 1 - found["sampling"] - found["scoring"], **more}


def clocked(spent: Numbers, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return `work` with its seconds added up under a name."""

    @functools.wraps(work)  # generation reads the signature of a model's forward pass
    def timing(*arguments: Any, **named: Any) -> Any:
        seconds, result = timed(lambda: work(*arguments, **named))
        spent[name] = spent.get(name, 0.0) + seconds
        return result

    return timing


def evaluation(study: Study) -> Numbers:
    """Measure one evaluation of all skills of theta_0; `overhead` is what is no forward pass."""
    policy, tokenizer = study.policy("sft")
    build, scorer = timed(lambda: study.scorer)
    found = Numbers()
    with mock.patch.object(policy, "forward", clocked(found, "forward_seconds", policy.forward)):
        seconds, scores = timed(lambda: scorer.score(policy, tokenizer))
    found |= {"items": scores.n_items, "seconds": seconds}
    found["overhead"] = seconds / found["forward_seconds"] - 1
    return {**found, "building_the_tasks_once_seconds": build}


def ratios(study: Study, repeats: int = 20) -> Numbers:
    """Measure a search for the ratios of three blocks: seconds, medians of `repeats`.

    `step_seconds` is a step of HMA, `plain_seconds` the same passes through theta_0 alone.
    """
    model, _, mixture = study.mixture()
    objective = hma.ReplyLikelihood(model, study.search_data().replies)
    numbers = hma_numbers(stages.ratios.numbers(study), RATIO_ALPHA)
    batch = range(numbers.batch_size)  # there are more replies than that
    steps = []

    def plain_step() -> Any:
        weights = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
        return torch.autograd.grad(objective(weights, batch), list(weights.values()))

    for _ in range(repeats + 1):  # side by side, so that both meet the same machine
        search = timed(lambda: hma_step(mixture, objective, batch))[0]
        steps.append((search, timed(plain_step)[0]))
    step, plain = (statistics.median(e[1:]) for e in zip(*steps, strict=True))  # the first warms up
    seconds, grid = timed(lambda: hma.grid_search(mixture, objective, numbers, RATIO_STEP))
    found: Numbers = {"replies": len(objective), "batch": len(batch), "step_seconds": step}
    found |= {"plain_seconds": plain, "step_times_plain": step / plain}
    return found | {"grid_points": len(grid.path), "grid_seconds": seconds}


def hma_step(
    mixture: Mixture, objective: hma.ReplyLikelihood, batch: Sequence[int]
) -> torch.Tensor:
    """Mix at equal ratios, run a batch forward and backward; return the gradient of the scores."""
    scores = torch.zeros(len(mixture.partition.blocks), dtype=torch.float64, requires_grad=True)
    mixed = hma.softmax_ratios(scores, RATIO_ALPHA).unbind()
    weights = mixture.weights(mixture.partition.ratios(mixed, RATIO_ALPHA))
    return torch.autograd.grad(objective(weights, batch), scores)[0]


def in_copy(copy: Path, *arguments: str) -> tuple[float, str]:
    """Run this interpreter on the library of a copy; return the seconds and what it prints."""
    runs = {settings.RUNS_VARIABLE: str(copy / "runs")}
    return timed(lambda: python(arguments, [copy / "lib"], copy, **runs))


def course(copy: Path, *arguments: str) -> float:
    """Run the command line of a copy; return its wall seconds."""
    return in_copy(copy, "-m", "alignment_tax", *arguments)[0]


def make_test(copy: Path, preset: str) -> float:
    """Style, types and tests as in `make test`, with the environment of this interpreter."""
    venv = Path(sys.prefix)
    ready = [flag for name in ("run", "test") for flag in ("-o", str(venv / f".ready-to-{name}"))]
    environment = {**os.environ, "PYTHONPATH": str(copy / "lib")}
    command = ["make", "test", f"VENV={venv}", *ready]
    return timed(lambda: subprocess.run(command, cwd=copy, env=environment, check=True))[0]


def record_remedies(copy: Path, preset: str) -> float:
    """All strengths of all remedies of one seed, once theta_0 and RSF are there."""
    shutil.rmtree(copy / "data" / "results" / preset, ignore_errors=True)
    record = ("record", preset, "--seeds", "0", "--methods")
    course(copy, *record, "rsf")
    return course(copy, *record, "remedies", "--jobs", str(os.cpu_count() or 1))


#: What can be timed (an evaluation of the base, all chapters, ...), and how often.
MEASURES: dict[str, tuple[Callable[[Path, str], float], int]] = {
    "score_model": (lambda copy, p: float(in_copy(copy, "-c", SCORE.format(preset=p))[1]), 5),
    "make_run": (lambda copy, preset: course(copy, "run", "--preset", preset), 1),
    **{each.__name__: (each, 1) for each in (make_test, record_remedies)},
}


def ratios_to(folder: Path, names: Sequence[str], quick: bool = False) -> Numbers:
    """Time measures here and there, in turn (`quick`: once, on smoke); add the ratio of medians."""
    preset, found = "smoke" if quick else "tiny", Numbers()
    for name in names:
        measure, times = MEASURES[name]
        seconds: dict[str, list[float]] = {"here": [], "there": []}
        for number in range(1 if quick else times):
            for side, checkout in (("here", settings.repo_root()), ("there", folder)):
                say(f"{name}, {side}, run {number + 1} ...")
                with tempfile.TemporaryDirectory() as scratch:
                    copy = Path(scratch) / checkout.resolve().name
                    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
                    seconds[side].append(measure(copy, preset))
        here, there = (statistics.median(each) for each in seconds.values())
        found[name] = {"preset": preset, "seconds": seconds, "ratio": here / there}
        found[name]["provenance"] = provenance()
        say(json.dumps({name: seconds}))
    return {f"ratios_to_{(git_commit(folder) or folder.resolve().name)[:7]}": found}


#: What can be measured, in order.
PARTS: dict[str, Callable[[Study], Numbers]] = {
    work.__name__: work for work in (rates, evaluation, ratios, algorithms)
}


def run(
    limit: int | None = None, only: Sequence[str] | None = None, against_folder: Path | None = None,
    out: Path | None = None,
) -> int:  # fmt: skip
    """Measure, write bench.json (parts that are not measured stay), and print the numbers."""
    numbers, known = kept(NAME, out), list(MEASURES if against_folder else PARTS)
    if wrong := [name for name in only or () if name not in known]:
        raise settings.SettingsError(f"There is no {wrong[0]!r}. Choose from: {', '.join(known)}.")
    chosen = list(only or known)
    if against_folder is not None:
        found = ratios_to(against_folder, chosen, quick=limit is not None)
        numbers |= {name: numbers.get(name, {}) | new for name, new in found.items()}
        keep(numbers, NAME, out)
    else:
        study = Study(dataclasses.replace(TINY, eval=dataclasses.replace(TINY.eval, limit=limit)))
        numbers |= {"preset": study.preset.name, "limit": limit}
        for name in chosen:
            numbers[name] = PARTS[name](study)
            # the largest resident memory so far, in a unit that depends on the system
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e9
            numbers |= {"peak_memory_gb": peak, "provenance": provenance()}
            keep(numbers, NAME, out)
        found = {name: numbers[name] for name in chosen}
    flat = pd.json_normalize(found, sep=": ").select_dtypes("number")
    print("\n".join(f"{name} = {value:.4g}" for name, value in flat.iloc[0].items()))
    return 0
