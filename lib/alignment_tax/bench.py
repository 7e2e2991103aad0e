"""Speed and memory of the course on this machine: `make bench`, to data/results/bench.json.

Measured on theta_0 of preset `tiny`, seed 0 (made first if it does not exist): sampling, scoring
and training in tokens a second, one full evaluation of skills, the same sweep over alpha done
twice: in place, and by saving, loading and calling `lm_eval` for each alpha; what a search for
ratios of blocks costs, and what all remedies of one seed. Never run as a test: times are not right
or wrong.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from alignment_tax.mitigate import (
    REMEDIES,
    Setting,
    distil,
    distil_along,
    inspect,
    treat,
    treatments,
)
from alignment_tax.models import (
    RewardModel,
    conversation_ids,
    load_policy,
    load_state,
    measured,
    save_policy,
    score_replies,
)
from alignment_tax.pipeline.record import environment, one_thread
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import TINY, PpoConfig, Preset
from alignment_tax.skills import FAMILIES, suite
from alignment_tax.spec import ALL_REMEDIES, DISTIL, simplest
from alignment_tax.store import Store, provenance, write_whole
from alignment_tax.train import dpo, ppo, rsf
from alignment_tax.train.algorithms import Start, run_round
from alignment_tax.train.loop import IGNORED, Batch, collate, encode, finetune
from alignment_tax.train.sample import Reply, sample_replies
from alignment_tax.world.base import Prompt

#: The alphas at which the slow sweep is really run; its other alphas take as long.
SLOW_ALPHAS = (0.3, 0.7)
#: The mean ratio at which searches are measured, and the step of their grid.
RATIO_ALPHA, RATIO_STEP = 0.4, 0.1

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
    """Measure sampling (tokens drawn), scoring by a reward model, and training (tokens read).

    Args:
        study: its theta_0 and the numbers of its preset are used.
        conversations: how many replies are drawn, scored and trained on.
    """
    config = study.preset.rsf
    policy, tokenizer = study.policy("sft")
    seconds, (asked, replies) = timed(lambda: draw(study, policy, tokenizer, conversations))
    drawn = sum(len(reply.token_ids) + reply.finished for reply in replies)
    found = {"sampling": rate(drawn, seconds)}

    # An untrained reward model takes as long as a trained one.
    reward_model = RewardModel.from_policy(policy, tokenizer)
    texts = [reply.text for reply in replies]
    batch, length = study.preset.eval.batch_size, study.preset.reward.max_length
    seconds, _ = timed(lambda: score_replies(reward_model, tokenizer, asked, texts, batch, length))
    read = sum(
        len(conversation_ids(tokenizer, prompt, [{"role": "assistant", "content": text}]))
        for prompt, text in zip(asked, texts, strict=True)
    )
    found["scoring"] = rate(read, seconds)

    length = config.max_prompt_length + 2 * config.max_new_tokens + 1
    examples = list(zip(asked, texts, strict=True))
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
    read = sum(len(encode(tokenizer, prompt, text, length)[0]) for prompt, text in examples)
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

    A round is what `train.algorithms` runs, from theta_0 of the preset's budget, scores and all.
    The clock is put around what samples (the loop of `sample_replies`, and TRL's own generation in
    RLOO) and around the reward functions; what is left is learning. For PPO its own log says it;
    its step is compared with the sum of its parts, and `step_over_parts` is 1 if nothing else takes
    time. DPO samples before it trains; all others sample from the policy that they train.

    Returns:
        For each algorithm of the preset (the control is left out): replies, seconds,
        replies_per_second, and the shares sampling, scoring and learning, which add up to 1; for
        PPO also step_seconds, parts_seconds and step_over_parts, means over iterations.
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


class ForwardClock:
    """Adds up the seconds that a model spends in its forward passes, inside a `with` block."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.seconds, self.started = model, 0.0, 0.0

    def __enter__(self) -> ForwardClock:
        self.hooks = (
            self.model.register_forward_pre_hook(self._start),
            self.model.register_forward_hook(self._stop),
        )
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _start(self, *arguments: object) -> None:
        self.started = time.perf_counter()

    def _stop(self, *arguments: object) -> None:
        self.seconds += time.perf_counter() - self.started


