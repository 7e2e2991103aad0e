"""Which weights should be averaged: all of them, the linear layers, or one part alone?

The paper's text averages the linear layers (section 4.1), its script for the plain average every
tensor. A recorded row of method "part" averages one part at alpha and leaves all others aligned
(`merge.parts.one_part`); a row of method "average" averages everything. Whatever is averaged, the
two meet in the aligned model at alpha 1, so each is measured by its change since that model, paired
by seed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from alignment_tax.stats import compare, pareto

EVERYTHING = "everything"
LINEAR = "linear"
#: What can be averaged, in the order of a figure. Those after the linear layers are what is left.
PARTS = (EVERYTHING, LINEAR, "embeddings", "norms", "head")
SCORES = ("reward", "skill")


def changes(points: pd.DataFrame) -> pd.DataFrame:
    """Return what averaging a part with theta_0 changes, the aligned model of the seed subtracted.

    Args:
        points: The columns of points.csv, one study.

    Returns:
        One row per seed, part (of `PARTS`) and alpha: reward (the reward model's units) and skill
        (points). Seeds without rows of single parts are left out; no row at all if none has any.
    """
    rsf = points[points["algorithm"] == "rsf"]
    trained = rsf[rsf["method"].fillna("none") == "none"]
    aligned = trained[trained["rounds"] == trained["rounds"].max()].set_index("seed")
    parts = rsf[(rsf["method"] == "part") & rsf["part"].isin(PARTS)]
    whole = rsf[(rsf["method"] == "average") & rsf["seed"].isin(parts["seed"])]
    rows = pd.concat([whole.assign(part=EVERYTHING), parts])
    found = rows[["seed", "part"]].assign(alpha=rows["alpha"].astype(float).round(6))
    for score in SCORES:
        found[score] = (rows[score] - rows["seed"].map(aligned[score])).astype(float)
    return found.reset_index(drop=True)


def by_alpha(changed: pd.DataFrame, part: str, score: str) -> pd.DataFrame:
    """Return the changes of one part: a row a seed, a column an alpha, both in order."""
    return changed[changed["part"] == part].pivot(index="seed", columns="alpha", values=score)


def linear_minus_everything(changed: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return a score of averaging the linear layers minus that of averaging everything.

    Args:
        changed: Rows of `changes`.
        score: reward or skill.

    Returns:
        One row a seed, one column an alpha at which both were recorded.
    """
    linear, whole = (by_alpha(changed, part, score) for part in (LINEAR, EVERYTHING))
    return (linear - whole[whole.columns.intersection(linear.columns)]).dropna()


def gaps_at_equal_reward(changed: pd.DataFrame) -> pd.Series:
    """Return, by seed, the skill that averaging the linear layers keeps beyond that of everything.

    At equal reward: equal alphas are not the same exchange, since with the same alpha the linear
    layers alone are less of a change. Both curves have the same alphas, and end in the aligned
    model (see `front.gap_at_equal_reward`).
    """
    linear = changed[changed["part"] == LINEAR]
    whole = changed[(changed["part"] == EVERYTHING) & changed["alpha"].isin(linear["alpha"])]

    def curve(rows: pd.DataFrame, seed: int) -> np.ndarray:
        own = rows[rows["seed"] == seed].sort_values("alpha")[list(SCORES)]
        return np.vstack([own.to_numpy(), (0.0, 0.0)])  # alpha 1: the aligned model

    seeds = sorted(set(linear["seed"]))
    gaps = [pareto.gap_at_equal_reward(curve(linear, s), curve(whole, s)) for s in seeds]
    return pd.Series(gaps, index=seeds)


def comparisons(changed: pd.DataFrame) -> dict[str, compare.Comparison]:
    """Return linear layers minus everything, over seeds: at each alpha, over all, at equal reward.

    Args:
        changed: Rows of `changes`, of two seeds or more.

    Returns:
        Keys "reward" and "skill" (of a seed, the mean over the alphas), "reward at 0.2" and so on,
        and "skill at equal reward".
    """
    found = {}
    for score in SCORES:
        gaps = linear_minus_everything(changed, score)
        found[score] = compare.compare_seeds(gaps.mean(axis=1))
        found |= {f"{score} at {a:g}": compare.compare_seeds(gaps[a]) for a in gaps.columns}
    return found | {"skill at equal reward": compare.compare_seeds(gaps_at_equal_reward(changed))}


def single_parts(changed: pd.DataFrame, score: str) -> dict[str, compare.Comparison]:
    """Return what averaging embeddings, norms or head alone changes: {"norms at 0.4": ...}."""
    found: dict[str, compare.Comparison] = {}
    for part in PARTS[2:]:
        table = by_alpha(changed, part, score).dropna()
        found |= {f"{part} at {a:g}": compare.compare_seeds(table[a]) for a in table.columns}
    return found


def differs(compared: compare.Comparison) -> bool:
    """Whether the interval of a difference excludes zero, on either side."""
    return compared.low > 0 or compared.high < 0


def answer(found: dict[str, compare.Comparison]) -> str:
    """Say whether it matters that embeddings, norms and head are averaged, too.

    Args:
        found: What `comparisons` returns.
    """

    def size(name: str, unit: str) -> str:
        each = found[name]
        numbers = f"{each.difference:+.2f} {unit} ({each.low:+.2f} to {each.high:+.2f})"
        if differs(each):
            return f"{'more' if each.difference > 0 else 'less'} {name}, {numbers}"
        return f"no other {name} that these seeds can tell, {numbers}"

    decided = [score for score in SCORES if differs(found[score])]
    at_alpha = (
        "**At equal α it matters**"
        if decided
        else "**At equal α no difference is shown**, and none larger than these intervals allow"
    )
    text = (
        f"{at_alpha}: with embeddings, norms and head left aligned, averaging the linear layers "
        f"gives {size('reward', 'units')}, and {size('skill', 'points')}."
    )
    equal = found["skill at equal reward"]
    if not differs(equal):
        return (
            f"{text} **At equal reward no difference in skill is shown**: {equal.difference:+.2f} "
            f"points ({equal.low:+.2f} to {equal.high:+.2f}), over the rewards that both reach. "
            "There, as far as these seeds can tell, leaving the rest out is another α on the same "
            "front, not another front."
        )
    better = "better" if equal.difference > 0 else "worse"
    return (
        f"{text} **At equal reward the linear layers alone trade {better}**, by "
        f"{equal.difference:+.2f} points of skill ({equal.low:+.2f} to {equal.high:+.2f}), over "
        "the rewards that both reach."
    )
