"""The recorded results: what `alignment-tax record` writes to data/results, and how it is read.

One table holds a row per evaluated model (points.csv), others the items behind it, the RSF rounds
and the reward model's held-out pairs; provenance.json says where they come from. Figures are drawn
from these tables, without a model.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from alignment_tax import presets, settings
from alignment_tax.artifacts import provenance, write_whole
from alignment_tax.presets import Preset
from alignment_tax.skills import SkillScores
from alignment_tax.study import Spec, Study


def record(preset: str, seeds: list[int], jobs: int = 1) -> Path:
    """Run a preset for several seeds and write the tables that the figures are drawn from.

    Resumes: finished stages are loaded. Tables are replaced whole, after every seed, so that an
    interrupted recording leaves a table of finished seeds.

    Args:
        preset: Its name.
        seeds: The seeds, in the order of the tables.
        jobs: Seeds that are run side by side, each in a process of its own.

    Returns:
        The folder with points.csv, items.parquet, rounds.csv, pairs.parquet and provenance.json.
    """
    folder = settings.results_folder() / preset
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[pd.DataFrame]] = {"points": [], "items": [], "rounds": [], "pairs": []}
    started = time.perf_counter()
    if jobs > 1:
        run_side_by_side(preset, seeds, jobs)
    for seed in seeds:
        study = Study(preset, seed)
        points = study.points()
        tables["points"].append(points)
        tables["items"].append(_items_table(study))
        tables["rounds"].append(rounds_table(study, list(study.preset.algorithms)))
        pairs = pd.read_parquet(study.reward.path / "held_out.parquet")
        tables["pairs"].append(pairs.assign(seed=seed))
        for name, rows in tables.items():
            table = pd.concat(rows, ignore_index=True)
            if name in ("items", "pairs"):
                _replace(folder / f"{name}.parquet", table)
            else:
                _replace(folder / f"{name}.csv", table)
        seconds = _stage_seconds(study)
        write_whole(
            folder / "provenance.json",
            json.dumps(
                {
                    **provenance(),
                    "command": f"alignment-tax record {preset} --seeds "
                    + " ".join(str(s) for s in seeds),
                    "preset": presets.as_dict(study.preset),
                    "seeds": seeds[: seeds.index(seed) + 1],
                    "base": study.base.key,
                    "seconds_of_stages_last_seed": seconds,
                    "jobs": jobs,
                    "seconds_of_this_call": round(time.perf_counter() - started, 1),
                },
                indent=2,
            )
            + "\n",
        )
    return folder


def run_side_by_side(preset: str | Preset, seeds: list[int], jobs: int) -> None:
    """Make every stage of several seeds, `jobs` at a time, with one bar over all their models.

    An error in one seed is raised when the others have ended; what they made is kept.
    """
    context = multiprocessing.get_context("spawn")
    first = Study(preset, seeds[0])
    total = len(seeds) * len(first.specs())
    with (
        # threads that wait would otherwise spin, and take the cores from the other processes
        environment(OMP_WAIT_POLICY="PASSIVE", TQDM_DISABLE="1"),
        context.Manager() as manager,
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
        tqdm(total=total, desc=f"{first.preset.name}, {len(seeds)} seeds", unit="model") as bar,
    ):
        finished = manager.Queue()
        running = [pool.submit(_run_seed, preset, seed, finished) for seed in seeds]
        while not all(future.done() for future in running) or not finished.empty():
            try:
                finished.get(timeout=1)
            except queue.Empty:
                continue
            bar.update()
    for future in running:
        future.result()


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


def _run_seed(preset: str | Preset, seed: int, finished: queue.Queue[int]) -> None:
    """Evaluate every model of a seed; report each."""
    study = Study(preset, seed)
    for spec in study.specs():
        study.evaluate(spec)
        finished.put(seed)


def _replace(path: Path, table: pd.DataFrame) -> None:
    """Write a table by rename: after a crash it is the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    if path.suffix == ".csv":
        table.to_csv(temporary, index=False, float_format="%.6g")
    else:
        table.to_parquet(temporary, index=False)
    temporary.replace(path)


