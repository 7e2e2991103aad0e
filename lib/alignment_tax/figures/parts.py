"""Averaging part by part, and a ratio of its own for every block: curves, searches, fronts, ratios.

The paper's Fig. 4 and 13 (one part averaged), Fig. 5 and 16 (HMA against averaging, more blocks),
and what a search does between its start and its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures.look import (
    ALGORITHMS,
    BLACK,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    METHODS,
    ORANGE,
    PANELS,
    PAPER,
    PURPLE,
    SKY,
    VERMILLION,
    WIDE,
    FigureError,
    Look,
    bar_lengths,
    canvas,
    draw_line,
    finish,
    style,
)
from alignment_tax.figures.tables import groups_caption, run_caption
from alignment_tax.labels import AXIS_NAMES, FAMILY_NAMES, number, spread
from alignment_tax.results.points import finite, last_round, last_rsf, need, prepare, theta_0
from alignment_tax.spec import block_count
from alignment_tax.stats.compare import summarise

THIRDS = ("input", "middle", "output")
PART_LOOKS: dict[str, Look] = {
    "input": Look("input part", GREEN, "o"),
    "middle": Look("middle part", ORANGE, "D"),
    "output": Look("output part", PURPLE, "s"),
    "linear": Look("all layers", BLUE, "v"),
    "embeddings": Look("embeddings", SKY, "P"),
    "norms": Look("norms", VERMILLION, "X"),
    "head": Look("head", BLACK, "^"),
}
BLOCK_COLOURS = (GREEN, ORANGE, PURPLE, BLUE, VERMILLION, SKY, BLACK, GREY, BROWN)
# What stands for K blocks in a front: averaging is K = 1.
K_LOOKS: dict[int, Look] = {
    1: METHODS["average"],
    3: Look("K = 3", GREEN, "D"),
    6: Look("K = 6", VERMILLION, "^"),
    9: Look("K = 9", BLACK, "s"),
}
# A search of several numbers of blocks in one figure with others: each has a look of its own.
SEARCH_LOOKS: dict[tuple[str, int], Look] = {
    ("hma_kl", 9): Look(METHODS["hma_kl"].label, VERMILLION, "^"),
}
# In the triangle: of two marks at one place the hollow one is a frame around the other.
MARKS: tuple[Look, ...] = (
    Look("", BLUE, "o"),
    Look("", BLACK, "s"),
    Look("", VERMILLION, "D"),
    Look("", ORANGE, "^"),
    Look("", PURPLE, "P"),
)
HOLLOW = "s"
# Mean ratios, from the lowest: one hue from light to dark.
MEAN_LOOKS: tuple[Look, ...] = (
    Look("", SKY, "o"),
    Look("", BLUE, "D"),
    Look("", "#00304D", "s"),
    Look("", GREY, "^"),
    Look("", BLACK, "P"),
)
# On light and dark ground alike: a white line in a dark one.
OUTLINE = [withStroke(linewidth=4.5, foreground="#333333")]
FAINT = " · faint lines: seeds"
CURVE = ["method", "blocks", "mean"]


# --- one part averaged ----------------------------------------------------------------------------


def part_curves_table(
    points: pd.DataFrame, score: str = "skill", reward: str = "reward", algorithm: str = "rsf"
) -> pd.DataFrame:
    """Return what averaging one part alone changes against the aligned model of the same seed.

    Args:
        points: the columns of points.csv, one study, any number of seeds.
        score: the score on the y axis: skill, a family or a slot.
        reward: the column on the x axis, "reward" or "gold".
        algorithm: whose aligned model it is.

    Returns:
        Columns part, alpha (1 is the aligned model), seeds, `reward` and `score`, each with _low
        and _high (95 % t interval over seeds of the difference).

    Raises:
        FigureError: missing columns, no model of the algorithm, or no rows of method "part".
    """
    rows = _part_rows(points, score, reward, algorithm)
    table = summarise(rows, ["part", "alpha"], [reward, score])
    order = [part for part in PART_LOOKS if part in set(table["part"])]
    table["part"] = pd.Categorical(table["part"], order, ordered=True)
    table = table.sort_values(["part", "alpha"], ascending=[True, False], ignore_index=True)
    return table.assign(part=table["part"].astype(str))


def _part_rows(points: pd.DataFrame, score: str, reward: str, algorithm: str) -> pd.DataFrame:
    """Return every seed's models with one part averaged, minus its aligned model."""
    figure = "part_curves"
    both = [reward, score]
    rows = prepare(points, both, figure)
    end = last_round(rows, algorithm, figure).set_index("seed")[both]
    own = rows[(rows["method"] == "part") & (rows["algorithm"] == algorithm)]
    own = own[own["part"].isin(PART_LOOKS) & own["seed"].isin(end.index)]
    if own.empty:
        named = "" if algorithm == "rsf" else f"{algorithm} "
        raise FigureError(
            f"{figure} needs rows of {algorithm} with method 'part'. Record them with: "
            f"alignment-tax record tiny --methods {named}part"
        )
    minus = own[both].to_numpy() - end.loc[own["seed"]].to_numpy()
    own = own.assign(**{name: minus[:, i] for i, name in enumerate(both)})
    zero = own[["seed", "part"]].drop_duplicates().assign(alpha=1.0, **dict.fromkeys(both, 0.0))
    return pd.concat([own[["seed", "part", "alpha", *both]], zero], ignore_index=True)


