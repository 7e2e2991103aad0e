"""Redraw the figures of a recorded run from its table of points, with no model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from alignment_tax import settings
from alignment_tax.figures.algorithms import (
    algorithm_fronts,
    algorithm_rounds,
    algorithm_tax,
    over_optimisation,
)
from alignment_tax.figures.look import DPI, FigureError, alt_text, save
from alignment_tax.figures.pareto import front, fronts, remedy_fronts, signature
from alignment_tax.figures.parts import ablation, part_curves, recorded_ratios, search_fronts
from alignment_tax.figures.tax import alpha_curves, reward_hacking, rsf_rounds, tax_bars
from alignment_tax.results.points import main_line, present

RECORDED: dict[str, Callable[..., Figure]] = {
    "front": front,
    "front_gold": partial(front, reward="gold"),
    "fronts": fronts,
    "rsf_rounds": rsf_rounds,
    "tax_bars": tax_bars,
    "alpha_curves": alpha_curves,
    "reward_hacking": reward_hacking,
}
#: What needs more than the main run: name -> (the method that must be recorded, the figure).
RECORDED_LATER: dict[str, tuple[str, Callable[..., Figure]]] = {
    "remedy_fronts": ("distil", remedy_fronts),
    "part_curves": ("part", part_curves),
    "search_fronts": ("hma", search_fronts),
    "ablation": ("hma", ablation),
    "recorded_ratios": ("hma", recorded_ratios),
}

#: What is drawn of all algorithms where more than RSF is recorded.
OF_ALL: dict[str, Callable[..., Figure]] = {
    "algorithm_rounds": algorithm_rounds,
    "algorithm_fronts": algorithm_fronts,
    "algorithm_tax": algorithm_tax,
    "over_optimisation": over_optimisation,
}


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
        points = main_line(every)
        figure = signature(points, recorded=True)
        print(f"{save(figure, target)}\n  {alt_text(figure)}")
        if given.all is not None:
            methods = set(every["method"])
            later = {name: draw for name, (need, draw) in RECORDED_LATER.items() if need in methods}
            later |= OF_ALL if len(present(every)) > 1 else {}
            for name, draw in RECORDED.items():
                print(save(draw(points, recorded=True), given.all / f"{name}.png", dpi=DPI))
            for name, draw in later.items():
                print(save(draw(every, recorded=True), given.all / f"{name}.png", dpi=DPI))
    except (FigureError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        print(f"alignment-tax figures: {table}: {error}", file=sys.stderr)
        return 1
    return 0
