"""Finished stages in one file: packed where they were made, put in place where they are needed."""

import json
import shutil
import tempfile
import urllib.request
import zipfile
from contextlib import ExitStack
from pathlib import Path

from filelock import Timeout
from tqdm import tqdm

from alignment_tax import store
from alignment_tax.store import META, ArtifactError, DamagedArtifact


def pack_runs(root: Path, preset: str, seed: int, file: Path) -> str:
    """Write the stages of a run into one file, whole or not at all; return its sha256."""
    metas = [meta for meta in sorted(root.glob(f"*/*/{META}")) if "." not in meta.parent.name]
    told = {meta.parent: json.loads(meta.read_text(encoding="utf-8")) for meta in metas}
    wanted = (seed, preset)
    folders = [f for f, m in told.items() if (m["seed"], m["config"].get("name")) == wanted]
    if not folders:
        lacks = f"{root} holds no stage of preset {preset}, seed {seed}. Make them first"
        raise ArtifactError(f"{lacks}: alignment-tax run --preset {preset} --seed {seed}")
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
            for folder in tqdm(folders, desc="packing", unit="stage"):
                store.check_files(folder, told[folder]["describe"])
                for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                    packed.write(path, path.relative_to(root).as_posix())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return store.file_digest(file)


def fetch_runs(source: str, root: Path, sha256: str = "") -> list[Path]:
    """Put packed stages of a file (or https:// address) in place; return those that are new.

    ArtifactError: one differs from its meta.json, and none is placed. What is there already stays.
    """
    if "://" in source and not source.startswith("https://"):
        raise ArtifactError(f"{source}: give a file, or an address that begins with https://")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as work:
        file = Path(source)
        if source.startswith("https://"):
            file = Path(work, "packed")
            with urllib.request.urlopen(source, timeout=60) as answer, file.open("wb") as target:
                total = int(answer.headers.get("Content-Length") or 0) or None
                with tqdm.wrapattr(answer, "read", total=total, desc="fetching") as read:
                    shutil.copyfileobj(read, target)
        if sha256 and store.file_digest(file) != sha256.lower():
            raise ArtifactError(f"{source} has another sha256 than {sha256}. Nothing was changed.")
        try:
            with zipfile.ZipFile(file) as packed:
                packed.extractall(opened := Path(work, "opened"))
        except zipfile.BadZipFile as error:
            raise ArtifactError(f"{source} is damaged, or no file of `pack-runs`.") from error
        folders = [meta.parent for meta in sorted(opened.glob(f"*/*/{META}"))]
        if not folders:
            raise ArtifactError(f"{source} holds no stage: is it a file of `pack-runs`?")
        try:
            for folder in tqdm(folders, desc="checking", unit="stage"):
                store.check_files(folder, folder.parent.name)
        except DamagedArtifact as damage:
            raise DamagedArtifact(f"{damage} Fetch it again. Nothing was changed.") from damage
        return [placed for folder in folders if (placed := _place(folder, root))]


def _place(folder: Path, root: Path) -> Path | None:
    """Move a checked stage to its place by rename; None if it is there, or is being made."""
    target = root / folder.parent.name / folder.name
    target.parent.mkdir(exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(store.lock_of(target).acquire(timeout=0))
        except Timeout:
            return None
        return None if target.exists() else folder.rename(target)
