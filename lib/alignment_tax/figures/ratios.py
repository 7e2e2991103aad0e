"""Averaging part by part, and a ratio of its own for every block (the paper's Figs. 4 and 5)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures import primitives as draw, style
from alignment_tax.figures.style import METHODS, Look, run_caption
from alignment_tax.labels import AXIS_NAMES, FAMILY_NAMES, METHOD_NAMES, number
from alignment_tax.results import points as select
from alignment_tax.results.points import TableError
from alignment_tax.spec import block_count
from alignment_tax.stats.compare import summarise

PARTS = {
    "input": Look("input part", style.GREEN, "o"),
    "middle": Look("middle part", style.ORANGE, "D"),
    "output": Look("output part", style.PURPLE, "s"),
}
#: By number of blocks; plain averaging has one.
K_LOOKS = {
    1: METHODS["average"],
    3: Look("HMA, K = 3", style.GREEN, "D"),
    6: Look("HMA, K = 6", style.VERMILLION, "^"),
    9: Look("HMA, K = 9", style.BLACK, "s"),
}
#: What `cloud` shows: RSF's rounds and smaller steps, and mixtures with a ratio for each third.
CLOUD = {
    **{name: METHODS[name] for name in ("average", "early_stopping", "learning_rate")},
    "part": Look(METHOD_NAMES["part"], style.PURPLE, "v"),
    "pattern": Look(METHOD_NAMES["pattern"], style.ORANGE, "D"),
    "hma": Look("HMA with three ratios", style.SKY, "P"),
}
# In the triangle, from large to small; the hollow square is a frame around another at its place.
MARKS = [(style.BLUE, "o", 17), (style.BLACK, "s", 20), (style.VERMILLION, "D", 12),
         (style.ORANGE, "^", 11), (style.PURPLE, "P", 9)]  # fmt: skip
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])


def _part_rows(points: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """Return every seed's models with one part averaged, minus its aligned model (alpha 1)."""
    rows = select.prepare(points, values)
    end = select.last_round(rows).set_index("seed")[values]
    own = rows[(rows["method"] == "part") & (rows["algorithm"] == "rsf")]
    own = own[own["part"].isin(PARTS) & own["seed"].isin(end.index)].set_index("seed")
    if absent := set(PARTS) - set(own["part"]):
        raise TableError(f"part_curves needs the {min(absent)} part: record with --methods part")
    own[values] -= end.loc[own.index]
    own = own.reset_index()[["seed", "part", "alpha", *values]]
    ends = own[["seed", "part"]].drop_duplicates().assign(alpha=1.0, **dict.fromkeys(values, 0.0))
    return pd.concat([own, ends], ignore_index=True)


