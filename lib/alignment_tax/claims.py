"""What a recorded run says: of the paper's claims, of lost French that is only talk, of pairs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from alignment_tax.labels import BLEU_COLUMNS
from alignment_tax.skills import capped_bleu, corpus_bleu, goes_on, right
from alignment_tax.stats import compare
from alignment_tax.world import chat
from alignment_tax.world.tiny import TinyWorld

AGREEMENT = {"holds": "agrees", "does not hold": "disagrees", "inconclusive": "cannot tell"}


def last_round(points: pd.DataFrame) -> int:
    """Return the number of the last round of RSF in a table of points."""
    rsf = (points["algorithm"] == "rsf") & (points["method"] == "none")
    return int(points.loc[rsf, "rounds"].max())


def by_seed(points: pd.DataFrame, algorithm: str, score: str, rounds: int = 0) -> pd.Series:
    """Return one score of a model as trained, one number per seed, in the order of the seeds.

    Raises:
        ValueError: the points hold no such model.
    """
    rows = points[(points["method"] == "none") & (points["algorithm"] == algorithm)]
    rows = rows[rows["rounds"] == rounds].set_index("seed").sort_index()
    if rows.empty:
        raise ValueError(f"The points hold no {algorithm!r} after {rounds} rounds.")
    return rows[score].astype(float)


def rise(points: pd.DataFrame, score: str, to: int | None = None, since: int = 0) -> pd.Series:
    """Return the change of a score from one round of RSF (0: theta_0) to another.

    One number per seed that has both: of further seeds other algorithms alone may be recorded.
    """
    end = last_round(points) if to is None else to
    start = by_seed(points, "rsf", score, since) if since else by_seed(points, "sft", score)
    return minus(by_seed(points, "rsf", score, end), start)


def minus(one: pd.Series, other: pd.Series) -> pd.Series:
    """Return one score by seed minus another, of the seeds that have both."""
    shared = one.index.intersection(other.index)
    return one[shared] - other[shared]


def judge(differences: Iterable[float]) -> compare.Comparison | None:
    """Return the 95 % t interval over seeds with its verdict; None where there are too few."""
    values = list(differences)
    return compare.compare_seeds(values) if len(values) > 1 else None


def paper_table(
    points: pd.DataFrame, gap: float, averaging: compare.Comparison | None
) -> pd.DataFrame:
    """Return the paper's claims, each beside the number of these points and what it says of it.

    Args:
        points: the columns of points.csv, one study.
        gap: points of skill by which averaging lies above early stopping at equal reward.
        averaging: the comparison of that gap over seeds; None for one seed.

    Returns:
        One row per claim (the index): the paper, recorded here, agrees?.
    """
    last = last_round(points)

    def percent(family: str) -> str:
        change = rise(points, family)
        return f"{(100 * change / by_seed(points, 'sft', family)[change.index]).mean():+.0f} %"

    def moved(score: str, *, to: int | None = None, since: int = 0) -> str:
        return f"{rise(points, score, to, since).mean():+.1f}"

    rows = [
        (
            "RLHF raises the reward it optimises",
            "helpfulness +56 % (Fig. 1)",
            f"reward {rise(points, 'reward').mean():+.2f} (the reward model's units)",
            judge(rise(points, "reward")),
        ),
        (
            "translation falls",
            "−45 % (Fig. 1)",
            percent("translation"),
            judge(-rise(points, "translation")),
        ),
        ("reading falls", "−15 % (Fig. 1)", percent("reading"), judge(-rise(points, "reading"))),
        (
            "common sense rises at first",
            "yes (Fig. 12)",
            f"{moved('commonsense', to=1)} points in round 1",
            judge(rise(points, "commonsense", 1)),
        ),
        (
            "common sense falls later",
            "yes (Fig. 12)",
            f"{moved('commonsense', since=1)} points from round 1 to round {last}",
            judge(-rise(points, "commonsense", last, 1)),
        ),
        (
            "averaging trades better than early stopping",
            "averaging beats nearly all remedies (Fig. 3)",
            f"{gap:+.2f} points of skill at equal reward",
            averaging,
        ),
    ]
    if points.loc[points["method"] == "none", "gold"].notna().all():
        gold = rise(points, "gold")
        second = "a judge that is not optimised goes up too"
        here = f"gold reward {gold.mean():+.2f}"
        rows.insert(1, (second, "has such a judge only for Zephyr", here, judge(gold)))
    table = [
        {
            "claim": claim,
            "the paper": paper,
            "recorded here": here,
            "agrees?": AGREEMENT[compared.verdict] if compared else "cannot tell (one seed)",
        }
        for claim, paper, here, compared in rows
    ]
    return pd.DataFrame(table).set_index("claim")


def talk_table(points: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return per seed how much of the lost translation is talk that follows a right answer.

    Args:
        points: the columns of points.csv, one study.
        items: the recorded items: seed, key, slot, item and the ten counts of translations.

    Returns:
        One row per seed: lost (translations that theta_0 has right and RSF has not), goes_on
        (those of them that hold the right answer, and more), bleu (change in BLEU),
        capped_bleu (change if nothing beyond the reference's length counted).
    """
    rows = []
    for seed in rise(points, "rounds").index:
        before = _translations(points, items, seed, "sft", 0)
        after = _translations(points, items, seed, "rsf", last_round(points))
        lost = right(before) & ~right(after)
        scores = [corpus_bleu(side[list(BLEU_COLUMNS)].to_numpy()) for side in (before, after)]
        forgiven = [capped_bleu(side) for side in (before, after)]
        rows.append(
            {
                "seed": int(seed),
                "lost": int(lost.sum()),
                "goes_on": int((lost & goes_on(after)).sum()),
                "bleu": scores[1] - scores[0],
                "capped_bleu": forgiven[1] - forgiven[0],
            }
        )
    return pd.DataFrame(rows).set_index("seed")


