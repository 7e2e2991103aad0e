"""Penalties and LoRA (chapter 07): which models are looked at, how far they are from theta_0.

Penalties hold the weights (L1, L2) or the outputs (KD, KL) near theta_0 while it is finetuned, LoRA
lets it move in few directions only. Remedies are made by `mitigate`, recorded by `results` and
judged by `remedies`; here is what one chapter asks of them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignment_tax import remedies, talk
from alignment_tax.claims import AGREEMENT
from alignment_tax.labels import FAMILY_NAMES
from alignment_tax.mitigate import REMEDIES
from alignment_tax.mitigate.base import Treatment
from alignment_tax.mitigate.lora import Lora, Where, target_names
from alignment_tax.pipeline.study import Study
from alignment_tax.remedies import NAMES
from alignment_tax.results.points import NotRecorded
from alignment_tax.skills import FAMILIES, family_percent, pair_scores
from alignment_tax.spec import AVERAGED, DISTIL, DISTILLED_AVERAGE, Spec
from alignment_tax.stats import compare, pareto

#: The remedies of the chapter, in its order.
METHODS = ("l1", "l2", "kd", "kd_squared", "kl", "lora", "lora_mlp")
#: What each takes hold of.
WEIGHTS, OUTPUTS, RANK = ("l1", "l2"), ("kd", "kd_squared", "kl"), ("lora", "lora_mlp")
#: Whose outcome is averaged with theta_0 as well: a penalty, and LoRA.
COMBINED = ("l2", "lora")
#: Weights of the plain run in its averages with theta_0: the rival that shares seed and end.
ALPHAS = (0.2, 0.4, 0.6, 0.8)
#: How the models of this chapter are called in a sentence.
SAID = {"none": "θ₀", DISTIL: "the plain run"} | NAMES
#: The plain run must lose as many points of BLEU before a share of them is worth a number.
WORTH_A_SHARE = 1.0
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


def plain_specs(rounds: int) -> list[Spec]:
    """Return the averages of the plain distilled run with theta_0, at each of `ALPHAS`."""
    return [Spec("rsf", rounds, DISTILLED_AVERAGE, alpha) for alpha in ALPHAS]


def combined_specs(rounds: int, alpha: float) -> list[Spec]:
    """Return the averages with theta_0 of the runs in `COMBINED`; alpha weighs the run."""
    return [Spec("rsf", rounds, name + AVERAGED, alpha, middle(name)) for name in COMBINED]


def outcome(study: Study, method: str) -> PreTrainedModel:
    """Return the policy of the live part that was trained under a remedy, or plainly (distil)."""
    strength = None if method == DISTIL else middle(method)
    return study.model(Spec("rsf", study.preset.rsf.rounds, method, strength=strength))[0]


def title(method: str, strength: float | None = None, alpha: float | None = None) -> str:
    """Return how a model is called in a table: "L2 (0.06)", "…, averaged at α 0.5"."""
    text = SAID[method if method in SAID else method.removesuffix(AVERAGED)]
    if strength is not None and not np.isnan(strength):
        text += f" ({strength:g})"
    if alpha is not None and not np.isnan(alpha):
        text += f", α = {alpha:g}" if method in SAID else f", averaged at α = {alpha:g}"
    return text


def titles(table: pd.DataFrame) -> list[str]:
    """Return the `title` of every row: the table has columns method, strength, alpha."""
    columns = table[["method", "strength", "alpha"]].astype({"strength": float, "alpha": float})
    return [title(*row) for row in columns.itertuples(index=False)]


def effects(study: Study, specs: Sequence[Spec]) -> pd.DataFrame:
    """Return what became of each model, all since theta_0; models are made and scored as needed.

    Returns:
        The columns of points.csv, and: gain (reward over theta_0), change (points of mean skill
        since theta_0), capped_change (the same where talk is forgiven, see `scored`), distance
        (norm of theta - theta_0, percent of the norm of theta_0), steps (mean absolute change of a
        weight, in learning rates), seconds of the training (NaN: none).
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
        capped_change=lost(study, specs)["capped_skill"],
        distance=[100 * relative for relative, _ in far],
        steps=[steps for _, steps in far],
        seconds=seconds,
    )


