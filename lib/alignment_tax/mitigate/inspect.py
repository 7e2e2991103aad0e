"""Look inside: what replay reads, how far remedies move the weights and along which way."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignment_tax.labels import FORGIVEN, METHOD_NAMES
from alignment_tax.merge.average import State, kind_of
from alignment_tax.mitigate.base import Setting, Treatment, snapshot, trained
from alignment_tax.mitigate.graft import Mask, pool_batches
from alignment_tax.mitigate.lora import Lora, Where, target_names
from alignment_tax.mitigate.moving_average import MovingAverage
from alignment_tax.mitigate.replay import Replay, tiny_reported
from alignment_tax.registry import REMEDIES
from alignment_tax.spec import DISTIL, Spec, unaveraged
from alignment_tax.train import pretrain
from alignment_tax.train.loop import IGNORED

#: How models are called in a sentence.
SAID = METHOD_NAMES | {"none": "θ₀", DISTIL: "the plain run"}
REPLY = "reply"


def setting(study: Any) -> Setting:
    """Return what every remedy of a study starts from (ValueError: a preset without its data)."""
    if study.preset.distil is None or not study.preset.replay_documents:
        raise ValueError(
            f"Preset {study.preset.name} has no pretraining text to replay: take smoke or tiny."
        )
    both = (study.replay_documents(), study.replay_documents(evaluated_formats=False))
    theta_0, tokenizer = study.policy("sft")
    numbers = (study.preset.distil, study.seed)
    return Setting(theta_0, tokenizer, study.pool(), *numbers, *both, tiny_reported())


def scored(study: Any, specs: Sequence[Spec]) -> pd.DataFrame:
    """Return how models score in each family and in the mean, as written and with format forgiven.

    One row a model, in percent: method, strength, alpha, and the names of `labels.FORGIVEN`.
    """
    scores = [*FORGIVEN, *FORGIVEN.values()]
    table = study.points(list(specs))[["method", "strength", "alpha", *scores]]
    return table.astype({name: float for name in table if name != "method"})


def effects(study: Any, specs: Sequence[Spec]) -> pd.DataFrame:
    """Return what became of each model, all since theta_0.

    Returns:
        The columns of points.csv, and: gain (reward), change (points of mean skill as written),
        forgiven_change (the same with format forgiven), distance (norm of theta - theta_0, percent
        of that of theta_0), steps (mean absolute change of a weight, in learning rates), seconds
        of the training (NaN: none).
    """
    theta_0, _ = study.policy("sft")
    start = study.point(Spec("sft"))
    unit = study.preset.distil.learning_rate
    far = [how_far(theta_0, study.model(spec)[0], unit) for spec in specs]
    table = study.points(list(specs))
    return table.assign(
        gain=table["reward"] - start["reward"],
        change=table["skill"] - start["skill"],
        forgiven_change=table["forgetting"] - start["forgetting"],
        distance=[100 * relative for relative, _ in far],
        steps=[steps for _, steps in far],
        seconds=np.array([(study.cost(s) or {}).get("seconds") for s in specs], dtype=float),
    )


def titles(table: pd.DataFrame) -> list[str]:
    """Return how the models of a table (method, strength, alpha) are called: "L2 (0.06)"."""
    told = []
    for method, strength, alpha in table[["method", "strength", "alpha"]].to_numpy(dtype=object):
        own = method if method in SAID else unaveraged(method)
        text = SAID[own] + ("" if pd.isna(strength) else f" ({strength:g})")
        mixed = ", α" if method in SAID else ", averaged at α"
        told.append(text if pd.isna(alpha) else f"{text}{mixed} = {alpha:g}")
    return told


@torch.no_grad()
def changes(theta_0: PreTrainedModel, theta: PreTrainedModel) -> Tensor:
    """Return theta - theta_0, all parameters in one vector (n,), float64; a tied one counts once.

    ValueError: the two have other parameters.
    """
    before, after = dict(theta_0.named_parameters()), dict(theta.named_parameters())
    if before.keys() != after.keys():
        other = min(before.keys() ^ after.keys())
        raise ValueError(f"Only one of the two models has the parameter {other!r}.")
    return torch.cat([(after[n].double() - before[n].double()).flatten() for n in before])


def how_far(theta_0: PreTrainedModel, theta: PreTrainedModel, unit: float) -> tuple[float, float]:
    """Return the norm of the change over that of theta_0, and a weight's mean change in units."""
    moved = changes(theta_0, theta)
    return float(moved.norm() / _flat(theta_0).norm()), float(moved.abs().mean() / unit)


