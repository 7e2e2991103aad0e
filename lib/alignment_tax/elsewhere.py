"""Work in other processes: here, on Dask's workers (optional), in environments of other releases.

Workers share the folder of runs: if one is killed, another finds finished stages there.
"""

import multiprocessing
import os
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from alignment_tax import settings
from alignment_tax.settings import SettingsError
from alignment_tax.store import ArtifactError, digest, say, write_whole

#: Of a folder of a run: held while one writes there; what a process there says.
LOCK, LOG = ".run.lock", "run.log"
#: Seconds to find a scheduler; to wait for a process that is just ending.
FIND, ENDING = 20, 60
#: Runs a command line on the notebooks of a folder. It ends, as after Ctrl-C, when its input does:
#: with the process that started it, however that ends.
CHILD = """
import os, signal, sys, threading
from pathlib import Path
from alignment_tax.cli import main
def watch():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
threading.Thread(target=watch, daemon=True).start()
sys.exit(main(sys.argv[2:], Path(sys.argv[1])))
"""


def processes(count: int) -> ProcessPoolExecutor:
    """Return so many fresh processes, which end with this one, however it ends."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), end_with_starter)


def end_with_starter() -> None:
    """End this process when the one ends that started it; killed, that one cannot say so."""

    def watch() -> None:
        if (starter := multiprocessing.parent_process()) is not None:
            starter.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def workers(scheduler: str) -> Iterator[Executor]:
    """Yield an executor on a scheduler's workers (SettingsError: no Dask, no answer, threads)."""
    try:
        from distributed import Client
    except ImportError as error:
        raise SettingsError("--scheduler needs Dask: pip install distributed") from error
    try:
        client = Client(scheduler, timeout=FIND)
    except (OSError, ValueError) as error:
        raise SettingsError(f"No scheduler answers at {scheduler}: {error}") from error
    with client:
        threads = client.nthreads()
        if not threads or set(threads.values()) != {1}:
            told = f"{scheduler} has workers of {sorted(threads.values())} threads"
            raise SettingsError(f"{told}: dask worker SCHEDULER --nthreads 1 --nworkers N")
        say(f"{len(threads)} workers; dashboard: {client.dashboard_link}")
        yield client.get_executor(pure=False)


def there(environment: Mapping[str, str], work: Callable[..., Any], *given: Any) -> Any:
    """Do some work in a worker, with these environment variables."""
    os.environ.update(environment)
    return work(*given)


def environment() -> dict[str, str]:
    """Return that of a process with this very package, whose idle threads take no other's core."""
    paths = str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")
    path = os.pathsep.join(filter(None, paths))
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": path}


def run_line(
    notebooks: Path, line: Sequence[str], variables: Mapping[str, str], folder: Path,
    lifeline: int = subprocess.PIPE,
) -> str:  # fmt: skip
    """Run `alignment-tax` until `lifeline` is closed, logged in `folder`; return why it refused."""
    folder.mkdir(parents=True, exist_ok=True)
    # one whose starter was killed may just be ending
    FileLock(folder / LOCK).acquire(timeout=ENDING).lock.release()
    command = [sys.executable, "-c", CHILD, str(notebooks), *line]
    with (
        (folder / LOG).open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, env=variables, stdin=lifeline, stdout=log, stderr=log, start_new_session=True
        ) as child,
    ):
        code = child.wait()
    # 1: a chapter failed, and run.json says which
    return "" if code in (0, 1) else (folder / LOG).read_text("utf-8").strip()[-500:]


def fresh_python(out: Path, pins: Path | None = None) -> Path:
    """Return the Python of an environment below `out`, of pins or the newest (ArtifactError)."""
    text = (pins or settings.repo_root() / "requirements.txt").read_text("utf-8")
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    wanted = [line if pins else line.partition("==")[0] for line in lines if line]
    folder = out / f"python-{digest(wanted)[:12]}"
    python, done = folder / "bin" / "python", folder / "finished"
    if not done.is_file():
        settings.writable(out, "Choose another folder with --out.")
        say(f"Installing {len(wanted)} packages into {folder} ...")
        venv.create(folder, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *wanted]
        if code := subprocess.run(install, check=False).returncode:
            raise ArtifactError(f"pip ended with {code}: see above which package it cannot have.")
        write_whole(done, "\n".join(wanted) + "\n")
    return python
