"""The only selectors of rows of the table of points, and the curves that are drawn through them."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from alignment_tax import spec
from alignment_tax.presets import PRESETS
from alignment_tax.registry import REMEDIES

#: Algorithms of RLHF, RSF first.
RLHF = ("rsf", "dpo", "rloo", "ppo")


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
        raise ValueError("Method 'part' is no curve, each of its parts is one: choose by `part`.")
    points = points[points["seed"] == seed]
    start, rounds = (as_trained(points, name) for name in ("sft", algorithm))
    own = points[(points["algorithm"] == algorithm) & (points["method"] == method)]
    own = rounds if method == "early_stopping" else own
    if own.empty:
        raise NotRecorded(f"The recorded run has no points of method {method!r}, seed {seed}.")
    plain, end = rounds[rounds["rounds"] == rounds["rounds"].max()], own[:0]
    if spec.is_search(method):
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
            distilled = (points["algorithm"] == algorithm) & (points["method"] == spec.DISTIL)
            end = plain if inside else points[distilled]
        own = own.sort_values("strength", ascending=weak_is_high(method))
    return pd.concat([table for table in (start, own, end) if len(table)])


def as_trained(rows: pd.DataFrame, algorithm: str) -> pd.DataFrame:
    """Return the rows of an algorithm as it trains, without a remedy or a mixture."""
    return rows[(rows["algorithm"] == algorithm) & (rows["method"] == "none")]


def main_line(points: pd.DataFrame) -> pd.DataFrame:
    """Return the models as trained and RSF's plain averages, of the seeds that have RSF."""
    need(points, ["algorithm", "method"])
    algorithm, method = points["algorithm"], points["method"].fillna("none")
    trained = algorithm.isin(["base", "sft", "rsf_random", "rsf"]) & (method == "none")
    return with_rsf(points[trained | ((algorithm == "rsf") & (method == "average"))])


def with_rsf(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the seeds of which models of RSF are recorded, all if of none."""
    # other seeds may hold theta_0 and another algorithm alone: it is not RSF's theta_0
    there = points.loc[points["algorithm"] == "rsf", "seed"]
    return points[points["seed"].isin(there)] if len(there) else points


def need(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Refuse a table that lacks columns or rows."""
    if missing := ", ".join(name for name in columns if name not in frame.columns):
        there = ", ".join(map(str, frame.columns)) or "none"
        raise TableError(f"This needs the column(s) {missing}; the table has {there}.")
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
    """Return the rows with all `values`, checked; of values `since`, the change from theta_0."""
    need(points, ["study", *spec.NAMED, *values])
    studies = sorted(map(str, points["study"].unique()))
    if len(studies) > 1:
        raise TableError(f"A figure shows one study at a time, not {', '.join(studies)}.")
    rows, numbers = points.copy(), ["strength", "alpha", "rounds", *values]
    rows[numbers] = rows[numbers].apply(pd.to_numeric, errors="coerce").astype(float)
    rows = rows.round({"strength": 6, "alpha": 6}).astype({"method": object, "part": object})
    rows = rows.fillna({"method": "none", "part": ""})
    if len(twice := rows[rows.duplicated(spec.NAMED)]):
        model = "{} / {} of seed {}".format(*twice[["algorithm", "method", "seed"]].iloc[0])
        raise TableError(f"{model} is in the points twice, which narrows intervals: keep one.")
    rows = rows[np.isfinite(rows[list(values)].to_numpy()).all(axis=1)].reset_index(drop=True)
    if rows.empty:
        named = ", ".join(dict.fromkeys(values))
        raise TableError(f"There is nothing to draw: no row has a number in all of {named}.")
    if not since:
        return rows
    start = theta_0(rows).set_index("seed")
    if orphans := sorted(set(rows["seed"]) - set(start.index)):
        raise TableError(f"Seed(s) {', '.join(map(str, orphans))} have no theta_0 to subtract.")
    return rows.assign(**{name: rows[name] - rows["seed"].map(start[name]) for name in since})


def theta_0(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of theta_0 (algorithm sft, method none), one a seed."""
    start = as_trained(rows, "sft")
    if start.empty:
        raise TableError("The points need theta_0: a row with algorithm 'sft' and method 'none'.")
    return start


def last_round(rows: pd.DataFrame, algorithm: str = "rsf") -> pd.DataFrame:
    """Return the rows of the last round of an algorithm, one a seed."""
    rounds, name = as_trained(rows, algorithm), algorithm.upper()
    if rounds.empty:
        raise TableError(f"The points need {name}: algorithm {algorithm!r} with method 'none'.")
    return rounds[rounds["rounds"] == rounds["rounds"].max()]


def rounds_from_0(rows: pd.DataFrame, algorithm: str) -> pd.DataFrame:
    """Return theta_0 as round 0 and the rounds of one algorithm; empty when it was not run."""
    rounds, start = as_trained(rows, algorithm), theta_0(rows)
    start = start[start["seed"].isin(rounds["seed"])]
    return pd.concat([start.assign(algorithm=algorithm, rounds=0.0), rounds])


def has_gold(points: pd.DataFrame) -> bool:
    """Whether any row has a gold reward: real data have none."""
    return "gold" in points and bool(points["gold"].notna().any())


def present(points: pd.DataFrame, names: Sequence[str] = RLHF) -> list[str]:
    """Return the algorithms, of `names`, of which models as trained are recorded."""
    return [name for name in names if len(as_trained(points, name))]


def shared(points: pd.DataFrame, names: Sequence[str] = RLHF) -> pd.DataFrame:
    """Return the rows of the seeds that have every algorithm of `present`; all if none has."""
    seeds = [set(as_trained(points, name)["seed"]) for name in present(points, names)]
    common = set.intersection(*seeds) if seeds else set()
    return points[points["seed"].isin(common)] if common else points
