"""Stages and artifacts: what exists is loaded, what does not is made, nothing is computed twice.

An artifact is a folder of files under `<root>/<stage>/<key[:16]>`. Its key is the hash of what
determines it (stage, version of the stage, inputs, keys of its parents), so a stale result cannot
be shown by accident. `meta.json` beside the files says how it came about and holds the hash of
each file; a damaged artifact is named, moved aside and made again. An artifact appears by rename,
whole or not at all, and two runs that need the same one wait for each other.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alignment_tax import __version__

META = "meta.json"
#: Where `git archive` writes the commit of what it packs (see .gitattributes).
ARCHIVED = ".git_archival.txt"
LIBRARIES = ("torch", "transformers", "trl", "datasets", "lm_eval")


class ArtifactError(RuntimeError):
    """Something is wrong with an artifact; the message names it and says what to do."""


class DamagedArtifact(ArtifactError):
    """A file of an artifact is missing, truncated or altered."""


class MissingArtifact(ArtifactError):
    """An artifact that is needed does not exist."""


class DiskFull(ArtifactError):
    """An artifact could not be written because the disk is full."""


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder, its key (64 hex digits) and the content of meta.json."""

    path: Path
    key: str
    meta: dict[str, Any]


def plain_json(value: Any, name: str) -> Any:
    """Return `value` as plain JSON types; tuples become lists, numpy scalars Python numbers.

    Args:
        value: None, bool, int, finite float, str, or lists, tuples and mappings of these.
        name: what the value is called, for the message.

    Raises:
        TypeError: something else is inside.
        ValueError: a float is NaN or infinite.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(
                f"{name} is {value}: JSON has no such number. Use None for a value that is "
                "missing, and look for the cause if it should be there."
            )
        return value
    if isinstance(value, (list, tuple)):
        return [plain_json(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name} has the key {key!r}: keys must be text.")
        return {key: plain_json(item, f"{name}[{key!r}]") for key, item in value.items()}
    raise TypeError(
        f"{name} is a {type(value).__name__}: only None, booleans, numbers, text, lists and "
        "dictionaries with text keys can be kept. Convert it first (for instance .tolist())."
    )


def canonical_json(value: Any) -> str:
    """Return plain JSON as text that is the same for equal values."""
    return json.dumps(
        plain_json(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=True
    )


def digest(value: Any) -> str:
    """Return the sha256 (64 hex digits) of a plain JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def artifact_key(
    stage: str, inputs: Mapping[str, Any], version: int, parents: Mapping[str, str]
) -> str:
    """Return the key of an artifact: the sha256 of everything that determines it.

    Args:
        stage: name of the stage, for instance "rsf".
        inputs: what the stage uses (preset fields, seed), plain JSON.
        version: to be raised when the code of the stage changes its results.
        parents: name -> key of the artifacts it starts from.
    """
    return digest(
        {
            "stage": stage,
            "version": version,
            "inputs": plain_json(inputs, f"inputs of {stage}"),
            "parents": dict(parents),
        }
    )


def file_digest(path: Path) -> str:
    """Return the sha256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return path -> sha256 and size in bytes of every file below `folder` but its meta.json."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": file_digest(path),
            "bytes": path.stat().st_size,
        }
        for path in paths
        if path != folder / META
    }


@functools.cache
def git_commit(folder: Path) -> str | None:
    """Return the commit of the checkout around `folder`, "+dirty" if changed, None if none.

    Where the checkout is an archive without git's own folder, its file `ARCHIVED` names the commit.
    """
    command = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run(
            [*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*command, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return archived_commit(folder)
    return f"{commit}+dirty" if changed else commit


def archived_commit(folder: Path) -> str | None:
    """Return the commit that git wrote into an archive of the course, None if there is none."""
    for parent in (folder, *folder.parents):
        if (parent / ARCHIVED).is_file():
            found = re.search(r"node: ([0-9a-f]{40})", (parent / ARCHIVED).read_text("utf-8"))
            return found[1] if found else None
    return None


@functools.cache
def library_versions() -> dict[str, str | None]:
    """Return the versions of this package and of the libraries that move numbers."""
    versions: dict[str, str | None] = {"alignment_tax": __version__}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def compute_device() -> tuple[str, int]:
    """Return the device that torch uses and its number of threads.

    A process that has not imported torch computes on the CPU with one thread.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return "cpu", 1
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return name, torch.get_num_threads()


