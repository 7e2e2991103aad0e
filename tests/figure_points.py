"""A table of made-up points whose means and differences are worked out by hand."""

import numpy as np
import pandas as pd

from alignment_tax.presets import TINY

SLOTS = ["one_hop", "two_hop", "piqa_like", "race_like", "span", "counting", "bleu"]
SCORES = [*SLOTS, "commonsense", "reading", "translation", "skill"]


def row(
    seed: int, algorithm: str, score: float, reward: float, **more: object
) -> dict[str, object]:
    """A point of seed s: `score` + 2 s in every skill, `reward` + s; gold is half the reward."""
    return {
        "study": "tiny", "seed": seed, "algorithm": algorithm, "method": "none",
        "strength": np.nan, "alpha": np.nan, "part": np.nan, "rounds": 0,
        "reward": reward + seed, "gold": (reward + seed) / 2,
        **dict.fromkeys(SCORES, score + 2.0 * seed), "kl": 0.0, "n_items": 6000,
        "key": f"{seed}-{algorithm}", **more,
    }  # fmt: skip


def made_up_points(seeds: int = 2, *more: str) -> pd.DataFrame:
    """The main line, (reward, skill): theta_0 (0, 80); RSF (2, 70), (4, 60); averaging (3, 75).

    `more` adds rows: "remedies" (each at its strengths, the plain distilled run (4, 61) and its
    averages), "ratios" (parts; HMA of 3 blocks (3, 76), of 6 (3.5, 75), of 9 (3.5, 74)),
    "algorithms" (DPO and PPO, two rounds each, and DPO's averages).
    """
    rows = []
    for s in range(seeds):
        rows += [
            row(s, "base", 90, -9),
            row(s, "sft", 80, 0),
            row(s, "rsf", 70, 2, rounds=1, kl=1.0),
            row(s, "rsf", 60, 4, rounds=2, kl=3.0),
            row(s, "rsf_random", 78, 0, rounds=2),
            row(s, "rsf", 80, 0, method="average", alpha=0.0, rounds=2),
            row(s, "rsf", 75, 3, method="average", alpha=0.5, rounds=2),
            row(s, "rsf", 60, 4, method="average", alpha=1.0, rounds=2),
        ]
        for name in more:
            rows += {"remedies": _remedies, "ratios": _ratios, "algorithms": _algorithms}[name](s)
    return pd.DataFrame(rows)


def _remedies(s: int) -> list[dict[str, object]]:
    rows = [row(s, "rsf", 61, 4, method="distil", rounds=2, kl=3.0)]
    for n, grid in enumerate(TINY.remedies):
        for i, strength in enumerate(grid.strengths, start=1):
            way = i / (len(grid.strengths) + 1)
            score = 80 - 20 * way**2 - n / 3 + (-1) ** i * s / 2
            place = {"method": grid.method, "strength": strength, "rounds": 2, "kl": way}
            rows.append(row(s, "rsf", score, 4 * way, **place))
    for alpha in (0.25, 0.5, 0.75):
        for name in ("distil+average", "l2+average", "l2_in_rounds"):
            place = {"method": name, "alpha": alpha, "rounds": 2}
            rows.append(row(s, "rsf", 80 - 18 * alpha**2, 4 * alpha, **place))
    return rows


def _ratios(s: int) -> list[dict[str, object]]:
    models = [
        ("part", 62, 5, "input"),
        ("part", 61, 5, "middle"),
        ("part", 64, 3, "output"),
        ("part", 60, 3, "head"),
        ("hma", 76, 3, f"{0.7 + s / 10}|0.5|{0.3 - s / 10}"),
        ("hma", 75, 3.5, "|".join(["0.5"] * 6)),
        ("hma", 74, 3.5, "|".join(["0.5"] * 9)),
        ("hma_released", 73, 3, "0.51|0.5|0.49|embeddings=0.0|norms=0.0"),
        ("adamerging", 73, 3, "|".join(["0.5"] * 9)),
    ]
    return [
        row(s, "rsf", score, reward, method=method, alpha=0.5, part=part, rounds=2)
        for method, score, reward, part in models
    ]


def _algorithms(s: int) -> list[dict[str, object]]:
    rows = []
    for algorithm, reward in (("dpo", 1.0), ("ppo", 2.0)):
        rows += [
            row(s, algorithm, 76, reward, rounds=1, kl=reward),
            row(s, algorithm, 72, 2 * reward, rounds=2, kl=2 * reward),
        ]
    rows.append(row(s, "dpo", 78, 0.8, method="average", alpha=0.5, rounds=2))
    return rows
