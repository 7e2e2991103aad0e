"""One factory of made-up tables of points, for every test that needs one."""

import pandas as pd

from alignment_tax.labels import SCORES
from alignment_tax.presets import TINY
from alignment_tax.spec import COLUMNS
from alignment_tax.stats.claims import Claim, evaluate

#: Student's t, 97.5 %, one degree of freedom: half the interval of two seeds over their error.
T_1 = 12.7062


def point(seed, algorithm, reward, skill, method="none", **more):
    """Return a row of points.csv whose families all have the score `skill`.

    Seed s has 5 s more reward: each seed has a reward model of its own.
    """
    families = dict.fromkeys(("commonsense", "reading", "translation", "skill"), float(skill))
    row = dict.fromkeys(COLUMNS) | {"study": "tiny", "seed": seed, "kl": 0.0, "gold": 0.0}
    row |= {"algorithm": algorithm, "method": method, "reward": reward + 5.0 * seed}
    rounds = 0 if algorithm in ("base", "sft") else 2
    return row | {"rounds": rounds, "n_items": 100} | families | more


def table_of(rows):
    """Return the table of points; columns of numbers are of numbers even where all are missing."""
    table = pd.DataFrame(rows).infer_objects()
    numbers = ["strength", "alpha", "reward", "gold", "kl"]
    return table.assign(**{name: table[name].astype(float) for name in numbers})


def made_up_points(seeds=(0, 1)):
    """Return points of theta_0, RSF, PPO, remedies, parts and ratios, worked out by hand.

    theta_0 (0, 80). RSF (2, 78 - s), then (4, 70 - 2 s); its averages on 80 - r, PPO's on 80 - 2 r.
    The plain distilled run (4, 70), its average at 0.5 (2, 79 - 2 s). L2 (2, 75), stronger (1, 78).
    HMA of 3 blocks 1 + 2 s above averaging, of 9 blocks 1 below and at half a reward more. The
    input part put back: 2 more of both at alpha 0. A KL penalty of PPO: (3, 74) and (1, 79).
    """
    rows = []
    for s in seeds:
        rows += [
            point(s, "base", -9, 90), point(s, "sft", 0, 80, gold=1.0),
            point(s, "rsf", 2, 78 - s, gold=3.0, kl=1.0, rounds=1),
            point(s, "rsf", 4, 70 - 2 * s, gold=2.0, kl=4.0),
            point(s, "rsf_random", 0, 79, gold=1.0, kl=1.0),
            point(s, "ppo", 1, 78, gold=2.0, kl=1.0, rounds=1),
            point(s, "ppo", 2, 76, gold=2.5, kl=2.0),
            point(s, "ppo", 3, 74, "kl_coef", kl=3.0, strength=0.0),
            point(s, "ppo", 1, 79, "kl_coef", kl=0.5, strength=0.4),
            point(s, "rsf", 4, 70, "distil"),
            point(s, "rsf", 2, 75, "l2", strength=0.1), point(s, "rsf", 1, 78, "l2", strength=1.0),
            point(s, "rsf", 1, 79, "lora", strength=1), point(s, "rsf", 2, 78, "lora", strength=4),
        ]  # fmt: skip
        for alpha in (0.0, 0.2, 0.4, 0.5, 1.0):
            for algorithm, most in (("rsf", 4), ("ppo", 2)):
                reward, skill = most * alpha, 80 - 4 * alpha
                rows.append(point(s, algorithm, reward, skill, "average", alpha=alpha))
        for alpha, reward, skill in ((0.0, 0, 80), (0.5, 2, 79 - 2 * s), (1.0, 4, 70)):
            rows.append(point(s, "rsf", reward, skill, "distil+average", alpha=alpha))
        for alpha in (0.2, 0.4):
            plain, nine = 80 - 4 * alpha, "|".join([str(alpha)] * 9)
            three = f"{alpha + 0.1 * s}|{alpha}|{alpha - 0.1 * s}"
            hma = {"method": "hma", "alpha": alpha}
            rows += [point(s, "rsf", 4 * alpha, plain + 1 + 2 * s, part=three, **hma),
                     point(s, "rsf", 4 * alpha + 0.5, plain - 1, part=nine, **hma)]  # fmt: skip
        for alpha in (0.5, 0.0):
            more, part = 2 * (1 - alpha), {"alpha": alpha, "part": "input"}
            rows.append(point(s, "rsf", 4 + more, 70 - 2 * s + more, "part", **part))
    return table_of(rows)


