"""The picture of the course: reward on one axis, skills on the other, one curve a method (Fig. 3).

Averaging is a curve over alpha, every other method one over its strength or its rounds. `points`
are the columns of points.csv, one study; `recorded` says that they are of data/results. What cannot
be drawn is a TableError.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import AXIS_NAMES, FAMILY_NAMES, SCORES, number
from alignment_tax.results import points as select
from alignment_tax.results.points import SETTING, TableError
from alignment_tax.spec import PART, PATTERN, block_count
from alignment_tax.stats.compare import summarise
from alignment_tax.stats.pareto import pareto_front

FADED = 0.45
SEEDS = " · small faint marks: single seeds"
REWARD_NAMES = {"reward": "reward gained over θ₀", "gold": AXIS_NAMES["gold"]}
# Neither is a competitor: the base model cannot chat yet, the control is no remedy.
LEFT_OUT = ("base", "rsf_random")
# Of a method with a ratio per block only these numbers of blocks are a curve here.
BLOCKS = {"hma": 3}


def _rows(points: pd.DataFrame, families: Sequence[str], reward: str) -> pd.DataFrame:
    """Return the rows a front shows; a method's validated early stop is a round of RSF.

    The reward is a gain over theta_0: each seed's reward model has a zero of its own; gold has one.
    """
    if reward not in REWARD_NAMES:
        raise TableError(f"front: the reward axis is 'reward' or 'gold', not {reward!r}.")
    if unknown := set(families) - set(SCORES):
        raise TableError(f"front: {min(unknown)!r} is no skill; choose from {', '.join(SCORES)}.")
    rows = select.with_rsf(select.prepare(points, [reward, *families], "front"))
    rows = rows[~rows["algorithm"].isin(LEFT_OUT)]
    stopped = (rows["method"] == "early_stopping") & (rows["algorithm"] == "rsf")
    rows = _named_by_blocks(rows.assign(method=rows["method"].mask(stopped, "none")))
    rows = rows[(rows["part"] == "") | rows["method"].isin(BLOCKS)]
    rows = rows.drop_duplicates(["seed", *SETTING])
    select.last_rsf(rows, "front")
    return rows if reward == "gold" else select.change(rows, [reward], "front")


def _named_by_blocks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with "K=3" in place of three ratios, which each seed has its own of.

    Left out is what is no one curve: single parts, ratios set by hand, other numbers of blocks.
    """
    count = rows["part"].map(block_count)
    wanted = rows["method"].map(BLOCKS).fillna(count)
    rows = rows.assign(
        part=rows["part"].mask(count > 0, "K=" + count.astype(str)),
        # the released code's mean is only near what it was asked for
        alpha=rows["alpha"].mask(count > 0, rows["alpha"].round(1)),
    )
    return rows[~rows["method"].isin([PART, PATTERN]) & (count == wanted)]


