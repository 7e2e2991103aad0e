"""What `alignment-tax record` does: run a preset over seeds and write the tables of its results."""

import contextlib
import dataclasses
import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import as_completed
from functools import lru_cache
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from tqdm import tqdm

from alignment_tax import settings
from alignment_tax.elsewhere import end_with_starter, processes, there, workers
from alignment_tax.models import device, use_bf16
from alignment_tax.pipeline import catalogue
from alignment_tax.pipeline.asked import replies_table
from alignment_tax.pipeline.recorded_only import LeftOut
from alignment_tax.pipeline.stages import base
from alignment_tax.pipeline.stages.scores import check_theta_0
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import Preset
from alignment_tax.provenance import provenance
from alignment_tax.results.recorded import (
    RecordError,
    other_start,
    read_calls,
    read_table,
    write_calls,
    write_tables,
)
from alignment_tax.skills import SkillScores
from alignment_tax.spec import COLUMNS, NAMED, Spec, has_forward_kl
from alignment_tax.stats.claims import REPLIES
from alignment_tax.store import Artifact, Make, Parents, Store, Values, read_json, say

#: Most models that one process takes at a time.
PORTION = 4


def record(
    preset: str | Preset, seeds: list[int], jobs: int = 1, methods: Sequence[str] | None = None,
    scheduler: str | None = None,
) -> Path:  # fmt: skip
    """Run a preset for several seeds and write the tables of `results.recorded`; return the folder.

    Tables are replaced whole, after every seed. Stages that are not there are made by `jobs`
    processes, or the workers of a `scheduler`. With `methods` (see `Study.specs`) rows are merged
    into the tables that exist, without them the preset's algorithms make new tables.
    """
    started = time.perf_counter()
    if max(seeds) >= 2**63:
        raise RecordError(f"Tables hold seeds below 2**63, not {max(seeds)}.")
    first = Study(preset, seeds[0])
    first.specs(methods)
    folder = settings.results_folder() / first.preset.name
    settings.writable(folder, "Results are kept in the checkout: record in one of your own.")
    calls = [] if methods is None else read_calls(folder)
    stored = read_table(folder / "points.csv")
    if methods is None:
        own = {spec.method for spec in first.specs()}
        if lost := ", ".join(sorted({*stored.get("method", ())} - own)):
            say(f"This replaces the tables in {folder}, and their rows of {lost} with them.")
    else:
        for seed in seeds:
            check_same_start(stored, Study(preset, seed))
    if (jobs := min(jobs, os.cpu_count() or 1)) > 1 or scheduler:
        run_side_by_side(preset, seeds, jobs, methods, scheduler)
    added = [] if methods is None else ["--methods", *methods]
    words = ["alignment-tax record", first.preset.name, *added, "--seeds", *map(str, seeds)]
    for number, seed in enumerate(seeds, start=1):
        study = Study(preset, seed)
        check_theta_0(study)
        _write_seed(folder, study, methods, fresh=methods is None and number == 1)
        entry = {**provenance(), "command": " ".join(words)}
        entry |= {"preset": dataclasses.asdict(study.preset), "seeds": seeds[:number]}
        entry |= {"methods": None if methods is None else list(methods), "base": study.base.key}
        entry |= {"base_from": study.base.meta.get("inputs"), "bf16": use_bf16(device())}
        entry |= {"jobs": jobs, "seconds_of_this_call": round(time.perf_counter() - started, 1)}
        if methods is None:
            entry["seconds_of_stages_last_seed"] = _stage_seconds(study)
        write_calls(folder, [*calls, entry])
        left = " ".join(map(str, seeds[number:])) or "none"
        say(f"Recorded seed {seed} in {folder}. Seeds left: {left}.")
    return folder


def check_same_start(points: pd.DataFrame, study: Study) -> None:
    """Refuse to add to stored points of a seed that come from another theta_0 (RecordError)."""
    if points.empty or study.seed not in set(points["seed"]):
        return
    if changed := other_start(points, study.point(Spec("sft"))):
        raise RecordError(
            f"The stored rows of {study} come from another theta_0 than this machine and code make "
            f"({changed}), so new ones cannot be paired with them. Nothing was added. Name seeds "
            "without rows, and beside these methods what they are compared with; or record all "
            f"again: alignment-tax record {study.preset.name}, then add these methods."
        )


