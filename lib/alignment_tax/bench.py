"""Speed and memory of the course on this machine: `make bench`, to data/results/bench.json.

Measured on theta_0 of preset `tiny`, seed 0 (made first if it does not exist): sampling, scoring
and training in tokens a second, one full evaluation of skills, and the same sweep over alpha done
twice: in place, and by saving, loading and calling `lm_eval` for each alpha. Never run as a test:
times are not right or wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RLOOTrainer

from alignment_tax import settings
from alignment_tax.artifacts import provenance, write_whole
from alignment_tax.merge.average import Sweep, average
from alignment_tax.models import (
    RewardModel,
    conversation_ids,
    load_policy,
    load_state,
    save_policy,
    score_replies,
)
from alignment_tax.presets import TINY, PpoConfig, Preset
from alignment_tax.skills import FAMILIES, suite
from alignment_tax.study import Study
from alignment_tax.train import dpo, ppo, rsf
from alignment_tax.train.algorithms import Start, run_round
from alignment_tax.train.loop import encode, finetune
from alignment_tax.train.sample import sample_replies

#: The alphas at which the slow sweep is really run; its other alphas take as long.
SLOW_ALPHAS = (0.3, 0.7)

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
    prompts = study.world.prompts(-(-conversations // config.n), 0, "reported")

    def draw() -> list[Any]:
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
        return [reply for group in groups for reply in group]

    seconds, replies = timed(draw)
    drawn = sum(len(reply.token_ids) + reply.finished for reply in replies)
    measured = {"sampling": rate(drawn, seconds)}

    # An untrained reward model takes as long as a trained one.
    reward_model = RewardModel.from_policy(policy, tokenizer)
    asked = [prompt for prompt in prompts for _ in range(config.n)]
    texts = [reply.text for reply in replies]
    batch, length = study.preset.eval.batch_size, study.preset.reward.max_length
    seconds, _ = timed(lambda: score_replies(reward_model, tokenizer, asked, texts, batch, length))
    read = sum(
        len(conversation_ids(tokenizer, prompt, [{"role": "assistant", "content": text}]))
        for prompt, text in zip(asked, texts, strict=True)
    )
    measured["scoring"] = rate(read, seconds)

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
    measured["training"] = rate(read, seconds)
    return measured


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
    numbers["algorithms"] = algorithms(study)
    return {**numbers, "peak_memory_gb": peak_memory_gb(), "provenance": provenance()}


def table_text(numbers: Numbers) -> str:
    """Return what was measured as lines of text; parts that are missing are left out."""
    lines = [
        (f"{name}, tokens a second", f"{rate['tokens_per_second']:,.0f}")
        for name, rate in numbers["rates"].items()
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
