"""Stages and artifacts: what exists is loaded, what does not is made, nothing is computed twice.

An artifact is a folder `<root>/<stage>/<key[:16]>`, its key the hash of what determines it, with
the hash of each file in its `meta.json`. It appears by rename, whole or not at all.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alignment_tax.provenance import provenance

META = "meta.json"


class ArtifactError(RuntimeError):
    """Something is wrong with an artifact; the message names it and says what to do."""


class DamagedArtifact(ArtifactError):
    """A file of an artifact is missing, truncated or altered."""


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder, its key (64 hex digits) and the content of meta.json."""

    path: Path
    key: str
    meta: dict[str, Any]


#: What can be written as plain JSON, by name.
Values = Mapping[str, Any]
Parents = Mapping[str, Artifact]
#: Writes the files of an artifact into the folder that it is given.
Make = Callable[[Path], None]


def plain_json(value: Any, name: str) -> Any:
    """Return `value` as plain JSON types; tuples become lists, numpy scalars Python numbers."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise ValueError(f"{name} is {value}: JSON has no such number. Use None if it is missing.")
    if isinstance(value, (list, tuple)):
        return [plain_json(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{name} has the key {wrong[0]!r}: keys must be text.")
        return {key: plain_json(item, f"{name}[{key!r}]") for key, item in value.items()}
    told = f"{name} is a {type(value).__name__}: JSON has no such value"
    raise TypeError(f"{told}. Convert it first (for instance .tolist()).")


def digest(value: Any) -> str:
    """Return the sha256 (64 hex digits) of a plain JSON value; equal values have the same."""
    text = json.dumps(plain_json(value, "value"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def artifact_key(stage: str, inputs: Values, version: int, parents: Mapping[str, str]) -> str:
    """Return the key of an artifact: the sha256 of everything that determines it (see `get`)."""
    plain = plain_json(inputs, f"inputs of {stage}")
    return digest({"stage": stage, "version": version, "inputs": plain, "parents": dict(parents)})


def file_digest(path: Path) -> str:
    """Return the sha256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return path -> sha256 and size in bytes of every file below `folder` but its meta.json."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p != folder / META]
    sealed = [{"sha256": file_digest(file), "bytes": file.stat().st_size} for file in files]
    return dict(zip((file.relative_to(folder).as_posix() for file in files), sealed, strict=True))


def sync(path: Path) -> None:
    """Make sure that a file or folder is on the disk, not only in memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Write a text file by rename: after a crash it is the old one or the new one."""
    # a name of its own for each process would stay for ever when one is killed
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Values) -> None:
    """Write values for a reader and for `read_json`."""
    path.write_text(json.dumps(values, indent=2))


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text())


def write_meta(folder: Path, meta: Values) -> Artifact:
    """Write meta.json, which also holds the hash of its own content; return the artifact."""
    sealed = plain_json(meta, META)
    sealed["seal"] = digest(sealed)
    write_whole(folder / META, json.dumps(sealed, indent=2) + "\n")
    return Artifact(folder, sealed["key"], sealed)


