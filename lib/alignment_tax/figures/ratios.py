"""Averaging part by part, and a ratio of its own for every block: parts, searches, ratios.

The paper's Fig. 4 and 5. `points` are the columns of points.csv, one study; `recorded` says
that they are of data/results. What cannot be drawn is a TableError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.style import METHODS, Look
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import AXIS_NAMES, FAMILY_NAMES, number
from alignment_tax.results import points as select
from alignment_tax.results.points import TableError
from alignment_tax.spec import block_count
from alignment_tax.stats.compare import summarise

PARTS = {
    "input": Look("input part", style.GREEN, "o"),
    "middle": Look("middle part", style.ORANGE, "D"),
    "output": Look("output part", style.PURPLE, "s"),
}
THIRDS = tuple(PARTS)
#: By number of blocks; plain averaging has one.
K_LOOKS = {
    1: METHODS["average"],
    3: Look("K = 3", style.GREEN, "D"),
    6: Look("K = 6", style.VERMILLION, "^"),
    9: Look("K = 9", style.BLACK, "s"),
}
# In the triangle, from large to small; the hollow square is a frame around another at its place.
MARKS = [(style.BLUE, "o", 17), (style.BLACK, "s", 20), (style.VERMILLION, "D", 12),
         (style.ORANGE, "^", 11), (style.PURPLE, "P", 9)]  # fmt: skip
# On light and dark ground alike: a white line in a dark one.
OUTLINED: dict[str, Any] = {
    "color": "white", "linewidth": 2.2,
    "path_effects": [withStroke(linewidth=4.5, foreground=style.INK)],
}  # fmt: skip


def _what(score: str) -> str:
    return "mean skill" if score == "skill" else FAMILY_NAMES.get(score, score)


def _of(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    return table[(table[list(values)] == list(values.values())).all(axis=1)]


def _part_rows(points: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """Return every seed's models with one part averaged, minus its aligned model (alpha 1)."""
    rows = select.prepare(points, values, "part_curves")
    end = select.last_rsf(rows, "part_curves").set_index("seed")[values]
    own = rows[(rows["method"] == "part") & (rows["algorithm"] == "rsf")]
    own = own[own["part"].isin(THIRDS) & own["seed"].isin(end.index)].set_index("seed")
    if absent := set(THIRDS) - set(own["part"]):
        raise TableError(
            f"part_curves needs rows of rsf with method 'part', the {min(absent)} part among "
            "them. Record them with: alignment-tax record tiny --methods part"
        )
    own[values] -= end.loc[own.index]
    own = own.reset_index()[["seed", "part", "alpha", *values]]
    ends = own[["seed", "part"]].drop_duplicates().assign(alpha=1.0, **dict.fromkeys(values, 0.0))
    return pd.concat([own, ends], ignore_index=True)


@style.in_style()
def part_curves(points: pd.DataFrame, score: str = "forgetting", recorded: bool = False) -> Figure:
    """Draw where averaging one part alone leads from the aligned model (paper Fig. 4).

    Both axes are differences to the aligned model of the same seed, which is the star: to the right
    and above is better on both axes.
    """
    values = ["reward", score]
    rows = _part_rows(points, values)
    table = summarise(rows, ["part", "alpha"], values)
    figure, [line] = style.panels(
        1, len(PARTS), (style.PANELS[0], 4.7), sharex=True, sharey=True,
        xlabel="reward minus the\naligned model's  →",
        ylabel=f"{_what(score)},\nminus the aligned model's  →",
    )  # fmt: skip
    for axes, (part, look) in zip(line, PARTS.items(), strict=True):
        own, seeds = (_of(all_, part=part) for all_ in (table, rows))
        axes.axhline(0, color=style.INK, linewidth=1)
        axes.axvline(0, color=style.INK, linewidth=1)
        draw.curve(axes, own, "reward", score, look, seeds=seeds, order="alpha", markersize=6)
        draw.star(axes, 0, 0, hollow=False)
        axes.set_title(look.label)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(0.12)
    for axes in line:
        _shade(axes)
    caption = run_caption(points[points["seed"].isin(rows["seed"])], recorded)
    caption += draw.FAINT * (rows["seed"].nunique() > 1)
    head = "One part averaged, the others aligned; differences to the aligned model."
    style.finish(figure, "Which part gains from averaging?", caption, table, head=head)
    for axes, (part, look) in zip(line, PARTS.items(), strict=True):
        own = _of(table[table["alpha"] < 1], part=part)
        bars = [own[[f"{each}{end}" for each in values]].to_numpy() for end in ("_low", "_high")]
        hidden = np.vstack([own[values], _of(rows, part=part)[values], *bars])
        hidden = hidden[np.isfinite(hidden).all(axis=1)]
        first = own.iloc[[0]]
        text = f"α = {first['alpha'].iloc[0]:g}"
        draw.notes(axes, [text], first[values], hidden, color=look.colour)
    return figure


