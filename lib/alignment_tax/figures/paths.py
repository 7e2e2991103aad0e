"""Replay and the path of training: what is replayed, how far averages are, graft, fronts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures.look import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    METHODS,
    ORANGE,
    PANELS,
    PAPER,
    PURPLE,
    SKY,
    VERMILLION,
    WIDE,
    YELLOW,
    FigureError,
    Look,
    bar_lengths,
    canvas,
    finish,
    style,
)
from alignment_tax.figures.penalties import label_lowest, shared_seeds
from alignment_tax.figures.tables import run_caption
from alignment_tax.labels import FAMILY_NAMES, number, seeds_text
from alignment_tax.results.points import SETTING, change, main_line, need, prepare
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats.compare import summarise

#: Families of pretraining text by name: colour, and hatch where the format is evaluated.
TEXTS = {
    "reply": (GREY, "", "replies"),
    "statement": (SKY, "", "statements"),
    "how_to": (BLUE, "", "how-tos"),
    "question": (YELLOW, "//", "questions*"),
    "span": (PURPLE, "//", "passages, span*"),
    "counting": (ORANGE, "//", "passages, counting*"),
    "race_like": (VERMILLION, "//", "passages, 4 choices*"),
    "dialogue": (BLACK, "//", "dialogues*"),
    "translation": (GREEN, "//", "translations*"),
}
#: Averages along a path share a colour, and so do masks: strokes and hatches tell them apart.
PATH_LOOKS = {
    "trained": (replace(METHODS[DISTIL], label="the plain run"), "-"),
    "SMA": (METHODS["sma"], "-"),
    "EMA": (METHODS["ema"], "--"),
    "BEMA": (METHODS["bema"], ":"),
}
MASK_LOOKS = {
    "average": replace(METHODS[DISTILLED_AVERAGE], label="averaging, α = share of the norm"),
    "largest": replace(METHODS["graft"], label="graft: the largest changes"),
    "random": replace(METHODS["graft_random"], label="graft: at random"),
    "learnt": replace(METHODS["graft_learnt"], label="graft: learnt"),
}
MASK_FILLS = {
    "largest": (BLACK, ""), "random": ("white", "///"), "learnt": ("#BBBBBB", "..."),
}  # fmt: skip
#: Short names at the points of one seed.
POINT_NAMES = {
    "none": "RSF",
    "distil": "plain run",
    "replay": "replay",
    "replay_other": "no formats",
    "sma": "SMA",
    "ema": "EMA",
    "bema": "BEMA",
    "graft": "graft",
}
#: Where a name may stand, from its marker's middle, in points: the first free place is taken.
PLACES = tuple(
    (x, y)
    for far in (10, 20, 30, 42, 56)
    for x, y in ((far, -4), (-far, -4), (9, far), (-9, far), (9, -far - 8), (-9, -far - 8))
)
KINDS = {"all": "all", "embedding": "embeddings", "linear": "linear", "norm": "norms",
         "head": "head"}  # fmt: skip


# --- replay --------------------------------------------------------------------------------------


def replay_mix_table(use: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each family of text in reply and replayed tokens (percent).

    Args:
        use: columns strength, family, tokens (see `paths.replay_use`).

    Raises:
        FigureError: missing columns, or no rows.
    """
    need(use, ["strength", "family", "tokens"], "replay_mix")
    tokens = use.pivot_table(index="strength", columns="family", values="tokens", aggfunc="sum")
    tokens = tokens.fillna(0.0)
    shares = 100 * tokens.div(tokens.sum(axis=1), axis=0)
    return shares[[name for name in TEXTS if name in shares]]