def scored(study: Study, specs: Sequence[Spec]) -> pd.DataFrame:
    """Return how models score in each family, and in translation where talk is forgiven.

    Returns:
        One row a model: method, strength, alpha; each family and skill; and capped_translation,
        capped_skill, with translations cut at the reference's length (`talk`). In percent.
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
    return points[["method", "strength", "alpha"]].join(scores.astype(float))


def lost(study: Study, specs: Sequence[Spec]) -> pd.DataFrame:
    """Return the columns of `scored`, scores as points since theta_0."""
    table = scored(study, [Spec("sft"), *specs])
    named = table[["method", "strength", "alpha"]]
    scores = table.drop(columns=named.columns)
    return named.join(scores - scores.iloc[0]).iloc[1:].reset_index(drop=True)


def kept(changes_: pd.DataFrame) -> pd.DataFrame:
    """Return which shares of what the plain run loses in translation each run keeps.

    The loss is cut in two: French is the fall of capped BLEU, stopping (rightly, without talk) the
    rest of the fall of BLEU. Capped BLEU is an upper bound of what BLEU would be without talk, so
    differences of it are bounds of nothing: the cut is an approximation.

    Args:
        changes_: Rows of `lost`, the plain run among them.

    Returns:
        By method: french, stopping. Above 1: more than theta_0 has; 1: nothing is lost; 0: as much
        as by the plain run; below 0: more; NaN: the plain run loses less than `WORTH_A_SHARE`
        points, so there is nothing to keep.
    """
    rows = changes_.set_index("method")
    french = -rows["capped_translation"]
    fell = {"french": french, "stopping": -rows["translation"] - french}
    shares = {}
    for what, each in fell.items():
        plain = float(each[DISTIL])
        shares[what] = 1 - each / (plain if plain >= WORTH_A_SHARE else np.nan)
    return pd.DataFrame(shares)


def against_plain(study: Study, methods: Sequence[str], draws: int = 500) -> pd.DataFrame:
    """Return the skill of each live run minus the plain run's, with what the items leave open.

    Args:
        study: It has scored the models.
        methods: Remedies, at the middle of their grids.
        draws: Number of draws of the paired bootstrap over items.

    Returns:
        By method: difference, low, high (points of mean skill; 95 % over items, of one seed).
    """
    rounds, rng = study.preset.rsf.rounds, np.random.default_rng(study.seed)
    plain = study.scores(Spec("rsf", rounds, DISTIL))
    rows = {}
    for method in methods:
        own = study.scores(Spec("rsf", rounds, method, strength=middle(method)))
        a, b = pair_scores([own], [plain])
        found = compare.paired_bootstrap(
            a, b, rng=rng, n_boot=draws, statistic=family_percent("skill")
        )
        rows[method] = (found.difference, found.low, found.high)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["difference", "low", "high"])


def plain_curve(averages: pd.DataFrame, end: pd.Series, score: str = "change") -> np.ndarray:
    """Return the curve from theta_0 over the averages of the plain run to it, (n, 2) gain, score.

    Args:
        averages: Rows of `effects`: those of `plain_specs`, in the order of alpha.
        end: The row of the plain run.
        score: change or capped_change.
    """
    rows = pd.concat([averages, end.to_frame().T])[["gain", score]].to_numpy(dtype=float)
    return np.vstack([(0.0, 0.0), rows])


def above(live: pd.DataFrame, curve: np.ndarray, score: str = "change") -> pd.Series:
    """Return by how many points of skill models lie above a curve, at their own reward.

    Args:
        live: Rows with gain and `score`.
        curve: (n, 2) gain and score of the same seed, in the order of its strength.
        score: change or capped_change.

    Returns:
        In the order of `live`; NaN where the curve does not reach the reward.
    """
    there = pareto.interpolate(curve, live["gain"].to_numpy(dtype=float))
    return live[score].astype(float) - there


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


class PathLength(Treatment):
    """Adds up the steps of every weight along a run, without changing it: a rider of `distil`.

    Attributes:
        path: Sum of the absolute changes, (n,) in the order of `changes`.
    """

    def __init__(self, theta_0: PreTrainedModel) -> None:
        self.last = _flat(theta_0)
        self.path = torch.zeros_like(self.last)

    def after_step(self, model: PreTrainedModel, step: int) -> None:
        """Add what each weight moved in this step."""
        now = _flat(model)
        self.path += (now - self.last).abs()
        self.last = now


def _flat(model: PreTrainedModel) -> Tensor:
    """Return a copy of all parameters in one vector, float64."""
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def histogram(moved: Tensor, unit: float, bins: int = 60) -> pd.DataFrame:
    """Return how many weights moved by how much, on a logarithmic axis; of those that moved at all.

    Args:
        moved: What `changes` returns; exact zeros are left out.
        unit: Size of a step.
        bins: Number of bins from 1e-3 to 1e3 steps; what is beyond counts in the outermost ones.

    Returns:
        One row a bin: steps (its middle) and share (of the weights that moved, percent; they sum to
        100).
    """
    edges = np.logspace(-3, 3, bins + 1)
    steps = (moved[moved != 0].abs() / unit).clamp(edges[0], edges[-1]).numpy()
    counts, _ = np.histogram(steps, edges)
    return pd.DataFrame(
        {"steps": np.sqrt(edges[:-1] * edges[1:]), "share": 100 * counts / counts.sum()}
    )


def unevenness(moved: Tensor, share: float = 0.01) -> tuple[float, float]:
    """Return how uneven a change is, whatever its size; exact zeros are left out.

    Args:
        moved: What `changes` returns.
        share: Of the weights that moved, those that moved farthest.

    Returns:
        Root mean square over mean absolute change (1: all moved equally far), and the part (0 to 1)
        of the squared change that the farthest `share` of the weights hold.
    """
    squares = (moved[moved != 0] ** 2).sort(descending=True).values
    ratio = squares.mean().sqrt() / squares.sqrt().mean()
    return float(ratio), float(squares[: int(share * len(squares))].sum() / squares.sum())


def lora_sizes(theta_0: PreTrainedModel, seed: int) -> pd.DataFrame:
    """Return how many numbers LoRA trains, by hand and as peft has it.

    Returns:
        One row per place ("all", "mlp") and rank: by_hand (r times inputs and outputs, summed over
        the matrices), counted (trainable parameters), of_all (their share of all weights), of_those
        (their share of the weights of the matrices that are adapted).
    """
    everything = sum(p.numel() for p in theta_0.parameters())
    rows = {}
    for where in cast("tuple[Where, ...]", ("all", "mlp")):
        names = target_names(theta_0, where)
        shapes = [cast(Tensor, theta_0.get_submodule(name).weight).shape for name in names]
        full = sum(outputs * inputs for outputs, inputs in shapes)
        for rank in REMEDIES["lora"].strengths:
            wrapped = Lora(rank, where, seed).begin(copy.deepcopy(theta_0))
            counted = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
            by_hand = sum(int(rank) * (outputs + inputs) for outputs, inputs in shapes)
            rows[where, int(rank)] = (by_hand, counted, counted / everything, counted / full)
    columns = ["by_hand", "counted", "of_all", "of_those"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table.index = pd.MultiIndex.from_tuples(table.index, names=["on", "rank"])
    return table


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


def grids(points: pd.DataFrame) -> pd.DataFrame:
    """Return the strengths of each remedy: its grid, what is live, and what is recorded besides.

    Returns:
        By the remedy's name: what the strength is, grid, live, recorded besides (in words).
    """
    rows = {}
    for method in METHODS:
        grid = REMEDIES[method].strengths
        recorded = points.loc[points["method"] == method, "strength"].round(6)
        besides = sorted(set(recorded) - {round(strength, 6) for strength in grid})
        rows[NAMES[method]] = {
            "what the strength is": REMEDIES[method].describe,
            "grid": ", ".join(f"{strength:g}" for strength in grid),
            "live": f"{middle(method):g}",
            "recorded besides": ", ".join(f"{strength:g}" for strength in besides),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def state(points: pd.DataFrame) -> str:
    """Say in a sentence what is recorded of these remedies, and what follows for verdicts."""
    there, absent = present(points), missing(points)
    if not there:
        return (
            f"**None of these {len(METHODS)} remedies is recorded over seeds yet**: what came "
            "before is one seed, and there is no verdict here. (`alignment-tax record tiny "
            "--methods remedies` adds them.)"
        )
    seeds = points[points["method"].isin(there)].groupby("method")["seed"].nunique()
    least, most = int(seeds.min()), int(seeds.max())
    number = f"{least}" if least == most else f"{least} to {most}"
    count = f"{number} seed{'s' if most > 1 else ''}"
    text = f"{len(there)} of {len(METHODS)} remedies are recorded, over {count} each"
    if absent:
        text += f". Not recorded yet: {', '.join(NAMES[method] for method in absent)}"
    if least < 2:
        text += ". With a single seed there is no verdict"
    elif least < 5:
        text += ". With so few seeds the intervals are wide"
    return f"{text}."


def combined_claims(points: pd.DataFrame) -> dict[str, compare.Comparison]:
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


def claim_list(table: pd.DataFrame) -> pd.DataFrame:
    """Return the claims of `paper_claims`, those that differ in nothing but the score as one.

    Returns:
        Columns place, claim, tests (how many scores it is tested on).
    """
    scores = "|".join(map(re.escape, ["the mean skill", *FAMILY_NAMES.values()]))
    short = table.assign(claim=table["claim"].str.replace(rf" in (?:{scores})$", "", regex=True))
    counted = short.groupby(["place", "claim"], sort=False).size()
    return counted.rename("tests").reset_index()
