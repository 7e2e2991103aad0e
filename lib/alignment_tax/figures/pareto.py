"""The picture of the course: reward on one axis, skills on the other, one curve a method.

As Fig. 3 of the paper: averaging is a curve over alpha, every other method a curve over its
strength or its rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures.primitives import curve, faint, make_room, note, star
from alignment_tax.figures.style import (
    BLACK,
    GREY,
    METHODS,
    PANELS,
    WIDE,
    Look,
    finish,
    in_style,
    look_of,
    panels,
)
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import AXIS_NAMES, FAMILY_NAMES, SCORES, number, seeds_text
from alignment_tax.registry import REMEDIES
from alignment_tax.results.points import (
    SETTING,
    TableError,
    change,
    last_rsf,
    main_line,
    prepare,
    theta_0,
    with_rsf,
)
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE, PART, PATTERN, block_count
from alignment_tax.stats.compare import summarise
from alignment_tax.stats.pareto import pareto_front

FADED = 0.45
SEEDS = " · small faint marks: single seeds"
REWARD_NAMES = {"reward": "reward gained over θ₀", "gold": AXIS_NAMES["gold"]}
# Neither is a competitor: the base model cannot chat yet, the control is no remedy.
LEFT_OUT = ("base", "rsf_random")
# A panel each; what stands together takes hold of the same thing.
REMEDY_KINDS = {
    "penalties on weights": ("l1", "l2"),
    "penalties on outputs": ("kd", "kd_squared", "kl"),
    "low rank": ("lora", "lora_mlp"),
    "replay": ("replay", "replay_other"),
    "moving averages": ("sma", "ema", "bema"),
    "grafts": ("graft", "graft_random", "graft_learnt"),
}
# Of a method with a ratio per block only these numbers of blocks are a curve here.
BLOCKS = {"hma": 3}


def _rows(
    points: pd.DataFrame,
    families: Sequence[str],
    reward: str,
    methods: Sequence[str] | None,
    figure: str,
) -> pd.DataFrame:
    """Return the rows a front shows; a method's validated early stop is a round of RSF.

    The reward is the gain over theta_0 of the same seed: each seed has a reward model of its own,
    whose zero means nothing. Gold is the same yardstick for all.
    """
    if reward not in REWARD_NAMES:
        raise TableError(f"{figure}: the reward axis is 'reward' or 'gold', not {reward!r}.")
    for family in families:
        if family not in SCORES:
            raise TableError(f"{figure}: {family!r} is no skill; choose from {', '.join(SCORES)}.")
    rows = with_rsf(prepare(points, [reward, *families], figure))
    rows = rows[~rows["algorithm"].isin(LEFT_OUT)]
    stopped = (rows["method"] == "early_stopping") & (rows["algorithm"] == "rsf")
    rows = _named_by_blocks(rows.assign(method=rows["method"].mask(stopped, "none")))
    if methods is None:
        rows = rows[(rows["part"] == "") | rows["method"].isin(BLOCKS)]
    elif unknown := set(methods) - {"none", *rows["method"]}:
        there = ", ".join(sorted(set(rows["method"])))
        raise TableError(
            f"{figure}: the points have no method {min(unknown)!r}; they have {there}."
        )
    else:
        rows = rows[rows["method"].isin(["none", *methods])]
    rows = rows.drop_duplicates(["seed", *SETTING])
    last_rsf(rows, figure)
    return rows if reward == "gold" else change(rows, [reward], figure)


def _named_by_blocks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with "K=3" in place of three ratios, which each seed has its own of.

    Left out: parts averaged alone and ratios set by hand, which are no one curve, and numbers of
    blocks beside those of `BLOCKS`.
    """
    count = rows["part"].map(block_count)
    wanted = rows["method"].map(BLOCKS).fillna(count)
    rows = rows.assign(
        part=rows["part"].mask(count > 0, "K=" + count.astype(str)),
        # the released code's mean is only near what it was asked for
        alpha=rows["alpha"].mask(count > 0, rows["alpha"].round(1)),
    )
    return rows[~rows["method"].isin([PART, PATTERN]) & (count == wanted)]


def _with_shares(table: pd.DataFrame, family: str, reward: str) -> pd.DataFrame:
    """Return the means with `dominated`, and shares of the gain kept and of the tax recovered."""
    start, end = (choose(table, "front").iloc[0] for choose in (theta_0, last_rsf))
    gain, tax = end[reward] - start[reward], start[family] - end[family]
    return table.assign(
        dominated=_dominated(table, family, reward),
        reward_kept=(table[reward] - start[reward]) / gain if gain > 0 else np.nan,
        tax_recovered=(table[family] - end[family]) / tax if tax > 0 else np.nan,
    )


