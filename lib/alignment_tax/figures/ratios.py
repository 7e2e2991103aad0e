"""Averaging part by part, and a ratio of its own for every block: parts, searches, ratios.

The paper's Fig. 4, 5, 13 and 16. `points` are the columns of points.csv, one study; `recorded` says
that they are of data/results. What cannot be drawn is a TableError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.style import ALGORITHMS, METHODS, Look
from alignment_tax.figures.words import groups_caption, run_caption
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
AVERAGING = ("average", 1)
K_LOOKS = {
    1: METHODS["average"],
    3: Look("K = 3", style.GREEN, "D"),
    6: Look("K = 6", style.VERMILLION, "^"),
    9: Look("K = 9", style.BLACK, "s"),
}
SEARCH_LOOKS = {("hma_kl", 9): Look(METHODS["hma_kl"].label, style.VERMILLION, "^")}
# In the triangle, from large to small; the hollow square is a frame around another at its place.
MARKS = [(style.BLUE, "o", 17), (style.BLACK, "s", 20), (style.VERMILLION, "D", 12),
         (style.ORANGE, "^", 11), (style.PURPLE, "P", 9)]  # fmt: skip
# Mean ratios, from the lowest: one hue from light to dark.
MEANS = [(style.SKY, "o"), (style.BLUE, "D"), ("#00304D", "s"), (style.GREY, "^"),
         (style.BLACK, "P")]  # fmt: skip
# On light and dark ground alike: a white line in a dark one.
OUTLINED: dict[str, Any] = {
    "color": "white", "linewidth": 2.2,
    "path_effects": [withStroke(linewidth=4.5, foreground=style.INK)],
}  # fmt: skip


def _what(score: str) -> str:
    return "mean skill" if score == "skill" else FAMILY_NAMES.get(score, score)


def _of(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    return table[(table[list(values)] == list(values.values())).all(axis=1)]


def _part_rows(points: pd.DataFrame, values: list[str], algorithm: str) -> pd.DataFrame:
    """Return every seed's models with one part averaged, minus its aligned model (alpha 1)."""
    rows = select.prepare(points, values, "part_curves")
    end = select.last_round(rows, algorithm, "part_curves").set_index("seed")[values]
    own = rows[(rows["method"] == "part") & (rows["algorithm"] == algorithm)]
    own = own[own["part"].isin(THIRDS) & own["seed"].isin(end.index)].set_index("seed")
    if absent := set(THIRDS) - set(own["part"]):
        named = "" if algorithm == "rsf" else f"{algorithm} "
        raise TableError(
            f"part_curves needs rows of {algorithm} with method 'part', the {min(absent)} part "
            f"among them. Record them with: alignment-tax record tiny --methods {named}part"
        )
    own[values] -= end.loc[own.index]
    own = own.reset_index()[["seed", "part", "alpha", *values]]
    ends = own[["seed", "part"]].drop_duplicates().assign(alpha=1.0, **dict.fromkeys(values, 0.0))
    return pd.concat([own, ends], ignore_index=True).assign(algorithm=algorithm)


