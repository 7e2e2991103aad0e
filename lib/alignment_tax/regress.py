"""What `alignment-tax regress` does: run chapters for several seeds, and say what has changed.

Their stages are in a folder of this very code, machine and versions: what is finished stays.
"""

import contextlib
import json
import math
import os
import subprocess
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
from tqdm import tqdm

from alignment_tax import labels, notebooks, presets, settings
from alignment_tax.elsewhere import CHILD, environment, fresh_python, run_line, workers
from alignment_tax.notebooks import Chapter, CourseError, find_chapters, find_figures, read_notebook
from alignment_tax.pipeline.record import finished_points
from alignment_tax.pipeline.recorded_only import TABLES
from alignment_tax.provenance import maker, provenance
from alignment_tax.results.recorded import read_table, recorded
from alignment_tax.results.values import CompareError, read_records, read_run, values
from alignment_tax.stats import claims, drift
from alignment_tax.stats.drift import Change, Held
from alignment_tax.store import write_whole

PAGE, JUNIT, TABLE = "regress.html", "junit.xml", "changes.csv"
ABOUT, POINTS = "regress.json", "points.csv"
#: A chapter may have to make the stages of all: the limit of a cell, in times what all take.
PATIENCE, LEAST_MINUTES = 3, 10


@dataclass(frozen=True)
class Asked:
    """What is run and compared."""

    preset: str
    seeds: tuple[int, ...]
    out: Path
    notebooks: Path
    only: tuple[str, ...] = ()
    jobs: int | None = None
    baseline: Path | None = None  # an earlier folder
    limit: float | None = None  # minutes a cell
    scheduler: str | None = None  # for `elsewhere.workers`


@dataclass(frozen=True)
class Found:
    """What came of it: changes of values and claims, failed chapters, and what was compared."""

    asked: Asked
    changes: list[Change]
    failed: list[dict[str, Any]]
    then: dict[str, Any]  # provenance
    now: dict[str, Any]
    paired: list[int]  # seeds of the recorded theta_0

    @property
    def moved(self) -> list[Change]:
        """What left its band."""
        return [each for each in self.changes if each.moved]

    @property
    def turned(self) -> list[Change]:
        """Claims of another verdict, whether they moved or not."""
        return [each for each in self.changes if each.turned]

    @property
    def judged(self) -> int:
        """How many values and claims there was something to hold against."""
        return sum(each.how != drift.NONE for each in self.changes)


def regress(asked: Asked) -> Found:
    """Run, compare and write the report (CourseError, UnknownPreset: before anything is run)."""
    chapters = notebooks.select_chapters(find_chapters(asked.notebooks), asked.only)
    notebooks.check_parameters(chapters)
    presets.get(asked.preset)
    if folder := asked.baseline:
        path = folder / ABOUT
        held = json.loads(path.read_text("utf-8"))["preset"] if path.is_file() else None
        if held != asked.preset or not (folder / POINTS).is_file():
            text = f"{folder} holds no finished `regress` of preset {asked.preset}"
            raise CourseError(f"{text}: give --baseline the --out folder of one.")
    settings.writable(asked.out, "Choose another folder with --out.")
    about = {"preset": asked.preset, "seeds": asked.seeds, **provenance()}
    write_whole(asked.out / ABOUT, json.dumps(about, indent=2) + "\n")
    stages = asked.out / f"stages-{maker()[:12]}"
    seeds = recorded().seeds if asked.preset == TABLES else []
    run_seeds(asked, chapters, stages, seeds)
    points = finished_points(asked.preset, asked.seeds, stages / "artifacts")
    write_whole(asked.out / POINTS, points.to_csv(index=False, float_format="%.6g"))
    found = compared(asked, chapters, seeds)
    write_report(found, chapters)
    return found


