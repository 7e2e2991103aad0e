"""Claims with their differences, intervals and verdicts, as a table and as a forest plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.io.formats.style import Styler

from alignment_tax.figures.look import (
    BLUE,
    GREY,
    PAPER,
    VERMILLION,
    WIDE,
    FigureError,
    Look,
    bar_lengths,
    canvas,
    finish,
    style,
)
from alignment_tax.labels import number, spread
from alignment_tax.results.points import finite, need

VERDICTS: dict[str, Look] = {
    "holds": Look("holds", BLUE, "o"),
    "does not hold": Look("does not hold", VERMILLION, "s"),
    "inconclusive": Look("inconclusive", GREY, "D"),
}
# claim -> comparison, or rows that hold their claim
Records = Mapping[str, object] | Iterable[object]
COLUMNS = ["claim", "difference", "low", "high", "verdict"]


def verdict_table(records: Records) -> pd.DataFrame:
    """Return one row per claim: claim, difference, low, high (95 %), verdict.

    Args:
        records: claim -> comparison (as front.Comparison), or rows that are mappings or dataclass
            instances with the five fields; further fields are left out.

    Raises:
        FigureError: no record, a missing field, a bound on the wrong side, an unknown verdict.
    """
    figure = "verdict_table"
    if isinstance(records, Mapping):
        rows = [{**_as_row(each, figure), "claim": claim} for claim, each in records.items()]
    else:
        rows = [_as_row(record, figure) for record in records]
    table = pd.DataFrame(rows)
    need(table, [] if not rows else COLUMNS, figure)
    table = table[COLUMNS]
    finite(table[["difference", "low", "high"]], figure, "differences or bounds")
    # seeds that all differ by the same give an interval of no width, up to rounding
    slack = 1e-9 * (1 + table["difference"].abs())
    below = table["difference"] < table["low"] - slack
    wrong = table[below | (table["difference"] > table["high"] + slack)]
    if not wrong.empty:
        raise FigureError(f"{figure}: the interval of {wrong.iloc[0]['claim']!r} misses its value.")
    unknown = sorted(set(table["verdict"]) - set(VERDICTS))
    if unknown:
        raise FigureError(
            f"{figure}: {unknown[0]!r} is no verdict; they are {', '.join(VERDICTS)}."
        )
    return table.reset_index(drop=True)


def _as_row(record: object, figure: str) -> dict[str, object]:
    """Return a record as a dict."""
    if isinstance(record, Mapping):
        return {str(key): value for key, value in record.items()}
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {
            item.name: getattr(record, item.name)
            for item in dataclasses.fields(record)
            if item.name in COLUMNS
        }
    raise FigureError(f"{figure} takes mappings or dataclasses, not {type(record).__name__}.")


def verdict_style(records: Records, digits: int = 2) -> Styler:
    """Return the table of verdicts for a notebook: rounded, signed, the verdict in its colour.

    Raises:
        FigureError: as `verdict_table`.
    """
    table = verdict_table(records)

    def colour(verdict: Any) -> str:
        return f"color: {VERDICTS[verdict].colour}; font-weight: bold"

    shown = table.style.format(dict.fromkeys(("difference", "low", "high"), f"{{:+.{digits}f}}"))
    return shown.map(colour, subset=["verdict"]).hide(axis="index")


def verdict_markdown(records: Records) -> str:
    """Return the table of verdicts as Markdown, for a README or an index page.

    Raises:
        FigureError: as `verdict_table`.
    """
    lines = ["| claim | difference | 95 % interval | verdict |", "| --- | ---: | --- | --- |"]
    for row in verdict_table(records).to_dict("records"):
        claim = str(row["claim"]).replace("|", "\\|")
        low, high = number(row["low"], 2, sign=True), number(row["high"], 2, sign=True)
        value = number(row["difference"], 2, sign=True)
        lines.append(f"| {claim} | {value} | {low} to {high} | {row['verdict']} |")
    return "\n".join(lines)


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
        records: as `verdict_table`; all differences in the same `unit`.
        unit: what the differences are measured in.
        caption: which run this is.
        title: what is asked.
        digits: of the number above each marker.
        sides: what a difference below zero says, and what one above, as words under the axis.

    Raises:
        FigureError: as `verdict_table`.
    """
    table = verdict_table(records)
    with style():
        figure = canvas((WIDE[0], 2.2 + 0.62 * len(table)))
        axes = figure.add_subplot()
        for y, row in enumerate(table.to_dict("records")):
            look = VERDICTS[row["verdict"]]
            axes.errorbar(
                row["difference"], y,
                xerr=bar_lengths([row["difference"]], [row["low"]], [row["high"]]),
                fmt=look.marker, color=look.colour, markersize=10, elinewidth=2.4,
                markerfacecolor="white" if row["verdict"] == "inconclusive" else look.colour,
                markeredgewidth=2,
            )  # fmt: skip
            axes.annotate(
                number(row["difference"], digits, sign=True), (row["difference"], y), xytext=(0, 9),
                textcoords="offset points", ha="center", va="bottom", fontsize=11, bbox=PAPER,
            )  # fmt: skip
        for verdict in dict.fromkeys(table["verdict"]):
            look = VERDICTS[verdict]
            hollow = "white" if verdict == "inconclusive" else look.colour
            axes.add_line(
                Line2D([np.nan], [np.nan], color=look.colour, marker=look.marker, linestyle="none",
                       markersize=10, markerfacecolor=hollow, markeredgewidth=2, label=look.label)
            )  # fmt: skip
        axes.axvline(0, color="#333333", linewidth=1.4)
        axes.set_yticks(range(len(table)), table["claim"].astype(str).tolist())
        axes.set_ylim(len(table) - 0.4, -0.75)
        # long claims leave the axis little room: a label that ends where it ends is not cut
        axes.set_xlabel(
            f"difference ({unit})" + (f"\n← {sides[0]}   |   {sides[1]} →" if sides else ""),
            loc="center" if sides else "right",
        )
        axes.grid(visible=False, axis="y")
        each = [
            f"{r['claim']}: {spread(r['difference'], r['low'], r['high'], 2, sign=True)}, "
            f"{r['verdict']}"
            for r in table.to_dict("records")
        ]
        alt = f"Differences in {unit} with 95 % intervals ({caption}). {'. '.join(each)}."
        return finish(figure, title, caption, alt, 3)
