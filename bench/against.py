"""The whole work, timed in this checkout and in another, in turn: `bench speed --against FOLDER`.

Both are copied first, so that nothing in them changes; stages are made anew in empty folders. Each
measure can be run alone, since some take half an hour: `--only score_model`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alignment_tax import settings
from alignment_tax.provenance import git_commit, provenance
from alignment_tax.store import say

#: Scores the shipped base on all skills of `tiny` and prints the seconds; the other checkout may
#: have its modules elsewhere.
SCORE = """
import time, torch
try:
    from alignment_tax.pipeline.study import Study
except ImportError:
    from alignment_tax.study import Study
from alignment_tax import models, settings
study = Study({preset!r})
torch.set_num_threads(study.preset.threads)
policy, tokenizer = models.load_policy(settings.base_folder(), study.preset.dtype)
scorer = study.scorer
started = time.perf_counter()
scorer.score(policy, tokenizer)
print(time.perf_counter() - started)
"""
#: Results that are not copied: those of the machine, not of the code.
NOT_COPIED = ("runs", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache")


def python(copy: Path, *arguments: str) -> str:
    """Run this interpreter on the library of a copy; return what it prints."""
    runs = copy / "runs"
    environment = {"PYTHONPATH": str(copy / "lib"), settings.RUNS_VARIABLE: str(runs)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)[:200]} failed in a copy of {copy.name}.")
    return done.stdout


def course(copy: Path, *arguments: str) -> str:
    """Run the command line of a copy."""
    there = copy / "lib" / "alignment_tax" / "__main__.py"
    name = "alignment_tax" if there.is_file() else "alignment_tax.course"
    return python(copy, "-m", name, *arguments)


def timed(work: Callable[[], object]) -> float:
    """Return the wall seconds that work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def score_model(copy: Path, preset: str) -> float:
    """One evaluation of all skills of the shipped base model."""
    return float(python(copy, "-c", SCORE.format(preset=preset)).split()[-1])


def make_run(copy: Path, preset: str) -> float:
    """All chapters, from no stage at all."""
    return timed(lambda: course(copy, "run", "--preset", preset))


def make_test(copy: Path, preset: str) -> float:
    """Style, types and tests as in `make test`, with the environment of this interpreter."""
    venv = Path(sys.prefix)
    ready = [flag for name in ("run", "test") for flag in ("-o", str(venv / f".ready-to-{name}"))]
    environment = {**os.environ, "PYTHONPATH": str(copy / "lib")}
    command = ["make", "test", f"VENV={venv}", *ready]
    return timed(lambda: subprocess.run(command, cwd=copy, env=environment, check=True))


def record_remedies(copy: Path, preset: str) -> float:
    """All strengths of all remedies of one seed, once theta_0 and RSF are there."""
    shutil.rmtree(copy / "data" / "results" / preset, ignore_errors=True)
    options = ("--seeds", "0", "--jobs", str(os.cpu_count() or 1))
    course(copy, "record", preset, "--methods", "rsf", *options[:2])
    return timed(lambda: course(copy, "record", preset, "--methods", "remedies", *options))


#: What can be timed, and how often: what takes seconds more often than what takes half an hour.
MEASURES: dict[str, tuple[Callable[[Path, str], float], int]] = {
    "score_model": (score_model, 5),
    "make_run": (make_run, 1),
    "make_test": (make_test, 1),
    "record_remedies": (record_remedies, 1),
}


def name_of(folder: Path) -> str:
    """Return the short commit of a checkout, or the name of a folder that is none."""
    return (git_commit(folder) or folder.resolve().name)[:7]


def ratios_to(folder: Path, names: Sequence[str], quick: bool = False) -> dict[str, Any]:
    """Time some measures here and there, in turn: seconds of each run, and the ratio of medians.

    Args:
        folder: the other checkout.
        names: of `MEASURES`.
        quick: take preset smoke instead of tiny, once: a trial.
    """
    preset = "smoke" if quick else "tiny"
    found: dict[str, Any] = {}
    for name in names:
        measure, times = MEASURES[name]
        seconds: dict[str, list[float]] = {"here": [], "there": []}
        for number in range(1 if quick else times):
            for side, checkout in (("here", settings.repo_root()), ("there", folder)):
                say(f"{name}, {side}, run {number + 1} ...")
                with tempfile.TemporaryDirectory() as scratch:
                    copy = Path(scratch) / checkout.resolve().name
                    leave_out = shutil.ignore_patterns(*NOT_COPIED)
                    shutil.copytree(checkout, copy, ignore=leave_out)
                    seconds[side].append(measure(copy, preset))
        here, there = (statistics.median(each) for each in seconds.values())
        found[name] = {"preset": preset, "seconds": seconds, "ratio": here / there}
        found[name]["provenance"] = provenance()
        say(json.dumps({name: found[name]["seconds"]}))
    return found
