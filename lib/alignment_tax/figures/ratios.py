"""Averaging part by part, and a ratio of its own for every block: parts, searches, fronts, ratios.

The paper's Fig. 4 and 13 (one part averaged), Fig. 5 and 16 (HMA against averaging, more blocks),
and what a search does between its start and its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures import primitives as draw
from alignment_tax.figures.style import (
    ALGORITHMS,
    BLACK,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    INK,
    METHODS,
    ORANGE,
    PANELS,
    PURPLE,
    SKY,
    VERMILLION,
    WIDE,
    Look,
    finish,
    in_style,
    look_of,
    panels,
)
from alignment_tax.figures.words import groups_caption, run_caption
from alignment_tax.labels import AXIS_NAMES, FAMILY_NAMES, number
from alignment_tax.results.points import (
    EVERYTHING,
    LINEAR,
    SUBSETS,
    TableError,
    change,
    finite,
    last_round,
    need,
    prepare,
    subset_changes,
    theta_0,
)
from alignment_tax.spec import block_count
from alignment_tax.stats.compare import summarise

THIRDS = ("input", "middle", "output")
PARTS = {
    "input": Look("input part", GREEN, "o"),
    "middle": Look("middle part", ORANGE, "D"),
    "output": Look("output part", PURPLE, "s"),
    "linear": Look("all layers", BLUE, "v"),
    "embeddings": Look("embeddings", SKY, "P"),
    "norms": Look("norms", VERMILLION, "X"),
    "head": Look("head", BLACK, "^"),
}
#: Subsets of the weights, in the order of `which_weights`.
SUBSET_LOOKS = {
    EVERYTHING: Look("all weights", METHODS["average"].colour, METHODS["average"].marker),
    LINEAR: Look("linear layers", METHODS["part"].colour, METHODS["part"].marker),
    "embeddings": Look("embeddings", GREEN, "^"),
    "norms": Look("norms", PURPLE, "v"),
    "head": Look("head", ORANGE, "D"),
}
#: At which alpha everything is drawn beside the parts, if it is recorded there.
SHOWN = 0.4
BLOCK_COLOURS = (GREEN, ORANGE, PURPLE, BLUE, VERMILLION, SKY, BLACK, GREY, BROWN)
# What stands for K blocks in a front: averaging is K = 1.
K_LOOKS = {
    1: METHODS["average"],
    3: Look("K = 3", GREEN, "D"),
    6: Look("K = 6", VERMILLION, "^"),
    9: Look("K = 9", BLACK, "s"),
}
# A search of several numbers of blocks in one figure with others: each has a look of its own.
SEARCH_LOOKS = {("hma_kl", 9): Look(METHODS["hma_kl"].label, VERMILLION, "^")}
# In the triangle, from large to small; the hollow one is a frame around another at its place.
MARKS = ((BLUE, "o", 17), (BLACK, "s", 20), (VERMILLION, "D", 12), (ORANGE, "^", 11),
         (PURPLE, "P", 9))  # fmt: skip
# Mean ratios, from the lowest: one hue from light to dark.
MEANS = ((SKY, "o"), (BLUE, "D"), ("#00304D", "s"), (GREY, "^"), (BLACK, "P"))
# On light and dark ground alike: a white line in a dark one.
OUTLINE = [withStroke(linewidth=4.5, foreground=INK)]


def _what(score: str) -> str:
    return "mean skill" if score == "skill" else FAMILY_NAMES.get(score, score)


# --- one part averaged ----------------------------------------------------------------------------


def _part_rows(points: pd.DataFrame, score: str, reward: str, algorithm: str) -> pd.DataFrame:
    """Return every seed's models with one part averaged, minus its aligned model (alpha 1)."""
    figure, both = "part_curves", [reward, score]
    rows = prepare(points, both, figure)
    end = last_round(rows, algorithm, figure).set_index("seed")[both]
    own = rows[(rows["method"] == "part") & (rows["algorithm"] == algorithm)]
    own = own[own["part"].isin(PARTS) & own["seed"].isin(end.index)]
    if own.empty:
        named = "" if algorithm == "rsf" else f"{algorithm} "
        raise TableError(
            f"{figure} needs rows of {algorithm} with method 'part'. Record them with: "
            f"alignment-tax record tiny --methods {named}part"
        )
    own = own[["seed", "part", "alpha", *both]].set_index("seed")
    own[both] -= end.loc[own.index]
    own = own.reset_index()
    ends = own[["seed", "part"]].drop_duplicates().assign(alpha=1.0, **dict.fromkeys(both, 0.0))
    return pd.concat([own, ends], ignore_index=True).assign(algorithm=algorithm)