def _translations(
    points: pd.DataFrame, items: pd.DataFrame, seed: int, algorithm: str, rounds: int
) -> pd.DataFrame:
    """Return the translations of one model as trained, in the order of the items."""
    model = points[(points["method"] == "none") & (points["algorithm"] == algorithm)]
    model = model[(model["seed"] == seed) & (model["rounds"] == rounds)]
    rows = items[(items["seed"] == seed) & (items["key"] == model["key"].iloc[0])]
    return rows[rows["slot"] == "bleu"].sort_values("item")


def name_obedience(pairs: pd.DataFrame, requests: Iterable[str]) -> pd.DataFrame:
    """Return pairs of the tiny world with the kind "obeys" where the worse reply helps with harm.

    For a harmful request the kinds wrong_object, wrong_task and dropped_step all mean the same: the
    worse reply obeys instead of refusing. That is far easier to see than a wrong object.

    Args:
        pairs: one row per preference pair, with its `kind`.
        requests: the request of each pair, in the same order.
    """
    harmful = np.array([chat.is_harmful(chat.parse(request)[0]) for request in requests])
    obeys = harmful & pairs["kind"].isin(["wrong_object", "wrong_task", "dropped_step"])
    return pairs.assign(kind=pairs["kind"].mask(obeys, "obeys"))


def name_recorded_obedience(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return recorded held-out pairs with the kind "obeys"; real ones, of no kind, as they are.

    The table holds no requests, but a seed draws the same pairs again.

    Raises:
        ValueError: the world has changed since the recording.
    """
    if not set(pairs["kind"]) & set(chat.PERTURBATIONS):
        return pairs
    parts = []
    for seed, rows in pairs.groupby("seed"):
        drawn = TinyWorld().preferences(len(rows), int(str(seed)), "validation")
        if list(drawn["kind"]) != rows["kind"].tolist():
            raise ValueError(f"Seed {seed} draws other held-out pairs than were recorded.")
        parts.append(name_obedience(rows, [prompt[-1]["content"] for prompt in drawn["prompt"]]))
    return pd.concat(parts)
