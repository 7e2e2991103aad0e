"""Reward on one axis, skills on the other, one curve a method (Fig. 3): averaging, and remedies."""

import textwrap
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw, style
from alignment_tax.figures.style import GAIN, METHODS, Look, run_caption
from alignment_tax.labels import ALPHA, AXIS_NAMES, FAMILY_NAMES, number, seeds_text
from alignment_tax.registry import REMEDIES
from alignment_tax.results import points as select
from alignment_tax.results.points import TableError
from alignment_tax.results.select import Selection
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats.compare import summarise

#: The curves of the course's picture, from theta_0 to the last round of RSF, averaging on top.
CURVES = ("learning_rate", "early_stopping", "average")


def _curves(
    points: pd.DataFrame, scores: Sequence[str], names: Sequence[str] = CURVES
) -> pd.DataFrame:
    """Return the rows of recorded curves, `place` by `place` from theta_0; the reward is a gain."""
    rows = select.with_rsf(select.prepare(points, ["reward", *scores]))
    select.last_round(rows)
    found = Selection(rows)
    curves = [(name, each) for name in names for each in found.curve(f"rsf/{name}").values()]
    placed = [each.assign(method=name, place=range(len(each))) for name, each in curves]
    return pd.concat(placed, ignore_index=True)


def _draw(axes: Axes, rows: pd.DataFrame, table: pd.DataFrame, score: str) -> None:
    for method in CURVES:
        look, own = METHODS[method], table[table["method"] == method]
        if own.empty:
            continue
        mine = rows[rows["method"] == method]
        if mine["seed"].nunique() < rows["seed"].nunique():
            look = look._replace(label=f"{look.label}, {seeds_text(mine['seed'])}")
        if method == "learning_rate":  # its last row is RSF itself, of these seeds alone
            own = own[:-1]
        draw.faint(axes, mine, "reward", score, look)
        draw.curve(axes, own, "reward", score, look, pale=0.4, elinewidth=1.0)
    early = table[table["method"] == "early_stopping"]
    for at, name in ((0, "before RLHF (θ₀)"), (-1, "after RLHF")):
        end = early.iloc[at]
        draw.star(axes, end["reward"], end[score], hollow=at == 0, size=19, label=name)
    _frame(axes, rows, score)


def _frame(axes: Axes, rows: pd.DataFrame, score: str) -> None:
    for ends, values in ((axes.set_xlim, rows["reward"]), (axes.set_ylim, rows[score])):
        room = 0.08 * (values.max() - values.min()) or 1.0
        ends(values.min() - room, values.max() + room)  # a bar that is longer is cut


def kept(points: pd.DataFrame, score: str = "forgetting") -> pd.DataFrame:
    """Return by alpha mean reward and `score`, and in %: gain kept, loss paid, loss given back."""
    rows = _curves(points, [score])
    mixed = rows[rows["method"] == "average"].groupby("alpha")[["reward", score]].mean()
    start, end = mixed.iloc[0], mixed.iloc[-1]
    shares = 100 * (mixed - start) / (end - start)
    return mixed.assign(kept=shares["reward"], paid=shares[score], back=100 - shares[score])


@style.in_style()
def front(points: pd.DataFrame, alpha: float = ALPHA, recorded: bool = False) -> Figure:
    """Draw what is not forgotten against reward, and mark what averaging at `alpha` keeps."""
    score = "forgetting"
    rows = _curves(points, [score], ("early_stopping", "average"))
    table = summarise(rows, ["method", "place", "alpha", "rounds"], ["reward", score])
    size, ylabel = (style.WIDE[0], 5.4), f"{AXIS_NAMES[score]}  →"
    figure, [[axes]] = style.panels(size=size, xlabel=GAIN, ylabel=ylabel)
    _draw(axes, rows, table, score)
    own = table[table["method"] == "average"]
    if own.empty:
        raise TableError("front: the points hold no average of theta_0 and RSF.")
    here = own.iloc[int((own["alpha"] - alpha).abs().argmin())]
    share = kept(points).loc[here["alpha"]]
    said = f"α = {here['alpha']:g} keeps {number(share['kept'], 0)} % of the reward"
    told = f"gives back {number(share['back'], 0)} % of what was forgotten"
    axes.plot(
        here["reward"], here[score], marker="o", markersize=21, color=style.BLACK, zorder=7,
        markerfacecolor="none", markeredgewidth=2.2,
    )  # fmt: skip
    line = {"arrowstyle": "-", "color": style.INK, "shrinkB": 11, "linewidth": 1.2}
    axes.annotate(
        f"{said},\n{told}", (here["reward"], here[score]), (0.07, 0.12), textcoords="axes fraction",
        fontsize=13, fontweight="bold", color=METHODS["average"].colour, bbox=style.PAPER,
        arrowprops=line | {"relpos": (0.93, 1.0)},
    )  # fmt: skip
    title, head = "Reward gained, skills kept: up and to the right is better", f"{said} and {told}."
    caption = run_caption(rows, recorded)
    return style.finish(figure, title, caption, table, head=f"Marked: {head}", legend_columns=4)