@in_style()
def part_curves(
    points: pd.DataFrame,
    score: str = "skill",
    parts: Sequence[str] = THIRDS,
    reward: str = "reward",
    recorded: bool = False,
    algorithms: Sequence[str] = ("rsf",),
) -> Figure:
    """Draw where averaging one part alone leads from the aligned model (paper Fig. 4 and 13).

    Both axes are differences to the aligned model of the same seed, which is the star: to the right
    and above is better on both axes. Bars are 95 % t intervals over seeds.

    Args:
        points: The columns of points.csv, one study.
        score: The score on the y axis.
        parts: One column of panels each.
        reward: The column on the x axis, "reward" or "gold".
        recorded: True for a run from data/results.
        algorithms: One row of panels each, with axes of its own.

    Raises:
        TableError: missing columns, no model of an algorithm, or no rows of a part.
    """
    rows = pd.concat([_part_rows(points, score, reward, name) for name in algorithms])
    if unknown := [part for part in parts if part not in set(rows["part"])]:
        raise TableError(f"part_curves: no rows of part {unknown[0]!r}.")
    rows = rows[rows["part"].isin(parts)]
    table = summarise(rows, ["algorithm", "part", "alpha"], [reward, score])
    size = (PANELS[0], 1.2 + 3.5 * len(algorithms))
    figure, grid = panels(len(algorithms), len(parts), size, sharex="row", sharey="row")
    drawn = {}
    for (name, part), axes in zip(product(algorithms, parts), grid.flat, strict=True):
        own, seeds = (
            each[(each["algorithm"] == name) & (each["part"] == part)].sort_values("alpha")
            for each in (table, rows)
        )
        axes.axhline(0, color=INK, linewidth=1)
        axes.axvline(0, color=INK, linewidth=1)
        draw.curve(axes, own, reward, score, PARTS[part], seeds=seeds, order="alpha", markersize=6)
        draw.star(axes, 0, 0, hollow=False)
        label = PARTS[part].label
        axes.set_title(f"{ALGORITHMS[name].label}: {label}" if len(algorithms) > 1 else label)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(0.12)
        of_study = points[(points["algorithm"] == name) & points["seed"].isin(seeds["seed"])]
        drawn[ALGORITHMS[name].label] = of_study
    for axes in grid.flat:
        _shade(axes)
    word = "gold reward" if reward == "gold" else "reward"
    unit = "gold's units" if reward == "gold" else "reward model's units"
    for axes in grid[-1]:
        axes.set_xlabel(f"{word} minus the aligned\nmodel's ({unit})  →")
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{_what(score)} minus the\naligned model's (points)  →")
    caption = groups_caption(drawn, recorded) + draw.FAINT * (rows["seed"].nunique() > 1)
    title = f"Which part gains from averaging? {_what(score).capitalize()} against {word}"
    head = "One part averaged, the others aligned; differences to the aligned model."
    finish(figure, title, caption, table, head=head)
    for (name, part), axes in zip(product(algorithms, parts), grid.flat, strict=True):
        own, seeds = (
            each[(each["algorithm"] == name) & (each["part"] == part) & (each["alpha"] < 1)]
            for each in (table, rows)
        )
        ends = own.sort_values("alpha").iloc[[0, -1]].drop_duplicates()
        texts = [f"α = {alpha:g}" for alpha in ends["alpha"]]
        hidden = pd.concat([own[[reward, score]], seeds[[reward, score]]])
        draw.notes(axes, texts, ends[[reward, score]], hidden, color=PARTS[part].colour)
    return figure


