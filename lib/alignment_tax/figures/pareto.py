"""The picture of the course: reward on one axis, skills on the other, one curve a method.

As Fig. 3 of the paper: averaging is a curve over alpha, every other method a curve over its
strength or its rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from alignment_tax.figures.look import (
    ALGORITHMS,
    BLACK,
    GREY,
    METHODS,
    PANELS,
    PAPER,
    WIDE,
    FigureError,
    Look,
    bar_lengths,
    canvas,
    finish,
    style,
)
from alignment_tax.figures.tables import run_caption
from alignment_tax.labels import AXIS_NAMES, FAMILY_NAMES, SCORES, number, seeds_text
from alignment_tax.registry import REMEDIES
from alignment_tax.results.points import last_rsf, main_line, prepare, theta_0, with_rsf
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE, PART, PATTERN, block_count
from alignment_tax.stats.compare import summarise
from alignment_tax.stats.pareto import pareto_front

FADED = 0.45
SEEDS = " · small faint marks: single seeds"
REWARD_NAMES = {"reward": "reward gained over θ₀", "gold": AXIS_NAMES["gold"]}
# Neither is a competitor: the base model cannot chat yet, the control is no remedy.
LEFT_OUT = ("base", "rsf_random")
# What may end a remedy's word, and how it is said; such curves have hollow markers.
VARIANTS = {"+average": "then averaging", "_in_rounds": "inside the rounds"}
# A panel each; what stands together takes hold of the same thing.
REMEDY_KINDS = {
    "penalties on weights": ("l1", "l2"),
    "penalties on outputs": ("kd", "kd_squared", "kl"),
    "low rank": ("lora", "lora_mlp"),
    "replay": ("replay", "replay_other"),
    "moving averages": ("sma", "ema", "bema"),
    "grafts": ("graft", "graft_random", "graft_learnt"),
}
# between a label and the frame of its panel, in pixels
CLEAR = 4.0
# Of a method with a ratio per block only these numbers of blocks are a curve here; what part-wise
# averaging and the other searches do is in `figures.parts`.
BLOCKS = {"hma": 3}


def look_of(algorithm: str, method: str) -> Look:
    """Return how a row of the points is drawn.

    Raises:
        FigureError: an algorithm or method that has no look yet.
    """
    if algorithm not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise FigureError(f"No look for algorithm {algorithm!r} (known: {known}): add one.")
    if method == "none":
        if algorithm == "rsf":
            return METHODS["early_stopping"]
        return ALGORITHMS[algorithm]
    for end, words in VARIANTS.items():
        if method.endswith(end) and method not in METHODS:
            look = look_of(algorithm, method.removesuffix(end))
            return Look(f"{look.label}, {words}", look.colour, look.marker)
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise FigureError(f"No look for method {method!r} (known: {known}): add one to METHODS.")
    look = METHODS[method]
    if algorithm == "rsf":
        return look
    return Look(f"{ALGORITHMS[algorithm].label}: {look.label}", look.colour, look.marker)


def _rows(
    points: pd.DataFrame,
    families: list[str],
    reward: str,
    figure: str,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the rows a front shows; a method's validated early stop is a round of RSF.

    With `methods` only these are shown, beside the models as trained.

    The reward is the gain over theta_0 of the same seed: each seed has a reward model of its own,
    whose zero means nothing. Gold is the same yardstick for all.
    """
    if reward not in ("reward", "gold"):
        raise FigureError(f"{figure}: the reward axis is 'reward' or 'gold', not {reward!r}.")
    for family in families:
        if family not in SCORES:
            raise FigureError(f"{figure}: {family!r} is no skill; choose from {', '.join(SCORES)}.")
    rows = with_rsf(prepare(points, [reward, *families], figure))
    rows = rows[~rows["algorithm"].isin(LEFT_OUT)]
    stopped = (rows["method"] == "early_stopping") & (rows["algorithm"] == "rsf")
    rows = _named_by_blocks(rows.assign(method=rows["method"].mask(stopped, "none")))
    if methods is None:
        rows = rows[(rows["part"] == "") | rows["method"].isin(BLOCKS)]
    else:
        if unknown := set(methods) - {"none", *rows["method"]}:
            raise FigureError(
                f"{figure}: the points have no method {min(unknown)!r}; they have "
                f"{', '.join(sorted(set(rows['method'])))}."
            )
        rows = rows[rows["method"].isin(["none", *methods])]
    columns = ["seed", "algorithm", "method", "strength", "alpha", "part", "rounds"]
    rows = rows.drop_duplicates(columns)
    if reward == "gold":
        return rows
    start = theta_0(rows, figure).set_index("seed")["reward"]
    return rows.assign(reward=rows["reward"] - rows["seed"].map(start))


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


