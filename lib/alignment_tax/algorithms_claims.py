"""What recorded points say of RLHF's algorithms: the tax of each, their fronts, KL and forgetting.

Pure functions on the columns of points.csv (and kl.csv). Everything is paired by seed: an algorithm
is compared with theta_0, or with another algorithm, of the same seed and so the same reward model.
Where a comparison cannot be made (rows missing, one seed, no rewards in common) it is None.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from alignment_tax.results.points import (  # noqa: F401
    by_round,
    curve,
    last,
    missing,
    penalty_curve,
    present,
    shared,
    start,
    tax,
)
from alignment_tax.stats import compare, pareto
from alignment_tax.stats.forgetting import *  # noqa: F403
from alignment_tax.stats.forgetting import X_NAMES, at_equal_kl, both, judge, resampled  # noqa: F401

#: The algorithms of chapter 06, and how they are written.
NAMES = {"rsf": "RSF", "dpo": "DPO", "rloo": "RLOO", "ppo": "PPO"}
#: Those and the control, as they stand in a sentence.
WITH_CONTROL = NAMES | {"rsf_random": "the random control"}
FAMILIES = {
    "skill": "mean skill",
    "commonsense": "common sense",
    "reading": "reading",
    "translation": "translation",
}
Comparisons = dict[str, compare.Comparison | None]


# --- rows ----------------------------------------------------------------------------------------


# --- comparisons ---------------------------------------------------------------------------------


def at_equal_reward(
    a: dict[int, np.ndarray], b: dict[int, np.ndarray]
) -> compare.Comparison | None:
    """Compare what two curves keep at equal reward, paired by seed: a minus b, in points.

    None where fewer than two seeds have both, or where the curves of a seed share no rewards.
    """
    gaps = []
    for seed in sorted(a.keys() & b.keys()):
        try:
            gaps.append(pareto.gap_at_equal_reward(a[seed], b[seed]))
        except pareto.NoSharedRewards:
            return None
    return judge(gaps)


def tax_claims(points: pd.DataFrame, score: str = "skill") -> Comparisons:
    """Return "X costs SCORE" for every algorithm that is recorded, in points."""
    return {
        f"{NAMES[name]} costs {FAMILIES[score]}": judge(tax(points, name, score))
        for name in present(points)
    }


def gain_claims(points: pd.DataFrame, score: str = "reward") -> Comparisons:
    """Return "X raises SCORE" for every algorithm that is recorded: last round minus theta_0."""
    return {
        f"{NAMES[name]} raises {score}": judge(-tax(points, name, score))
        for name in present(points)
    }


def averaging_claims(points: pd.DataFrame, score: str = "skill") -> Comparisons:
    """Return, for every algorithm, whether averaging keeps more than stopping it early.

    At equal reward: the averages of theta_0 and the last round against the rounds, in points.
    """
    return {
        f"averaging {NAMES[name]} keeps more {FAMILIES[score]} than stopping it early": (
            at_equal_reward(
                curve(points, name, "average", score), curve(points, name, "none", score)
            )
        )
        for name in present(points)
    }


def front_claims(
    points: pd.DataFrame, best: str = "rsf", score: str = "skill", method: str = "average"
) -> Comparisons:
    """Return, for every other algorithm, whether the front of `best` lies above its front.

    The fronts are the averages' (the paper's Fig. 14) or, with method "none", the rounds'; gaps are
    taken at equal reward, in points.
    """
    own = curve(points, best, method, score)
    return {
        f"the front of {NAMES[best]} lies above that of {NAMES[name]}": at_equal_reward(
            own, curve(points, name, method, score)
        )
        for name in present(points)
        if name != best
    }


def penalty_claims(points: pd.DataFrame, own: float, least: float | None = None) -> Comparisons:
    """Return what the sweep over PPO's KL coefficient says (paper, Fig. 8); empty without one.

    Args:
        points: The columns of points.csv.
        own: The KL coefficient of the models whose method is "none".
        least: The coefficient that the heaviest is compared with (the paper's is 0.05); None takes
            the lightest there is. The first two claims are left out where it is not recorded.
    """
    swept = points[(points["algorithm"] == "ppo") & (points["method"] == "kl_coef")]
    if swept.empty or "ppo" not in present(points):
        return {}
    strengths = sorted({own, *swept["strength"].astype(float)})

    def end(coef: float, score: str) -> pd.Series:
        if coef == own:
            return last(points, "ppo", score)
        rows = swept[np.isclose(swept["strength"].astype(float), coef)]
        return rows.set_index("seed")[score].astype(float)

    most = strengths[-1]
    least = strengths[0] if least is None else least
    found: Comparisons = {}
    if np.isclose(strengths, least).any() and least < most:
        names = f"KL coefficient {most:g} instead of {least:g}"
        found = {
            f"a {names} keeps more skill": judge(end(most, "skill") - end(least, "skill")),
            f"a {names} costs reward": judge(end(least, "reward") - end(most, "reward")),
        }
    found["averaging PPO keeps more skill than a larger KL coefficient"] = at_equal_reward(
        curve(points, "ppo", "average"), penalty_curve(points, own)
    )
    return found


def chord_share(points: pd.DataFrame, own: float) -> float | None:
    """Return over which share of the rewards compared PPO's penalty has no model, mean over seeds.

    `penalty_claims` compares averaging with the line from theta_0 through the ends of PPO's runs,
    from the heaviest penalty on. Below the lowest reward of these ends that line is a straight
    chord: nothing was trained there. None where nothing is compared.

    Args:
        points: The columns of points.csv.
        own: The KL coefficient of the models whose method is "none".
    """
    averages, shares = curve(points, "ppo", "average"), []
    for seed, line in penalty_curve(points, own).items():
        if seed not in averages:
            continue
        low = max(line[:, 0].min(), averages[seed][:, 0].min())
        high = min(line[:, 0].max(), averages[seed][:, 0].max())
        if high > low:
            shares.append(np.clip((line[1:, 0].min() - low) / (high - low), 0, 1))
    return float(np.mean(shares)) if shares else None


def gold_claims(rows: pd.DataFrame, x: str = "kl") -> Comparisons:
    """Return, for every algorithm but RSF, whether it gains more gold than RSF at the same KL."""
    there = set(rows["algorithm"])
    return {
        f"{NAMES[name]} gains more gold than RSF at the same KL": at_equal_kl(
            rows, name, "rsf", x, "gold_gain"
        )
        for name in NAMES
        if {name, "rsf"} <= there and name != "rsf"
    }


def share_kept(
    points: pd.DataFrame, other: pd.DataFrame, algorithm: str, score: str = "skill"
) -> tuple[float, float, float] | None:
    """Return which share of an algorithm's tax is left in another measure of the same models.

    Args:
        points: The columns of points.csv.
        other: The same models by the other measure (`talk.with_capped`).
        algorithm: A name in `NAMES`.
        score: Of which the tax is.

    Returns:
        Mean tax by the other measure over mean tax, and its interval over seeds drawn with
        replacement (see `resampled`). None unless the tax is shown: a share of nothing is nothing.
    """
    whole, left = (tax(each, algorithm, score) for each in (points, other))
    shown = judge(whole)
    if shown is None or shown.verdict != "holds":
        return None
    rows = pd.DataFrame({"seed": whole.index, "whole": whole.values, "left": left.values})

    def share(drawn: pd.DataFrame) -> float:
        whole = float(drawn["whole"].mean())
        return float(drawn["left"].mean()) / whole if whole > 0 else float("nan")

    return share(rows), *resampled(rows, share)