def part_curves(
    points: pd.DataFrame,
    score: str = "skill",
    parts: Sequence[str] = THIRDS,
    reward: str = "reward",
    recorded: bool = False,
    algorithms: Sequence[str] = ("rsf",),
) -> Figure:
    """Draw where averaging one part alone leads from the aligned model (paper Fig. 4 and 13).

    Both axes are differences to the aligned model, which is the star: to the right and above is
    better on both axes. Faint lines are seeds, bars 95 % t intervals over them.

    Args:
        points: the columns of points.csv, one study.
        score: the score on the y axis.
        parts: one column of panels each.
        reward: the column on the x axis, "reward" or "gold".
        recorded: True for a run from data/results.
        algorithms: one row of panels each, with axes of its own.

    Raises:
        FigureError: as `part_curves_table`, or a part that is not in the points.
    """
    word = "gold reward" if reward == "gold" else "reward"
    unit = "gold's units" if reward == "gold" else "reward model's units"
    said: list[str] = []
    drawn = {
        ALGORITHMS[algorithm].label: points[
            (points["algorithm"] == algorithm)
            & points["seed"].isin(_part_rows(points, score, reward, algorithm)["seed"])
        ]
        for algorithm in algorithms
    }
    with style():
        figure = canvas((PANELS[0], 1.2 + 3.5 * len(algorithms)))
        grid = figure.subplots(
            len(algorithms), len(parts), sharex="row", sharey="row", squeeze=False
        )
        for panels, algorithm in zip(grid, algorithms, strict=True):
            rows = _part_rows(points, score, reward, algorithm)
            table = part_curves_table(points, score, reward, algorithm)
            if unknown := [part for part in parts if part not in set(table["part"])]:
                there = ", ".join(dict.fromkeys(table["part"]))
                raise FigureError(
                    f"part_curves: no rows of part {unknown[0]!r}; the points have {there}."
                )
            name = ALGORITHMS[algorithm].label
            said += [f"{name}."] if len(algorithms) > 1 else []
            for axes, part in zip(panels, parts, strict=True):
                own = table[table["part"] == part]
                said.append(_part_panel(axes, rows, own, part, score, reward))
                if len(algorithms) > 1:
                    axes.set_title(f"{name}: {PART_LOOKS[part].label}")
            panels[0].set_ylabel(f"{_what(score)} minus the\naligned model's (points)  →")
        for axes in grid[-1]:
            axes.set_xlabel(f"{word} minus the aligned\nmodel's ({unit})  →")
        for panels in grid:
            _shade(panels)
        caption = groups_caption(drawn, recorded)
        alt = (
            f"One part averaged, the others aligned: {word} and {_what(score)} minus the aligned "
            f"model's ({caption}). {' '.join(said)}"
        )
        title = f"Which part gains from averaging? {_what(score).capitalize()} against {word}"
        several = any(rows["seed"].nunique() > 1 for rows in drawn.values())
        caption += FAINT if several else ""
        return finish(figure, title, caption, alt)


def _what(score: str) -> str:
    return "mean skill" if score == "skill" else FAMILY_NAMES.get(score, score)


