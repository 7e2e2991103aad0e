"""What a kill -9 at any moment leaves: `alignment-tax bench kill`, to data/results/kill.json.

A command runs undisturbed in a copy of the checkout, then is killed at random times, and run to its
end: recorded must be the same, and nothing temporary left.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from alignment_tax import settings
from alignment_tax.lent import ended
from alignment_tax.results.values import leaves, read_run
from alignment_tax.store import say
from bench import Numbers, keep, timed
from bench.speed import NOT_COPIED

SEED, KILLS = 18, 10
RECORD = "record smoke --seeds 0 --methods l2"
RUN = "run --preset smoke --only 04 09 --jobs 1 --out runs/out"
#: What stages, tables and pages are called until they are whole; columns no two runs share.
TEMPORARY, TIMES = re.compile(r"\.(tmp|part|running)\b"), ["seconds", "peak_memory_mb"]


def start(copy: Path, line: str, seconds: float | None = None) -> bool:
    """Run a line in a copy, its process group killed after some seconds; return if it ended."""
    paths = {"PYTHONPATH": str(copy / "lib"), settings.RUNS_VARIABLE: str(copy / "runs")}
    command = [sys.executable, "-m", "alignment_tax", *line.split()]
    return ended(command, os.environ | paths, seconds, cwd=copy, stderr=subprocess.DEVNULL)


def recorded(copy: Path) -> Numbers:
    """Every value that a line left in a copy, but times; of weights the sha256."""
    found: Numbers = {}
    for path in (copy / "data" / "results" / "smoke").glob("*.csv"):
        rows = pd.read_csv(path, dtype=str).drop(columns=TIMES, errors="ignore").fillna("")
        found |= leaves(path.name, rows.to_dict("records"))
    if (path := copy / "runs" / "out" / "run.json").is_file():
        found |= leaves("run", [each["records"] for each in read_run(path.parent)["chapters"]])
    for path in (copy / "runs" / "artifacts").glob("*/*/meta.json"):
        files, key = json.loads(path.read_text("utf-8"))["files"], path.parent.name
        found |= {f"{key}/{n}": own["sha256"] for n, own in files.items() if "model." in n}
    return found


def temporary(copy: Path) -> list[str]:
    """What is not whole in a copy's store, results and folder of the run."""
    paths = [path for top in ("runs", "data/results") for path in (copy / top).rglob("*")]
    return sorted(str(p.relative_to(copy)) for p in paths if TEMPORARY.search(p.name))


def chain(copy: Path, line: str, draw: random.Random) -> Numbers:
    """Run a line undisturbed, then killed at random moments and to its end; compare."""
    whole, _ = timed(lambda: start(copy, line))
    expected, kills, ended = recorded(copy), list[Numbers](), True
    while len(kills) < KILLS:
        if ended:  # also before its moment
            for left in ("runs", "data/results/smoke"):
                shutil.rmtree(copy / left, ignore_errors=True)
        # not later: what is finished is kept, so that later starts have less to do
        moment = round(draw.uniform(0, whole * 2 / 3), 1)
        ended = start(copy, line, moment)
        if not ended:
            kills.append({"seconds": moment, "unfinished": temporary(copy)})
            say(f"Killed {line} after {moment} s: {kills[-1]['unfinished']}")
    start(copy, line)
    found = recorded(copy)
    both = {name: [each.get(name) for each in (expected, found)] for name in expected | found}
    told = {"command": line, "seconds_undisturbed": round(whole, 1), "kills": kills}
    told |= {"values": len(expected), "left_over": temporary(copy)}
    return told | {"differences": {n: two for n, two in both.items() if two[0] != two[1]}}


def run() -> int:
    """Kill `record` and `run`, and write kill.json; return 1 if anything differs or is left."""
    found = []
    for line in (RECORD, RUN):
        with tempfile.TemporaryDirectory() as scratch:
            ignore = shutil.ignore_patterns(*NOT_COPIED, ".git")
            copy = Path(shutil.copytree(settings.repo_root(), f"{scratch}/copy", ignore=ignore))
            found.append(chain(copy, line, random.Random(SEED)))
    keep({"seed": SEED, "chains": found}, "kill.json")
    return int(any(each["differences"] or each["left_over"] for each in found))
