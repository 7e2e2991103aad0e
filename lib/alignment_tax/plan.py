"""What a preset of the paper's size takes, from its configuration alone, before anything is run.

Lengths are at their limits, so all but the throughput errs upwards.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alignment_tax import presets, settings, store
from alignment_tax.labels import TEMPLATES, page

#: bf16 without sparsity, in 10^12 FLOP a second, of NVIDIA's H100 SXM by its data sheet.
H100 = 989.0
#: Assumed, not measured: which share of it training reaches; sampling, which waits for memory,
#: reaches that share of training's.
TRAINING, SAMPLING = 0.4, 0.25
FSDP = TEMPLATES / "fsdp.yaml"
#: By slot: items, answers whose probability is asked for (or 1 that is written), tokens read with
#: each, tokens written. Numbers of items are the public ones, lengths rounded up.
BENCHMARKS = {
    "one_hop": (2376, 4, 64, 0), "two_hop": (1172, 4, 64, 0), "piqa_like": (1838, 2, 64, 0),
    "race_like": (1045, 4, 512, 0), "span": (11_873, 1, 256, 32), "counting": (9536, 1, 384, 32),
    "bleu": (3003, 1, 64, 64),
}  # fmt: skip


class PlanError(settings.SettingsError):
    """There is no plan for a preset, or this machine cannot carry it; the message says why."""


@dataclass(frozen=True)
class Size:
    """A network's size: parameters in all and of one layer, and bytes by token in bfloat16."""

    parameters: int
    block: int
    layers: int
    saved: int  # of one layer, kept for the backward pass
    boundary: int  # of a layer's input, all that is kept of it with activation checkpointing
    logits: int  # the logits, their float32 copy and its gradient
    cache: int  # keys and values of all layers


@dataclass(frozen=True)
class Stage:
    """What a stage does in all, and what lies in memory meanwhile; amounts are tokens."""

    name: str
    trained: int = 0  # read forward and backward
    read: int = 0  # read forward alone, by whichever model
    sampled: int = 0  # written
    row: int = 0  # an example, or a pair, that is trained on
    batch: int = 1  # such examples on a GPU at once
    states: int = 14  # bytes a trained weight: gradient and AdamW's two, float32; a copy in bf16
    cached: int = 0  # whose keys and values are held while sampling
    frozen: int = 0  # models beside the one at work
    reference: int | None = None  # the same in TRL's script; None: it has none for this stage
    kept: int = 0  # checkpoints on disk

    def on(self, examples: float, **more: Any) -> Stage:
        """Return the stage when it trains on so many examples, all passes together."""
        return replace(self, trained=int(examples) * self.row, **more)

    def flops(self, size: Size) -> float:
        """6 N a trained token, 2 N any other (Kaplan et al. 2020); attention is not counted."""
        return size.parameters * (6.0 * self.trained + 2.0 * (self.read + self.sampled))

    def hours(self, size: Size, tflops: float) -> float:
        """Hours of one GPU that trains at so many 10^12 FLOP a second."""
        more = 2.0 * size.parameters * self.sampled * (1 / SAMPLING - 1)
        return (self.flops(size) + more) / tflops / 3.6e15

    def alone(self, size: Size) -> float:
        """GB on the course's one GPU: float32 weights, and no activation checkpointing."""
        used = self.cached * size.cache
        if self.trained:
            per_token = size.layers * size.saved + size.logits
            used += self.states * size.parameters + self.batch * self.row * per_token
        return (4 * size.parameters * (1 + self.frozen) + used) / 1e9

    def sharded(self, size: Size, gpus: int) -> float | None:
        """GB on each GPU by TRL's script, an example at a time with activation checkpointing.

        Sharded are 16 bytes a trained and 4 a frozen weight. Whole are, in bf16 with a gradient,
        two layers (one is fetched ahead) and what belongs to no layer.
        """
        if self.reference is None:
            return None
        spread = size.parameters * (16 + 4 * self.reference) / gpus
        whole = 4 * (size.parameters - (size.layers - 2) * size.block)
        per_token = size.layers * size.boundary + size.saved + size.logits
        return (spread + whole + self.row * per_token) / 1e9


def size_of(model: str) -> Size:
    """Build a model of the paper on the meta device, and measure it (PlanError: it is none)."""
    known = {each.model: each.name for each in presets.PAPER}
    if model not in known:
        raise PlanError(f"{model} needs no plan. There are plans for {', '.join(known.values())}.")
    # as published, so that an architecture can be built without a network
    config = AutoConfig.for_model(**store.read_json(TEMPLATES / f"{known[model]}.json"))
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    layers = network.get_decoder().layers
    wide, inner, keys = config.hidden_size, config.intermediate_size, layers[0].self_attn.k_proj
    # two inputs of the sums, two norms, queries, attention's output; keys, values; four of the MLP
    saved = 2 * (6 * wide + 2 * keys.out_features + 4 * inner)
    return Size(
        network.num_parameters(), sum(each.numel() for each in layers[0].parameters()), len(layers),
        saved, 2 * wide, 10 * config.vocab_size, 4 * keys.out_features * len(layers),
    )  # fmt: skip


def scoring(preset: presets.Preset, models: int, name: str) -> Stage:
    """Return the scoring of so many models: benchmarks, replies and their reward."""
    items, room, new = preset.eval, preset.rsf.max_prompt_length, preset.rsf.max_new_tokens
    asked = [row for slot, row in BENCHMARKS.items() if slot not in items.without]
    rows = [(min(n, items.limit or n) * answers, *rest) for n, answers, *rest in asked]
    replies = items.reward_prompts * items.reward_samples
    read = sum(n * tokens for n, tokens, _ in rows) + replies * (2 * room + new)
    sampled = sum(n * tokens for n, _, tokens in rows) + replies * new
    cached = items.batch_size * (room + new)
    return Stage(name, read=models * read, sampled=models * sampled, cached=cached, frozen=2)