@style.in_style()
def part_curves(
    points: pd.DataFrame,
    reward: str = "reward",
    recorded: bool = False,
    algorithms: Sequence[str] = ("rsf",),
) -> Figure:
    """Draw where averaging one part alone leads from the aligned model (paper Fig. 4 and 13).

    Both axes are differences to the aligned model of the same seed, which is the star: to the right
    and above is better on both axes.

    Args:
        reward: The column on the x axis, "reward" or "gold".
        algorithms: One row of panels each, with axes of its own.
    """
    values = [reward, "skill"]
    rows = pd.concat([_part_rows(points, values, name) for name in algorithms])
    table = summarise(rows, ["algorithm", "part", "alpha"], values)
    word, unit = ("gold reward", "gold's") if reward == "gold" else ("reward", "reward model's")
    figure, grid = style.panels(
        len(algorithms), len(PARTS), (style.PANELS[0], 1.2 + 3.5 * len(algorithms)), sharex="row",
        sharey="row", xlabel=f"{word} minus the aligned\nmodel's ({unit} units)  →",
        ylabel="mean skill minus the\naligned model's (points)  →",
    )  # fmt: skip
    each = list(zip(product(algorithms, PARTS), grid.flat, strict=True))
    for (name, part), axes in each:
        own, seeds = (_of(all_, algorithm=name, part=part) for all_ in (table, rows))
        axes.axhline(0, color=style.INK, linewidth=1)
        axes.axvline(0, color=style.INK, linewidth=1)
        look = PARTS[part]
        draw.curve(axes, own, reward, "skill", look, seeds=seeds, order="alpha", markersize=6)
        draw.star(axes, 0, 0, hollow=False)
        named = f"{ALGORITHMS[name].label}: " if len(algorithms) > 1 else ""
        axes.set_title(named + look.label)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(0.12)
    for axes in grid.flat:
        _shade(axes)
    drawn = {
        ALGORITHMS[str(name)].label: points[
            (points["algorithm"] == name) & points["seed"].isin(own["seed"])
        ]
        for name, own in rows.groupby("algorithm", sort=False)
    }
    caption = groups_caption(drawn, recorded) + draw.FAINT * (rows["seed"].nunique() > 1)
    title = f"Which part gains from averaging? Mean skill against {word}"
    head = "One part averaged, the others aligned; differences to the aligned model."
    style.finish(figure, title, caption, table, head=head)
    for (name, part), axes in each:
        own = _of(table[table["alpha"] < 1], algorithm=name, part=part)
        ends = own.iloc[[0, -1]].drop_duplicates()
        texts = [f"α = {alpha:g}" for alpha in ends["alpha"]]
        bars = [own[[f"{reward}{end}", "skill"]].to_numpy() for end in ("_low", "_high")]
        hidden = np.vstack([own[values], _of(rows, algorithm=name, part=part)[values], *bars])
        hidden = hidden[np.isfinite(hidden).all(axis=1)]
        draw.notes(axes, texts, ends[values], hidden, color=PARTS[part].colour)
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
def ratio_path(path: pd.DataFrame, alpha: float, *, caption: str) -> Figure:
    """Draw the ratio of every block, and the objective below it, against the steps of a search.

    `path` has a row per step: step, ratios (K numbers of mean alpha), full (the objective on all
    replies, NaN or None where it was not computed).
    """
    select.need(path, ["step", "ratios", "full"], "ratio_path")
    if len(counts := {len(ratios) for ratios in path["ratios"]}) != 1:
        raise TableError(f"ratio_path: steps have {sorted(counts)} ratios; show one search.")
    full = pd.to_numeric(path["full"], errors="coerce").to_numpy()
    select.finite(full[~np.isnan(full)], "ratio_path", "objectives")
    ratios = select.finite([list(each) for each in path["ratios"]], "ratio_path", "ratios")
    count = ratios.shape[1]
    names = THIRDS if count == len(THIRDS) else [f"block {k}" for k in range(1, count + 1)]
    table = pd.DataFrame({"step": path["step"].to_numpy(), "full": full})
    table = table.join(pd.DataFrame(ratios, columns=list(names)))
    table = table.sort_values("step", ignore_index=True)
    size = (style.WIDE[0], 5.6)
    figure, [[above], [below]] = style.panels(
        2, 1, size, sharex=True, height_ratios=[1.7, 1], xlabel="step of the search"
    )
    above.axhline(alpha, color=style.GREY, linestyle=":", linewidth=1.6, label="their mean α")
    colours = [style.GREEN, style.ORANGE, style.PURPLE, style.BLUE, style.VERMILLION, style.SKY,
               style.BLACK, style.GREY, style.BROWN]  # fmt: skip
    for name, colour in zip(names, colours, strict=False):
        draw.line(above, table, "step", name, Look(name, colour))
    above.set(ylabel="ratio of a block", ylim=(-0.03, 1.03))
    known, look = table.dropna(subset=["full"]), Look("_", style.BLACK)
    draw.line(below, known, "step", "full", look, marker="o", markersize=5)
    below.set_ylabel("objective\n(nats a token)")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    head, title = f"Ratios of mean {alpha:g}.", "From equal ratios to the search's own"
    return style.finish(figure, title, caption, table, head=head, legend_columns=4)


@style.in_style()
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

    Args:
        grid: One row per point of a grid: ratios (three each, of mean alpha), full (objective).
        marks, path: Name -> three ratios, up to five; triples of ratios along a search.
        eps: Of Eq. 11, to outline what it can reach.
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
    if eps is not None:  # sigmoid + eps lies in (eps, 1 + eps)
        turns = [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)]
        label = f"what Eq. 11 can reach (ε = {eps:g})"
        axes.plot(*draw.in_triangle(np.add(turns, eps)).T, linestyle="--", label=label, **OUTLINED)
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


def _blocked(points: pd.DataFrame, values: Sequence[str], figure: str) -> pd.DataFrame:
    """Return theta_0 and RSF with their mean ratio and number of blocks (1: plain averaging)."""
    rows = select.prepare(points, values, figure)
    rows = rows[rows["algorithm"].isin(["sft", "rsf"])]
    blocks = rows["part"].map(block_count).where(rows["method"] != "average", 1)
    return rows.assign(mean=rows["alpha"].round(1), blocks=blocks)


