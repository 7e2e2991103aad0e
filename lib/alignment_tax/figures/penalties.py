"""What penalties and LoRA hold back: weights, outputs, ranks; and where their models end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures.look import (
    BLACK,
    GREEN,
    GREY,
    METHODS,
    PANELS,
    PURPLE,
    SKY,
    FigureError,
    Look,
    bar_lengths,
    canvas,
    finish,
    style,
)
from alignment_tax.figures.tables import run_caption
from alignment_tax.labels import number, seeds_text
from alignment_tax.mitigate.output_penalty import forward_kl, reverse_kl, squared_distance
from alignment_tax.registry import REMEDIES
from alignment_tax.results.points import change, need, prepare
from alignment_tax.spec import AVERAGED, DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats.compare import summarise

#: The three ways in which `mitigate.output_penalty` measures how far the outputs are.
DISTANCES = {
    "forward": (forward_kl, Look("KD: KL(θ₀ ‖ θ)", PURPLE, ">")),
    "reverse": (reverse_kl, Look("KL penalty: KL(θ ‖ θ₀)", SKY, "<")),
    "squared": (squared_distance, Look("squared distance", GREEN, "s")),
}
#: What theta_0 says to three tokens in `penalty_distances`.
THREE_TOKENS = (0.6, 0.399, 0.001)
#: What `penalty_effects` and `penalty_doses` show, and how it is said.
EFFECTS = {
    "gain": "reward gained",
    "change": "skill since θ₀ (points)",
    "distance": "‖θ − θ₀‖ (% of ‖θ₀‖)",
    "kl": "KL(θ ‖ θ₀) (nats a reply)",
}
DOSES = {name: EFFECTS[name] for name in ("gain", "change", "kl")}
#: What a remedy takes hold of; each is a row of panels in `penalty_doses`.
HELD = {
    "weights": ("l1", "l2"),
    "outputs": ("kd", "kd_squared", "kl"),
    "rank": ("lora", "lora_mlp"),
}
GAIN_AXIS, CHANGE_AXIS = "reward gained over θ₀  →", "mean skill since θ₀ (points)  →"
FORGIVEN_AXIS = "mean skill, talk forgiven, since θ₀ (points)  →"
#: A curve whose lowest gain is above this share of the plain run's is not drawn on from theta_0.
HALF_WAY = 0.5


# --- outputs -------------------------------------------------------------------------------------


def penalty_distances_table() -> pd.DataFrame:
    """Return what `penalty_distances` draws: panel, student (0 to 1), forward, reverse, squared.

    In the panel "drops" the student is the probability of the second token, which the first gains;
    in "adds" that of the third, which the other two lose in proportion.
    """
    p = torch.tensor([THREE_TOKENS], dtype=torch.float64)
    first, second, third = THREE_TOKENS
    dropped = torch.logspace(np.log10(second), -6, 400, dtype=torch.float64)
    added = torch.logspace(np.log10(third), np.log10(0.5), 400, dtype=torch.float64)
    rest = (1 - added) / (first + second)
    students = {
        "drops": (dropped, [1 - third - dropped, dropped, torch.full_like(dropped, third)]),
        "adds": (added, [rest * first, rest * second, added]),
    }
    parts = []
    for panel, (student, columns) in students.items():
        q = torch.stack(columns, dim=1).log()
        values = {name: distance(p.log(), q).numpy() for name, (distance, _) in DISTANCES.items()}
        parts.append(pd.DataFrame({"panel": panel, "student": student.numpy(), **values}))
    return pd.concat(parts, ignore_index=True)


def penalty_distances() -> Figure:
    """Draw the three distances between outputs where a token is dropped, and where one is added."""
    table = penalty_distances_table()
    words = {
        "drops": "the policy drops the second token",
        "adds": "the policy says the third token more and more",
    }
    parts = []
    with style():
        figure = canvas((PANELS[0], 5.0))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (panel, title) in zip(panels, words.items(), strict=True):
            own = table[table["panel"] == panel]
            for name, (_, look) in DISTANCES.items():
                axes.plot(own["student"], own[name], color=look.colour, label=look.label)
            start = own["student"].iloc[0]
            axes.axvline(start, color=GREY, linewidth=1.2, linestyle="--")
            axes.set_xscale("log")
            axes.set_title(title, fontsize=12.5)
            axes.set_xlabel(f"its probability (θ₀: {start:g}, dashed)")
            each = [
                f"{look.label} {number(own[n].iloc[-1], 2)}" for n, (_, look) in DISTANCES.items()
            ]
            parts.append(
                f"{title}, from {start:g}, where all are 0, to {own['student'].iloc[-1]:.3g}: "
                + ", ".join(each)
            )
        panels[0].invert_xaxis()
        panels[0].set_ylabel("distance")
        said = ", ".join(f"{value:g}" for value in THREE_TOKENS)
        alt = f"Three distances between outputs; theta_0 says {said}. {'; '.join(parts)}."
        caption = f"worked out; three tokens, to which θ₀ gives {said}"
        return finish(figure, "Three ways to be far from θ₀", caption, alt, 3)


# --- weights -------------------------------------------------------------------------------------


def penalty_changes(shares: Mapping[str, pd.DataFrame], *, caption: str) -> Figure:
    """Draw how many weights moved by how many steps, a line a run.

    Args:
        shares: Method to what `penalties.histogram` returns of its run.
        caption: Which run this is.

    Raises:
        FigureError: no run, an unknown method, or missing columns.
    """
    lines = _lines(shares, "penalty_changes")
    parts = []
    with style():
        figure = canvas()
        axes = figure.add_subplot()
        for method, table in shares.items():
            need(table, ["steps", "share"], "penalty_changes")
            axes.plot(table["steps"], table["share"], **lines[method])
            little = table.loc[table["steps"] < 1, "share"].sum()
            half = table["steps"].iloc[int((table["share"].cumsum() < 50).sum())]
            parts.append(
                f"{METHODS[method].label}: {number(little)} % of those that moved went less than "
                f"one learning rate, half by less than about {half:.2g}"
            )
        axes.axvline(1, color=GREY, linewidth=1.2, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlabel(
            "change of a weight since θ₀, in learning rates of the plain run "
            "(far left: that or less)"
        )
        axes.set_ylabel("share of the weights that moved (%)")
        axes.set_ylim(bottom=0)
        alt = f"How far the weights moved ({caption}). {'; '.join(parts)}."
        return finish(figure, "How far does each weight go?", caption, alt, 3)


def lora_spectra(values: Mapping[str, np.ndarray], *, caption: str) -> Figure:
    """Draw the singular values of the change of one matrix, a line a run.

    Thin dashes mark a thousandth of each run's largest: what lies above counts as a direction.

    Args:
        values: Method to the singular values of its run, the largest first.
        caption: Which run and which matrix this is.

    Raises:
        FigureError: no run, an unknown method, or a run that did not move.
    """
    lines = _lines(values, "lora_spectra")
    parts = []
    with style():
        figure = canvas()
        axes = figure.add_subplot()
        for method, each in values.items():
            if not each.max() > 0:
                raise FigureError(f"lora_spectra: under {method!r} the matrix did not move.")
            axes.plot(np.arange(1, len(each) + 1), each, **lines[method])
            axes.axhline(
                each.max() / 1000, color=lines[method]["color"], linewidth=1, linestyle=":"
            )
            count = int((each > each.max() / 1000).sum())
            parts.append(
                f"{METHODS[method].label}: largest {each.max():.3g}, {count} of {len(each)} above "
                "a thousandth of it"
            )
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(each.max() for each in values.values()) * 1e-7)
        axes.set_xlabel("number of the singular value")
        axes.set_ylabel("singular value of the change")
        alt = f"Singular values of the change of one matrix ({caption}). {'; '.join(parts)}."
        title = "How far, and in how many directions? (dotted: a thousandth)"
        return finish(figure, title, caption, alt, 3)


def _lines(runs: Mapping[str, object], figure: str) -> dict[str, dict[str, Any]]:
    """Return colour, label and stroke of each run: dotted where the colour is taken."""
    if not runs:
        raise FigureError(f"{figure} has nothing to draw: there is no run.")
    lines: dict[str, dict[str, Any]] = {}
    for method in runs:
        look = _look(method)
        taken = look.colour in [line["color"] for line in lines.values()]
        stroke = "--" if taken else "-"
        lines[method] = {"color": look.colour, "label": look.label, "linestyle": stroke}
    return lines


# --- live models ---------------------------------------------------------------------------------


def penalty_effects(table: pd.DataFrame, *, caption: str) -> Figure:
    """Draw what one strength of each remedy does: reward, skill, distance of weights, KL.

    Args:
        table: What `penalties.effects` returns: method, strength, gain, change, distance, kl.
        caption: Which run this is.

    Raises:
        FigureError: missing columns, no row of a remedy or of the plain run, or an unknown method.
    """
    need(table, ["method", "strength", *EFFECTS], "penalty_effects")
    rows = table[table["method"] != "none"]
    plain = rows[rows["method"] == DISTIL]
    if plain.empty or len(rows) == len(plain):
        raise FigureError("penalty_effects needs the plain run (distil) and a remedy beside it.")
    records = rows.to_dict("records")
    names = [_name(row) for row in records]
    with style():
        figure = canvas((PANELS[0], 2.0 + 0.42 * len(names)))
        panels = figure.subplots(1, len(EFFECTS), sharey=True)
        for axes, (column, title) in zip(panels, EFFECTS.items(), strict=True):
            axes.axvline(float(plain[column].iloc[0]), color=GREY, linewidth=1.2, linestyle="--")
            axes.axvline(0, color="#333333", linewidth=1.2)
            for y, row in enumerate(records):
                look = _look(row["method"])
                axes.plot(row[column], y, marker=look.marker, color=look.colour, markersize=9,
                          markeredgecolor=BLACK, markeredgewidth=0.6)  # fmt: skip
            axes.set_title(title, fontsize=11.5)
            axes.margins(x=0.12)
            axes.xaxis.get_major_locator().set_params(nbins=5)
            axes.grid(visible=False, axis="y")
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        each = [
            f"{name}: {', '.join(f'{what} {number(row[c], 2)}' for c, what in EFFECTS.items())}"
            for name, row in zip(names, records, strict=True)
        ]
        alt = f"What one strength of each remedy does ({caption}). {'. '.join(each)}."
        title = "One strength of each remedy (dashed: the plain run)"
        return finish(figure, title, caption, alt)


def penalty_front(
    points: pd.DataFrame, live: pd.DataFrame, averages: pd.DataFrame, *, caption: str
) -> Figure:
    """Draw live models of one seed beside the averages of its plain run, and recorded fronts.

    Left by mean skill, with the recorded fronts of RSF; right the same models where talk is
    forgiven. Axes are changes since theta_0 of the same seed, so all curves start at zero.

    Args:
        points: the columns of points.csv, one study.
        live: What `penalties.effects` returns of the plain run and remedies.
        averages: The same of averages of the plain run, in the order of alpha.
        caption: Which run the live models are of.

    Raises:
        FigureError: missing columns, several studies, no theta_0, no plain run, or an unknown
            method.
    """
    figure_name = "penalty_front"
    for table in (live, averages):
        need(table, ["method", "strength", "alpha", "gain", "change", "capped_change"], figure_name)
    rows = _since_theta_0(points, figure_name)
    recorded = {
        "early_stopping": "recorded: stopping RSF early",
        "average": "recorded: averaging RSF's last round",
    }
    rows = rows[rows["seed"].isin(shared_seeds(rows, recorded, figure_name))]
    table = _summary(rows)
    end = _plain(live, figure_name)
    runs = live[live["method"] != "none"].to_dict("records")
    panels_of = {
        "change": ("mean skill", CHANGE_AXIS),
        "capped_change": ("talk forgiven (capped BLEU)", FORGIVEN_AXIS),
    }
    parts = []
    with style():
        figure = canvas((PANELS[0], 6.6))
        panels = figure.subplots(1, 2)
        for axes, (column, (title, label)) in zip(panels, panels_of.items(), strict=True):
            axes.set_ylabel(label)
            for method, label in recorded.items() if column == "change" else ():
                _curve(axes, table, rows, method, label, dashed=True)
                last = _of(table, method).iloc[-1]
                parts.append(
                    f"{label}: ends at reward {number(last['gain'], 2)}, skill "
                    f"{number(last['change'], sign=True)}"
                )
            label = "this seed: averaging the distilled run"
            parts.append(f"{title}, {_averages(axes, averages, end, column, label)}")
            for row in runs:
                look, name = _look(row["method"]), f"this seed: {_name(row)}"
                axes.plot(
                    row["gain"], row[column], marker=look.marker, color=look.colour, markersize=11,
                    markeredgecolor=BLACK, markeredgewidth=1.1, linestyle="none", label=name,
                    zorder=5,
                )  # fmt: skip
                parts.append(
                    f"{title}, {name}: reward {number(row['gain'], 2)}, skill "
                    f"{number(row[column], sign=True)}"
                )
            _start(axes)
            axes.set_title(title, fontsize=12.5)
            axes.set_xlabel(GAIN_AXIS)
            axes.margins(0.08)
        _faint(panels[0])
        both = f"{run_caption(rows, recorded=True)}\nblack edges: {caption}"
        alt = f"Skill against reward, both since θ₀ ({both}). {'; '.join(parts)}."
        return finish(figure, "One seed, by two measures of skill", both, alt, 3)


def penalty_combined(
    live: pd.DataFrame, averages: pd.DataFrame, alpha: float, *, caption: str
) -> Figure:
    """Draw runs, and the averages of their outcomes with theta_0, beside those of the plain run.

    Dotted is where no model was made: from theta_0 to the average, and from there to the run.

    Args:
        live: Rows of `penalties.effects`: the plain run, remedies, and these with "+average" at one
            alpha.
        averages: Rows of averages of the plain run, in the order of alpha.
        alpha: The alpha of `live`, the weight of the run.
        caption: Which run this is.

    Raises:
        FigureError: missing columns, no plain run, or no average of a run that is there.
    """
    figure_name = "penalty_combined"
    for table in (live, averages):
        need(table, ["method", "strength", "alpha", "gain", "change"], figure_name)
    by_method = {row["method"]: row for row in live.to_dict("records")}
    pairs = {m: row for m, row in by_method.items() if m + AVERAGED in by_method}
    if not pairs:
        raise FigureError(f"{figure_name} needs a run and its average, such as l2 and l2+average")
    with style():
        figure = canvas()
        axes = figure.add_subplot()
        label = "averaging the plain run"
        plain = _plain(live, figure_name)
        parts = [_averages(axes, averages, plain, "change", label)]
        look = METHODS[DISTIL]
        axes.plot(
            plain["gain"], plain["change"], color=look.colour, marker=look.marker, markersize=11,
            markeredgecolor=BLACK, linestyle="none", label=look.label, zorder=5,
        )  # fmt: skip
        for method, end in pairs.items():
            look, half = _look(method), by_method[method + AVERAGED]
            x, y = ([0.0, half[c], end[c]] for c in ("gain", "change"))
            axes.plot(x, y, color=look.colour, linestyle=":")
            shape: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 11,
                                     "markeredgecolor": BLACK, "linestyle": "none"}  # fmt: skip
            axes.plot(x[2], y[2], label=_name(end), **shape)
            axes.plot(x[1], y[1], markerfacecolor="white", label=_name(half), **shape)
            parts.append(
                f"{_name(end)}: reward {number(end['gain'], 2)}, skill "
                f"{number(end['change'], sign=True)}; averaged at alpha {alpha:g}: "
                f"{number(half['gain'], 2)}, {number(half['change'], sign=True)}"
            )
        _start(axes)
        axes.set_xlabel(GAIN_AXIS)
        axes.set_ylabel(CHANGE_AXIS)
        axes.margins(0.12)
        alt = f"Runs and their averages with theta_0 ({caption}). {'. '.join(parts)}."
        title = "Held back, and then averaged (dotted: no model made)"
        return finish(figure, title, caption, alt, 2)


def _plain(live: pd.DataFrame, figure: str) -> pd.Series:
    """Return the row of the plain run (FigureError: there is none)."""
    rows = live[live["method"] == DISTIL]
    if rows.empty:
        raise FigureError(f"{figure} needs the plain run (distil) among the live models.")
    return rows.iloc[0]


def _averages(axes: Axes, averages: pd.DataFrame, end: pd.Series, column: str, label: str) -> str:
    """Draw averages of the plain run from theta_0 to it; return what they are, in words."""
    look = METHODS[DISTILLED_AVERAGE]
    x, y = ([0.0, *averages[c], end[c]] for c in ("gain", column))
    axes.plot(x, y, color=look.colour, linewidth=1.8, zorder=3)
    axes.plot(
        x[1:-1], y[1:-1], color=look.colour, marker=look.marker, markersize=8, label=label,
        markeredgecolor=BLACK, linestyle="none", zorder=4,
    )  # fmt: skip
    each = [
        f"alpha {row['alpha']:g} {number(row['gain'], 2)}, {number(row[column], sign=True)}"
        for row in averages.to_dict("records")
    ]
    return f"{label}: {'; '.join(each)}"


def _start(axes: Axes) -> None:
    """Mark theta_0, where everything starts."""
    axes.plot(0, 0, marker="*", markersize=17, color=BLACK, markerfacecolor="white", zorder=6)
    axes.annotate("θ₀", (0, 0), xytext=(-9, 6), textcoords="offset points", ha="right")


# --- recorded remedies ---------------------------------------------------------------------------


def penalty_doses_table(points: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return what each strength does: means and 95 % t intervals over seeds.

    Args:
        points: the columns of points.csv, one study.
        methods: remedies, in the order of the legend.

    Returns:
        One row per method and strength: place (1 is the weakest), seeds, and gain (reward over
        theta_0 of the same seed), change (points of mean skill since it), kl, with _low, _high.

    Raises:
        FigureError: missing columns, several studies, no theta_0, or no row of a method.
    """
    rows = _since_theta_0(points, "penalty_doses")
    parts = []
    for method in methods:
        own = rows[(rows["algorithm"] == "rsf") & (rows["method"] == method)]
        if own.empty:
            raise FigureError(f"penalty_doses: the points have no rows of {method!r}.")
        table = summarise(own, ["method", "strength"], list(DOSES))
        table = table.sort_values("strength", ascending=not REMEDIES[method].weak_is_high)
        parts.append(table.assign(place=np.arange(1, len(table) + 1)))
    return pd.concat(parts, ignore_index=True)


