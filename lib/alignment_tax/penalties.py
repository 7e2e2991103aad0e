"""Penalties and LoRA (chapter 07): which models are looked at, how far they are from theta_0.

Penalties hold the weights (L1, L2) or the outputs (KD, KL) near theta_0 while it is finetuned, LoRA
lets it move in few directions only. Remedies are made by `mitigate`, recorded by `results` and
judged by `remedies`; here is what one chapter asks of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignment_tax import front, remedies, talk
from alignment_tax.claims import AGREEMENT
from alignment_tax.mitigate import REMEDIES
from alignment_tax.remedies import NAMES
from alignment_tax.results import NotRecorded
from alignment_tax.skills import FAMILIES
from alignment_tax.study import AVERAGED, DISTIL, DISTILLED_AVERAGE, Spec, Study

#: The remedies of the chapter, in its order.
METHODS = ("l1", "l2", "kd", "kd_squared", "kl", "lora", "lora_mlp")
#: Whose outcome is averaged with theta_0 as well: the plain run, a penalty, and LoRA.
COMBINED = (DISTIL, "l2", "lora")
#: Words by which a claim of `remedies.claims` is one of this chapter, beside the remedies' names.
OTHER_WORDS = ("a larger KL penalty", "on the MLP alone")


# --- models --------------------------------------------------------------------------------------


def middle(method: str) -> float:
    """Return the strength in the middle of a remedy's grid: chosen by its place, not its result."""
    strengths = REMEDIES[method].strengths
    return strengths[len(strengths) // 2]


def live_specs(rounds: int) -> list[Spec]:
    """Return the models of the live part: theta_0, the plain distilled run, one of each remedy."""
    chosen = [Spec("rsf", rounds, method, strength=middle(method)) for method in METHODS]
    return [Spec("sft"), Spec("rsf", rounds, DISTIL), *chosen]


def combined_specs(rounds: int, alpha: float) -> list[Spec]:
    """Return the averages with theta_0 of the runs in `COMBINED`; alpha weighs the run."""
    return [
        Spec("rsf", rounds, method + AVERAGED, alpha, None if method == DISTIL else middle(method))
        for method in COMBINED
    ]


def effects(study: Study, specs: Sequence[Spec]) -> pd.DataFrame:
    """Return what became of each model, all since theta_0; models are made and scored as needed.

    Returns:
        The columns of points.csv, and: gain (reward over theta_0), change (points of mean skill
        since theta_0), distance (norm of theta - theta_0, percent of the norm of theta_0), steps
        (mean absolute change of a weight, in learning rates), seconds of the training (NaN: none).
    """
    config = study.preset.distil
    if config is None:
        raise ValueError(f"Preset {study.preset.name} does not say how remedies are trained.")
    table = study.points(list(specs))
    start = pd.Series(study.point(Spec("sft")))
    before, _ = study.policy("sft")
    far, seconds = [], []
    for spec in specs:
        far.append(how_far(before, study.model(spec)[0], config.learning_rate))
        cost = (study.cost(spec) or {}).get("seconds")
        seconds.append(np.nan if cost is None else float(cost))
    return table.assign(
        gain=table["reward"] - start["reward"],
        change=table["skill"] - start["skill"],
        distance=[100 * relative for relative, _ in far],
        steps=[steps for _, steps in far],
        seconds=seconds,
    )


def lost(study: Study, specs: Sequence[Spec]) -> pd.DataFrame:
    """Return what became of each family since theta_0 (points), and of translation without talk.

    Args:
        study: It scores the models, if they are not scored yet.
        specs: The models, theta_0 among them.

    Returns:
        One row a model: method, strength, alpha; the change in each family and in skill; and
        capped_translation, capped_skill, with translations cut at the reference's length (`talk`).
    """
    points = study.points(list(specs))
    items = pd.concat(
        study.scores(spec).items.assign(seed=study.seed, key=key)
        for spec, key in zip(specs, points["key"], strict=True)
    )
    capped = talk.with_capped(points, items.drop_duplicates(["key", "slot", "item"]))
    scores = points[[*FAMILIES, "skill"]].assign(
        capped_translation=capped["translation"], capped_skill=capped["skill"]
    )
    start = scores[(points["algorithm"] == "sft").to_numpy()].iloc[0]
    return points[["method", "strength", "alpha"]].join((scores - start).astype(float))


def above(live: pd.DataFrame, curve: np.ndarray) -> pd.Series:
    """Return by how many points of skill models lie above a curve, at their own reward.

    Args:
        live: Rows with reward and skill.
        curve: (n, 2) reward and skill of the same seed, in the order of its strength.

    Returns:
        In the order of `live`; NaN where the curve does not reach the reward.
    """
    there = front.interpolate(curve, live["reward"].to_numpy(dtype=float))
    return live["skill"].astype(float) - there


# --- distances -----------------------------------------------------------------------------------


@torch.no_grad()
def changes(theta_0: PreTrainedModel, theta: PreTrainedModel) -> Tensor:
    """Return theta - theta_0, all parameters in one vector (n,), float64; a tied one counts once.

    Raises:
        ValueError: the two have other parameters.
    """
    before, after = dict(theta_0.named_parameters()), dict(theta.named_parameters())
    if before.keys() != after.keys():
        other = min(before.keys() ^ after.keys())
        raise ValueError(f"Only one of the two models has the parameter {other!r}.")
    return torch.cat([(after[n].double() - before[n].double()).flatten() for n in before])


@torch.no_grad()
def how_far(theta_0: PreTrainedModel, theta: PreTrainedModel, unit: float) -> tuple[float, float]:
    """Return the norm of the change over the norm of theta_0, and the mean change in units.

    Args:
        theta_0, theta: Models of the same parameters.
        unit: Size of a step of a weight: the learning rate.
    """
    moved = changes(theta_0, theta)
    size = torch.cat([p.double().flatten() for p in theta_0.parameters()]).norm()
    return float(moved.norm() / size), float(moved.abs().mean() / unit)


def histogram(moved: Tensor, unit: float, bins: int = 60) -> pd.DataFrame:
    """Return how many weights moved by how much, on a logarithmic axis.

    Args:
        moved: What `changes` returns.
        unit: Size of a step.
        bins: Number of bins from 1e-3 to 1e3 steps; what is beyond counts in the outermost ones.

    Returns:
        One row a bin: steps (its middle) and share (of the weights, percent; they sum to 100).
    """
    edges = np.logspace(-3, 3, bins + 1)
    steps = (moved.abs() / unit).clamp(edges[0], edges[-1]).numpy()
    counts, _ = np.histogram(steps, edges)
    return pd.DataFrame(
        {"steps": np.sqrt(edges[:-1] * edges[1:]), "share": 100 * counts / counts.sum()}
    )


@torch.no_grad()
def spectrum(theta_0: PreTrainedModel, theta: PreTrainedModel, name: str) -> np.ndarray:
    """Return the singular values of the change of one matrix, the largest first.

    Raises:
        ValueError: that parameter is no matrix.
    """
    before, after = (cast(Tensor, m.get_parameter(name)).double() for m in (theta_0, theta))
    if before.ndim != 2:
        raise ValueError(f"{name!r} has {before.ndim} axes: singular values are those of a matrix.")
    return torch.linalg.svdvals(after - before).numpy()


def rank_of(values: np.ndarray, share: float = 1e-3) -> int:
    """Return how many singular values are more than a share of the largest."""
    return int((values > share * values.max()).sum())


# --- what is recorded ----------------------------------------------------------------------------


def present(points: pd.DataFrame) -> list[str]:
    """Return the remedies of the chapter that a table of points has rows of, in its order."""
    words = set(points.loc[points["algorithm"] == "rsf", "method"])
    return [method for method in METHODS if method in words]


def missing(points: pd.DataFrame) -> list[str]:
    """Return the remedies of the chapter that a table of points has no rows of, in its order."""
    return [method for method in METHODS if method not in present(points)]


def state(points: pd.DataFrame) -> str:
    """Say in a sentence what is recorded of these remedies, and what follows for verdicts."""
    there, absent = present(points), missing(points)
    if not there:
        return (
            f"**None of these {len(METHODS)} remedies is recorded over seeds yet**, so there is no "
            "verdict on them here: what follows is the one seed of this run. (`alignment-tax "
            "record tiny --methods remedies` adds them.)"
        )
    seeds = points[points["method"].isin(there)].groupby("method")["seed"].nunique()
    text = f"{len(there)} of {len(METHODS)} remedies are recorded, over {seeds.min()} seed(s) each"
    if seeds.max() > seeds.min():
        text += " or more"
    if absent:
        text += f". Not recorded yet: {', '.join(NAMES[method] for method in absent)}"
    if seeds.min() < 2:
        text += ". With a single seed there is no verdict"
    return f"{text}."


def averaging_claims(points: pd.DataFrame, score: str = "skill") -> dict[str, front.Comparison]:
    """Return "averaging is ahead of a remedy", by remedy: hypervolumes, paired by seed.

    The paper's claim of Fig. 3; both start from theta_0 and learn from the same samples. Remedies
    with fewer than two seeds are left out.

    Args:
        points: The columns of points.csv, one study.
        score: What is kept: skill or a family.
    """
    rows, found = remedies.gained(points), {}
    for method in present(rows):
        try:
            found[method] = remedies.ahead(rows, DISTILLED_AVERAGE, method, score)
        except NotRecorded:
            continue
    return found


def combined_claims(points: pd.DataFrame) -> dict[str, front.Comparison]:
    """Return "a remedy, then averaging, is ahead of averaging alone", by remedy and strength.

    A recording holds such rows where it was asked for them ("l2+average"); each strength is a curve
    of its own, over alpha.
    """
    rows, found = remedies.gained(points), {}
    for method in present(rows):
        both = rows["method"] == method + AVERAGED
        for strength in sorted(rows.loc[both, "strength"].unique()):
            only = rows[~both | (rows["strength"] == strength)]
            try:
                each = remedies.ahead(only, method + AVERAGED, DISTILLED_AVERAGE)
            except NotRecorded:
                continue
            found[f"{NAMES[method]} ({strength:g}), then averaging, is ahead of averaging"] = each
    return found


def paper_claims(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `remedies.claim_table` that are about these remedies, and "agrees"."""
    table = remedies.claim_table(points)
    words = [*(NAMES[method] for method in METHODS), *OTHER_WORDS]
    ours = table[[any(word in claim for word in words) for claim in table["claim"]]]
    agrees = ours["verdict"].map(lambda verdict: AGREEMENT.get(verdict, verdict))
    return ours.assign(agrees=agrees).reset_index(drop=True)


def answer(found: dict[str, front.Comparison]) -> str:
    """Answer the chapter's question from what `averaging_claims` returns."""
    if not found:
        return "not answered yet: these remedies are not recorded over seeds, and one seed is none"
    groups: dict[str, list[str]] = {}
    for method, each in found.items():
        ahead = "averaging" if each.low > 0 else "remedy" if each.high < 0 else "open"
        groups.setdefault(ahead, []).append(NAMES[method])
    said = {
        "remedy": "ahead of averaging",
        "averaging": "behind averaging",
        "open": "not told apart from averaging by these seeds",
    }
    parts = [f"{words}: {', '.join(groups[key])}" for key, words in said.items() if key in groups]
    return f"{'yes, for some' if 'remedy' in groups else 'not shown for any'}. " + "; ".join(parts)
