"""The recorded results: what `alignment-tax record` writes to data/results, and how it is read.

One table holds a row per evaluated model (points.csv), others the items behind it, the rounds of
RLHF and the reward model's held-out pairs, costs.csv what training under remedies took, kl.csv how
far a model is from theta_0 in the other direction (`Study.forward_kl`); provenance.json says where
they come from. Figures are drawn from these tables, without a model.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from alignment_tax import presets, settings
from alignment_tax.pipeline.stages import base
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import Preset
from alignment_tax.results.recorded import (
    IDENTITY,
    TABLES,
    read_calls,
    read_table,
)
from alignment_tax.skills import SkillScores
from alignment_tax.spec import (
    COLUMNS,
    Spec,
    block_count,
    has_forward_kl,
)
from alignment_tax.store import ArtifactError, provenance, say, write_whole

#: Most models that one process takes at a time.
PORTION = 4


class RecordError(ArtifactError):
    """What is recorded already does not fit what is to be added; the message says what to do."""


def record(
    preset: str | Preset, seeds: list[int], jobs: int = 1, methods: Sequence[str] | None = None
) -> Path:
    """Run a preset for several seeds and write the tables that the figures are drawn from.

    Resumes: finished stages are loaded. Tables are replaced whole, after every seed, so that an
    interrupted recording leaves a table of finished seeds.

    Args:
        preset: Its name, or a `Preset`.
        seeds: The seeds, in the order of the tables.
        jobs: Processes that work side by side; more than there are cores are not started.
        methods: Words that `Study.specs` takes: what is recorded, beside theta_0. Their rows are
            merged into the tables that exist: rows of the same models are replaced, all others
            kept. None records the preset's algorithms into new tables.

    Returns:
        The folder with points.csv, items.parquet, rounds.csv, pairs.parquet, costs.csv (what
        training under a remedy took), kl.csv and provenance.json (a list, one entry for each call).

    Raises:
        UnknownStage: an unknown method, before anything runs.
        RecordError: stored rows of a seed come from another theta_0, before anything is trained
            from it.
    """
    started = time.perf_counter()
    first = Study(preset, seeds[0])
    first.specs(methods)
    folder = settings.results_folder() / first.preset.name
    folder.mkdir(parents=True, exist_ok=True)
    calls = [] if methods is None else read_calls(folder)
    if methods is None:
        _warn_of_lost_rows(folder, first)
    else:
        for seed in seeds:
            check_same_start(read_table(folder / "points.csv"), Study(preset, seed))
    jobs = min(jobs, os.cpu_count() or 1)
    if jobs > 1:
        run_side_by_side(preset, seeds, jobs, methods)
    for number, seed in enumerate(seeds, start=1):
        study = Study(preset, seed)
        _write_seed(folder, study, methods, fresh=methods is None and number == 1)
        entry = {
            **provenance(),
            "command": _command(first.preset.name, seeds, methods),
            "preset": presets.as_dict(study.preset),
            "seeds": seeds[:number],
            "methods": None if methods is None else list(methods),
            "base": study.base.key,
            "jobs": jobs,
            "seconds_of_this_call": round(time.perf_counter() - started, 1),
        }
        if methods is None:
            entry["seconds_of_stages_last_seed"] = _stage_seconds(study)
        write_whole(folder / "provenance.json", json.dumps([*calls, entry], indent=2) + "\n")
        left = " ".join(map(str, seeds[number:])) or "none"
        say(f"Recorded seed {seed} in {folder}. Seeds left: {left}.")
    return folder


def add(source: Path, preset: str) -> list[int]:
    """Add the tables of a run that was recorded elsewhere to those of a preset here.

    Args:
        source: A folder that `record` wrote, say on another machine.
        preset: The preset, which must be theirs.

    Returns:
        The seeds whose rows were added or replaced.

    Raises:
        RecordError: `source` holds no tables, those of another preset, or rows of a seed that is
            stored here with another theta_0; nothing is written then.
    """
    folder = settings.results_folder() / preset
    fresh = {name: read_table(source / f"{name}.csv") for name in TABLES}
    points, calls = fresh["points"], read_calls(source)
    pairs, items = source / "pairs.parquet", source / "items.parquet"
    if points.empty or not calls or not (pairs.is_file() and items.is_file()):
        raise RecordError(
            f"{source} holds no recorded run: it needs points.csv, items.parquet, pairs.parquet "
            "and provenance.json, as alignment-tax record writes them."
        )
    if (studies := sorted(set(points["study"]))) != [preset]:
        raise RecordError(
            f"{source} was recorded with preset {', '.join(studies)}, not {preset}: name that one."
        )
    stored = read_table(folder / "points.csv")
    seeds = sorted(int(seed) for seed in set(points["seed"]))
    for seed in seeds:
        theirs = points[(points["seed"] == seed) & (points["algorithm"] == "sft")]
        if theirs.empty:
            raise RecordError(f"{source} has no theta_0 (algorithm sft) of seed {seed}.")
        if changed := _changes(stored, theirs.iloc[0].to_dict()):
            raise RecordError(
                f"Seed {seed} is stored here with another theta_0 ({changed}), so its rows cannot "
                f"be compared with those in {source}. Nothing was added. Record a seed there that "
                "has no rows here."
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, fresh, pd.read_parquet(pairs), pd.read_parquet(items))
    own = read_calls(folder)
    every = own + [call for call in calls if call not in own]
    write_whole(folder / "provenance.json", json.dumps(every, indent=2) + "\n")
    return seeds


def _changes(stored: pd.DataFrame, theta_0: Mapping[Any, Any]) -> str:
    """Say in which columns the stored theta_0 of a seed is another one; "" if none is stored."""
    if stored.empty:
        return ""
    rows = stored[(stored["seed"] == theta_0["seed"]) & (stored["algorithm"] == "sft")]
    if rows.empty:
        return ""
    then = rows.iloc[0].to_dict()
    changed = [name for name in COLUMNS if written(theta_0[name]) != written(then.get(name))]
    return ", ".join(f"{n} {written(then.get(n))} -> {written(theta_0[n])}" for n in changed[:3])


def check_same_start(points: pd.DataFrame, study: Study) -> None:
    """Refuse to add to stored points of a seed that come from another theta_0 (RecordError).

    Rows of one seed are compared with each other, so they must start from the same model and be
    scored alike: the same key, and the same scores to the precision that is written.
    """
    if points.empty or study.seed not in set(points["seed"]):
        return
    if changed := _changes(points, study.point(Spec("sft"))):
        raise RecordError(
            f"The stored rows of {study} come from another theta_0 than this machine and code make "
            f"({changed}), so a comparison with new rows would not be paired. Nothing was added. "
            "Another processor or release is enough to cause this. Name seeds that have no rows "
            "yet, and beside these methods what they are compared with; or record everything "
            f"again: alignment-tax record {study.preset.name}, then add these methods."
        )


def written(value: object) -> str:
    """Return a value as it stands in a table: nothing for a missing one, six digits of a number."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, (int, float, np.number)):
        return f"{float(value):.6g}"
    return str(value)


