"""What every figure is made of. Each takes axes and rows of a table; intervals are found by name:
beside NAME the columns NAME_low and NAME_high, or low and high for a table's only value.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from alignment_tax.figures.style import BLACK, GREY, INK, PAPER, VERDICTS, Look
from alignment_tax.labels import number


def error_bars(table: pd.DataFrame, name: str, only: bool = True) -> np.ndarray | None:
    """Return error bars (2, n) of a column, or None; the `only` value's may be called low, high."""
    start = "" if only and f"{name}_low" not in table else f"{name}_"
    if f"{start}low" not in table:
        return None
    low, middle, high = (table[n].to_numpy(float) for n in (f"{start}low", name, f"{start}high"))
    # an interval of no width may miss its mean by a rounding error
    lengths = np.maximum(np.nan_to_num(np.vstack([middle - low, high - middle])), 0)
    return lengths if lengths.any() else None


def curve(
    axes: Axes, table: pd.DataFrame, x: str, y: str, look: Look, *,
    seeds: pd.DataFrame | None = None, order: str | None = None, bars: str = "xy",
    hollow: bool = False, pale: float = 1.0, **line: Any,
) -> None:  # fmt: skip
    """Draw means in their order with error `bars` of opacity `pale`, and `seeds` by `faint`."""
    if seeds is not None:
        faint(axes, seeds, x, y, look, order)
    edge, face = (look.colour, "white") if hollow else ("white", look.colour)
    drawn: dict[str, Any] = {
        "color": look.colour, "marker": look.marker, "markeredgecolor": edge,
        "markerfacecolor": face, "markeredgewidth": 1.8 if hollow else 0.8, "elinewidth": 1.1,
        "linewidth": 1.8, "zorder": 3, "label": look.label, **line,
    }  # fmt: skip
    across = error_bars(table, x, only=False) if "x" in bars else None
    along = error_bars(table, y) if "y" in bars else None
    _, _, lines = axes.errorbar(table[x], table[y], xerr=across, yerr=along, **drawn)
    for each in lines:
        each.set_alpha(pale)


def curves(
    axes: Axes, table: pd.DataFrame, by: str, x: str, y: str, looks: Mapping[str, Look], *,
    seeds: pd.DataFrame | None = None, order: str | None = None, apart: float = 0.0, **line: Any,
) -> None:  # fmt: skip
    """Draw a `curve` for each value of `by` that has a look, along `order` or x, bars `apart`."""
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
    for _, own in seeds.sort_values(order).groupby("seed"):
        axes.plot(own[x], own[y], color=look.colour, alpha=0.22, linewidth=0.9, zorder=1.2)


def line(axes: Axes, table: pd.DataFrame, x: str, y: str, look: Look, **shape: Any) -> None:
    """Draw a plain line along x."""
    way = table.sort_values(x)
    axes.plot(way[x], way[y], **{"color": look.colour, "label": look.label, **shape})


def bars(
    axes: Axes, table: pd.DataFrame, group: str, series: str, value: str, looks: Mapping[str, Look],
    *, across: bool = False, stacked: bool = False, digits: int | None = None,
    pale: Sequence[str] = (), sign: bool = False, text_size: float = 10,
) -> list[str]:  # fmt: skip
    """Draw a bar with its error bar for each group and series; return the groups in their order.

    `across` lays the bars, first group on top; `digits` prints lengths; `pale` groups are paler.
    """
    groups = list(dict.fromkeys(table[group]))
    names = [name for name in looks if name in set(table[series])]
    width = 0.8 / (1 if stacked else len(names))
    reached = np.zeros(len(groups))
    draw = axes.barh if across else axes.bar
    size, error, start = ("height", "xerr", "left") if across else ("width", "yerr", "bottom")
    for index, name in enumerate(names):
        own = table[table[series] == name].set_index(group).reindex(groups)
        aside = 0.0 if stacked else (index - (len(names) - 1) / 2) * width
        look = looks[name]
        sides: dict[str, Any] = {size: 0.94 * width, error: error_bars(own, value), start: reached}
        drawn = draw(
            np.arange(len(groups)) + aside, own[value], color=look.colour, label=look.label,
            edgecolor="white", hatch=look.hatch, error_kw={"elinewidth": 1.4, "ecolor": INK},
            **sides,
        )  # fmt: skip
        for bar, each in zip(drawn.patches, groups, strict=True):
            bar.set_alpha(0.55 if each in pale else 1.0)
        if stacked:
            reached = reached + own[value].fillna(0).to_numpy()
        elif digits is not None:
            texts = [number(each, digits, sign) for each in own[value]]
            axes.bar_label(drawn, texts, padding=4, fontsize=text_size, zorder=6)
            axes.margins(x=0.14 if across else None, y=None if across else 0.14)
    ticks = axes.set_yticks if across else axes.set_xticks
    ticks(range(len(groups)), [str(each) for each in groups])
    axes.grid(visible=False, axis="y" if across else "x")
    if across:
        axes.set_ylim(len(groups) - 0.45, -0.55)
    return groups


def forest(
    axes: Axes, table: pd.DataFrame, *, name: str = "claim", value: str = "difference",
    looks: Sequence[Look] | None = None, digits: int | None = 1, sign: bool = True,
    names: Sequence[str] | None = None, aside: float = 0.0, **shape: Any,
) -> None:  # fmt: skip
    """Draw a value with its interval on a line of its own for each row, the first on top.

    Without `looks` those of `verdict`; several tables share the lines `names`, each row `aside`.
    """
    lines = list(dict.fromkeys(table[name])) if names is None else list(names)
    looks = [VERDICTS[verdict] for verdict in table["verdict"]] if looks is None else looks
    for place, look in enumerate(looks):
        row = table.iloc[[place]]
        y = lines.index(row[name].iloc[0]) + aside
        open_ = "verdict" in row and row["verdict"].iloc[0] in ("inconclusive", "negligible")
        settings: dict[str, Any] = {
            "color": look.colour, "marker": look.marker, "markersize": 9, "elinewidth": 2.2,
            "markerfacecolor": "white" if open_ else look.colour, "markeredgewidth": 1.8,
            "linestyle": "none", "label": look.label, **shape,
        }  # fmt: skip
        axes.errorbar(row[value], [y], xerr=error_bars(row, value), **settings)
        if digits is not None:
            text = number(row[value].iloc[0], digits, sign)
            note(axes, text, row[value].iloc[0], y, (0, 1), far=6, fontsize=10.5)
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
    axes: Axes, text: str, x: float, y: float, towards: tuple[float, float], *, far: float = 9,
    **shape: Any,
) -> None:  # fmt: skip
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
