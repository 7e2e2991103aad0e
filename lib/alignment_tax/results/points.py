"""The only selectors of rows of the table of points, and the curves that are drawn through them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from alignment_tax import spec
from alignment_tax.presets import PRESETS
from alignment_tax.registry import REMEDIES


class TableError(ValueError):
    """A table lacks what is asked of it; the message says what is missing and what to do."""


class NotRecorded(TableError):
    """The recorded run lacks the rows that a comparison needs, in two seeds at least."""


def weak_is_high(method: str) -> bool:
    """Whether a method is the weaker, the higher its strength."""
    remedy = REMEDIES.get(spec.out_of_rounds(method))
    return method == spec.LEARNING_RATE or (remedy is not None and remedy.weak_is_high)


def curve_rows(
    points: pd.DataFrame, method: str, seed: int, algorithm: str = "rsf"
) -> pd.DataFrame:
    """Return the rows of a method's curve for one seed, from theta_0 on.

    Averages and ratios (of the fewest blocks) go by alpha, an algorithm by its rounds, a remedy, KL
    coefficients and learning rates from strongest to weakest, to the plain run if they fade to it.
    NotRecorded if there is no such row, ValueError for "part".
    """
    if method == spec.PART:
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
    if spec.has_ratios(spec.Spec(algorithm, method=method)):
        blocks = own["part"].map(spec.block_count)
        own, end = own[blocks == blocks.min()].sort_values("alpha"), plain
    elif own["alpha"].notna().all():
        return own.sort_values(["strength", "alpha"])
    elif method == "early_stopping":
        own = own.sort_values("rounds")
    else:
        remedy = REMEDIES.get(spec.out_of_rounds(method))
        if method in spec.CHANGED:
            preset = PRESETS[str(own["study"].iloc[0])]
            value = getattr(preset.algorithms[algorithm], method)
            own = pd.concat([own, plain.assign(strength=value)])
        elif remedy is not None and remedy.fades:  # LoRA's weaker ranks do not end at the plain run
            # in rounds, the run without a remedy is RSF itself
            inside = spec.Method.read(method).protocol == spec.INSIDE
            end = plain if inside else trained[trained["method"] == spec.DISTIL]
        own = own.sort_values("strength", ascending=weak_is_high(method))
    return pd.concat([table for table in (start, own, end) if len(table)])


SETTING = ["algorithm", "method", "strength", "alpha", "part", "rounds"]
#: Whose models as trained the course's main line shows, and what it mixes of the last of these.
TRAINED = ("base", "sft", "rsf_random", "rsf")


def main_line(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the course's main line, of the seeds that have RSF.

    These are the models as trained (base, theta_0, RSF, its random control) and plain averages.
    """
    need(points, ["algorithm", "method"])
    method = points["method"].fillna("none")
    trained = (method == "none") & points["algorithm"].isin(TRAINED)
    averaged = (method == "average") & (points["algorithm"] == "rsf")
    return with_rsf(points[trained | averaged])


def with_rsf(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the seeds of which models of RSF are recorded, all if of none."""
    # other seeds may hold theta_0 and another algorithm alone: it is not RSF's theta_0
    there = points.loc[points["algorithm"] == "rsf", "seed"]
    return points[points["seed"].isin(there)] if len(there) else points


def need(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Refuse a table that lacks columns or rows."""
    if missing := [name for name in columns if name not in frame.columns]:
        raise TableError(
            f"This needs the column(s) {', '.join(missing)}; the table has "
            f"{', '.join(map(str, frame.columns)) or 'none'}."
        )
    if frame.empty:
        raise TableError("There is nothing to draw: the table has no rows.")


def finite(values: object, what: str) -> np.ndarray:
    """Return `values` as a float array."""
    array = np.asarray(values, dtype=float)
    if array.size == 0 or np.isnan(array).all():
        raise TableError(f"There is nothing to draw: no {what} is a number.")
    if bad := int((~np.isfinite(array)).sum()):
        raise TableError(f"{bad} of {array.size} {what} are NaN or infinite.")
    return array


def prepare(points: pd.DataFrame, values: Sequence[str], since: Sequence[str] = ()) -> pd.DataFrame:
    """Return the rows of a table of points that have all `values`, checked and normalised.

    Of the values `since` the rows have the difference to theta_0 of the same seed.
    """
    need(points, ["study", "seed", *SETTING, *values])
    studies = sorted(map(str, points["study"].unique()))
    if len(studies) > 1:
        raise TableError(
            f"A figure shows one study at a time, and these points hold {', '.join(studies)}. "
            f"Pass points[points.study == {studies[0]!r}]."
        )
    rows, numbers = points.copy(), ["strength", "alpha", "rounds", *values]
    rows[numbers] = rows[numbers].apply(pd.to_numeric, errors="coerce").astype(float)
    rows = rows.round({"strength": 6, "alpha": 6}).astype({"method": object, "part": object})
    rows = rows.fillna({"method": "none", "part": ""})
    twice = rows[rows.duplicated(["seed", *SETTING])]
    if not twice.empty:
        row = twice.iloc[0]
        raise TableError(
            f"{row.algorithm} / {row.method} of seed {row.seed} is in the points twice, which "
            "would make the intervals too narrow. Keep one row a model."
        )
    rows = rows[np.isfinite(rows[list(values)].to_numpy()).all(axis=1)]
    if rows.empty:
        named = ", ".join(dict.fromkeys(values))
        raise TableError(f"There is nothing to draw: no row has a number in all of {named}.")
    rows = rows.reset_index(drop=True)
    if not since:
        return rows
    start = theta_0(rows).set_index("seed")
    if orphans := sorted(set(rows["seed"]) - set(start.index)):
        raise TableError(f"Seed(s) {', '.join(map(str, orphans))} have no theta_0 to subtract.")
    return rows.assign(**{name: rows[name] - rows["seed"].map(start[name]) for name in since})


def theta_0(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of theta_0 (algorithm sft, method none), one a seed."""
    start = rows[(rows["algorithm"] == "sft") & (rows["method"] == "none")]
    if start.empty:
        raise TableError("The points need theta_0: a row with algorithm 'sft' and method 'none'.")
    return start


def rounds_from_0(rows: pd.DataFrame, algorithm: str) -> pd.DataFrame:
    """Return theta_0 as round 0 and the rounds of one algorithm; empty when it was not run."""
    rounds = rows[(rows["algorithm"] == algorithm) & (rows["method"] == "none")]
    start = theta_0(rows)
    start = start[start["seed"].isin(rounds["seed"])]
    return pd.concat([start.assign(algorithm=algorithm, rounds=0.0), rounds])


def has_gold(points: pd.DataFrame) -> bool:
    """Whether any row has a gold reward: real data have none."""
    return "gold" in points and bool(points["gold"].notna().any())


def last_round(rows: pd.DataFrame, algorithm: str = "rsf") -> pd.DataFrame:
    """Return the rows of the last round of an algorithm, one a seed."""
    trained = rows[(rows["algorithm"] == algorithm) & (rows["method"] == "none")]
    if trained.empty:
        raise TableError(
            f"The points need {algorithm.upper()}: rows with algorithm {algorithm!r} and method "
            "'none'."
        )
    return trained[trained["rounds"] == trained["rounds"].max()]


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
