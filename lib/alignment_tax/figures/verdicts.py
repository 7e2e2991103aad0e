"""Claims with intervals and verdicts: as a table, and as a forest of intervals.

`records` are claims to comparisons (`stats.compare`), or rows of the table of claims. What is none
of it is a TableError.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.style import VERDICTS
from alignment_tax.results.points import TableError, finite, need

Records = pd.DataFrame | Mapping[str, Any] | Iterable[Any]
COLUMNS = ["claim", "difference", "low", "high", "verdict"]


def _rows(records: Records) -> pd.DataFrame:
    if isinstance(records, Mapping):
        records = [{**_fields(each), "claim": claim} for claim, each in records.items()]
    elif not isinstance(records, pd.DataFrame):
        records = [_fields(each) for each in records]
    table = pd.DataFrame(records)
    need(table, COLUMNS if len(table) else [], "verdicts")
    middle, low, high = (table[name].astype(float) for name in COLUMNS[1:4])
    finite(pd.concat([middle, low, high]), "verdicts", "differences or bounds")
    # seeds that all differ by the same give an interval of no width, up to rounding
    slack = 1e-9 * (1 + middle.abs())
    if (outside := (middle < low - slack) | (middle > high + slack)).any():
        claim = table.loc[outside, "claim"].iloc[0]
        raise TableError(f"verdicts: the interval of {claim!r} misses its value.")
    if unknown := sorted(set(table["verdict"]) - set(VERDICTS)):
        raise TableError(f"verdicts: {unknown[0]!r} is no verdict; choose from {list(VERDICTS)}.")
    return table[COLUMNS].reset_index(drop=True)


def _fields(record: Any) -> dict[str, Any]:
    return dict(record) if isinstance(record, Mapping) else dataclasses.asdict(record)


def verdict_style(records: Records, digits: int = 2) -> Styler:
    """Return verdicts for a notebook: rounded, signed, the verdict in its colour."""
    signed: dict[Any, Any] = dict.fromkeys(("difference", "low", "high"), f"{{:+.{digits}f}}")
    colours = {word: f"color: {look.colour}; font-weight: bold" for word, look in VERDICTS.items()}
    shown = _rows(records).style.format(signed)
    return shown.map(lambda verdict: colours[verdict], subset=["verdict"]).hide(axis="index")


@style.in_style()
def forest(
    records: Records,
    unit: str = "points of skill",
    *,
    caption: str,
    title: str = "What holds?",
    digits: int = 1,
    sides: tuple[str, str] | None = None,
) -> Figure:
    """Draw every claim's difference with its 95 % interval; colour and marker say the verdict.

    Args:
        records, unit: Claims, and what all their differences are measured in.
        caption, title: Which run this is, and what is asked.
        digits: Of the number above each marker.
        sides: What a difference below zero says, and what one above, as words under the axis.
    """
    table = _rows(records)
    figure, [[axes]] = style.panels(1, 1, (style.WIDE[0], 2.2 + 0.62 * len(table)))
    draw.forest(axes, table, digits=digits, markersize=10, elinewidth=2.4)
    # long claims leave the axis little room: a label that ends where it ends is not cut
    words = f"\n← {sides[0]}   |   {sides[1]} →" if sides else ""
    axes.set_xlabel(f"difference ({unit}){words}", loc="center" if sides else "right")
    head = f"Differences in {unit} with 95 % intervals."
    return style.finish(figure, title, caption, table, head=head, legend_columns=4)