def _ends(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    return select.theta_0(table, "front").iloc[0], select.last_rsf(table, "front").iloc[0]


def _mixed(table: pd.DataFrame) -> pd.DataFrame:
    mixed = table[(table["algorithm"] == "rsf") & (table["method"] == "average")]
    return mixed.sort_values("alpha")


def _dominated(table: pd.DataFrame, family: str, reward: str) -> np.ndarray:
    best = pareto_front(table[[reward, family]].to_numpy())
    return ~np.isin(np.arange(len(table)), best)


def _bargain(table: pd.DataFrame, reward: str) -> str:
    """Return in words where averaging keeps most reward and recovers most skill, added up."""
    mixed = _mixed(table).dropna(subset=["reward_kept", "tax_recovered"])
    inner = mixed[mixed["alpha"].between(0, 1, "neither")]
    if inner.empty:
        return ""
    best = inner.iloc[int((inner["reward_kept"] + inner["tax_recovered"]).argmax())]
    return (
        f"Averaging at alpha {best['alpha']:g} keeps {100 * best['reward_kept']:.0f} % of the gain "
        f"in {reward} and recovers {100 * best['tax_recovered']:.0f} % of the tax."
    )


def _series(table: pd.DataFrame) -> list[tuple[style.Look, pd.DataFrame, bool]]:
    """Return (look, rows in drawing order, hollow marker) for every curve, averaging last."""
    curves = []
    for key, rows in table.groupby(["algorithm", "method"], sort=True):
        algorithm, method = str(key[0]), str(key[1])
        if (algorithm, method) != ("sft", "none"):
            order = rows.sort_values(["alpha", "strength", "rounds"], na_position="first")
            known = algorithm == "rsf" and method in ("none", *style.METHODS)
            curves.append((style.look_of(algorithm, method), order, not known))
    return sorted(curves, key=lambda each: each[0] is style.METHODS["average"])


def _draw(
    axes: Axes, rows: pd.DataFrame, table: pd.DataFrame, family: str, reward: str, named: bool
) -> None:
    """Draw one front; `named` writes beside the stars and some averages what they are."""
    table = table.assign(dominated=_dominated(table, family, reward))
    for look, own, hollow in _series(table):
        trained = (own["method"] == "none").all()  # a training run starts from theta_0
        way = pd.concat([select.theta_0(table, "front"), own]) if trained else own
        axes.plot(way[reward], way[family], color=look.colour, linewidth=1.6, zorder=2)
        seeds = rows.merge(own[["algorithm", "method"]].drop_duplicates())
        draw.faint(axes, seeds, reward, family, look)
        for dominated, some in own.groupby("dominated"):
            draw.curve(
                axes, some, reward, family, look, hollow=hollow, pale=0.35, elinewidth=1.0,
                linestyle="none", alpha=FADED if dominated else 1.0, label="_",
            )  # fmt: skip
        face = "white" if hollow else look.colour
        axes.plot(
            [], [], color=look.colour, marker=look.marker, markerfacecolor=face, label=look.label
        )
    best = table[~table["dominated"]].sort_values(reward)
    axes.step(
        best[reward], best[family], where="pre", color=style.GREY, linewidth=1.2, linestyle=":",
        label="Pareto front of the means", zorder=1,
    )  # fmt: skip
    axes.margins(x=0.12, y=0.1)
    start, end = _ends(table)
    for alpha, row, other, name in (
        (0, start, end, "before RLHF (θ₀)"),
        (1, end, start, "after RLHF (RSF)"),
    ):
        x, y = row[reward], row[family]
        draw.star(axes, x, y, hollow=alpha == 0, size=19, label="_" if named else name)
        # what is said of the left star begins left of it, of the right star it ends right of it
        left, up = x < other[reward], y >= other[family]
        draw.note(
            axes, f"{name}\nα = {alpha}" if named else f"α = {alpha}", x, y,
            (-0.4 if left else 0.4, 1.0 if up else -1.1), far=20, fontsize=12,
            ha="left" if left else "right",
        )  # fmt: skip
    mixed = _mixed(table)
    inner = mixed[mixed["alpha"].between(0, 1, "neither")]
    for each in inner.iloc[:5:2].to_dict("records") if named else ():
        text, colour = f"α = {each['alpha']:g}", style.METHODS["average"].colour
        draw.note(axes, text, each[reward], each[family], (0, -1), far=11, color=colour, zorder=2.6)


@style.in_style()
def front(
    points: pd.DataFrame,
    family: str = "skill",
    reward: str = "reward",
    recorded: bool = False,
    at: float | None = None,
    *,
    title: str | None = None,
    names: tuple[str, str] | None = None,
) -> Figure:
    """Draw skills against reward, one curve a method (paper Fig. 3, one panel).

    Stars are theta_0 and the last RSF round, large markers are means over seeds with 95 % t
    intervals, small faint ones single seeds; what another mean dominates is faded. The table has a
    row per model setting, with the shares `reward_kept` of RSF's gain and `tax_recovered` of its
    loss (NaN without a gain or a tax).

    Args:
        family, reward: the score on the y axis (skill, a family, a slot); "reward" or "gold".
        at: an alpha whose average of theta_0 and RSF is ringed.
        title, names: of the figure and of its axes, in place of the usual ones.
    """
    rows = _rows(points, [family], reward)
    table = summarise(rows, SETTING, [reward, family])
    start, end = _ends(table)
    gain, tax = end[reward] - start[reward], start[family] - end[family]
    table = table.assign(
        dominated=_dominated(table, family, reward),
        reward_kept=(table[reward] - start[reward]) / gain if gain > 0 else np.nan,
        tax_recovered=(table[family] - end[family]) / tax if tax > 0 else np.nan,
    )
    # a legend of many methods takes its room from no panel
    more = 0.1 * max(0, len(table.groupby(["algorithm", "method"])) - 6)
    figure, [[axes]] = style.panels(size=(style.WIDE[0], style.WIDE[1] + more))
    _draw(axes, rows, table, family, reward, named=True)
    head = _bargain(table, reward)
    if at is not None:
        mixed = _mixed(table)
        if (here := mixed[np.isclose(mixed["alpha"], at)]).empty:
            there = ", ".join(f"{alpha:g}" for alpha in mixed["alpha"]) or "none"
            raise TableError(f"front: no average at alpha {at:g}; the points have {there}.")
        x, y = here.iloc[0][[reward, family]]
        axes.plot(
            x, y, marker="o", markersize=22, color=style.BLACK, linestyle="none", zorder=7,
            markerfacecolor="none", markeredgewidth=2.2, label=f"α = {at:g}",
        )  # fmt: skip
        head = f"Ringed: alpha {at:g}, {reward} {number(x, 2)}, {number(y)}. {head}"
    what = "mean skill" if family == "skill" else FAMILY_NAMES.get(family, family)
    title = title or f"{what.capitalize()} against {'gold ' * (reward == 'gold')}reward"
    names = names or (REWARD_NAMES[reward], AXIS_NAMES.get(family, family))
    axes.set(xlabel=f"{names[0]}  →", ylabel=f"{names[1]}  →")
    caption = run_caption(rows, recorded) + SEEDS * (rows["seed"].nunique() > 1)
    return draw.make_room(style.finish(figure, title, caption, table, head=head, legend_columns=3))


def signature(points: pd.DataFrame, recorded: bool = True) -> Figure:
    """Draw the README's first figure: RSF and averaging, in the words of a newcomer."""
    title = "The alignment tax: reward gained, skills kept"
    names = ("reward model's score gained over θ₀", "mean skill, in %")
    return front(select.main_line(points), recorded=recorded, title=title, names=names)


@style.in_style()
def fronts(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw the three families and their mean against reward, as `front`, four panels (Fig. 3)."""
    rows = _rows(points, list(FAMILY_NAMES), "reward")
    table = summarise(rows, SETTING, ["reward", *FAMILY_NAMES])
    more = 0.09 * max(0, rows["method"].nunique() - 6)
    size, label = (style.PANELS[0], style.PANELS[1] + more), f"{REWARD_NAMES['reward']}  →"
    figure, grid = style.panels(2, 2, size, sharex=True, xlabel=label)
    for axes, family in zip(grid.flat, FAMILY_NAMES, strict=True):
        _draw(axes, rows, table, family, "reward", named=False)
        axes.set_title(AXIS_NAMES[family])
    caption = run_caption(rows, recorded) + SEEDS * (rows["seed"].nunique() > 1)
    title = "Each family against reward"
    return draw.make_room(style.finish(figure, title, caption, table, legend_columns=3))
