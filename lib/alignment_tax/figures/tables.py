"""What the figures draw, as tables: checks of the input, means, intervals, captions, names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from alignment_tax.labels import seeds_text


def caption_line(
    study: str, seeds: Iterable[int], n_items: int | None = None, recorded: bool = False
) -> str:
    """Return which run a figure shows, e.g. "recorded run tiny, seeds 0-4, 6000 items"."""
    return _caption(study, seeds_text(seeds), n_items, recorded)


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
