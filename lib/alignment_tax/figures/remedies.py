"""Remedies against averages of the plain run: models of this seed, strengths, fronts, replay.

`points` are the columns of points.csv, one study; `recorded` says that they are of data/results;
`live` and `averages` are models of this run, one seed, the plain run (distil) among `live`. Curves
side by side are of the seeds that all have. What cannot be drawn is a TableError.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.style import METHODS, Look
from alignment_tax.figures.weights import strokes
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import FAMILY_NAMES, METHOD_NAMES, seeds_text
from alignment_tax.registry import REMEDIES
from alignment_tax.results import points as select
from alignment_tax.results.points import TableError
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE, averaged, is_averaged, unaveraged
from alignment_tax.stats.compare import summarise

#: Families of pretraining text; the format of those with a star is evaluated (hatched).
TEXTS = {
    name: Look(label, colour, hatch="//" if label.endswith("*") else "")
    for name, label, colour in (
        ("reply", "replies", style.GREY),
        ("statement", "statements", style.SKY),
        ("how_to", "how-tos", style.BLUE),
        ("question", "questions*", style.YELLOW),
        ("span", "passages, span*", style.PURPLE),
        ("counting", "passages, counting*", style.ORANGE),
        ("race_like", "passages, 4 choices*", style.VERMILLION),
        ("dialogue", "dialogues*", style.BLACK),
        ("translation", "translations*", style.GREEN),
    )
}
EFFECTS = {
    "gain": "reward gained",
    "change": "skill since θ₀ (points)",
    "distance": "‖θ − θ₀‖ (% of ‖θ₀‖)",
    "kl": "KL(θ ‖ θ₀) (nats a reply)",
}
DOSES = {"reward": EFFECTS["gain"], "skill": EFFECTS["change"], "kl": EFFECTS["kl"]}
#: What a remedy takes hold of; each is a row of panels in `penalty_doses`.
HELD = {
    "weights": ("l1", "l2"),
    "outputs": ("kd", "kd_squared", "kl"),
    "rank": ("lora", "lora_mlp"),
}
GAIN, SKILL = "reward gained over θ₀  →", "mean skill since θ₀ (points)  →"
MODEL = ["method", "strength", "alpha", "gain", "change"]
#: A curve whose lowest gain is above this share of the plain run's is not drawn on from theta_0.
HALF_WAY = 0.5
#: Short names at the points of one seed.
POINT_NAMES = METHOD_NAMES | {"none": "RSF", DISTIL: "plain run", "replay_other": "no formats"}
LIVE: dict[str, Any] = {"markersize": 11, "markeredgecolor": "black", "markeredgewidth": 1.1}


def _since(points: pd.DataFrame, figure: str, values: Sequence[str]) -> pd.DataFrame:
    """Return the rows of RSF, `values` as changes since theta_0 of the same seed."""
    rows = select.change(select.prepare(points, values, figure), values, figure)
    return rows[rows["algorithm"] == "rsf"]


def _side_by_side(rows: pd.DataFrame, methods: Iterable[str]) -> tuple[pd.DataFrame, str]:
    """Return the rows of some methods, of the seeds that all of them have, and which these are."""
    wanted = list(dict.fromkeys(methods))
    seeds = [set(rows.loc[rows["method"] == name, "seed"]) for name in wanted]
    if not (both := set.intersection(*seeds)):
        missing = next((n for n, own in zip(wanted, seeds, strict=True) if not own), "all of them")
        raise TableError(
            f"No seed has rows of all of {', '.join(wanted)} ({missing!r} is not recorded). Add "
            "them with: alignment-tax record tiny --methods remedies"
        )
    return rows[rows["method"].isin(wanted) & rows["seed"].isin(both)], seeds_text(both)


def _from_theta_0(rows: pd.DataFrame, *values: str) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({name: [0.0] for name in values}), rows], ignore_index=True)


def _name(row: Mapping[Any, Any]) -> str:
    text = style.look_of("rsf", unaveraged(row["method"])).label
    text += f" {row['strength']:g}" if pd.notna(row["strength"]) else ""
    half = is_averaged(row["method"])
    return f"{text}, averaged (α = {row['alpha']:g})" if half else text


def _main_line(axes: Axes, rows: pd.DataFrame, y: str, seeds: bool = False) -> None:
    """Draw the recorded rounds of RSF and their averages, dashed, from theta_0 on."""
    named = {"none": ("early_stopping", "rounds"), "average": ("average", "alpha")}
    for method, (word, order) in named.items():
        own = rows[rows["method"] == method]
        table = _from_theta_0(summarise(own, [order], ["reward", y]), "reward", y)
        draw.curve(
            axes, table, "reward", y, METHODS[word], seeds=own if seeds else None, linestyle="--",
            bars="xy" if seeds else "", markersize=6 if seeds else 0, linewidth=1.5, zorder=1.8,
            label=f"recorded: {METHOD_NAMES[word]}",
        )  # fmt: skip


def _models(axes: Axes, rows: pd.DataFrame, y: str, before: str = "") -> None:
    """Draw models of this seed, each with its name in the legend; averages are hollow."""
    for row in rows.to_dict("records"):
        look = style.look_of("rsf", unaveraged(row["method"]))
        face = {"markerfacecolor": "white"} if is_averaged(row["method"]) else {}
        label, shape = before + _name(row), {**LIVE, **face, "zorder": 5}
        draw.scatter(axes, pd.DataFrame([row]), "gain", y, look, label=label, **shape)


def _plain(axes: Axes, live: pd.DataFrame, averages: pd.DataFrame, y: str, label: str) -> None:
    """Draw the averages of this seed's plain run as a curve from theta_0 to it."""
    plain = live[live["method"] == DISTIL]
    if plain.empty:
        raise TableError("There is no plain run (distil) among the live models.")
    look, way = METHODS[DISTILLED_AVERAGE], pd.concat([_from_theta_0(averages, "gain", y), plain])
    axes.plot(way["gain"], way[y], color=look.colour, zorder=3)
    shape = {**LIVE, "markersize": 8, "zorder": 4}
    draw.scatter(axes, averages, "gain", y, look, label=label, **shape)
    draw.star(axes, 0, 0)
    draw.note(axes, "θ₀", 0, 0, (-1, 1), bbox=None)


