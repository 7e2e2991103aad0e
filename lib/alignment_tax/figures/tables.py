"""What the figures draw, as tables: checks of the input, means, intervals, captions, names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from alignment_tax.figures.look import FigureError
from alignment_tax.presets import PRESETS

SETTING = ["algorithm", "method", "strength", "alpha", "part", "rounds"]
SLOT_NAMES = {
    "tiny": {
        "one_hop": "one-hop facts",
        "two_hop": "two-hop facts",
        "piqa_like": "which to use",
        "race_like": "passage, 4 choices",
        "span": "span answers",
        "counting": "counting",
        "bleu": "French to English",
    },
    "real": {
        "one_hop": "ARC-Easy",
        "two_hop": "ARC-Challenge",
        "piqa_like": "PIQA",
        "race_like": "RACE",
        "span": "SQuAD",
        "counting": "DROP",
        "bleu": "WMT14 fr-en",
    },
}
FAMILY_SLOTS = {
    "commonsense": ("one_hop", "two_hop", "piqa_like", "race_like"),
    "reading": ("span", "counting"),
    "translation": ("bleu",),
}
FAMILY_NAMES = {
    "commonsense": "common sense",
    "reading": "reading",
    "translation": "translation",
    "skill": "mean of three families",
}
SCORES = [*(slot for slots in FAMILY_SLOTS.values() for slot in slots), *FAMILY_NAMES]
AXIS_NAMES = {
    "skill": "skill: mean of three families (%)",
    "commonsense": "common sense: accuracy (%)",
    "reading": "reading: EM or F1 (%)",
    "translation": "translation: BLEU",
    "reward": "reward (reward model's units)",
    "gold": "gold reward",
}


#: Whose models as trained the course's main line shows, and what it mixes of the last of these.
TRAINED = ("base", "sft", "rsf_random", "rsf")


def main_line(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the course's main line, whatever else is recorded beside them.

    These are the models as trained (base, theta_0, the rounds of RSF, its random control) and the
    plain averages of theta_0 and RSF, of the seeds that have RSF (`with_rsf`). Rows of remedies, of
    parts, of ratios per block and of other algorithms carry the same columns: who tells the main
    line takes them out first.

    Raises:
        FigureError: missing columns, or no rows.
    """
    need(points, ["algorithm", "method"], "main_line")
    method = points["method"].fillna("none")
    trained = (method == "none") & points["algorithm"].isin(TRAINED)
    averaged = (method == "average") & (points["algorithm"] == "rsf")
    return with_rsf(points[trained | averaged])


def with_rsf(points: pd.DataFrame, algorithm: str = "rsf") -> pd.DataFrame:
    """Return the rows of the seeds of which models of an algorithm are recorded, all if of none.

    Other seeds may hold theta_0 and another algorithm alone: what is compared with RSF must not
    take its theta_0 from them.
    """
    there = points.loc[points["algorithm"] == algorithm, "seed"]
    return points[points["seed"].isin(there)] if len(there) else points


def need(frame: pd.DataFrame, columns: Iterable[str], figure: str) -> None:
    """Refuse a table that lacks columns or rows.

    Raises:
        FigureError: not a DataFrame, a missing column, or no rows.
    """
    if not isinstance(frame, pd.DataFrame):
        raise FigureError(f"{figure} takes a pandas DataFrame, not {type(frame).__name__}.")
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise FigureError(
            f"{figure} needs the column(s) {', '.join(missing)}; the table has "
            f"{', '.join(map(str, frame.columns)) or 'none'}."
        )
    if frame.empty:
        raise FigureError(f"{figure} has nothing to draw: the table has no rows.")


def finite(values: object, figure: str, what: str) -> np.ndarray:
    """Return `values` as a float array.

    Raises:
        FigureError: nothing in it, or a value that is not a finite number.
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0 or np.isnan(array).all():
        raise FigureError(f"{figure} has nothing to draw: no {what} is a number.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise FigureError(f"{figure}: {bad} of {array.size} {what} are NaN or infinite.")
    return array


def prepare(points: pd.DataFrame, values: Sequence[str], figure: str) -> pd.DataFrame:
    """Return the rows of a table of points that have all `values`, checked and normalised.

    Raises:
        FigureError: missing columns, several studies, a model twice, or no row with all values.
    """
    need(points, ["study", "seed", *SETTING, *values], figure)
    studies = sorted(map(str, points["study"].unique()))
    if len(studies) > 1:
        raise FigureError(
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
        raise FigureError(
            f"{figure}: {row.algorithm} / {row.method} of seed {row.seed} is in the points twice, "
            "which would make the intervals too narrow. Keep one row a model."
        )
    rows = rows[np.isfinite(rows[list(values)].to_numpy()).all(axis=1)]
    if rows.empty:
        raise FigureError(
            f"{figure} has nothing to draw: no row has a number in all of {', '.join(values)}."
        )
    return rows.reset_index(drop=True)


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Return mean, low and high of the 95 % t interval; low and high are NaN for one value."""
    array = np.asarray(list(values), dtype=float)
    mean = float(array.mean())
    if array.size < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size))
    return mean, mean - half, mean + half