def replay_mix(uses: Mapping[str, pd.DataFrame], caption: str) -> Figure:
    """Draw of which text replies and replayed tokens are, a panel each kind of replay.

    Raises:
        FigureError: as `replay_mix_table`.
    """
    tables = {title: replay_mix_table(use) for title, use in uses.items()}
    said = []
    with style():
        figure = canvas((PANELS[0], 5.0))
        panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
        for axes, (title, table) in zip(panels, tables.items(), strict=True):
            left = np.zeros(len(table))
            for family in table:
                colour, hatch, label = TEXTS[str(family)]
                axes.barh(
                    range(len(table)), table[family], left=left, color=colour, hatch=hatch,
                    edgecolor="white", linewidth=0.6, label=label,
                )  # fmt: skip
                left += table[family].to_numpy()
            axes.set_yticks(range(len(table)), [f"{strength:g}" for strength in table.index])
            axes.set_title(title)
            axes.set_xlabel("share of reply and replayed tokens (%)")
            axes.grid(visible=False, axis="y")
            rows = [
                f"proportion {strength:g}: "
                + ", ".join(f"{TEXTS[str(f)][2]} {number(share)} %" for f, share in row.items())
                for strength, row in table.iterrows()
            ]
            said.append(f"{title}. {'; '.join(rows)}.")
        panels[0].set_ylabel("replayed tokens per reply token")
        alt = f"What a run with replay reads ({caption}); * evaluated format. {' '.join(said)}"
        return finish(figure, "What is replayed?  (* evaluated format)", caption, alt, 5)


# --- the path ------------------------------------------------------------------------------------