def check_files(folder: Path, describe: str, hashes: bool = True) -> Artifact:
    """Compare the files of an artifact, by size and hash, with its meta.json; return it."""

    def damage(what: str) -> DamagedArtifact:
        return DamagedArtifact(f"{describe} in {folder} is damaged: {what}.")

    if not (folder / META).is_file():
        raise damage(f"{META} is missing")
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_bytes())
        content = {key: value for key, value in meta.items() if key != "seal"}
        intact = meta.get("seal") == digest(content)
    except (ValueError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise damage(f"{META} is truncated or altered")
    for name, expected in meta["files"].items():
        path = folder / name
        if not path.is_file():
            raise damage(f"{name} is missing")
        if (size := path.stat().st_size) != expected["bytes"]:
            raise damage(f"{name} has {size} bytes instead of {expected['bytes']}")
        if hashes and file_digest(path) != expected["sha256"]:
            raise damage(f"{name} was altered (its sha256 differs)")
    return Artifact(folder, meta["key"], meta)


def write_manifest(folder: Path, meta: Values, describe: str = "") -> Artifact:
    """Seal a shipped folder (the base model); its key is the hash of its files but the cards."""
    files = {name: entry for name, entry in list_files(folder).items() if not name.endswith(".md")}
    own = {"key": digest(files), "describe": describe, "files": files}
    return write_meta(folder, {**meta, **provenance(), **own})


def verify_folder(folder: Path, describe: str = "") -> Artifact:
    """Return a shipped artifact after checking every file: it cannot be made again."""
    describe = describe or folder.name
    restore = f"Get it back from version control: git checkout -- {folder}"
    if not folder.is_dir():
        raise ArtifactError(f"{describe} is not in {folder}. {restore}")
    try:
        return check_files(folder, describe)
    except DamagedArtifact as damage:
        raise DamagedArtifact(f"{damage} It is not used. {restore}") from damage


def say(message: str) -> None:
    """Tell the reader what is going on, beside the results: on standard error."""
    print(message, file=sys.stderr, flush=True)


class Store:
    """All artifacts below one folder. Cheap to make; the folder is created when needed."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._verified: set[str] = set()

    def folder(self, stage: str, key: str) -> Path:
        """Return the folder where the artifact with that key is, or would be."""
        return self.root / stage / key[:16]

    def get(
        self, stage: str, inputs: Values, make: Make, *, version: int = 1,
        parents: Parents | None = None, describe: str = "", seed: int | None = None,
        config: Values | None = None,
    ) -> Artifact:  # fmt: skip
        """Return the artifact that these inputs determine; make it if it does not exist.

        `inputs`, `parents` and `version`, which is raised when the code of a stage changes its
        results, determine it. `describe` is for messages; meta.json keeps `seed` and `config`.
        """
        parents, describe = parents or {}, describe or stage
        keys = {name: parent.key for name, parent in parents.items()}
        key = artifact_key(stage, inputs, version, keys)
        folder = self.folder(stage, key)
        meta = {"key": key, "stage": stage, "version": version, "describe": describe}
        meta |= {"inputs": inputs, "config": config or {}, "seed": seed, "parents": keys}
        with _explained(describe, self.root):
            if found := self._found(folder, key, describe):
                return found
            with _locked(folder, describe):
                # another run may have made or mended it while this one waited for the lock
                found = self._found(folder, key, describe, mend=True)
                return found or self._make(folder, make, meta, parents)

    def _found(self, folder: Path, key: str, describe: str, mend: bool = False) -> Artifact | None:
        """Return the artifact if it is whole, hashed once per store; to mend moves it aside."""
        if not folder.is_dir():
            return None
        try:
            found = check_files(folder, describe, hashes=key not in self._verified)
            if found.key != key:
                raise DamagedArtifact(f"{describe} in {folder} is damaged: it has another key.")
        except DamagedArtifact as damage:
            self._verified.discard(key)
            if mend:
                names = (f"{folder.name}.damaged-{n}" for n in itertools.count(1))
                aside = next(p for p in map(folder.with_name, names) if not p.exists())
                say(f"{damage} It is moved to {folder.rename(aside).name} and made again.")
            return None
        self._verified.add(key)
        return found

    def _make(self, folder: Path, make: Make, meta: Values, parents: Parents) -> Artifact:
        """Make the artifact in a temporary folder beside its place, then rename it."""
        describe = meta["describe"]
        for name, parent in parents.items():
            if not (parent.path / META).is_file():
                gone = f"{name!r}, which does not exist ({parent.path})"
                raise ArtifactError(f"{describe} starts from {gone}. Make that first.")
        remove_stale(self.root, folder)
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
            told = {**provenance(), "seconds": round(seconds, 3), "files": files}
            made = write_meta(temporary, {**meta, **told})
            for path in (temporary, *temporary.rglob("*")):
                _share(path, folder.parent)
            sync(temporary)
            temporary.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        taken = f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
        say(f"Made {describe} in {taken}.")
        self._verified.add(made.key)
        return Artifact(folder, made.key, made.meta)


@contextlib.contextmanager
def _explained(describe: str, root: Path) -> Iterator[None]:
    """Say what to do when the disk (or the quota) is full, or the folder is of another account."""
    try:
        yield
    except Exception as error:
        # libraries written in C++ or Rust raise their own types, with the system's words in them
        number, place = getattr(error, "errno", None), str(getattr(error, "filename", "") or "/-")
        full = number in (errno.ENOSPC, errno.EDQUOT)
        full |= "no space left on device" in str(error).lower()
        about = root.is_relative_to(place) or Path(place).is_relative_to(root)
        if not full and about and number != errno.ENOENT:
            told = f"{describe} could not be read from or written to {root}: {error}"
            remedy = "Set ALIGNMENT_TAX_RUNS to a folder of your own, or share one: see README.md."
            raise ArtifactError(f"{told}. {remedy}") from error
        if not full:
            raise
        existing = next(path for path in (root, *root.parents) if path.exists())
        free = shutil.disk_usage(existing).free / 1e6
        told = f"The disk is full: {describe} could not be written to {root} ({free:.0f} MB free)"
        remedy = "Free some, or set ALIGNMENT_TAX_RUNS to another disk: what is finished is kept."
        raise ArtifactError(f"{told}. {remedy}") from error


def _locked(folder: Path, describe: str) -> AbstractContextManager[object]:
    """The artifact's lock, held until the end of the with block; say it when waiting."""
    for each in (folder.parent.parent, folder.parent):
        if not each.is_dir():
            each.mkdir(parents=True, exist_ok=True)
            _share(each, each.parent)
    lock = lock_of(folder)
    try:
        with contextlib.suppress(Timeout):
            return lock.acquire(timeout=0)
        say(f"Waiting for another run that is making {describe} ...")
        return lock.acquire()
    except OSError as error:  # some file systems have no locks, and then no file is named
        raise OSError(error.errno, error.strerror, lock.lock_file) from error


def _share(path: Path, like: Path) -> None:
    """Let those use a new file or folder who may use the folder `like`, whatever umask says."""
    mode = like.stat().st_mode
    if not mode & stat.S_ISVTX:  # a folder like /tmp is no model
        path.chmod(stat.S_IMODE(mode) if path.is_dir() else mode & 0o666)


def lock_of(folder: Path) -> FileLock:
    """Return the lock of the artifact in `folder`, for all who may write there."""
    # filelock wants its owner to read and write, also where a store was left read-only
    mode = folder.parent.stat().st_mode & 0o666 | 0o600
    return FileLock(folder.with_name(f".{folder.name}.lock"), mode=mode)


def remove_stale(root: Path, own: Path) -> None:
    """Remove what killed runs left of any artifact below `root`; the lock of `own` is held."""
    for temporary in root.glob("*/.*.tmp-*"):
        folder = temporary.with_name(temporary.name[1:].split(".tmp-")[0])
        # a lock that cannot be had means a live run (RuntimeError: this very process, further up)
        with contextlib.suppress(OSError, RuntimeError), contextlib.ExitStack() as held:
            if folder != own:
                held.enter_context(lock_of(folder).acquire(timeout=0))
            shutil.rmtree(temporary, ignore_errors=True)