def front_table(
    points: pd.DataFrame,
    family: str = "skill",
    reward: str = "reward",
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return what `front` draws, one row per model setting, means and 95 % t intervals over seeds.

    Args:
        points: the columns of points.csv, one study, any number of seeds.
        family: the score on the y axis: skill, a family, or a slot (percent).
        reward: the column on the x axis, "reward" (of the reward model, gained over theta_0 of
            the same seed) or "gold".
        methods: which methods are shown beside the models as trained; all by default.

    Returns:
        Columns algorithm, method, strength, alpha, part, rounds, seeds; `reward` and `family`
        each with _low and _high (NaN for one seed); `dominated` (another mean is at least as good
        on both axes); `reward_kept` (share of RSF's gain in reward that is kept) and
        `tax_recovered` (share of the lost skill that is back), both of means; NaN without a gain
        or a tax.

    Raises:
        FigureError: missing columns, nothing to draw, no theta_0, no RSF, several studies, or the
            points have none of a method.
    """
    return _table(_rows(points, [family], reward, "front", methods), family, reward)


def _table(rows: pd.DataFrame, family: str, reward: str) -> pd.DataFrame:
    """Return the table of a front from rows that were checked."""
    start = theta_0(rows, "front")[[reward, family]].mean()
    end = last_rsf(rows, "front")[[reward, family]].mean()
    by = ["algorithm", "method", "strength", "alpha", "part", "rounds"]
    table = summarise(rows, by, [reward, family])
    best = pareto_front(table[[reward, family]].to_numpy())
    table["dominated"] = ~np.isin(np.arange(len(table)), best)
    gain = end[reward] - start[reward]
    tax = start[family] - end[family]
    nothing = pd.Series(np.nan, index=table.index)
    table["reward_kept"] = (table[reward] - start[reward]) / gain if gain > 0 else nothing
    table["tax_recovered"] = (table[family] - end[family]) / tax if tax > 0 else nothing
    return table


def _alt(table: pd.DataFrame, family: str, reward: str, caption: str) -> str:
    """Return the description of one front, made from its table."""
    name = FAMILY_NAMES.get(family, family)
    word = "gold reward" if reward == "gold" else "reward"
    start = theta_0(table, "front").iloc[0]
    end = last_rsf(table, "front").iloc[0]
    text = (
        f"{name} against {word} ({caption}). Before RLHF: {word} {number(start[reward], 2)}, "
        f"{name} {number(start[family])}. After {int(end['rounds'])} rounds of RSF: {word} "
        f"{number(end[reward], 2)}, {name} {number(end[family])}, "
        f"a change of {number(end[family] - start[family], sign=True)} points."
    )
    inside = table[
        (table["method"] == "average") & table["alpha"].between(0, 1, inclusive="neither")
    ]
    inside = inside.dropna(subset=["reward_kept", "tax_recovered"])
    if not inside.empty:
        best = inside.iloc[int((inside["reward_kept"] + inside["tax_recovered"]).argmax())]
        text += (
            f" Averaging at alpha {best['alpha']:g} keeps {100 * best['reward_kept']:.0f} % of the "
            f"gain in {word} and recovers {100 * best['tax_recovered']:.0f} % of the tax "
            "(the alpha where the two add up to most)."
        )
    kept = int((~table["dominated"]).sum())
    return f"{text} {kept} of {len(table)} models are not dominated."


def _series(table: pd.DataFrame) -> list[tuple[Look, pd.DataFrame, bool]]:
    """Return (look, rows in drawing order, filled marker) for every curve, averaging last."""
    curves = []
    start = theta_0(table, "front")
    for key, rows in table.groupby(["algorithm", "method"], sort=True):
        algorithm, method = str(key[0]), str(key[1])
        if algorithm == "sft" and method == "none":
            continue
        look = look_of(algorithm, method)
        order = rows.sort_values(["alpha", "strength", "rounds"], na_position="first")
        if method == "none":
            # A training run starts from theta_0: so does its curve.
            order = pd.concat([start, order])
        curves.append((look, order, algorithm == "rsf" and method in ("none", *METHODS)))
    return sorted(curves, key=lambda curve: curve[0] is METHODS["average"])


def _draw(
    axes: Axes, rows: pd.DataFrame, table: pd.DataFrame, family: str, reward: str, labels: bool
) -> None:
    """Draw one front into `axes`; `labels` names the two stars, else only alpha is printed."""
    for look, order, filled in _series(table):
        axes.plot(order[reward], order[family], color=look.colour, linewidth=1.6, zorder=2)
        seeds = rows.merge(order[["algorithm", "method"]].drop_duplicates())
        seeds = seeds[(seeds["algorithm"] != "sft") | (seeds["method"] != "none")]
        if rows["seed"].nunique() > 1:
            axes.scatter(
                seeds[reward], seeds[family], s=12, color=look.colour, marker=look.marker,
                alpha=0.22, linewidths=0, zorder=1.5,
            )  # fmt: skip
        for point in order[order["algorithm"] != "sft"].to_dict("records"):
            strength = FADED if point["dominated"] else 1.0
            axes.errorbar(
                point[reward],
                point[family],
                xerr=_bar(point, reward),
                yerr=_bar(point, family),
                color=look.colour,
                elinewidth=1.0,
                alpha=0.35 * strength,
                fmt="none",
                zorder=2.5,
            )
            axes.plot(
                point[reward], point[family], marker=look.marker, color=look.colour,
                markerfacecolor=look.colour if filled else "white",
                markeredgecolor="white" if filled else look.colour,
                markeredgewidth=0.8 if filled else 1.8, alpha=strength, linestyle="none", zorder=3,
            )  # fmt: skip
        axes.plot(
            [], [], color=look.colour, marker=look.marker, label=look.label,
            markerfacecolor=look.colour if filled else "white",
        )  # fmt: skip
    best = table[~table["dominated"]].sort_values(reward)
    axes.step(
        best[reward], best[family], where="pre", color=GREY, linewidth=1.2, linestyle=":",
        label="Pareto front of the means", zorder=1,
    )  # fmt: skip
    _stars(axes, table, family, reward, labels)


def _bar(point: Mapping[Any, Any], name: str) -> np.ndarray | None:
    """Return the error bar of one point along one axis, or None where one seed gives none."""
    return bar_lengths([point[name]], [point[f"{name}_low"]], [point[f"{name}_high"]])


def _stars(axes: Axes, table: pd.DataFrame, family: str, reward: str, labels: bool) -> None:
    """Draw theta_0 and the last RSF round as stars, alpha printed at each end of the curve."""
    start = theta_0(table, "front").iloc[0]
    end = last_rsf(table, "front").iloc[0]
    axes.margins(x=0.12, y=0.1)
    for point, other, face, name, alpha in (
        (start, end, "white", "before RLHF (θ₀)", 0),
        (end, start, BLACK, "after RLHF (RSF)", 1),
    ):
        axes.plot(
            point[reward], point[family], marker="*", markersize=19, color=BLACK,
            markerfacecolor=face, markeredgecolor=BLACK if face == "white" else "white",
            markeredgewidth=1.3, linestyle="none", zorder=5, label=name,
        )  # fmt: skip
        above = point[family] >= other[family]
        left = point[reward] < other[reward]
        axes.annotate(
            f"{name}\nα = {alpha}" if labels else f"α = {alpha}",
            (point[reward], point[family]),
            xytext=(-8 if left else 8, 20 if above else -22),
            textcoords="offset points",
            ha="left" if left else "right",
            va="bottom" if above else "top",
            fontsize=12,
            linespacing=1.15,
            zorder=6,
            bbox=PAPER,
        )
    if labels:
        _some_alphas(axes, table, family, reward)


def _some_alphas(axes: Axes, table: pd.DataFrame, family: str, reward: str) -> None:
    """Print alpha below every other mixture of the first five, where the curve is steep."""
    mixed = table[(table["algorithm"] == "rsf") & (table["method"] == "average")]
    inner = mixed[mixed["alpha"].between(0, 1, inclusive="neither")].sort_values("alpha")
    for point in inner.iloc[:5:2].to_dict("records"):
        axes.annotate(
            f"α = {point['alpha']:g}", (point[reward], point[family]), xytext=(0, -11),
            textcoords="offset points", ha="center", va="top", fontsize=11,
            color=METHODS["average"].colour, zorder=2.6, bbox=PAPER,  # above lines, below markers
        )  # fmt: skip


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
    intervals, small faint ones single seeds; what another mean dominates is faded.

    Args:
        points: the columns of points.csv, one study.
        family: the score on the y axis: skill, a family, or a slot.
        reward: the column on the x axis, "reward" or "gold".
        recorded: True for a run from data/results, False for the reader's own.
        methods: which methods are shown beside the models as trained; all by default.
        at: an alpha whose average of theta_0 and RSF is ringed.

    Raises:
        FigureError: as `front_table`, or the points have none of a method, or no average at `at`.
    """
    rows = _rows(points, [family], reward, "front", methods)
    table = _table(rows, family, reward)
    caption = run_caption(rows, recorded)
    alt = _alt(table, family, reward, caption)
    with style():
        figure = canvas(WIDE)
        axes = figure.add_subplot()
        _draw(axes, rows, table, family, reward, labels=True)
        if at is not None:
            alt = f"{_ring(axes, table, family, reward, at)} {alt}"
        axes.set_xlabel(f"{REWARD_NAMES[reward]}  →")
        axes.set_ylabel(f"{AXIS_NAMES.get(family, family)}  →")
        _drop_labels(axes, ("before RLHF (θ₀)", "after RLHF (RSF)"))
        what = "mean skill" if family == "skill" else FAMILY_NAMES.get(family, family)
        title = f"{what.capitalize()} against {'gold ' if reward == 'gold' else ''}reward"
        caption += SEEDS if rows["seed"].nunique() > 1 else ""
        return _settle(finish(figure, title, caption, alt, 3))


def _ring(axes: Axes, table: pd.DataFrame, family: str, reward: str, at: float) -> str:
    """Ring the average of theta_0 and RSF at an alpha, and return where it is, in words."""
    mixed = table[(table["algorithm"] == "rsf") & (table["method"] == "average")]
    here = mixed[np.isclose(mixed["alpha"], at)]
    if here.empty:
        there = ", ".join(f"{alpha:g}" for alpha in sorted(mixed["alpha"]))
        raise FigureError(f"front: no average at alpha {at:g}; the points have {there or 'none'}.")
    point = here.iloc[0]
    axes.plot(
        point[reward], point[family], marker="o", markersize=22, color=BLACK, linestyle="none",
        markerfacecolor="none", markeredgewidth=2.2, zorder=7, label=f"α = {at:g}",
    )  # fmt: skip
    return (
        f"Ringed: alpha {at:g}, reward {number(point[reward], 2)}, {number(point[family])} "
        f"{FAMILY_NAMES.get(family, family)}."
    )


def _settle(figure: Figure) -> Figure:
    """Widen the y axes of a finished figure until every label lies inside its panel.

    Labels stand at a distance from their points that is in pixels: only once the panels have their
    heights is it known what axis leaves room for them, off titles and tick labels.
    """
    figure.draw_without_rendering()
    for axes in figure.axes:
        height = axes.get_window_extent().height
        reach = []
        for label in axes.texts:
            if isinstance(label, Annotation):
                box, y = label.get_window_extent(), float(label.xy[1])
                here = axes.transData.transform((0.0, y))[1]
                up, down = box.y1 - here + CLEAR, here - box.y0 + CLEAR
                reach.append((y, up / height, down / height))
        low, high = axes.get_ylim()
        # more room at one end moves the labels at the other: a few times over, and both have it
        for _ in range(20):
            high = max(high, *((y - up * low) / (1 - up) for y, up, _ in reach))
            low = min(low, *((y - down * high) / (1 - down) for y, _, down in reach))
        axes.set_ylim(low, high)
    return figure


def _drop_labels(axes: Axes, labels: tuple[str, ...]) -> None:
    """Take entries out of the legend that are written beside their points."""
    for line in axes.get_lines():
        if line.get_label() in labels:
            line.set_label("_")


def fronts_table(
    points: pd.DataFrame, reward: str = "reward", methods: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the tables of the four panels of `fronts`, one below the other.

    Returns:
        As `front_table`, with the columns family, score, score_low, score_high instead of one
        named after the family.
    """
    rows = _rows(points, list(FAMILY_NAMES), reward, "fronts", methods)
    parts = []
    for family in FAMILY_NAMES:
        table = _table(rows, family, reward)
        names = {f"{family}{end}": f"score{end}" for end in ("", "_low", "_high")}
        parts.append(table.rename(columns=names).assign(family=family))
    return pd.concat(parts, ignore_index=True)


def fronts(
    points: pd.DataFrame,
    reward: str = "reward",
    recorded: bool = False,
    methods: Sequence[str] | None = None,
    title: str = "Each family against reward",
) -> Figure:
    """Draw the three families and their mean against reward, four panels (paper Fig. 3).

    Arguments as those of `front`, and the title.

    Raises:
        FigureError: as `front_table`, or the points have none of a method.
    """
    rows = _rows(points, list(FAMILY_NAMES), reward, "fronts", methods)
    caption = run_caption(rows, recorded)
    alts = []
    with style():
        # a legend of many methods takes its room from no panel
        width, height = PANELS
        figure = canvas((width, height + 0.09 * max(0, rows["method"].nunique() - 6)))
        panels = figure.subplots(2, 2, sharex=True)
        for axes, family in zip(panels.flat, FAMILY_NAMES, strict=True):
            table = _table(rows, family, reward)
            _draw(axes, rows, table, family, reward, labels=False)
            axes.set_title(AXIS_NAMES[family])
            alts.append(_alt(table, family, reward, caption))
        for axes in panels[1]:
            axes.set_xlabel(f"{REWARD_NAMES[reward]}  →")
        caption += SEEDS if rows["seed"].nunique() > 1 else ""
        return _settle(finish(figure, title, caption, "\n".join(alts), 3))


def remedy_fronts_table(points: pd.DataFrame, scores: Sequence[str] = ("skill",)) -> pd.DataFrame:
    """Return what `remedy_fronts` draws, a row for every model setting.

    Args:
        points: the columns of points.csv, one study.
        scores: what is on the y axes.

    Returns:
        Columns kind (of `REMEDY_KINDS`), method, strength, alpha, seeds, and reward (gained over
        theta_0 of the same seed) and every score with _low and _high (95 % t interval). In each
        kind the rows "theta_0", the plain distilled run and its averages come along, all of the
        seeds that every curve of that kind has.

    Raises:
        FigureError: missing columns, or the points have no remedy.
    """
    parts = [
        summarise(rows, ["method", "strength", "alpha"], ["reward", *scores]).assign(kind=kind)
        for kind, rows in _remedy_rows(points, scores).items()
    ]
    return pd.concat(parts, ignore_index=True)


def _remedy_rows(points: pd.DataFrame, scores: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return, by kind of remedy, the rows of its panel: every curve of the same seeds."""
    figure = "remedy_fronts"
    rows = prepare(points, ["reward", *scores], figure)
    start = theta_0(rows, figure)
    rsf = rows[rows["algorithm"] == "rsf"]
    rows = pd.concat([start.assign(method="theta_0"), rsf])
    rows["reward"] = rows["reward"] - rows["seed"].map(start.set_index("seed")["reward"])
    found = {}
    for kind, remedies in REMEDY_KINDS.items():
        there = [name for name in remedies if name in set(rows["method"])]
        drawn = ["theta_0", DISTIL, DISTILLED_AVERAGE, *there]
        own = rows[rows["method"].isin(drawn)]
        seeds = set.intersection(*(set(each["seed"]) for _, each in own.groupby("method")))
        if there and seeds:
            found[kind] = own[own["seed"].isin(seeds)]
    if not found:
        raise FigureError(
            f"{figure}: the points have no remedy. Record them with: alignment-tax record tiny "
            "--methods remedies"
        )
    return found


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
        FigureError: as `remedy_fronts_table`.
    """
    groups = _remedy_rows(points, scores)
    table = remedy_fronts_table(points, scores)
    every = pd.concat(list(groups.values()))
    said, caption = [], run_caption(every, recorded)
    most = every["seed"].nunique()
    if any(rows["seed"].nunique() < most for rows in groups.values()):
        seeds = seeds_text(every["seed"])
        caption = caption.replace(seeds, f"{seeds}; fewer where a panel says so", 1)
    columns = len(scores) if len(scores) > 1 else min(3, len(groups))
    lines = len(groups) if len(scores) > 1 else -(-len(groups) // columns)
    with style():
        figure = canvas((PANELS[0], 2.0 + (2.7 if len(scores) > 1 else 3.1) * lines))
        shared: Literal["col", "all"] = "col" if len(scores) > 1 else "all"
        grid = figure.subplots(lines, columns, sharex=True, sharey=shared, squeeze=False)
        places = iter(grid.flat)
        for kind, rows in groups.items():
            own = table[table["kind"] == kind]
            title = (
                kind if rows["seed"].nunique() == most else f"{kind}, {seeds_text(rows['seed'])}"
            )
            for score in scores:
                axes = next(places)
                said.append(_remedy_panel(axes, own, score, title))
                axes.set_title(title, fontsize=13)
                if len(scores) > 1 or any(axes is each for each in grid[:, 0]):
                    short = AXIS_NAMES.get(score, score).replace(": mean of three families", "")
                    axes.set_ylabel(f"mean {short}" if score == "skill" else short)
        for axes in places:
            axes.set_visible(False)
        for axes in grid[-1]:
            axes.set_xlabel(REWARD_NAMES["reward"])
        alt = f"Remedies beside averages of the distilled run ({caption}). {' '.join(said)}"
        return finish(figure, "Every remedy beside averaging", caption, alt, 4)


def _remedy_panel(axes: Axes, table: pd.DataFrame, score: str, title: str) -> str:
    """Draw one kind of remedy against one score and return what it shows in words."""
    start, end = (table[table["method"] == name] for name in ("theta_0", DISTIL))
    said = []
    for method in (DISTILLED_AVERAGE, *(name for name in REMEDIES if name in set(table["method"]))):
        look, own = METHODS[method], table[table["method"] == method]
        curve = own.sort_values("alpha")
        if method != DISTILLED_AVERAGE:
            remedy = REMEDIES[method]
            own = own.sort_values("strength", ascending=remedy.weak_is_high)
            curve = pd.concat([start, own, end] if remedy.fades else [start, own])
        axes.plot(curve["reward"], curve[score], color=look.colour, linewidth=1.4, zorder=2)
        bars = [
            # nobody has more than 100 % of a skill
            bar_lengths(own[name], own[f"{name}_low"], own[f"{name}_high"].clip(upper=top))
            for name, top in (("reward", np.inf), (score, 100))
        ]
        axes.errorbar(
            own["reward"], own[score], xerr=bars[0], yerr=bars[1], fmt=look.marker,
            color=look.colour, markersize=7, markeredgecolor="white", markeredgewidth=0.8,
            elinewidth=0.8, label=look.label, zorder=3,
        )  # fmt: skip
        first, last = own.iloc[0], own.iloc[-1]
        said.append(
            f"{look.label} from reward {number(first['reward'], 2)}, {number(first[score])} to "
            f"{number(last['reward'], 2)}, {number(last[score])}"
        )
    for rows, marker, face, label in (
        (start, "*", "white", "before RLHF (θ₀)"),
        (end, "P", BLACK, METHODS[DISTIL].label),
    ):
        axes.plot(
            rows["reward"], rows[score], marker=marker, markersize=13 if marker == "*" else 9,
            color=BLACK, markerfacecolor=face, linestyle="none", label=label, zorder=4,
        )  # fmt: skip
    name = "mean skill" if score == "skill" else FAMILY_NAMES.get(score, score)
    return f"{title}, {name}: {'; '.join(said)}."


def signature_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return what `signature` draws: `front_table` of the main line, mean skill against reward."""
    return _table(_signature_rows(points), "skill", "reward")


def _signature_rows(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that `signature` shows: the main line, whatever else is recorded."""
    return _rows(main_line(points), ["skill"], "reward", "signature")


def signature(points: pd.DataFrame, recorded: bool = True) -> Figure:
    """Draw the README's first figure: RSF and averaging, in the words of a newcomer.

    Raises:
        FigureError: as `front_table`.
    """
    rows = _signature_rows(points)
    table = _table(rows, "skill", "reward")
    caption = run_caption(rows, recorded)
    with style():
        figure = canvas((9.5, 5.4))
        axes = figure.add_subplot()
        _draw(axes, rows, table, "skill", "reward", labels=True)
        axes.set_xlabel("reward model's score gained over θ₀  →")
        axes.set_ylabel("mean skill, in %  →")
        _drop_labels(axes, ("before RLHF (θ₀)", "after RLHF (RSF)"))
        title = "The alignment tax: reward gained, skills kept"
        return _settle(finish(figure, title, caption, _alt(table, "skill", "reward", caption), 3))