def histogram(moved: Tensor, unit: float, bins: int = 60) -> pd.DataFrame:
    """Return how many weights moved by how many units, on a logarithmic axis; zeros are left out.

    Returns:
        One row a bin from 1e-3 to 1e3 steps, the outermost open: steps (its middle) and share (of
        the weights that moved, percent).
    """
    edges = np.logspace(-3, 3, bins + 1)
    steps = (moved[moved != 0].abs() / unit).clamp(edges[0], edges[-1]).numpy()
    counts, _ = np.histogram(steps, edges)
    middles = np.sqrt(edges[:-1] * edges[1:])
    return pd.DataFrame({"steps": middles, "share": 100 * counts / counts.sum()})


def unevenness(moved: Tensor, share: float = 0.01) -> tuple[float, float]:
    """Return how uneven a change (see `changes`) is, whatever its size; exact zeros are left out.

    Returns:
        Root mean square over mean absolute change, and the part (0 to 1) of the squared change that
        the farthest `share` of the weights hold.
    """
    squares = (moved[moved != 0] ** 2).sort(descending=True).values
    ratio = squares.mean().sqrt() / squares.sqrt().mean()
    return float(ratio), float(squares[: int(share * len(squares))].sum() / squares.sum())


@torch.no_grad()
def spectrum(theta_0: PreTrainedModel, theta: PreTrainedModel, name: str) -> np.ndarray:
    """Return the singular values of one matrix's change, the largest first."""
    before, after = (cast(Tensor, m.get_parameter(name)).double() for m in (theta_0, theta))
    if before.ndim != 2:
        raise ValueError(f"{name!r} has {before.ndim} axes: singular values are those of a matrix.")
    return torch.linalg.svdvals(after - before).numpy()


def lora_sizes(theta_0: PreTrainedModel, seed: int) -> pd.DataFrame:
    """Return how many numbers LoRA trains, by hand and as peft has it.

    Returns:
        One row per place ("all", "mlp") and rank: by_hand (r times inputs and outputs of the
        matrices), counted (trainable), of_all weights, of_those of the adapted matrices.
    """
    everything, rows = sum(p.numel() for p in theta_0.parameters()), {}
    for where in cast("tuple[Where, ...]", ("all", "mlp")):
        names = target_names(theta_0, where)
        shapes = [cast(Tensor, theta_0.get_submodule(name).weight).shape for name in names]
        full = sum(shape.numel() for shape in shapes)
        for rank in map(int, REMEDIES["lora"].strengths):
            wrapped = Lora(rank, where, seed).begin(copy.deepcopy(theta_0))
            counted = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
            by_hand = sum(rank * sum(shape) for shape in shapes)
            rows[where, rank] = (by_hand, counted, counted / everything, counted / full)
    columns = ["by_hand", "counted", "of_all", "of_those"]
    sizes = pd.DataFrame(rows, index=columns).T.rename_axis(["on", "rank"])
    return sizes.astype({"by_hand": int, "counted": int})


