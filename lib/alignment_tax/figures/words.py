"""What is said of a figure: the line that names its run, and its alt text, made from its table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from alignment_tax.labels import (
    ALGORITHM_NAMES,
    FAMILY_NAMES,
    METHOD_NAMES,
    number,
    seeds_text,
    spread,
)

#: An alt text names so many rows at most; of more it names the ends and the extremes.
MOST_ROWS = 24
# columns that are named by their values alone
PLAIN = "line claim name model label kind method algorithm verdict series".split()
# how the words of some columns are said
WORDS: dict[str, Mapping[str, str]] = {
    "algorithm": ALGORITHM_NAMES,
    "method": {**METHOD_NAMES, "none": ""},
    "family": FAMILY_NAMES,
}


def caption_line(
    study: str, seeds: Iterable[int], n_items: int | None = None, recorded: bool = False
) -> str:
    """Return which run a figure shows, e.g. "recorded run tiny, seeds 0-4, 6000 items"."""
    parts = [f"recorded run {study}" if recorded else f"this run: {study}", seeds_text(seeds)]
    return ", ".join(parts if n_items is None else [*parts, f"{n_items} items"])


def run_caption(rows: pd.DataFrame, recorded: bool = False) -> str:
    """Return the caption line of the rows that are drawn; it names every seed among them."""
    items = pd.to_numeric(rows["n_items"], errors="coerce") if "n_items" in rows else None
    count = int(items.max()) if items is not None and items.notna().any() else None
    line = caption_line(str(rows["study"].iloc[0]), rows["seed"], count, recorded)
    return line + " · mean, 95 % t interval over seeds" * (rows["seed"].nunique() > 1)


def describe(title: str, caption: str, table: pd.DataFrame, head: str = "") -> str:
    """Return the alt text of a figure: what it is, which run, and its rows with intervals in words.

    What is the same in all rows is said once. Of many rows only the first and last of each group of
    names, and those with the least and the largest values, are said.
    """
    table = table.reset_index(drop=True)
    ends = ("_low", "_high")
    columns = [c for c in map(str, table) if not c.endswith(ends) and c not in ("low", "high")]
    if "name" in columns:
        columns = [c for c in columns if c != "score"]
    columns.sort(key=lambda c: pd.api.types.is_numeric_dtype(table[c]))
    alike = [c for c in columns if len(table) > 1 and table[c].nunique(dropna=False) == 1]
    same = [c for c in alike if _ends(table, c) is None]
    told = _told(table, [c for c in columns if c not in same])
    parts = [f"{title} ({caption}).", head]
    if common := ", ".join(filter(None, (_cell(table, 0, c) for c in same))):
        parts.append(f"All rows: {common}.")
    if len(told) < len(table):
        parts.append(f"{len(told)} of {len(table)} rows, ends and extremes:")
    said = [
        ", ".join(filter(None, (_cell(table, place, c) for c in columns if c not in same)))
        for place in told
    ]
    return " ".join([*filter(None, parts), "; ".join(said) + "."])


def _told(table: pd.DataFrame, columns: list[str]) -> list[int]:
    """Return the places of the rows that an alt text names, in the order of the table."""
    if len(table) <= MOST_ROWS:
        return list(range(len(table)))
    numbers = [c for c in columns if pd.api.types.is_numeric_dtype(table[c])]
    names = [c for c in columns if c not in numbers]
    told = {0, len(table) - 1}
    for column in numbers:
        if table[column].notna().any():
            told |= {int(table[column].argmin()), int(table[column].argmax())}
    groups = table.groupby(names, dropna=False).indices.values() if names else ()
    ends = {int(place) for own in groups for place in (own[0], own[-1])}
    return sorted(told | ends if len(told | ends) <= MOST_ROWS else told)


def _cell(table: pd.DataFrame, place: int, column: str) -> str:
    """Return one cell in words, with its interval; "" for an empty one."""
    value: Any = table[column].iloc[place]
    name = FAMILY_NAMES.get(column, column.replace("_", " "))
    if isinstance(value, (bool, np.bool_)):
        return name if value else ""
    if not isinstance(value, (int, float, np.number)):
        text = WORDS.get(column, {}).get(value, str(value)) if value is not None else ""
        return text if column in PLAIN or not text else f"{name} {text}"
    if np.isnan(value):
        return ""
    ends = _ends(table, column)
    digits = _digits(table[column], ends is not None)
    if ends is None or pd.isna(table[ends[0]].iloc[place]):
        return f"{name} {f'{value:g}' if digits == 0 else number(float(value), digits)}"
    low, high = (table[end].iloc[place] for end in ends)
    return f"{name} {spread(float(value), low, high, digits)}"


def _ends(table: pd.DataFrame, column: str) -> tuple[str, str] | None:
    """Return the columns of the interval of a value, None if it has none."""
    names = [*map(str, table), ""]
    if f"{column}_low" in names:
        return f"{column}_low", f"{column}_high"
    return ("low", "high") if names[names.index(column) + 1] == "low" else None


def _digits(values: pd.Series, measured: bool) -> int:
    """Return how many digits a column is said with: 0 where `:g` says all of each value."""
    known = pd.to_numeric(values, errors="coerce").dropna()
    if not measured and (known.round(2) == known).all():
        return 0
    apart, largest = float(known.max() - known.min()), float(known.abs().max())
    for digits, least in ((1, 0.5), (2, 0.1), (3, 0.01)):
        if (apart >= least or apart == 0) and (digits > 1 or largest >= 10):
            return digits
    return 4