def _shade(axes: Axes) -> None:
    (left, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    if right > 0 and top > 0:
        right = max(right, -0.3 * left)  # room for the words
        axes.fill_between([0, right], 0, top, color=style.GREEN, alpha=0.08, linewidth=0, zorder=0)
        axes.set(xlim=(left, right), ylim=(None, top))
        words, colour = "better\nin both", style.GREEN
        draw.note(axes, words, right, top, (-1, -1), far=4, color=colour, bbox=None)


@style.in_style()
def simplex(
    grid: pd.DataFrame,
    marks: Mapping[str, Sequence[float]],
    alpha: float,
    *,
    caption: str,
    path: Sequence[Sequence[float]] = (),
) -> Figure:
    """Draw the objective over all triples of ratios with one mean, and what searches found.

    The triangle holds every triple of ratios whose mean is alpha; a corner gives all to one block.

    Args:
        grid: One row per point of a grid: ratios (three each, of mean alpha), full (objective).
        marks, path: Name -> three ratios, up to five; triples of ratios along a search.
    """
    select.need(grid, ["ratios", "full"], "simplex")
    if len(marks) > len(MARKS):
        raise TableError(f"simplex has {len(MARKS)} markers, not {len(marks)}.")
    triples = [*map(list, grid["ratios"]), *map(list, marks.values())]
    if any(len(each) != 3 for each in triples):
        raise TableError("simplex draws three ratios; K = 3 is all that fits on a page.")
    ratios = select.finite(triples, "simplex", "ratios")
    if np.ptp(means := ratios.mean(axis=1)) > 1e-3:
        raise TableError(
            f"simplex: means go from {means.min():.3f} to {means.max():.3f}, but a triangle "
            "holds ratios of one mean."
        )
    full = select.finite(grid["full"], "simplex", "objectives")
    places = draw.in_triangle(ratios)
    table = pd.DataFrame(np.hstack([ratios, places]), columns=[*THIRDS, "x", "y"])
    table = table.assign(objective=[*full, *[np.nan] * len(marks)])
    table["mark"] = [*[""] * len(grid), *marks]
    figure, [[axes]] = style.panels(1, 1, (style.WIDE[0], 6.6))
    corners = [f"all to the {name}" for name in THIRDS]
    landscape = draw.triangle(axes, corners, ratios[: len(grid)], full)
    if landscape is not None:
        bar = figure.colorbar(landscape, ax=axes, shrink=0.75, pad=0.02)
        bar.set_label("objective (nats a token; lower is better)")
    if len(path) > 1:
        axes.plot(*draw.in_triangle(path).T, label="path of the gradient", **OUTLINED)
    marked = zip(MARKS, marks, places[len(grid) :], strict=False)
    for (colour, marker, size), name, place in marked:
        hollow = marker == "s"
        # a smaller one without a place for the legend: there they would overlap
        for (x, y), wide, label in ((place, size, "_"), ((np.nan, np.nan), 10, name)):
            axes.plot(
                x, y, marker=marker, color=colour, linestyle="none", markersize=wide, zorder=4,
                clip_on=False, label=label, markerfacecolor="none" if hollow else colour,
                markeredgecolor=style.BLACK, markeredgewidth=2.4 if hollow else 1.2,
            )  # fmt: skip
    caption += " · in the white corners a ratio would exceed 1" * (alpha > 1 / 3)
    title, head = f"All ratios of mean {alpha:g}", "Objective in nats a token."
    return style.finish(figure, title, caption, table, head=head, legend_columns=3)


# --- searches against averaging -------------------------------------------------------------------


def _front_rows(points: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return every seed's points of averaging (K = 1) and HMA, from theta_0 to RSF's end.

    Lines through fewer points lie elsewhere, even of the same method: so all have the mean ratios,
    and the seeds, that all have.
    """
    figure = "search_fronts"
    rows = select.change(select.prepare(points, ["reward", score], figure), ["reward"], figure)
    start, end = select.theta_0(rows, figure), select.last_rsf(rows, figure)
    own = rows[(rows["algorithm"] == "rsf") & rows["method"].isin(["average", "hma"])]
    blocks = own["part"].map(block_count).where(own["method"] != "average", 1)
    own = own.assign(mean=own["alpha"].round(1), blocks=blocks)
    own = own[own["mean"].between(0, 1, inclusive="neither")]
    curves = {k: _of(own, blocks=k) for k in K_LOOKS if k in set(own["blocks"])}
    if len(curves) < 2:
        raise TableError(f"{figure} needs rows with method 'hma' and 'average': record them.")
    means = set.intersection(*(set(each["mean"]) for each in curves.values()))
    seeds = set.intersection(*(set(each["seed"]) for each in (start, end, *curves.values())))
    if not (means and seeds):
        raise TableError(f"{figure}: HMA and averaging have no mean ratio or seed in common.")
    found = []
    for k, each in curves.items():
        line = [start.assign(mean=0.0), each[each["mean"].isin(means)], end.assign(mean=1.0)]
        found.append(pd.concat(line).assign(blocks=k))
    every = pd.concat(found, ignore_index=True)
    return every[every["seed"].isin(seeds)]


@style.in_style()
def search_fronts(
    points: pd.DataFrame, score: str = "forgetting", recorded: bool = False
) -> Figure:
    """Draw HMA with each recorded number of blocks against plain averaging (paper Fig. 5).

    All curves have the mean ratios that are recorded for every one of them, and both ends, theta_0
    and the aligned model. They are means over seeds; the caption says how wide intervals are.
    """
    rows = _front_rows(points, score)
    table = summarise(rows, ["blocks", "mean"], ["reward", score])
    figure, [[axes]] = style.panels(1, 1, style.WIDE, xlabel="reward gained over θ₀  →")
    for k, look in K_LOOKS.items():
        own = _of(table, blocks=k)
        if len(own):
            draw.curve(axes, own, "reward", score, look, bars="")
    ends = table[table["blocks"] == 1].iloc[[0, -1]]
    for alpha, (x, y) in enumerate(ends[["reward", score]].to_numpy()):
        draw.star(axes, x, y, hollow=alpha == 0)
        draw.note(axes, f"α = {alpha}", x, y, (0, 1 - 2 * alpha), far=11)
    axes.margins(x=0.08, y=0.18)
    axes.set_ylabel(AXIS_NAMES.get(score, score))
    caption = run_caption(points[points["seed"].isin(rows["seed"])], recorded)
    if rows["seed"].nunique() > 1:
        inner = table[table["mean"].between(0, 1, inclusive="neither")]
        half = float((inner[f"{score}_high"] - inner[f"{score}_low"]).median()) / 2
        caption = f"{caption.split(' · ')[0]} · means over seeds; their 95 % t intervals, "
        caption += f"±{number(half)} in the median, are not drawn; verdicts pair seeds"
    title = "A ratio of its own for every block, against one for all"
    return style.finish(figure, title, caption, table, legend_columns=4)
