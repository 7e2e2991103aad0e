"""Redraw the figures from the recorded table of points: no model, no training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from alignment_tax import figures, settings
from alignment_tax.figures.style import DPI
from alignment_tax.results.points import TableError, main_line, present

#: Drawn of the main line.
MAIN_LINE = ("front", "fronts", "rsf_rounds", "tax_bars", "alpha_curves", "reward_hacking")
#: Drawn of all rows: figure -> the method that must be recorded.
LATER = {"remedy_fronts": "distil", "part_curves": "part"} | dict.fromkeys(
    ("search_fronts", "ablation", "recorded_ratios"), "hma"
)
#: Drawn of all rows where more than RSF is recorded.
OF_ALL = ("taxes", "rounds", "algorithm_fronts")


def redraw_figures(
    points: Path | None = None, out: Path | None = None, others: Path | None = None
) -> int:
    """Redraw the README's figure (`out`), and with `others` the rest; return the exit code."""
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
        every = pd.read_csv(table)
        figure = figures.signature(every, recorded=True)
        print(f"{figures.save(figure, target)}\n  {figures.alt_text(figure)}")
        if others is not None:
            for name, rows in _recorded(every):
                drawn = getattr(figures, name)(rows, recorded=True)
                print(figures.save(drawn, others / f"{name}.png", dpi=DPI))
            gold = figures.front(main_line(every), reward="gold", recorded=True)
            print(figures.save(gold, others / "front_gold.png", dpi=DPI))
    except (TableError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        print(f"alignment-tax figures: {table}: {error}", file=sys.stderr)
        return 1
    return 0


def _recorded(every: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    points = main_line(every)
    yield from ((name, points) for name in MAIN_LINE)
    yield from ((name, every) for name, method in LATER.items() if method in set(every["method"]))
    yield from ((name, every) for name in OF_ALL if len(present(every)) > 1)