def penalty_doses(points: pd.DataFrame, methods: Sequence[str], recorded: bool = False) -> Figure:
    """Draw reward, skill and KL along the strengths of each remedy, the weakest left.

    A row of panels for what is held back: weights, outputs, rank. A row is drawn from the seeds
    that all of it have. Args and errors as `penalty_doses_table`; dashed is the plain run, if it is
    there.
    """
    rows = _since_theta_0(points, "penalty_doses")
    penalty_doses_table(points, methods)  # refuses methods without rows
    plain_there = DISTIL in set(rows["method"])
    held = {kind: [m for m in HELD[kind] if m in methods] for kind in HELD}
    held = {kind: own for kind, own in held.items() if own}
    drawn, parts = [], []
    with style():
        figure = canvas((PANELS[0], 1.5 + 3.1 * len(held)))
        grid = figure.subplots(len(held), len(DOSES), sharey="col", squeeze=False)
        for panels, (kind, group) in zip(grid, held.items(), strict=True):
            beside = [*group, DISTIL] if plain_there else group
            seeds = shared_seeds(rows, beside, "penalty_doses")
            table = penalty_doses_table(points[points["seed"].isin(seeds)], group)
            plain = rows[(rows["method"] == DISTIL) & rows["seed"].isin(seeds)]
            lines = _lines(dict.fromkeys(group), "penalty_doses")
            for axes, column in zip(panels, DOSES, strict=True):
                for method in group:
                    _dose(axes, table[table["method"] == method], column, lines[method])
                if len(plain):
                    axes.axhline(
                        plain[column].mean(), color=GREY, linewidth=1.2, linestyle="--",
                        label=f"{METHODS[DISTIL].label} (dashed)",
                    )  # fmt: skip
                axes.axhline(0, color="#333333", linewidth=1.2)
                _strength_ticks(axes, table)
            panels[0].set_ylabel(f"{kind} ({seeds_text(seeds)})")
            panels[1].set_xlabel(_strength_label(table), fontsize=11)
            drawn += seeds
            parts += [
                f"{METHODS[row['method']].label} {row['strength']:g} ({seeds_text(seeds)}): "
                + ", ".join(f"{what} {number(row[c], 2)}" for c, what in DOSES.items())
                for row in table.to_dict("records")
            ]
        for axes, title in zip(grid[0], DOSES.values(), strict=True):
            axes.set_title(title, fontsize=12.5)
        caption = run_caption(points[points["seed"].isin(drawn)], recorded)
        alt = f"What each strength does ({caption}). {'. '.join(parts)}."
        return finish(figure, "The strengths, one by one", caption, alt, 4)


