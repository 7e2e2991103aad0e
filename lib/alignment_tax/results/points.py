"""The only selectors of rows of the table of points, and the curves that are drawn through them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from alignment_tax.presets import PRESETS
from alignment_tax.registry import REMEDIES
from alignment_tax.spec import (
    CHANGED,
    DISTIL,
    LEARNING_RATE,
    PART,
    Spec,
    block_count,
    has_ratios,
    is_in_rounds,
    out_of_rounds,
)


class TableError(ValueError):
    """A table lacks what is asked of it; the message says what is missing and what to do."""


class NotRecorded(TableError):
    """The recorded run lacks the rows that a comparison needs, in two seeds at least."""


def weak_is_high(method: str) -> bool:
    """Whether a method is the weaker, the higher its strength."""
    if method == LEARNING_RATE:
        return True
    return bool(getattr(REMEDIES.get(out_of_rounds(method)), "weak_is_high", False))


def fades(method: str) -> bool:
    """Whether ever weaker strengths of a remedy end at the plain run (LoRA's do not)."""
    return bool(getattr(REMEDIES.get(out_of_rounds(method)), "fades", False))


def curve_rows(
    points: pd.DataFrame, method: str, seed: int, algorithm: str = "rsf"
) -> pd.DataFrame:
    """Return the rows of a method's curve for one seed, from theta_0 on.

    Averages go by alpha, an algorithm by its rounds, a remedy from its strongest strength to its
    weakest (and the plain distilled run, if it fades to that), PPO from its heaviest KL penalty to
    its lightest, RSF from its smallest steps to its own, methods with a ratio per block by mean
    ratio, of the fewest blocks. NotRecorded if there is no such row, ValueError for "part".
    """
    if method == PART:
        raise ValueError(
            "Method 'part' is no curve: each of its parts is one. Choose the rows of one part by "
            "the column part."
        )
    points = points[points["seed"] == seed]
    start = points[points["algorithm"] == "sft"]
    trained = points[points["algorithm"] == algorithm]
    own = trained[trained["method"] == ("none" if method == "early_stopping" else method)]
    if own.empty:
        raise NotRecorded(f"The recorded run has no points of method {method!r}, seed {seed}.")
    plain = trained[trained["method"] == "none"]
    plain = plain[plain["rounds"] == plain["rounds"].max()]
    end = own[:0]
    if has_ratios(Spec(algorithm, method=method)):
        blocks = own["part"].map(block_count)
        own, end = own[blocks == blocks.min()].sort_values("alpha"), plain
    elif own["alpha"].notna().all():
        return own.sort_values(["strength", "alpha"])
    elif method == "early_stopping":
        own = own.sort_values("rounds")
    elif method in CHANGED:
        preset = PRESETS[str(own["study"].iloc[0])]
        own_value = getattr(preset.algorithms[algorithm], method)
        own = pd.concat([own, plain.assign(strength=own_value)])
        own = own.sort_values("strength", ascending=weak_is_high(method))
    else:
        own = own.sort_values("strength", ascending=weak_is_high(method))
        if fades(method):  # in rounds, the run without a remedy is RSF itself
            end = plain if is_in_rounds(method) else trained[trained["method"] == DISTIL]
    return pd.concat([table for table in (start, own, end) if len(table)])


SETTING = ["algorithm", "method", "strength", "alpha", "part", "rounds"]
#: Whose models as trained the course's main line shows, and what it mixes of the last of these.
TRAINED = ("base", "sft", "rsf_random", "rsf")


def main_line(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the course's main line, of the seeds that have RSF.

    These are the models as trained (base, theta_0, RSF, its random control) and plain averages.
    """
    need(points, ["algorithm", "method"], "main_line")
    method = points["method"].fillna("none")
    trained = (method == "none") & points["algorithm"].isin(TRAINED)
    averaged = (method == "average") & (points["algorithm"] == "rsf")
    return with_rsf(points[trained | averaged])


def with_rsf(points: pd.DataFrame, algorithm: str = "rsf") -> pd.DataFrame:
    """Return the rows of the seeds of which models of an algorithm are recorded, all if of none."""
    # other seeds may hold theta_0 and another algorithm alone: it is not RSF's theta_0
    there = points.loc[points["algorithm"] == algorithm, "seed"]
    return points[points["seed"].isin(there)] if len(there) else points


def need(frame: pd.DataFrame, columns: Iterable[str], figure: str) -> None:
    """Refuse a table that lacks columns or rows."""
    if not isinstance(frame, pd.DataFrame):
        raise TableError(f"{figure} takes a pandas DataFrame, not {type(frame).__name__}.")
    missing = [name for name in dict.fromkeys(columns) if name not in frame.columns]
    if missing:
        raise TableError(
            f"{figure} needs the column(s) {', '.join(missing)}; the table has "
            f"{', '.join(map(str, frame.columns)) or 'none'}."
        )
    if frame.empty:
        raise TableError(f"{figure} has nothing to draw: the table has no rows.")


def finite(values: object, figure: str, what: str) -> np.ndarray:
    """Return `values` as a float array."""
    array = np.asarray(values, dtype=float)
    if array.size == 0 or np.isnan(array).all():
        raise TableError(f"{figure} has nothing to draw: no {what} is a number.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise TableError(f"{figure}: {bad} of {array.size} {what} are NaN or infinite.")
    return array


def prepare(points: pd.DataFrame, values: Sequence[str], figure: str) -> pd.DataFrame:
    """Return the rows of a table of points that have all `values`, checked and normalised."""
    need(points, ["study", "seed", *SETTING, *values], figure)
    studies = sorted(map(str, points["study"].unique()))
    if len(studies) > 1:
        raise TableError(
            f"{figure} shows one study at a time, and these points hold {', '.join(studies)}. "
            f"Pass points[points.study == {studies[0]!r}]."
        )
    rows = points.copy()
    for column in ("strength", "alpha", "rounds", *values):
        rows[column] = pd.to_numeric(rows[column], errors="coerce").astype(float)
    for column in ("strength", "alpha"):
        rows[column] = rows[column].round(6)
    rows["method"] = rows["method"].astype(object).fillna("none").astype(str)
    rows["algorithm"] = rows["algorithm"].astype(str)
    rows["part"] = rows["part"].astype(object).fillna("").astype(str)
    twice = rows[rows.duplicated(["seed", *SETTING])]
    if not twice.empty:
        row = twice.iloc[0]
        raise TableError(
            f"{figure}: {row.algorithm} / {row.method} of seed {row.seed} is in the points twice, "
            "which would make the intervals too narrow. Keep one row a model."
        )
    rows = rows[np.isfinite(rows[list(values)].to_numpy()).all(axis=1)]
    if rows.empty:
        raise TableError(
            f"{figure} has nothing to draw: no row has a number in all of "
            f"{', '.join(dict.fromkeys(values))}."
        )
    return rows.reset_index(drop=True)


def theta_0(rows: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Return the rows of theta_0 (algorithm sft, method none), one a seed."""
    start = rows[(rows["algorithm"] == "sft") & (rows["method"] == "none")]
    if start.empty:
        raise TableError(f"{figure} needs theta_0: a row with algorithm 'sft' and method 'none'.")
    return start


def rounds_from_0(rows: pd.DataFrame, algorithm: str, figure: str) -> pd.DataFrame:
    """Return theta_0 as round 0 and the rounds of one algorithm; empty when it was not run."""
    rounds = rows[(rows["algorithm"] == algorithm) & (rows["method"] == "none")]
    start = theta_0(rows, figure)
    start = start[start["seed"].isin(rounds["seed"])]
    return pd.concat([start.assign(algorithm=algorithm, rounds=0.0), rounds])


def has_gold(points: pd.DataFrame) -> bool:
    """Whether any row has a gold reward: real data have none."""
    return "gold" in points and bool(pd.DataFrame(points)["gold"].notna().any())


def last_rsf(rows: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Return the rows of the last RSF round, one a seed."""
    return last_round(rows, "rsf", figure)


def last_round(rows: pd.DataFrame, algorithm: str, figure: str) -> pd.DataFrame:
    """Return the rows of the last round of an algorithm, one a seed."""
    trained = rows[(rows["algorithm"] == algorithm) & (rows["method"] == "none")]
    if trained.empty:
        raise TableError(
            f"{figure} needs {algorithm.upper()}: rows with algorithm {algorithm!r} and method "
            "'none'."
        )
    return trained[trained["rounds"] == trained["rounds"].max()]


def change(rows: pd.DataFrame, values: Sequence[str], figure: str) -> pd.DataFrame:
    """Return the rows with `values` replaced by their difference to theta_0 of the same seed."""
    start = theta_0(rows, figure).set_index("seed")
    if orphans := sorted(set(rows["seed"]) - set(start.index)):
        raise TableError(
            f"{figure} subtracts theta_0 of the same seed, and seed(s) "
            f"{', '.join(map(str, orphans))} have none."
        )
    return rows.assign(**{name: rows[name] - rows["seed"].map(start[name]) for name in values})


# --- algorithms of RLHF, RSF first ----------------------------------------------------------------

RLHF = ("rsf", "dpo", "rloo", "ppo")


def present(points: pd.DataFrame) -> list[str]:
    """Return the algorithms of `RLHF` of which models as trained are recorded."""
    trained = set(points.loc[points["method"] == "none", "algorithm"])
    return [name for name in RLHF if name in trained]


def shared(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the seeds that have every algorithm of `present`; all if none has."""
    trained = points[points["method"] == "none"]
    seeds = [set(trained.loc[trained["algorithm"] == name, "seed"]) for name in present(points)]
    common = set.intersection(*seeds) if seeds else set()
    return points[points["seed"].isin(common)] if common else points


def start(points: pd.DataFrame, score: str) -> pd.Series:
    """Return a score of theta_0 by seed."""
    rows = points[points["algorithm"] == "sft"]
    if rows.empty:
        raise ValueError("The points hold no theta_0 (algorithm sft), so nothing can be compared.")
    return rows.set_index("seed")[score].astype(float).sort_index()