@style.in_style()
def fronts(
    points: pd.DataFrame, scores: Sequence[str] = ("forgetting", "skill"), recorded: bool = False
) -> Figure:
    """Draw scores against reward, a panel each: averaging beside early stops and smaller steps."""
    rows = _curves(points, scores)
    table = summarise(rows, ["method", "place", "strength", "alpha", "rounds"], ["reward", *scores])
    figure, [line] = style.panels(1, len(scores), (style.PANELS[0], 4.8), xlabel=GAIN)
    for axes, score in zip(line, scores, strict=True):
        _draw(axes, rows, table, score)
        told = table[(table["method"] == "average") & table["alpha"].isin([0.2, 0.4, 0.8])]
        for x, y, alpha in told[["reward", score, "alpha"]].to_numpy():
            note = f"α {alpha:g}"
            draw.note(axes, note, x, y, (1, 1), far=5, color=METHODS["average"].colour, fontsize=10)
        axes.set_title(AXIS_NAMES[score])
    rivals = "stopping early" + " and smaller steps" * ("learning_rate" in set(rows["method"]))
    caption = run_caption(rows, recorded)
    caption += " · pale: each seed" * (rows["seed"].nunique() > 1)
    return style.finish(figure, f"Averaging beside {rivals}", caption, table, legend_columns=3)


@style.in_style()
def class_fronts(pooled: pd.DataFrame, recorded: pd.DataFrame) -> Figure:
    """Draw the `front` of a class and that of the recorded run, side by side on the same axes."""
    score, told, every = "forgetting", [], []
    size, label = (style.PANELS[0], 4.8), f"{AXIS_NAMES[score]}  →"
    figure, [line] = style.panels(1, 2, size, xlabel=GAIN, ylabel=label, sharex=True, sharey=True)
    sides = (("your class", pooled), ("recorded", recorded))
    for axes, (name, points) in zip(line, sides, strict=True):
        rows = _curves(points, [score], ("early_stopping", "average"))
        table = summarise(rows, ["method", "place", "alpha", "rounds"], ["reward", score])
        _draw(axes, rows, table, score)
        axes.set_title(f"{name}: {seeds_text(rows['seed'])}")
        told.append(table.assign(kind=name))
        every.append(rows)
    _frame(axes, pd.concat(every), score)
    title = "The front of your class, and the recorded one"
    return style.finish(figure, title, run_caption(every[0]), pd.concat(told), legend_columns=4)


# --- remedies -------------------------------------------------------------------------------------
#: A panel each; what stands together takes hold of the same thing.
KINDS = {
    "penalties on weights": ("l1", "l2"),
    "penalties on outputs": ("kd", "kd_squared", "kl"),
    "low rank": ("lora", "lora_mlp"),
    "replay": ("replay", "replay_other"),
    "moving averages": ("sma", "ema", "bema"),
    "grafts": ("graft", "graft_random", "graft_learnt"),
}
# the same of what came after the paper
LATER = {
    "merges of all changes": ("slerp", "fisher", "warp", "soup"),
    "merges of a part of them": ("dare", "ties"),
    "beyond the aligned model": ("expo",),
    "relearning afterwards": ("relearn",),
    "penalties and replay": ("ewc", "replay_self", "replay_lost", "kl_average"),
    "merging in every step": ("on_dare", "on_ties"),
    "projections": ("ogpsa", "null_space"),
    "projected LoRA": ("oplora",),
}
PAPERS = tuple(name for names in KINDS.values() for name in names)
SINCE = f"{FAMILY_NAMES['forgetting']},\nsince θ₀ (points)  →"
X, Y = VALUES = ["reward", "forgetting"]
DISTANCES = {
    "forward": Look("KD: KL(θ₀ ‖ θ)", style.PURPLE),
    "reverse": Look("KL penalty: KL(θ ‖ θ₀)", style.SKY),
}


