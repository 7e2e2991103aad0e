"""Where a result comes from: versions, commit, device, processor and time, for meta.json."""

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from alignment_tax import __version__

#: What a recording writes: no part of what made it.
RESULTS = "data/results"
#: Modules that run chapters and show what came out, which no chapter imports.
RUNNERS = ("cli", "notebooks", "elsewhere", "regress", "report", "drift")
LIBRARIES = ("torch", "transformers", "trl", "datasets", "lm_eval")


@functools.cache
def git_commit(folder: Path) -> str | None:
    """Return the commit of the checkout or archive around a folder, "+dirty" if changed."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        root = git("rev-parse", "--show-toplevel")
        code = [f"{root}/", f":(exclude,top){RESULTS}"]
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    except (OSError, subprocess.CalledProcessError):
        # where `git archive` writes the commit of what it packs (see .gitattributes)
        archived = (parent / ".git_archival.txt" for parent in (folder, *folder.parents))
        text = next((file.read_text("utf-8") for file in archived if file.is_file()), "")
        found = re.search(r"node: ([0-9a-f]{40})", text)
        return found[1] if found else None
    return f"{commit}+dirty" if changed else commit


@functools.cache
def library_versions() -> dict[str, str | None]:
    """Return the versions of this package and of the libraries that move numbers."""
    found = {name: [*importlib.metadata.distributions(name=name)] for name in LIBRARIES}
    versions = {name: own[0].version if own else None for name, own in found.items()}
    return {"alignment_tax": __version__, **versions}


def processor() -> str:
    """Name the processor, or "unknown", and torch's instructions: both decide the last digits."""
    torch = sys.modules.get("torch")
    used = [] if torch is None else [torch.backends.cpu.get_cpu_capability()]
    return ", ".join([_processor_name() or "unknown", *used])


def _processor_name() -> str:
    with contextlib.suppress(OSError):  # only Linux has the file
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^model name\s*:\s*(.+?)\s*$", said, re.MULTILINE):
            return found[1]
    return platform.processor()


@functools.cache
def maker() -> str:
    """Return a digest of what makes numbers here but is in no key: files, versions, processor."""
    package = Path(__file__).resolve().parent
    every = [path for path in sorted(package.rglob("*")) if path.suffix in (".py", ".txt", ".yaml")]
    files = [path for path in every if path.stem not in RUNNERS]
    parts = [path.relative_to(package).as_posix().encode() + path.read_bytes() for path in files]
    told = [library_versions(), platform.python_version(), platform.machine(), _processor_name()]
    return hashlib.sha256(b"\0".join([*parts, repr(told).encode()])).hexdigest()


def provenance() -> dict[str, Any]:
    """Return versions, commit, device, threads, platform and time (UTC)."""
    torch = sys.modules.get("torch")  # a process without it computes on the CPU with one thread
    gpu = torch is not None and torch.cuda.is_available()
    return {
        "versions": library_versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "processor": processor(),
        "commit": git_commit(Path(__file__).resolve().parent),
        "device": torch.cuda.get_device_name() if torch and gpu else "cpu",
        "threads": torch.get_num_threads() if torch else 1,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
