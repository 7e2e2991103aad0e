"""One factory of made-up tables of points, for every test that needs one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from alignment_tax.spec import COLUMNS

#: Student's t, 97.5 %, one degree of freedom: half the interval of two seeds over their error.
T_1 = 12.7062


def point(
    seed: int, algorithm: str, reward: float, skill: float, method: str = "none", **more: Any
) -> dict[str, Any]:
    """Return a row of points.csv whose families all have the score `skill`.

    Seed s has 5 s more reward: each seed has a reward model of its own.
    """
    families = dict.fromkeys(("commonsense", "reading", "translation", "skill"), float(skill))
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"study": "tiny", "seed": seed, "kl": 0.0}
    row |= {"algorithm": algorithm, "method": method, "rounds": 0 if algorithm == "sft" else 2}
    return row | {"reward": reward + 5.0 * seed, "gold": 0.0, "n_items": 100} | families | more


def made_up_points(seeds: Sequence[int] = (0, 1)) -> pd.DataFrame:
    """Return points of theta_0, RSF, PPO, remedies, parts and ratios, worked out by hand.

    theta_0 (0, 80). RSF (2, 78 - s), then (4, 70 - 2 s); its averages on 80 - r, PPO's on 80 - 2 r.
    The plain distilled run (4, 70), its average at 0.5 (2, 79 - 2 s). L2 (2, 75), stronger (1, 78).
    HMA of 3 blocks 1 + 2 s above averaging, of 9 blocks 1 below and at half a reward more. The
    input part put back: 2 more of both at alpha 0. A KL penalty of PPO: (3, 74) and (1, 79).
    """
    rows = []
    for s in seeds:
        rows += [
            point(s, "base", -9, 90, rounds=0),
            point(s, "sft", 0, 80, gold=1.0),
            point(s, "rsf", 2, 78 - s, gold=3.0, kl=1.0, rounds=1),
            point(s, "rsf", 4, 70 - 2 * s, gold=2.0, kl=4.0),
            point(s, "rsf_random", 0, 79, gold=1.0, kl=1.0),
            point(s, "ppo", 1, 78, gold=2.0, kl=1.0, rounds=1),
            point(s, "ppo", 2, 76, gold=2.5, kl=2.0),
            point(s, "ppo", 3, 74, "kl_coef", kl=3.0, strength=0.0),
            point(s, "ppo", 1, 79, "kl_coef", kl=0.5, strength=0.4),
            point(s, "rsf", 4, 70, "distil"),
            point(s, "rsf", 2, 75, "l2", strength=0.1),
            point(s, "rsf", 1, 78, "l2", strength=1.0),
            point(s, "rsf", 1, 79, "lora", strength=1),
            point(s, "rsf", 2, 78, "lora", strength=4),
        ]
        for alpha in (0.0, 0.2, 0.4, 0.5, 1.0):
            average = {"method": "average", "alpha": alpha}
            rows.append(point(s, "rsf", 4 * alpha, 80 - 4 * alpha, **average))
            rows.append(point(s, "ppo", 2 * alpha, 80 - 4 * alpha, **average))
        for alpha, reward, skill in ((0.0, 0, 80), (0.5, 2, 79 - 2 * s), (1.0, 4, 70)):
            rows.append(point(s, "rsf", reward, skill, "distil+average", alpha=alpha))
        for alpha in (0.2, 0.4):
            plain, nine = 80 - 4 * alpha, "|".join([str(alpha)] * 9)
            three = f"{alpha + 0.1 * s}|{alpha}|{alpha - 0.1 * s}"
            hma = {"method": "hma", "alpha": alpha}
            rows.append(point(s, "rsf", 4 * alpha, plain + 1 + 2 * s, part=three, **hma))
            rows.append(point(s, "rsf", 4 * alpha + 0.5, plain - 1, part=nine, **hma))
        for alpha in (0.5, 0.0):
            more = 2 * (1 - alpha)
            part = {"method": "part", "alpha": alpha, "part": "input"}
            rows.append(point(s, "rsf", 4 + more, 70 - 2 * s + more, **part))
    table = pd.DataFrame(rows).infer_objects()
    numbers = ["strength", "alpha", "reward", "gold", "kl"]
    return table.assign(**{name: table[name].astype(float) for name in numbers})
