"""Speed and memory of the course on this machine: `make bench`, to data/results/bench.json.

Measured on theta_0 of preset `tiny`, seed 0 (made first if it does not exist): sampling, scoring
and training in tokens a second, one full evaluation of skills, the same sweep over alpha in place
and by saving, loading and calling `lm_eval` for each alpha; what a search for ratios costs, all
remedies of one seed, and a round of each algorithm. Never run as a test: times are not right or
wrong. With `--against` the whole work is timed beside that of another checkout: bench/against.py.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from unittest import mock

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RLOOTrainer

from alignment_tax import settings
from alignment_tax.merge.average import Sweep, average
from alignment_tax.merge.hma import (
    Example,
    HmaConfig,
    ReplyLikelihood,
    grid_search,
    learn_ratios,
    softmax_ratios,
)
from alignment_tax.merge.parts import THIRDS, Mixture, partition, ratios_of_blocks
from alignment_tax.merge.search import hma_numbers
from alignment_tax.mitigate import REMEDIES, distil, distil_along, inspect, treat, treatments
from alignment_tax.models import (
    RewardModel,
    closed_ids,
    load_policy,
    load_state,
    measured,
    save_policy,
    score_replies,
)
from alignment_tax.pipeline.record import environment, one_thread
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import TINY, PpoConfig, Preset
from alignment_tax.provenance import provenance
from alignment_tax.skills import FAMILIES, suite
from alignment_tax.spec import ALL_REMEDIES, DISTIL, simplest
from alignment_tax.store import Store, write_whole
from alignment_tax.train import dpo, ppo, rsf
from alignment_tax.train.algorithms import run_round
from alignment_tax.train.loop import IGNORED, Batch, collate, encode, finetune
from alignment_tax.train.rounds import Start
from alignment_tax.train.sample import Reply, sample_replies
from alignment_tax.world.base import Prompt
from bench import against

#: The alphas at which the slow sweep is really run; its other alphas take as long.
SLOW_ALPHAS = (0.3, 0.7)
#: The mean ratio at which searches are measured, and the step of their grid.
RATIO_ALPHA, RATIO_STEP = 0.4, 0.1

#: The library's folder.
PACKAGE = Path(settings.__file__).parent

Numbers = dict[str, Any]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the wall seconds that `work` takes, and its result."""
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def rate(tokens: int, seconds: float) -> Numbers:
    """Return tokens, seconds and tokens a second."""
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}


def rates(study: Study, conversations: int = 512) -> dict[str, Numbers]:
    """Measure sampling (tokens drawn), scoring by a reward model, and training (tokens read)."""
    config = study.preset.rsf
    policy, tokenizer = study.policy("sft")
    seconds, (asked, replies) = timed(lambda: draw(study, policy, tokenizer, conversations))
    drawn = sum(len(reply.token_ids) + reply.finished for reply in replies)
    found = {"sampling": rate(drawn, seconds)}

    # An untrained reward model takes as long as a trained one.
    reward_model = RewardModel.from_policy(policy, tokenizer)
    batch, length = study.preset.eval.batch_size, study.preset.reward.max_length
    said = (tokenizer, asked, replies)
    seconds, _ = timed(lambda: score_replies(reward_model, *said, batch, length))
    read = sum(len(ids) for ids in closed_ids(*said))
    found["scoring"] = rate(read, seconds)

    length = config.max_prompt_length + config.max_new_tokens
    examples = list(zip(asked, replies, strict=True))
    seconds, _ = timed(
        lambda: finetune(
            policy,
            tokenizer,
            examples,
            learning_rate=config.learning_rate,
            epochs=1,
            batch_size=config.batch_size,
            seed=0,
            max_length=length,
        )
    )
    read = sum(len(encode(tokenizer, *example, length)[0]) for example in examples)
    found["training"] = rate(read, seconds)
    return found


