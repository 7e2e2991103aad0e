"""The few things that every figure is made of: curves, intervals, bars, stars, notes, a triangle.

Each takes axes and rows of a table. Intervals are found by name: beside NAME the columns NAME_low
and NAME_high, or low and high where the table has only one value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from alignment_tax.figures.style import BLACK, GREY, INK, PAPER, VERDICTS, Look
from alignment_tax.labels import number

FAINT = " · faint: single seeds"
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
HOLLOW = ("inconclusive", "negligible")
#: Where a text may stand, in points from its point's middle: the first free place is taken.
AROUND = np.vstack(
    [
        [(far, -4), (-far, -4), (9, far), (-9, far), (9, -far - 8), (-9, -far - 8)]
        for far in (10, 20, 30, 42, 56)
    ]
)


def error_bars(table: pd.DataFrame, name: str, only: bool = True) -> np.ndarray | None:
    """Return the lengths below and above (2, n) of the error bars of a column, None without any.

    `only` says that the column is the table's only value, whose bounds may be called low and high.
    """
    ends = (
        ["low", "high"] if only and f"{name}_low" not in table else [f"{name}_low", f"{name}_high"]
    )
    if ends[0] not in table:
        return None
    low, middle, high = (table[each].to_numpy(dtype=float) for each in (ends[0], name, ends[1]))
    # an interval of no width may miss its mean by a rounding error
    lengths = np.maximum(np.nan_to_num(np.vstack([middle - low, high - middle])), 0)
    return lengths if lengths.any() else None


def curve(
    axes: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    look: Look,
    *,
    seeds: pd.DataFrame | None = None,
    order: str | None = None,
    bars: str = "xy",
    hollow: bool = False,
    pale: float = 1.0,
    label: str | None = None,
    **line: Any,
) -> None:
    """Draw means through the rows in their order, each with a marker and its error bars.

    `seeds` are drawn faint, as points or with `order` as a line a seed along that column; `bars`
    says which bars there are ("xy", "x", "y", ""), `pale` how opaque they are.
    """
    if seeds is not None:
        faint(axes, seeds, x, y, look, order)
    edge, face = (look.colour, "white") if hollow else ("white", look.colour)
    drawn: dict[str, Any] = {
        "color": look.colour, "marker": look.marker, "markeredgecolor": edge,
        "markerfacecolor": face, "markeredgewidth": 1.8 if hollow else 0.8, "elinewidth": 1.1,
        "linewidth": 1.8, "zorder": 3, "label": look.label if label is None else label, **line,
    }  # fmt: skip
    across = error_bars(table, x, only=False) if "x" in bars else None
    along = error_bars(table, y) if "y" in bars else None
    _, _, lines = axes.errorbar(table[x], table[y], xerr=across, yerr=along, **drawn)
    for each in lines:
        each.set_alpha(pale * float(line.get("alpha", 1.0)))


def curves(
    axes: Axes,
    table: pd.DataFrame,
    by: str,
    x: str,
    y: str,
    looks: Mapping[str, Look],
    *,
    seeds: pd.DataFrame | None = None,
    order: str | None = None,
    apart: float = 0.0,
    **line: Any,
) -> None:
    """Draw a `curve` for each value of the column `by` that has a look, along `order` or x.

    They stand `apart` on the x axis, so that no bar hides another.
    """
    there = [key for key in looks if key in set(table[by])]
    for place, key in enumerate(there):
        own = table[table[by] == key].sort_values(order or x)
        own = own.assign(**{x: own[x] + apart * (place - (len(there) - 1) / 2)})
        mine = None if seeds is None else seeds[seeds[by] == key]
        curve(axes, own, x, y, looks[key], seeds=mine, order=order, **line)


def faint(
    axes: Axes, seeds: pd.DataFrame, x: str, y: str, look: Look, order: str | None = None
) -> None:
    """Draw single seeds faintly, if there are several: points, or a line a seed along `order`."""
    if seeds["seed"].nunique() < 2:
        return
    if order is None:
        axes.scatter(
            seeds[x], seeds[y], s=12, color=look.colour, marker=look.marker, alpha=0.25,
            linewidths=0, zorder=1.5,
        )  # fmt: skip
        return
    for _, own in seeds.groupby("seed"):
        way = own.sort_values(order)
        axes.plot(way[x], way[y], color=look.colour, alpha=0.22, linewidth=0.9, zorder=1.2)


def line(
    axes: Axes, table: pd.DataFrame, x: str, y: str, look: Look, *, smooth: int = 1, **shape: Any
) -> pd.Series:
    """Draw a plain line, with `smooth` > 1 pale, and strong its centred running mean; return it."""
    ordered = table.sort_values(x)
    if smooth > 1:
        axes.plot(ordered[x], ordered[y], color=look.colour, alpha=0.25, linewidth=1)
    strong = ordered[y].rolling(smooth, center=True, min_periods=1).mean()
    axes.plot(ordered[x], strong, **{"color": look.colour, "label": look.label, **shape})
    return strong


def scatter(axes: Axes, table: pd.DataFrame, x: str, y: str, look: Look, **shape: Any) -> None:
    """Draw a marker a row, without lines and bars."""
    curve(axes, table, x, y, look, bars="", **{"linestyle": "none", **shape})


def bars(
    axes: Axes,
    table: pd.DataFrame,
    group: str,
    series: str,
    value: str,
    looks: Mapping[str, Look],
    *,
    across: bool = False,
    stacked: bool = False,
    digits: int | None = None,
    pale: Sequence[str] = (),
    sign: bool = False,
    text_size: float = 10,
    **shape: Any,
) -> list[str]:
    """Draw a bar with its error bar for each group and series; return the groups in their order.

    Series stand side by side (or `stacked`) in the order of `looks`. `across` lays the bars, the
    first group on top; `digits` prints each length beyond its bar; groups in `pale` are paler.
    """
    groups = list(dict.fromkeys(table[group]))
    names = [name for name in looks if name in set(table[series])]
    width = 0.8 / (1 if stacked else len(names))
    reached = np.zeros(len(groups))
    for index, name in enumerate(names):
        own = table[table[series] == name].set_index(group).reindex(groups)
        aside = 0.0 if stacked else (index - (len(names) - 1) / 2) * width
        where, look = np.arange(len(groups)) + aside, looks[name]
        lengths = error_bars(own, value)
        settings: dict[str, Any] = {
            "color": look.colour, "label": look.label, "edgecolor": "white", "hatch": look.hatch,
            "error_kw": {"elinewidth": 1.4, "ecolor": INK}, **shape,
        }  # fmt: skip
        draw = axes.barh if across else axes.bar
        size, error, start = ("height", "xerr", "left") if across else ("width", "yerr", "bottom")
        drawn = draw(
            where, own[value],
            **{size: 0.94 * width, error: lengths, start: reached if stacked else 0, **settings},
        )  # fmt: skip
        for bar, each in zip(drawn.patches, groups, strict=True):
            bar.set_alpha(0.55 if each in pale else 1.0)
        if stacked:
            reached = reached + own[value].fillna(0).to_numpy()
        elif digits is not None:
            reach = np.zeros((2, len(own))) if lengths is None else lengths
            for place, length, below, above in zip(where, own[value], *reach, strict=True):
                if np.isfinite(length):
                    end, side = (length - below, -1) if length < 0 else (length + above, 1)
                    at, to = ((end, place), (side, 0)) if across else ((place, end), (0, side))
                    text = number(length, digits, sign)
                    note(axes, text, *at, to, far=4, fontsize=text_size, bbox=None)
            axes.margins(x=0.14 if across else None, y=None if across else 0.14)
    ticks = axes.set_yticks if across else axes.set_xticks
    ticks(range(len(groups)), [str(each) for each in groups])
    axes.grid(visible=False, axis="y" if across else "x")
    if across:
        axes.set_ylim(len(groups) - 0.45, -0.55)
    return groups


def forest(
    axes: Axes,
    table: pd.DataFrame,
    *,
    name: str = "claim",
    value: str = "difference",
    looks: Sequence[Look] | None = None,
    zero: float | None = 0.0,
    digits: int | None = 1,
    sign: bool = True,
    names: Sequence[str] | None = None,
    aside: float = 0.0,
    **shape: Any,
) -> None:
    """Draw a value with its interval on a line of its own for each row, the first on top.

    Looks are those of the column `verdict` if none are given. `names` are the lines where several
    tables share them, each row `aside` below its own. An upright line stands at `zero`.
    """
    lines = list(dict.fromkeys(table[name])) if names is None else list(names)
    looks = [VERDICTS[verdict] for verdict in table["verdict"]] if looks is None else looks
    said: set[str] = set(axes.get_legend_handles_labels()[1])
    for place, look in enumerate(looks):
        row = table.iloc[[place]]
        y = lines.index(row[name].iloc[0]) + aside
        open_ = "verdict" in row and row["verdict"].iloc[0] in HOLLOW
        settings: dict[str, Any] = {
            "color": look.colour, "marker": look.marker, "markersize": 9, "elinewidth": 2.2,
            "markerfacecolor": "white" if open_ else look.colour, "markeredgewidth": 1.8,
            "linestyle": "none", "label": "_" if look.label in said else look.label, **shape,
        }  # fmt: skip
        said.add(look.label)
        axes.errorbar(row[value], [y], xerr=error_bars(row, value), **settings)
        if digits is not None:
            text = number(row[value].iloc[0], digits, sign)
            note(axes, text, row[value].iloc[0], y, (0, 1), far=6, fontsize=10.5)
    if zero is not None:
        axes.axvline(zero, color=INK, linewidth=1.4)
    axes.set_yticks(range(len(lines)), [str(each) for each in lines])
    axes.set_ylim(len(lines) - 0.45, -0.8)
    axes.grid(visible=False, axis="y")


def star(
    axes: Axes, x: float, y: float, *, hollow: bool = True, label: str = "_", size: float = 17
) -> None:
    """Mark theta_0 (hollow) or the end of training (full), where everything starts or ends."""
    axes.plot(
        x, y, marker="*", markersize=size, color=BLACK, markeredgewidth=1.3, linestyle="none",
        markerfacecolor="white" if hollow else BLACK,
        markeredgecolor=BLACK if hollow else "white", label=label, zorder=5,
    )  # fmt: skip


def level(axes: Axes, value: float, label: str = "_", *, upright: bool = False) -> None:
    """Draw a dashed line to compare with, across or upright."""
    draw = axes.axvline if upright else axes.axhline
    draw(value, color=GREY, linewidth=1.5, linestyle="--", label=label, zorder=1.4)


def note(
    axes: Axes,
    text: str,
    x: float,
    y: float,
    towards: tuple[float, float],
    *,
    far: float = 9,
    **shape: Any,
) -> None:
    """Write beside a point, `far` points away: towards (0, 1) above it, (-1, -1) below and left."""
    right, up = towards
    settings: dict[str, Any] = {
        "fontsize": 11, "zorder": 6, "bbox": PAPER, "linespacing": 1.15,
        "ha": "center" if right == 0 else "left" if right > 0 else "right",
        "va": "center" if up == 0 else "bottom" if up > 0 else "top", **shape,
    }  # fmt: skip
    place = (far * right, far * up)
    axes.annotate(text, (x, y), xytext=place, textcoords="offset points", **settings)


def barless(table: pd.DataFrame, where: pd.Series) -> pd.DataFrame:
    """Return the table without the intervals of the rows where `where` is true."""
    ends = [name for name in table if str(name).endswith(("_low", "_high"))]
    return table.assign(**{str(name): table[name].mask(where) for name in ends})


def notes(
    axes: Axes,
    texts: Sequence[str],
    spots: ArrayLike,
    avoid: ArrayLike = (),
    *,
    fontsize: float = 10,
    **shape: Any,
) -> None:
    """Write beside points where no point (also of `avoid`, (m, 2)) or text is hidden.

    Call it last: the figure is laid out here. A thin line leads to a text that stands far.
    """
    figure: Any = axes.get_figure(root=True)
    figure.draw_without_rendering()  # only now is it known where panels are
    scale = 72 / figure.dpi
    points = np.vstack([np.asarray(each, dtype=float).reshape(-1, 2) for each in (spots, avoid)])
    places = axes.transData.transform(points) * scale
    left, bottom, right, top = np.asarray(axes.get_window_extent().extents) * scale
    taken = np.column_stack([places - 5, places + 5])
    for text, (x, y), spot in zip(texts, places, points, strict=False):
        wide = 0.6 * fontsize * len(text)
        start = x + np.where(AROUND[:, 0] > 0, AROUND[:, 0], AROUND[:, 0] - wide)
        low = y + AROUND[:, 1] - 2
        boxes = np.column_stack([start, low, start + wide, low + 1.3 * fontsize])
        shared = np.minimum(boxes[:, None, 2:], taken[None, :, 2:]) - np.maximum(
            boxes[:, None, :2], taken[None, :, :2]
        )
        hidden = shared.clip(0).prod(axis=2).sum(axis=1)
        beyond = [left - boxes[:, 0], bottom - low, boxes[:, 2] - right, boxes[:, 3] - top]
        best = int((hidden + 30 * np.clip(beyond, 0, None).sum(axis=0)).argmin())
        taken = np.vstack([taken, boxes[best]])
        far = np.abs(AROUND[best]).max() > 15
        settings: dict[str, Any] = {
            "fontsize": fontsize, "zorder": 6, "bbox": PAPER,
            "ha": "left" if AROUND[best, 0] > 0 else "right",
            "arrowprops": {"arrowstyle": "-", "color": GREY, "linewidth": 0.7} if far else None,
        }  # fmt: skip
        axes.annotate(
            text, spot, xytext=AROUND[best], textcoords="offset points", **{**settings, **shape}
        )


def in_triangle(ratios: ArrayLike) -> np.ndarray:
    """Return the places (n, 2) in the triangle of three ratios or shares each (n, 3)."""
    shares = np.atleast_2d(np.asarray(ratios, dtype=float))
    return shares / shares.sum(axis=1, keepdims=True) @ CORNERS


def triangle(
    axes: Axes, names: Sequence[str], ratios: ArrayLike = (), values: ArrayLike = ()
) -> Any:
    """Draw a triangle with named corners and the landscape of `values` at `ratios` (n, 3).

    Returns what a colour bar needs, or None where fewer than four values make no landscape.
    """
    outline = np.vstack([CORNERS, CORNERS[:1]])
    axes.plot(outline[:, 0], outline[:, 1], color=GREY, linewidth=1.2, zorder=1)
    drawn, heights = None, np.asarray(values, dtype=float)
    if len(heights) > 3:
        x, y = in_triangle(ratios).T
        drawn = axes.tricontourf(x, y, heights, levels=14, cmap="cividis_r", zorder=0.5)
    for name, (x, y), up in zip(names, CORNERS, (-1, -1, 1), strict=True):
        note(axes, name, x, y, (0, up), fontsize=12, bbox=None)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.margins(0.1)
    return drawn