# --- for figures: every slot has a score, seeds differ in skill ----------------------------------
def row(seed, algorithm, score, reward, method="none", **more):
    """Return a point of seed s: `score` + 2 s in every skill, `reward` + s, half of it gold."""
    own = dict.fromkeys(SCORES, score + 2.0 * seed) | {"n_items": 6000}
    own |= {"reward": reward + seed, "gold": (reward + seed) / 2}
    return point(seed, algorithm, 0, 0, method) | own | more


def figure_points(seeds=2, *more):
    """The main line, (reward, skill): theta_0 (0, 80); RSF (2, 70), (4, 60); averaging (3, 75).

    `more` adds rows: "remedies" (each at its strengths, the plain distilled run (4, 61) and its
    averages), "ratios" (parts; HMA of 3 blocks (3, 76), of 6 (3.5, 75), of 9 (3.5, 74)),
    "algorithms" (DPO and PPO, two rounds each, and DPO's averages).
    """
    rows, builders = [], {"remedies": _remedies, "ratios": _ratios, "algorithms": _algorithms}
    for s in range(seeds):
        rows += [row(s, "base", 90, -9), row(s, "sft", 80, 0), row(s, "rsf_random", 78, 0)]
        rows += [row(s, "rsf", 70, 2, rounds=1, kl=1.0), row(s, "rsf", 60, 4, kl=3.0)]
        for alpha, score, reward in ((0.0, 80, 0), (0.5, 75, 3), (1.0, 60, 4)):
            rows.append(row(s, "rsf", score, reward, "average", alpha=alpha))
        rows += [each for name in more for each in builders[name](s)]
    return table_of(rows)


def _remedies(s):
    rows = [row(s, "rsf", 61, 4, "distil", kl=3.0)]
    for n, (name, strengths) in enumerate(TINY.remedies):
        for i, strength in enumerate(strengths, start=1):
            way = i / (len(strengths) + 1)
            score = 80 - 20 * way**2 - n / 3 + (-1) ** i * s / 2
            rows.append(row(s, "rsf", score, 4 * way, name, strength=strength, kl=way))
    for alpha in (0.25, 0.5, 0.75):
        for name in ("distil+average", "l2+average", "l2_in_rounds"):
            rows.append(row(s, "rsf", 80 - 18 * alpha**2, 4 * alpha, name, alpha=alpha))
    return rows


def _ratios(s):
    models = [
        ("part", 62, 5, "input"), ("part", 61, 5, "middle"),
        ("part", 64, 3, "output"), ("part", 60, 3, "head"),
        ("hma", 76, 3, f"{0.7 + s / 10}|0.5|{0.3 - s / 10}"),
        ("hma", 75, 3.5, "|".join(["0.5"] * 6)),
        ("hma", 74, 3.5, "|".join(["0.5"] * 9)),
        ("hma_released", 73, 3, "0.51|0.5|0.49|embeddings=0.0|norms=0.0"),
        ("adamerging", 73, 3, "|".join(["0.5"] * 9)),
    ]  # fmt: skip
    return [row(s, "rsf", score, r, how, part=part, alpha=0.5) for how, score, r, part in models]


def _algorithms(s):
    rows = [row(s, "dpo", 78, 0.8, "average", alpha=0.5)]
    for algorithm, reward in (("dpo", 1.0), ("ppo", 2.0)):
        rows.append(row(s, algorithm, 76, reward, rounds=1, kl=reward))
        rows.append(row(s, algorithm, 72, 2 * reward, kl=2 * reward))
    return rows


def versus(points, a, b, score="skill", measure="difference"):
    """Compare two selectors, paired by seed: a minus b, said to be positive."""
    return evaluate(points, Claim("", "", "", a, b, score, measure))