def draw(
    study: Study,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: int,
) -> tuple[list[Prompt], list[Reply]]:
    """Sample at least so many replies, and return the prompt of each, and the replies."""
    config = study.preset.rsf
    prompts = study.world.prompts(-(-conversations // config.n), 0, "reported")
    groups = sample_replies(
        policy,
        tokenizer,
        prompts,
        n=config.n,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.sampling_batch,
        seed=0,
    )
    asked = [prompt for prompt, group in zip(prompts, groups, strict=True) for _ in group]
    return asked, [reply for group in groups for reply in group]


def algorithms(study: Study) -> dict[str, Numbers]:
    """Measure one round of each RLHF algorithm: replies a second, and where its time goes.

    The clock is put around what samples and around the reward functions; what is left is learning.
    For PPO its own log says it, and `step_over_parts` is 1 if nothing else in a step takes time.
    The shares sampling, scoring and learning add up to 1.
    """
    measured = {}
    for name, config in study.preset.algorithms.items():
        if name == "rsf_random":
            continue
        policy, tokenizer = study.policy("sft")
        theta_0, _ = study.policy("sft")
        reward_model = study.reward_model()
        prompts = study.round_prompts(1, name)
        with tempfile.TemporaryDirectory() as folder, clocks() as spent:
            start = Start(
                policy=policy,
                theta_0=theta_0,
                tokenizer=tokenizer,
                reward_fn=spent.around("scoring", study.rewards),
                gold_fn=spent.around("scoring", study.golds),
                reward_model=reward_model,
                world=study.world,
                prompts=prompts,
                seed=study.seed,
                number=1,
                before=None,
                folder=Path(folder),
            )
            seconds, result = timed(functools.partial(run_round, name, config, start))
        parts = {"sampling": spent["sampling"], "scoring": spent["scoring"]}
        more: Numbers = {}
        if isinstance(config, PpoConfig):
            steps = pd.DataFrame(result.log)
            own = ["seconds_sampling", "seconds_scoring", "seconds_learning"]
            parts = {name.removeprefix("seconds_"): float(steps[name].sum()) for name in own[:2]}
            parts_of_step = float(steps[own].sum(axis=1).mean())
            more = {
                "step_seconds": spent["step"] / len(steps),
                "parts_seconds": parts_of_step,
                "step_over_parts": spent["step"] / len(steps) / parts_of_step,
            }
        replies = len(prompts) * getattr(config, "n", 1)
        shares = {name: took / seconds for name, took in parts.items()}
        shares["learning"] = 1 - sum(shares.values())
        measured[name] = {
            "replies": replies,
            "seconds": seconds,
            "replies_per_second": replies / seconds,
            **shares,
            **more,
        }
    return measured


class Spent(dict[str, float]):
    """Seconds by name of what was done; a name that was never timed has 0."""

    def __missing__(self, name: str) -> float:
        return 0.0

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work` with its seconds added up under `name`."""

        @functools.wraps(work)  # generation reads the signature of a model's forward pass
        def clocked(*arguments: Any, **named: Any) -> Any:
            seconds, result = timed(lambda: work(*arguments, **named))
            self[name] += seconds
            return result

        return clocked


@contextlib.contextmanager
def clocks() -> Iterator[Spent]:
    """Time, inside the `with` block, all that samples replies (sampling) and PPO's steps (step)."""
    spent = Spent()
    places = [
        (rsf, "sample_replies", "sampling"),
        (dpo, "sample_replies", "sampling"),
        (RLOOTrainer, "_generate", "sampling"),
        (ppo, "step", "step"),
    ]
    with contextlib.ExitStack() as stack:
        for place, function, name in places:
            clocked = spent.around(name, getattr(place, function))
            stack.enter_context(mock.patch.object(place, function, clocked))
        yield spent


def evaluation(study: Study) -> Numbers:
    """Measure one evaluation of all skills of theta_0, and how much of it is forward passes.

    `overhead` is all else (building requests, the loop of generation, comparing answers) as a share
    of the forward passes.
    """
    policy, tokenizer = study.policy("sft")
    build, scorer = timed(lambda: study.scorer)
    spent = Spent()
    with mock.patch.object(policy, "forward", spent.around("forward", policy.forward)):
        seconds, scores = timed(lambda: scorer.score(policy, tokenizer))
    return {
        "items": scores.n_items,
        "seconds": seconds,
        "forward_seconds": spent["forward"],
        "overhead": seconds / spent["forward"] - 1,
        "building_the_tasks_once_seconds": build,
    }


def sweep(study: Study, building: float) -> Numbers:
    """Measure a sweep over alpha with full scoring: in place, and through disk and command line.

    The time in place includes `building`, the seconds it took to build the tasks. The slow way is
    run for `SLOW_ALPHAS` and multiplied. `largest_difference` of the two is in points of any slot.
    """
    model, tokenizer = study.policy("sft")
    start, end = load_state(study.base.path), load_state(study.sft.path / "model")
    alphas = [i / 10 for i in range(11)]
    scorer = study.scorer
    scores: dict[float, dict[str, float]] = {}

    def in_place() -> None:
        mixture = Sweep(model, start, end)
        for alpha in alphas:
            mixture.set(alpha)
            scores[alpha] = scorer.score(model, tokenizer).metrics

    fast = building + timed(in_place)[0]
    seconds, differences = [], []
    for alpha in SLOW_ALPHAS:
        took, found = timed(functools.partial(by_command, study, start, end, alpha))
        seconds.append(took)
        differences += [abs(found[slot] - scores[alpha][slot]) for slot in found]
    slow = len(alphas) * sum(seconds) / len(seconds)
    return {
        "alphas": len(alphas),
        "in_place_seconds": fast,
        "by_command_seconds_each": seconds,
        "by_command_seconds": slow,
        "by_command_alphas_measured": len(SLOW_ALPHAS),
        "times_faster": slow / fast,
        "largest_difference": max(differences),
    }


def by_command(
    study: Study, start: dict[str, torch.Tensor], end: dict[str, torch.Tensor], alpha: float
) -> dict[str, float]:
    """Average on disk, load and score with the public `lm_eval` command; percent of each slot."""
    config = study.preset.eval
    tasks = suite(config.suite)
    folder = PACKAGE / "skills" / config.suite
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, out = Path(scratch) / "model", Path(scratch) / "out"
        model, tokenizer = load_policy(study.sft.path / "model", study.preset.dtype)
        model.load_state_dict(average(start, end, alpha))
        save_policy(model, tokenizer, checkpoint)
        command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", str(model.device)]
        command += ["--model_args", f"pretrained={checkpoint},dtype={study.preset.dtype}"]
        command += ["--tasks", ",".join(tasks.values()), "--include_path", str(folder)]
        command += ["--batch_size", str(config.batch_size), "--output_path", str(out)]
        if config.limit is not None:
            command += ["--limit", str(config.limit)]
        paths = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
        threads = {"OMP_NUM_THREADS": str(study.preset.threads), "PYTHONPATH": paths}
        done = subprocess.run(
            command, env={**os.environ, **threads}, capture_output=True, text=True, check=False
        )
        found = sorted(out.rglob("results*.json"))
        if done.returncode or not found:
            raise RuntimeError(f"lm_eval failed ({done.returncode}):\n{done.stderr[-2000:]}")
        results = json.loads(found[-1].read_text(encoding="utf-8"))["results"]
    return {slot: _percent(slot, results[task]) for slot, task in tasks.items()}


def _percent(slot: str, result: dict[str, Any]) -> float:
    """The score of a slot in the results of lm-eval: BLEU is in percent already."""
    metrics = ("acc,none", "exact_match,none", "bleu,none", "f1,none")
    value = next(float(result[name]) for name in metrics if name in result)
    return value if slot in FAMILIES["translation"] else 100 * value


def ratios(study: Study, repeats: int = 20) -> Numbers:
    """Measure what a search for the ratios of three blocks costs, in seconds and memory.

    `step_seconds` is one step of HMA (mix, forward, backward to three numbers), `plain_seconds` a
    forward and backward pass through theta_0 on the same batch: medians of `repeats`. `mixtures`
    are scored on batches that are made once, or anew for each: the same numbers.
    """
    config = study.preset.ratios
    if config is None:
        raise ValueError(f"Preset {study.preset.name} does not say how ratios are searched.")
    model, tokenizer = study.policy("sft")
    asked, replies = draw(study, model, tokenizer, config.prompts)
    pairs = list(zip(asked, replies, strict=True))
    length = study.preset.rsf.max_prompt_length + study.preset.rsf.max_new_tokens

    def tokenised() -> list[Example]:
        return [encode(tokenizer, *pair, length) for pair in pairs]

    examples = tokenised()
    folders = (study.base.path, study.sft.path / "model")
    start, end = (load_state(folder) for folder in folders)
    mixture = Mixture(model, start, end, partition(model, len(THIRDS)))
    objective = ReplyLikelihood(model, examples)
    numbers = hma_numbers(config, RATIO_ALPHA)
    batch = list(range(min(config.batch_size, len(examples))))
    step, plain = [], []
    for _ in range(repeats + 1):  # side by side, so that both meet the same machine
        step.append(timed(lambda: hma_step(mixture, objective, batch))[0])
        plain.append(timed(lambda: plain_step(model, objective, batch))[0])
    found: Numbers = {"replies": len(examples), "batch": len(batch)}
    # the first of each warms up
    found |= {"step_seconds": statistics.median(step[1:])}
    found |= {"plain_seconds": statistics.median(plain[1:])}
    found["step_times_plain"] = found["step_seconds"] / found["plain_seconds"]
    found["memory"] = search_memory(folders, study.preset, examples, numbers)
    seconds, grid = timed(lambda: grid_search(mixture, objective, numbers, RATIO_STEP))
    found |= {"grid_points": len(grid.path), "grid_seconds": seconds}
    size, where, pad = config.batch_size, model.device, tokenizer.pad_token_id

    def batches() -> list[Batch]:
        rows = tokenised()
        return [collate(rows[i : i + size], pad, where) for i in range(0, len(rows), size)]

    sweep = Mixture(model, start, end, mixture.partition)

    def score_all(once: bool) -> list[float]:
        made = batches() if once else []
        values = []
        for triple in simplex():
            sweep.set(ratios_of_blocks(sweep.partition, triple, sum(triple) / len(triple)))
            values.append(negative_log_likelihood(model, made or batches()))
        return values

    once, first = timed(lambda: score_all(once=True))
    anew, second = timed(lambda: score_all(once=False))
    gaps = [abs(a - b) for a, b in zip(first, second, strict=True)]
    found |= {"mixtures": len(first), "once_seconds": once, "anew_seconds": anew}
    return {**found, "times_faster": anew / once, "largest_difference": max(gaps)}


def remedies(study: Study, evaluation_seconds: float) -> Numbers:
    """Measure one training under each remedy, and add up what all strengths of a seed will take.

    Every remedy is trained at the middle of its strengths; those that collect along the plain run
    come out of one run together ("along"), those that rework its outcome need no run of their own.
    What RSF takes is left out: its rounds are there before.
    """
    setting = inspect.setting(study)
    riding = [
        (g.method, x)
        for g in study.preset.remedies
        for x in g.strengths
        if REMEDIES[g.method].when == "along"
    ]
    took: dict[str, float] = {}
    took[DISTIL], plain = timed(lambda: distil(setting))
    took["along"] = timed(lambda: list(distil_along(setting, riding)[1]))[0]
    total = took[DISTIL] + took["along"]
    for grid in study.preset.remedies:
        if REMEDIES[grid.method].when == "along":
            continue
        chosen = {grid.method: grid.strengths[len(grid.strengths) // 2]}
        if REMEDIES[grid.method].when == "afterwards":
            policy = copy.deepcopy(plain.policy)
            work = functools.partial(treat, policy, treatments(setting, chosen), lambda *_: None)
            seconds, _ = timed(work)
        else:
            seconds, _ = timed(functools.partial(distil, setting, chosen))
        took[grid.method] = seconds
        total += seconds * len(grid.strengths)
    # each model once: the ends of averaging are theta_0, scored before, and the plain run
    models = len({simplest(spec) for spec in study.specs([ALL_REMEDIES])}) - 1
    scoring = models * evaluation_seconds
    minutes = (total + scoring) / 60
    processes = os.cpu_count() or 1
    faster = (took[DISTIL] + evaluation_seconds) / side_by_side(study, processes)
    return {
        "seconds": took,
        "models": models,
        "training_seconds": total,
        "evaluation_seconds": scoring,
        "total_minutes": minutes,
        "beside": processes,
        "beside_minutes": minutes / faster,
    }


def side_by_side(study: Study, processes: int) -> float:
    """Return the wall seconds a model, of processes that each train and score one at once."""
    context = multiprocessing.get_context("spawn")
    with (
        environment(OMP_WAIT_POLICY="PASSIVE", TQDM_DISABLE="1"),
        context.Manager() as manager,
        ProcessPoolExecutor(processes, mp_context=context) as pool,
    ):
        ready = manager.Barrier(processes)
        arguments = (study.preset, study.seed, study.store.root, ready)
        running = [pool.submit(_train_and_score, *arguments) for _ in range(processes)]
        return max(future.result() for future in running) / processes


def _train_and_score(preset: Preset, seed: int, root: Path, ready: Barrier) -> float:
    """Return the seconds of one plain run and its scores, from when all processes are ready."""
    study = Study(preset, seed, Store(root))
    setting, scorer = inspect.setting(study), study.scorer
    ready.wait()

    def work() -> None:
        policy = distil(setting).policy
        with one_thread():
            scorer.score(policy, setting.tokenizer)

    return timed(work)[0]


def simplex() -> list[tuple[float, float, float]]:
    """Return the 66 triples of ratios in tenths that sum to 1: a grid over the whole simplex."""
    return [(i / 10, j / 10, (10 - i - j) / 10) for i in range(11) for j in range(11 - i)]


def hma_step(mixture: Mixture, objective: ReplyLikelihood, batch: Sequence[int]) -> torch.Tensor:
    """Mix at equal ratios, run a batch forward and backward; return the gradient of the scores."""
    blocks = mixture.partition.blocks
    scores = torch.zeros(len(blocks), dtype=torch.float64, requires_grad=True)
    shares = torch.full_like(scores, 1 / len(blocks), requires_grad=False)
    mixed = softmax_ratios(scores, RATIO_ALPHA, shares).unbind()
    others = dict.fromkeys(mixture.partition.others, RATIO_ALPHA)
    weights = mixture.weights({**others, **dict(zip(blocks, mixed, strict=True))})
    return torch.autograd.grad(objective(weights, batch), scores)[0]


def plain_step(
    model: PreTrainedModel, objective: ReplyLikelihood, batch: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """Run a batch forward and backward through a model; return the gradients of its weights."""
    weights = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    return torch.autograd.grad(objective(weights, batch), list(weights.values()))


@torch.no_grad()
def negative_log_likelihood(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Return the mean negative log-likelihood of the replies in batches, in nats per token."""
    total, count = 0.0, 0
    for batch in batches:
        tokens = int((batch["labels"][:, 1:] != IGNORED).sum())
        total += model(**batch).loss.item() * tokens
        count += tokens
    return total / count


def search_memory(
    folders: tuple[Path, Path], preset: Preset, examples: Sequence[Example], numbers: HmaConfig
) -> Numbers:
    """Measure the memory of a search, of one forward and backward pass, and of two models, in MB.

    Each runs in a process of its own; what counts is the peak above the libraries. None where the
    system does not tell.
    """
    found: Numbers = {}
    for name in ("search_mb", "plain_mb"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            arguments = (name, folders, preset.dtype, preset.threads, list(examples), numbers)
            found[name] = pool.submit(_memory_of, *arguments).result()
    sizes = [t.numel() * t.element_size() for f in folders for t in load_state(f).values()]
    return {**found, "two_models_mb": sum(sizes) / 1e6}


def _memory_of(
    name: str,
    folders: tuple[Path, Path],
    dtype: str,
    threads: int,
    examples: list[Example],
    numbers: HmaConfig,
) -> float | None:
    """Return the peak memory of some work above what this process holds before, in MB."""
    torch.set_num_threads(threads)

    def work() -> None:
        model, _ = load_policy(folders[1], dtype)
        objective = ReplyLikelihood(model, examples)
        if name == "plain_mb":
            plain_step(model, objective, range(min(numbers.batch_size, len(examples))))
            return
        blocks = partition(model, len(THIRDS))
        mixture = Mixture(model, load_state(folders[0]), model.state_dict(), blocks)
        learn_ratios(mixture, objective, dataclasses.replace(numbers, epochs=1))

    _, _, before = measured(lambda: None)
    _, _, peak = measured(work)
    return None if before is None or peak is None else peak - before


def peak_memory_gb() -> float:
    """Return the largest resident memory of this process so far, in GB.

    Linux counts in kilobytes, macOS in bytes.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def parts(study: Study, limit: int | None = None) -> dict[str, Callable[[Numbers], Numbers]]:
    """Return what can be measured, in order: name -> what takes what was measured before it."""
    conversations = 512 if limit is None else max(study.preset.rsf.n, min(512, 4 * limit))
    return {
        "rates": lambda _: rates(study, conversations),
        "evaluation": lambda _: evaluation(study),
        "sweep": lambda n: sweep(study, n["evaluation"]["building_the_tasks_once_seconds"]),
        "ratios": lambda _: ratios(study),
        "remedies": lambda n: remedies(study, n["evaluation"]["seconds"]),
        "algorithms": lambda _: algorithms(study),
    }


def lines(numbers: Numbers, place: str = "") -> Iterator[str]:
    """Return every number that was measured on a line of its own."""
    for name, value in numbers.items():
        if isinstance(value, dict):
            yield from lines(value, f"{place}{name}: ")
        elif isinstance(value, float | int):
            yield f"{place}{name} = {value:.4g}"


def limited(preset: Preset, limit: int | None) -> Preset:
    """Return the preset with another number of items a task; the trained stages stay the same."""
    return dataclasses.replace(preset, eval=dataclasses.replace(preset.eval, limit=limit))


def run(
    limit: int | None = None,
    only: Sequence[str] | None = None,
    against_folder: Path | None = None,
    out: Path | None = None,
) -> int:
    """Measure, write bench.json (parts that are not measured stay), and print the numbers."""
    out = out or settings.results_folder() / "bench.json"
    kept: Numbers = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    study = Study(limited(TINY, limit))
    able = parts(study, limit)
    known = list(able if against_folder is None else against.MEASURES)
    if wrong := [name for name in only or () if name not in known]:
        raise settings.SettingsError(f"There is no {wrong[0]!r}. Choose from: {', '.join(known)}.")
    chosen = list(only or known)
    if against_folder is not None:
        found = against.ratios_to(against_folder, chosen, quick=limit is not None)
        name = f"ratios_to_{against.name_of(against_folder)}"
        numbers = {**kept, name: {**kept.get(name, {}), **found}}
    else:
        numbers = {**kept, "preset": study.preset.name, "limit": limit}
        for name in chosen:
            numbers[name] = able[name](numbers)
            numbers |= {"peak_memory_gb": peak_memory_gb(), "provenance": provenance()}
            write_whole(out, json.dumps(numbers, indent=2) + "\n")
        found = {name: numbers[name] for name in (*chosen, "peak_memory_gb")}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(numbers, indent=2) + "\n")
    print("\n".join(lines(found)))
    print(f"Written to {out}.")
    return 0
