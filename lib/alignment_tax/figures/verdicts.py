"""Claims with intervals and verdicts: as a table, and as a forest of intervals."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from alignment_tax.figures import primitives as draw, style
from alignment_tax.figures.style import VERDICTS
from alignment_tax.results.points import need
from alignment_tax.stats.compare import Comparison

COLUMNS = ["claim", "difference", "low", "high", "verdict"]


def _rows(claims: Mapping[str, Comparison]) -> pd.DataFrame:
    rows = [{"claim": claim, **asdict(each)} for claim, each in claims.items()]
    need(table := pd.DataFrame(rows, columns=COLUMNS), COLUMNS)
    return table


def verdict_style(claims: Mapping[str, Comparison], digits: int = 2) -> Styler:
    """Return verdicts for a notebook: rounded, signed, the verdict in its colour."""
    signed: dict[Any, Any] = dict.fromkeys(("difference", "low", "high"), f"{{:+.{digits}f}}")
    colours = {word: f"color: {look.colour}; font-weight: bold" for word, look in VERDICTS.items()}
    shown = _rows(claims).style.format(signed)
    return shown.map(lambda verdict: colours[verdict], subset=["verdict"]).hide(axis="index")


@style.in_style()
def forest(
    claims: Mapping[str, Comparison], unit: str = "points of skill", *, caption: str,
    title: str = "What holds?", digits: int = 1, sides: tuple[str, str] | None = None,
) -> Figure:  # fmt: skip
    """Draw differences with 95 % intervals and verdicts; `sides` name those below and above 0."""
    table = _rows(claims)
    figure, [[axes]] = style.panels(1, 1, (style.WIDE[0], 2.2 + 0.62 * len(table)))
    draw.forest(axes, table, digits=digits, markersize=10, elinewidth=2.4)
    axes.axvline(0, color=style.INK, linewidth=1.4)
    # long claims leave the axis little room: a label that ends where it ends is not cut
    words = f"\n← {sides[0]}   |   {sides[1]} →" if sides else ""
    axes.set_xlabel(f"difference ({unit}){words}", loc="center" if sides else "right")
    head = f"Differences in {unit} with 95 % intervals."
    return style.finish(figure, title, caption, table, head=head, legend_columns=4)
