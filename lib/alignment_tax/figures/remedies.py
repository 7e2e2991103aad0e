"""Remedies: two prices on outputs, models of one run, and recorded fronts beside averaging.

`points` are the columns of points.csv, one study; `recorded` says that they are of data/results.
What cannot be drawn is a TableError.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.style import METHODS, Look
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import FAMILY_NAMES, seeds_text
from alignment_tax.registry import REMEDIES
from alignment_tax.results import points as select
from alignment_tax.results.points import TableError
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats.compare import summarise

#: A panel each; what stands together takes hold of the same thing.
KINDS = {
    "penalties on weights": ("l1", "l2"),
    "penalties on outputs": ("kd", "kd_squared", "kl"),
    "low rank": ("lora", "lora_mlp"),
    "replay": ("replay", "replay_other"),
    "moving averages": ("sma", "ema", "bema"),
    "grafts": ("graft", "graft_random", "graft_learnt"),
}
GAIN = "reward gained over θ₀  →"
#: What theta_0 says to three tokens in `penalty_distances`.
THREE_TOKENS = (0.6, 0.399, 0.001)
DISTANCES = {
    "forward": Look("KD: KL(θ₀ ‖ θ)", style.PURPLE),
    "reverse": Look("KL penalty: KL(θ ‖ θ₀)", style.SKY),
}


@style.in_style()
def penalty_distances() -> Figure:
    """Draw both prices on outputs where a token is dropped, and where one is added.

    In the table `student` is, in the panel "drops", the probability of the second token, which the
    first gains; in "adds" that of the third, which the other two lose in proportion.
    """
    first, second, third = p = np.array(THREE_TOKENS)
    dropped = np.logspace(np.log10(second), -6, 400)
    added = np.logspace(np.log10(third), np.log10(0.5), 400)
    rest = (1 - added) / (first + second)
    students = {
        "drops": (dropped, [1 - third - dropped, dropped, np.full(400, third)]),
        "adds": (added, [rest * first, rest * second, added]),
    }
    figure, [line] = style.panels(1, 2, (style.PANELS[0], 4.6), sharey=True, ylabel="price")
    titles, parts = ("θ drops the second token", "θ says the rare third token"), []
    for axes, (panel, (student, tokens)), title in zip(line, students.items(), titles, strict=True):
        q = np.stack(tokens, axis=1)
        ratio = np.log(p) - np.log(q)
        prices = {"forward": (p * ratio).sum(axis=1), "reverse": (-q * ratio).sum(axis=1)}
        parts.append(own := pd.DataFrame({"panel": panel, "student": student, **prices}))
        for name, look in DISTANCES.items():
            draw.line(axes, own, "student", name, look)
        draw.level(axes, student[0], upright=True)
        axes.set(xscale="log", xlabel=f"its probability under θ (θ₀: {student[0]:g}, dashed)")
        axes.set_title(title)
    line[0].invert_xaxis()
    said = ", ".join(f"{value:g}" for value in THREE_TOKENS)
    caption = f"worked out; three tokens, to which θ₀ gives {said}"
    return style.finish(
        figure, "Two ways to be far from θ₀", caption, pd.concat(parts), legend_columns=2
    )


@style.in_style()
def live_remedies(live: pd.DataFrame, score: str = "forgetting") -> Figure:
    """Draw models of one seed since theta_0: remedies from weak to strong, averages as a line.

    `live` are points of theta_0, the distilled run and its averages, and of remedies.
    """
    rows = select.prepare(live, ["reward", score], "live_remedies")
    rows = select.change(rows, ["reward", score], "live_remedies")
    own = {name: each for name, each in rows.groupby("method") if name in REMEDIES}
    start = rows[rows["algorithm"] == "sft"]
    plain, mixed = (rows[rows["method"] == name] for name in (DISTIL, DISTILLED_AVERAGE))
    if plain.empty or not own:
        raise TableError("live_remedies needs the distilled run (distil) and remedies.")
    figure, [[axes]] = style.panels(size=(style.WIDE[0], 5.8), xlabel=GAIN, ylabel=_since(score))
    way = pd.concat([start, mixed.sort_values("alpha"), plain])
    draw.curve(axes, way, "reward", score, METHODS[DISTILLED_AVERAGE], bars="")
    for name in (name for name in REMEDIES if name in own):
        remedy, look = REMEDIES[name], METHODS[name]
        line = own[name].sort_values("strength", ascending=not remedy.weak_is_high)
        axes.plot(line["reward"], line[score], color=look.colour, linewidth=1.2, linestyle=":")
        shape: dict[str, Any] = {"markersize": 10, "zorder": 4}
        draw.scatter(axes, line[:1], "reward", score, look, **shape)
        draw.scatter(axes, line[1:], "reward", score, look, hollow=True, label="_", **shape)
    _ends(axes, start, plain, score)
    axes.margins(0.1)
    table = rows[["method", "strength", "alpha", "reward", score]]
    title = "One seed: a weak strength (full) and a strong one (hollow)"
    return style.finish(figure, title, run_caption(rows), table, legend_columns=4)


@style.in_style()
def remedy_fronts(
    points: pd.DataFrame,
    score: str = "forgetting",
    methods: Collection[str] = tuple(REMEDIES),
    recorded: bool = False,
) -> Figure:
    """Draw remedies beside the averages of the distilled run since theta_0, a panel for each kind.

    Each curve goes from theta_0 over the strengths of a remedy to the plain distilled run, where
    that is its end. Of fewer seeds than elsewhere a kind's title says which.
    """
    groups = _by_kind(points, score, methods)
    every = pd.concat([rows.assign(kind=kind) for kind, rows in groups.items()])
    table = summarise(every, ["kind", "method", "strength", "alpha"], ["reward", score])
    most, caption = every["seed"].nunique(), run_caption(every, recorded)
    if any(rows["seed"].nunique() < most for rows in groups.values()):
        seeds = seeds_text(every["seed"])
        caption = caption.replace(seeds, f"{seeds}; fewer where a panel says so", 1)
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    figure, grid = style.panels(
        lines, columns, (style.PANELS[0], 2.0 + 3.3 * lines), used=len(groups), sharex=True,
        sharey=True, xlabel=GAIN, ylabel=_since(score),
    )  # fmt: skip
    for axes, (kind, rows) in zip(grid.flat, groups.items(), strict=False):
        _panel(axes, table[table["kind"] == kind], score)
        fewer = rows["seed"].nunique() < most
        axes.set_title(f"{kind}, {seeds_text(rows['seed'])}" if fewer else kind, fontsize=13)
    return style.finish(figure, "Remedies beside averaging", caption, table, legend_columns=4)


def _since(score: str) -> str:
    name = "mean skill" if score == "skill" else FAMILY_NAMES.get(score, score)
    return f"{name},\nsince θ₀ (points)  →"


def _by_kind(points: pd.DataFrame, score: str, wanted: Collection[str]) -> dict[str, pd.DataFrame]:
    """Return, by kind of remedy, the rows of its panel: every curve of the same seeds."""
    rows = select.prepare(points, ["reward", score], "remedy_fronts")
    rows = select.change(rows, ["reward", score], "remedy_fronts")
    start = select.theta_0(rows, "remedy_fronts").assign(method="theta_0")
    rows = pd.concat([start, rows[rows["algorithm"] == "rsf"]])
    found = {}
    for kind, remedies in KINDS.items():
        there = [name for name in remedies if name in wanted and name in set(rows["method"])]
        own = rows[rows["method"].isin(["theta_0", DISTIL, DISTILLED_AVERAGE, *there])]
        seeds = set.intersection(*(set(each["seed"]) for _, each in own.groupby("method")))
        if there and seeds:
            found[kind] = own[own["seed"].isin(seeds)]
    if not found:
        raise TableError(
            "remedy_fronts: the points have no remedy. Record them with: "
            "alignment-tax record tiny --methods remedies"
        )
    return found


def _panel(axes: Axes, table: pd.DataFrame, score: str) -> None:
    start, end = (table[table["method"] == name] for name in ("theta_0", DISTIL))
    for method in (DISTILLED_AVERAGE, *(name for name in REMEDIES if name in set(table["method"]))):
        look, remedy = METHODS[method], REMEDIES.get(method)
        own = table[table["method"] == method].sort_values(["strength", "alpha"])
        if remedy is not None and not remedy.weak_is_high:
            own = own.iloc[::-1]
        way = [own] if remedy is None else [start, own, end] if remedy.fades else [start, own]
        line = pd.concat(way)
        axes.plot(line["reward"], line[score], color=look.colour, linewidth=1.4, zorder=2)
        shape: dict[str, Any] = {"markersize": 7, "elinewidth": 0.8, "linestyle": "none"}
        draw.curve(axes, own, "reward", score, look, **shape)
    _ends(axes, start, end, score)


def _ends(axes: Axes, start: pd.DataFrame, end: pd.DataFrame, score: str) -> None:
    (x, y), look = start[["reward", score]].iloc[0], METHODS[DISTIL]
    draw.star(axes, x, y, size=15, label="before RLHF (θ₀)")
    draw.scatter(axes, end, "reward", score, look, markersize=11, zorder=4)
