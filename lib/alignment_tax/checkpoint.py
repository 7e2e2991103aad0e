"""Checkpoints as files: where each tensor of a model lies on disk, without torch or pickle.

A safetensors file is 8 bytes (the header's length), a JSON header (name -> dtype, shape, place)
and the numbers, little-endian and row by row (github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
LONGEST_HEADER = 100_000_000  # bytes, as the format says: more is no header
#: What is fetched from the Hub: weights, configuration, tokenizer; no code and nothing pickled.
FETCHED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
#: Bytes a number of each dtype that may be averaged; others are whole numbers or quantised.
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class CheckpointError(ValueError):
    """A checkpoint is not there, not whole or not usable; the message says what to do."""


@dataclass(frozen=True)
class Stored:
    """A tensor on disk: `size` bytes from `start` on in a file; dtype as in its header ("BF16")."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def ndim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A model in a folder: its files and its tensors, in the order in which they are stored."""

    folder: Path
    files: tuple[Path, ...]
    tensors: dict[str, Stored]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return read_json(self.folder / "config.json")

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """The number of each token; None where there is no tokenizer.json to say it."""
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            return None
        told = read_json(path)
        own = (told.get("model") or {}).get("vocab") or {}
        if not isinstance(own, Mapping):  # pieces with their scores, numbered by their place
            own = {piece[0]: number for number, piece in enumerate(own)}
        return {**own, **{t["content"]: t["id"] for t in told.get("added_tokens") or ()}}


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of a checkpoint (CheckpointError: not there, no JSON)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}: name a whole model.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({error}): get it again.") from error


def open_checkpoint(name: str | Path) -> Checkpoint:
    """Return the checkpoint in a folder, or that of a Hub id, which is fetched first.

    Raises:
        CheckpointError: it is not there, a part is missing, it holds quantised or pickled weights,
            or code of its own is needed to run it.
    """
    folder = find_folder(str(name))
    files = tuple(weight_files(folder))
    if not files:
        pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))
        why = f" but pickled ones ({pickled[0].name}), which could run any code" if pickled else ""
        raise CheckpointError(
            f"There are no .safetensors weights in {folder}{why}. Save the model anew with "
            "save_pretrained, and a LoRA adapter only after merge_and_unload."
        )
    tensors = {name: held for file in files for name, held in read_header(file).items()}
    found = Checkpoint(folder, files, tensors)
    if found.config.get("quantization_config"):
        raise CheckpointError(
            f"{folder} holds quantised weights, which cannot be averaged. Take the checkpoint that "
            "they were made from, or save it dequantised."
        )
    if found.config.get("auto_map"):
        raise CheckpointError(
            f"{folder} needs code of its own to run (auto_map in config.json), which is neither "
            "run nor copied here. Take a model that transformers knows."
        )
    return found


def find_folder(name: str) -> Path:
    """Return the folder of a checkpoint, which a Hub id is fetched into (see `open_checkpoint`)."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(f"There is no folder {name}, and it is no Hub id like owner/model.")
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its terms at https://huggingface.co/{name}, and set HF_TOKEN "
            "to a token of that account."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"The Hub has no model {name}, or it is private (then set HF_TOKEN)."
        ) from error
    except Exception as error:  # no network, offline mode, a proxy that refuses
        raise CheckpointError(
            f"There is no folder {name}, and the Hub cannot be reached. Copy the model's "
            "*.safetensors, config.json and tokenizer*.json into a folder and name that, or set "
            "HF_HOME to a cache that holds the model."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, all of them by its own index."""
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    files, places = sorted(folder.glob("*.safetensors")), dict[str, str]()
    for index in folder.glob("*.safetensors.index.json"):
        places = read_json(index)["weight_map"]
        files = [folder / name for name in sorted(set(places.values()))]
    lacking = {file.name for file in files if not file.is_file()}
    if not places and any("-of-" in file.name for file in files):
        lacking = {INDEX}
    if not lacking:
        lacking = set(places).difference(*map(read_header, files))
    if lacking:
        raise CheckpointError(
            f"The checkpoint in {folder} lacks {min(lacking)!r} ({len(lacking)} such): it was "
            "copied or downloaded in part. Get the whole."
        )
    return files


def read_header(file: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file, in the order of their places in it."""

    def damaged(what: str) -> CheckpointError:
        return CheckpointError(f"{file} is no whole safetensors file: {what}. Get it again.")

    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(size - 8, LONGEST_HEADER):
            raise damaged("its header is not there")
        try:
            told = json.loads(handle.read(length))
            entries = {n: e for n, e in told.items() if n != "__metadata__"}
            found = {
                name: Stored(
                    file,
                    str(entry["dtype"]),
                    tuple(map(int, entry["shape"])),
                    8 + length + int(entry["data_offsets"][0]),
                    int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
                )
                for name, entry in sorted(entries.items(), key=lambda e: e[1]["data_offsets"])
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged("its header cannot be read") from error
    for name, held in found.items():
        if held.start + held.size > size:
            raise damaged(f"it ends before {name!r}")
        if held.size != math.prod(held.shape) * FLOATS.get(held.dtype, 0) and held.dtype in FLOATS:
            raise damaged(f"{name!r} has {held.size} bytes for {held.dtype} {list(held.shape)}")
    return found
