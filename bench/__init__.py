"""Programs that measure on this machine; no part of the library: `alignment-tax bench`."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from alignment_tax import settings
from alignment_tax.provenance import provenance
from alignment_tax.store import write_whole

Numbers = dict[str, Any]
#: Bytes that a system counts memory in.
UNIT = 1 if sys.platform == "darwin" else 1024


def kept(name: str, out: Path | None = None) -> Numbers:
    """Return what data/results, or a file elsewhere, holds of earlier measurements."""
    path = out or settings.results_folder() / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def keep(found: Numbers, name: str, out: Path | None = None) -> int:
    """Write what was measured, with its provenance if it brings none; return the exit code."""
    path = out or settings.results_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"provenance": provenance(), **found}, indent=2) + "\n")
    print(f"Written to {path}.")
    return 0


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the wall seconds that `work` takes, and its result."""
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def python(
    arguments: Sequence[str], paths: Sequence[Path], shown: Path | None = None, /, **more: str
) -> str:
    """Run this interpreter with folders on its path; return what it prints. `shown`: work there."""
    found = filter(None, (*map(str, paths), os.environ.get("PYTHONPATH")))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=shown, env={**os.environ, **more, "PYTHONPATH": os.pathsep.join(found)},
        stdout=subprocess.PIPE, stderr=None if shown else subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr or "")[-2000:]
        raise RuntimeError(f"{' '.join(arguments)[:200]} failed ({done.returncode}).\n{said}")
    return done.stdout
