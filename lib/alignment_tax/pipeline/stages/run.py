"""What every stage works with: the preset, the seed and the store of a run, and its memory."""

import dataclasses
import logging
import shutil
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import torch

from alignment_tax import plan, presets, settings
from alignment_tax.models import Loaded, device, load_policy, set_bf16, use_bf16
from alignment_tax.pipeline.recorded_only import RecordedStore
from alignment_tax.presets import AlgorithmConfig, Preset
from alignment_tax.spec import Spec, UnknownStage, check_known
from alignment_tax.store import Artifact, Make, Parents, Store, Values, digest, write_json
from alignment_tax.world.base import World
from alignment_tax.world.real import RealWorld
from alignment_tax.world.tiny import TinyWorld

log = logging.getLogger(__name__)
T = TypeVar("T")


class Run:
    """A preset and a seed, where its artifacts are (by default the folder of runs), its memory.

    The preset may be `recorded`. The seed decides data, order of examples and samples.
    UnknownPreset: there is no such preset. ValueError: the seed or a number makes no sense.
    PlanError: this machine cannot carry it.
    """

    def __init__(self, preset: str | Preset, seed: int = 0, store: Store | None = None) -> None:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seed must be an integer of 0 or more, not {seed!r}.")
        if preset == presets.RECORDED:
            preset, store = presets.TINY, RecordedStore(seed)
        self.preset = presets.get(preset) if isinstance(preset, str) else preset
        presets.check(self.preset)
        self.seed = seed
        self.store = store or Store(settings.runs_folder() / "artifacts")
        if presets.is_paper(self.preset):
            plan.check_machine(self.preset, self.store.root)
        self.world: World = TinyWorld() if self.preset.world == "tiny" else RealWorld()
        self.batch = self.preset.eval.batch_size  # of all that is scored
        self._memory: dict[Hashable, tuple[Hashable, Any]] = {}
        torch.set_num_threads(self.preset.threads)
        set_bf16(self.preset.bf16)
        if self.preset.bf16 and not use_bf16(device()):
            log.warning("This processor has no bfloat16, so %s is computed in float32.", self)

    def __str__(self) -> str:
        """Name the run for a reader."""
        return f"{self.preset.name}, seed {self.seed}"

    def algorithm(self, name: str) -> AlgorithmConfig:
        """The numbers of an algorithm (UnknownStage: the preset has none)."""
        known = self.preset.algorithms
        check_known([name], known, "algorithm", f" in preset {self.preset.name}")
        return known[name]

    def end(self, algorithm: str = "rsf", rounds: int | None = None) -> Spec:
        """An aligned end, by default the last round (UnknownStage: the preset has no such)."""
        last = self.algorithm(algorithm).rounds
        if rounds is not None and not 1 <= rounds <= last:
            told = f"There is no {algorithm} round {rounds} in preset {self.preset.name}"
            raise UnknownStage(f"{told}: its rounds are 1 to {last}.")
        return Spec(algorithm, last if rounds is None else rounds)

    def once(self, slot: Hashable, make: Callable[[], T], key: Hashable = None) -> T:
        """What a slot of the memory holds; made when it holds nothing, or that of another key."""
        if slot not in self._memory or self._memory[slot][0] != key:
            self._memory.pop(slot, None)  # the old one goes before the new one is made
            self._memory[slot] = (key, make())
        found: T = self._memory[slot][1]
        return found

    def load(self, artifact: Artifact) -> Loaded:
        """Load the policy of an artifact and its tokenizer, anew each time."""
        folder = artifact.path / "model"
        return load_policy(folder if folder.is_dir() else artifact.path, self.preset.dtype)

    def get(
        self, stage: str, inputs: Values, make: Make, parents: Parents, name: str, version: int = 1
    ) -> Artifact:
        """The artifact of a stage (see `Store.get`); what all stages depend on is added."""
        preset, kept = self.preset, {"seed": self.seed, "world": _world_key(self.preset.world)}
        kept |= {"threads": preset.threads, "dtype": preset.dtype}
        kept |= {"bf16": True} if use_bf16(device()) else {}
        for key, value in inputs.items():
            config = dataclasses.is_dataclass(value)
            kept[key] = dataclasses.asdict(value) if config else value
        told: dict[str, Any] = {"seed": self.seed, "config": dataclasses.asdict(preset)}
        told |= {"version": version, "parents": parents, "describe": f"{name} ({self})"}
        return self.store.get(stage, kept, make, **told)


class Stage(NamedTuple):
    """What trains a model: `get` makes or loads it, `check` raises what is wrong with a spec."""

    get: Callable[[Run, Spec], Artifact]
    check: Callable[[Run, Spec], object] = lambda run, spec: None


#: By the protocol of a spec; "mixture" checks all mixtures. Filled by the package `stages`.
STAGES: dict[str, Stage] = {}


def trained(run: Run, spec: Spec) -> Artifact:
    """The artifact of the model that a spec names; of a mixture it is the aligned end.

    UnknownStage: the run lacks the method or what it needs. ValueError, MergeError: wrong numbers.
    """
    found = STAGES[spec.protocol]
    check = found.check if spec.mix is None else STAGES["mixture"].check
    check(run, spec)
    return found.get(run, spec.end)


@cache
def _world_key(world: str) -> str:
    """A digest of samples of a world's training data: other data are another artifact."""
    if world != "tiny":
        return "2"
    tiny = TinyWorld()
    samples = [tiny.sft(64, 0).to_list(), tiny.preferences(128, 0, "train").to_list()]
    return digest([samples, tiny.prompts(64, 0, "rlhf")])


def keep_training(folder: Path, log: list[dict[str, Any]], stats: dict[str, Any]) -> None:
    """Write what a training leaves beside the weights; drop the trainer's scratch folder."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    pd.DataFrame(log).to_json(folder / "log.jsonl", orient="records", lines=True)
    write_json(folder / "stats.json", stats)