def _dominated(table: pd.DataFrame, family: str, reward: str) -> np.ndarray:
    """Return which means another mean is at least as good as, on both axes."""
    best = pareto_front(table[[reward, family]].to_numpy())
    return ~np.isin(np.arange(len(table)), best)


def _bargain(table: pd.DataFrame, family: str, reward: str) -> str:
    """Return in words where averaging keeps most reward and recovers most skill, added up."""
    start, end = (choose(table, "front").iloc[0] for choose in (theta_0, last_rsf))
    text = (
        f"From {reward} {number(start[reward], 2)}, {number(start[family])} before RLHF to "
        f"{number(end[reward], 2)}, {number(end[family])} after it."
    )
    mixed = table[(table["method"] == "average") & table["alpha"].between(0, 1, "neither")]
    mixed = mixed.dropna(subset=["reward_kept", "tax_recovered"])
    if mixed.empty:
        return text
    best = mixed.iloc[int((mixed["reward_kept"] + mixed["tax_recovered"]).argmax())]
    return (
        f"{text} Averaging at alpha {best['alpha']:g} keeps {100 * best['reward_kept']:.0f} % of "
        f"the gain in {reward} and recovers {100 * best['tax_recovered']:.0f} % of the tax."
    )


def _series(table: pd.DataFrame) -> list[tuple[Look, pd.DataFrame, bool]]:
    """Return (look, rows in drawing order, hollow marker) for every curve, averaging last."""
    curves = []
    for key, rows in table.groupby(["algorithm", "method"], sort=True):
        algorithm, method = str(key[0]), str(key[1])
        if (algorithm, method) != ("sft", "none"):
            order = rows.sort_values(["alpha", "strength", "rounds"], na_position="first")
            known = algorithm == "rsf" and method in ("none", *METHODS)
            curves.append((look_of(algorithm, method), order, not known))
    return sorted(curves, key=lambda each: each[0] is METHODS["average"])


def _draw(
    axes: Axes, rows: pd.DataFrame, table: pd.DataFrame, family: str, reward: str, named: bool
) -> None:
    """Draw one front; `named` writes beside the stars and some averages what they are."""
    table = table.assign(dominated=_dominated(table, family, reward))
    start = theta_0(table, "front")
    for look, own, hollow in _series(table):
        trained = (own["method"] == "none").all()  # a training run starts from theta_0
        way = pd.concat([start, own]) if trained else own
        axes.plot(way[reward], way[family], color=look.colour, linewidth=1.6, zorder=2)
        faint(
            axes, rows.merge(own[["algorithm", "method"]].drop_duplicates()), reward, family, look
        )
        for dominated, some in own.groupby("dominated"):
            seen = FADED if dominated else 1.0
            curve(
                axes, some, reward, family, look, hollow=hollow, label="_", linestyle="none",
                alpha=seen, pale=0.35, elinewidth=1.0,
            )  # fmt: skip
        face = "white" if hollow else look.colour
        axes.plot([], [], color=look.colour, marker=look.marker, markerfacecolor=face,
                  label=look.label)  # fmt: skip
    best = table[~table["dominated"]].sort_values(reward)
    axes.step(
        best[reward], best[family], where="pre", color=GREY, linewidth=1.2, linestyle=":",
        label="Pareto front of the means", zorder=1,
    )  # fmt: skip
    _ends(axes, table, family, reward, named)


def _ends(axes: Axes, table: pd.DataFrame, family: str, reward: str, named: bool) -> None:
    """Draw theta_0 and the last RSF round as stars, and print alpha beside them."""
    axes.margins(x=0.12, y=0.1)
    start, end = (choose(table, "front").iloc[0] for choose in (theta_0, last_rsf))
    for row, other, name, alpha in (
        (start, end, "before RLHF (θ₀)", 0),
        (end, start, "after RLHF (RSF)", 1),
    ):
        x, y = row[reward], row[family]
        star(axes, x, y, hollow=alpha == 0, size=19, label="_" if named else name)
        # the text of the left star starts left of it and goes right, that of the right one ends
        left, up = x < other[reward], y >= other[family]
        note(
            axes, f"{name}\nα = {alpha}" if named else f"α = {alpha}", x, y,
            (-0.4 if left else 0.4, 1.0 if up else -1.1), far=20, fontsize=12,
            ha="left" if left else "right",
        )  # fmt: skip
    if not named:
        return
    mixed = table[(table["algorithm"] == "rsf") & (table["method"] == "average")]
    inner = mixed[mixed["alpha"].between(0, 1, "neither")].sort_values("alpha")
    for row in inner.iloc[:5:2].to_dict("records"):
        note(
            axes, f"α = {row['alpha']:g}", row[reward], row[family], (0, -1), far=11,
            color=METHODS["average"].colour, zorder=2.6,
        )  # fmt: skip