def merge_rows(
    stored: pd.DataFrame, fresh: pd.DataFrame, identity: Sequence[str] = tuple(IDENTITY)
) -> pd.DataFrame:
    """Return stored rows and fresh ones, by seed; a fresh one takes the place of its like.

    Other ratios of as many blocks, of the same mean to two decimals (`searches.hma_released` holds
    it no better), are the same model found anew.

    Args:
        stored, fresh: Tables with the columns of `identity`, `stored` perhaps empty.
        identity: Columns that name a row.
    """

    def by_name(table: pd.DataFrame) -> dict[tuple[str, ...], dict[Any, Any]]:
        rows = table.to_dict("records")
        return {identified(row, identity): row for row in rows}

    if stored.empty:
        return fresh
    rows = by_name(stored) | by_name(fresh)  # a row that is replaced keeps its place
    # a column that only one of the two has is not lost: rounds of PPO say other things than RSF's
    columns = list(dict.fromkeys([*stored.columns, *fresh.columns]))
    table = pd.DataFrame(list(rows.values()), columns=columns)
    return table.sort_values("seed", kind="stable", ignore_index=True)


def identified(row: Mapping[Any, Any], identity: Sequence[str]) -> tuple[str, ...]:
    """Return what names a row: ratios are named by how many and by their mean, to two decimals."""
    names = {column: written(row[column]) for column in identity}
    if blocks := block_count(row.get("part")):
        names |= {"part": f"K={blocks}", "alpha": f"{row['alpha']:.2f}"}
    return tuple(names[column] for column in identity)