def processor() -> str:
    """Name the processor and the instructions that torch uses on it, "unknown" where none says.

    Both decide the last digits of what is trained there, and training makes these grow.
    """
    name = platform.processor()
    with contextlib.suppress(OSError):  # only Linux has the file
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        name = next(named, name)
    torch = sys.modules.get("torch")
    used = [] if torch is None else [torch.backends.cpu.get_cpu_capability()]
    return ", ".join([name or "unknown", *used])


def provenance() -> dict[str, Any]:
    """Return versions, commit, device, threads, platform and time (UTC), for meta.json."""
    device, threads = compute_device()
    return {
        "versions": library_versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "processor": processor(),
        "commit": git_commit(Path(__file__).resolve().parent),
        "device": device,
        "threads": threads,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def sync(path: Path) -> None:
    """Make sure that a file or folder is on the disk, not only in memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Write a text file by rename: after a crash it is the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_meta(folder: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Write meta.json, which also holds the hash of its own content; return that content."""
    sealed = plain_json({key: value for key, value in meta.items() if key != "seal"}, META)
    sealed["seal"] = digest(sealed)
    write_whole(folder / META, json.dumps(sealed, indent=2) + "\n")
    return sealed


def read_meta(folder: Path, describe: str) -> dict[str, Any]:
    """Return the content of meta.json.

    Raises:
        DamagedArtifact: it is missing, truncated or altered.
    """
    path = folder / META
    if not path.is_file():
        raise DamagedArtifact(f"{describe} in {folder} is damaged: {META} is missing.")
    try:
        meta = json.loads(path.read_bytes())
        content = {key: value for key, value in meta.items() if key != "seal"}
        intact = meta.get("seal") == digest(content)
    except (ValueError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise DamagedArtifact(f"{describe} in {folder} is damaged: {META} is truncated or altered.")
    return meta


def check_files(folder: Path, describe: str, hashes: bool = True) -> dict[str, Any]:
    """Compare every file of an artifact with meta.json; return the content of meta.json.

    Args:
        folder: holds the artifact.
        describe: what it is, for the message.
        hashes: whether to read the files, or to look at their sizes alone.

    Raises:
        DamagedArtifact: naming the first file that is missing, truncated or altered.
    """
    meta = read_meta(folder, describe)
    for name, expected in meta["files"].items():
        path = folder / name
        damage = None
        if not path.is_file():
            damage = "is missing"
        elif path.stat().st_size != expected["bytes"]:
            damage = f"has {path.stat().st_size} bytes instead of {expected['bytes']}"
        elif hashes and file_digest(path) != expected["sha256"]:
            damage = "was altered (its sha256 differs)"
        if damage:
            raise DamagedArtifact(f"{describe} in {folder} is damaged: {name} {damage}.")
    return meta


def write_manifest(folder: Path, meta: Mapping[str, Any], describe: str = "") -> Artifact:
    """Seal a folder that is shipped as it is (the base model) with a meta.json.

    Its key is the hash of its files. Markdown is left out, so that a card can be edited.

    Args:
        folder: holds the finished files.
        meta: what to say beside the files, plain JSON (stage, config, seed, ...).
        describe: what it is, for messages.
    """
    files = {name: entry for name, entry in list_files(folder).items() if not name.endswith(".md")}
    sealed = write_meta(
        folder, {**meta, **provenance(), "key": digest(files), "describe": describe, "files": files}
    )
    return Artifact(folder, sealed["key"], sealed)


def verify_folder(folder: Path, describe: str = "") -> Artifact:
    """Return a shipped artifact after checking every file; it cannot be made again, so refuse.

    Raises:
        MissingArtifact: there is no such folder.
        DamagedArtifact: naming the file that is missing, truncated or altered.
    """
    describe = describe or folder.name
    restore = f"Get it back from version control: git checkout -- {folder}"
    if not folder.is_dir():
        raise MissingArtifact(f"{describe} is not in {folder}. {restore}")
    try:
        meta = check_files(folder, describe)
    except DamagedArtifact as damage:
        raise DamagedArtifact(f"{damage} It is not used. {restore}") from damage
    return Artifact(folder, meta["key"], meta)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk (or the quota) is full.

    Libraries written in C++ or Rust raise their own types, with the system's words in the text.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "no space left on device" in str(error).lower()


def say(message: str) -> None:
    """Tell the reader what is going on, beside the results: on standard error."""
    print(message, file=sys.stderr, flush=True)


def duration_text(seconds: float) -> str:
    """Return a duration for a reader: seconds under two minutes, else minutes."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


class Store:
    """All artifacts below one folder. Cheap to make; the folder is created when needed."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._verified: set[str] = set()
        self._swept = False

    def folder(self, stage: str, key: str) -> Path:
        """Return the folder where the artifact with that key is, or would be."""
        return self.root / stage / key[:16]

    def get(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        make: Callable[[Path], None],
        *,
        version: int = 1,
        parents: Mapping[str, str | Artifact] | None = None,
        describe: str = "",
        seed: int | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Return the artifact that these inputs determine; make it if it does not exist.

        Args:
            stage: name of the stage, also the name of the folder above its artifacts.
            inputs: what determines the result besides the parents, plain JSON.
            make: writes the files into the folder that it is given.
            version: to be raised when the code of the stage changes its results.
            parents: name -> what it starts from: an artifact, or the key of one in this store.
            describe: what is made, for messages, for instance "reward model (tiny, seed 0)".
            seed: kept in meta.json; put it in `inputs` too if it determines the result.
            config: kept in meta.json for readers; does not enter the key.

        Raises:
            MissingArtifact: a parent does not exist, and the artifact has to be made.
            DiskFull: there is no room for it; nothing is left behind.
        """
        parents = parents or {}
        describe = describe or stage
        keys = {
            name: parent.key if isinstance(parent, Artifact) else parent
            for name, parent in parents.items()
        }
        key = artifact_key(stage, inputs, version, keys)
        folder = self.folder(stage, key)
        meta = {
            "key": key,
            "stage": stage,
            "version": version,
            "describe": describe,
            "inputs": dict(inputs),
            "config": dict(config or {}),
            "seed": seed,
            "parents": keys,
        }
        found = self._intact(folder, key, describe)
        if isinstance(found, Artifact):
            return found
        try:
            with self._locked(folder, describe):
                # another run may have made or mended it while this one waited
                found = self._intact(folder, key, describe)
                if isinstance(found, Artifact):
                    return found
                if isinstance(found, DamagedArtifact):
                    aside = move_aside(folder)
                    say(f"{found} It is moved to {aside.name} and made again.")
                self._require_parents(parents, describe)
                return self._make(folder, make, meta)
        except Exception as error:
            if is_disk_full(error):
                raise self._disk_full(describe) from error
            raise

    def require(self, stage: str, key: str, describe: str = "") -> Artifact:
        """Return an artifact that must exist already.

        Raises:
            MissingArtifact: it does not exist.
            DamagedArtifact: it is damaged.
        """
        describe = describe or stage
        found = self._intact(self.folder(stage, key), key, describe)
        if isinstance(found, DamagedArtifact):
            raise found
        if found is None:
            raise MissingArtifact(
                f"{describe} ({stage} {key[:16]}) is not in {self.root}. Run the stage that makes "
                "it first."
            )
        return found

    def _intact(self, folder: Path, key: str, describe: str) -> Artifact | DamagedArtifact | None:
        """Return the artifact, what is damaged, or None; files are hashed once per store."""
        if not folder.is_dir():
            return None
        try:
            meta = check_files(folder, describe, hashes=key not in self._verified)
            if meta["key"] != key:
                raise DamagedArtifact(f"{describe} in {folder} is damaged: it has another key.")
        except DamagedArtifact as damage:
            self._verified.discard(key)
            return damage
        self._verified.add(key)
        return Artifact(folder, key, meta)

    def _locked(self, folder: Path, describe: str) -> AbstractContextManager[object]:
        """Return the artifact's lock, held until the end of the with block; say it when waiting."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path(folder))
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            say(f"Waiting for another run that is making {describe} ...")
            return lock.acquire()

    def _require_parents(self, parents: Mapping[str, str | Artifact], describe: str) -> None:
        for name, parent in parents.items():
            if isinstance(parent, Artifact):
                exists = (parent.path / META).is_file()
                place = str(parent.path)
            else:
                exists = bool(parent) and any(self.root.glob(f"*/{parent[:16]}/{META}"))
                place = f"key {parent[:16]!r} in {self.root}"
            if not exists:
                raise MissingArtifact(
                    f"{describe} starts from {name!r}, which does not exist ({place}). Run the "
                    "stage that makes it first."
                )

    def _make(
        self, folder: Path, make: Callable[[Path], None], meta: Mapping[str, Any]
    ) -> Artifact:
        """Make the artifact in a temporary folder beside its place, then rename it."""
        describe = meta["describe"]
        if not self._swept:
            remove_stale(self.root)
            self._swept = True
        discard_temporary(folder)
        temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
        say(f"Making {describe} ...")
        started = time.perf_counter()
        try:
            temporary.mkdir()
            make(temporary)
            seconds = time.perf_counter() - started
            files = list_files(temporary)
            if not files:
                raise ArtifactError(f"The stage that makes {describe} wrote no file.")
            for name in files:
                sync(temporary / name)
            sealed = write_meta(
                temporary,
                {**meta, **provenance(), "seconds": round(seconds, 3), "files": files},
            )
            sync(temporary)
            temporary.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        say(f"Made {describe} in {duration_text(seconds)}.")
        self._verified.add(sealed["key"])
        return Artifact(folder, sealed["key"], sealed)

    def _disk_full(self, describe: str) -> DiskFull:
        existing = next(path for path in (self.root, *self.root.parents) if path.exists())
        free = shutil.disk_usage(existing).free / 1e6
        return DiskFull(
            f"The disk is full: {describe} could not be written to {self.root} ({free:.0f} MB "
            "free). Nothing half-written is left. Free some space, or set ALIGNMENT_TAX_RUNS to a "
            "folder on another disk, and run it again: what is finished is kept."
        )


def lock_path(folder: Path) -> Path:
    """Return the path of the lock of the artifact in `folder`."""
    return folder.with_name(f".{folder.name}.lock")


def move_aside(folder: Path) -> Path:
    """Rename a damaged artifact to <name>.damaged-<n>, the first free n; return the new path."""
    n = 1
    while (aside := folder.with_name(f"{folder.name}.damaged-{n}")).exists():
        n += 1
    return folder.rename(aside)


def discard_temporary(folder: Path) -> None:
    """Remove what killed runs left of the artifact in `folder`; its lock must be held.

    Only the holder of the lock writes there, so whatever lies there is stale.
    """
    for temporary in folder.parent.glob(f".{folder.name}.tmp-*"):
        shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(root: Path) -> None:
    """Remove what killed runs left of any artifact below `root`; live runs are left alone."""
    for temporary in root.glob("*/.*.tmp-*"):
        folder = temporary.with_name(temporary.name[1:].split(".tmp-")[0])
        # a lock that cannot be had means a live run (RuntimeError: this very process, further up)
        with (
            contextlib.suppress(Timeout, RuntimeError),
            FileLock(lock_path(folder)).acquire(timeout=0),
        ):
            discard_temporary(folder)
