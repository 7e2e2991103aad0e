"""The picture of the course: reward on one axis, skills on the other, one curve a method (Fig. 3).

Averaging is a curve over alpha, every other method one over its strength or its rounds. `points`
are the columns of points.csv, one study; `recorded` says that they are of data/results. What cannot
be drawn is a TableError.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import ALPHA, AXIS_NAMES, SCORES, number
from alignment_tax.results import points as select
from alignment_tax.results.points import NotRecorded, TableError, curve_rows
from alignment_tax.stats.compare import summarise

REWARD_NAMES = {"reward": "reward gained over θ₀", "gold": AXIS_NAMES["gold"]}
#: The curves of the course's picture, from theta_0 to the last round of RSF, averaging on top.
CURVES = ("learning_rate", "early_stopping", "average")


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