@style.in_style()
def penalty_effects(table: pd.DataFrame, *, caption: str) -> Figure:
    """Draw what one strength of each remedy does: reward, skill, distance of weights, KL.

    `table` has a row per model: method, strength, gain, change, distance, kl.
    """
    select.need(table, ["method", "strength", *EFFECTS], "penalty_effects")
    rows = table[table["method"] != "none"]
    plain = rows[rows["method"] == DISTIL]
    if plain.empty or len(rows) == len(plain):
        raise TableError("penalty_effects needs the plain run (distil) and a remedy beside it.")
    rows = rows.assign(name=[_name(row) for row in rows.to_dict("records")])
    looks = [style.look_of("rsf", method) for method in rows["method"]]
    size = (style.PANELS[0], 2.0 + 0.42 * len(rows))
    figure, [line] = style.panels(1, len(EFFECTS), size, sharey=True)
    for axes, (value, title) in zip(line, EFFECTS.items(), strict=True):
        draw.level(axes, float(plain[value].iloc[0]), upright=True)
        draw.forest(axes, rows, name="name", value=value, looks=looks, digits=None,
                    markeredgecolor="black", markeredgewidth=0.6)  # fmt: skip
        axes.set_title(title, fontsize=11.5)
        axes.margins(x=0.12)
        axes.xaxis.get_major_locator().set_params(nbins=5)
    title = "One strength of each remedy (dashed: the plain run)"
    return style.finish(figure, title, caption, rows[["name", *EFFECTS]])