def _search_rows(
    points: pd.DataFrame, searches: Sequence[tuple[str, int]], scores: Sequence[str]
) -> pd.DataFrame:
    """Return every seed's points of averaging and of the searches, from theta_0 to RSF's end.

    Lines through fewer points lie elsewhere, even of the same method: so all have the mean ratios,
    and the seeds, that all have.
    """
    figure = "search_fronts"
    rows = select.change(_blocked(points, ["reward", *scores], figure), ["reward"], figure)
    start, end = select.theta_0(rows, figure), select.last_rsf(rows, figure)
    inner = rows[rows["mean"].between(0, 1, inclusive="neither") & (rows["algorithm"] == "rsf")]
    curves = {key: _of(inner, method=key[0], blocks=key[1]) for key in (AVERAGING, *searches)}
    if absent := [key for key, own in curves.items() if own.empty]:
        method, blocks = absent[0]
        raise TableError(f"{figure}: there are no rows of {method!r} with K = {blocks}.")
    means = set.intersection(*(set(own["mean"]) for own in curves.values()))
    seeds = set.intersection(*(set(own["seed"]) for own in (start, end, *curves.values())))
    if not (means and seeds and searches):
        raise TableError(f"{figure}: searches and averaging have no mean ratio or seed in common.")
    found = []
    for (method, blocks), own in curves.items():
        line = [start.assign(mean=0.0), own[own["mean"].isin(means)], end.assign(mean=1.0)]
        found.append(pd.concat(line).assign(method=method, blocks=blocks))
    every = pd.concat(found, ignore_index=True)
    return every[every["seed"].isin(seeds)]


@style.in_style()
def search_fronts(
    points: pd.DataFrame,
    searches: Sequence[tuple[str, int]] = (("hma", 3),),
    scores: Sequence[str] = ("skill",),
    recorded: bool = False,
) -> Figure:
    """Draw searches for ratios against plain averaging, a panel for each score (paper Fig. 5, 16).

    All curves have the mean ratios that are recorded for every one of them, and both ends, theta_0
    and the aligned model. One search alone is drawn with its seeds and bars, of several the means.

    Args:
        searches: (method, number of blocks) of each search.
        scores: What is on the y axis, one to four.
    """
    if not 1 <= len(scores) <= 4:
        raise TableError(f"search_fronts draws one to four scores, not {len(scores)}.")
    rows = _search_rows(points, searches, scores)
    table = summarise(rows, ["method", "blocks", "mean"], ["reward", *scores])
    across, down, alone = min(2, len(scores)), (len(scores) + 1) // 2, len(searches) == 1
    size = style.PANELS if down > 1 else (style.PANELS[0], 4.9) if across > 1 else style.WIDE
    label = "reward gained over θ₀  →"
    figure, grid = style.panels(down, across, size, used=len(scores), sharex=True, xlabel=label)
    only_blocks = not alone and len({method for method, _ in searches}) == 1
    for axes, score in zip(grid.flat, scores, strict=False):
        for method, blocks in (AVERAGING, *searches):
            own, seeds = (_of(each, method=method, blocks=blocks) for each in (table, rows))
            look = _search_look(method, blocks, only_blocks)
            shape = {"seeds": seeds, "bars": "xy"} if alone else {"bars": ""}
            inner = draw.barless(own, own["mean"].isin([0, 1]))
            draw.curve(axes, inner, "reward", score, look, order="mean", **shape)
        for alpha, place in ((0, 0), (1, -1)):
            x, y = own[["reward", score]].iloc[place]
            draw.star(axes, x, y, hollow=alpha == 0)
            draw.note(axes, f"α = {alpha}", x, y, (0, 1 - 2 * alpha), far=11)
        axes.margins(x=0.08, y=0.18)
        axes.set_ylabel(AXIS_NAMES.get(score, score))
    caption = run_caption(points[points["seed"].isin(rows["seed"])], recorded)
    if rows["seed"].nunique() > 1:
        widths = f"means over seeds; {_widths(table, scores)}"
        caption = f"{caption}{draw.FAINT}" if alone else f"{caption.split(' · ')[0]} · {widths}"
        caption += "; verdicts pair them"
    title = "A ratio of its own for every block, against one for all"
    columns = 4 if len(searches) == 3 else 3
    return style.finish(figure, title, caption, table, legend_columns=columns)


def _search_look(method: str, blocks: int, only_blocks: bool) -> Look:
    if only_blocks and blocks in K_LOOKS:
        return K_LOOKS[blocks]
    look = SEARCH_LOOKS.get((method, blocks)) or style.look_of("rsf", method)
    label = look.label if blocks == 1 else f"{look.label}, K = {blocks}"
    return Look(label, look.colour, look.marker)