@in_style()
def front(
    points: pd.DataFrame,
    family: str = "skill",
    reward: str = "reward",
    recorded: bool = False,
    methods: Sequence[str] | None = None,
    at: float | None = None,
) -> Figure:
    """Draw skills against reward, one curve a method (paper Fig. 3, one panel).

    Stars are theta_0 and the last RSF round, large markers are means over seeds with 95 % t
    intervals, small faint ones single seeds; what another mean dominates is faded. The table has a
    row per model setting, with the shares `reward_kept` of RSF's gain and `tax_recovered` of its
    loss (NaN without a gain or a tax).

    Args:
        points: the columns of points.csv, one study.
        family: the score on the y axis: skill, a family, or a slot.
        reward: the column on the x axis, "reward" or "gold".
        recorded: True for a run from data/results, False for the reader's own.
        methods: which methods are shown beside the models as trained; all by default.
        at: an alpha whose average of theta_0 and RSF is ringed.

    Raises:
        TableError: missing columns, nothing to draw, no theta_0, no RSF, several studies, or the
            points have none of a method, or no average at `at`.
    """
    rows = _rows(points, [family], reward, methods, "front")
    what = "mean skill" if family == "skill" else FAMILY_NAMES.get(family, family)
    title = f"{what.capitalize()} against {'gold ' if reward == 'gold' else ''}reward"
    names = (REWARD_NAMES[reward], AXIS_NAMES.get(family, family))
    return _front(rows, family, reward, title, names, run_caption(rows, recorded), WIDE, at)


@in_style()
def signature(points: pd.DataFrame, recorded: bool = True) -> Figure:
    """Draw the README's first figure: RSF and averaging, in the words of a newcomer."""
    rows = _rows(main_line(points), ["skill"], "reward", None, "signature")
    title = "The alignment tax: reward gained, skills kept"
    names = ("reward model's score gained over θ₀", "mean skill, in %")
    return _front(rows, "skill", "reward", title, names, run_caption(rows, recorded), (9.5, 5.4))


def _front(
    rows: pd.DataFrame,
    family: str,
    reward: str,
    title: str,
    names: tuple[str, str],
    caption: str,
    size: tuple[float, float],
    at: float | None = None,
) -> Figure:
    """Draw one front of rows that were checked."""
    table = _with_shares(summarise(rows, SETTING, [reward, family]), family, reward)
    figure, grid = panels(size=size)
    axes = grid[0, 0]
    _draw(axes, rows, table, family, reward, named=True)
    head = _bargain(table, family, reward)
    if at is not None:
        mixed = table[(table["algorithm"] == "rsf") & (table["method"] == "average")]
        if (here := mixed[np.isclose(mixed["alpha"], at)]).empty:
            there = ", ".join(f"{alpha:g}" for alpha in sorted(mixed["alpha"])) or "none"
            raise TableError(f"front: no average at alpha {at:g}; the points have {there}.")
        x, y = here.iloc[0][[reward, family]]
        axes.plot(
            x, y, marker="o", markersize=22, color=BLACK, linestyle="none", zorder=7,
            markerfacecolor="none", markeredgewidth=2.2, label=f"α = {at:g}",
        )  # fmt: skip
        head = f"Ringed: alpha {at:g}, {reward} {number(x, 2)}, {number(y)}. {head}"
    axes.set_xlabel(f"{names[0]}  →")
    axes.set_ylabel(f"{names[1]}  →")
    caption += SEEDS if rows["seed"].nunique() > 1 else ""
    return make_room(finish(figure, title, caption, table, head=head, legend_columns=3))


@in_style()
def fronts(
    points: pd.DataFrame,
    reward: str = "reward",
    recorded: bool = False,
    methods: Sequence[str] | None = None,
    title: str = "Each family against reward",
) -> Figure:
    """Draw the three families and their mean against reward, four panels (paper Fig. 3).

    Arguments and errors as those of `front`, and the title.
    """
    rows = _rows(points, list(FAMILY_NAMES), reward, methods, "fronts")
    table = summarise(rows, SETTING, [reward, *FAMILY_NAMES])
    # a legend of many methods takes its room from no panel
    more = 0.09 * max(0, rows["method"].nunique() - 6)
    figure, grid = panels(2, 2, (PANELS[0], PANELS[1] + more), sharex=True)
    for axes, family in zip(grid.flat, FAMILY_NAMES, strict=True):
        _draw(axes, rows, table, family, reward, named=False)
        axes.set_title(AXIS_NAMES[family])
    for axes in grid[1]:
        axes.set_xlabel(f"{REWARD_NAMES[reward]}  →")
    caption = run_caption(rows, recorded) + (SEEDS if rows["seed"].nunique() > 1 else "")
    return make_room(finish(figure, title, caption, table, legend_columns=3))