@style.in_style()
def penalty_front(
    points: pd.DataFrame, live: pd.DataFrame, averages: pd.DataFrame, *, caption: str
) -> Figure:
    """Draw live models of one seed beside the averages of its plain run, and recorded fronts.

    Left by mean skill, with the recorded fronts of RSF; right the same models with format
    forgiven. Axes are changes since theta_0 of the same seed.

    `live` and `averages` (of the plain run, by alpha) have a row per model: method, strength,
    alpha, gain, change, forgiven_change.
    """
    columns = [*MODEL, "forgiven_change"]
    for each in (live, averages):
        select.need(each, columns, "penalty_front")
    rows = _since(points, "penalty_front", ["reward", "skill"])
    rows, _ = _side_by_side(rows, ["none", "average"])
    runs = live[live["method"] != "none"]
    figure, [[left, right]] = style.panels(1, 2, (style.PANELS[0], 6.6), xlabel=GAIN, ylabel=SKILL)
    _main_line(left, rows, "skill", seeds=True)
    titles = ("mean skill", "format forgiven")
    for axes, y, title in zip((left, right), columns[-2:], titles, strict=True):
        _plain(axes, runs, averages, y, "this seed: averaging the distilled run")
        _models(axes, runs, y, "this seed: ")
        axes.margins(0.08)
        axes.set_title(title, fontsize=12.5)
    right.set_ylabel("mean skill, format forgiven, since θ₀ (points)  →")
    both = f"{run_caption(rows, recorded=True)}{draw.FAINT} · black edges: {caption}"
    recorded = summarise(rows, ["method", "rounds", "alpha"], ["reward", "skill"])
    recorded.columns = recorded.columns.str.replace("reward", "gain").str.replace("skill", "change")
    own = pd.concat([averages, runs])[columns].assign(series="this seed")
    table = pd.concat([recorded.assign(series="recorded"), own])
    title = "One seed, by two measures of skill"
    return style.finish(figure, title, both, table, legend_columns=3)


@style.in_style()
def penalty_combined(
    live: pd.DataFrame, averages: pd.DataFrame, alpha: float, *, caption: str
) -> Figure:
    """Draw runs, and the averages of their outcomes with theta_0, beside those of the plain run.

    Dotted is where no model was made: from theta_0 to the average, and from there to the run.

    `live` and `averages` (of the plain run, by alpha) have a row per model: method, strength,
    alpha, gain, change. In `live` are remedies, and these with "+average" at `alpha`.
    """
    for each in (live, averages):
        select.need(each, MODEL, "penalty_combined")
    ends = live.loc[live["method"].map(averaged).isin(live["method"]), "method"]
    if ends.empty:
        raise TableError("penalty_combined needs a run and its average, such as l2 and l2+average")
    figure, [[axes]] = style.panels(xlabel=GAIN, ylabel=SKILL)
    _plain(axes, live, averages, "change", "averaging the plain run")
    _models(axes, live[live["method"] == DISTIL], "change")
    for method in ends:
        own = live[live["method"].isin([method, averaged(method)])].sort_values("method")
        way = _from_theta_0(own[::-1], "gain", "change")
        colour = style.look_of("rsf", method).colour
        axes.plot(way["gain"], way["change"], color=colour, linestyle=":")
        _models(axes, own, "change")
    axes.margins(0.12)
    title = "Held back, and then averaged (dotted: no model made)"
    table, head = pd.concat([averages, live])[MODEL], f"Runs are averaged at alpha {alpha:g}."
    return style.finish(figure, title, caption, table, head=head, legend_columns=2)


@style.in_style()
def live_fronts(points: pd.DataFrame, live: pd.DataFrame, caption: str) -> Figure:
    """Draw this run's models over the recorded front, a panel a family (as paper Fig. 3).

    Dashed curves are RSF round by round and its averages, recorded, means over seeds. Markers are
    points of one seed (`live`, with theta_0); averages of its distilled run are a solid line.
    """
    values = ["reward", *FAMILY_NAMES]
    recorded = _since(select.main_line(points), "live_fronts", values)
    mine = _since(live, "live_fronts", values)
    setting = ["method", "strength", "alpha", "rounds"]
    both = [rows.assign(live=rows is mine) for rows in (recorded, mine)]
    table = summarise(pd.concat(both), ["live", *setting], values)
    mixed = mine["method"] == DISTILLED_AVERAGE
    averages, models = mine[mixed].sort_values("alpha"), mine[~mixed]
    figure, grid = style.panels(
        2, 2, (style.PANELS[0], 8.6), sharex=True, xlabel=GAIN, ylabel="change since θ₀ (points)  →"
    )
    for axes, family in zip(grid.flat, FAMILY_NAMES, strict=True):
        _main_line(axes, recorded, family)
        if len(averages):
            plain, look = models[models["method"] == DISTIL], METHODS[DISTILLED_AVERAGE]
            way = pd.concat([_from_theta_0(averages, "reward", family), plain])
            label = f"{look.label}, this seed"
            draw.curve(axes, way, "reward", family, look, bars="", markersize=6, label=label)
        for method, own in models.groupby("method", sort=False):
            look = style.look_of("rsf", str(method))
            label = "RSF, last round" if method == "none" else look.label
            draw.scatter(axes, own, "reward", family, look, hollow=method == "sma", label=label,
                         markersize=10, zorder=4)  # fmt: skip
        axes.axhline(0, color=style.GREY, linewidth=1.0, linestyle=":")
        axes.set_title(FAMILY_NAMES[family])
        axes.margins(x=0.08, y=0.17)
    title, head = "One strength each, over the recorded front", "Changes since theta_0."
    style.finish(figure, title, caption, table, head=head, legend_columns=3)
    names = [POINT_NAMES.get(name, name) for name in models["method"]]
    for axes, family in zip(grid.flat, FAMILY_NAMES, strict=True):
        draw.notes(axes, names, models[["reward", family]], averages[["reward", family]])
    return figure