@style.in_style()
def penalty_distances() -> Figure:
    """Draw both prices on outputs by a token's probability: one is dropped, a rare one added."""
    first, second, third = p = np.array((0.6, 0.399, 0.001))
    dropped = np.logspace(np.log10(second), -6, 400)
    added = np.logspace(np.log10(third), np.log10(0.5), 400)
    rest = (1 - added) / (first + second)
    students = {
        "drops": (1 - third - dropped, dropped, np.full(400, third)),
        "adds": (rest * first, rest * second, added),
    }
    figure, [line] = style.panels(1, 2, (style.PANELS[0], 4.6), sharey=True, ylabel="price")
    titles, parts = ("θ drops the second token", "θ says the rare third token"), []
    for axes, (panel, tokens), title in zip(line, students.items(), titles, strict=True):
        q, student = np.stack(tokens, axis=1), dropped if panel == "drops" else added
        prices = {"forward": (p * np.log(p / q)).sum(1), "reverse": (q * np.log(q / p)).sum(1)}
        parts.append(own := pd.DataFrame({"panel": panel, "student": student, **prices}))
        for name, look in DISTANCES.items():
            draw.line(axes, own, "student", name, look)
        draw.level(axes, student[0], upright=True)
        axes.set(xscale="log", xlabel=f"its probability under θ (θ₀: {student[0]:g}, dashed)")
        axes.set_title(title)
    line[0].invert_xaxis()
    caption = f"worked out; three tokens, to which θ₀ gives {', '.join(f'{each:g}' for each in p)}"
    title, table = "Two ways to be far from θ₀", pd.concat(parts)
    return style.finish(figure, title, caption, table, legend_columns=2)


@style.in_style()
def live_remedies(live: pd.DataFrame) -> Figure:
    """Draw one seed's models since theta_0: remedies weak and strong, averages as a line."""
    rows = select.prepare(live, VALUES, since=VALUES)
    by_method = dict(list(rows.groupby("method")))
    remedies = [name for name in REMEDIES if name in by_method]
    if DISTIL not in by_method or not remedies:
        raise TableError("live_remedies needs the distilled run (distil) and remedies.")
    start, plain = rows[rows["algorithm"] == "sft"], by_method[DISTIL]
    figure, [[axes]] = style.panels(size=(style.WIDE[0], 5.8), xlabel=GAIN, ylabel=SINCE)
    mixed = by_method.get(DISTILLED_AVERAGE, rows[:0]).sort_values("alpha")
    way = pd.concat([start, mixed, plain])
    draw.curve(axes, way, X, Y, METHODS[DISTILLED_AVERAGE], bars="")
    for name in remedies:
        look, weak_is_high = METHODS[name], REMEDIES[name].weak_is_high
        line = by_method[name].sort_values("strength", ascending=not weak_is_high)
        axes.plot(*line[VALUES].to_numpy().T, color=look.colour, linewidth=1.2, linestyle=":")
        shape: dict[str, Any] = {"bars": "", "linestyle": "none", "markersize": 10, "zorder": 4}
        draw.curve(axes, line[:1], X, Y, look, **shape)
        draw.curve(axes, line[1:], X, Y, look, hollow=True, label="_", **shape)
    _ends(axes, start, plain)
    draw.note(axes, "θ₀", 0.0, 0.0, (1, 1), far=10)  # all counts from there
    axes.margins(0.1)
    table = rows[["method", "strength", "alpha", *VALUES]]
    title = "One seed: a weak strength (full) and a strong one (hollow)"
    caption = f"{run_caption(rows)} · dotted: one remedy, two strengths"
    return style.finish(figure, title, caption, table, legend_columns=3)