def _grids(table: pd.DataFrame) -> dict[tuple[float, ...], list[str]]:
    """Return the methods of a table of doses by their strengths, from the weakest."""
    grids: dict[tuple[float, ...], list[str]] = {}
    for method, own in table.groupby("method", sort=False):
        grids.setdefault(tuple(own["strength"]), []).append(METHODS[str(method)].label)
    return grids


def _strength_ticks(axes: Axes, table: pd.DataFrame) -> None:
    """Write the strengths below the axis, a line of them for each grid in the panel."""
    grids, places = _grids(table), range(1, int(table["place"].max()) + 1)
    texts = [
        "\n".join(f"{grid[place - 1]:g}" if place <= len(grid) else "" for grid in grids)
        for place in places
    ]
    axes.set_xticks(list(places), texts, fontsize=10)


def _strength_label(table: pd.DataFrame) -> str:
    """Return whose strengths the lines below the axis are."""
    names = [", ".join(group) for group in _grids(table).values()]
    if len(names) == 1:
        return f"strength of {names[0]}, the weakest left"
    lines = "; ".join(f"line {i}: {name}" for i, name in enumerate(names, start=1))
    return f"strengths, the weakest left. {lines}"


def _dose(axes: Axes, own: pd.DataFrame, column: str, line: Mapping[str, Any]) -> None:
    """Draw one score of one remedy along its strengths."""
    axes.errorbar(
        own["place"], own[column],
        yerr=bar_lengths(own[column], own[f"{column}_low"], own[f"{column}_high"]),
        marker=METHODS[own["method"].iloc[0]].marker, markeredgecolor="white",
        markeredgewidth=0.6, elinewidth=1.1, **line,
    )  # fmt: skip