def _write_seed(folder: Path, study: Study, methods: Sequence[str] | None, fresh: bool) -> None:
    """Write a seed's rows into every table; `fresh` drops all that the tables hold."""
    specs = study.specs(methods)
    points = study.points(specs)
    costs = [
        {**{name: row[name] for name in IDENTITY}, **cost}
        for spec, row in zip(specs, points.to_dict("records"), strict=True)
        if (cost := study.cost(spec)) is not None
    ]
    used = {spec.algorithm for spec in specs}
    trained = [name for name in study.preset.algorithms if name in used]
    tables = {
        "points": points,
        "rounds": rounds_table(study, trained),
        "costs": pd.DataFrame(costs),
        "kl": forward_kls(study, specs),
    }
    pairs = pd.read_parquet(study.reward.path / "held_out.parquet").assign(seed=study.seed)
    write_tables(folder, tables, pairs, _items_table(study, specs), fresh)


def write_tables(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    pairs: pd.DataFrame,
    items: pd.DataFrame,
    fresh: bool = False,
) -> None:
    """Write rows into the tables of a folder, beside those that are there.

    Args:
        folder: Of a recorded run, perhaps empty.
        tables: Rows by the name of their table, a key of `TABLES`; points must be among them.
        pairs: Held-out pairs; those of the same seeds are replaced.
        items: Items of the models in points; items of models without a point are dropped.
        fresh: Whether to drop all that the tables hold.
    """
    written: dict[Path, pd.DataFrame] = {}
    merged = tables["points"]
    for name, rows in tables.items():
        path = folder / f"{name}.csv"
        if fresh and rows.empty:
            path.unlink(missing_ok=True)
        if rows.empty:
            continue
        table = rows if fresh else merge_rows(read_table(path), rows, TABLES[name])
        written[path] = table
        merged = table if name == "points" else merged
    if not fresh:
        seeds = set(pairs["seed"])
        pairs = _beside(folder / "pairs.parquet", pairs, lambda old: ~old["seed"].isin(seeds))
        wanted = set(zip(merged["seed"], merged["key"], strict=True))
        new = set(zip(items["seed"], items["key"], strict=True))
        kept = wanted - new

        def still_wanted(old: pd.DataFrame) -> list[bool]:
            return [pair in kept for pair in zip(old["seed"], old["key"], strict=True)]

        items = _beside(folder / "items.parquet", items, still_wanted)
    # points last: a call that is killed in between leaves items without a point, never the reverse
    written = {folder / "items.parquet": items, folder / "pairs.parquet": pairs, **written}
    for path in sorted(written, key=lambda each: each.name == "points.csv"):
        _replace(path, written[path])


def _beside(path: Path, rows: pd.DataFrame, keep: Callable[[pd.DataFrame], Any]) -> pd.DataFrame:
    """Return the rows of a stored parquet table that are kept, and the new ones behind them."""
    if not path.is_file():
        return rows
    stored = pd.read_parquet(path)
    text = dict.fromkeys(stored.select_dtypes("category").columns, "object")
    both = [stored[keep(stored)].astype(text), rows.astype(text)]
    return pd.concat(both, ignore_index=True).astype(dict.fromkeys(text, "category"))