def path_lengths_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the distances from theta_0 by step, in percent of that of the run's last step.

    Args:
        rows: columns step, trained and one per average (see `paths.Watch`).

    Raises:
        FigureError: missing columns, no rows, or a run that did not move.
    """
    need(rows, ["step", "trained"], "path_lengths")
    end = float(rows["trained"].iloc[-1])
    if not end > 0:
        raise FigureError("path_lengths: the run did not move from theta_0.")
    return 100 * rows.set_index("step") / end


def path_lengths(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw how far a run and averages along it are from theta_0, step by step.

    Raises:
        FigureError: as `path_lengths_table`.
    """
    table = path_lengths_table(rows)
    with style():
        figure = canvas(WIDE)
        axes = figure.add_subplot()
        for name in table:
            look, stroke = PATH_LOOKS[str(name)]
            axes.plot(
                table.index, table[name], color=look.colour, marker=look.marker, label=look.label,
                linestyle=stroke, markevery=max(1, len(table) // 8), markeredgecolor="white",
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step of the one finetuning")
        axes.set_ylabel("distance from θ₀ (% of the end's)  →")
        axes.set_ylim(bottom=0)
        ends = [f"{PATH_LOOKS[str(n)][0].label} {number(table[n].iloc[-1])} %" for n in table]
        alt = f"Distance from theta_0 at the last step ({caption}): {', '.join(ends)}."
        return finish(figure, "How far from θ₀?", caption, alt, 2)


# --- graft ---------------------------------------------------------------------------------------


def graft_masks(norms: pd.DataFrame, masks: pd.DataFrame, caption: str) -> Figure:
    """Draw what a mask keeps of the norm of the change, and in which kinds of weights.

    Args:
        norms: columns density, largest, random (see `paths.norms_kept`).
        masks: columns mask, kind, density, norm (see `paths.mask_table`).
        caption: which run this is.

    Raises:
        FigureError: missing columns, or no rows.
    """
    need(norms, ["density", "largest", "random"], "graft_masks")
    need(masks, ["mask", "kind", "density", "norm"], "graft_masks")
    measured = masks[masks["kind"] == "all"].set_index("mask")
    said = []
    with style():
        figure = canvas((PANELS[0], 4.8))
        left, right = figure.subplots(1, 2)
        look = MASK_LOOKS["largest"]
        left.plot(
            norms["density"], norms["largest"], color=look.colour, marker=".",
            label="line: the largest changes",
        )  # fmt: skip
        left.plot(
            norms["density"], norms["random"], color=GREY, linestyle="--",
            label="dashed: √density, due to random ones",
        )  # fmt: skip
        for row in norms.to_dict("records"):
            said.append(
                f"Density {row['density']:g}: the largest changes keep {100 * row['largest']:.0f} "
                f"% of the norm, random ones are due {100 * row['random']:.0f} %"
            )
        for name, whole in measured.iterrows():
            look = MASK_LOOKS[str(name)]
            face = "white" if name == "random" else MASK_FILLS[str(name)][0]
            left.plot(
                whole["density"], whole["norm"], marker=look.marker, color=look.colour,
                markersize=10, markerfacecolor=face, linestyle="none", zorder=4,
                label=f"{look.label} (left)",
            )  # fmt: skip
            said.append(
                f"{look.label}, measured at density {whole['density']:g}: "
                f"{100 * whole['norm']:.0f} % of the norm"
            )
        left.set_xscale("log")
        left.set_xticks(norms["density"], [f"{d:g}" for d in norms["density"]], minor=False)
        left.minorticks_off()
        left.set_ylim(0, 1.03)
        left.set_xlabel("density of the mask")
        left.set_ylabel("share of the norm that is kept")
        kinds = [kind for kind in KINDS if kind in set(masks["kind"])]
        names = list(dict.fromkeys(masks["mask"]))
        for i, name in enumerate(names):
            look = MASK_LOOKS[name]
            own = masks[masks["mask"] == name].set_index("kind")["density"]
            place = np.arange(len(kinds)) + (i - (len(names) - 1) / 2) * 0.8 / len(names)
            colour, hatch = MASK_FILLS[name]
            right.bar(
                place, 100 * own[kinds], width=0.8 / len(names), color=colour, hatch=hatch,
                edgecolor=BLACK, linewidth=0.8, label=look.label,
            )  # fmt: skip
            each = [f"{KINDS[kind]} {number(100 * own[kind])} %" for kind in kinds]
            said.append(f"{look.label} keeps of {', '.join(each)}")
        right.set_xticks(range(len(kinds)), [KINDS[kind] for kind in kinds])
        densities = " and ".join(f"{d:.2g}" for d in sorted(set(measured["density"].round(4))))
        left.set_title("by density")
        right.set_title(f"by kind of weight, at density {densities}")
        right.set_ylabel("changes that are kept (%)")
        right.grid(visible=False, axis="x")
        alt = f"Masks of graft ({caption}). {'; '.join(said)}."
        return finish(figure, "What does a mask keep?", caption, alt, 3)


def same_norm(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw reward and skill of grafts and averages against their norm, and against each other.

    Args:
        rows: columns mask ("average" or a mask's name), norm (share of the whole change's), reward
            (gained over theta_0), skill (change since theta_0, points); one row per model.
        caption: which run this is.

    Raises:
        FigureError: missing columns, or no rows.
    """
    need(rows, ["mask", "norm", "reward", "skill"], "same_norm")
    said = []
    norm = "norm of the change (1: the plain run's)"
    reward, skill = "reward gained over θ₀  →", "mean skill minus θ₀'s (points)  →"
    planes = (("norm", "reward"), ("norm", "skill"), ("reward", "skill"))
    with style():
        figure = canvas((1.25 * PANELS[0], 4.8))
        panels = figure.subplots(1, 3)
        for name in dict.fromkeys(rows["mask"]):
            look = MASK_LOOKS[name]
            own = rows[rows["mask"] == name].sort_values("norm")
            for axes, (x, y) in zip(panels, planes, strict=True):
                axes.plot(
                    own[x], own[y], color=look.colour, marker=look.marker,
                    linestyle="-" if name == "average" else "none",
                    markersize=8 if name == "average" else 11, markeredgecolor="white",
                    label=look.label, zorder=2 if name == "average" else 3,
                )  # fmt: skip
            said += [
                f"{look.label}, norm {row['norm']:.2f}: reward {number(row['reward'], 2, True)}, "
                f"skill {number(row['skill'], 1, True)}"
                for row in own.to_dict("records")
            ]
        labels = {"norm": norm, "reward": reward, "skill": skill}
        for axes, (x, y), title in zip(
            panels, planes, ("at equal norm", "at equal norm", "at equal reward"), strict=True
        ):
            axes.set_xlabel(labels[x])
            axes.set_ylabel(labels[y])
            axes.set_title(title)
        alt = f"Grafts and averages by the norm of their change ({caption}). {'; '.join(said)}."
        return finish(figure, "Graft or average?", caption, alt, 4)


# --- the formats ---------------------------------------------------------------------------------


def family_changes_table(live: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return the change since theta_0 (points) of RSF's families in some models of one seed.

    Args:
        live: rows of points, one seed, theta_0 among them, one row a method.
        methods: words of the column method.

    Returns:
        One row per method, one column per family and skill.

    Raises:
        FigureError: missing columns, no theta_0, or a method without exactly one row.
    """
    families = list(FAMILY_NAMES)
    rows = change(prepare(live, families, "family_changes"), families, "family_changes")
    rows = rows[rows["algorithm"] == "rsf"]
    for name in methods:
        if (count := int((rows["method"] == name).sum())) != 1:
            raise FigureError(f"family_changes needs one row of {name!r}; there are {count}.")
    return rows.set_index("method").loc[list(methods), families]


def family_changes(live: pd.DataFrame, methods: Sequence[str], caption: str) -> Figure:
    """Draw the change since theta_0 in each family as bars, one colour a method; one seed.

    Raises:
        FigureError: as `family_changes_table`.
    """
    table = family_changes_table(live, methods)
    said = []
    with style():
        figure = canvas(WIDE)
        axes = figure.add_subplot()
        wide = 0.8 / len(table)
        for i, (method, row) in enumerate(table.iterrows()):
            look = METHODS[str(method)]
            place = np.arange(len(row)) + (i - (len(table) - 1) / 2) * wide
            axes.bar(
                place, row, width=wide, color=look.colour, label=look.label, edgecolor="white",
                hatch="//" if method == "replay_other" else "",
            )  # fmt: skip
            for x, value in zip(place, row, strict=True):
                axes.annotate(
                    number(value, sign=True), (x, value), xytext=(0, 3 if value >= 0 else -3),
                    textcoords="offset points", ha="center", fontsize=10,
                    va="bottom" if value >= 0 else "top",
                )  # fmt: skip
            each = [f"{FAMILY_NAMES[str(f)]} {number(v, sign=True)}" for f, v in row.items()]
            said.append(f"{look.label}: {', '.join(each)}")
        axes.axhline(0, color="#333333", linewidth=1.2)
        axes.set_xticks(range(len(FAMILY_NAMES)), ["mean" if f == "skill" else FAMILY_NAMES[f]
                                                   for f in FAMILY_NAMES])  # fmt: skip
        axes.set_ylabel("change since θ₀ (points)")
        axes.margins(y=0.12)
        axes.grid(visible=False, axis="x")
        alt = f"Change since theta_0, points, one seed ({caption}). {'. '.join(said)}."
        return finish(figure, "Which family does replay save?", caption, alt, 3)


# --- fronts --------------------------------------------------------------------------------------


def _changed(points: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Return rows whose reward and families are changes since theta_0 of the same seed."""
    values = ["reward", *FAMILY_NAMES]
    return change(prepare(points, values, figure), values, figure)


def live_fronts_table(points: pd.DataFrame, live: pd.DataFrame) -> pd.DataFrame:
    """Return the recorded front and live points, all as changes since theta_0 of the same seed.

    Args:
        points: the recorded run.
        live: points of this run, one seed, theta_0 among them.

    Returns:
        Rows of the recorded rounds of RSF and averages (means over seeds) and of every live model:
        live (bool), the setting, seeds, reward and the families, each with _low and _high.

    Raises:
        FigureError: missing columns, nothing to draw, or no theta_0 of a seed.
    """
    values = ["reward", *FAMILY_NAMES]
    recorded = _changed(main_line(points), "live_fronts")
    recorded = recorded[recorded["algorithm"] == "rsf"]
    own = _changed(live, "live_fronts")
    own = own[own["algorithm"] == "rsf"]
    tables = [summarise(rows, SETTING, values) for rows in (recorded, own)]
    return pd.concat(
        [table.assign(live=flag) for table, flag in zip(tables, (False, True), strict=True)],
        ignore_index=True,
    )


def live_fronts(points: pd.DataFrame, live: pd.DataFrame, caption: str) -> Figure:
    """Draw this run's models over the recorded front, a panel a family (as paper Fig. 3).

    Dashed curves are RSF round by round and its averages, recorded, means over seeds. Markers are
    this run, one seed; its averages of the distilled run, if there are any, are a solid line.

    Raises:
        FigureError: as `live_fronts_table`.
    """
    table = live_fronts_table(points, live)
    recorded, own = table[~table["live"]], table[table["live"]]
    averages = _curve(own, DISTILLED_AVERAGE, own[own["method"] == DISTIL])
    models = own[own["method"] != DISTILLED_AVERAGE].to_dict("records")
    with style():
        figure = canvas((PANELS[0], 8.6))
        panels = figure.subplots(2, 2, sharex=True)
        for axes, family in zip(panels.flat, FAMILY_NAMES, strict=True):
            for method, word in (("none", "early_stopping"), ("average", "average")):
                look, line = METHODS[word], _curve(recorded, method)
                name = "averaging RSF" if method == "average" else look.label
                axes.plot(
                    line["reward"], line[family], color=look.colour, linewidth=1.5, zorder=1.8,
                    linestyle="--", label=f"{name} (recorded)",
                )  # fmt: skip
            look = METHODS[DISTILLED_AVERAGE]
            if len(averages):
                axes.plot(
                    averages["reward"], averages[family], color=look.colour, marker=look.marker,
                    markersize=6, linewidth=2.4, zorder=3, label=f"{look.label}, this seed",
                )  # fmt: skip
            for row in models:
                look, hollow = _live_look(row["method"]), row["method"] == "sma"
                axes.plot(
                    row["reward"], row[family], color=look.colour, marker=look.marker,
                    markersize=10, linestyle="none", label=look.label, zorder=4.5 if hollow else 4,
                    markerfacecolor="none" if hollow else look.colour,
                    markeredgecolor=look.colour if hollow else "white",
                    markeredgewidth=2.0 if hollow else 0.8,
                )  # fmt: skip
            axes.axhline(0, color=GREY, linewidth=1.0, linestyle=":")
            axes.set_title(FAMILY_NAMES[family])
            axes.margins(x=0.08, y=0.17)
        for axes in panels[1]:
            axes.set_xlabel("reward gained over θ₀  →")
        for axes in panels[:, 0]:
            axes.set_ylabel("change since θ₀ (points)  →")
        said = []
        for row in own.to_dict("records"):
            name = _live_look(row["method"]).label
            if row["method"] == DISTILLED_AVERAGE:
                name += f", alpha {row['alpha']:g}"
            each = [f"{FAMILY_NAMES[f]} {number(row[f], sign=True)}" for f in FAMILY_NAMES]
            said.append(f"{name}: reward {number(row['reward'], 2, True)}, {', '.join(each)}")
        alt = (
            f"This run's models (one seed) over the recorded front ({caption}), as changes since "
            f"theta_0. {'. '.join(said)}."
        )
        title = "One strength each, over the recorded front"
        finish(figure, title, caption, alt, 3)
        figure.draw_without_rendering()  # only now is it known where the panels are
        names = [POINT_NAMES.get(row["method"], row["method"]) for row in models]
        for axes, family in zip(panels.flat, FAMILY_NAMES, strict=True):
            spots = [(row["reward"], row[family]) for row in models]
            _name_points(axes, names, spots, averages[["reward", family]].to_numpy(dtype=float))
        return figure


def _name_points(
    axes: Axes,
    names: Sequence[str],
    spots: Sequence[tuple[float, float]],
    others: np.ndarray,
) -> None:
    """Write names at markers, with a thin line to them where these stand far.

    Args:
        axes: A panel that is laid out.
        names: One a marker.
        spots: Where the markers are.
        others: Further markers that no name may hide.
    """
    scale = 72 / axes.figure.dpi  # pixels to points
    frame = np.asarray(axes.get_window_extent().extents) * scale
    places = axes.transData.transform([*spots, *others]) * scale
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for name, spot, (x, y) in zip(names, spots, places, strict=False):
        wide = 5.8 * len(name)
        boxes = []
        for right, up in PLACES:
            left = x + right if right > 0 else x + right - wide
            boxes.append((left, y + up - 2, left + wide, y + up + 10))
        hidden = [sum(_overlap(box, other) for other in taken) for box in boxes]
        outside = [max(frame[0] - b[0], 0) + max(frame[1] - b[1], 0) + max(b[3] - frame[3], 0)
                   for b in boxes]  # fmt: skip
        best = int(np.argmin(np.add(hidden, outside)))
        right, up = PLACES[best]
        taken.append(boxes[best])
        far = max(abs(right), abs(up)) > 15
        axes.annotate(
            name, spot, xytext=(right, up), textcoords="offset points", fontsize=10, zorder=5,
            ha="left" if right > 0 else "right", bbox=PAPER,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.7} if far else None,
        )  # fmt: skip


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the area that two boxes (left, bottom, right, top) share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def _live_look(method: str) -> Look:
    """Return the look of a model of this run; RSF's last round looks like stopping early."""
    if method == "none":
        return replace(METHODS["early_stopping"], label="RSF, last round")
    return METHODS[method]


def _curve(rows: pd.DataFrame, method: str, end: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the rows of a curve from theta_0 (all changes 0) on; empty if there are none."""
    line = rows[rows["method"] == method].sort_values(["alpha", "rounds"])
    values = ["reward", *FAMILY_NAMES]
    if line.empty:
        return line[values]
    zero = pd.DataFrame({name: [0.0] for name in values})
    parts = [zero, line[values], *([end[values]] if end is not None else [])]
    return pd.concat(parts, ignore_index=True)


def path_fronts_table(points: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return recorded curves of remedies and of their rivals, a panel a remedy, means over seeds.

    Args:
        points: the recorded run, with the plain distilled run and its averages.
        methods: remedies.

    Returns:
        One row per panel (a remedy) and model of the remedy, the plain run and its averages, all
        from the seeds that these three have: panel, method, strength, alpha, seeds, which (the
        seeds in words), reward and the families as changes since theta_0 of the same seed, each
        with _low and _high (95 % t interval over seeds).

    Raises:
        FigureError: missing columns, or a method that is not recorded.
    """
    rows = _changed(points, "path_fronts")
    rows = rows[rows["algorithm"] == "rsf"]
    for name in (DISTIL, DISTILLED_AVERAGE, *methods):
        if name not in set(rows["method"]):
            raise FigureError(
                f"path_fronts: {name!r} is not recorded. Add it with: alignment-tax record tiny "
                "--methods remedies"
            )
    parts = []
    for name in methods:
        beside = [DISTIL, DISTILLED_AVERAGE, name]
        seeds = shared_seeds(rows, beside, "path_fronts")
        own = rows[rows["method"].isin(beside) & rows["seed"].isin(seeds)]
        table = summarise(own, ["method", "strength", "alpha"], ["reward", *FAMILY_NAMES])
        parts.append(table.assign(panel=name, which=seeds_text(seeds)))
    return pd.concat(parts, ignore_index=True)


def path_fronts(
    points: pd.DataFrame,
    methods: Sequence[str],
    family: str = "skill",
    live: pd.DataFrame | None = None,
) -> Figure:
    """Draw recorded remedies by strength against averages of the plain run, a panel each.

    The weakest and the strongest strength are written beside their points. All of a panel is drawn
    from the seeds in its title.

    Args:
        points: the recorded run.
        methods: remedies, one panel each.
        family: the score on the y axis.
        live: points of this run, one seed; its model of the panel's method is a hollow star.

    Raises:
        FigureError: as `path_fronts_table`.
    """
    everything = path_fronts_table(points, methods)
    own = _changed(live, "path_fronts") if live is not None else None
    columns = min(3, len(methods))
    lines = -(-len(methods) // columns)
    drawn, said = [], []
    with style():
        figure = canvas((PANELS[0], 1.8 + 3.3 * lines))
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes, method in zip(panels.flat, methods, strict=False):
            drawn += shared_seeds(points, [DISTIL, DISTILLED_AVERAGE, method], "path_fronts")
            table = everything[everything["panel"] == method]
            average = table[table["method"] == DISTILLED_AVERAGE].sort_values("alpha")
            _with_bars(axes, average, family, METHODS[DISTILLED_AVERAGE])
            _with_bars(axes, table[table["method"] == DISTIL], family, METHODS[DISTIL])
            curve = table[table["method"] == method].sort_values("strength")
            _with_bars(axes, curve, family, METHODS[method])
            _name_ends(axes, curve[["strength", "reward", family]], everything[["reward", family]])
            which = curve["which"].iloc[0]
            for row in curve.to_dict("records"):
                said.append(
                    f"{METHODS[method].label} {row['strength']:g} ({which}): reward "
                    f"{number(row['reward'], 2, True)}, {number(row[family], 1, True)}"
                )
            if own is not None:
                mine = own[(own["algorithm"] == "rsf") & (own["method"] == method)]
                axes.plot(
                    mine["reward"], mine[family], marker="*", markersize=15, color=BLACK,
                    markerfacecolor="white", linestyle="none", label="this run (one seed)",
                    zorder=5,
                )  # fmt: skip
            axes.set_title(f"{METHODS[method].label}\n({which})", fontsize=12)
        label_lowest(panels, len(methods), "reward gained over θ₀  →")
        for axes in panels[:, 0]:
            axes.set_ylabel("change since θ₀ (points)  →")
        what = "mean skill" if family == "skill" else FAMILY_NAMES[family]
        caption = run_caption(points[points["seed"].isin(drawn)], recorded=True)
        caption += " · numbers: the weakest and the strongest strength"
        alt = f"Remedies by strength: reward and {what}, changes since theta_0 ({caption}). "
        alt += "; ".join(said) + "."
        title = f"{what.capitalize()} against reward: remedies and averages"
        return finish(figure, title, caption, alt, 3)


def _name_ends(axes: Axes, curve: pd.DataFrame, everything: pd.DataFrame) -> None:
    """Write the least and the greatest strength at their points; as one label where these touch.

    Args:
        axes: A panel.
        curve: One remedy by strength: strength, and the scores on the two axes.
        everything: The two scores of all that the figure shows: ends that are nearer than a tenth
            of their range, on both axes, touch.
    """
    ends = curve.iloc[[0, -1]].drop_duplicates()
    texts = [f"{strength:g}" for strength in ends["strength"]]
    apart = np.ptp(ends[everything.columns], axis=0) > 0.1 * np.ptp(everything, axis=0)
    if not apart.any():
        ends, texts = ends.iloc[:1], [" to ".join(texts)]
    for text, (_, x, y) in zip(texts, ends.itertuples(index=False), strict=True):
        axes.annotate(text, (x, y), xytext=(5, 6), textcoords="offset points", fontsize=11)


def _with_bars(axes: Axes, rows: pd.DataFrame, family: str, look: Look) -> None:
    """Draw means with the intervals of both axes."""
    axes.errorbar(
        rows["reward"],
        rows[family],
        xerr=bar_lengths(rows["reward"], rows["reward_low"], rows["reward_high"]),
        yerr=bar_lengths(rows[family], rows[f"{family}_low"], rows[f"{family}_high"]),
        color=look.colour,
        marker=look.marker,
        markeredgecolor="#555555",
        markeredgewidth=0.6,
        elinewidth=0.8,
        linewidth=1.6,
        label=look.label,
    )
