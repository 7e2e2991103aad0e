"""What is averaged: everything, the linear layers, or what is no layer, each by itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures.look import (
    GREEN,
    GREY,
    METHODS,
    ORANGE,
    PANELS,
    PURPLE,
    FigureError,
    Look,
    bar_lengths,
    canvas,
    finish,
    style,
)
from alignment_tax.figures.tables import run_caption
from alignment_tax.labels import number, spread
from alignment_tax.results.points import EVERYTHING, LINEAR, prepare
from alignment_tax.results.points import SUBSETS as PARTS
from alignment_tax.results.points import subset_changes as changes
from alignment_tax.stats.compare import summarise

LOOKS = {
    EVERYTHING: Look("all weights", METHODS["average"].colour, METHODS["average"].marker),
    LINEAR: Look("linear layers", METHODS["part"].colour, METHODS["part"].marker),
    "embeddings": Look("embeddings", GREEN, "^"),
    "norms": Look("norms", PURPLE, "v"),
    "head": Look("head", ORANGE, "D"),
}
SCORES = ("reward", "skill")
SCORE_NAMES = {"reward": "reward", "skill": "mean skill (points)"}
#: At which alpha everything is drawn beside the parts, if it is recorded there.
SHOWN = 0.4
DODGE = 0.012


def which_weights_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return what averaging each part changes: means and 95 % t intervals over seeds.

    Args:
        points: the columns of points.csv, one study, with rows of method "part".

    Returns:
        One row per part (everything, linear, embeddings, norms, head) and alpha: seeds, and the
        change since the aligned model of the same seed in reward and skill, each with _low and
        _high. Below 0 is lost.

    Raises:
        FigureError: missing columns, nothing to draw, several studies, no row of a single part.
    """
    return summarise(_changed(points), ["part", "alpha"], SCORES)


def _changed(points: pd.DataFrame) -> pd.DataFrame:
    """Return the changes by seed, checked."""
    changed = changes(prepare(points, SCORES, "which_weights"))
    if changed.empty:
        raise FigureError("which_weights needs rows with algorithm 'rsf' and method 'part'.")
    return changed


def which_weights(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw what averaging everything, linear layers or one other part changes.

    Above: everything and the linear layers along alpha. Below: one part at alpha 0.4 (full) and 0
    (hollow) while all others stay aligned. All are changes since the aligned model; large markers
    are means over seeds with their intervals, small ones single seeds.

    Raises:
        FigureError: as `which_weights_table`.
    """
    changed = _changed(points)
    table = which_weights_table(points)
    caption = run_caption(points[points["seed"].isin(changed["seed"])], recorded)
    with style():
        figure = canvas((PANELS[0], 8.2))
        panels = figure.subplots(2, 2)
        for axes, score in zip(panels[0], SCORES, strict=True):
            for part in (EVERYTHING, LINEAR):
                _along(axes, changed, table, part, score)
            axes.axhline(0, color=GREY, linewidth=1.2, linestyle="--")
            axes.set_title(SCORE_NAMES[score])
            axes.set_xlabel("α   (1 = all weights aligned)")
        panels[0][0].set_ylabel("change since RSF")
        for axes, score in zip(panels[1], SCORES, strict=True):
            _one_by_one(axes, changed, table, score)
            axes.set_xlabel(f"change in {SCORE_NAMES[score]} since RSF")
            axes.xaxis.get_major_locator().set_params(nbins=6)
        panels[1][0].set_title(f"one part at α = {SHOWN:g} (full) or 0 (hollow)")
        title = "Which weights are averaged?"
        return finish(figure, title, caption, _alt(table, caption), 2)


def _along(axes: Axes, changed: pd.DataFrame, table: pd.DataFrame, part: str, score: str) -> None:
    """Draw the change along alpha of one part; at alpha 1 there is none, by construction."""
    look = LOOKS[part]
    rows = table[table["part"] == part].sort_values("alpha")
    seeds = changed[changed["part"] == part]
    if (rows["alpha"] < 1).all():
        end = pd.DataFrame({"alpha": [1.0], score: 0.0, f"{score}_low": 0.0, f"{score}_high": 0.0})
        rows = pd.concat([rows, end])
    aside = DODGE if part == LINEAR else 0.0  # so that no interval covers another
    axes.errorbar(
        rows["alpha"] + aside, rows[score],
        yerr=bar_lengths(rows[score], rows[f"{score}_low"], rows[f"{score}_high"]),
        color=look.colour, marker=look.marker, markeredgecolor="white", markeredgewidth=0.8,
        elinewidth=1.3, label=look.label,
    )  # fmt: skip
    axes.scatter(
        seeds["alpha"] + aside + (DODGE if aside else -DODGE), seeds[score], s=12,
        color=look.colour, marker=look.marker, alpha=0.4, linewidths=0, zorder=1.5,
    )  # fmt: skip


def _one_by_one(axes: Axes, changed: pd.DataFrame, table: pd.DataFrame, score: str) -> None:
    """Draw the change that one part alone makes, a line of the panel for each part and alpha."""
    rows = table[table["alpha"].isin([SHOWN, 0.0]) & (table["part"] != EVERYTHING)]
    rows = pd.concat([table[(table["part"] == EVERYTHING) & (table["alpha"] == SHOWN)], rows])
    names = [part for part in PARTS if part in set(rows["part"])]
    for row in rows.to_dict("records"):
        look = LOOKS[row["part"]]
        y = names.index(row["part"]) + (0.2 if row["alpha"] == 0 else -0.1)
        same = (changed["part"] == row["part"]) & (changed["alpha"] == row["alpha"])
        seeds = changed.loc[same, score]
        axes.scatter(
            seeds, np.full(len(seeds), y + 0.11), s=12, color=look.colour, marker=look.marker,
            alpha=0.4, linewidths=0, zorder=1.5,
        )  # fmt: skip
        axes.errorbar(
            row[score], y,
            xerr=bar_lengths([row[score]], [row[f"{score}_low"]], [row[f"{score}_high"]]),
            fmt=look.marker, color=look.colour, elinewidth=1.6, markeredgewidth=1.6,
            markerfacecolor="white" if row["alpha"] == 0 else look.colour,
        )  # fmt: skip
    axes.axvline(0, color=GREY, linewidth=1.2, linestyle="--")
    axes.set_yticks(range(len(names)), [LOOKS[name].label for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _alt(table: pd.DataFrame, caption: str) -> str:
    """Return the description of `which_weights`."""
    parts = [f"Change since the aligned model when one part is averaged ({caption})."]
    for row in table.to_dict("records"):
        reward = spread(row["reward"], row["reward_low"], row["reward_high"], 2, sign=True)
        skill = spread(row["skill"], row["skill_low"], row["skill_high"], sign=True)
        label = LOOKS[row["part"]].label
        parts.append(f"{label}, alpha {number(row['alpha'])}: reward {reward}, skill {skill}.")
    return " ".join(parts)