def stages(preset: presets.Preset) -> list[Stage]:
    """Return the stages of a preset of `PAPER` in their order; averages are not kept."""
    sft, reward, rsf, dpo = preset.sft, preset.reward, preset.rsf, preset.dpo
    assert isinstance(reward, presets.RewardConfig)  # a preset of `PAPER` trains all of it
    new, room = rsf.max_new_tokens, rsf.max_prompt_length + rsf.max_new_tokens
    prompts, models = rsf.rounds * rsf.prompts_per_round, 1 + rsf.rounds
    found = [Stage("base", kept=1)]
    tuned = Stage("SFT", row=sft.max_length, batch=sft.batch_size, reference=0, kept=1)
    found.append(tuned.on(sft.documents * sft.epochs))
    judged = replace(tuned, name="reward model", row=2 * reward.max_length, batch=reward.batch_size)
    found.append(judged.on(reward.pairs * reward.epochs))
    # the prompt is read once for all its replies, each of which the reward model reads
    read, written = prompts * (rsf.max_prompt_length + rsf.n * room), prompts * rsf.n * new
    cached = max(rsf.sampling_batch, rsf.n) * room
    found.append(Stage("RSF: replies", read=read, sampled=written, cached=cached, frozen=2))
    tuned = Stage(f"RSF: {rsf.rounds} rounds", row=room, batch=rsf.batch_size, frozen=2)
    found.append(tuned.on(prompts * rsf.epochs, reference=0, kept=rsf.rounds))
    if dpo:
        tuned = Stage(f"DPO: {dpo.rounds} rounds", row=2 * dpo.max_length, batch=dpo.batch_size)
        tuned = tuned.on(dpo.rounds * dpo.prompts_per_round * dpo.epochs, frozen=2, reference=1)
        found.append(replace(tuned, read=tuned.trained, kept=dpo.rounds))
        models += dpo.rounds
    if (distil := preset.distil) and (runs := sum(len(grid) for _, grid in preset.remedies)):
        tuned = Stage(f"remedies: {runs} runs", row=room, batch=distil.batch_size, frozen=1)
        found.append(tuned.on(runs * prompts * distil.epochs, kept=runs))
        models += runs
    inner = sum(0 < alpha < 1 for alpha in preset.alphas)
    found.append(scoring(preset, models, f"scoring: {models} models"))
    found.append(scoring(preset, inner, f"alpha walk: {inner} averages"))
    if ratios := preset.ratios:
        searches, replies = sum(len(grid[2]) for grid in ratios.grids), ratios.prompts * ratios.n
        # few ratios learn: there is a gradient of every weight, and no state of AdamW
        tuned = Stage(f"ratios: {searches} searches", row=room, batch=ratios.batch_size, frozen=2)
        found.append(tuned.on(searches * replies * ratios.epochs, sampled=replies * new, states=6))
        mixed = searches + sum(len(alphas) for _, alphas in ratios.parts)
        found.append(scoring(preset, mixed, f"ratios and parts: {mixed} averages"))
    return found


def plan_text(preset: presets.Preset, gpus: int, memory: float, tflops: float) -> str:
    """Write the plan of a preset for so many GPUs of so many GB, each at so many TFLOP/s."""
    presets.check(preset)
    size, todo = size_of(preset.model), stages(preset)
    rows = []
    for each in todo:
        alone, sharded = each.alone(size), each.sharded(size, gpus)
        fits = sharded is not None and sharded <= memory
        how = "here" if alone <= memory else "accelerate" if fits else "no"
        rows.append((each.name, each.flops(size), each.hours(size, tflops), alone, sharded, how))
    every: list[Any] = [preset.sft, preset.reward, preset.rsf, preset.dpo]
    for config in filter(None, every):
        if (batch := config.batch_size * getattr(config, "accumulation", 1)) % gpus:
            raise PlanError(f"{gpus} GPUs cannot share a batch of {batch}: take a divisor of it.")
    need, disk = max(row[3] for row in rows), [each.kept * 4e-9 * size.parameters for each in todo]
    return page(
        "plan", preset=preset, size=size, rows=list(zip(rows, disk, strict=True)), gpus=gpus,
        memory=memory, tflops=tflops, peak=H100, slow=SAMPLING, fsdp=FSDP, need=need,
    )  # fmt: skip


def check_machine(preset: presets.Preset, folder: Path) -> None:
    """Refuse a run (PlanError): no GPU, or too little memory or disk beside what `folder` holds."""
    size, todo = size_of(preset.model), stages(preset)
    name, see = f"Preset {preset.name}", f"See: alignment-tax plan {preset.name}"
    need, most = max((each.alone(size), each.name) for each in todo)
    gpu = torch.cuda.is_available()
    have = torch.cuda.get_device_properties(0).total_memory / 1e9 if gpu else 0.0
    if have < need:
        there = f"this one has {have:.0f} GB" if have else "there is none here"
        told = f"{name} needs one GPU with {need:.0f} GB ({most}), and {there}"
        remedy = "The course shards no model: take a larger GPU, or train with accelerate."
        raise PlanError(f"{told}. {remedy} {see}.")
    disk = 4e-9 * size.parameters * sum(each.kept for each in todo)
    disk -= sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e9
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free / 1e9
    if free < disk:
        told = f"{name} still writes {disk:.0f} GB, and the disk of {folder} has {free:.0f} GB free"
        raise PlanError(f"{told}. Free some, or set ALIGNMENT_TAX_RUNS to another disk. {see}.")
