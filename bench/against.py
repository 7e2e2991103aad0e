"""The whole work, timed in this checkout and in another, in turn: `bench speed --against FOLDER`.

Both are copied first, so that nothing in them changes; stages are made anew in empty folders.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from alignment_tax import settings
from alignment_tax.provenance import git_commit, provenance
from alignment_tax.store import say
from bench import Numbers, python, timed

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
#: Results that are not copied: those of the machine, not of the code.
NOT_COPIED = ("runs", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache")


def in_copy(copy: Path, *arguments: str) -> tuple[float, str]:
    """Run this interpreter on the library of a copy; return the seconds and what it prints."""
    runs = {settings.RUNS_VARIABLE: str(copy / "runs")}
    return timed(lambda: python(arguments, [copy / "lib"], copy, **runs))


def score_model(copy: Path, preset: str) -> float:
    """One evaluation of all skills of the shipped base model."""
    return float(in_copy(copy, "-c", SCORE.format(preset=preset))[1].split()[-1])


def make_run(copy: Path, preset: str) -> float:
    """All chapters, from no stage at all."""
    return in_copy(copy, "-m", "alignment_tax", "run", "--preset", preset)[0]


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
    record = ("-m", "alignment_tax", "record", preset, "--seeds", "0", "--methods")
    in_copy(copy, *record, "rsf")
    return in_copy(copy, *record, "remedies", "--jobs", str(os.cpu_count() or 1))[0]


#: What can be timed, and how often: what takes seconds more often than what takes half an hour.
MEASURES: dict[str, tuple[Callable[[Path, str], float], int]] = {
    "score_model": (score_model, 5),
    **{each.__name__: (each, 1) for each in (make_run, make_test, record_remedies)},
}


def ratios_to(folder: Path, names: Sequence[str], quick: bool = False) -> Numbers:
    """Time some measures here and there, in turn: seconds of each run, and the ratio of medians.

    They stand under "ratios_to_" and the other's commit or name. `quick`: once, on preset smoke.
    """
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
