"""Redraw the figures from the recorded table of points: no model, no training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from alignment_tax import figures, settings
from alignment_tax.figures.style import DPI
from alignment_tax.results.points import TableError, main_line, present

#: Drawn of the main line: name of the file -> (figure, its arguments).
MAIN_LINE = {
    "front": ("front", {}),
    "front_gold": ("front", {"reward": "gold"}),
    **{
        name: (name, {})
        for name in ("fronts", "rsf_rounds", "tax_bars", "alpha_curves", "reward_hacking")
    },
}
#: Drawn of all rows: figure -> the method that must be recorded.
LATER = {
    "remedy_fronts": "distil",
    "part_curves": "part",
    "search_fronts": "hma",
    "ablation": "hma",
    "recorded_ratios": "hma",
}
#: Drawn of all rows where more than RSF is recorded.
OF_ALL = ("algorithm_rounds", "algorithm_fronts", "algorithm_tax", "over_optimisation")


def main(arguments: Sequence[str] | None = None) -> int:
    """Redraw the README's figure, and with --all the other recorded ones; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="alignment-tax figures",
        description="Redraw the figures of a recorded run's main line (RSF, its control and "
        "the plain average) from its points, with no model.",
    )
    parser.add_argument(
        "--points", type=Path, help="table of points (default: data/results/tiny/points.csv)"
    )
    parser.add_argument(
        "--out", type=Path, help="the README's figure (default: data/results/signature.png)"
    )
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="draw the others into FOLDER")
    given = parser.parse_args(arguments)
    table = given.points or settings.results_folder() / "tiny" / "points.csv"
    target = given.out or settings.results_folder() / "signature.png"
    if not table.is_file():
        print(
            f"alignment-tax figures: there is no table of points at {table}. Name one with "
            "--points, or record one with: alignment-tax record tiny",
            file=sys.stderr,
        )
        return 2
    try:
        every = pd.read_csv(table)
        figure = figures.signature(every, recorded=True)
        print(f"{figures.save(figure, target)}\n  {figures.alt_text(figure)}")
        if given.all is not None:
            _redraw(every, given.all)
    except (TableError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        print(f"alignment-tax figures: {table}: {error}", file=sys.stderr)
        return 1
    return 0


def _redraw(every: pd.DataFrame, folder: Path) -> None:
    """Draw everything that the recorded rows allow."""
    points, methods = main_line(every), set(every["method"])
    drawn = {name: (draw, points, more) for name, (draw, more) in MAIN_LINE.items()}
    later = [name for name, method in LATER.items() if method in methods]
    later += OF_ALL if len(present(every)) > 1 else ()
    drawn |= {name: (name, every, {}) for name in later}
    for name, (draw, rows, more) in drawn.items():
        figure = getattr(figures, draw)(rows, recorded=True, **more)
        print(figures.save(figure, folder / f"{name}.png", dpi=DPI))