@style.in_style()
def family_changes(live: pd.DataFrame, methods: Sequence[str], caption: str) -> Figure:
    """Draw the change since theta_0 in each family as bars, one colour a method; one seed.

    `live` are points of one seed, theta_0 among them, with one row for each of `methods`.
    """
    rows = _since(live, "family_changes", list(FAMILY_NAMES)).set_index("method")
    for name in methods:
        if (count := int((rows.index == name).sum())) != 1:
            raise TableError(f"family_changes needs one row of {name!r}; there are {count}.")
    rows = rows.loc[list(methods), list(FAMILY_NAMES)].rename(columns=FAMILY_NAMES)
    table = rows.reset_index().melt("method", var_name="family", value_name="change")
    looks = {name: style.look_of("rsf", name) for name in methods}
    figure, [[axes]] = style.panels(ylabel="change since θ₀ (points)")
    draw.bars(axes, table, "family", "method", "change", looks, digits=1, sign=True)
    axes.axhline(0, color=style.INK, linewidth=1.2)
    title = "Which family does replay save?"
    return style.finish(figure, title, caption, table, legend_columns=3)


@style.in_style()
def replay_mix(uses: Mapping[str, pd.DataFrame], caption: str) -> Figure:
    """Draw of which text replies and replayed tokens are, a panel each kind of replay.

    `uses` maps the kind of replay to its tokens: columns strength, family, tokens.
    """
    tables = []
    size, label = (style.PANELS[0], 5.0), "share of reply and replayed tokens (%)"
    figure, [line] = style.panels(1, len(uses), size, sharey=True, xlabel=label)
    for axes, (title, use) in zip(line, uses.items(), strict=True):
        select.need(use, ["strength", "family", "tokens"], "replay_mix")
        own = use.groupby(["strength", "family"])["tokens"].sum().reset_index()
        own["share"] = 100 * own["tokens"] / own.groupby("strength")["tokens"].transform("sum")
        own["proportion"] = own["strength"].map("{:g}".format)
        draw.bars(axes, own, "proportion", "family", "share", TEXTS, across=True, stacked=True,
                  linewidth=0.6)  # fmt: skip
        axes.set_ylim(-0.55, own["strength"].nunique() - 0.45)
        axes.set_title(title)
        tables.append(own.assign(kind=title)[["kind", "strength", "family", "share"]])
    line[0].set_ylabel("replayed tokens per reply token")
    title = "What is replayed?  (* evaluated format)"
    return style.finish(figure, title, caption, pd.concat(tables), legend_columns=5)


@style.in_style()
def penalty_doses(points: pd.DataFrame, methods: Sequence[str], recorded: bool = False) -> Figure:
    """Draw reward, skill and KL along the strengths of each remedy, the weakest left.

    A row of panels for what is held back; dashed is the plain run, if it is there.
    """
    rows = _since(points, "penalty_doses", ["reward", "skill"])
    _side_by_side(rows[rows["method"].isin(methods)].assign(seed=0), methods)  # all are there
    held = {kind: [m for m in own if m in methods] for kind, own in HELD.items()}
    held = {kind: own for kind, own in held.items() if own}
    size, tables = (style.PANELS[0], 1.5 + 3.1 * len(held)), []
    figure, grid = style.panels(len(held), len(DOSES), size, sharey="col")
    for line, (kind, group) in zip(grid, held.items(), strict=True):
        own, which = _side_by_side(rows, [*group, *({DISTIL} & set(rows["method"]))])
        plain = own[own["method"] == DISTIL]
        table = summarise(own[own["method"] != DISTIL], ["method", "strength"], list(DOSES))
        tables.append(table.assign(which=which))
        grades = sorted(set(table["strength"]))
        for axes, name in zip(line, DOSES, strict=True):
            for method, stroke in strokes(group).items():
                look = {method: METHODS[method]}
                draw.curves(axes, table, "method", "strength", name, look, linestyle=stroke)
            if len(plain):
                draw.level(axes, plain[name].mean(), f"{METHODS[DISTIL].label} (dashed)")
            axes.axhline(0, color=style.INK, linewidth=1.2)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            if len(grades) < 7:
                axes.set_xticks(grades)
                axes.minorticks_off()
            if REMEDIES[group[0]].weak_is_high:
                axes.invert_xaxis()
        line[0].set_ylabel(f"{kind} ({which})")
        line[1].set_xlabel(f"strength of {' | '.join(METHODS[m].label for m in group)} (log scale)")
    for axes, title in zip(grid[0], DOSES.values(), strict=True):
        axes.set_title(title, fontsize=12.5)
    table = pd.concat(tables, ignore_index=True)
    caption = run_caption(points[points["method"].isin(methods)], recorded)
    return style.finish(figure, "The strengths, one by one", caption, table, legend_columns=4)