@style.in_style()
def part_curves(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw where averaging one part leads from the seed's aligned model, the star (Fig. 4)."""
    x, y = values = ["reward", "forgetting"]
    rows = _part_rows(points, values)
    table = summarise(rows, ["part", "alpha"], values)
    figure, [line] = style.panels(
        1, len(PARTS), (style.PANELS[0], 4.7), sharex=True, sharey=True,
        xlabel="reward minus the\naligned model's  →",
        ylabel=f"{FAMILY_NAMES['forgetting']},\nminus the aligned model's  →",
    )  # fmt: skip
    for axes, (part, look) in zip(line, PARTS.items(), strict=True):
        own, seeds = (every[every["part"] == part] for every in (table, rows))
        axes.axhline(0, color=style.INK, linewidth=1)
        axes.axvline(0, color=style.INK, linewidth=1)
        draw.curve(axes, own, x, y, look, seeds=seeds, order="alpha", markersize=6)
        draw.star(axes, 0, 0, hollow=False)
        at, up, alpha = own[[x, y, "alpha"]].iloc[0]
        draw.note(axes, f"α = {alpha:g}", at, up, (-1, 1), far=5, color=look.colour, fontsize=10)
        axes.set_title(look.label)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(0.12)
    (left, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    right = max(right, -0.3 * left)  # room for the words
    axes.set(xlim=(left, right), ylim=(None, top))
    for axes in line:
        axes.fill_between([0, right], 0, top, color=style.GREEN, alpha=0.08, linewidth=0, zorder=0)
        words, colour = "better\nin both", style.GREEN
        draw.note(axes, words, right, top, (-1, -1), far=4, color=colour, bbox=None)
    caption = run_caption(points[points["seed"].isin(rows["seed"])], recorded)
    caption += " · faint: single seeds" * (rows["seed"].nunique() > 1)
    head = "One part averaged, the others aligned; differences to the aligned model."
    return style.finish(figure, "Which part gains from averaging?", caption, table, head=head)


def _in_triangle(ratios: np.ndarray) -> np.ndarray:
    """Return the places (n, 2) in the triangle of three ratios each (n, 3)."""
    return ratios / ratios.sum(axis=1, keepdims=True) @ CORNERS


@style.in_style()
def simplex(
    grid: pd.DataFrame, marks: Mapping[str, Sequence[float]], alpha: float, *, caption: str,
    path: Sequence[Sequence[float]] = (),
) -> Figure:  # fmt: skip
    """Draw the objective over all triples of ratios with one mean, and what searches found.

    `grid` has a row per point: ratios (three each, of mean alpha) and full (the objective); `marks`
    are name -> three ratios, up to five; `path` triples along a search.
    """
    select.need(grid, ["ratios", "full"])
    if len(marks) > len(MARKS):
        raise TableError(f"simplex has {len(MARKS)} markers, not {len(marks)}.")
    ratios = np.array([*map(list, grid["ratios"]), *map(list, marks.values())], dtype=float)
    if np.ptp(means := ratios.mean(axis=1)) > 1e-3:
        ends = f"{means.min():.3f} to {means.max():.3f}"
        raise TableError(f"simplex: a triangle holds ratios of one mean, not of {ends}.")
    full = select.finite(grid["full"], "objectives")
    places = _in_triangle(ratios)
    table = pd.DataFrame(np.hstack([ratios, places]), columns=[*PARTS, "x", "y"])
    table = table.assign(objective=[*full, *[np.nan] * len(marks)])
    table["mark"] = [*[""] * len(grid), *marks]
    figure, [[axes]] = style.panels(1, 1, (style.WIDE[0], 6.6))
    axes.plot(*CORNERS[[0, 1, 2, 0]].T, color=style.GREY, linewidth=1.2, zorder=1)
    for name, (x, y), up in zip(PARTS, CORNERS, (-1, -1, 1), strict=True):
        draw.note(axes, f"all to the {name}", x, y, (0, up), fontsize=12, bbox=None)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.margins(0.1)
    if len(full) > 3:  # fewer make no landscape
        x, y = places[: len(grid)].T
        heights = axes.tricontourf(x, y, full, levels=14, cmap="cividis_r", zorder=0.5)
        bar = figure.colorbar(heights, ax=axes, shrink=0.75, pad=0.02)
        bar.set_label("objective (nats a token; lower is better)")
    if len(path) > 1:
        # on light and dark ground alike: a white line in a dark one
        outline, way = withStroke(linewidth=4.5, foreground=style.INK), _in_triangle(np.array(path))
        axes.plot(*way.T, color="white", lw=2.2, path_effects=[outline],
                  label="path of the gradient")  # fmt: skip
    for (colour, marker, size), name, place in zip(MARKS, marks, places[len(grid) :], strict=False):
        hollow = marker == "s"
        # a smaller one without a place for the legend: there they would overlap
        for (x, y), wide, label in ((place, size, "_"), ((np.nan, np.nan), 10, name)):
            axes.plot(
                x, y, marker=marker, color=colour, linestyle="none", markersize=wide, zorder=4,
                clip_on=False, label=label, markerfacecolor="none" if hollow else colour,
                markeredgecolor=style.BLACK, markeredgewidth=2.4 if hollow else 1.2,
            )  # fmt: skip
    caption += " · in the empty corners a ratio would exceed 1" * (alpha > 1 / 3)
    title, head = f"All ratios of mean {alpha:g}", "Objective in nats a token."
    return style.finish(figure, title, caption, table, head=head, legend_columns=3)


def _front_rows(points: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """Return averaging (K = 1) and HMA at the mean ratios and seeds that all have, and the ends."""
    rows = select.prepare(points, values, since=["reward"])
    start, end = select.theta_0(rows), select.last_round(rows)
    own = rows[(rows["algorithm"] == "rsf") & rows["method"].isin(["average", "hma"])]
    blocks = own["part"].map(block_count).where(own["method"] != "average", 1)
    own = own.assign(mean=own["alpha"].round(1), blocks=blocks)
    own = own[own["mean"].between(0, 1, inclusive="neither") & own["blocks"].isin(K_LOOKS)]
    curves = [each for _, each in own.groupby("blocks")]
    if len(curves) < 2:
        raise TableError("search_fronts needs rows with method 'hma' and 'average': record them.")
    # lines through fewer points lie elsewhere
    means = set.intersection(*(set(each["mean"]) for each in curves))
    seeds = set.intersection(*(set(each["seed"]) for each in (*curves, start, end)))
    if not (means and seeds):
        raise TableError("search_fronts: HMA and averaging have no mean ratio or seed in common.")
    ends = [each.assign(blocks=k, mean=mean) for k in own["blocks"].unique()
            for mean, each in ((0.0, start), (1.0, end))]  # fmt: skip
    every = pd.concat([own[own["mean"].isin(means)], *ends], ignore_index=True)
    return every[every["seed"].isin(seeds)]


@style.in_style()
def search_fronts(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw HMA by its number of blocks against plain averaging, means over seeds (paper Fig. 5)."""
    values = ["reward", "forgetting"]
    rows = _front_rows(points, values)
    table = summarise(rows, ["blocks", "mean"], values)
    figure, [[axes]] = style.panels(xlabel=style.GAIN, ylabel=AXIS_NAMES["forgetting"])
    for k, own in table.groupby("blocks"):
        draw.curve(axes, own, "reward", "forgetting", K_LOOKS[int(str(k))], bars="")
    ends = table[table["blocks"] == 1].iloc[[0, -1]]
    (x, y), (last, lowest) = ends[values].to_numpy()
    draw.star(axes, x, y)
    draw.note(axes, "α = 0", x, y, (0, 1), far=11)
    axes.margins(x=0.08)
    # the aligned model lies far below all that is compared: only the way to it is seen
    seen = table.loc[table["mean"] < 1, "forgetting"]
    room = 0.2 * (seen.max() - seen.min()) or 1.0
    axes.set_ylim(seen.min() - room, seen.max() + room)
    draw.note(axes, f"↓ to α = 1: {number(lowest)} %", 0.8 * last, seen.min() - room, (0, 1), far=6)
    caption = run_caption(points[points["seed"].isin(rows["seed"])], recorded)
    if rows["seed"].nunique() > 1:
        inner = table[table["mean"].between(0, 1, inclusive="neither")]
        half = float((inner["forgetting_high"] - inner["forgetting_low"]).median()) / 2
        caption = f"{caption.split(' · ')[0]} · means over seeds; their 95 % t intervals, "
        caption += f"±{number(half)} in the median, are not drawn; verdicts pair seeds"
    title = "A ratio of its own for every block, against one for all"
    return style.finish(figure, title, caption, table, legend_columns=4)


@style.in_style()
def cloud(rows: pd.DataFrame, here: pd.DataFrame, caption: str) -> Figure:
    """Draw models of `CLOUD` (reward gained, forgetting), and a named ring at each of `here`."""
    select.need(rows, ["method", "reward", "forgetting"])
    figure, [[axes]] = style.panels(xlabel=style.GAIN, ylabel=f"{AXIS_NAMES['forgetting']}  →")
    for method, look in CLOUD.items():
        if not (own := rows[rows["method"] == method]).empty:
            axes.plot(
                own["reward"], own["forgetting"], look.marker, color=look.colour, alpha=0.55,
                markersize=7, markeredgewidth=0, label=look.label,
            )  # fmt: skip
    for (marker, size), (_, at) in zip((("o", 19), ("s", 23)), here.iterrows(), strict=False):
        axes.plot(
            at["reward"], at["forgetting"], marker, color=style.BLACK, markersize=size, zorder=5,
            markerfacecolor="none", markeredgewidth=2.4,
        )  # fmt: skip
        # in the legend the marker is smaller
        axes.plot([], [], marker, color=style.BLACK, markersize=10, markerfacecolor="none",
                  markeredgewidth=2, label=at["name"])  # fmt: skip
    axes.margins(0.08)
    title, head = "Single models, and where you are", f"{len(rows)} models; ringed:"
    return style.finish(figure, title, caption, here, head=head, legend_columns=3)