def _shade(axes: Axes) -> None:
    """Shade and name the corner that is better on both axes."""
    (left, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    if right > 0 and top > 0:
        right = max(right, -0.3 * left)  # room for the words
        axes.fill_between([0, right], 0, top, color=GREEN, alpha=0.08, linewidth=0, zorder=0)
        axes.set(xlim=(left, right), ylim=(None, top))
        draw.note(axes, "better\nin both", right, top, (-1, -1), far=4, color=GREEN, bbox=None)


@in_style()
def which_weights(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw what averaging everything, linear layers or one other part changes.

    Above: everything and the linear layers along alpha. Below: one part at alpha 0.4 (full) and 0
    (hollow) while all others stay aligned. All are changes since the aligned model; small markers
    are single seeds.

    Raises:
        TableError: missing columns, nothing to draw, several studies, no row of a single part.
    """
    scores = {"reward": "reward", "skill": "mean skill (points)"}
    changed = subset_changes(prepare(points, list(scores), "which_weights"), list(scores))
    if changed.empty:
        raise TableError("which_weights needs rows with algorithm 'rsf' and method 'part'.")
    table = summarise(changed, ["part", "alpha"], list(scores))
    single = table[table["alpha"].eq(SHOWN) | (table["alpha"].eq(0) & table["part"].ne(EVERYTHING))]
    names = [name for name in SUBSETS if name in set(single["part"])]
    figure, grid = panels(2, 2, (PANELS[0], 8.2))
    for (score, words), above, below in zip(scores.items(), *grid, strict=True):
        for part, aside in ((EVERYTHING, 0.0), (LINEAR, 0.012)):  # so that no bar hides another
            own, seeds = (each[each["part"] == part] for each in (table, changed))
            own = own[own["alpha"] < 1].sort_values("alpha")
            end = pd.DataFrame({"alpha": [1.0], score: 0.0})  # no change, by construction
            own = pd.concat([own, end]).assign(alpha=lambda rows, by=aside: rows["alpha"] + by)
            draw.curve(above, own, "alpha", score, SUBSET_LOOKS[part], seeds=seeds, bars="y")
        draw.level(above, 0)
        above.set_title(words)
        above.set_xlabel("α   (1 = all weights aligned)")
        for alpha, aside in ((SHOWN, -0.1), (0.0, 0.2)):
            own = single[single["alpha"] == alpha]
            for part, look in SUBSET_LOOKS.items():
                seeds = changed[(changed["part"] == part) & (changed["alpha"] == alpha)]
                if part in set(own["part"]):
                    place = seeds.assign(line=names.index(part) + aside + 0.11)
                    draw.faint(below, place, score, "line", look)
            draw.forest(
                below, own, name="part", value=score, names=names, aside=aside, digits=None,
                looks=[SUBSET_LOOKS[part] for part in own["part"]], zero=None,
                **({} if alpha else {"markerfacecolor": "white"}),
            )  # fmt: skip
        draw.level(below, 0, upright=True)
        below.set_yticks(range(len(names)), [SUBSET_LOOKS[name].label for name in names])
        below.set_xlabel(f"change in {words} since RSF")
        below.xaxis.get_major_locator().set_params(nbins=6)
    grid[0, 0].set_ylabel("change since RSF")
    grid[1, 0].set_title(f"one part at α = {SHOWN:g} (full) or 0 (hollow)")
    caption = run_caption(points[points["seed"].isin(changed["seed"])], recorded)
    head = "Change since the aligned model when one part is averaged."
    return finish(
        figure, "Which weights are averaged?", caption, table, head=head, legend_columns=5
    )


# --- a search -------------------------------------------------------------------------------------


@in_style()
def ratio_path(path: pd.DataFrame, alpha: float, *, caption: str) -> Figure:
    """Draw the ratio of every block, and the objective below it, against the steps of a search.

    Args:
        path: One row per step: step, ratios (a sequence of K numbers), full (the objective on all
            replies, NaN or None where it was not computed).
        alpha: The mean of the ratios.
        caption: Which run this is.

    Raises:
        TableError: missing columns, no rows, ratios that differ in number, no objective.
    """
    need(path, ["step", "ratios", "full"], "ratio_path")
    if len(counts := {len(ratios) for ratios in path["ratios"]}) != 1:
        raise TableError(f"ratio_path: steps have {sorted(counts)} ratios; show one search.")
    full = pd.to_numeric(path["full"], errors="coerce")
    finite(full.dropna(), "ratio_path", "objectives")
    ratios = finite([list(each) for each in path["ratios"]], "ratio_path", "ratios")
    blocks = range(1, ratios.shape[1] + 1)
    table = pd.DataFrame(ratios, columns=blocks).assign(full=full.to_numpy())
    table.insert(0, "step", path["step"].to_numpy())
    table = table.sort_values("step", ignore_index=True)
    names = THIRDS if len(blocks) == len(THIRDS) else [f"block {k}" for k in blocks]
    figure, [[above], [below]] = panels(2, 1, (WIDE[0], 5.6), sharex=True, height_ratios=[1.7, 1])
    above.axhline(alpha, color=GREY, linestyle=":", linewidth=1.6, label="their mean α")
    for k, name, colour in zip(blocks, names, BLOCK_COLOURS, strict=False):
        draw.line(above, table, "step", k, Look(name, colour, ""))
    above.set_ylabel("ratio of a block")
    above.set_ylim(-0.03, 1.03)
    known = table.dropna(subset=["full"])
    draw.line(below, known, "step", "full", Look("_", BLACK, ""), marker="o", markersize=5)
    below.set_ylabel("objective\n(nats a token)")
    below.set_xlabel("step of the search")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    head = f"Ratios of mean {alpha:g}, and the objective in nats a token."
    title = "From equal ratios to the search's own"
    return finish(figure, title, caption, table, head=head, legend_columns=4)


@in_style()
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
        grid: One row per point of a grid: ratios (three each, of one mean), full (objective).
        marks: Name -> three ratios, up to five.
        alpha: The mean of the ratios.
        caption: Which run this is.
        eps: Of Eq. 11, to outline what it can reach.
        path: Triples of ratios along a search.

    Raises:
        TableError: no rows, not three ratios, means that differ, or more marks than looks.
    """
    need(grid, ["ratios", "full"], "simplex")
    if len(marks) > len(MARKS):
        raise TableError(f"simplex has {len(MARKS)} markers, not {len(marks)}.")
    triples = [*map(list, grid["ratios"]), *map(list, marks.values())]
    if any(len(each) != 3 for each in triples):
        raise TableError("simplex draws three ratios; K = 3 is all that fits on a page.")
    ratios = finite(triples, "simplex", "ratios")
    if np.ptp(means := ratios.mean(axis=1)) > 1e-3:
        raise TableError(
            f"simplex: means go from {means.min():.3f} to {means.max():.3f}, but a triangle "
            "holds ratios of one mean."
        )
    full = finite(grid["full"], "simplex", "objectives")
    table = pd.DataFrame(ratios, columns=list(THIRDS))
    table[["x", "y"]] = draw.in_triangle(ratios)
    table["objective"] = [*full, *[np.nan] * len(marks)]
    table["mark"] = [*[""] * len(grid), *marks]
    figure, [[axes]] = panels(1, 1, (WIDE[0], 6.6))
    corners = [f"all to the {name}" for name in THIRDS]
    landscape = draw.triangle(axes, corners, ratios[: len(grid)], full)
    if landscape is not None:
        bar = figure.colorbar(landscape, ax=axes, shrink=0.75, pad=0.02)
        bar.set_label("objective (nats a token; lower is better)")
    outlined = {"color": "white", "linewidth": 2.2, "path_effects": OUTLINE}
    if eps is not None:  # sigmoid + eps lies in (eps, 1 + eps)
        turns = [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)]
        label = f"what Eq. 11 can reach (ε = {eps:g})"
        axes.plot(*draw.in_triangle(np.add(turns, eps)).T, linestyle="--", label=label, **outlined)
    if len(path) > 1:
        axes.plot(*draw.in_triangle(path).T, label="path of the gradient", **outlined)
    for (colour, marker, size), (name, triple) in zip(MARKS, marks.items(), strict=False):
        [[x, y]] = draw.in_triangle(triple)
        edge = {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 2.4}
        shape = edge if marker == "s" else {"markeredgecolor": BLACK, "markeredgewidth": 1.2}
        # a smaller one without a place for the legend: there they would overlap
        for place, wide, label in (((x, y), size, "_"), ((np.nan, np.nan), 10, name)):
            axes.plot(
                *place, marker=marker, color=colour, linestyle="none", markersize=wide,
                clip_on=False, zorder=4, label=label, **shape,
            )  # fmt: skip
    if alpha > 1 / 3:
        caption += " · in the white corners a ratio would exceed 1"
    return finish(
        figure, f"All ratios of mean {alpha:g}", caption, table,
        head="Objective in nats a token over ratios of three blocks, and marked ratios.",
        legend_columns=3,
    )  # fmt: skip


# --- searches against averaging -------------------------------------------------------------------


def _blocked(points: pd.DataFrame, values: Sequence[str], figure: str) -> pd.DataFrame:
    """Return the rows of RSF with their mean ratio and number of blocks (1: plain averaging)."""
    rows = prepare(points, values, figure)
    rows = rows[rows["algorithm"] == "rsf"]
    blocks = rows["part"].map(block_count).where(rows["method"] != "average", 1)
    return rows.assign(mean=rows["alpha"].round(1), blocks=blocks)


def _search_rows(
    points: pd.DataFrame, searches: Sequence[tuple[str, int]], scores: Sequence[str], reward: str
) -> pd.DataFrame:
    """Return every seed's points of averaging and the searches, theta_0 and the aligned model ends.

    Lines through fewer points lie elsewhere, even of the same method: so all have the mean ratios,
    and the seeds, that all have.
    """
    figure, values = "search_fronts", [reward, *scores]
    if not searches:
        raise TableError(f"{figure} needs at least one search.")
    if reward == "reward":
        points = change(prepare(points, values, figure), [reward], figure)
    rows = _blocked(points, values, figure)
    start, end = theta_0(prepare(points, values, figure), figure), last_round(rows, "rsf", figure)
    inner = rows[rows["mean"].between(0, 1, inclusive="neither")]
    curves = {}
    for method, blocks in (("average", 1), *searches):
        own = inner[(inner["method"] == method) & (inner["blocks"] == blocks)]
        if own.empty:
            raise TableError(f"{figure}: there are no rows of {method!r} with K = {blocks}.")
        curves[method, blocks] = own
    means = set.intersection(*(set(own["mean"]) for own in curves.values()))
    seeds = set.intersection(*(set(own["seed"]) for own in (start, end, *curves.values())))
    if not (means and seeds):
        raise TableError(f"{figure}: searches and averaging have no mean ratio or seed in common.")
    found = []
    for (method, blocks), own in curves.items():
        line = [start.assign(mean=0.0), own[own["mean"].isin(means)], end.assign(mean=1.0)]
        found.append(pd.concat(line).assign(method=method, blocks=blocks))
    every = pd.concat(found, ignore_index=True)
    return every[every["seed"].isin(seeds)]


@in_style()
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
        points: The columns of points.csv, one study.
        searches: (method, number of blocks) of each search.
        scores: What is on the y axis, one to four.
        reward: What is on the x axis, "reward" (gained over theta_0) or "gold".
        recorded: True for a run from data/results.

    Raises:
        TableError: missing columns, no theta_0, no RSF, a search that is not in the points, or no
            score or more than four.
    """
    if not 1 <= len(scores) <= 4:
        raise TableError(f"search_fronts draws one to four scores, not {len(scores)}.")
    rows = _search_rows(points, searches, scores, reward)
    table = summarise(rows, ["method", "blocks", "mean"], [reward, *scores])
    across, alone = min(2, len(scores)), len(searches) == 1
    down = -(-len(scores) // across)
    size = PANELS if down > 1 else (PANELS[0], 4.9) if across > 1 else WIDE
    figure, grid = panels(down, across, size, used=len(scores), sharex=True)
    only_blocks = not alone and len({method for method, _ in searches}) == 1
    for axes, score in zip(grid.flat, scores, strict=False):
        for method, blocks in (("average", 1), *searches):
            own, seeds = (
                each[(each["method"] == method) & (each["blocks"] == blocks)].sort_values("mean")
                for each in (table, rows)
            )
            draw.curve(
                axes, draw.barless(own, own["mean"].isin([0, 1])), reward, score,
                _search_look(method, blocks, only_blocks), seeds=seeds if alone else None,
                order="mean", bars="xy" if alone else "",
            )  # fmt: skip
        for alpha, end in ((0, own.iloc[0]), (1, own.iloc[-1])):
            draw.star(axes, end[reward], end[score], hollow=alpha == 0)
            side = (0, 1) if alpha == 0 else (0, -1)
            draw.note(axes, f"α = {alpha}", end[reward], end[score], side, far=11)
        axes.margins(x=0.08, y=0.18)
        axes.set_ylabel(AXIS_NAMES.get(score, score))
    for axes in grid[-1]:
        axes.set_xlabel("gold reward  →" if reward == "gold" else "reward gained over θ₀  →")
    caption = run_caption(points[points["seed"].isin(rows["seed"])], recorded)
    if not alone:
        caption = f"{caption.split(' · ')[0]} · means over seeds{_widths(table, scores)}"
    elif rows["seed"].nunique() > 1:
        caption += f"{draw.FAINT}; verdicts pair them"
    title = "A ratio of its own for every block, against one for all"
    columns = 4 if len(searches) == 3 else 3
    return finish(figure, title, caption, table, legend_columns=columns)


def _search_look(method: str, blocks: int, only_blocks: bool) -> Look:
    """Return how a curve is drawn; where only K differs, K is what is said."""
    if only_blocks and blocks in K_LOOKS:
        return K_LOOKS[blocks]
    look = SEARCH_LOOKS.get((method, blocks)) or look_of("rsf", method)
    label = look.label if blocks == 1 else f"{look.label}, K = {blocks}"
    return Look(label, look.colour, look.marker)


def _widths(table: pd.DataFrame, scores: Sequence[str]) -> str:
    """Return how wide the intervals are that a figure of means leaves out."""
    inner = table[table["mean"].between(0, 1, inclusive="neither")]
    halves = {s: float((inner[f"{s}_high"] - inner[f"{s}_low"]).median()) / 2 for s in scores}
    said = ", ".join(f"{_what(score)} ±{number(half)}" for score, half in halves.items())
    if not np.isfinite(list(halves.values())).all():
        return ""
    return f"; intervals (median {said}) not drawn, verdicts pair the seeds"


@in_style()
def ablation(
    points: pd.DataFrame,
    scores: Sequence[str] = ("reward", "reading", "skill"),
    recorded: bool = False,
) -> Figure:
    """Draw what more blocks change at a fixed mean ratio: HMA minus averaging (K = 1).

    Of the mean ratios, and the seeds, that every number of blocks has.

    Args:
        points: The columns of points.csv, one study.
        scores: One panel each.
        recorded: True for a run from data/results.

    Raises:
        TableError: missing columns, or no HMA at a mean ratio that averaging has too.
    """
    rows = _blocked(points, scores, "ablation")
    rows = rows[rows["method"].isin(["average", "hma"])]
    hma = rows[rows["blocks"] > 1]
    if hma.empty:
        raise TableError("ablation needs rows with method 'hma': record them.")
    for column in ("mean", "seed"):
        every = hma.groupby(column)["blocks"].nunique() == hma["blocks"].nunique()
        rows = rows[rows[column].isin(every[every].index)]
    plain = rows.loc[rows["blocks"] == 1, ["seed", "mean", *scores]]
    rows = rows.merge(plain, on=["seed", "mean"], suffixes=("", "_plain"))
    if not (rows["blocks"] > 1).any():
        raise TableError("ablation: HMA and averaging have no mean ratio in common.")
    rows = rows.assign(**{score: rows[score] - rows[f"{score}_plain"] for score in scores})
    table = summarise(rows, ["mean", "blocks"], list(scores))
    counts = sorted(int(k) for k in table["blocks"].unique())
    figure, grid = panels(1, len(scores), (PANELS[0], 4.5))
    for axes, score in zip(grid[0], scores, strict=True):
        axes.axhline(0, color=INK, linewidth=1)
        for i, (mean, own) in enumerate(table.groupby("mean")):
            look = Look(f"mean ratio {mean:g}", *MEANS[i % len(MEANS)])
            own = own.assign(place=np.searchsorted(counts, own["blocks"]) + 0.08 * (i - 1))
            draw.curve(axes, own, "place", score, look)
        axes.set_title(_what(score))
        axes.set_xticks(range(len(counts)), ["1\n(averaging)", *map(str, counts[1:])])
        axes.set_xlabel("blocks K")
        axes.set_ylabel("reward model's units" if score == "reward" else "points")
    caption = run_caption(points[points["seed"].isin(rows["seed"])], recorded)
    return finish(figure, "HMA minus averaging at the same α", caption, table, legend_columns=3)


@in_style()
def recorded_ratios(
    points: pd.DataFrame, method: str = "hma", blocks: int = 3, recorded: bool = False
) -> Figure:
    """Draw the ratios that a search found, a panel for each mean ratio, seeds side by side.

    Its table has a row per seed, mean and block (1 to K): the ratio.

    Raises:
        TableError: missing columns, or no such search in the points.
    """
    rows = _blocked(points, ["alpha"], "recorded_ratios")
    rows = rows[(rows["method"] == method) & (rows["blocks"] == blocks)]
    if rows.empty:
        raise TableError(f"recorded_ratios: there are no rows of {method!r} with K = {blocks}.")
    ratios = [[float(r) for r in text.split("|") if "=" not in r] for text in rows["part"]]
    rows = rows.assign(block=[list(range(1, blocks + 1))] * len(rows), ratio=ratios)
    table = rows[["seed", "mean", "block", "ratio"]].explode(["block", "ratio"])
    table = table.astype({"seed": int, "block": int, "ratio": float})
    table = table.sort_values(["mean", "seed", "block"], ignore_index=True)
    seeds, means = sorted(table["seed"].unique()), sorted(table["mean"].unique())
    names = THIRDS if blocks == len(THIRDS) else [str(k) for k in range(1, blocks + 1)]
    figure, grid = panels(1, len(means), (PANELS[0], 4.2), sharey=True)
    for axes, mean in zip(grid[0], means, strict=True):
        axes.axhline(mean, color=GREY, linestyle=":", linewidth=1.8, label="equal ratios")
        for i, seed in enumerate(seeds):
            own = table[(table["mean"] == mean) & (table["seed"] == seed)]
            # side by side: equal ratios would hide one another
            own = own.assign(place=own["block"] + 0.11 * (i - (len(seeds) - 1) / 2))
            draw.line(axes, own, "place", "ratio", Look("_", GREY, ""), linewidth=0.8, alpha=0.5)
            look = Look(f"seed {seed}", BLACK, "o^sDvPX"[i % 7])
            draw.scatter(axes, own, "place", "ratio", look, markersize=6)
        axes.set_title(f"mean ratio {mean:g}")
        axes.set_xticks(range(1, blocks + 1), names, rotation=30 if blocks == 3 else 0)
        axes.set(xlim=(0.55, blocks + 0.45), ylim=(-0.04, 1.04))
    grid[0, 0].set_ylabel("ratio of a block")
    caption = run_caption(points[points["seed"].isin(seeds)], recorded).split(" · ")[0]
    title = f"{look_of('rsf', method).label}, K = {blocks}: are the ratios alike over seeds?"
    return finish(figure, title, caption, table, legend_columns=6)
