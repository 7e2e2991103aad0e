"""The files of a checkpoint: whether they are whole, and safe to read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import CONFIG_MAPPING

WEIGHTS = "model.safetensors"


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds no whole checkpoint that is safe to read (ValueError)."""
    file = folder / "config.json"
    if not file.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        lacks = "an adapter without its model: merge the two" if adapter else "no config.json"
        raise ValueError(f"{folder} holds {lacks}. Save a whole model there, with save_policy.")
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error}). Get the checkpoint again.") from error
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{file} has the model_type {kind!r}, which transformers does not know. Take another "
            "model: code that comes with a checkpoint (auto_map) is never run."
        )
    if not weight_files(folder):
        only = "".join(f", only {path.name}" for path in sorted(folder.glob("*.bin"))[:1])
        raise ValueError(
            f"{folder} has no {WEIGHTS}{only}. Save the model as safetensors: a pickle can run "
            "code and is never read."
        )


def check_complete(name: str, found: Mapping[str, Collection[Any]]) -> None:
    """Refuse a checkpoint whose loading left weights out or drew some at random (ValueError)."""
    said = {"missing_keys": "lacks", "mismatched_keys": "has another shape of"}
    for kind, verb in (said | {"unexpected_keys": "holds, beside what the model has,"}).items():
        if keys := sorted(key if isinstance(key, str) else key[0] for key in found[kind]):
            raise ValueError(
                f"The checkpoint {name} {verb} {keys[0]!r} ({len(keys)} such): it does not fit its "
                "config.json. Save the whole model again, a LoRA merged, a model inside a wrapper "
                "(torch.compile, DataParallel) taken out of it."
            )


def load_state(folder: Path) -> dict[str, Tensor]:
    """Read the whole checkpoint in `folder` into one state dict on the CPU."""
    files = weight_files(folder)
    if not files:
        raise FileNotFoundError(f"There are no .safetensors weights in {folder}.")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, all of them by its own index (ValueError)."""
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        _names(folder / WEIGHTS)
        return [folder / WEIGHTS]
    files, places = sorted(folder.glob("*.safetensors")), dict[str, str]()
    for index in folder.glob("*.safetensors.index.json"):
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = [folder / name for name in sorted(set(places.values()))]
    lacking = {file.name for file in files if not file.is_file()}
    if not places and any("-of-" in file.name for file in files):
        lacking = {f"{WEIGHTS}.index.json"}
    if not lacking:
        lacking = set(places).difference(*map(_names, files))
    if lacking:
        raise ValueError(
            f"The checkpoint in {folder} lacks {min(lacking)!r} ({len(lacking)} such): it was "
            "copied or downloaded in part. Get the whole."
        )
    return files


def _names(file: Path) -> list[str]:
    """Return the names of a file's tensors (ValueError: it is damaged)."""
    try:
        return list(safe_open(file, "pt").keys())
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}). Get the whole checkpoint again.") from error
