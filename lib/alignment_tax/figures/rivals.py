"""Averaging against each remedy: two measures by two scores, a panel each."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignment_tax.figures.look import PANELS, PAPER, bar_lengths, canvas, finish, style
from alignment_tax.figures.verdicts import VERDICTS, verdict_table
from alignment_tax.labels import number, spread
from alignment_tax.results.points import need


def rivals(found: pd.DataFrame, *, caption: str) -> Figure:
    """Draw averaging minus each remedy with its 95 % interval, a panel per score and measure.

    Args:
        found: Columns name, seeds (in words), score, measure, unit, and those of a verdict
            (`rivals.compare`); every method by every score and measure.
        caption: Which run this is.

    Raises:
        FigureError: missing columns, no rows, or as `verdict_table`.
    """
    need(found, ["name", "seeds", "score", "measure", "unit"], "rivals")
    table = found.assign(claim=found["name"] + " (" + found["seeds"] + ")")
    verdict_table(table.to_dict("records"))
    scores, measures = table["score"].unique(), table["measure"].unique()
    names = list(table["claim"].unique())
    said = []
    with style():
        figure = canvas((PANELS[0], 1.3 + len(scores) * (1.1 + 0.4 * len(names))))
        grid = figure.subplots(len(scores), len(measures), sharey=True, squeeze=False)
        for panels, score in zip(grid, scores, strict=True):
            for axes, measure in zip(panels, measures, strict=True):
                own = table[(table["score"] == score) & (table["measure"] == measure)]
                for row in own.to_dict("records"):
                    look, y = VERDICTS[row["verdict"]], names.index(row["claim"])
                    axes.errorbar(
                        row["difference"], y,
                        xerr=bar_lengths([row["difference"]], [row["low"]], [row["high"]]),
                        fmt=look.marker, color=look.colour, markersize=8, elinewidth=2.0,
                        markerfacecolor=_face(row["verdict"]), markeredgewidth=1.6,
                    )  # fmt: skip
                    axes.annotate(
                        number(row["difference"], 2, sign=True), (row["difference"], y),
                        xytext=(0, 6), textcoords="offset points", ha="center", va="bottom",
                        fontsize=9.5, bbox=PAPER,
                    )  # fmt: skip
                    effect = spread(row["difference"], row["low"], row["high"], 2, sign=True)
                    said.append(f"{score}, {measure}, {row['claim']}: {effect}, {row['verdict']}")
                axes.axvline(0, color="#333333", linewidth=1.4)
                axes.set_title(f"{score}, {measure}", fontsize=12.5)
                unit = own["unit"].iloc[0]
                axes.set_xlabel(
                    f"← the remedy ahead | averaging ahead →\n{unit}", fontsize=11, linespacing=1.2
                )
                axes.grid(visible=False, axis="y")
        grid[0, 0].set_yticks(range(len(names)), names, fontsize=11)
        grid[0, 0].set_ylim(len(names) - 0.5, -0.9)
        for verdict in [each for each in VERDICTS if each in set(table["verdict"])]:
            look = VERDICTS[verdict]
            grid[0, 0].add_line(
                Line2D([], [], color=look.colour, marker=look.marker, linestyle="none",
                       markersize=9, markerfacecolor=_face(verdict), markeredgewidth=1.6,
                       label=f"averaging is ahead: {look.label}")
            )  # fmt: skip
        alt = f"Averaging minus each remedy, with 95 % intervals ({caption}). {'. '.join(said)}."
        return finish(figure, "Averaging minus the remedy", caption, alt, 3)


def _face(verdict: str) -> str:
    """Return the fill of a marker: hollow where nothing is decided."""
    return "white" if verdict == "inconclusive" else VERDICTS[verdict].colour