@style.in_style()
def remedy_panels(
    points: pd.DataFrame,
    methods: Sequence[str],
    family: str = "skill",
    live: pd.DataFrame | None = None,
) -> Figure:
    """Draw recorded remedies by strength against averages of the plain run, a panel each.

    A curve goes from theta_0 over the strongest strength to the weakest, and on to the plain run
    where it fades into that; these two strengths are written beside their points. The panel's
    method of this run (`live`, points of one seed) is a hollow star.
    """
    values, figure_name = ["reward", family], "remedy_panels"
    rows = _since(points, figure_name, values)
    mine = rows[:0] if live is None else _since(live, figure_name, values)
    across, down = min(4, len(methods)), -(-len(methods) // 4)
    figure, grid = style.panels(
        down, across, (style.PANELS[0], 1.8 + 3.1 * down), used=len(methods), sharex=True,
        sharey=True, xlabel=GAIN, ylabel="change since θ₀ (points)  →",
    )  # fmt: skip
    tables, drawn = {}, []
    for axes, method in zip(grid.flat, methods, strict=False):
        own, which = _side_by_side(rows, [DISTIL, DISTILLED_AVERAGE, method])
        table = summarise(own, ["method", "strength", "alpha"], values)
        table = table.sort_values(["alpha", "strength"])
        tables[method] = table = table.assign(panel=method, which=which)
        drawn.append(own)
        plain, averages, curve = (
            table[table["method"] == name] for name in (DISTIL, DISTILLED_AVERAGE, method)
        )
        curve = curve if REMEDIES[method].weak_is_high else curve[::-1]
        shape: dict[str, Any] = {"markersize": 6, "linewidth": 1.6, "elinewidth": 0.8}
        draw.curve(axes, averages, "reward", family, METHODS[DISTILLED_AVERAGE], **shape)
        # no line from theta_0 where there is no strong setting: there is no model in between
        strong = curve["reward"].min() <= HALF_WAY * plain["reward"].iloc[0]
        line = _from_theta_0(curve, "reward", family) if strong else curve
        line = pd.concat([line, plain]) if REMEDIES[method].fades else line
        seeds = own[own["method"] == method]
        look = METHODS[method]
        draw.curve(axes, line, "reward", family, look, label="_", seeds=seeds, **shape)
        draw.curve(axes, plain, "reward", family, METHODS[DISTIL], **shape)
        for x, y in mine.loc[mine["method"] == method, ["reward", family]].to_numpy():
            draw.star(axes, x, y, label="this run (one seed)")
        axes.set_title(f"{textwrap.fill(look.label, 22)}\n({which})", fontsize=11.5)
    what = "mean skill" if family == "skill" else FAMILY_NAMES[family]
    caption = run_caption(pd.concat(drawn), recorded=True)
    caption += f"{draw.FAINT} · numbers: the weakest and the strongest strength"
    title = f"{what.capitalize()} against reward: each remedy beside averaging"
    style.finish(figure, title, caption, pd.concat(tables.values()), legend_columns=3)
    for axes, (method, table) in zip(grid.flat, tables.items(), strict=False):
        ends = table[table["method"] == method].iloc[[0, -1]].drop_duplicates()
        texts = [f"{strength:g}" for strength in ends["strength"]]
        draw.notes(axes, texts, ends[["reward", family]], table[["reward", family]])
    return figure