def run_seeds(
    asked: Asked, chapters: Sequence[Chapter], stages: Path, recorded_seeds: Sequence[int]
) -> None:
    """Run the chapters of every seed, recorded ones too, a process each with a run.log."""
    runs = [(asked.preset, seed) for seed in asked.seeds]
    runs += [(presets.RECORDED, seed) for seed in recorded_seeds]
    seeds, jobs = len(asked.seeds), asked.jobs or os.cpu_count() or 1
    # a last seed alone would leave cores idle: five seeds go by three and two on two cores
    width = math.ceil(seeds / max(1, seeds // jobs))
    usual = [each.minutes.get(asked.preset, 0.0) for each in find_chapters(asked.notebooks)]
    limit = asked.limit or max(LEAST_MINUTES, PATIENCE * sum(usual))
    words = ["--only", *(c.path.name for c in chapters), "--keep", "--limit", f"{limit:g}"]
    own = environment() | {settings.RUNS_VARIABLE: str(stages)}
    chosen = {chapter.number for chapter in chapters}
    read, write = os.pipe()
    with (
        tqdm(total=len(chapters) * len(runs), unit="chapter", desc=asked.preset) as bar,
        os.fdopen(read), os.fdopen(write, "w") as lifeline,
        workers(asked.scheduler) if asked.scheduler else ThreadPoolExecutor(width) as pool,
    ):  # fmt: skip
        work = {}
        for preset, seed in runs:
            folder = asked.out / f"{preset}-seed{seed}"
            line = ["run", "--preset", preset, "--seed", str(seed), "--out", str(folder), *words]
            line += ["--jobs", str(max(1, jobs // seeds))]
            given: list[Any] = [asked.notebooks, line, own, folder]
            given += [] if asked.scheduler else [read]
            work[pool.submit(run_line, *given)] = folder
        ahead = set(work)
        try:
            while ahead:
                _, ahead = wait(ahead, timeout=1)
                bar.update(sum(_ended(folder, chosen) for folder in work.values()) - bar.n)
        except BaseException:
            lifeline.close()
            for each in work:
                each.cancel()
            raise
    if refused := [text for each in work if (text := each.result())]:
        raise CourseError(refused[0])


def _ended(folder: Path, chosen: Collection[str]) -> int:
    with contextlib.suppress(CompareError):
        ran = [c["number"] for c in read_run(folder)["chapters"] if c["status"] != "not run"]
        return sum(number in chosen for number in ran)
    return 0


def run_elsewhere(asked: Asked, pins: Path | None) -> int:
    """Do all of it in a fresh environment (see `fresh_python`); return the exit code."""
    python = fresh_python(asked.out, pins)
    words = ["--preset", asked.preset, "--out", asked.out, "--seeds", *asked.seeds]
    words += ["--only", *asked.only] if asked.only else []
    for name in ("jobs", "baseline", "limit", "scheduler"):
        if value := getattr(asked, name):
            words += [f"--{name}", value]
    command = [str(python), "-c", CHILD, str(asked.notebooks), "regress", *map(str, words)]
    # its input is never ended, so that it is not either
    with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE) as child:
        return child.wait()


def read_runs(folder: Path, preset: str, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return what `alignment-tax run` wrote of each seed."""
    return {seed: read_run(folder / f"{preset}-seed{seed}") for seed in seeds}


def recording(folder: Path, chapters: Sequence[Chapter], seeds: Sequence[int]) -> dict[str, Held]:
    """Return what the recording says: its tables of every seed, the kept outputs of seed 0."""
    found = drift.by_place(read_runs(folder, presets.RECORDED, seeds), tables=True)
    kept = [{"number": c.number, "records": read_records(read_notebook(c.path))} for c in chapters]
    for place, value in values({"chapters": kept}):
        old = found.get(place, Held({}))
        found[place] = Held({**old.values, 0: value}, old.tables)
    return found


def compared(asked: Asked, chapters: Sequence[Chapter], seeds: Sequence[int]) -> Found:
    """Hold the finished runs of a folder against the recording, and else against the baseline."""
    runs = read_runs(asked.out, asked.preset, asked.seeds)
    now, points = drift.by_place(runs), read_table(asked.out / POINTS)
    sides: list[tuple[dict[str, Held], pd.DataFrame, dict[str, Any]]] = []
    changes: list[Change] = []
    if seeds:
        kept = recorded()
        sides.append((recording(asked.out, chapters, seeds), kept.points, kept.provenance))
        changes += [each for each in drift.read_anew(kept.points, claims.read()) if each.moved]
    if asked.baseline is not None:
        about = json.loads((asked.baseline / ABOUT).read_text("utf-8"))
        old = drift.by_place(read_runs(asked.baseline, asked.preset, about["seeds"]))
        sides.append((old, read_table(asked.baseline / POINTS), about))
    chosen, paired = {chapter.number for chapter in chapters}, set[int]()
    ran = [{"seed": seed, **each} for seed, run in runs.items() for each in run["chapters"]]
    ran = [each for each in ran if each["number"] in chosen]
    ended = {each["number"] for each in ran if each["status"] == "ok"}
    for then, of_then, _ in sides:
        same = drift.same_starts(of_then, points)
        paired |= same
        for place in [each for each in then if each[:2] in ended]:
            changes.append(drift.judge(place, then[place], now.pop(place, Held({})), same))
        if of_then is sides[0][1]:
            changes += drift.claimed(of_then, points, same)
    changes += [drift.judge(place, Held({}), each, ()) for place, each in now.items()]
    failed = [each for each in ran if each["status"] != "ok"]
    then = sides[0][2] if sides else {}
    return Found(asked, drift.settled(changes), failed, then, provenance(), sorted(paired))


def write_report(found: Found, chapters: Sequence[Chapter]) -> None:
    """Write one HTML page that needs nothing from elsewhere, and the same as JUnit XML."""
    out, first = found.asked.out, found.asked.seeds[0]
    figures = {}
    for chapter in chapters:
        path = out / f"{found.asked.preset}-seed{first}" / chapter.path.name
        sides = [each for each in (chapter.path, path) if each.is_file()]
        figures[chapter.name] = [find_figures(read_notebook(each)) for each in sides]
    rows = sorted(found.changes, key=lambda e: (not e.moved, -abs(e.errors or 0), e.chapter))
    write_whole(out / PAGE, labels.page("regress", "html", found=found, rows=rows, figures=figures))
    write_whole(out / JUNIT, junit(found))
    table = pd.DataFrame([asdict(each) for each in rows], columns=[f.name for f in fields(Change)])
    write_whole(out / TABLE, table.to_csv(index=False))


def junit(found: Found) -> str:
    """Return the report as JUnit XML: a case a value, a claim and a failed chapter."""
    counts = {"tests": len(found.changes) + len(found.failed), "failures": len(found.moved)}
    counts |= {"errors": len(found.failed), "skipped": len(found.changes) - found.judged}
    suite = ElementTree.Element("testsuite", name="alignment-tax regress")
    suite.attrib.update({name: str(number) for name, number in counts.items()})
    for each in found.changes:
        case = ElementTree.SubElement(suite, "testcase", classname=each.chapter, name=each.name)
        if each.moved:
            ElementTree.SubElement(case, "failure", message=told(each))
        elif each.how == drift.NONE:
            ElementTree.SubElement(case, "skipped", message="nothing to compare with")
    for chapter in found.failed:
        name = f"seed {chapter['seed']}"
        case = ElementTree.SubElement(suite, "testcase", classname=chapter["number"], name=name)
        ElementTree.SubElement(case, "error", message=f"{chapter['cell']} {chapter['error']}")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def told(each: Change) -> str:
    """Return a change in a line."""
    errors = "" if math.isnan(each.errors) else f", {each.errors:+.1f} standard errors"
    verdict = f", {each.was} -> {each.verdict}" if each.turned else ""
    values = " -> ".join(map(labels.value_text, (each.then, each.now)))
    return f"{values}{errors} ({each.how}){verdict}"


def summary(found: Found) -> str:
    """Return what a terminal is told: verdicts that changed, what moved, what failed."""
    lines = [f"Verdicts that changed: {len(found.turned)}."]
    lines += [f"    {e.chapter} {e.name}: {told(e)}" for e in found.turned]
    of = f"{found.judged} judged, {len(found.changes) - found.judged} not judged"
    lines += [f"Values and claims that moved: {len(found.moved)} of {len(found.changes)} ({of})."]
    lines += [f"    {e.chapter} {e.name}: {told(e)}" for e in found.moved if not e.turned]
    for each in found.failed:
        where = f"{each['number']} {each['title']}, seed {each['seed']}"
        lines += [f"FAILED {where}, {each['cell']}: {each['error']}"]
    return "\n".join([*lines, f"The report is {found.asked.out / PAGE}."])