# --- what is written of a seed --------------------------------------------------------------------
def _write_seed(folder: Path, study: Study, methods: Sequence[str] | None, fresh: bool) -> None:
    """Write a seed's rows into every table; `fresh` drops all that the tables hold."""
    specs = study.specs(methods)
    points, used = study.points(specs), {spec.algorithm for spec in specs}
    tables = {
        "points": points,
        "rounds": rounds_table(study, [name for name in study.preset.algorithms if name in used]),
        "costs": _rows(study, specs, study.cost),
        "kl": forward_kls(study, specs),
        "replies": replies_table(study) if study.end() in specs else pd.DataFrame(),
    }
    write_tables(folder, tables, _pairs_table(study), _items_table(study, specs), fresh)


def _pairs_table(study: Study) -> pd.DataFrame:
    """The held-out pairs of the reward model, and of its judge if there is one."""
    pairs = pd.read_parquet(study.reward.path / "held_out.parquet").assign(seed=study.seed)
    if (judge := base.judge(study)) is None:
        return pairs
    own = pd.read_parquet(judge.path / "held_out.parquet").assign(seed=study.seed)
    return pd.concat([pairs.assign(model="reward_model"), own.assign(model="judge")])


def _items_table(study: Study, specs: Sequence[Spec]) -> pd.DataFrame:
    """Every item of some scored models of a study, in small types."""
    rows = []
    for artifact in map(study.evaluate, specs):
        table = SkillScores.load(artifact.path).items.drop(columns="fingerprint")
        numbers = table.select_dtypes("number").columns.difference(["item"])
        small = table.astype(dict.fromkeys(numbers, "float32"))
        if study.preset.judge is not None:  # of one seed the replies are resampled with the items
            replies = pd.read_parquet(artifact.path / "replies.parquet", columns=list(REPLIES))
            own = replies.astype("float32").reset_index(names="item").melt("item", var_name="slot")
            small = pd.concat([small, own], ignore_index=True)
        rows.append(small.assign(seed=study.seed, key=artifact.key[:16]))
    merged = pd.concat(rows, ignore_index=True).drop_duplicates(["seed", "key", "slot", "item"])
    return merged.astype({"slot": "category", "key": "category", "item": "int32"})


def forward_kls(study: Study, specs: Sequence[Spec]) -> pd.DataFrame:
    """One row for each model that `has_forward_kl`: what names it, forward_kl and `calibration`."""

    def measured(spec: Spec) -> dict[str, Any]:
        found = read_json(study.forward_kl(spec).path / "kl.json")
        more = read_json(study.calibration(spec).path / "calibration.json")
        return {"forward_kl": found["forward_kl"], **more}

    return _rows(study, filter(has_forward_kl, specs), measured)


def _rows(
    study: Study, specs: Iterable[Spec], values: Callable[[Spec], dict[str, Any] | None]
) -> pd.DataFrame:
    """One row for each model that has these values: what names it, and they."""
    found = [(study.point(spec), own) for spec in specs if (own := values(spec)) is not None]
    return pd.DataFrame([{n: point[n] for n in NAMED} | own for point, own in found])


def rounds_table(study: Study, algorithms: Sequence[str] = ("rsf", "rsf_random")) -> pd.DataFrame:
    """What happened in each round of RLHF: rewards of samples, share of finished replies, kept.

    Golds are means over a round's replies (`mean_gold`; NaN for DPO, which keeps its chosen ones
    alone) and over those that were trained on (`kept_gold`; for PPO all).
    """
    rows = []
    for algorithm in algorithms:
        for rounds in range(1, study.preset.algorithms[algorithm].rounds + 1):
            folder = study.artifact(Spec(algorithm, rounds)).path
            row = {"seed": study.seed, "algorithm": algorithm, "rounds": rounds}
            row |= read_json(folder / "stats.json")
            if algorithm == "ppo":  # it keeps no replies, but logs the mean of every iteration
                every = kept = pd.read_json(folder / "log.jsonl", lines=True)["gold"]
            else:
                samples = pd.read_parquet(folder / "samples.parquet", columns=["gold", "chosen"])
                every, kept = samples["gold"], samples.loc[samples["chosen"], "gold"]
            mean = float("nan") if algorithm == "dpo" else float(every.mean())
            rows.append(row | {"mean_gold": mean, "kept_gold": float(kept.mean())})
    return pd.DataFrame(rows)


def _stage_seconds(study: Study) -> dict[str, float]:
    """Wall seconds of each kind of stage of a study, over however many calls, and of all."""
    every = [study.sft, study.reward, *filter(None, [base.judge(study)])]
    for name, config in study.preset.algorithms.items():
        every += [study.artifact(Spec(name, r)) for r in range(1, config.rounds + 1)]
    every += [study.evaluate(spec) for spec in study.specs()]
    metas = pd.DataFrame({artifact.key: artifact.meta for artifact in every}.values())
    seconds = metas.groupby("stage", sort=False)["seconds"].sum().to_dict()
    seconds["all stages"] = metas["seconds"].sum()
    return {str(name): round(float(taken), 1) for name, taken in seconds.items()}


