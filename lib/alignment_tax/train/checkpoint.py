"""States of a long run on disk, whole or not at all: how PPO and pretraining go on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from alignment_tax.store import sync, write_whole

STATE = "state.json"
Parts = Mapping[str, nn.Module | Optimizer]


def save_run(folder: Path, number: int, parts: Parts, content: Mapping[str, Any]) -> None:
    """Write networks, optimisers and numbers into `folder` (safetensors, JSON, nothing pickled)."""
    folder.mkdir(parents=True, exist_ok=True)
    name, tensors = f"state-{number:06d}.safetensors", dict[str, Tensor]()
    part = folder / f"{name}.part"
    for key, each in parts.items():
        held = each.state_dict()
        if isinstance(each, Optimizer):
            held = {f"{i}.{n}": t for i, slots in held["state"].items() for n, t in slots.items()}
        tensors |= {f"{key}.{n}": tensor.detach().cpu().clone() for n, tensor in held.items()}
    save_file(tensors, part)
    sync(part)
    part.replace(folder / name)
    # whenever a run is killed, it finds this state or the one before
    write_whole(folder / STATE, json.dumps({**content, "tensors": name}, indent=2) + "\n")
    for old in set(folder.glob("state-*.safetensors*")) - {folder / name}:
        old.unlink()


def saved_run(folder: Path) -> dict[str, Any] | None:
    """Return the numbers that were saved last into `folder`, or None."""
    file = folder / STATE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def load_run(folder: Path, parts: Parts) -> None:
    """Load what was saved last into networks and optimisers of the same shapes, in place."""
    loaded = load_file(folder / json.loads((folder / STATE).read_text("utf-8"))["tensors"])
    for key, each in parts.items():
        own = {n.removeprefix(f"{key}."): t for n, t in loaded.items() if n.startswith(f"{key}.")}
        if isinstance(each, nn.Module):
            each.load_state_dict(own)
            continue
        slots: dict[int, dict[str, Tensor]] = {}
        for place, tensor in own.items():
            number, slot = place.split(".")
            slots.setdefault(int(number), {})[slot] = tensor
        each.load_state_dict({**each.state_dict(), "state": slots})
