"""Programs that measure on this machine; no part of the library: `alignment-tax bench`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

Numbers = dict[str, Any]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the wall seconds that `work` takes, and its result."""
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def python(
    arguments: Sequence[str], paths: Sequence[Path], shown: Path | None = None, **more: str
) -> str:
    """Run this interpreter with folders on its path; return what it prints. `shown`: work there."""
    found = filter(None, (*map(str, paths), os.environ.get("PYTHONPATH")))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=shown,
        env={**os.environ, **more, "PYTHONPATH": os.pathsep.join(found)},
        stdout=subprocess.PIPE,
        stderr=None if shown else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or "")[-2000:]
        raise RuntimeError(f"{' '.join(arguments)[:200]} failed ({done.returncode}).\n{said}")
    return done.stdout