def summarise(rows: pd.DataFrame, by: list[str], values: Sequence[str]) -> pd.DataFrame:
    """Return one row per group: seeds, and NAME, NAME_low, NAME_high for each of `values`."""
    records = []
    for key, group in rows.groupby(by, dropna=False, sort=True):
        record: dict[str, object] = dict(zip(by, key, strict=True))
        record["seeds"] = len(group)
        for name in values:
            record[name], record[f"{name}_low"], record[f"{name}_high"] = interval(group[name])
        records.append(record)
    return pd.DataFrame(records)


def theta_0(rows: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Return the rows of theta_0 (algorithm sft, method none), one a seed.

    Raises:
        FigureError: there is none.
    """
    start = rows[(rows["algorithm"] == "sft") & (rows["method"] == "none")]
    if start.empty:
        raise FigureError(f"{figure} needs theta_0: a row with algorithm 'sft' and method 'none'.")
    return start


def last_rsf(rows: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Return the rows of the last RSF round, one a seed.

    Raises:
        FigureError: there is none.
    """
    return last_round(rows, "rsf", figure)


def last_round(rows: pd.DataFrame, algorithm: str, figure: str) -> pd.DataFrame:
    """Return the rows of the last round of an algorithm, one a seed.

    Raises:
        FigureError: there is none.
    """
    trained = rows[(rows["algorithm"] == algorithm) & (rows["method"] == "none")]
    if trained.empty:
        raise FigureError(
            f"{figure} needs {algorithm.upper()}: rows with algorithm {algorithm!r} and method "
            "'none'."
        )
    return trained[trained["rounds"] == trained["rounds"].max()]


def change(rows: pd.DataFrame, values: Sequence[str], figure: str) -> pd.DataFrame:
    """Return the rows with `values` replaced by their difference to theta_0 of the same seed.

    Raises:
        FigureError: a seed without theta_0.
    """
    start = theta_0(rows, figure).set_index("seed")[list(values)]
    orphans = sorted(set(rows["seed"]) - set(start.index))
    if orphans:
        raise FigureError(
            f"{figure} subtracts theta_0 of the same seed, and seed(s) "
            f"{', '.join(map(str, orphans))} have none."
        )
    changed = rows.copy()
    changed[list(values)] = (
        rows[list(values)].to_numpy() - start.loc[rows["seed"], list(values)].to_numpy()
    )
    return changed


def names_of(study: str) -> dict[str, str]:
    """Return the names of slots and families as this study's readers know them."""
    preset = PRESETS.get(study)
    slots = SLOT_NAMES["real" if preset is not None and preset.world == "real" else "tiny"]
    return {**slots, **FAMILY_NAMES}


def caption_line(
    study: str, seeds: Iterable[int], n_items: int | None = None, recorded: bool = False
) -> str:
    """Return which run a figure shows, e.g. "recorded run tiny, seeds 0-4, 6000 items"."""
    return _caption(study, seeds_text(seeds), n_items, recorded)


def seeds_text(seeds: Iterable[int]) -> str:
    """Return which seeds these are: "seed 3", "seeds 0-4", "seeds 0, 2".

    Raises:
        FigureError: there is none.
    """
    numbers = sorted({int(seed) for seed in seeds})
    if not numbers:
        raise FigureError("A caption needs at least one seed.")
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"seeds {numbers[0]}-{numbers[-1]}"
    return f"seeds {', '.join(map(str, numbers))}"


def _caption(study: str, which: str, n_items: int | None, recorded: bool) -> str:
    parts = [f"recorded run {study}" if recorded else f"this run: {study}", which]
    if n_items is not None:
        parts.append(f"{n_items} items")
    return ", ".join(parts)


def run_caption(rows: pd.DataFrame, recorded: bool = False) -> str:
    """Return the caption line of the rows a figure draws; it says what bars are if there are any.

    Pass the rows that are drawn and no more: the caption names every seed among them.
    """
    return groups_caption({"": rows}, recorded)


def groups_caption(groups: Mapping[str, pd.DataFrame], recorded: bool = False) -> str:
    """Return the caption line of groups of rows that may be of other seeds each.

    Args:
        groups: name -> the rows that are drawn. Where all are of the same seeds these are named
            once ("seeds 0-4"), else by group ("RSF seeds 0-4; DPO, PPO seeds 5-9").
        recorded: True for a run from data/results.

    Raises:
        FigureError: no rows.
    """
    names: dict[str, list[str]] = {}
    for name, rows in groups.items():
        names.setdefault(seeds_text(rows["seed"]), []).append(name)
    which = "; ".join(f"{', '.join(own)} {seeds}" for seeds, own in names.items())
    if len(names) == 1:
        which = next(iter(names))
    every = pd.concat(list(groups.values()))
    items = pd.to_numeric(every["n_items"], errors="coerce") if "n_items" in every else None
    count = int(items.max()) if items is not None and items.notna().any() else None
    line = _caption(str(every["study"].iloc[0]), which, count, recorded)
    if any(rows["seed"].nunique() > 1 for rows in groups.values()):
        line += " · mean, 95 % t interval over seeds"
    return line


def number(value: float, digits: int = 1, sign: bool = False) -> str:
    """Return a number as it is written in figures, tables and alt texts ("-3.2", "0.0")."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def spread(mean: float, low: float, high: float, digits: int = 1, sign: bool = False) -> str:
    """Return "mean (low to high)", or the mean alone where there is no interval."""
    if np.isnan(low):
        return number(mean, digits, sign)
    low_text, high_text = number(low, digits, sign), number(high, digits, sign)
    return f"{number(mean, digits, sign)} ({low_text} to {high_text})"