@style.in_style()
def remedy_fronts(
    points: pd.DataFrame, methods: Collection[str] = PAPERS, recorded: bool = False
) -> Figure:
    """Draw remedies over their strengths beside averages of the distilled run, a panel a kind."""
    groups = _by_kind(points, methods)
    every = pd.concat([rows.assign(kind=kind) for kind, rows in groups.items()])
    table = summarise(every, ["kind", "method", "strength", "alpha"], VALUES)
    most, caption = every["seed"].nunique(), run_caption(every, recorded)
    if any(rows["seed"].nunique() < most for rows in groups.values()):
        seeds = seeds_text(every["seed"])
        caption = caption.replace(seeds, f"{seeds}; fewer where a panel says so", 1)
    columns = 2 if len(groups) == 4 else min(3, len(groups))
    lines = -(-len(groups) // columns)
    far = any(REMEDIES[name].beyond for name in set(every["method"]) & set(REMEDIES))
    figure, grid = style.panels(
        lines, columns, (style.PANELS[0], 2.0 + 3.3 * lines), used=len(groups), sharex=True,
        sharey=not far, xlabel=GAIN, ylabel=SINCE,
    )  # fmt: skip
    for axes, (kind, rows) in zip(grid.flat, groups.items(), strict=False):
        _panel(axes, own := table[table["kind"] == kind])
        _frame(axes, own if far else table, Y)
        fewer = rows["seed"].nunique() < most
        axes.set_title(f"{kind}, {seeds_text(rows['seed'])}" if fewer else kind, fontsize=13)
    return style.finish(figure, "Remedies beside averaging", caption, table, legend_columns=4)


def _by_kind(points: pd.DataFrame, wanted: Collection[str]) -> dict[str, pd.DataFrame]:
    """Return, by kind of remedy, the rows of its panel: every curve of the same seeds."""
    rows = select.prepare(points, VALUES, since=VALUES)
    start = select.theta_0(rows).assign(method="theta_0")
    rows = pd.concat([start, rows[rows["algorithm"] == "rsf"]])
    found = {}
    for kind, remedies in {**KINDS, **LATER}.items():
        there = [name for name in remedies if name in wanted and name in set(rows["method"])]
        own = rows[rows["method"].isin(["theta_0", DISTIL, DISTILLED_AVERAGE, *there])]
        seeds = set.intersection(*(set(each["seed"]) for _, each in own.groupby("method")))
        if there and seeds:
            found[kind] = own[own["seed"].isin(seeds)]
    if not found:
        command = "alignment-tax record tiny --methods remedies"
        raise TableError(f"remedy_fronts: the points have no remedy. Record them with: {command}")
    return found


def _panel(axes: Axes, table: pd.DataFrame) -> None:
    start, end = (table[table["method"] == name] for name in ("theta_0", DISTIL))
    there = [name for name in REMEDIES if name in set(table["method"])]
    for method in (DISTILLED_AVERAGE, *there):
        look, remedy = METHODS[method], REMEDIES.get(method)
        own = table[table["method"] == method].sort_values(["strength", "alpha"])
        way = [own]
        if remedy is not None:
            own = own if remedy.weak_is_high else own[::-1]
            way = [own] if remedy.beyond else [start, own]
            way += [end] if remedy.beyond or remedy.fades else []
        axes.plot(*pd.concat(way)[VALUES].to_numpy().T, color=look.colour, lw=1.4, zorder=2)
        draw.curve(axes, own, X, Y, look, bars="y", markersize=7, elinewidth=0.8, linestyle="none")
    handles, names = axes.get_legend_handles_labels()  # averaging first
    axes.legend(
        handles[1:], [textwrap.fill(name, 22) for name in names[1:]], loc="lower left", fontsize=12,
        handlelength=1, borderaxespad=0.2, frameon=True, framealpha=0.7, edgecolor="none",
    )  # fmt: skip
    _ends(axes, start, end, "before RLHF (θ₀)")


def _ends(axes: Axes, start: pd.DataFrame, end: pd.DataFrame, told: str = "_") -> None:
    draw.star(axes, *start[VALUES].iloc[0], size=15, label=told)
    shape: dict[str, Any] = {"linestyle": "none", "markersize": 11, "zorder": 4}
    draw.curve(axes, end, X, Y, METHODS[DISTIL], bars="", **shape)