def _remedy_rows(points: pd.DataFrame, scores: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return, by kind of remedy, the rows of its panel: every curve of the same seeds."""
    figure = "remedy_fronts"
    rows = change(prepare(points, ["reward", *scores], figure), ["reward"], figure)
    rows = pd.concat(
        [theta_0(rows, figure).assign(method="theta_0"), rows[rows["algorithm"] == "rsf"]]
    )
    found = {}
    for kind, remedies in REMEDY_KINDS.items():
        there = [name for name in remedies if name in set(rows["method"])]
        own = rows[rows["method"].isin(["theta_0", DISTIL, DISTILLED_AVERAGE, *there])]
        seeds = set.intersection(*(set(each["seed"]) for _, each in own.groupby("method")))
        if there and seeds:
            found[kind] = own[own["seed"].isin(seeds)]
    if not found:
        raise TableError(
            f"{figure}: the points have no remedy. Record them with: alignment-tax record tiny "
            "--methods remedies"
        )
    return found


@in_style()
def remedy_fronts(
    points: pd.DataFrame, scores: Sequence[str] = ("skill",), recorded: bool = False
) -> Figure:
    """Draw every remedy beside the averages of the distilled run, a panel for each kind.

    Each curve goes from theta_0 over the strengths of a remedy to the plain distilled run, where
    that is its end. All curves of a kind are of the same seeds, which its title names where they
    are fewer than elsewhere. With several scores each kind has a row of panels.

    Args:
        points: the columns of points.csv, one study.
        scores: what is on the y axis: mean skill, families, slots.
        recorded: True for a run from data/results.

    Raises:
        TableError: missing columns, or the points have no remedy.
    """
    groups = _remedy_rows(points, scores)
    settings = ["method", "strength", "alpha"]
    table = pd.concat(
        [summarise(rows, settings, ["reward", *scores]).assign(kind=kind)
         for kind, rows in groups.items()], ignore_index=True
    )  # fmt: skip
    every = pd.concat(list(groups.values()))
    most, caption = every["seed"].nunique(), run_caption(every, recorded)
    if any(rows["seed"].nunique() < most for rows in groups.values()):
        seeds = seeds_text(every["seed"])
        caption = caption.replace(seeds, f"{seeds}; fewer where a panel says so", 1)
    several = len(scores) > 1
    columns = len(scores) if several else min(3, len(groups))
    lines = len(groups) if several else -(-len(groups) // columns)
    figure, grid = panels(
        lines, columns, (PANELS[0], 2.0 + (2.7 if several else 3.1) * lines),
        used=len(groups) * len(scores), sharex=True, sharey="col" if several else "all",
    )  # fmt: skip
    shown = [(kind, rows, score) for kind, rows in groups.items() for score in scores]
    for place, (axes, (kind, rows, score)) in enumerate(zip(grid.flat, shown, strict=False)):
        _remedy_panel(axes, table[table["kind"] == kind], score)
        fewer = rows["seed"].nunique() < most
        axes.set_title(f"{kind}, {seeds_text(rows['seed'])}" if fewer else kind, fontsize=13)
        if several or place % columns == 0:
            name = AXIS_NAMES.get(score, score).replace(": mean of three families", "")
            axes.set_ylabel(f"mean {name}" if score == "skill" else name)
    for axes in grid[-1]:
        axes.set_xlabel(REWARD_NAMES["reward"])
    return finish(figure, "Every remedy beside averaging", caption, table, legend_columns=4)


def _remedy_panel(axes: Axes, table: pd.DataFrame, score: str) -> None:
    """Draw one kind of remedy against one score."""
    start, end = (table[table["method"] == name] for name in ("theta_0", DISTIL))
    shape: dict[str, Any] = {"markersize": 7, "elinewidth": 0.8, "linestyle": "none"}
    for method in (DISTILLED_AVERAGE, *(name for name in REMEDIES if name in set(table["method"]))):
        look, remedy = METHODS[method], REMEDIES.get(method)
        weak_is_high = remedy is not None and remedy.weak_is_high
        own = table[table["method"] == method].sort_values(["strength", "alpha"])
        way = own = own.iloc[::-1] if remedy is not None and not weak_is_high else own
        if remedy is not None:
            way = pd.concat([start, own, end] if remedy.fades else [start, own])
        axes.plot(way["reward"], way[score], color=look.colour, linewidth=1.4, zorder=2)
        # nobody has more than 100 % of a skill
        capped = own.assign(**{f"{score}_high": own[f"{score}_high"].clip(upper=100)})
        curve(axes, capped, "reward", score, look, **shape)
    first, last = start.iloc[0], end.iloc[0]
    star(axes, first["reward"], first[score], size=13, label="before RLHF (θ₀)")
    axes.plot(
        last["reward"], last[score], marker="P", markersize=9, color=BLACK, linestyle="none",
        label=METHODS[DISTIL].label, zorder=4,
    )  # fmt: skip