class Watch(Treatment):
    """Rides along a run (see `distil`) and notes how far it, and averages of it, are from theta_0.

    Attributes:
        averages: Moving averages by name; they are fed, not written into the policy.
        rows: One per step: step, "trained" and the name of each average, each the Euclidean
            distance from theta_0 in all trained weights together; NaN: the average has not begun.
        path: Sum of the absolute steps of every weight, (n,) in the order of `changes`.
    """

    def __init__(self, averages: Mapping[str, MovingAverage] | None = None) -> None:
        self.averages = averages or {}
        self.rows: list[dict[str, float]] = []

    def begin(self, model: PreTrainedModel) -> PreTrainedModel:
        """Remember where the run starts."""
        self.start, self.last = snapshot(model), _flat(model)
        self.path = torch.zeros_like(self.last)
        for average in self.averages.values():
            model = average.begin(model)
        return model

    def after_step(self, model: PreTrainedModel, step: int) -> None:
        """Feed the averages and note all distances."""
        now = _flat(model)
        self.path += (now - self.last).abs()
        self.last = now
        row: dict[str, float] = {"step": step, "trained": self._distance(trained(model))}
        for name, average in self.averages.items():
            average.after_step(model, step)
            try:
                row[name] = self._distance(average.weights())
            except ValueError:  # an SMA of fewer than two checkpoints
                row[name] = math.nan
        self.rows.append(row)

    @torch.no_grad()
    def _distance(self, weights: Mapping[str, Tensor]) -> float:
        gaps = [(weights[n].double() - start.double()).norm() for n, start in self.start.items()]
        return float(torch.stack(gaps).norm())


def _flat(model: PreTrainedModel) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def replay_use(
    setting: Setting, families: Sequence[str], strengths: Sequence[float], method: str = "replay"
) -> pd.DataFrame:
    """Count what a run reads at several strengths of `method` (replay or replay_other), untrained.

    Returns:
        One row per strength and family of the documents (`replay.tiny_families`), "reply" among
        them: tokens, counted (the sum of their loss weights), documents, and different (no text
        twice). Prompts, which only condition, are not counted.
    """
    limit, batches = setting.config.max_length, list(pool_batches(setting))
    texts = setting.replay if method == "replay" else setting.replay_other
    tokens = (pretrain.encode(each, setting.tokenizer).cut(limit).ids for each in texts)
    family_of = dict(zip(map(tuple, tokens), families, strict=True))
    replies = setting.config.epochs * [int((b["labels"] != IGNORED).sum()) for b in batches]
    found = []
    for strength in strengths:
        remedy = cast(Replay, REMEDIES[method].make(setting, strength))
        taken = [row for count in replies for row in remedy.take(count)]
        read = {"strength": strength, "documents": 0, "different": 0, "family": REPLY}
        total = float(sum(replies))
        found.append(pd.DataFrame([read | {"tokens": total, "counted": total}]))
        rows = pd.DataFrame({"text": [tuple(row.ids) for row in taken]})
        rows = rows.assign(
            family=rows["text"].map(family_of),
            tokens=[float(len(row)) for row in taken],
            counted=[float(sum(row.weights)) for row in taken],
        )
        families_read = rows.groupby("family")
        own = families_read[["tokens", "counted"]].sum()
        own["documents"] = families_read.size()
        own["different"] = families_read["text"].nunique()
        found.append(own.reset_index().assign(strength=strength))
    return pd.concat(found, ignore_index=True)


def norm_kept(theta_0: State, theta: State, mask: Mask) -> float:
    """Return the share of the change's norm that a mask keeps: alpha of an average as long."""
    kept = [((theta[n] - theta_0[n])[mask[n]]).double().norm() for n in mask]
    whole = [(theta[n] - theta_0[n]).double().norm() for n in mask]
    return float(torch.stack(kept).norm() / torch.stack(whole).norm())


def mask_table(theta_0: State, theta: State, masks: Mapping[str, Mask]) -> pd.DataFrame:
    """Return where masks keep changes: one row per mask and kind of weight, "all" first.

    Returns:
        Columns mask, kind (as `merge.average.kind_of`), changed, kept, density (their ratio), norm
        (share of the norm of the kind's change that is kept; NaN: nothing changed).
    """
    rows = []
    for name, mask in masks.items():
        for weight, kept in mask.items():
            change = (theta[weight] - theta_0[weight]).double()
            row = {"mask": name, "changed": int((change != 0).sum()), "kept": int(kept.sum())}
            row |= {"norm": float(change[kept].norm() ** 2), "whole": float(change.norm() ** 2)}
            rows += [row | {"kind": kind} for kind in ("all", kind_of(weight, change))]
    table = pd.DataFrame(rows).groupby(["mask", "kind"], sort=False).sum().reset_index()
    table["density"] = table["kept"] / table["changed"]
    table["norm"] = (table["norm"] / table.pop("whole")) ** 0.5
    return table