def _warn_of_lost_rows(folder: Path, study: Study) -> None:
    """Say which methods a recording into new tables will drop."""
    points = read_table(folder / "points.csv")
    if points.empty:
        return
    lost = sorted(set(points["method"]) - {spec.method for spec in study.specs()})
    if lost:
        say(
            f"This recording replaces the tables in {folder}, and their rows of {', '.join(lost)} "
            "with them. Add these again afterwards, with --methods."
        )


def _command(preset: str, seeds: Sequence[int], methods: Sequence[str] | None) -> str:
    """Return the command line of a recording."""
    words = ["alignment-tax record", preset]
    if methods is not None:
        words += ["--methods", *methods]
    return " ".join([*words, "--seeds", *map(str, seeds)])


def run_side_by_side(
    preset: str | Preset, seeds: list[int], jobs: int, methods: Sequence[str] | None = None
) -> None:
    """Make every stage of several seeds, `jobs` at a time, with one bar over all their models.

    Without `methods` a process takes a seed, with them one method of one seed. An error in one is
    raised when the others have ended; what they made is kept.
    """
    context = multiprocessing.get_context("spawn")
    first = Study(preset, seeds[0])
    tasks = portions(first.specs(methods), seeds, split=methods is not None)
    with (
        # threads that wait would otherwise spin, and take the cores from the other processes
        environment(OMP_WAIT_POLICY="PASSIVE", TQDM_DISABLE="1"),
        context.Manager() as manager,
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
        tqdm(
            total=sum(len(specs) for _, specs in tasks),
            desc=f"{first.preset.name}, {len(seeds)} seeds",
            unit="model",
        ) as bar,
    ):
        finished = manager.Queue()
        running = [pool.submit(_run_some, preset, seed, specs, finished) for seed, specs in tasks]
        while not all(future.done() for future in running) or not finished.empty():
            try:
                bar.set_postfix_str(finished.get(timeout=1), refresh=False)
            except queue.Empty:
                continue
            bar.update()
    for future in running:
        future.result()


def portions(
    specs: Sequence[Spec], seeds: Sequence[int], split: bool
) -> list[tuple[int, list[Spec]]]:
    """Divide models of several seeds into (seed, models), in the order in which they are begun.

    With `split` a portion is at most `PORTION` models of one method of one seed, so that many
    processes end together. Every seed's first two models come first, one seed a process: they need
    theta_0 and the whole of RSF, for which all others would wait.
    """
    if not split:
        return [(seed, list(specs)) for seed in seeds]
    groups: dict[tuple[str, str], list[Spec]] = {}
    for spec in specs[2:]:
        groups.setdefault((spec.algorithm, spec.method), []).append(spec)
    start = [(seed, list(specs[:2])) for seed in seeds]
    cut = [g[i : i + PORTION] for g in groups.values() for i in range(0, len(g), PORTION)]
    return start + [(seed, group) for seed in seeds for group in cut]


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _study(preset: str | Preset, seed: int) -> Study:
    """Return the study of a process, which keeps its scorer from one portion to the next."""
    return Study(preset, seed)


def _run_some(
    preset: str | Preset, seed: int, specs: Sequence[Spec], finished: queue.Queue[str]
) -> None:
    """Evaluate models of a seed; report each.

    Training takes the preset's threads, whose number decides its last digits. Scores do not depend
    on it, and processes side by side that wait for each other's threads are several times slower.
    """
    study = _study(preset, seed)
    for spec in specs:
        study.artifact(spec)
        with one_thread():
            study.evaluate(spec)
            if has_forward_kl(spec):
                study.forward_kl(spec)
        finished.put(f"last: seed {seed}, {spec}")