def _part_panel(
    axes: Axes, rows: pd.DataFrame, table: pd.DataFrame, part: str, score: str, reward: str
) -> str:
    """Draw one part and return what it shows in words."""
    look = PART_LOOKS[part]
    own = rows[rows["part"] == part]
    if own["seed"].nunique() > 1:
        for _, seed in own.groupby("seed"):
            line = seed.sort_values("alpha", ascending=False)
            axes.plot(line[reward], line[score], color=look.colour, linewidth=1, alpha=0.3)
    axes.axhline(0, color="#333333", linewidth=1)
    axes.axvline(0, color="#333333", linewidth=1)
    x, y = table[reward].to_numpy(), table[score].to_numpy()
    for i in range(len(x) - 1):
        axes.annotate(
            "", (x[i + 1], y[i + 1]), (x[i], y[i]),
            arrowprops={"arrowstyle": "-|>", "color": look.colour, "linewidth": 1.6, "shrinkA": 4,
                        "shrinkB": 5, "mutation_scale": 13},
        )  # fmt: skip
    inner = table[table["alpha"] < 1]
    axes.errorbar(
        inner[reward], inner[score],
        xerr=bar_lengths(inner[reward], inner[f"{reward}_low"], inner[f"{reward}_high"]),
        yerr=bar_lengths(inner[score], inner[f"{score}_low"], inner[f"{score}_high"]),
        fmt=look.marker, color=look.colour, markeredgecolor="white", markersize=6, elinewidth=0.7,
        zorder=3,
    )  # fmt: skip
    axes.plot(
        0, 0, marker="*", markersize=17, color=BLACK, markeredgecolor="white", linestyle="none",
        zorder=4,
    )  # fmt: skip
    # the first alpha beside the star, where nothing is drawn; below the last, bars and arrows leave
    # the corner that is far from the star free
    for point, up in ((inner.iloc[0], 1), (inner.iloc[-1], -1)):
        if up > 0 and len(inner) == 1:
            continue
        side = up if point[reward] <= 0 else -up
        axes.annotate(
            f"α = {point['alpha']:g}", (point[reward], point[score]), xytext=(9 * side, 11 * up),
            textcoords="offset points", fontsize=11, color=look.colour, zorder=5, bbox=PAPER,
            ha="left" if side > 0 else "right", va="bottom" if up > 0 else "top",
        )  # fmt: skip
    axes.set_title(look.label)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    each = [
        f"alpha {r['alpha']:g}: {reward} "
        f"{spread(r[reward], r[f'{reward}_low'], r[f'{reward}_high'], 2, sign=True)}, "
        f"{_what(score)} {spread(r[score], r[f'{score}_low'], r[f'{score}_high'], sign=True)}"
        for r in inner.to_dict("records")
    ]
    return f"{look.label.capitalize()}, {'; '.join(each)}."


def _shade(panels: Sequence[Axes]) -> None:
    """Shade and name the corner that is better on both axes."""
    for axes in panels:
        axes.margins(0.12)
    for axes in panels:
        (left, right), (_, top) = axes.get_xlim(), axes.get_ylim()
        if right > 0 and top > 0:
            right = max(right, -0.3 * left)  # room for the words
            axes.fill_between([0, right], 0, top, color=GREEN, alpha=0.08, linewidth=0, zorder=0)
            axes.set_xlim(right=right)
            axes.set_ylim(top=top)
            axes.annotate(
                "better\nin both",
                (right, top),
                xytext=(-4, -4),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=11,
                color=GREEN,
                zorder=5,
            )


# --- a search -------------------------------------------------------------------------------------


def ratio_path_table(path: pd.DataFrame) -> pd.DataFrame:
    """Return a search step by step.

    Args:
        path: one row per step: step, ratios (a sequence of K numbers), full (the objective on all
            replies, NaN or None where it was not computed).

    Returns:
        Columns step, one per block (1 to K), full.

    Raises:
        FigureError: missing columns, no rows, ratios that differ in number, no objective.
    """
    need(path, ["step", "ratios", "full"], "ratio_path")
    counts = {len(ratios) for ratios in path["ratios"]}
    if len(counts) != 1:
        raise FigureError(f"ratio_path: steps have {sorted(counts)} ratios; show one search.")
    full = pd.to_numeric(path["full"], errors="coerce")
    finite(full.dropna(), "ratio_path", "objectives")
    ratios = finite([list(each) for each in path["ratios"]], "ratio_path", "ratios")
    blocks = pd.DataFrame(ratios, columns=range(1, ratios.shape[1] + 1))
    return pd.concat([path["step"].reset_index(drop=True), blocks, full.rename("full")], axis=1)


def ratio_path(path: pd.DataFrame, alpha: float, *, caption: str) -> Figure:
    """Draw the ratio of every block, and the objective below it, against the steps of a search.

    Args:
        path: as `ratio_path_table`.
        alpha: the mean of the ratios.
        caption: which run this is.

    Raises:
        FigureError: as `ratio_path_table`.
    """
    table = ratio_path_table(path)
    blocks = [column for column in table if isinstance(column, int)]
    names = THIRDS if len(blocks) == len(THIRDS) else tuple(f"block {k}" for k in blocks)
    known = table.dropna(subset=["full"])
    with style():
        figure = canvas((WIDE[0], 5.6))
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.7, 1])
        above.axhline(alpha, color=GREY, linestyle=":", linewidth=1.6, label="their mean α")
        for k, name, colour in zip(blocks, names, BLOCK_COLOURS, strict=False):
            above.plot(table["step"], table[k], color=colour, label=f"{name}")
        above.set_ylabel("ratio of a block")
        above.set_ylim(-0.03, 1.03)
        below.plot(known["step"], known["full"], color=BLACK, marker="o", markersize=5)
        below.set_ylabel("objective\n(nats a token)")
        below.set_xlabel("step of the search")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        first, last = table.iloc[0], table.iloc[-1]
        moves = [
            f"{name} from {number(first[k], 3)} to {number(last[k], 3)}"
            for k, name in zip(blocks, names, strict=True)
        ]
        alt = (
            f"Ratios along {int(last['step'])} steps of a search at mean {alpha:g} ({caption}): "
            f"{', '.join(moves)}. The objective goes from {number(known['full'].iloc[0], 4)} to "
            f"{number(known['full'].min(), 4)} nats a token at its best."
        )
        return finish(figure, "From equal ratios to the search's own", caption, alt, 4)