def penalty_fronts(points: pd.DataFrame, methods: Sequence[str], recorded: bool = False) -> Figure:
    """Draw each remedy's curve beside the averages of the plain distilled run, a panel a remedy.

    Both axes are changes since theta_0 of the same seed. A curve goes from theta_0 over the
    strongest strength to the weakest, and on to the plain run where it fades into that.

    Args:
        points: the columns of points.csv, one study.
        methods: remedies that have rows.
        recorded: True for a run from data/results.

    Raises:
        FigureError: missing columns, several studies, no theta_0, or no row of a method.
    """
    rows = _since_theta_0(points, "penalty_fronts")
    if absent := set(methods) - set(rows["method"]):
        raise FigureError(f"penalty_fronts: the points have no rows of {min(absent)!r}.")
    rivals = {DISTIL, DISTILLED_AVERAGE} & set(rows["method"])
    across = min(4, len(methods))
    down = -(-len(methods) // across)
    drawn, parts = [], []
    with style():
        figure = canvas((PANELS[0], 1.6 + 2.9 * down))
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes, method in zip(panels.flat, methods, strict=False):
            seeds = shared_seeds(rows, [method, *rivals], "penalty_fronts")
            own = rows[rows["seed"].isin(seeds)]
            table = _summary(own)
            if DISTILLED_AVERAGE in rivals:
                _curve(axes, table, own, DISTILLED_AVERAGE)
            _curve(axes, table, own, method)
            axes.set_title(f"{METHODS[method].label}\n({seeds_text(seeds)})", fontsize=11.5)
            points_of = _of(table, method).to_dict("records")
            each = [f"{number(r['gain'], 2)}, {number(r['change'], sign=True)}" for r in points_of]
            parts.append(f"{METHODS[method].label} ({seeds_text(seeds)}): {'; '.join(each)}")
            drawn += seeds
        _faint(panels[0, 0])
        label_lowest(panels, len(methods), "reward gained  →")
        figure.supylabel(CHANGE_AXIS, fontsize=12.5)
        caption = run_caption(points[points["seed"].isin(drawn)], recorded)
        alt = f"Reward gained and skill since θ₀, from θ₀ on ({caption}). {'. '.join(parts)}."
        return finish(figure, "Each remedy beside averaging", caption, alt, 4)


def shared_seeds(rows: pd.DataFrame, methods: Iterable[str], figure: str) -> list[int]:
    """Return the seeds in which every one of some methods of RSF is recorded.

    Curves side by side are drawn from these alone: else one of them has other seeds behind it.

    Raises:
        FigureError: there is none.
    """
    wanted = dict.fromkeys("none" if name == "early_stopping" else name for name in methods)
    rsf = rows[rows["algorithm"] == "rsf"]
    seeds = [set(rsf.loc[rsf["method"] == name, "seed"]) for name in wanted]
    both = sorted(map(int, set.intersection(*seeds)))
    if not both:
        raise FigureError(f"{figure}: no seed has rows of all of {', '.join(wanted)}.")
    return both


def label_lowest(panels: np.ndarray, count: int, label: str) -> None:
    """Hide panels beyond `count`; in every column the lowest that is left has ticks and a label."""
    for axes in list(panels.flat)[count:]:
        axes.set_visible(False)
    for column in panels.T:
        shown = [axes for axes in column if axes.get_visible()]
        if shown:
            shown[-1].tick_params(labelbottom=True)
            shown[-1].set_xlabel(label)


def _since_theta_0(points: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Return the rows of RSF and theta_0, with gain and change since theta_0 of the same seed."""
    rows = prepare(points, ["reward", "skill"], figure)
    moved = change(rows, ["reward", "skill"], figure)
    rows = rows.assign(gain=moved["reward"], change=moved["skill"])
    return rows[rows["algorithm"].isin(["sft", "rsf"])]


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    return summarise(
        rows, ["algorithm", "method", "strength", "alpha", "rounds"], ["gain", "change"]
    )


def _of(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return the rows of a method's curve from theta_0 on, in the order of `results.curve_rows`."""
    rsf = table[table["algorithm"] == "rsf"]
    start = table[table["algorithm"] == "sft"]
    own = rsf[rsf["method"] == ("none" if method == "early_stopping" else method)]
    if method == "early_stopping":
        return pd.concat([start, own.sort_values("rounds")])
    if own["alpha"].notna().all():
        return own.sort_values("alpha")
    remedy = REMEDIES[method]
    own = own.sort_values("strength", ascending=remedy.weak_is_high)
    return pd.concat([start, own, rsf[rsf["method"] == DISTIL]] if remedy.fades else [start, own])


def _curve(
    axes: Axes,
    table: pd.DataFrame,
    rows: pd.DataFrame,
    method: str,
    label: str | None = None,
    dashed: bool = False,
) -> None:
    """Draw one method: single seeds faint, means as a line with their intervals.

    No line leads from theta_0 to a curve that has no weak setting: there is no model in between.
    """
    look, own = METHODS[method], _of(table, method)
    word = "none" if method == "early_stopping" else method
    seeds = rows[(rows["method"] == word) & (rows["algorithm"] == "rsf")]
    axes.scatter(
        seeds["gain"], seeds["change"], s=12, color=look.colour, marker=look.marker, alpha=0.3,
        linewidths=0, zorder=1.5,
    )  # fmt: skip
    plain = table[table["method"] == DISTIL]["gain"]
    if method in REMEDIES and len(plain):
        least = own["gain"].iloc[1:].min()
        own = own.iloc[1:] if least > HALF_WAY * plain.iloc[0] else own
    axes.errorbar(
        own["gain"], own["change"],
        xerr=bar_lengths(own["gain"], own["gain_low"], own["gain_high"]),
        yerr=bar_lengths(own["change"], own["change_low"], own["change_high"]),
        color=look.colour, marker=look.marker, markersize=6, markeredgecolor="white",
        markeredgewidth=0.6, elinewidth=0.9, linewidth=1.6, label=label or look.label, zorder=2,
        linestyle="--" if dashed else "-",
    )  # fmt: skip


def _faint(axes: Axes) -> None:
    """Add to the legend what the small faint markers are."""
    axes.scatter([], [], s=12, color=GREY, alpha=0.5, linewidths=0, label="faint: single seeds")


def _look(method: str) -> Look:
    """Return how a method is drawn; its average with theta_0 has the same look."""
    word = method if method in METHODS else method.removesuffix(AVERAGED)
    if word not in METHODS:
        raise FigureError(f"No look for method {method!r}: add one to METHODS.")
    return METHODS[word]


def _name(row: Mapping[Any, Any]) -> str:
    """Return a model's name for a legend: the remedy, its strength, the alpha of an average."""
    text = _look(row["method"].removesuffix(AVERAGED)).label
    if pd.notna(row["strength"]):
        text += f" {row['strength']:g}"
    if row["method"].endswith(AVERAGED):
        text += f", averaged (α = {row['alpha']:g})"
    return text