def _replace(path: Path, table: pd.DataFrame) -> None:
    """Write a table by rename: after a crash it is the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    if path.suffix == ".csv":
        table.to_csv(temporary, index=False, float_format="%.6g")
    else:
        table.to_parquet(temporary, index=False)
    temporary.replace(path)


def _items_table(study: Study, specs: Sequence[Spec]) -> pd.DataFrame:
    """Every item of some scored models of a study, in small types."""
    rows = []
    for spec in specs:
        artifact = study.evaluate(spec)
        table = SkillScores.load(artifact.path).items.drop(columns="fingerprint")
        numbers = table.select_dtypes("number").columns.difference(["item"])
        rows.append(
            table.astype(dict.fromkeys(numbers, "float32")).assign(
                seed=study.seed, key=artifact.key[:16]
            )
        )
    merged = pd.concat(rows, ignore_index=True).drop_duplicates(["seed", "key", "slot", "item"])
    return merged.astype({"slot": "category", "key": "category", "item": "int32", "seed": "int16"})


def forward_kls(study: Study, specs: Sequence[Spec]) -> pd.DataFrame:
    """One row for each model that `has_forward_kl`: what names it, and forward_kl (nats)."""
    rows = []
    for spec in filter(has_forward_kl, specs):
        found = json.loads((study.forward_kl(spec).path / "kl.json").read_text())
        named = {name: value for name, value in study.point(spec).items() if name in IDENTITY}
        rows.append({**named, "forward_kl": found["forward_kl"]})
    return pd.DataFrame(rows)


def rounds_table(study: Study, algorithms: Sequence[str] = ("rsf", "rsf_random")) -> pd.DataFrame:
    """What happened in each round of RLHF: rewards of samples, share of finished replies, kept.

    Golds are means over all replies of the round (`mean_gold`) and over those that were trained on
    (`kept_gold`). DPO keeps its chosen replies alone, so it has no mean over all; PPO keeps none,
    but logs both means in every iteration, and trains on all. What is not known is NaN.
    """
    rows = []
    for algorithm in algorithms:
        for rounds in range(1, study.preset.algorithms[algorithm].rounds + 1):
            folder = study.aligned(algorithm, rounds).path
            stats = json.loads((folder / "stats.json").read_text())
            row = {"seed": study.seed, "algorithm": algorithm, "rounds": rounds, **stats}
            rows.append(row | _golds_of_round(algorithm, folder))
    return pd.DataFrame(rows)


def _golds_of_round(algorithm: str, folder: Path) -> dict[str, float]:
    """Return mean_gold and kept_gold of a round that is kept in `folder`."""
    if algorithm == "ppo":
        golds = pd.read_json(folder / "log.jsonl", lines=True)["gold"]
        return {"mean_gold": float(golds.mean()), "kept_gold": float(golds.mean())}
    samples = pd.read_parquet(folder / "samples.parquet", columns=["gold", "chosen"])
    kept = float(samples.loc[samples["chosen"], "gold"].mean())
    # the pairs of DPO are best against worst: the chosen replies are not all
    every = float("nan") if algorithm == "dpo" else float(samples["gold"].mean())
    return {"mean_gold": every, "kept_gold": kept}


def _stage_seconds(study: Study) -> dict[str, float]:
    """Wall seconds of each stage of a study, from its artifacts, over however many calls."""
    last = study.preset.rsf.rounds
    seconds = {
        "sft": study.sft.meta["seconds"],
        "reward model": study.reward.meta["seconds"],
        "rsf rounds": sum(study.rsf(r).meta["seconds"] for r in range(1, last + 1)),
        "scores of theta_0": study.evaluate(Spec("sft")).meta["seconds"],
    }
    judge = base.judge(study)
    if judge is not None:
        seconds["judge"] = judge.meta["seconds"]
    trained = [study.sft, study.reward, *([judge] if judge else [])]
    rounds = [
        study.aligned(a, r)
        for a in study.preset.algorithms
        for r in range(1, study.preset.algorithms[a].rounds + 1)
    ]
    scored = [study.evaluate(spec) for spec in study.specs()]
    every = {artifact.key: artifact.meta["seconds"] for artifact in (*trained, *rounds, *scored)}
    seconds["all stages"] = sum(every.values())
    return {name: round(float(value), 1) for name, value in seconds.items()}
