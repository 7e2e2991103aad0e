"""A study is a preset and a seed: it hands out policies, reward models and scores.

What exists is loaded, what does not is made, and nothing is computed twice: every stage is an
artifact whose key is the hash of what determines it (see `artifacts`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax import presets, settings
from alignment_tax.merge import search
from alignment_tax.merge.average import Sweep, check_alpha
from alignment_tax.merge.hma import Mixture
from alignment_tax.merge.parts import (
    THIRDS,
    TOLERANCE,
    Partition,
    PartSweep,
    one_part,
    partition,
    ratios_of_blocks,
)
from alignment_tax.mitigate import (
    REMEDIES,
    Setting,
    best_of_n,
    distil,
    distil_along,
    treat,
    treatments,
)
from alignment_tax.mitigate.base import Example
from alignment_tax.mitigate.replay import check_disjoint, tiny_documents, tiny_reported
from alignment_tax.models import (
    AnyReply,
    RewardModel,
    device,
    load_policy,
    load_reward_model,
    load_state,
    measured,
    prompt_ids,
    save_policy,
    save_reward_model,
    score_replies,
    set_bf16,
    texts,
)
from alignment_tax.presets import (
    AlgorithmConfig,
    DistilConfig,
    PpoConfig,
    Preset,
    RatioConfig,
    RewardConfig,
)
from alignment_tax.skills import FAMILIES, Scorer, SkillScores
from alignment_tax.smollm2 import load_smollm2, smollm2_source
from alignment_tax.spec import (
    ADAMERGING,
    ALL_PARTS,
    ALL_REMEDIES,
    AVERAGED,
    COLUMNS,
    DISTIL,
    DISTILLED_AVERAGE,
    IN_ROUNDS,
    KL_COEF,
    NAMED,
    PART,
    PATTERN,
    Spec,
    UnknownStage,
    blocks_to_find,
    has_forward_kl,
    has_ratios,
    patterns,
    ratios_in,
    ratios_text,
    simplest,
)
from alignment_tax.store import Artifact, Store, digest, verify_folder
from alignment_tax.train.algorithms import run_round
from alignment_tax.train.kl import kl_estimate, reply_log_probs
from alignment_tax.train.loop import encode, encode_text
from alignment_tax.train.reward import accuracy, calibration, margins, train_reward_model
from alignment_tax.train.rounds import RoundResult, Start, round_seed
from alignment_tax.train.rsf import draw_samples, rsf_round, short_prompts
from alignment_tax.train.sample import Reply, kept_replies, reply_columns, sample_replies
from alignment_tax.train.sft import train_sft
from alignment_tax.world.base import Prompt, World
from alignment_tax.world.corpus import Document
from alignment_tax.world.real import RealWorld
from alignment_tax.world.tiny import TinyWorld, items

log = logging.getLogger(__name__)


def part_ratios(spec: Spec, parts: Partition) -> dict[str, float]:
    """Return the ratio of every part of a model that a spec with parts names.

    Raises:
        ValueError: the spec lacks its part or its alpha.
        MergeError: there is no such part, or the ratios do not fit (see `merge.parts`).
    """
    if spec.alpha is None or spec.part is None:
        raise ValueError(f"Method {spec.method} needs a part and an alpha, not {spec}.")
    if has_ratios(spec):
        blocks, fixed = ratios_in(spec)
        return ratios_of_blocks(parts, blocks, spec.alpha, fixed=fixed)
    return one_part(parts, spec.part, spec.alpha)


class Study:
    """All stages of one preset and seed.

    Args:
        preset: its name, or a `Preset`. Without a GPU the preset `small` shrinks, and says so.
        seed: a non-negative integer; it decides data, order of examples and samples.
        store: where artifacts are kept; default: the folder of runs.

    Raises:
        UnknownPreset: there is no preset of that name.
        ValueError: seed is no non-negative integer.
    """

    def __init__(self, preset: str | Preset, seed: int = 0, store: Store | None = None) -> None:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seed must be an integer of 0 or more, not {seed!r}.")
        chosen = presets.get(preset) if isinstance(preset, str) else preset
        self.preset = presets.fit_to_device(chosen, device().type)
        if self.preset != chosen:
            log.warning("No GPU here, so this run is smaller: %s", presets.size_text(self.preset))
        self.seed = seed
        self.store = store or Store(settings.runs_folder() / "artifacts")
        self.world: World = TinyWorld() if self.preset.world == "tiny" else RealWorld()
        self._sweeps: dict[
            tuple[str, int | None],
            tuple[PreTrainedModel, PreTrainedTokenizerBase, Sweep | PartSweep],
        ] = {}
        self._settings: dict[int, Setting] = {}
        self._partitions: dict[int, Partition] = {}
        self._texts: dict[bool, list[Document]] = {}
        torch.set_num_threads(self.preset.threads)
        set_bf16(self.preset.bf16)

    def __str__(self) -> str:
        """Name the study for a reader."""
        return f"{self.preset.name}, seed {self.seed}"

    # --- models ---------------------------------------------------------------------------------

    @cached_property
    def base(self) -> Artifact:
        """The pretrained model: shipped for the tiny world, downloaded or unpacked otherwise."""
        if self.preset.world == "tiny":
            return verify_folder(settings.repo_root() / self.preset.model, "the base model")

        def make(folder: Path) -> None:
            model, tokenizer = load_smollm2("float32")
            save_policy(model, tokenizer, folder)

        source = dataclasses.asdict(smollm2_source())
        inputs = {"model": self.preset.model, "file": source["gguf_file"]}
        return self.store.get("base", inputs, make, describe=f"{self.preset.model} as float32")

    @cached_property
    def sft(self) -> Artifact:
        """theta_0: the base finetuned on demonstrations, where RLHF starts and tax is zero."""
        config = self.preset.sft

        def make(folder: Path) -> None:
            policy, tokenizer = load_policy(self.base.path, self.preset.dtype)
            data = self.world.sft(config.documents, self.seed)
            trained = train_sft(policy, tokenizer, data, config, self.seed, folder / "work")
            _finish(folder, trained.log, {"used": trained.used, "dropped": trained.dropped})
            save_policy(trained.model, tokenizer, folder / "model")

        return self._get("sft", {"sft": config}, make, {"base": self.base}, "theta_0")

    def _reward(self, config: RewardConfig, split: str, shift: int, name: str) -> Artifact:
        def make(folder: Path) -> None:
            policy, tokenizer = self._load(self.sft)
            data = self.world.preferences(config.pairs, self.seed + shift, split)
            trained = train_reward_model(
                policy, tokenizer, data, config, self.seed + shift, folder / "work"
            )
            held_out = self.world.preferences(
                config.validation_pairs, self.seed + shift, "validation"
            )
            margin = margins(
                trained.model, tokenizer, held_out, self.preset.eval.batch_size, config.max_length
            )
            table, error = calibration(margin)
            table.to_parquet(folder / "calibration.parquet", index=False)
            kinds = held_out["kind"] if "kind" in held_out.column_names else ["real"] * len(margin)
            pd.DataFrame({"kind": list(kinds), "margin": margin}).to_parquet(
                folder / "held_out.parquet", index=False
            )
            stats = {
                "used": trained.used,
                "dropped": trained.dropped,
                "held_out_pairs": len(margin),
                "pair_accuracy": accuracy(margin),
                "calibration_error": error,
            }
            _finish(folder, trained.log, stats)
            save_reward_model(trained.model, tokenizer, folder / "model")

        inputs = {"reward": config, "split": split, "shift": shift, "batch": self._batch}
        return self._get("reward", inputs, make, {"sft": self.sft}, name)

    @cached_property
    def reward(self) -> Artifact:
        """The reward model that RLHF optimises."""
        return self._reward(self.preset.reward, "train", 0, "the reward model")

    @cached_property
    def judge(self) -> Artifact | None:
        """A reward model trained on other pairs, where there is no gold reward; else None."""
        if self.preset.judge is None:
            return None
        return self._reward(self.preset.judge, "judge", 1000, "the judge")

    def aligned(self, algorithm: str, rounds: int) -> Artifact:
        """The policy after `rounds` rounds of RLHF; each round is an artifact, so a run resumes.

        Raises:
            UnknownStage: an algorithm that the preset does not have, or more rounds than it has.
        """
        return self._aligned(algorithm, rounds, self._algorithm(algorithm))

    def _aligned(self, algorithm: str, rounds: int, config: AlgorithmConfig) -> Artifact:
        """The policy of `aligned` under any numbers of the algorithm."""
        if not 1 <= rounds <= config.rounds:
            raise UnknownStage(
                f"There is no {algorithm} round {rounds} in preset {self.preset.name}: its rounds "
                f"are 1 to {config.rounds}."
            )
        before = None if rounds == 1 else self._aligned(algorithm, rounds - 1, config)
        parent = before or self.sft

        def make(folder: Path) -> None:
            policy, tokenizer = self._load(parent)
            start = Start(
                policy=policy,
                theta_0=self._load(self.sft)[0],
                tokenizer=tokenizer,
                reward_fn=self.rewards,
                gold_fn=self.golds,
                reward_model=self.reward_model(),
                world=self.world,
                prompts=self.round_prompts(rounds, algorithm),
                seed=self.seed,
                number=rounds,
                before=None if before is None else before.path,
                folder=folder,
            )
            result = run_round(algorithm, config, start)
            self._keep_round(folder, result, tokenizer)

        # The number of rounds is left out: a longer run goes on from a shorter one.
        inputs = {"config": {**dataclasses.asdict(config), "rounds": None}, "round": rounds}
        inputs |= {"algorithm": algorithm, "batch": self._batch}
        parents = {"policy": parent, "reward": self.reward, "theta_0": self.sft}
        name = f"{algorithm} round {rounds} of {config.rounds}"
        return self._get(algorithm, inputs, make, parents, name)

    def ppo_with(self, kl_coef: float, rounds: int) -> Artifact:
        """The policy after rounds of PPO with this weight of its KL penalty (paper, Fig. 8).

        Raises:
            UnknownStage: a preset without PPO, or more rounds than it has.
        """
        config = self._algorithm("ppo")
        assert isinstance(config, PpoConfig)
        return self._aligned("ppo", rounds, dataclasses.replace(config, kl_coef=kl_coef))

    def _keep_round(
        self, folder: Path, result: RoundResult, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Write what a round of RLHF made: samples with their gold reward, log, stats, policy."""
        samples = result.samples.assign(
            prompt=[json.dumps(p) for p in result.samples["prompt"]],
            gold=self.golds(list(result.samples["prompt"]), list(result.samples["reply"])),
        )
        samples.to_parquet(folder / "samples.parquet", index=False)
        _finish(folder, result.log, result.stats)
        save_policy(result.policy, tokenizer, folder / "model")

    def rsf(self, rounds: int, algorithm: str = "rsf") -> Artifact:
        """The policy after `rounds` rounds of RSF (or of its control): see `aligned`."""
        return self.aligned(algorithm, rounds)

    def _algorithm(self, name: str) -> AlgorithmConfig:
        if name not in self.preset.algorithms:
            raise UnknownStage(
                f"There is no algorithm {name!r} in preset {self.preset.name}: it has "
                f"{', '.join(self.preset.algorithms)}."
            )
        return self.preset.algorithms[name]

    def artifact(self, spec: Spec) -> Artifact:
        """The artifact behind a model; of an average it is the aligned end.

        Raises:
            UnknownStage: a method, or what goes with it, that this study does not have.
            ValueError: a strength or alpha that cannot be used.
        """
        if spec.algorithm == "base":
            return self.base
        if spec.algorithm == "sft":
            return self.sft
        if spec.end != spec:
            if spec.alpha is None and spec.method != "average":
                raise ValueError(f"{spec.method!r} needs alpha, the weight of the aligned model.")
            check_alpha(1.0 if spec.alpha is None else spec.alpha)
            if spec.method == PART or has_ratios(spec):
                self._check_parts(spec)
            return self.artifact(spec.end)
        if spec.method == "none":
            return self.aligned(spec.algorithm, spec.rounds)
        if spec.method == KL_COEF:
            return self.ppo_with(_kl_coef(spec), spec.rounds)
        if spec.algorithm != "rsf":
            raise UnknownStage(
                f"{spec.method!r} of {spec.algorithm}: remedies work on the samples of rsf."
            )
        if spec.method.endswith(IN_ROUNDS):
            return self.remedied_rounds(spec.remedy, spec.strength, spec.rounds)
        return self.remedied(spec.method, spec.strength, spec.rounds)

    # --- remedies -------------------------------------------------------------------------------

    def remedied(
        self, method: str, strength: float | None = None, rounds: int | None = None
    ) -> Artifact:
        """theta_0 finetuned once on RSF's best-of-n samples under one remedy: see `distilled`.

        Args:
            method: a name in `mitigate.REMEDIES`, or "distil" (no strength): the plain run.
            strength: the remedy's.
            rounds: how many rounds of RSF the samples come from; all by default.

        Raises:
            UnknownStage, ValueError: as `distilled`.
        """
        if method == DISTIL:
            if strength is not None:
                raise ValueError(f"distil is the run without a remedy: it has no {strength=}.")
            return self.distilled({}, rounds)
        self._check_method(method)
        return self.distilled({method: _given(method, strength)}, rounds)

    def distilled(self, remedies: Mapping[str, float], rounds: int | None = None) -> Artifact:
        """theta_0 finetuned once on RSF's best-of-n samples under any remedies together.

        This is the paper's protocol (D.1, "distillation style") and the default here: it is cheap,
        since nothing is sampled again, and equal for all, since every remedy gets the same samples
        in as many steps. `remedied_rounds` is the other protocol.

        What acts on the outcome alone (graft, average) is made from the run without it, and what
        collects along a plain run (sma, ema, bema) from one run for all strengths of the preset.
        Beside the model there are log.jsonl and stats.json: steps, seconds, peak_memory_mb (see
        `models.measured`) of the training behind it.

        Args:
            remedies: names in `mitigate.REMEDIES` to strengths; none is the plain run.
            rounds: how many rounds of RSF the samples come from; all by default.

        Raises:
            UnknownStage: an unknown remedy or round, or a preset without the numbers or the text.
            ValueError: a strength that the remedy cannot use; all before anything is made.
        """
        last = self.preset.rsf.rounds if rounds is None else rounds
        self._check_remedies(remedies, last)
        chosen = dict(sorted(remedies.items()))
        later = {n: s for n, s in remedies.items() if REMEDIES[n].when == "afterwards"}
        label = " + ".join(f"{name} {value:g}" for name, value in remedies.items()) or "plain"
        if later:
            before = self.distilled({n: s for n, s in chosen.items() if n not in later}, last)
            return self._reworked(before, later, last, label)
        if len(chosen) == 1 and (only := next(iter(chosen.items()))) in self._riding:
            return self._ridden(only, last, label)

        def make(folder: Path) -> None:
            setting = self._setting(chosen, last)
            run, seconds, memory = measured(lambda: distil(setting, chosen))
            _finish(folder, run.log, _cost(len(run.log), seconds, memory))
            save_policy(run.policy, setting.tokenizer, folder / "model")

        inputs = self._distil_inputs(chosen) | {"remedies": [list(pair) for pair in chosen.items()]}
        parents = self._distil_parents(last)
        return self._get("distilled", inputs, make, parents, f"the distilled run ({label})")

    @property
    def _riding(self) -> list[tuple[str, float]]:
        """The remedies and strengths of the preset that one plain run serves together."""
        return [
            (grid.method, strength)
            for grid in self.preset.remedies
            if REMEDIES[grid.method].when == "along"
            for strength in grid.strengths
        ]

    def _ridden(self, wanted: tuple[str, float], last: int, label: str) -> Artifact:
        """A policy that was collected along the plain run, which serves all of its kind."""

        def make_all(folder: Path) -> None:
            setting = self._setting({}, last)
            (run, outcomes), seconds, memory = measured(lambda: distil_along(setting, self._riding))
            _finish(folder, run.log, _cost(len(run.log), seconds, memory))
            for (name, strength), policy in zip(self._riding, outcomes, strict=True):
                save_policy(policy, setting.tokenizer, folder / f"{name} {strength:g}")

        inputs = self._distil_inputs({}) | {"along": [list(pair) for pair in self._riding]}
        parents = self._distil_parents(last)
        all_of_them = self._get("along", inputs, make_all, parents, "averages along the plain run")

        def make(folder: Path) -> None:
            shutil.copytree(all_of_them.path / f"{wanted[0]} {wanted[1]:g}", folder / "model")
            for name in ("log.jsonl", "stats.json"):
                shutil.copy(all_of_them.path / name, folder / name)

        parents = {"run": all_of_them}
        return self._get(
            "ridden", {"remedy": list(wanted)}, make, parents, f"the outcome ({label})"
        )

    def _reworked(
        self, before: Artifact, later: Mapping[str, float], last: int, label: str
    ) -> Artifact:
        """The outcome of a run after remedies that need nothing but that outcome."""

        def make(folder: Path) -> None:
            setting = self._setting(later, last)
            policy, _ = self._load(before)
            (outcome, _), seconds, memory = measured(
                lambda: treat(policy, treatments(setting, later), lambda model, extras: None)
            )
            cost = json.loads((before.path / "stats.json").read_text())
            shutil.copy(before.path / "log.jsonl", folder / "log.jsonl")
            peaks = [peak for peak in (memory, cost["peak_memory_mb"]) if peak is not None]
            cost = _cost(cost["steps"], cost["seconds"] + seconds, max(peaks, default=None))
            (folder / "stats.json").write_text(json.dumps(cost, indent=2))
            save_policy(outcome, setting.tokenizer, folder / "model")

        inputs = self._distil_inputs(later) | {"later": [list(pair) for pair in later.items()]}
        parents = {"run": before} | self._distil_parents(last)
        return self._get("reworked", inputs, make, parents, f"the outcome ({label})")

    def remedied_rounds(
        self, method: str, strength: float | None, rounds: int | None = None
    ) -> Artifact:
        """The policy after rounds of RSF with a remedy inside each: the paper's other protocol.

        Every round samples and learns anew, so one strength costs as much as all of RSF; the
        default is the distillation style (`remedied`), cheap and equal for all. L1, L2, KD and KL
        pull to theta_0 in every round, LoRA is merged at the end of each.

        Raises:
            UnknownStage: no such remedy or round, or one that does not act during training.
            ValueError: a strength that the remedy cannot use.
        """
        last = self.preset.rsf.rounds if rounds is None else rounds
        self._check_method(method)
        remedies = {method: _given(method, strength)}
        if REMEDIES[method].when not in ("training", "model"):
            inside = [n for n, r in REMEDIES.items() if r.when in ("training", "model")]
            raise UnknownStage(
                f"{method!r} needs no rounds of its own: it acts along a run or on its outcome. "
                f"Inside the rounds of RSF act: {', '.join(inside)}."
            )
        self._check_remedies(remedies, last)
        before = None if last == 1 else self.remedied_rounds(method, strength, last - 1)
        parent = before or self.sft
        config = self.preset.rsf

        def make(folder: Path) -> None:
            policy, tokenizer = self._load(parent)
            seed = round_seed(self.seed, last)
            theta_0, like_rsf = self._load(self.sft)[0], DistilConfig.like(config)
            setting = Setting(theta_0, tokenizer, (), like_rsf, seed)
            setting = self._with_texts(setting, remedies)
            chosen = treatments(setting, remedies)
            factor = math.prod(treatment.learning_rate_factor for treatment in chosen)
            faster = dataclasses.replace(config, learning_rate=config.learning_rate * factor)
            prompts = self.round_prompts(last)
            (outcome, result), seconds, memory = measured(
                lambda: treat(
                    policy,
                    chosen,
                    lambda model, extras: rsf_round(
                        model, tokenizer, self.rewards, prompts, faster, seed, extras=extras
                    ),
                )
            )
            stats = result.stats | _cost(len(result.log), seconds, memory)
            kept = dataclasses.replace(result, policy=outcome, stats=stats)
            self._keep_round(folder, kept, tokenizer)

        inputs = {"config": {**dataclasses.asdict(config), "rounds": None}, "round": last}
        inputs |= {"remedy": [method, remedies[method]], "batch": self._batch}
        inputs |= self._texts_inputs(remedies)
        parents = {"policy": parent, "reward": self.reward, "theta_0": self.sft}
        name = f"rsf round {last} of {config.rounds} with {method} {strength:g}"
        return self._get("rsf_remedied", inputs, make, parents, name)

    def _check_method(self, method: str) -> None:
        if method not in REMEDIES:
            raise UnknownStage(f"There is no method {method!r}. Known: {', '.join(self.methods)}.")

    def _check_remedies(self, remedies: Mapping[str, float], rounds: int) -> None:
        """Refuse what remedies cannot use before anything is trained for them.

        The base model has the shapes of theta_0, and the pool is at most as long as assumed here:
        whatever is refused here would be refused after hours of RSF.
        """
        for name in remedies:
            self._check_method(name)
        config = self.preset.rsf
        if not 1 <= rounds <= config.rounds:
            raise UnknownStage(
                f"There is no rsf round {rounds} in preset {self.preset.name}: its rounds are 1 to "
                f"{config.rounds}."
            )
        if self.preset.distil is None:
            raise UnknownStage(
                f"Preset {self.preset.name} does not say how theta_0 is finetuned under a remedy: "
                "set its `distil`."
            )
        if remedies:
            base, tokenizer = self._load(self.base)
            longest: list[Example] = [([], "")] * (rounds * config.prompts_per_round)
            setting = Setting(base, tokenizer, longest, self.preset.distil, self.seed)
            treatments(self._with_texts(setting, remedies), remedies)

    def _setting(self, remedies: Mapping[str, float], rounds: int) -> Setting:
        """What remedies start from; one for all of them, so that theta_0 reads the pool once."""
        if rounds not in self._settings:
            assert self.preset.distil is not None  # _check_remedies has refused it
            theta_0, tokenizer = self._load(self.sft)
            self._settings = {
                rounds: Setting(
                    theta_0, tokenizer, self.pool(rounds), self.preset.distil, self.seed
                )
            }
        return self._with_texts(self._settings[rounds], remedies)

    def pool(self, rounds: int | None = None) -> list[Example]:
        """The best-of-n samples of the first rounds of RSF (default all): prompt and reply each."""
        last = self.preset.rsf.rounds if rounds is None else rounds
        tables = [pd.read_parquet(self.rsf(r).path / "samples.parquet") for r in range(1, last + 1)]
        return best_of_n(table.assign(prompt=table["prompt"].map(json.loads)) for table in tables)

    def replay_documents(self, evaluated_formats: bool = True) -> list[Document]:
        """Pretraining text to replay, with or without the formats of the skills that are scored.

        Raises:
            UnknownStage: the preset has none.
        """
        if self.preset.world != "tiny" or self.preset.replay_documents == 0:
            raise UnknownStage(
                f"Preset {self.preset.name} has no pretraining text to replay: so far only presets "
                "of the tiny world do. Choose another remedy than replay."
            )
        if evaluated_formats not in self._texts:
            n = self.preset.replay_documents
            self._texts[evaluated_formats] = tiny_documents(n, self.seed, evaluated_formats)
        return self._texts[evaluated_formats]

    def _with_texts(self, setting: Setting, remedies: Mapping[str, float]) -> Setting:
        """Return a setting with the pretraining text that these remedies use, if any."""
        texts: dict[str, Any] = {}
        if "replay" in remedies:
            texts["replay"] = self.replay_documents()
        if "replay_other" in remedies:
            texts["replay_other"] = self.replay_documents(evaluated_formats=False)
        if not texts:
            return setting
        return dataclasses.replace(setting, **texts, reported=tiny_reported())

    def _texts_inputs(self, remedies: Mapping[str, float]) -> dict[str, Any]:
        """What determines the replayed text: other documents are another artifact."""
        return {
            name: digest([d.text for d in self.replay_documents(name == "replay")])
            for name in ("replay", "replay_other")
            if name in remedies
        }

    def _distil_inputs(self, remedies: Mapping[str, float]) -> dict[str, Any]:
        return {"distil": self.preset.distil, "batch": self._batch} | self._texts_inputs(remedies)

    def _distil_parents(self, last: int) -> dict[str, Artifact]:
        rounds = {f"round {number}": self.rsf(number) for number in range(1, last + 1)}
        return {"theta_0": self.sft, "reward": self.reward, **rounds}

    # --- ratios of parts ------------------------------------------------------------------------

    @property
    def _ratio_config(self) -> RatioConfig:
        if self.preset.ratios is None:
            raise UnknownStage(
                f"Preset {self.preset.name} does not say how ratios of parts are searched: set its "
                "`ratios`."
            )
        return self.preset.ratios

    def _partition(self, blocks: int) -> Partition:
        """How a policy is cut into K blocks; the base has the shapes of all, and is there first."""
        if blocks not in self._partitions:
            self._partitions[blocks] = partition(self._load(self.base)[0], blocks)
        return self._partitions[blocks]

    def _check_parts(self, spec: Spec) -> None:
        """Refuse parts and ratios that make no sense before anything is trained for them.

        Raises:
            UnknownStage: no such search, or a preset without its numbers or its data.
            ValueError, MergeError: see `part_ratios` and `searches.check_search`.
        """
        blocks = blocks_to_find(spec)
        if blocks is None:
            cut = len(ratios_in(spec)[0]) if has_ratios(spec) else len(THIRDS)
            part_ratios(spec, self._partition(cut))
            return
        if spec.method not in search.SEARCHES:
            known = ", ".join(search.SEARCHES)
            raise UnknownStage(f"There is no search {spec.method!r} for ratios. Known: {known}.")
        if spec.alpha is None:
            raise ValueError(f"{spec.method!r} needs alpha, the mean of the ratios.")
        self._partition(blocks)
        search.check_search(spec.method, blocks, spec.alpha, self._ratio_config)
        if spec.method == ADAMERGING and self.preset.world != "tiny":
            raise UnknownStage("AdaMerging takes labelled items of the tiny world alone so far.")
        self._kept_documents(spec.method)

    def _last(self, algorithm: str, rounds: int | None) -> int:
        """The rounds that are meant: by default all of the algorithm."""
        return self._algorithm(algorithm).rounds if rounds is None else rounds

    def best_replies(self, algorithm: str = "rsf", rounds: int | None = None) -> Artifact:
        """The aligned policy's own best replies, on which HMA works: samples.parquet.

        One row a reply: group (number of the prompt), prompt (JSON), reply, finished, reward,
        chosen (the best finished reply to its prompt). The prompts are of RLHF, not of the reported
        ones.

        Raises:
            UnknownStage: a preset without the numbers, or as `aligned`.
        """
        config, rsf = self._ratio_config, self.preset.rsf
        aligned = self.aligned(algorithm, self._last(algorithm, rounds))

        def make(folder: Path) -> None:
            policy, tokenizer = self._load(aligned)
            prompts = self.world.prompts(config.prompts, self.seed, "rlhf")
            drawn = dataclasses.replace(rsf, n=config.n)
            samples = draw_samples(policy, tokenizer, self.rewards, prompts, drawn, self.seed)
            samples["prompt"] = [json.dumps(prompt) for prompt in samples["prompt"]]
            samples.to_parquet(folder / "samples.parquet", index=False)

        inputs = {
            "prompts": config.prompts,
            "n": config.n,
            "sampling": [rsf.temperature, rsf.max_new_tokens, rsf.max_prompt_length],
            "batch": [self._batch, rsf.sampling_batch],
        }
        parents = {"policy": aligned, "reward": self.reward}
        return self._get("best_replies", inputs, make, parents, f"the best replies of {algorithm}")

    def mixture(
        self, blocks: int, algorithm: str = "rsf", rounds: int | None = None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Mixture]:
        """A network, its tokenizer, and the mixture of theta_0 and the policy to run in it."""
        aligned = self.aligned(algorithm, self._last(algorithm, rounds))
        model, tokenizer = self._load(self.sft)
        ends = (load_state(self.sft.path / "model"), load_state(aligned.path / "model"))
        return model, tokenizer, Mixture(model, *ends, partition(model, blocks))

    def search_data(
        self, algorithm: str = "rsf", rounds: int | None = None, method: str = "hma"
    ) -> search.Data:
        """What a search for ratios looks at: see `searches.Data`.

        Raises:
            UnknownStage: this world has no data of that kind.
        """
        config = self._ratio_config
        _, tokenizer = self._theta_0
        room = self.preset.rsf.max_prompt_length + self.preset.rsf.max_new_tokens
        samples = pd.read_parquet(self.best_replies(algorithm, rounds).path / "samples.parquet")
        best = samples[samples["chosen"]]
        replies = [
            encode(tokenizer, json.loads(prompt), reply, room)
            for prompt, reply in zip(best["prompt"], kept_replies(best), strict=True)
        ]
        kept_texts = {}
        if documents := self._kept_documents(method):
            check_disjoint(documents, tiny_reported())
            kept = [kept_text(document) for document in documents]
            kept_texts[method] = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in kept]
        labelled = []
        if method == ADAMERGING:
            labelled = [encode_text(tokenizer, *item) for item in _labelled_items(config.labelled)]
        rlhf = self.world.prompts(10**6, self.seed, "rlhf")
        prompts = short_prompts(tokenizer, rlhf, self.preset.rsf.max_prompt_length)
        prompts = prompts[: config.reward_prompts]

        def reward(model: PreTrainedModel, chosen: Sequence[int]) -> float:
            asked = [prompts[i] for i in chosen]
            replies = [group[0] for group in self._groups(model, tokenizer, asked, 1)]
            return float(self.rewards(asked, replies).mean())

        return search.Data(replies, kept_texts, labelled, len(prompts), reward)

    def _kept_documents(self, method: str) -> list[Document]:
        """The pretraining text on which a search keeps theta_0; none for the other searches."""
        if method not in search.KEEPING:
            return []
        return self.replay_documents(search.KEEPING[method])[: self._ratio_config.kept_texts]

    def ratios(
        self,
        method: str,
        blocks: int,
        alpha: float,
        algorithm: str = "rsf",
        rounds: int | None = None,
    ) -> search.Found:
        """The ratios of K blocks, of mean alpha, that a search finds (see `searches`).

        Raises:
            UnknownStage: no such search, or a preset without its numbers or its data.
            MergeError: a mean or a number of blocks that the search cannot use. All before anything
                is trained.
        """
        last = self._last(algorithm, rounds)
        self._check_parts(Spec(algorithm, last, method, alpha, part=f"K={blocks}"))
        config = self._ratio_config
        aligned = self.aligned(algorithm, last)
        replies = self.best_replies(algorithm, rounds)

        def make(folder: Path) -> None:
            model, _, mixture = self.mixture(blocks, algorithm, rounds)
            data = self.search_data(algorithm, rounds, method)
            task = search.Task(mixture, model, data, config, alpha, self.seed)
            search.SEARCHES[method](task).save(folder)

        # what is recorded does not change what is found
        numbers = dataclasses.replace(config, parts=(), grids=())
        inputs: dict[str, Any] = {"method": method, "blocks": blocks, "alpha": alpha}
        inputs["config"] = presets.as_dict(numbers)
        if documents := self._kept_documents(method):
            inputs["texts"] = digest([kept_text(document) for document in documents])
        if method == ADAMERGING:
            inputs["labelled"] = digest([list(item) for item in _labelled_items(config.labelled)])
        parents = {"theta_0": self.sft, "policy": aligned, "replies": replies}
        name = f"ratios of {blocks} blocks by {method}, mean {alpha:g}"
        return search.Found.load(self._get("ratios", inputs, make, parents, name).path)

    def resolved(self, spec: Spec) -> Spec:
        """Return a spec with the ratios that its search finds, where it leaves them open."""
        blocks = blocks_to_find(spec)
        if blocks is None:
            return spec
        if spec.alpha is None:
            raise ValueError(f"{spec.method!r} needs alpha, the mean of the ratios.")
        found = self.ratios(spec.method, blocks, spec.alpha, spec.algorithm, spec.rounds)
        text = ratios_text(found.blocks, found.fixed)
        # the mean of the ratios misses alpha by a rounding error, where it does not by more
        exact = abs(found.alpha - spec.alpha) <= TOLERANCE
        return dataclasses.replace(spec, alpha=spec.alpha if exact else found.alpha, part=text)

    def policy(
        self, algorithm: str = "sft", rounds: int | None = None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load a policy (base | sft | an algorithm; by default its last round) and its tokenizer.

        Raises:
            UnknownStage: see `aligned`.
        """
        if algorithm in ("base", "sft"):
            return self._load(self.artifact(Spec(algorithm)))
        return self._load(self.aligned(algorithm, rounds or self._algorithm(algorithm).rounds))

    def reward_model(self) -> tuple[RewardModel, PreTrainedTokenizerBase]:
        """Load the reward model and its tokenizer."""
        return load_reward_model(self.reward.path / "model")

    # --- rewards --------------------------------------------------------------------------------

    @cached_property
    def _reward_model(self) -> tuple[RewardModel, PreTrainedTokenizerBase]:
        return self.reward_model()

    @cached_property
    def _judge_model(self) -> tuple[RewardModel, PreTrainedTokenizerBase] | None:
        return load_reward_model(self.judge.path / "model") if self.judge else None

    def rewards(self, prompts: list[Prompt], replies: Sequence[AnyReply]) -> np.ndarray:
        """The reward model's score of each reply, shape (n,)."""
        model, tokenizer = self._reward_model
        length = self.preset.reward.max_length
        return score_replies(model, tokenizer, prompts, replies, self._batch, length)

    def golds(self, prompts: list[Prompt], replies: Sequence[AnyReply]) -> np.ndarray:
        """The reward that was not optimised, gold or the judge's, for each reply, shape (n,)."""
        gold = self.world.gold(prompts, texts(replies))
        if gold is not None:
            return gold
        if self._judge_model is None or self.preset.judge is None:
            raise ValueError(f"Preset {self.preset.name} has neither a gold reward nor a judge.")
        model, tokenizer = self._judge_model
        length = self.preset.judge.max_length
        return score_replies(model, tokenizer, prompts, replies, self._batch, length)

    def round_prompts(self, rounds: int, algorithm: str = "rsf") -> list[Prompt]:
        """The prompts of one round: the next slice of a seeded walk over the RLHF prompts."""
        config = self._algorithm(algorithm)
        if isinstance(config, PpoConfig):
            n = config.prompts_per_iteration * config.iterations
        else:
            n = config.prompts_per_round
        prompts = self.world.prompts(10**6, self.seed, "rlhf")
        start = (rounds - 1) * n % len(prompts)
        return (prompts * (1 + n // len(prompts)) + prompts)[start : start + n]

    # --- scores ---------------------------------------------------------------------------------

    @cached_property
    def scorer(self) -> Scorer:
        """Scores skills on the reported items; built once."""
        config = self.preset.eval
        return Scorer(config.suite, config.limit, config.batch_size, without=config.without)

    def evaluate(self, spec: Spec) -> Artifact:
        """Score a model: skills, reward, gold and KL; the artifact holds point, items and replies.

        Specs of the same weights (see `simplest`) are scored once.
        """
        spec = simplest(self.resolved(spec))
        parent = self.artifact(spec)
        config = self.preset.eval

        def make(folder: Path) -> None:
            model, tokenizer = self.model(spec)
            scores = self.scorer.score(model, tokenizer)
            replies = self.sampled_replies(model, tokenizer)
            scores.save(folder)
            replies.to_parquet(folder / "replies.parquet", index=False)
            point = scores.metrics | {
                "reward": replies["reward"].mean(),
                "gold": replies["gold"].mean(),
                "kl": kl_estimate(replies["log_prob"].to_numpy(), replies["log_prob_0"].to_numpy()),
                "n_items": scores.n_items,
            }
            (folder / "point.json").write_text(
                json.dumps({k: float(v) for k, v in point.items()}, indent=2)
            )

        inputs = {
            "eval": config,
            "sampling": [self.preset.rsf.temperature, self.preset.rsf.max_new_tokens],
            "alpha": spec.alpha,
            "method": spec.method,
            "items": _items_key(config.suite),
        }
        details = {"strength": spec.strength, "part": spec.part}
        inputs |= {key: value for key, value in details.items() if value is not None}
        parents = {"policy": parent, "reward": self.reward, "reference": self.sft}
        return self._get("scores", inputs, make, parents, f"scores of {spec}", version=3)

    def sampled_replies(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> pd.DataFrame:
        """Sample replies to the reported prompts and score them.

        Returns:
            One row a reply: prompt (JSON), reply, ids (its tokens), finished, reward, gold,
            log_prob under the model and log_prob_0 under theta_0 (nats).
        """
        config, rsf = self.preset.eval, self.preset.rsf
        prompts = [
            p
            for p in self.world.prompts(4 * config.reward_prompts, 0, "reported")
            if len(prompt_ids(tokenizer, p)) <= rsf.max_prompt_length
        ][: config.reward_prompts]
        groups = self._groups(model, tokenizer, prompts, config.reward_samples)
        asked = [p for p, group in zip(prompts, groups, strict=True) for _ in group]
        replies = [reply for group in groups for reply in group]
        theta_0, _ = self._theta_0
        return pd.DataFrame(
            {
                "prompt": [json.dumps(p) for p in asked],
                **reply_columns(replies),
                "reward": self.rewards(asked, replies),
                "gold": self.golds(asked, replies),
                "log_prob": reply_log_probs(model, tokenizer, asked, replies, self._batch),
                "log_prob_0": reply_log_probs(theta_0, tokenizer, asked, replies, self._batch),
            }
        )

    def forward_kl(self, spec: Spec) -> Artifact:
        """KL(theta_0 || model) on the reported prompts: kl.json, in nats a reply.

        Estimated from the replies that theta_0 gave when it was scored: the mean of log pi_0 -
        log pi over them. This is the direction of Shenfeld et al. 2025 (RL's Razor), on the prompts
        of the new task; `kl` in the table of points is the other one, on the model's own replies.
        It has a stage of its own, so that scores that are stored stay valid.
        """
        spec = simplest(self.resolved(spec))
        parent, scored = self.artifact(spec), self.evaluate(Spec("sft"))

        def make(folder: Path) -> None:
            table = pd.read_parquet(scored.path / "replies.parquet")
            model, tokenizer = self.model(spec)
            prompts = [json.loads(prompt) for prompt in table["prompt"]]
            after = reply_log_probs(model, tokenizer, prompts, kept_replies(table), self._batch)
            before = table["log_prob_0"].to_numpy()
            found = {"forward_kl": kl_estimate(before, after), "replies": len(table)}
            (folder / "kl.json").write_text(json.dumps(found, indent=2))

        details = {"alpha": spec.alpha, "strength": spec.strength, "part": spec.part}
        inputs = {"method": spec.method, "batch": self._batch, **details}
        parents = {"policy": parent, "replies": scored}
        return self._get("forward_kl", inputs, make, parents, f"forward KL of {spec}", version=2)

    def forward_kls(self, specs: Sequence[Spec]) -> pd.DataFrame:
        """One row for each model that `has_forward_kl`: what names it, and forward_kl (nats)."""
        rows = []
        for spec in filter(has_forward_kl, specs):
            found = json.loads((self.forward_kl(spec).path / "kl.json").read_text())
            named = {name: value for name, value in self.point(spec).items() if name in NAMED}
            rows.append({**named, "forward_kl": found["forward_kl"]})
        return pd.DataFrame(rows)

    def _groups(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: list[Prompt],
        n: int,
    ) -> list[list[Reply]]:
        """Sample n replies to each prompt, with the same random numbers for every model."""
        rsf = self.preset.rsf
        return sample_replies(
            model,
            tokenizer,
            prompts,
            n=n,
            temperature=rsf.temperature,
            max_new_tokens=rsf.max_new_tokens,
            batch_size=rsf.sampling_batch,
            seed=self.seed,
        )

    @cached_property
    def _theta_0(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return self._load(self.sft)

    def sweep(
        self, rounds: int | None = None, algorithm: str = "rsf"
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Sweep]:
        """A model that its sweep sets to any mixture of theta_0 and the aligned policy."""
        return self._sweep(self.aligned(algorithm, rounds or self._algorithm(algorithm).rounds))

    def _sweep(self, aligned: Artifact) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Sweep]:
        model, tokenizer = self._load(self.sft)
        ends = (load_state(self.sft.path / "model"), load_state(aligned.path / "model"))
        return model, tokenizer, Sweep(model, *ends)

    def part_sweep(
        self,
        rounds: int | None = None,
        algorithm: str = "rsf",
        blocks: int | Sequence[int] = len(THIRDS),
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PartSweep]:
        """A model whose every part its sweep sets to a ratio of its own (see `merge.parts`)."""
        aligned = self.aligned(algorithm, rounds or self._algorithm(algorithm).rounds)
        return self._part_sweep(aligned, blocks)

    def _part_sweep(
        self, aligned: Artifact, blocks: int | Sequence[int]
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PartSweep]:
        model, tokenizer = self._load(self.sft)
        ends = (load_state(self.sft.path / "model"), load_state(aligned.path / "model"))
        return model, tokenizer, PartSweep(model, *ends, partition(model, blocks))

    def model(self, spec: Spec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model that a spec names, and its tokenizer; a mixture is valid until the next one.

        Raises:
            UnknownStage: no such method.
            ValueError, MergeError: a mixture whose part or ratios make no sense.
        """
        if spec.end != spec:
            return self._mixed(self.resolved(spec))
        return self._load(self.artifact(spec))

    def _mixed(self, spec: Spec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        # One sweep is kept: its models are in memory, and a sweep's points come one after another.
        blocks = None
        if spec.method == PART or has_ratios(spec):
            blocks = len(ratios_in(spec)[0]) if has_ratios(spec) else len(THIRDS)
        end = self.artifact(spec)
        if (end.key, blocks) not in self._sweeps:
            made = self._sweep(end) if blocks is None else self._part_sweep(end, blocks)
            self._sweeps = {(end.key, blocks): made}
        model, tokenizer, sweep = self._sweeps[end.key, blocks]
        if isinstance(sweep, PartSweep):
            sweep.set(part_ratios(spec, sweep.partition))
        else:
            sweep.set(1.0 if spec.alpha is None else spec.alpha)
        return model, tokenizer

    def scores(self, spec: Spec) -> SkillScores:
        """The skills of a model with every item, for paired comparisons."""
        return SkillScores.load(self.evaluate(spec).path)

    def point(self, spec: Spec) -> dict[str, Any]:
        """One row of the table of points (see COLUMNS); what does not apply is None."""
        spec = self.resolved(spec)
        artifact = self.evaluate(spec)
        values = json.loads((artifact.path / "point.json").read_text())
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {k: v for k, v in values.items() if k in COLUMNS}
        row |= {"study": self.preset.name, "seed": self.seed, "n_items": int(values["n_items"])}
        row |= {"algorithm": spec.algorithm, "method": spec.method, "alpha": spec.alpha}
        row |= {"strength": spec.strength, "part": spec.part}
        return row | {"rounds": spec.rounds, "key": artifact.key[:16]}

    @property
    def methods(self) -> list[str]:
        """The words that `specs` takes: algorithms, then methods, then remedies."""
        remedies = [grid.method for grid in self.preset.remedies]
        inside = [n + IN_ROUNDS for n in remedies if REMEDIES[n].when in ("training", "model")]
        own = [*remedies, *(name + AVERAGED for name in remedies), *inside]
        distil = [DISTIL, DISTILLED_AVERAGE, ALL_REMEDIES] if self.preset.distil else []
        parts = [PART, PATTERN, *self._searches, ALL_PARTS] if self.preset.ratios else []
        parts += [KL_COEF] if self.preset.ppo and self.preset.kl_coefs else []
        return ["base", *self.preset.algorithms, "average", "early_stopping", *parts, *distil, *own]

    @property
    def _searches(self) -> list[str]:
        """The searches for ratios that the preset records."""
        grids = self.preset.ratios.grids if self.preset.ratios else ()
        return list(dict.fromkeys(grid.method for grid in grids))

    def specs(self, methods: Sequence[str] | None = None) -> list[Spec]:
        """The models that are recorded, theta_0 always among them, each once.

        Args:
            methods: words of `methods`. An algorithm is its rounds and averages (of the control
                only the last round: it says what RSF does without its choice), a remedy its
                strengths in the preset, "remedies" the plain distilled run, its averages and all
                remedies, "part" or a search for ratios its grid, "pattern" the ratios of the
                paper's Fig. 9, "parts" all of these. Averages by part are those of the algorithms
                that are named beside them, of rsf if none is; of others than rsf only the thirds of
                the layers are averaged. None: the base and all algorithms, no remedy, no part.

        Raises:
            UnknownStage: an unknown word; names the known ones.
            ValueError, MergeError: parts or searches of the preset that make no sense.
        """
        if methods is None:
            models = [Spec("base"), Spec("sft")]
            return models + [s for name in self.preset.algorithms for s in self._specs_of(name)]
        if unknown := [name for name in methods if name not in self.methods]:
            raise UnknownStage(
                f"Preset {self.preset.name} records no method {unknown[0]!r}. "
                f"Choose from: {', '.join(self.methods)}."
            )
        parts = [PART, PATTERN, *self._searches]
        words = [w for name in methods for w in (parts if name == ALL_PARTS else [name])]
        named = [name for name in words if name in self.preset.algorithms and name != "rsf_random"]
        chosen = [Spec("sft")]
        for word in words:
            if word in parts:
                chosen += [s for name in named or ["rsf"] for s in self._specs_of_parts(word, name)]
            else:
                chosen += self._specs_of(word)
        return list(dict.fromkeys(chosen))

    def _specs_of(self, name: str) -> list[Spec]:
        """The models of one word of `methods`."""
        alphas, last = self.preset.alphas, self.preset.rsf.rounds
        if name == "base":
            return [Spec("base")]
        if name in self.preset.algorithms:
            end = self.preset.algorithms[name].rounds
            if name == "rsf_random":
                return [Spec(name, end)]
            rounds = [Spec(name, r) for r in range(1, end + 1)]
            return rounds + [Spec(name, end, "average", alpha) for alpha in alphas]
        if name == "early_stopping":
            return [Spec("rsf", r) for r in range(1, last + 1)]
        if name == DISTIL:
            return [Spec("rsf", last, DISTIL)]
        if name == KL_COEF:
            end = self._algorithm("ppo").rounds
            return [Spec("ppo", end, KL_COEF, strength=coef) for coef in self.preset.kl_coefs]
        if name in ("average", DISTILLED_AVERAGE):
            return [Spec("rsf", last, name, alpha) for alpha in alphas]
        if name == ALL_REMEDIES:
            words = [DISTIL, DISTILLED_AVERAGE, *(grid.method for grid in self.preset.remedies)]
            return [spec for word in words for spec in self._specs_of(word)]
        remedy = Spec("rsf", last, name).remedy
        grid = next(grid for grid in self.preset.remedies if grid.method == remedy)
        specs = [Spec("rsf", last, name, strength=strength) for strength in grid.strengths]
        if name.endswith(AVERAGED):
            return [dataclasses.replace(spec, alpha=a) for spec in specs for a in alphas]
        return specs

    def _specs_of_parts(self, name: str, algorithm: str) -> list[Spec]:
        """The models of "part", or of one search for ratios, of one algorithm's last round."""
        config, last = self._ratio_config, self._algorithm(algorithm).rounds
        if name == PART:
            # as the paper's Fig. 13: of other algorithms than RSF the thirds alone
            grids = [g for g in config.parts if algorithm == "rsf" or g.part in THIRDS]
            chosen = [(grid.part, grid.alphas) for grid in grids]
        elif name == PATTERN:
            every = [ratios for of_start in (False, True) for ratios in patterns(of_start)]
            chosen = [(ratios_text(each), (math.fsum(each) / len(each),)) for each in every]
        else:
            own = [grid for grid in config.grids if grid.method == name]
            chosen = [(f"K={grid.blocks}", grid.alphas) for grid in own]
        specs = [
            Spec(algorithm, last, name, a, part=part) for part, alphas in chosen for a in alphas
        ]
        for spec in specs:
            self._check_parts(spec)
        return specs

    def cost(self, spec: Spec) -> dict[str, float | None] | None:
        """Steps, seconds and peak memory (MB) of the training behind a remedied model, else None.

        What averages or grafts is charged the run it starts from. Inside the rounds of RSF it is
        all rounds together.
        """
        if spec.remedy not in (DISTIL, *REMEDIES) or spec.method == "average":
            return None
        artifacts = [self.artifact(spec)]
        if spec.end.method.endswith(IN_ROUNDS):
            rounds = range(1, spec.rounds + 1)
            artifacts = [self.artifact(dataclasses.replace(spec.end, rounds=r)) for r in rounds]
        stats = [json.loads((each.path / "stats.json").read_text()) for each in artifacts]
        peaks = [each["peak_memory_mb"] for each in stats if each["peak_memory_mb"] is not None]
        return {
            "steps": sum(each["steps"] for each in stats),
            "seconds": sum(each["seconds"] for each in stats),
            "peak_memory_mb": max(peaks, default=None),
        }

    def points(self, specs: list[Spec] | None = None) -> pd.DataFrame:
        """The table of points of this study: one row per model, columns COLUMNS."""
        wanted = self.specs() if specs is None else specs
        bar = tqdm(wanted, desc=f"points of {self}", unit="model")
        return pd.DataFrame([self.point(spec) for spec in bar], columns=COLUMNS)

    # --- plumbing -------------------------------------------------------------------------------

    @property
    def _batch(self) -> int:
        return self.preset.eval.batch_size

    def _load(self, artifact: Artifact) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        folder = artifact.path / "model"
        return load_policy(folder if folder.is_dir() else artifact.path, self.preset.dtype)

    def _get(
        self,
        stage: str,
        inputs: dict[str, Any],
        make: Any,
        parents: dict[str, Artifact],
        name: str,
        version: int = 1,
    ) -> Artifact:
        plain = {
            key: presets.as_dict(value) if dataclasses.is_dataclass(value) else value
            for key, value in inputs.items()
        }
        if self.preset.bf16:
            plain["bf16"] = True
        return self.store.get(
            stage,
            {
                **plain,
                "world": _world_key(self.preset.world),
                "seed": self.seed,
                "threads": self.preset.threads,
                "dtype": self.preset.dtype,
            },
            make,
            version=version,
            parents=parents,
            describe=f"{name} ({self})",
            seed=self.seed,
            config=presets.as_dict(self.preset),
        )


def _kl_coef(spec: Spec) -> float:
    """Return the weight of the KL penalty that a spec names (ValueError: there is none)."""
    if spec.algorithm != "ppo" or spec.strength is None or spec.strength < 0:
        raise ValueError(
            f"{KL_COEF!r} is a method of ppo alone and needs a strength of 0 or more, the weight "
            f"of the KL penalty; got {spec.strength} of {spec.algorithm}."
        )
    return spec.strength


def _given(method: str, strength: float | None) -> float:
    """Return the strength of a remedy (ValueError: there is none)."""
    if strength is None:
        raise ValueError(f"{method!r} needs a strength: {REMEDIES[method].describe}.")
    return strength


def _cost(steps: int, seconds: float, memory: float | None) -> dict[str, Any]:
    """What a training cost, as it is kept in stats.json."""
    return {"steps": steps, "seconds": round(seconds, 3), "peak_memory_mb": memory}


def _finish(folder: Path, log: list[dict[str, Any]], stats: dict[str, Any]) -> None:
    """Write what a training stage leaves beside the weights; drop the trainer's scratch folder."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    pd.DataFrame(log).to_json(folder / "log.jsonl", orient="records", lines=True)
    (folder / "stats.json").write_text(json.dumps(stats, indent=2))


@cache
def _world_key(world: str) -> str:
    """A digest of samples of a world's training data: other data are another artifact."""
    if world != "tiny":
        return "1"
    tiny = TinyWorld()
    samples = [tiny.sft(64, 0).to_list(), tiny.preferences(128, 0, "train").to_list()]
    return digest([samples, tiny.prompts(64, 0, "rlhf")])


def kept_text(document: Document) -> str:
    """Return a document as one text that the base model was trained on: with its first branch."""
    branch = document.branches[0] if document.branches else ()
    return " ".join(text for text, _ in (*document.pieces, *branch))


@cache
def _labelled_items(count: int) -> tuple[tuple[str, str], ...]:
    """Prompt and answer of the first validation items of each reading skill; none is reported."""
    found = [row for slot in FAMILIES["reading"] for row in list(items(slot, "validation"))[:count]]
    return tuple((item["prompt"], item["target"]) for item in found)


@cache
def _items_key(suite: str) -> str:
    """What the items of a suite are: scores of other items are never mistaken for these."""
    if suite != "tiny":
        return "1"
    slots = ("one_hop", "two_hop", "piqa_like", "race_like", "span", "counting", "translation")
    return digest([list(items(slot)["prompt"]) + list(items(slot)["target"]) for slot in slots])