def _items_table(study: Study) -> pd.DataFrame:
    """Every item of every scored model of a study, in small types."""
    rows = []
    for spec in study.specs():
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


def rounds_table(study: Study, algorithms: Sequence[str] = ("rsf", "rsf_random")) -> pd.DataFrame:
    """What happened in each round: rewards of samples, share of finished replies, kept."""
    rows = []
    for algorithm in algorithms:
        for rounds in range(1, study.preset.algorithms[algorithm].rounds + 1):
            folder = study.aligned(algorithm, rounds).path
            stats = json.loads((folder / "stats.json").read_text())
            samples = pd.read_parquet(folder / "samples.parquet", columns=["gold", "chosen"])
            gold = {
                "mean_gold": samples["gold"].mean(),
                "kept_gold": samples.loc[samples["chosen"], "gold"].mean(),
            }
            rows.append(
                {"seed": study.seed, "algorithm": algorithm, "rounds": rounds, **stats, **gold}
            )
    return pd.DataFrame(rows)


def _stage_seconds(study: Study) -> dict[str, float]:
    """Wall seconds of each stage of a study, from its artifacts."""
    last = study.preset.rsf.rounds
    seconds = {
        "sft": study.sft.meta["seconds"],
        "reward model": study.reward.meta["seconds"],
        "rsf rounds": sum(study.rsf(r).meta["seconds"] for r in range(1, last + 1)),
        "scores of theta_0": study.evaluate(Spec("sft")).meta["seconds"],
    }
    if study.judge is not None:
        seconds["judge"] = study.judge.meta["seconds"]
    return {name: round(float(value), 1) for name, value in seconds.items()}


@dataclass(frozen=True)
class Recorded:
    """The recorded run of a preset: tables that figures are drawn from, and where they came from.

    `points` has one row per evaluated model, `rounds` one per RSF round, `pairs` one per held-out
    preference pair (seed, kind, margin); `provenance` is the content of provenance.json.
    """

    points: pd.DataFrame
    rounds: pd.DataFrame
    pairs: pd.DataFrame
    provenance: dict[str, Any]

    def curve(self, method: str, seed: int, reward: str = "reward") -> np.ndarray:
        """(reward, skill) of every point of a method for one seed, from theta_0 on, shape (n, 2).

        `method` is average, or early_stopping: the RSF rounds as trained.
        """
        points = self.points[self.points["seed"] == seed]
        if method == "early_stopping":
            start = points[points["algorithm"] == "sft"]
            rows = points[(points["algorithm"] == "rsf") & (points["method"] == "none")]
            rows = pd.concat([start, rows.sort_values("rounds")])
        else:
            rows = points[(points["algorithm"] == "rsf") & (points["method"] == method)]
            rows = rows.sort_values("alpha")
        if rows.empty:
            raise ValueError(f"The recorded run has no points of method {method!r}, seed {seed}.")
        return rows[[reward, "skill"]].to_numpy(dtype=float)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the run."""
        return sorted(int(seed) for seed in self.points["seed"].unique())


def recorded(preset: str = "tiny") -> Recorded:
    """Read the recorded run of a preset from data/results.

    Raises:
        FileNotFoundError: there is none; names the command that makes it.
    """
    folder = settings.results_folder() / preset
    if not (folder / "points.csv").is_file():
        raise FileNotFoundError(
            f"There is no recorded run of {preset!r} in {folder}. Make it with: "
            f"alignment-tax record {preset}"
        )
    return Recorded(
        pd.read_csv(folder / "points.csv"),
        pd.read_csv(folder / "rounds.csv"),
        pd.read_parquet(folder / "pairs.parquet"),
        json.loads((folder / "provenance.json").read_text()),
    )


def recorded_items(preset: str = "tiny") -> pd.DataFrame:
    """Read every item of every recorded model: seed, key (as in points.csv), slot, item, counts."""
    return pd.read_parquet(settings.results_folder() / preset / "items.parquet")
