"""The files of a checkpoint: what lies where in them, whether they are whole, and safe to read.

A safetensors file is 8 bytes (the header's length), a JSON header (name -> dtype, shape, place)
and the numbers, little-endian and row by row (github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
#: What is fetched from the Hub: weights, configuration, tokenizer; no code and nothing pickled.
FETCHED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


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


@dataclass(frozen=True)
class Checkpoint:
    """A model in a folder: its files, its tensors in their order there, and its config.json."""

    folder: Path
    files: tuple[Path, ...]
    tensors: dict[str, Stored]
    config: dict[str, Any]

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """The number of each token; empty where there is no tokenizer.json to say it."""
        path = self.folder / "tokenizer.json"
        told = _read_json(path) if path.is_file() else {}
        own = told.get("model", {}).get("vocab", {})
        if not isinstance(own, Mapping):  # pieces with their scores, numbered by their place
            own = {piece[0]: number for number, piece in enumerate(own)}
        return {**own, **{t["content"]: t["id"] for t in told.get("added_tokens", ())}}


def open_checkpoint(name: str | Path) -> Checkpoint:
    """Return the checkpoint in a folder, or of a Hub id (CheckpointError: it cannot be used)."""
    folder = _find_folder(str(name))
    config, files = _read_config(folder), tuple(weight_files(folder))
    if config.get("quantization_config"):
        raise CheckpointError(f"{folder} holds quantised weights: take those they were made from.")
    if config.get("auto_map"):
        said = "code of its own (auto_map), which is never run: take a model transformers knows."
        raise CheckpointError(f"{folder} needs {said}")
    tensors = {name: held for file in files for name, held in read_header(file).items()}
    return Checkpoint(folder, files, tensors, config)


def _find_folder(name: str) -> Path:
    """Return the folder of a checkpoint, which a Hub id is fetched into (CheckpointError)."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(f"There is no folder {name}, and it is no Hub id like owner/model.")
    from huggingface_hub import errors, snapshot_download

    reasons = {
        errors.GatedRepoError: f"the model is gated: accept its terms at https://huggingface.co/"
        f"{name}, and set HF_TOKEN to a token of that account",
        errors.RepositoryNotFoundError: "the Hub has no such model, or it is private (then set "
        "HF_TOKEN)",
        # no network, offline mode, a proxy that refuses
        Exception: "the Hub cannot be reached. Copy the model's *.safetensors, config.json and "
        "tokenizer*.json into a folder and name that, or set HF_HOME to a cache that holds it",
    }
    try:
        return Path(snapshot_download(name, allow_patterns=FETCHED))
    except Exception as error:
        why = next(text for kind, text in reasons.items() if isinstance(error, kind))
        raise CheckpointError(f"There is no folder {name}, and {why}.") from error


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds no whole checkpoint that is safe to read (CheckpointError)."""
    from transformers import CONFIG_MAPPING

    kind = _read_config(folder).get("model_type")
    if kind not in CONFIG_MAPPING:
        told = f"{folder / 'config.json'} has the model_type {kind!r}, unknown to transformers"
        raise CheckpointError(f"{told}: take another. Code of its own (auto_map) is never run.")
    weight_files(folder)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        lacks = "an adapter without its model: merge the two" if adapter else "no config.json"
        raise CheckpointError(f"{folder} holds {lacks}. Save a whole model there (save_policy).")
    return _read_json(folder / "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Get the checkpoint again.") from error


def check_complete(name: str, found: Mapping[str, Collection[Any]]) -> None:
    """Refuse a checkpoint whose loading left weights out or drew some at random."""
    said = {"missing_keys": "lacks", "mismatched_keys": "has another shape of"}
    for kind, verb in (said | {"unexpected_keys": "holds, beside what the model has,"}).items():
        if keys := sorted(k if isinstance(k, str) else k[0] for k in found.get(kind, ())):
            raise CheckpointError(
                f"The checkpoint {name} {verb} {keys[0]!r} ({len(keys)} such): it does not fit its "
                "config.json. Save the whole model again, a LoRA merged, a model inside a wrapper "
                "(torch.compile, DataParallel) taken out of it."
            )


def check_same_vocabulary(first: Mapping[str, int], second: Mapping[str, int], advice: str) -> None:
    """Refuse two vocabularies that number tokens differently (CheckpointError)."""
    if differ := [token for token in {*first, *second} if first.get(token) != second.get(token)]:
        token = min(differ, key=lambda t: (first.get(t, second.get(t)), t))
        told = f"token {token!r} is number {first.get(token)} in the first and {second.get(token)}"
        told += f" in the second ({len(first)} and {len(second)} tokens in all)"
        raise CheckpointError(f"The tokenizers differ: {told}. {advice}")


def load_state(folder: Path) -> dict[str, Tensor]:
    """Read the whole checkpoint in `folder` into one state dict on the CPU."""
    from safetensors.torch import load_file

    return {n: tensor for file in weight_files(folder) for n, tensor in load_file(file).items()}


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, all by its own index (CheckpointError)."""
    folder = Path(folder)
    files, places = sorted(folder.glob("*.safetensors")), dict[str, str]()
    if folder / WEIGHTS in files:
        files = [folder / WEIGHTS]
    else:
        for index in folder.glob("*.safetensors.index.json"):
            places = _read_json(index)["weight_map"]
            files = [folder / name for name in sorted(set(places.values()))]
    if not files:
        only = "".join(f", only {path.name}" for path in sorted(folder.glob("*.bin"))[:1])
        advice = "Save the model as safetensors: a pickle can run code and is never read."
        raise CheckpointError(f"{folder} has no {WEIGHTS}{only}. {advice}")
    lacking = {file.name for file in files if not file.is_file()}
    if not places and any("-of-" in file.name for file in files):
        lacking = {INDEX}
    if not lacking:
        lacking = set(places) - {name for file in files for name in read_header(file)}
    if lacking:
        told = f"The checkpoint in {folder} lacks {min(lacking)!r} ({len(lacking)} such)"
        raise CheckpointError(f"{told}: it was copied or downloaded in part. Get the whole.")
    return files


def read_header(file: Path) -> dict[str, Stored]:
    """Return a file's tensors in the order of their places (CheckpointError: it is damaged)."""
    try:
        with safe_open(file, "np"):  # it checks every size and place
            pass
    except SafetensorError as error:
        said = f"{file} is damaged ({error}). Get the whole checkpoint again."
        raise CheckpointError(said) from error
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        told = json.loads(handle.read(length))
    told.pop("__metadata__", None)
    entries = sorted((*entry["data_offsets"], name, entry) for name, entry in told.items())
    return {
        name: Stored(file, entry["dtype"], tuple(entry["shape"]), 8 + length + start, end - start)
        for start, end, name, entry in entries
    }