# --- what there is, and no more -----------------------------------------------------------------
class Finished(Store):
    """What a run has made; of what it has not, only scores of theta_0 are made (else LeftOut)."""

    def _make(self, folder: Path, make: Make, meta: Values, parents: Parents) -> Artifact:
        keys = meta["parents"]  # those say whether a machine repeats the recording
        if meta["stage"] == "scores" and keys["policy"] == keys["reference"]:
            return super()._make(folder, make, meta, parents)
        raise LeftOut(meta["describe"])


def finished_points(preset: str, seeds: Sequence[int], root: Path) -> pd.DataFrame:
    """Return the points of every model that a store holds the scores of: columns COLUMNS."""
    rows = []
    for seed in seeds:
        study = Study(preset, seed, Finished(root))
        for spec in study.specs([*catalogue.methods(study.preset)]):
            with contextlib.suppress(LeftOut):
                rows.append(study.point(spec))
    return pd.DataFrame(rows, columns=COLUMNS)


# --- several processes ----------------------------------------------------------------------------
def run_side_by_side(
    preset: str | Preset, seeds: list[int], jobs: int, methods: Sequence[str] | None = None,
    scheduler: str | None = None,
) -> None:  # fmt: skip
    """Make all stages, in `jobs` processes or on a scheduler; errors are raised in the end."""
    first = Study(preset, seeds[0])
    tasks = portions(first.specs(methods), seeds, split=methods is not None)
    total, title = sum(len(specs) for _, specs in tasks), f"{first.preset.name}, {len(seeds)} seeds"
    if scheduler:
        with workers(scheduler) as pool, tqdm(total=total, desc=title, unit="model") as bar:
            given = settings.environment(), _run_some, preset
            work = {pool.submit(there, *given, *task): task for task in tasks}
            for ended in as_completed(work):
                bar.update(len(work[ended][1]))
            for future in work:
                future.result()
        return
    manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
    manager.start(end_with_starter)
    with (
        # threads that wait would otherwise spin, and take the cores from the other processes
        patch.dict(os.environ, OMP_WAIT_POLICY="PASSIVE", TQDM_DISABLE="1"),
        manager,
        processes(jobs) as pool,
        tqdm(total=total, desc=title, unit="model") as bar,
    ):
        finished = manager.Queue()
        running = [pool.submit(_run_some, preset, seed, specs, finished) for seed, specs in tasks]
        while not all(future.done() for future in running) or not finished.empty():
            with contextlib.suppress(queue.Empty):
                bar.set_postfix_str(finished.get(timeout=1), refresh=False)
                bar.update()
    for future in running:
        future.result()


def portions(specs: list[Spec], seeds: list[int], split: bool) -> list[tuple[int, list[Spec]]]:
    """Divide models of several seeds into (seed, models), in the order in which they are begun.

    With `split` every seed's first two models come first (all others wait for them), then the
    rounds of each algorithm together, then at most `PORTION` of a method, to end at one time.
    """
    if not split:
        return [(seed, specs) for seed in seeds]
    groups: dict[tuple[str, str], list[Spec]] = {}
    for spec in specs[2:]:
        groups.setdefault((spec.algorithm, spec.method), []).append(spec)
    chains = [group for (_, method), group in groups.items() if method == "none"]
    others = [group for (_, method), group in groups.items() if method != "none"]
    cut = [g[i : i + PORTION] for g in others for i in range(0, len(g), PORTION)]
    order = [[specs[:2]], chains, cut]
    return [(seed, group) for part in order for seed in seeds for group in part]


#: The study of a process, which keeps its scorer from one portion to the next.
_study = lru_cache(maxsize=1)(Study)


def _run_some(
    preset: str | Preset, seed: int, specs: Sequence[Spec], finished: queue.Queue[str] | None = None
) -> None:
    """Evaluate models of a seed whose theta_0 may be used; report each, if it is asked for."""
    study = _study(preset, seed)

    def make(spec: Spec) -> None:
        # threads decide the last digits of training, not of scores, which would be slower
        torch.set_num_threads(study.preset.threads)
        study.artifact(spec)
        torch.set_num_threads(1)

    make(Spec("sft"))
    check_theta_0(study)  # here, so that no other portion of a refused seed goes on
    for spec in specs:
        make(spec)
        study.evaluate(spec)
        if has_forward_kl(spec):
            study.forward_kl(spec)
            study.calibration(spec)
        if finished is not None:
            finished.put(f"last: seed {seed}, {spec}")
