"""Claims with intervals and verdicts: as a table, as Markdown, and as a forest of intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from alignment_tax.figures import primitives as draw
from alignment_tax.figures.style import PANELS, VERDICTS, WIDE, finish, in_style, panels
from alignment_tax.labels import number
from alignment_tax.results.points import TableError, finite, need

# claim -> comparison, or rows that hold their claim
Records = pd.DataFrame | Mapping[str, Any] | Iterable[Any]
COLUMNS = ["claim", "difference", "low", "high", "verdict"]


def verdict_rows(records: Records) -> pd.DataFrame:
    """Return claim, difference, low, high, verdict of claims, checked; see `verdict_style`."""
    figure = "verdicts"
    rows = (
        [{**_fields(each), "claim": key} for key, each in records.items()]
        if isinstance(records, Mapping)
        else records
        if isinstance(records, pd.DataFrame)
        else [_fields(each) for each in records]
    )
    table = pd.DataFrame(rows)
    need(table, COLUMNS if len(table) else [], figure)
    finite(table[["difference", "low", "high"]], figure, "differences or bounds")
    # seeds that all differ by the same give an interval of no width, up to rounding
    slack = 1e-9 * (1 + table["difference"].abs())
    outside = (table["difference"] < table["low"] - slack) | (
        table["difference"] > table["high"] + slack
    )
    if outside.any():
        claim = table.loc[outside, "claim"].iloc[0]
        raise TableError(f"{figure}: the interval of {claim!r} misses its value.")
    if unknown := sorted(set(table["verdict"]) - set(VERDICTS)):
        raise TableError(f"{figure}: {unknown[0]!r} is no verdict; they are {', '.join(VERDICTS)}.")
    return table[COLUMNS].reset_index(drop=True)


def _fields(record: Any) -> dict[str, Any]:
    return dict(record) if isinstance(record, Mapping) else dataclasses.asdict(record)


def verdict_style(records: Records, digits: int = 2) -> Styler:
    """Return verdicts for a notebook: rounded, signed, the verdict in its colour.

    Args:
        records: Claim to comparison (`stats.compare`), or rows of the table of claims.
        digits: Of the numbers.

    Raises:
        TableError: no record, a missing field, an interval that misses its value, a word that is
            no verdict.
    """
    shown = verdict_rows(records).style.format(
        dict.fromkeys(("difference", "low", "high"), f"{{:+.{digits}f}}")
    )
    colours = {word: f"color: {look.colour}; font-weight: bold" for word, look in VERDICTS.items()}
    return shown.map(colours.__getitem__, subset=["verdict"]).hide(axis="index")


def verdict_markdown(records: Records) -> str:
    """Return the table of verdicts as Markdown; arguments and errors as `verdict_style`."""
    lines = ["| claim | difference | 95 % interval | verdict |", "| --- | ---: | --- | --- |"]
    for row in verdict_rows(records).itertuples():
        claim = str(row.claim).replace("|", "\\|")
        value, low, high = (number(x, 2, sign=True) for x in (row.difference, row.low, row.high))
        lines.append(f"| {claim} | {value} | {low} to {high} | {row.verdict} |")
    return "\n".join(lines)


@in_style()
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
        records: As `verdict_style`; all differences in the same `unit`.
        unit: What the differences are measured in.
        caption: Which run this is.
        title: What is asked.
        digits: Of the number above each marker.
        sides: What a difference below zero says, and what one above, as words under the axis.

    Raises:
        TableError: as `verdict_style`.
    """
    table = verdict_rows(records)
    figure, [[axes]] = panels(1, 1, (WIDE[0], 2.2 + 0.62 * len(table)))
    draw.forest(axes, table, digits=digits, markersize=10, elinewidth=2.4)
    # long claims leave the axis little room: a label that ends where it ends is not cut
    axes.set_xlabel(
        f"difference ({unit})" + (f"\n← {sides[0]}   |   {sides[1]} →" if sides else ""),
        loc="center" if sides else "right",
    )
    head = f"Differences in {unit} with 95 % intervals."
    return finish(figure, title, caption, table, head=head, legend_columns=4)


@in_style()
def rivals(found: pd.DataFrame, *, caption: str) -> Figure:
    """Draw averaging minus each remedy with its 95 % interval, a panel per score and measure.

    Args:
        found: Columns name, seeds (in words), score, measure, unit, and those of a verdict; every
            method by every score and measure.
        caption: Which run this is.

    Raises:
        TableError: missing columns, no rows, or as `verdict_style`.
    """
    need(found, ["name", "seeds", "score", "measure", "unit"], "rivals")
    table = found.assign(claim=found["name"] + " (" + found["seeds"] + ")")
    table = table[["score", "measure", "unit"]].reset_index(drop=True).join(verdict_rows(table))
    scores, measures, names = (table[c].unique() for c in ("score", "measure", "claim"))
    size = (PANELS[0], 1.3 + len(scores) * (1.1 + 0.4 * len(names)))
    figure, grid = panels(len(scores), len(measures), size, sharey=True)
    for (score, measure), axes in zip(product(scores, measures), grid.flat, strict=True):
        own = table[(table["score"] == score) & (table["measure"] == measure)]
        draw.forest(axes, own, names=names, digits=2, markersize=8, elinewidth=2.0)
        axes.set_title(f"{score}, {measure}", fontsize=12.5)
        label = f"← the remedy ahead | averaging ahead →\n{own['unit'].iloc[0]}"
        axes.set_xlabel(label, fontsize=11, linespacing=1.2)
        axes.tick_params(axis="y", labelsize=11)
    title = "Averaging minus the remedy: is averaging ahead?"
    return finish(figure, title, caption, table, legend_columns=4)