def evaluation(study: Study) -> Numbers:
    """Measure one evaluation of all skills of theta_0, and how much of it is forward passes.

    `overhead` is all that is not the model's own forward passes (building requests, the loop of
    generation, comparing answers) as a share of the forward passes.
    """
    policy, tokenizer = study.policy("sft")
    build, scorer = timed(lambda: study.scorer)
    with ForwardClock(policy) as clock:
        seconds, scores = timed(lambda: scorer.score(policy, tokenizer))
    return {
        "items": scores.n_items,
        "seconds": seconds,
        "forward_seconds": clock.seconds,
        "overhead": seconds / clock.seconds - 1,
        "building_the_tasks_once_seconds": build,
    }


def sweep(study: Study, building: float) -> Numbers:
    """Measure a sweep over alpha with full scoring: in place, and through disk and command line.

    The time in place includes `building`, the seconds it took to build the tasks. The ends are the
    base and theta_0: a sweep takes as long between any two models. The slow way is run for
    `SLOW_ALPHAS` and multiplied. Both ways must give the same scores: `largest_difference` is that
    of any slot, in points.
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
    folder = Path(__file__).parent / "skills" / config.suite
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, out = Path(scratch) / "model", Path(scratch) / "out"
        model, tokenizer = _load_with(study, average(start, end, alpha))
        save_policy(model, tokenizer, checkpoint)
        command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", str(model.device)]
        command += ["--model_args", f"pretrained={checkpoint},dtype={study.preset.dtype}"]
        command += ["--tasks", ",".join(tasks.values()), "--include_path", str(folder)]
        command += ["--batch_size", str(config.batch_size), "--output_path", str(out)]
        if config.limit is not None:
            command += ["--limit", str(config.limit)]
        package = str(Path(__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        threads = {"OMP_NUM_THREADS": str(study.preset.threads), "PYTHONPATH": paths}
        done = subprocess.run(
            command, env={**os.environ, **threads}, capture_output=True, text=True, check=False
        )
        found = sorted(out.rglob("results*.json"))
        if done.returncode or not found:
            raise RuntimeError(f"lm_eval failed ({done.returncode}):\n{done.stderr[-2000:]}")
        results = json.loads(found[-1].read_text(encoding="utf-8"))["results"]
    return {slot: _percent(slot, results[task]) for slot, task in tasks.items()}


def _load_with(
    study: Study, state: dict[str, torch.Tensor]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = load_policy(study.sft.path / "model", study.preset.dtype)
    model.load_state_dict(state)
    return model, tokenizer


def _percent(slot: str, result: dict[str, Any]) -> float:
    """The score of a slot in the results of lm-eval: BLEU is in percent already."""
    metrics = ("acc,none", "exact_match,none", "bleu,none", "f1,none")
    value = next(float(result[name]) for name in metrics if name in result)
    return value if slot in FAMILIES["translation"] else 100 * value


def ratios(study: Study, repeats: int = 20) -> Numbers:
    """Measure what a search for the ratios of three blocks costs, in seconds and memory.

    The ends are the base and theta_0, and the replies those of theta_0: any others take as long.

    Args:
        study: its preset says how many replies there are, and how many a step has.
        repeats: steps that are timed; the medians are returned.

    Returns:
        `step_seconds` of one step of HMA (mix, forward, backward to three numbers) and
        `plain_seconds` of a forward and backward pass through theta_0 on the same batch, to its
        weights; `memory` (see `search_memory`); `grid_seconds` of the whole grid search; and the
        seconds in which `mixtures` are scored by the likelihood of the replies on batches that are
        made once (`once_seconds`), or anew for each mixture (`anew_seconds`): the same numbers,
        `largest_difference` in nats a token.

    Raises:
        ValueError: the preset has no numbers for a search.
    """
    config = study.preset.ratios
    if config is None:
        raise ValueError(f"Preset {study.preset.name} does not say how ratios are searched.")
    model, tokenizer = study.policy("sft")
    asked, replies = draw(study, model, tokenizer, config.prompts)
    pairs = [(prompt, reply.text) for prompt, reply in zip(asked, replies, strict=True)]
    length = study.preset.rsf.max_prompt_length + 2 * study.preset.rsf.max_new_tokens + 1

    def tokenised() -> list[Example]:
        return [encode(tokenizer, prompt, text, length) for prompt, text in pairs]

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

    Every remedy is trained at the middle of its strengths, on the pool that all share; those that
    collect along the plain run come out of one run together, those that rework its outcome need no
    run of their own. What RSF takes is left out: its rounds are there before.

    Args:
        study: its preset names the remedies.
        evaluation_seconds: of one model, see `evaluation`; without the sampling for its reward.

    Returns:
        `seconds` by remedy, of one strength ("along": all strengths of all that ride along);
        models, training_seconds and evaluation_seconds of all of one seed, total_minutes one after
        the other, and beside_minutes in `beside` processes (see `side_by_side`).

    Raises:
        ValueError: the preset has no numbers for remedies, or no pretraining text.
    """
    setting = inspect.setting(study)
    riding = [(g.method, x) for g in study.preset.remedies for x in g.strengths if along(g.method)]
    took: dict[str, float] = {}
    took[DISTIL], plain = timed(lambda: distil(setting))
    took["along"] = timed(lambda: list(distil_along(setting, riding)[1]))[0]
    total = took[DISTIL] + took["along"]
    for grid in study.preset.remedies:
        if along(grid.method):
            continue
        chosen = {grid.method: grid.strengths[len(grid.strengths) // 2]}
        if REMEDIES[grid.method].when == "afterwards":
            seconds, _ = timed(functools.partial(rework, setting, plain.policy, chosen))
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
    """Measure processes that each train and score one model, as `alignment-tax record --jobs` does.

    All start together, with all that is made once made before.

    Returns:
        Wall seconds for each model: those of the slowest process, by the number of processes.
    """
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


def along(method: str) -> bool:
    """Whether a remedy collects along the plain run, so that one run serves all its strengths."""
    return REMEDIES[method].when == "along"


def rework(setting: Setting, policy: PreTrainedModel, chosen: Mapping[str, float]) -> None:
    """Apply remedies that need nothing but the outcome of a run; the policy stays as it is."""
    treat(copy.deepcopy(policy), treatments(setting, chosen), lambda model, extras: None)


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
    """Measure the memory that a search takes, and one forward and backward pass, in MB.

    Each runs in a process of its own, so that nothing is counted that was there before; what is
    returned is the peak above the libraries. None where the system does not tell.

    Returns:
        `search_mb` (models and one epoch of HMA), `plain_mb` (one model, one `plain_step`),
        `two_models_mb` (the weights of the two ends alone).
    """
    found: Numbers = {}
    for name, work in (("search_mb", _search_once), ("plain_mb", _plain_once)):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            arguments = (work, folders, preset.dtype, preset.threads, list(examples), numbers)
            found[name] = pool.submit(_memory_of, *arguments).result()
    sizes = [t.numel() * t.element_size() for f in folders for t in load_state(f).values()]
    return {**found, "two_models_mb": sum(sizes) / 1e6}


Work = Callable[[tuple[Path, Path], str, list[Example], HmaConfig], None]


def _memory_of(
    work: Work,
    folders: tuple[Path, Path],
    dtype: str,
    threads: int,
    examples: list[Example],
    numbers: HmaConfig,
) -> float | None:
    """Return the peak memory of some work above what this process holds before, in MB."""
    torch.set_num_threads(threads)
    _, _, before = measured(lambda: None)
    _, _, peak = measured(lambda: work(folders, dtype, examples, numbers))
    return None if before is None or peak is None else peak - before


def _search_once(
    folders: tuple[Path, Path], dtype: str, examples: list[Example], numbers: HmaConfig
) -> None:
    model, _ = load_policy(folders[1], dtype)
    mixture = Mixture(
        model, load_state(folders[0]), model.state_dict(), partition(model, len(THIRDS))
    )
    once = dataclasses.replace(numbers, epochs=1)
    learn_ratios(mixture, ReplyLikelihood(model, examples), once)


def _plain_once(
    folders: tuple[Path, Path], dtype: str, examples: list[Example], numbers: HmaConfig
) -> None:
    model, _ = load_policy(folders[1], dtype)
    batch = range(min(numbers.batch_size, len(examples)))
    plain_step(model, ReplyLikelihood(model, examples), batch)


def peak_memory_gb() -> float:
    """Return the largest resident memory of this process so far, in GB.

    Linux counts in kilobytes, macOS in bytes.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def run(study: Study, limit: int | None = None) -> Numbers:
    """Measure everything. The result is plain JSON.

    Args:
        study: what is measured.
        limit: items of each task that were scored, for the report: None for all.
    """
    conversations = 512 if limit is None else max(study.preset.rsf.n, min(512, 4 * limit))
    numbers: Numbers = {"preset": study.preset.name, "limit": limit}
    numbers["rates"] = rates(study, conversations)
    numbers["evaluation"] = evaluation(study)
    numbers["sweep"] = sweep(study, numbers["evaluation"]["building_the_tasks_once_seconds"])
    numbers["ratios"] = ratios(study)
    numbers["remedies"] = remedies(study, numbers["evaluation"]["seconds"])
    numbers["algorithms"] = algorithms(study)
    return {**numbers, "peak_memory_gb": peak_memory_gb(), "provenance": provenance()}


def table_text(numbers: Numbers) -> str:
    """Return what was measured as lines of text; parts that are missing are left out."""
    lines = [
        (f"{name}, tokens a second", f"{rate['tokens_per_second']:,.0f}")
        for name, rate in numbers.get("rates", {}).items()
    ]
    if found := numbers.get("evaluation"):
        lines += [
            (f"one evaluation of skills ({found['items']} items)", f"{found['seconds']:.1f} s"),
            ("  around the forward passes, share of them", f"{100 * found['overhead']:.0f} %"),
        ]
    if found := numbers.get("sweep"):
        lines += [
            (f"sweep over {found['alphas']} alphas in place", f"{found['in_place_seconds']:.1f} s"),
            (
                f"  by lm_eval on disk (mean of {found['by_command_alphas_measured']} alphas "
                f"times {found['alphas']})",
                f"{found['by_command_seconds']:.1f} s",
            ),
            ("  in place is faster by", f"{found['times_faster']:.1f} times"),
            ("  largest difference of a score", f"{found['largest_difference']:.2g} points"),
        ]
    if found := numbers.get("ratios"):
        lines += [
            (f"one step of HMA ({found['batch']} replies)", f"{found['step_seconds']:.3f} s"),
            ("  times a plain forward and backward", f"{found['step_times_plain']:.2f}"),
            (f"grid search ({found['grid_points']} points)", f"{found['grid_seconds']:.1f} s"),
            (
                f"{found['mixtures']} mixtures scored on batches made once",
                f"{found['once_seconds']:.1f} s",
            ),
            ("  faster than making them each time by", f"{found['times_faster']:.2f} times"),
        ]
        memory = found["memory"]
        if None not in memory.values():
            lines += [
                ("memory of a search", f"{memory['search_mb']:.0f} MB"),
                ("  of a plain forward and backward", f"{memory['plain_mb']:.0f} MB"),
                ("  of the weights of two models", f"{memory['two_models_mb']:.0f} MB"),
            ]
    if found := numbers.get("remedies"):
        lines += [
            ("one run without a remedy", f"{found['seconds'][DISTIL]:.1f} s"),
            (
                f"all strengths of all remedies ({found['models']} models), one seed",
                f"{found['total_minutes']:.1f} min",
            ),
            ("  of which training", f"{found['training_seconds'] / 60:.1f} min"),
            (f"  in {found['beside']} processes", f"{found['beside_minutes']:.1f} min"),
        ]
    for name, found in numbers.get("algorithms", {}).items():
        what = f"one round of {name}, replies a second"
        lines.append((what, f"{found['replies_per_second']:.0f}"))
        shares = " / ".join(
            f"{100 * found[part]:.0f}" for part in ("sampling", "scoring", "learning")
        )
        lines.append(("  sampling / scoring / learning", f"{shares} %"))
        if "step_over_parts" in found:
            over = f"{found['step_over_parts']:.2f}"
            lines.append(("  a step of PPO over the sum of its parts", over))
    if found := numbers.get("peak_memory_gb"):
        lines.append(("peak memory", f"{found:.2f} GB"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value:>12}" for name, value in lines)


def limited(preset: Preset, limit: int | None) -> Preset:
    """Return the preset with another number of items a task; the trained stages stay the same."""
    return dataclasses.replace(preset, eval=dataclasses.replace(preset.eval, limit=limit))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write bench.json and print the table: what `alignment-tax bench` does."""
    parser = argparse.ArgumentParser(
        prog="alignment-tax bench", description="Measure speed and memory on this machine."
    )
    parser.add_argument("--limit", type=int, help="items a task, for a quick trial; default all")
    parser.add_argument("--out", type=Path, help="default: data/results/bench.json")
    arguments = parser.parse_args(argv)
    if arguments.limit is not None and arguments.limit < 1:
        parser.error("--limit must be at least 1")
    numbers = run(Study(limited(TINY, arguments.limit)), arguments.limit)
    out = arguments.out or settings.results_folder() / "bench.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(numbers, indent=2) + "\n")
    print(table_text(numbers))
    print(f"Written to {out}.")
    return 0
