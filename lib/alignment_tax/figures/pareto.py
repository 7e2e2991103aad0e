"""The picture of the course: reward on one axis, skills on the other, one curve a method (Fig. 3).

Averaging is a curve over alpha, every other method one over its strength or its rounds. `points`
are the columns of points.csv, one study; `recorded` says that they are of data/results. What cannot
be drawn is a TableError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import ALPHA, AXIS_NAMES, SCORES, number, seeds_text
from alignment_tax.registry import REMEDIES
from alignment_tax.results import points as select
from alignment_tax.results.points import NotRecorded, TableError, curve_rows
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats.compare import summarise

REWARD_NAMES = {"reward": "reward gained over θ₀", "gold": AXIS_NAMES["gold"]}
#: The curves of the course's picture, from theta_0 to the last round of RSF, averaging on top.
CURVES = ("learning_rate", "early_stopping", "average")
# A panel each; what stands together takes hold of the same thing.
REMEDY_KINDS = {
    "penalties on weights": ("l1", "l2"),
    "penalties on outputs": ("kd", "kd_squared", "kl"),
    "low rank": ("lora", "lora_mlp"),
    "replay": ("replay", "replay_other"),
    "moving averages": ("sma", "ema", "bema"),
    "grafts": ("graft", "graft_random", "graft_learnt"),
}


def _curves(points: pd.DataFrame, scores: Sequence[str], reward: str) -> pd.DataFrame:
    """Return the rows of every curve that is recorded, `place` by `place` from theta_0 on.

    The reward is a gain over theta_0: each seed's reward model has a zero of its own; gold has one.
    """
    if reward not in REWARD_NAMES:
        raise TableError(f"fronts: the reward axis is 'reward' or 'gold', not {reward!r}.")
    if unknown := set(scores) - set(SCORES):
        raise TableError(f"fronts: {min(unknown)!r} is no skill; choose from {', '.join(SCORES)}.")
    rows = select.prepare(points, ["reward", reward, *scores], "fronts")
    rows = select.change(select.with_rsf(rows), ["reward"], "fronts")
    select.last_rsf(rows, "fronts")
    found = []
    for method in CURVES:
        for seed in sorted(rows["seed"].unique()):
            try:
                own = curve_rows(rows, method, seed)
            except NotRecorded:
                continue
            found.append(own.assign(method=method, place=range(len(own))))
    return pd.concat(found, ignore_index=True)


def _draw(axes: Axes, rows: pd.DataFrame, table: pd.DataFrame, score: str, reward: str) -> None:
    for method in CURVES:
        look, own = style.METHODS[method], table[table["method"] == method]
        if own.empty:
            continue
        draw.faint(axes, rows[rows["method"] == method], reward, score, look)
        draw.curve(axes, own, reward, score, look, pale=0.4, elinewidth=1.0)
    early = table[table["method"] == "early_stopping"]
    for at, name in ((0, "before RLHF (θ₀)"), (-1, "after RLHF")):
        end = early.iloc[at]
        draw.star(axes, end[reward], end[score], hollow=at == 0, size=19, label=name)
    for ends, values in ((axes.set_xlim, rows[reward]), (axes.set_ylim, rows[score])):
        room = 0.08 * (values.max() - values.min()) or 1.0
        ends(values.min() - room, values.max() + room)  # a bar that is longer is cut


def _averaged(table: pd.DataFrame, alpha: float) -> pd.Series:
    """Return the row of the average at an alpha, or at the nearest to it that there is."""
    own = table[table["method"] == "average"]
    if own.empty:
        raise TableError("front: the points hold no average of theta_0 and RSF.")
    return own.iloc[int((own["alpha"] - alpha).abs().argmin())]


def kept(points: pd.DataFrame, score: str = "forgetting") -> pd.DataFrame:
    """Return, by alpha, which share (in percent) of RSF's gain an average keeps, and pays.

    Columns: reward and `score` (means over seeds), kept (of the gain in reward), paid (of the loss
    of `score`) and back (what is not paid).
    """
    rows = _curves(points, [score], "reward")
    mixed = rows[rows["method"] == "average"].groupby("alpha")[["reward", score]].mean()
    start, end = mixed.iloc[0], mixed.iloc[-1]
    shares = 100 * (mixed - start) / (end - start)
    return mixed.assign(kept=shares["reward"], paid=shares[score], back=100 - shares[score])


@style.in_style()
def front(
    points: pd.DataFrame, alpha: float = ALPHA, score: str = "forgetting", recorded: bool = False
) -> Figure:
    """Draw a score against reward: stopping RSF early and averaging; an alpha is marked.

    The mark says what the average at `alpha` (or the nearest there is) keeps of RSF's reward, and
    gives back of its tax. Large markers are means over seeds with 95 % t intervals.
    """
    rows = _curves(points, [score], "reward")
    rows = rows[rows["method"] != "learning_rate"]
    table = summarise(rows, ["method", "place", "alpha", "rounds"], ["reward", score])
    figure, [[axes]] = style.panels(size=(style.WIDE[0], 5.4))
    _draw(axes, rows, table, score, "reward")
    here = _averaged(table, alpha)
    share = kept(points, score).loc[here["alpha"]]
    said = f"α = {here['alpha']:g} keeps {number(share['kept'], 0)} % of the reward"
    lost = "what was forgotten" if score == "forgetting" else "the tax"
    told = f"gives back {number(share['back'], 0)} % of {lost}"
    axes.plot(
        here["reward"], here[score], marker="o", markersize=21, color=style.BLACK, zorder=7,
        linestyle="none", markerfacecolor="none", markeredgewidth=2.2,
    )  # fmt: skip
    line = {"arrowstyle": "-", "color": style.INK, "shrinkB": 11, "linewidth": 1.2}
    line["relpos"] = (0.93, 1.0)
    axes.annotate(
        f"{said},\n{told}", (here["reward"], here[score]), (0.07, 0.12), textcoords="axes fraction",
        fontsize=13, fontweight="bold", color=style.METHODS["average"].colour, bbox=draw.PAPER,
        arrowprops=line,
    )  # fmt: skip
    axes.set(xlabel="reward gained over θ₀  →", ylabel=f"{AXIS_NAMES.get(score, score)}  →")
    return style.finish(
        figure, "Reward gained, skills kept: up and to the right is better",
        run_caption(rows, recorded), table, head=f"Marked: {said} and {told}.", legend_columns=4,
    )  # fmt: skip


def signature(points: pd.DataFrame, recorded: bool = True) -> Figure:
    """Draw the README's first figure: what is forgotten against the reward that is gained."""
    return front(points, recorded=recorded)