def corner(ratios: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return where triples of ratios lie in the triangle of all triples with their sum.

    Args:
        ratios: (..., 3) numbers of at least 0, not all 0.

    Returns:
        (..., 2): the input's corner is (0, 0), the middle's (1, 0), the output's the top.
    """
    shares = np.asarray(ratios, dtype=float)
    shares = shares / shares.sum(axis=-1, keepdims=True)
    return np.stack([shares[..., 1] + shares[..., 2] / 2, shares[..., 2] * math.sqrt(3) / 2], -1)


def simplex_table(grid: pd.DataFrame, marks: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Return the points of `simplex`: input, middle, output, x, y, objective, mark.

    Args:
        grid: one row per point of a grid: ratios (three each, of one mean), full (objective).
        marks: name -> three ratios.

    Raises:
        FigureError: no rows, not three ratios, or means that differ.
    """
    need(grid, ["ratios", "full"], "simplex")
    ratios = [*map(list, grid["ratios"]), *map(list, marks.values())]
    if any(len(each) != 3 for each in ratios):
        raise FigureError("simplex draws three ratios; K = 3 is all that fits on a page.")
    values = finite(ratios, "simplex", "ratios")
    means = values.mean(axis=1)
    if np.ptp(means) > 1e-3:
        raise FigureError(
            f"simplex: means go from {means.min():.3f} to {means.max():.3f}, but a triangle "
            "holds ratios of one mean."
        )
    table = pd.DataFrame(values, columns=list(THIRDS))
    table[["x", "y"]] = corner(values)
    full = finite(grid["full"], "simplex", "objectives")
    table["objective"] = [*full, *[np.nan] * len(marks)]
    return table.assign(mark=[*[""] * len(grid), *marks])


def simplex(
    grid: pd.DataFrame,
    marks: Mapping[str, Sequence[float]],
    alpha: float,
    *,
    caption: str,
    eps: float | None = None,
    path: Sequence[Sequence[float]] = (),
) -> Figure:
    """Draw the objective over all triples of ratios with one mean, and what searches found.

    The triangle holds every triple of ratios whose mean is alpha; a corner gives all to one block.
    Where a ratio would exceed 1 nothing is drawn.

    Args:
        grid: as `simplex_table`.
        marks: name -> three ratios, up to five.
        alpha: the mean of the ratios.
        caption: which run this is.
        eps: of Eq. 11, to outline what it can reach.
        path: triples of ratios along a search.

    Raises:
        FigureError: as `simplex_table`, or more marks than there are looks.
    """
    table = simplex_table(grid, marks)
    if len(marks) > len(MARKS):
        raise FigureError(f"simplex has {len(MARKS)} markers, not {len(marks)}.")
    landscape, found = table[table["mark"] == ""], table[table["mark"] != ""]
    with style():
        figure = canvas((WIDE[0], 6.6))
        axes = figure.add_subplot()
        triangle = np.array([corner(c) for c in np.eye(3)] + [corner([1, 0, 0])])
        axes.plot(triangle[:, 0], triangle[:, 1], color=GREY, linewidth=1.2, zorder=1)
        if len(landscape) > 3:
            drawn = axes.tricontourf(
                landscape["x"], landscape["y"], landscape["objective"], levels=14,
                cmap="cividis_r", zorder=0.5,
            )  # fmt: skip
            bar = figure.colorbar(drawn, ax=axes, shrink=0.75, pad=0.02)
            bar.set_label("objective (nats a token; lower is better)")
        if eps is not None:
            reach = np.array([corner(r) for r in eq11_reach(eps)])
            reach = np.vstack([reach, reach[:1]])
            axes.plot(
                reach[:, 0], reach[:, 1], color="white", linestyle="--", linewidth=2.2,
                label=f"what Eq. 11 can reach (ε = {eps:g})", path_effects=OUTLINE,
            )  # fmt: skip
        if len(path) > 1:
            way = corner(np.asarray(path, dtype=float))
            axes.plot(
                way[:, 0],
                way[:, 1],
                color="white",
                linewidth=2.2,
                path_effects=OUTLINE,
                label="path of the gradient",
            )
        # from large to small, so that of two at one place both are seen
        sizes = np.linspace(17, 9, len(found))
        for look, row, size in zip(MARKS, found.to_dict("records"), sizes, strict=False):
            hollow = look.marker == HOLLOW
            # a smaller one without a place for the legend: there they would overlap
            for x, y, wide, label in (
                (row["x"], row["y"], 20 if hollow else size, "_"),
                (np.nan, np.nan, 10, row["mark"]),
            ):
                axes.plot(
                    x, y, marker=look.marker, color=look.colour, linestyle="none", markersize=wide,
                    clip_on=False, zorder=4, label=label,
                    markerfacecolor="none" if hollow else look.colour,
                    markeredgecolor=look.colour if hollow else BLACK,
                    markeredgewidth=2.4 if hollow else 1.2,
                )  # fmt: skip
        for name, place, shift in zip(THIRDS, triangle, ((-4, -8), (4, -8), (0, 8)), strict=False):
            axes.annotate(
                f"all to the {name}", place, xytext=shift, textcoords="offset points",
                ha="center", va="bottom" if shift[1] > 0 else "top", fontsize=12,
            )  # fmt: skip
        axes.set_aspect("equal")
        axes.axis("off")
        axes.margins(0.1)
        alt = _simplex_alt(landscape, found, alpha, caption)
        if alpha > 1 / 3:
            caption += " · in the white corners a ratio would exceed 1"
        return finish(figure, f"All ratios of mean {alpha:g}", caption, alt, 3)


def eq11_reach(eps: float) -> np.ndarray:
    """Return the corners (6, 3) of what Eq. 11 can reach, as shares: sigmoid + eps is in
    (eps, 1 + eps)."""
    low, high = eps, 1 + eps
    corners = [
        (high, low, low), (high, high, low), (low, high, low), (low, high, high),
        (low, low, high), (high, low, high),
    ]  # fmt: skip
    return np.array(corners)


def _simplex_alt(landscape: pd.DataFrame, found: pd.DataFrame, alpha: float, caption: str) -> str:
    best = landscape.iloc[int(landscape["objective"].argmin())]
    worst = landscape.iloc[int(landscape["objective"].argmax())]

    def triple(row: Any) -> str:
        return f"({', '.join(number(row[name], 2) for name in THIRDS)})"

    marked = [f"{row['mark']} {triple(row)}" for row in found.to_dict("records")]
    return (
        f"Objective over ratios of input, middle and output with mean {alpha:g} ({caption}). "
        f"Lowest {number(best['objective'], 4)} at {triple(best)}, highest "
        f"{number(worst['objective'], 4)} at {triple(worst)}, {len(landscape)} points. "
        f"Marked: {'; '.join(marked) or 'nothing'}."
    )


# --- fronts of searches ---------------------------------------------------------------------------


def search_fronts_table(
    points: pd.DataFrame,
    searches: Sequence[tuple[str, int]],
    score: str = "skill",
    reward: str = "reward",
) -> pd.DataFrame:
    """Return the fronts of searches and of averaging at the mean ratios all have, with both ends.

    Args:
        points: the columns of points.csv, one study.
        searches: (method, number of blocks) of each search.
        score, reward: the columns of skill and of reward, "reward" (gained over theta_0 of the same
            seed) or "gold".

    Returns:
        Columns method ("average" among them), blocks (1 for averaging), mean (ratio, 0 and 1 are
        the ends), seeds, and reward and score with _low and _high (95 % t interval over seeds).

    Raises:
        FigureError: missing columns, no theta_0, no RSF, or a search that is not in the points.
    """
    return summarise(_search_rows(points, searches, score, reward), CURVE, [reward, score])


def _search_rows(
    points: pd.DataFrame, searches: Sequence[tuple[str, int]], score: str, reward: str
) -> pd.DataFrame:
    """Return every seed's points of the curves at the mean ratios that all have, ends included.

    Lines through fewer points lie elsewhere, even of the same method: so all have equally many,
    of the seeds that all have.
    """
    figure = "search_fronts"
    rows = prepare(points, [reward, score], figure)
    start, end = theta_0(rows, figure), last_rsf(rows, figure)
    if reward == "reward":
        zero = start.set_index("seed")["reward"]
        rows = rows.assign(reward=rows["reward"] - rows["seed"].map(zero))
        start, end = theta_0(rows, figure), last_rsf(rows, figure)
    rows = rows[rows["algorithm"] == "rsf"]
    rows = rows.assign(mean=rows["alpha"].round(1), blocks=rows["part"].map(block_count))
    rows.loc[rows["method"] == "average", "blocks"] = 1
    inner = rows[rows["mean"].between(0, 1, inclusive="neither")]
    found = []
    for method, blocks in searches:
        own = inner[(inner["method"] == method) & (inner["blocks"] == blocks)]
        if own.empty:
            raise FigureError(f"{figure}: there are no rows of {method!r} with K = {blocks}.")
        found.append(own)
    if not found:
        raise FigureError(f"{figure} needs at least one search.")
    plain = inner[inner["method"] == "average"]
    alphas = set.intersection(*(set(own["mean"]) for own in (plain, *found)))
    if not alphas:
        raise FigureError(f"{figure}: the searches and averaging have no mean ratio in common.")
    seeds = set.intersection(*(set(own["seed"]) for own in (start, end, plain, *found)))
    if not seeds:
        raise FigureError(f"{figure}: the searches and averaging have no seed in common.")
    plain, *found = (own[own["seed"].isin(seeds)] for own in (plain, *found))
    curves = []
    for own in (each[each["mean"].isin(alphas)] for each in (plain, *found)):
        method, blocks = own[["method", "blocks"]].iloc[0]
        for ends, mean in ((start, 0.0), (end, 1.0)):
            mine = ends[ends["seed"].isin(own["seed"])]
            curves.append(mine.assign(mean=mean, method=method, blocks=blocks))
        curves.append(own)
    return pd.concat(curves, ignore_index=True)[["seed", *CURVE, reward, score]]


def search_fronts(
    points: pd.DataFrame,
    searches: Sequence[tuple[str, int]] = (("hma", 3),),
    scores: Sequence[str] = ("skill",),
    reward: str = "reward",
    recorded: bool = False,
) -> Figure:
    """Draw searches for ratios against plain averaging, a panel for each score (paper Fig. 5, 16).

    All curves have the mean ratios that are recorded for every one of them, and both ends, theta_0
    and the aligned model. One search alone is drawn with its seeds and bars, of several the means.

    Args:
        points: the columns of points.csv, one study.
        searches: (method, number of blocks) of each search.
        scores: what is on the y axis, one to four.
        reward: what is on the x axis, "reward" or "gold".
        recorded: True for a run from data/results.

    Raises:
        FigureError: as `search_fronts_table`, or no score or more than four.
    """
    if not 1 <= len(scores) <= 4:
        raise FigureError(f"search_fronts draws one to four scores, not {len(scores)}.")
    seeds = set(_search_rows(points, searches, scores[0], reward)["seed"])
    caption = run_caption(points[points["seed"].isin(seeds)], recorded)
    columns = min(2, len(scores))
    rows = -(-len(scores) // columns)
    size = (WIDE if columns == 1 else (PANELS[0], 4.9)) if rows == 1 else PANELS
    said = []
    with style():
        figure = canvas(size)
        panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for axes, score in zip(panels, scores, strict=False):
            said.append(_front_panel(axes, points, searches, score, reward))
            axes.set_ylabel(AXIS_NAMES.get(score, score))
        for axes in panels[len(scores) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(scores) - columns) : len(scores)]:
            axes.set_xlabel("gold reward  →" if reward == "gold" else "reward gained over θ₀  →")
        alt = f"A ratio per block against one for all ({caption}). {' '.join(said)}"
        title = "A ratio of its own for every block, against one for all"
        if len(searches) > 1:
            caption = f"{caption.split(' · ')[0]} · means over seeds"
            if len(seeds) > 1:
                caption += f"; {_widths(points, searches, scores, reward)}"
        elif len(seeds) > 1:
            caption += FAINT + "; verdicts pair them"
        return finish(figure, title, caption, alt, 4 if len(searches) == 3 else 3)


def _widths(
    points: pd.DataFrame, searches: Sequence[tuple[str, int]], scores: Sequence[str], reward: str
) -> str:
    """Return how wide the intervals are that a figure of means leaves out."""
    halves = []
    for score in scores:
        table = search_fronts_table(points, searches, score, reward)
        inner = table[table["mean"].between(0, 1, inclusive="neither")]
        half = float((inner[f"{score}_high"] - inner[f"{score}_low"]).median()) / 2
        halves.append(f"{_what(score)} ±{number(half)}")
    return f"intervals (median {', '.join(halves)}) not drawn, verdicts pair the seeds"


def _front_panel(
    axes: Axes,
    points: pd.DataFrame,
    searches: Sequence[tuple[str, int]],
    score: str,
    reward: str,
) -> str:
    """Draw the fronts of one score and return what they show in words."""
    rows = _search_rows(points, searches, score, reward)
    table = summarise(rows, CURVE, [reward, score])
    several = rows["seed"].nunique() > 1
    ablation = len({method for method, _ in searches}) == 1 and len(searches) > 1
    said = []
    for method, blocks in (("average", 1), *searches):
        look = _search_look(method, blocks, ablation)
        own = (rows["method"] == method) & (rows["blocks"] == blocks)
        if several and len(searches) == 1:
            for _, seed in rows[own].groupby("seed"):
                line = seed.sort_values("mean")
                axes.plot(line[reward], line[score], color=look.colour, linewidth=0.8, alpha=0.22)
        curve = table[(table["method"] == method) & (table["blocks"] == blocks)]
        curve = curve.sort_values("mean")
        inner = curve[curve["mean"].between(0, 1, inclusive="neither")]
        axes.plot(curve[reward], curve[score], color=look.colour, zorder=2)
        bars: list[np.ndarray | None] = [None, None]
        if len(searches) == 1:
            bars = [
                bar_lengths(inner[column], inner[f"{column}_low"], inner[f"{column}_high"])
                for column in (reward, score)
            ]
        axes.errorbar(
            inner[reward], inner[score], xerr=bars[0], yerr=bars[1], fmt=look.marker,
            color=look.colour, markeredgecolor="white", elinewidth=1, alpha=0.95,
            label=look.label, zorder=3,
        )  # fmt: skip
        each = [
            f"mean ratio {r['mean']:g} ({number(r[reward], 2)}, {number(r[score])})"
            for r in inner.to_dict("records")
        ]
        said.append(f"{look.label}: {', '.join(each)}")
    ends = curve[curve["mean"].isin([0.0, 1.0])]
    for mean, face in ((0.0, "white"), (1.0, BLACK)):
        end = ends[ends["mean"] == mean].iloc[0]
        axes.plot(
            end[reward], end[score], marker="*", markersize=17, color=BLACK, markerfacecolor=face,
            markeredgecolor="white" if mean else BLACK, linestyle="none", zorder=4,
        )  # fmt: skip
        axes.annotate(
            f"α = {mean:g}", (end[reward], end[score]), xytext=(0, -11 if mean else 11),
            textcoords="offset points", ha="center", va="top" if mean else "bottom", fontsize=11,
            bbox=PAPER, zorder=4,
        )  # fmt: skip
    axes.margins(x=0.08, y=0.18)
    first, last = (ends[ends["mean"] == mean].iloc[0] for mean in (0.0, 1.0))
    return (
        f"{_what(score).capitalize()} against {reward}, from "
        f"({number(first[reward], 2)}, {number(first[score])}) to "
        f"({number(last[reward], 2)}, {number(last[score])}): {'; '.join(said)}."
    )


def _search_look(method: str, blocks: int, ablation: bool) -> Look:
    """Return how a curve is drawn; where only K differs, K is what is said."""
    if ablation and blocks in K_LOOKS:
        return K_LOOKS[blocks]
    if method not in METHODS:
        raise FigureError(f"No look for method {method!r}: add one to METHODS.")
    look = SEARCH_LOOKS.get((method, blocks), METHODS[method])
    label = look.label if blocks == 1 else f"{look.label}, K = {blocks}"
    return Look(label, look.colour, look.marker)


def ablation_table(
    points: pd.DataFrame, scores: Sequence[str] = ("reward", "reading", "skill")
) -> pd.DataFrame:
    """Return HMA minus averaging at the same mean ratio, for every number of blocks.

    Returns:
        Columns mean (ratio), blocks (1 is averaging, all zeros), seeds, and every score with _low
        and _high (95 % t interval over seeds of the difference). Mean ratios, and seeds, that every
        number of blocks has.

    Raises:
        FigureError: missing columns, or no HMA at a mean ratio that averaging has too.
    """
    return summarise(_ablation_rows(points, scores), ["mean", "blocks"], list(scores))


def _ablation_rows(points: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Return every seed's HMA minus its averaging, see `ablation_table`."""
    figure = "ablation"
    rows = prepare(points, list(scores), figure)
    rows = rows[(rows["algorithm"] == "rsf") & rows["method"].isin(["average", "hma"])]
    rows = rows.assign(mean=rows["alpha"].round(1), blocks=rows["part"].map(block_count))
    rows.loc[rows["method"] == "average", "blocks"] = 1
    own = rows[rows["blocks"] > 1]
    if own.empty:
        raise FigureError(f"{figure} needs rows with method 'hma': record them.")
    alphas = set.intersection(*(set(each["mean"]) for _, each in own.groupby("blocks")))
    seeds = set.intersection(*(set(each["seed"]) for _, each in own.groupby("blocks")))
    rows = rows[rows["mean"].isin(alphas) & rows["seed"].isin(seeds)]
    plain = rows[rows["blocks"] == 1].set_index(["seed", "mean"])[list(scores)]
    index = pd.MultiIndex.from_frame(rows[["seed", "mean"]])
    rows = rows[index.isin(plain.index)]
    if rows[rows["blocks"] > 1].empty:
        raise FigureError(f"{figure}: HMA and averaging have no mean ratio in common.")
    index = pd.MultiIndex.from_frame(rows[["seed", "mean"]])
    minus = rows[list(scores)].to_numpy() - plain.loc[index].to_numpy()
    return rows.assign(**{score: minus[:, i] for i, score in enumerate(scores)})


def ablation(
    points: pd.DataFrame,
    scores: Sequence[str] = ("reward", "reading", "skill"),
    recorded: bool = False,
) -> Figure:
    """Draw what more blocks change at a fixed mean ratio: HMA minus averaging (K = 1).

    Args:
        points: the columns of points.csv, one study.
        scores: one panel each.
        recorded: True for a run from data/results.

    Raises:
        FigureError: as `ablation_table`.
    """
    table = ablation_table(points, scores)
    seeds = _ablation_rows(points, scores)["seed"]
    caption = run_caption(points[points["seed"].isin(seeds)], recorded)
    counts = sorted(int(k) for k in table["blocks"].unique())
    said = []
    with style():
        figure = canvas((PANELS[0], 4.5))
        panels = figure.subplots(1, len(scores), squeeze=False)[0]
        for axes, score in zip(panels, scores, strict=True):
            axes.axhline(0, color="#333333", linewidth=1)
            for i, (mean, curve) in enumerate(table.groupby("mean")):
                curve = curve.sort_values("blocks")
                x = np.searchsorted(counts, curve["blocks"]) + 0.08 * (i - 1)
                columns = (curve[f"{score}{end}"].to_numpy() for end in ("", "_low", "_high"))
                y, low, high = columns
                look = MEAN_LOOKS[i % len(MEAN_LOOKS)]
                label = f"mean ratio {mean:g}"
                draw_line(axes, x, y, low, high, Look(label, look.colour, look.marker))
                each = [
                    f"K = {int(r['blocks'])} "
                    f"{spread(r[score], r[f'{score}_low'], r[f'{score}_high'], 2, sign=True)}"
                    for r in curve[curve["blocks"] > 1].to_dict("records")
                ]
                said.append(f"{_what(score)} at mean ratio {mean:g}: {', '.join(each)}")
            axes.set_title(_what(score))
            axes.set_xticks(range(len(counts)), ["1\n(averaging)", *map(str, counts[1:])])
            axes.set_xlabel("blocks K")
            axes.set_ylabel("reward model's units" if score == "reward" else "points")
        alt = f"HMA minus averaging at the same mean ratio ({caption}). {'; '.join(said)}."
        return finish(figure, "HMA minus averaging at the same α", caption, alt, 3)


# --- recorded ratios ------------------------------------------------------------------------------


def recorded_ratios_table(
    points: pd.DataFrame, method: str = "hma", blocks: int = 3
) -> pd.DataFrame:
    """Return the ratio of every block that a search found: seed, mean, block (1 to K), ratio.

    Raises:
        FigureError: missing columns, or no such search in the points.
    """
    figure = "recorded_ratios"
    rows = prepare(points, ["alpha"], figure)
    rows = rows[(rows["algorithm"] == "rsf") & (rows["method"] == method)]
    rows = rows[rows["part"].map(block_count) == blocks]
    if rows.empty:
        raise FigureError(f"{figure}: there are no rows of {method!r} with K = {blocks}.")
    table = []
    for row in rows.to_dict("records"):
        ratios = [float(piece) for piece in row["part"].split("|") if "=" not in piece]
        for k, ratio in enumerate(ratios, start=1):
            place = {"seed": int(row["seed"]), "mean": round(row["alpha"], 1), "block": k}
            table.append({**place, "ratio": ratio})
    return pd.DataFrame(table).sort_values(["mean", "seed", "block"], ignore_index=True)


def recorded_ratios(
    points: pd.DataFrame, method: str = "hma", blocks: int = 3, recorded: bool = False
) -> Figure:
    """Draw the ratios that a search found, a panel for each mean ratio, seeds side by side.

    Args and errors as `recorded_ratios_table`.
    """
    table = recorded_ratios_table(points, method, blocks)
    caption = run_caption(points[points["seed"].isin(table["seed"])], recorded).split(" · ")[0]
    means = sorted(table["mean"].unique())
    names = list(THIRDS) if blocks == len(THIRDS) else [str(k) for k in range(1, blocks + 1)]
    seeds = sorted(table["seed"].unique())
    said = []
    with style():
        figure = canvas((PANELS[0], 4.2))
        panels = figure.subplots(1, len(means), sharey=True, squeeze=False)[0]
        for axes, mean in zip(panels, means, strict=True):
            own = table[table["mean"] == mean]
            axes.axhline(mean, color=GREY, linestyle=":", linewidth=1.8, label="equal ratios")
            for i, seed in enumerate(seeds):
                line = own[own["seed"] == seed].sort_values("block")
                # side by side: equal ratios would hide one another
                x = line["block"] + 0.11 * (i - (len(seeds) - 1) / 2)
                axes.plot(
                    x, line["ratio"], color=BLACK, marker="o^sDvPX"[i % 7], markersize=6,
                    markeredgecolor="white", markeredgewidth=0.6, linestyle="none", zorder=3,
                    label=f"seed {seed}",
                )  # fmt: skip
                axes.plot(x, line["ratio"], color=GREY, linewidth=0.8, alpha=0.5, zorder=2)
            axes.set_title(f"mean ratio {mean:g}")
            axes.set_xticks(range(1, blocks + 1), names, rotation=30 if blocks == 3 else 0)
            axes.set_xlim(0.55, blocks + 0.45)
            axes.set_ylim(-0.04, 1.04)
            each = own.groupby("block")["ratio"]
            low, high = each.min(), each.max()
            ranges = [
                f"{name} {number(low[k], 2)} to {number(high[k], 2)}"
                for k, name in enumerate(names, start=1)
            ]
            said.append(f"mean ratio {mean:g}: {', '.join(ranges)}")
        panels[0].set_ylabel("ratio of a block")
        label = METHODS[method].label if method in METHODS else method
        alt = f"Ratios found by {label}, K = {blocks} ({caption}), lowest to highest seed: " + (
            f"{'; '.join(said)}."
        )
        title = f"{label}, K = {blocks}: are the ratios alike over seeds?"
        return finish(figure, title, caption, alt, 6)
