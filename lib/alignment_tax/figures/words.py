"""What is said of a figure: the line that names its run, and its alt text, made from its table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from alignment_tax.labels import FAMILY_NAMES, number, seeds_text

#: An alt text names so many rows at most; of more it names the ends and the extremes.
MOST_ROWS = 24
# columns that are named by their values alone
PLAIN = ("claim", "name", "model", "label", "kind", "method", "algorithm", "verdict", "series")


def caption_line(
    study: str, seeds: Iterable[int], n_items: int | None = None, recorded: bool = False
) -> str:
    """Return which run a figure shows, e.g. "recorded run tiny, seeds 0-4, 6000 items"."""
    return _line(study, seeds_text(seeds), n_items, recorded)


def _line(study: str, which: str, n_items: int | None, recorded: bool) -> str:
    parts = [f"recorded run {study}" if recorded else f"this run: {study}", which]
    return ", ".join(parts if n_items is None else [*parts, f"{n_items} items"])


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
    line = _line(str(every["study"].iloc[0]), which, count, recorded)
    if any(rows["seed"].nunique() > 1 for rows in groups.values()):
        line += " · mean, 95 % t interval over seeds"
    return line


def describe(title: str, caption: str, table: pd.DataFrame, head: str = "") -> str:
    """Return the alt text of a figure: what it is, which run, and its rows in words.

    NAME_low and NAME_high (or low and high behind a value) are said with their value. What is the
    same in all rows is said once. Of many rows only the first and last of each group of names, and
    those with the least and the largest values, are said.
    """
    parts = [f"{title} ({caption}).", head]
    ends = [c for c in table if str(c).endswith(("_low", "_high")) or c in ("low", "high")]
    columns = [c for c in table if c not in ends]
    same = [c for c in columns if len(table) > 1 and table[c].nunique(dropna=False) == 1]
    if common := ", ".join(filter(None, (_cell(table, 0, c) for c in same))):
        parts.append(f"All rows: {common}.")
    told = _told(table.drop(columns=same))
    if len(told) < len(table):
        parts.append(f"{len(told)} of {len(table)} rows, ends and extremes:")
    said = [
        ", ".join(filter(None, (_cell(table, i, c) for c in columns if c not in same)))
        for i in told
    ]
    return " ".join([*filter(None, parts), "; ".join(said) + "."])


def _told(table: pd.DataFrame) -> list[int]:
    """Return the places of the rows that an alt text names, in the order of the table."""
    if len(table) <= MOST_ROWS:
        return list(range(len(table)))
    table = table.reset_index(drop=True)
    numbers = [c for c in table.select_dtypes("number") if not str(c).endswith(("_low", "_high"))]
    extremes = {
        int(place)
        for column in numbers
        if table[column].notna().any()
        for place in (table[column].idxmin(), table[column].idxmax())
    }
    names = list(table.select_dtypes(exclude="number"))
    groups = table.groupby(names, dropna=False, sort=False).indices.values() if names else []
    told = extremes | {int(place) for own in groups for place in (own[0], own[-1])}
    if len(told) > MOST_ROWS:
        told = set(sorted(extremes)[: MOST_ROWS - 2])
    return sorted(told | {0, len(table) - 1})


def _cell(table: pd.DataFrame, place: int, column: str) -> str:
    """Return one cell in words, with its interval; "" for an empty one."""
    value = table[column].iloc[place]
    name = FAMILY_NAMES.get(column, str(column).replace("_", " "))
    if isinstance(value, (bool, np.bool_)):
        return name if value else ""
    if not pd.api.types.is_number(value):
        text = "" if value is None or value is pd.NA else str(value)
        return text if column in PLAIN or not text else f"{name} {text}"
    if not np.isfinite(value):
        return ""
    values = pd.to_numeric(table[column], errors="coerce").abs()
    digits = _digits(values)
    ends = (f"{column}_low", f"{column}_high")
    if ends[0] not in table and _before(table, "low") == column:
        ends = ("low", "high")
    if not digits and ends[0] in table:
        digits = 1
    text = number(float(value), digits) if digits else f"{value:g}"
    low, high = (table[end].iloc[place] if end in table else np.nan for end in ends)
    if np.isfinite(low) and np.isfinite(high):
        text += f" ({number(low, digits or 1)} to {number(high, digits or 1)})"
    return f"{name} {text}"


def _digits(values: pd.Series) -> int:
    """Return how many digits a column is said with: 0 where `:g` says all of each value."""
    known = values[np.isfinite(values)]
    if (known.round(2) == known).all():
        return 0
    largest = float(known.max())
    return 1 if largest >= 10 else 2 if largest >= 0.5 else 4


def _before(table: pd.DataFrame, column: str) -> str | None:
    """Return the name of the column that stands before this one."""
    names = [str(name) for name in table]
    return names[names.index(column) - 1] if column in names[1:] else None