@style.in_style()
def fronts(
    points: pd.DataFrame,
    scores: Sequence[str] = ("forgetting", "skill"),
    reward: str = "reward",
    recorded: bool = False,
) -> Figure:
    """Draw some scores against reward (or gold), a panel each: averaging and what it competes with.

    Stopping RSF early goes by rounds, smaller steps by the learning rate, averaging by alpha.
    """
    rows = _curves(points, scores, reward)
    settings = ["method", "place", "strength", "alpha", "rounds"]
    table = summarise(rows, settings, [reward, *scores])
    columns = min(2, len(scores))
    lines = -(-len(scores) // columns)
    figure, grid = style.panels(
        lines, columns, (style.PANELS[0], 1.6 + 3.2 * lines), used=len(scores), sharex=True,
        xlabel=f"{REWARD_NAMES[reward]}  →",
    )  # fmt: skip
    for axes, score in zip(grid.flat, scores, strict=False):
        _draw(axes, rows, table, score, reward)
        axes.set_title(AXIS_NAMES.get(score, score))
    title = "Averaging beside stopping early and smaller steps"
    return style.finish(figure, title, run_caption(rows, recorded), table, legend_columns=3)


@style.in_style()
def remedy_fronts(
    points: pd.DataFrame, scores: Sequence[str] = ("skill",), recorded: bool = False
) -> Figure:
    """Draw every remedy beside the averages of the distilled run, a panel for each kind.

    Each curve goes from theta_0 over the strengths of a remedy to the plain distilled run, where
    that is its end. Of fewer seeds than elsewhere a kind's title says which. With several `scores`
    (mean skill, families, slots) each kind has a row of panels.
    """
    groups = _remedy_rows(points, scores)
    settings = ["kind", "method", "strength", "alpha"]
    every = pd.concat([rows.assign(kind=kind) for kind, rows in groups.items()])
    table = summarise(every, settings, ["reward", *scores])
    most, caption = every["seed"].nunique(), run_caption(every, recorded)
    if any(rows["seed"].nunique() < most for rows in groups.values()):
        seeds = seeds_text(every["seed"])
        caption = caption.replace(seeds, f"{seeds}; fewer where a panel says so", 1)
    several, used = len(scores) > 1, len(groups) * len(scores)
    columns = len(scores) if several else min(3, used)
    lines = -(-used // columns)
    figure, grid = style.panels(
        lines, columns, (style.PANELS[0], 2.0 + (2.7 if several else 3.1) * lines), used=used,
        sharex=True, sharey="col" if several else "all", xlabel=REWARD_NAMES["reward"],
    )  # fmt: skip
    shown = [(kind, rows, score) for kind, rows in groups.items() for score in scores]
    for place, (axes, (kind, rows, score)) in enumerate(zip(grid.flat, shown, strict=False)):
        _remedy_panel(axes, table[table["kind"] == kind], score)
        fewer = rows["seed"].nunique() < most
        axes.set_title(f"{kind}, {seeds_text(rows['seed'])}" if fewer else kind, fontsize=13)
        if several or place % columns == 0:
            axes.set_ylabel("mean skill (%)" if score == "skill" else AXIS_NAMES.get(score, score))
    return style.finish(figure, "Every remedy beside averaging", caption, table, legend_columns=4)


def _remedy_rows(points: pd.DataFrame, scores: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return, by kind of remedy, the rows of its panel: every curve of the same seeds."""
    rows = select.prepare(points, ["reward", *scores], "remedy_fronts")
    rows = select.change(rows, ["reward"], "remedy_fronts")
    start = select.theta_0(rows, "remedy_fronts").assign(method="theta_0")
    rows = pd.concat([start, rows[rows["algorithm"] == "rsf"]])
    found = {}
    for kind, remedies in REMEDY_KINDS.items():
        there = [name for name in remedies if name in set(rows["method"])]
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


def _remedy_panel(axes: Axes, table: pd.DataFrame, score: str) -> None:
    start, end = (table[table["method"] == name] for name in ("theta_0", DISTIL))
    for method in (DISTILLED_AVERAGE, *(name for name in REMEDIES if name in set(table["method"]))):
        look, remedy = style.METHODS[method], REMEDIES.get(method)
        own = table[table["method"] == method].sort_values(["strength", "alpha"])
        if remedy is not None and not remedy.weak_is_high:
            own = own.iloc[::-1]
        way = [own] if remedy is None else [start, own, end] if remedy.fades else [start, own]
        line = pd.concat(way)
        axes.plot(line["reward"], line[score], color=look.colour, linewidth=1.4, zorder=2)
        capped = own.assign(**{f"{score}_high": own[f"{score}_high"].clip(upper=100)})  # percent
        shape: dict[str, Any] = {"markersize": 7, "elinewidth": 0.8, "linestyle": "none"}
        draw.curve(axes, capped, "reward", score, look, **shape)
    first, last = start.iloc[0], end.iloc[0]
    draw.star(axes, first["reward"], first[score], size=13, label="before RLHF (θ₀)")
    axes.plot(
        last["reward"], last[score], marker="P", markersize=9, color=style.BLACK, linestyle="none",
        label=style.METHODS[DISTIL].label, zorder=4,
    )  # fmt: skip