def _widths(table: pd.DataFrame, scores: Sequence[str]) -> str:
    inner = table[table["mean"].between(0, 1, inclusive="neither")]
    halves = {s: float((inner[f"{s}_high"] - inner[f"{s}_low"]).median()) / 2 for s in scores}
    said = ", ".join(f"{_what(score)} ±{number(half)}" for score, half in halves.items())
    return f"intervals (median {said}) not drawn"


@style.in_style()
def ablation(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw what more blocks change at a fixed mean ratio: HMA minus averaging (K = 1).

    All is of the mean ratios and the seeds that every number of blocks has.
    """
    scores = ["reward", "reading", "skill"]
    rows = _blocked(points, scores, "ablation")
    rows = rows[rows["method"].isin(["average", "hma"])]
    hma = rows[rows["blocks"] > 1]
    if hma.empty:
        raise TableError("ablation needs rows with method 'hma': record them.")
    for column in ("mean", "seed"):
        every = hma.groupby(column)["blocks"].nunique() == hma["blocks"].nunique()
        rows = rows[rows[column].isin(every[every].index)]
    rows = rows.set_index(["seed", "mean"])[["blocks", *scores]]
    plain = rows.loc[rows["blocks"] == 1, scores]
    rows = rows[rows.index.isin(plain.index)]
    if not (rows["blocks"] > 1).any():
        raise TableError("ablation: HMA and averaging have no mean ratio in common.")
    rows[scores] -= plain.loc[rows.index]
    table = summarise(rows.reset_index(), ["mean", "blocks"], scores)
    counts, means = (sorted(table[name].unique()) for name in ("blocks", "mean"))
    placed = table.assign(place=np.searchsorted(counts, table["blocks"]))
    looks = {m: Look(f"mean ratio {m:g}", *MEANS[i % 5]) for i, m in enumerate(means)}
    figure, [line] = style.panels(1, len(scores), (style.PANELS[0], 4.5), xlabel="blocks K")
    for axes, score in zip(line, scores, strict=True):
        axes.axhline(0, color=style.INK, linewidth=1)
        draw.curves(axes, placed, "mean", "place", score, looks, apart=0.08)
        axes.set_title(_what(score))
        axes.set_xticks(range(len(counts)), ["1\n(averaging)", *(f"{k:g}" for k in counts[1:])])
        axes.set_ylabel("reward model's units" if score == "reward" else "points")
    seeds = rows.index.get_level_values("seed")
    caption = run_caption(points[points["seed"].isin(seeds)], recorded)
    title = "HMA minus averaging at the same α"
    return style.finish(figure, title, caption, table, legend_columns=3)


@style.in_style()
def recorded_ratios(points: pd.DataFrame, method: str = "hma", recorded: bool = False) -> Figure:
    """Draw the three ratios that a search found, a panel for each mean ratio, seeds side by side.

    Its table has a row per seed, mean and block (1 to 3): the ratio.
    """
    blocks = len(THIRDS)
    rows = _of(_blocked(points, ["alpha"], "recorded_ratios"), method=method, blocks=blocks)
    if rows.empty:
        raise TableError(f"recorded_ratios: there are no rows of {method!r} with K = {blocks}.")
    ratios = rows["part"].map(lambda text: [float(r) for r in text.split("|") if "=" not in r])
    table = rows.assign(ratio=ratios, block=ratios.map(lambda each: range(1, len(each) + 1)))
    table = table[["seed", "mean", "block", "ratio"]].explode(["block", "ratio"])
    table = table.astype({"seed": int, "block": int, "ratio": float})
    table = table.sort_values(["mean", "seed", "block"], ignore_index=True)
    seeds, means = (sorted(table[name].unique()) for name in ("seed", "mean"))
    looks = {s: Look(f"seed {s}", style.BLACK, "o^sDvPX"[i % 7]) for i, s in enumerate(seeds)}
    size, label = (style.PANELS[0], 4.2), "ratio of a block"
    figure, [line] = style.panels(1, len(means), size, sharey=True, ylabel=label)
    for axes, mean in zip(line, means, strict=True):
        axes.axhline(mean, color=style.GREY, linestyle=":", linewidth=1.8, label="equal ratios")
        # side by side: equal ratios would hide one another
        shape: dict[str, Any] = {"apart": 0.11, "linewidth": 0.4, "markersize": 6}
        draw.curves(axes, _of(table, mean=mean), "seed", "block", "ratio", looks, **shape)
        axes.set_title(f"mean ratio {mean:g}")
        axes.set_xticks(range(1, blocks + 1), THIRDS, rotation=30)
        axes.set(xlim=(0.55, blocks + 0.45), ylim=(-0.04, 1.04))
    caption = run_caption(points[points["seed"].isin(seeds)], recorded).split(" · ")[0]
    title = f"{style.look_of('rsf', method).label}, K = {blocks}: are the ratios alike over seeds?"
    return style.finish(figure, title, caption, table, legend_columns=6)
