"""Redraw the README's figures from the recorded table of points: no model, no training."""

from __future__ import annotations

import sys
from pathlib import Path

from alignment_tax import figures, settings
from alignment_tax.results.points import TableError
from alignment_tax.results.recorded import RecordError, read_table


def redraw_figures(points: Path | None = None, out: Path | None = None) -> int:
    """Redraw reward against skills (`out`), and beside it the pipeline; return the exit code."""
    table = points or settings.results_folder() / "tiny" / "points.csv"
    target = out or settings.results_folder() / "signature.png"
    if not table.is_file():
        print(
            f"alignment-tax figures: there is no table of points at {table}. Name one with "
            "--points, or record one with: alignment-tax record tiny",
            file=sys.stderr,
        )
        return 2
    try:
        figure = figures.signature(read_table(table), recorded=True)
    except TableError as error:
        raise RecordError(f"{table}: {error} Name another table with --points.") from error
    for each, path in ((figure, target), (figures.pipeline(), target.with_name("pipeline.png"))):
        print(f"{figures.save(each, path)}\n  {figures.alt_text(each)}")
    return 0
