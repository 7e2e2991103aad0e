"""Remedies against averages of the plain run: models of this seed, strengths, fronts, replay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw
from alignment_tax.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    INK,
    METHODS,
    ORANGE,
    PANELS,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    Look,
    finish,
    in_style,
    look_of,
    panels,
)
from alignment_tax.figures.weights import strokes
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import FAMILY_NAMES, METHOD_NAMES, seeds_text
from alignment_tax.registry import REMEDIES
from alignment_tax.results.points import TableError, change, main_line, need, prepare
from alignment_tax.spec import AVERAGED, DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats.compare import summarise

#: Families of pretraining text; the format of those with a star is evaluated (hatched).
TEXTS = {
    "reply": Look("replies", GREY, ""),
    "statement": Look("statements", SKY, ""),
    "how_to": Look("how-tos", BLUE, ""),
    "question": Look("questions*", YELLOW, ""),
    "span": Look("passages, span*", PURPLE, ""),
    "counting": Look("passages, counting*", ORANGE, ""),
    "race_like": Look("passages, 4 choices*", VERMILLION, ""),
    "dialogue": Look("dialogues*", BLACK, ""),
    "translation": Look("translations*", GREEN, ""),
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
GAIN = "reward gained over θ₀  →"
#: A curve whose lowest gain is above this share of the plain run's is not drawn on from theta_0.
HALF_WAY = 0.5
#: Short names at the points of one seed.
POINT_NAMES = {"none": "RSF", DISTIL: "plain run", "replay_other": "no formats"}
LIVE = {"markersize": 11, "markeredgecolor": BLACK, "markeredgewidth": 1.1, "zorder": 5}


def _since(points: pd.DataFrame, figure: str, values: Sequence[str]) -> pd.DataFrame:
    """Return the rows of RSF; `values` are changes since theta_0 of the same seed."""
    rows = change(prepare(points, values, figure), values, figure)
    return rows[rows["algorithm"] == "rsf"]


def shared_seeds(rows: pd.DataFrame, methods: Iterable[str], figure: str) -> list[int]:
    """Return the seeds in which every one of some methods of RSF is recorded.

    Curves side by side are drawn from these alone: else one of them has other seeds behind it.
    """
    wanted = list(dict.fromkeys("none" if m == "early_stopping" else m for m in methods))
    seeds = [set(rows.loc[rows["method"] == name, "seed"]) for name in wanted]
    if both := sorted(map(int, set.intersection(*seeds))):
        return both
    raise TableError(
        f"{figure}: no seed has rows of all of {', '.join(wanted)}. Add them with: "
        "alignment-tax record tiny --methods remedies"
    )


def _from_theta_0(rows: pd.DataFrame, *values: str) -> pd.DataFrame:
    """Return the rows of a curve with theta_0, where all changes are 0, before them."""
    return pd.concat([pd.DataFrame({name: [0.0] for name in values}), rows], ignore_index=True)


def _name(row: Mapping[Any, Any]) -> str:
    """Return a model's name for a legend: the remedy, its strength, the alpha of an average."""
    text = look_of("rsf", row["method"].removesuffix(AVERAGED)).label
    if pd.notna(row["strength"]):
        text += f" {row['strength']:g}"
    averaged = row["method"].endswith(AVERAGED)
    return f"{text}, averaged (α = {row['alpha']:g})" if averaged else text


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


def _plain(axes: Axes, live: pd.DataFrame, averages: pd.DataFrame, y: str, label: str) -> None:
    """Draw this seed's averages of the plain run, from theta_0 to it."""
    if live.empty or averages.empty:
        raise TableError("This figure needs the plain run (distil) and its averages.")
    way = pd.concat([_from_theta_0(averages, "gain", y), live])
    look = METHODS[DISTILLED_AVERAGE]
    draw.line(axes, way, "gain", y, Look("_", look.colour, ""), zorder=3)
    draw.scatter(axes, averages, "gain", y, look, label=label, **{**LIVE, "markersize": 8})
    draw.star(axes, 0, 0)
    draw.note(axes, "θ₀", 0, 0, (-1, 1), bbox=None)
    axes.set_xlabel(GAIN)


# --- this seed's models ---------------------------------------------------------------------------


@in_style()
def penalty_effects(table: pd.DataFrame, *, caption: str) -> Figure:
    """Draw what one strength of each remedy does: reward, skill, distance of weights, KL.

    Args:
        table: One row per model: method, strength, gain, change, distance, kl.
        caption: Which run this is.

    Raises:
        TableError: missing columns, no row of a remedy or of the plain run, or an unknown method.
    """
    need(table, ["method", "strength", *EFFECTS], "penalty_effects")
    rows = table[table["method"] != "none"]
    plain = rows[rows["method"] == DISTIL]
    if plain.empty or len(rows) == len(plain):
        raise TableError("penalty_effects needs the plain run (distil) and a remedy beside it.")
    rows = rows.assign(name=[_name(row) for row in rows.to_dict("records")])
    looks = [look_of("rsf", method) for method in rows["method"]]
    shape = {"markeredgecolor": BLACK, "markeredgewidth": 0.6}
    size = (PANELS[0], 2.0 + 0.42 * len(rows))
    figure, [line] = panels(1, len(EFFECTS), size, sharey=True)
    for axes, (value, title) in zip(line, EFFECTS.items(), strict=True):
        draw.level(axes, float(plain[value].iloc[0]), upright=True)
        draw.forest(axes, rows, name="name", value=value, looks=looks, digits=None, **shape)
        axes.set_title(title, fontsize=11.5)
        axes.margins(x=0.12)
        axes.xaxis.get_major_locator().set_params(nbins=5)
    title = "One strength of each remedy (dashed: the plain run)"
    return finish(figure, title, caption, rows[["name", *EFFECTS]])


@in_style()
def penalty_front(
    points: pd.DataFrame, live: pd.DataFrame, averages: pd.DataFrame, *, caption: str
) -> Figure:
    """Draw live models of one seed beside the averages of its plain run, and recorded fronts.

    Left by mean skill, with the recorded fronts of RSF; right the same models where talk is
    forgiven. Axes are changes since theta_0 of the same seed, so all curves start at zero.

    Args:
        points: The columns of points.csv, one study.
        live: One row per model, the plain run among them: method, strength, alpha, gain, change,
            capped_change.
        averages: The same of averages of the plain run, in the order of alpha.
        caption: Which run the live models are of.

    Raises:
        TableError: missing columns, several studies, no theta_0, no plain run, or an unknown
            method.
    """
    columns = ["method", "strength", "alpha", "gain", "change", "capped_change"]
    for each in (live, averages):
        need(each, columns, "penalty_front")
    rows = _since(points, "penalty_front", ["reward", "skill"])
    rows = rows[rows["seed"].isin(shared_seeds(rows, ["none", "average"], "penalty_front"))]
    runs = live[live["method"] != "none"]
    figure, [[left, right]] = panels(1, 2, (PANELS[0], 6.6))
    _main_line(left, rows, "skill", seeds=True)
    for axes, y in ((left, "change"), (right, "capped_change")):
        label = "this seed: averaging the distilled run"
        _plain(axes, runs[runs["method"] == DISTIL], averages, y, label)
        for row in runs.to_dict("records"):
            look = look_of("rsf", row["method"])
            label = f"this seed: {_name(row)}"
            draw.scatter(axes, pd.DataFrame([row]), "gain", y, look, label=label, **LIVE)
        axes.margins(0.08)
    left.set_title("mean skill", fontsize=12.5)
    left.set_ylabel("mean skill since θ₀ (points)  →")
    right.set_title("talk forgiven (capped BLEU)", fontsize=12.5)
    right.set_ylabel("mean skill, talk forgiven, since θ₀ (points)  →")
    both = f"{run_caption(rows, recorded=True)}{draw.FAINT}\nblack edges: {caption}"
    recorded = summarise(rows, ["method", "rounds", "alpha"], ["reward", "skill"])
    recorded = recorded[recorded["method"].isin(["none", "average"])]
    recorded = recorded.rename(columns=lambda name: name.replace("reward", "gain"))
    recorded = recorded.rename(columns=lambda name: name.replace("skill", "change"))
    own = pd.concat([averages, runs])[columns].assign(series="this seed")
    table = pd.concat([recorded.assign(series="recorded"), own])
    table = table[["series", *table.columns.drop("series")]]
    return finish(figure, "One seed, by two measures of skill", both, table, legend_columns=3)


@in_style()
def penalty_combined(
    live: pd.DataFrame, averages: pd.DataFrame, alpha: float, *, caption: str
) -> Figure:
    """Draw runs, and the averages of their outcomes with theta_0, beside those of the plain run.

    Dotted is where no model was made: from theta_0 to the average, and from there to the run.

    Args:
        live: One row per model: the plain run, remedies, and these with "+average" at one alpha;
            method, strength, alpha, gain, change.
        averages: The same of averages of the plain run, in the order of alpha.
        alpha: The alpha of `live`, the weight of the run.
        caption: Which run this is.

    Raises:
        TableError: missing columns, no plain run, or no average of a run that is there.
    """
    columns = ["method", "strength", "alpha", "gain", "change"]
    for each in (live, averages):
        need(each, columns, "penalty_combined")
    ends = live[(live["method"] + AVERAGED).isin(live["method"])]
    if ends.empty:
        raise TableError("penalty_combined needs a run and its average, such as l2 and l2+average")
    figure, [[axes]] = panels()
    plain = live[live["method"] == DISTIL]
    _plain(axes, plain, averages, "change", "averaging the plain run")
    draw.scatter(axes, plain, "gain", "change", METHODS[DISTIL], **LIVE)
    for end in ends.to_dict("records"):
        own = live[live["method"].isin([end["method"], end["method"] + AVERAGED])]
        look = look_of("rsf", end["method"])
        way = _from_theta_0(own.sort_values("method", ascending=False), "gain", "change")
        axes.plot(way["gain"], way["change"], color=look.colour, linestyle=":")
        for row in own.to_dict("records"):
            face = {"markerfacecolor": "white"} if row["method"].endswith(AVERAGED) else {}
            shape = {**LIVE, **face, "label": _name(row)}
            draw.scatter(axes, pd.DataFrame([row]), "gain", "change", look, **shape)
    axes.set_ylabel("mean skill since θ₀ (points)  →")
    axes.margins(0.12)
    title = "Held back, and then averaged (dotted: no model made)"
    table = pd.concat([averages, plain, live[live["method"] != DISTIL]])[columns]
    head = f"Averages of runs are at alpha {alpha:g}."
    return finish(figure, title, caption, table, head=head, legend_columns=2)


@in_style()
def live_fronts(points: pd.DataFrame, live: pd.DataFrame, caption: str) -> Figure:
    """Draw this run's models over the recorded front, a panel a family (as paper Fig. 3).

    Dashed curves are RSF round by round and its averages, recorded, means over seeds. Markers are
    this run, one seed; its averages of the distilled run, if there are any, are a solid line.

    Args:
        points: The recorded run.
        live: Points of this run, one seed, theta_0 among them.
        caption: Which run this is.

    Raises:
        TableError: missing columns, nothing to draw, or no theta_0 of a seed.
    """
    values = ["reward", *FAMILY_NAMES]
    both = {False: main_line(points), True: live}
    rows = {flag: _since(each, "live_fronts", values) for flag, each in both.items()}
    setting = ["method", "strength", "alpha", "rounds"]
    table = pd.concat(
        [summarise(own, setting, values).assign(live=flag) for flag, own in rows.items()]
    )
    mixed = rows[True]["method"] == DISTILLED_AVERAGE
    averages, models = rows[True][mixed].sort_values("alpha"), rows[True][~mixed]
    figure, grid = panels(2, 2, (PANELS[0], 8.6), sharex=True)
    for axes, family in zip(grid.flat, FAMILY_NAMES, strict=True):
        _main_line(axes, rows[False], family)
        if len(averages):
            plain = models[models["method"] == DISTIL]
            way = pd.concat([_from_theta_0(averages, "reward", family), plain])
            look = METHODS[DISTILLED_AVERAGE]
            label = f"{look.label}, this seed"
            draw.curve(axes, way, "reward", family, look, bars="", markersize=6, label=label)
        for method, own in models.groupby("method", sort=False):
            look = look_of("rsf", str(method))
            label = "RSF, last round" if method == "none" else look.label
            shape = {"hollow": method == "sma", "label": label, "markersize": 10, "zorder": 4}
            draw.scatter(axes, own, "reward", family, look, **shape)
        axes.axhline(0, color=GREY, linewidth=1.0, linestyle=":")
        axes.set_title(FAMILY_NAMES[family])
        axes.margins(x=0.08, y=0.17)
    for axes in grid[1]:
        axes.set_xlabel(GAIN)
    for axes in grid[:, 0]:
        axes.set_ylabel("change since θ₀ (points)  →")
    title = "One strength each, over the recorded front"
    finish(figure, title, caption, table, head="Changes since theta_0.", legend_columns=3)
    names = [POINT_NAMES.get(name, METHOD_NAMES.get(name, name)) for name in models["method"]]
    for axes, family in zip(grid.flat, FAMILY_NAMES, strict=True):
        draw.notes(axes, names, models[["reward", family]], averages[["reward", family]])
    return figure


@in_style()
def family_changes(live: pd.DataFrame, methods: Sequence[str], caption: str) -> Figure:
    """Draw the change since theta_0 in each family as bars, one colour a method; one seed.

    Args:
        live: Rows of points, one seed, theta_0 among them, one row a method.
        methods: Words of the column method.
        caption: Which run this is.

    Raises:
        TableError: missing columns, no theta_0, or a method without exactly one row.
    """
    rows = _since(live, "family_changes", list(FAMILY_NAMES))
    for name in methods:
        if (count := int((rows["method"] == name).sum())) != 1:
            raise TableError(f"family_changes needs one row of {name!r}; there are {count}.")
    rows = rows[rows["method"].isin(methods)]
    table = rows.melt("method", list(FAMILY_NAMES), "family", "change")
    table["family"] = table["family"].map(FAMILY_NAMES | {"skill": "mean"})
    table = table.sort_values(
        "method", key=lambda each: each.map(list(methods).index), kind="stable"
    )
    looks = {name: look_of("rsf", name) for name in methods}
    figure, [[axes]] = panels()
    draw.bars(axes, table, "family", "method", "change", looks, digits=1, sign=True)
    for name, container in zip(methods, axes.containers, strict=True):
        for bar in container.patches:
            bar.set_hatch("//" if name == "replay_other" else "")
    axes.axhline(0, color=INK, linewidth=1.2)
    axes.set_ylabel("change since θ₀ (points)")
    return finish(figure, "Which family does replay save?", caption, table, legend_columns=3)


@in_style()
def replay_mix(uses: Mapping[str, pd.DataFrame], caption: str) -> Figure:
    """Draw of which text replies and replayed tokens are, a panel each kind of replay.

    Args:
        uses: Kind of replay to its tokens: columns strength, family, tokens.
        caption: Which run this is.

    Raises:
        TableError: missing columns, or no rows.
    """
    tables = []
    figure, [line] = panels(1, len(uses), (PANELS[0], 5.0), sharey=True)
    for axes, (title, use) in zip(line, uses.items(), strict=True):
        need(use, ["strength", "family", "tokens"], "replay_mix")
        own = use.groupby(["strength", "family"], as_index=False)["tokens"].sum()
        own["share"] = 100 * own["tokens"] / own.groupby("strength")["tokens"].transform("sum")
        own["proportion"] = own["strength"].map("{:g}".format)
        shape = {"edgecolor": "white", "linewidth": 0.6}
        draw.bars(
            axes, own, "proportion", "family", "share", TEXTS, across=True, stacked=True, **shape
        )
        axes.set_ylim(-0.55, own["strength"].nunique() - 0.45)
        for container in axes.containers:
            for bar in container.patches:
                bar.set_hatch("//" if str(container.get_label()).endswith("*") else "")
        axes.set_title(title)
        axes.set_xlabel("share of reply and replayed tokens (%)")
        tables.append(own.assign(kind=title)[["kind", "strength", "family", "share"]])
    line[0].set_ylabel("replayed tokens per reply token")
    title = "What is replayed?  (* evaluated format)"
    return finish(figure, title, caption, pd.concat(tables), legend_columns=5)


# --- recorded remedies ----------------------------------------------------------------------------


@in_style()
def penalty_doses(points: pd.DataFrame, methods: Sequence[str], recorded: bool = False) -> Figure:
    """Draw reward, skill and KL along the strengths of each remedy, the weakest left.

    A row of panels for what is held back: weights, outputs, rank. A row is drawn from the seeds
    that all of it have; dashed is the plain run, if it is there.

    Args:
        points: The columns of points.csv, one study.
        methods: Remedies that have rows.
        recorded: True for a run from data/results.

    Raises:
        TableError: missing columns, several studies, no theta_0, or no row of a method.
    """
    rows = _since(points, "penalty_doses", ["reward", "skill"])
    _all_there(rows, methods, "penalty_doses")
    plain_there = [DISTIL] * (DISTIL in set(rows["method"]))
    held = {kind: [m for m in own if m in methods] for kind, own in HELD.items()}
    held = {kind: own for kind, own in held.items() if own}
    size = (PANELS[0], 1.5 + 3.1 * len(held))
    figure, grid = panels(len(held), len(DOSES), size, sharey="col")
    tables = []
    for line, (kind, group) in zip(grid, held.items(), strict=True):
        seeds = shared_seeds(rows, [*group, *plain_there], "penalty_doses")
        own = rows[rows["seed"].isin(seeds)]
        plain = own[own["method"] == DISTIL]
        table = summarise(own[own["method"].isin(group)], ["method", "strength"], list(DOSES))
        tables.append(table.assign(which=seeds_text(seeds)))
        for axes, name in zip(line, DOSES, strict=True):
            for method, stroke in strokes(group).items():
                drawn = table[table["method"] == method].sort_values("strength")
                shape = {"bars": "y", "linestyle": stroke, "linewidth": 2.0}
                draw.curve(axes, drawn, "strength", name, METHODS[method], **shape)
            if len(plain):
                label = f"{METHODS[DISTIL].label} (dashed)"
                draw.level(axes, plain[name].mean(), label)
            axes.axhline(0, color=INK, linewidth=1.2)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            if REMEDIES[group[0]].weak_is_high:
                axes.invert_xaxis()
        line[0].set_ylabel(f"{kind} ({seeds_text(seeds)})")
        line[1].set_xlabel(f"strength of {', '.join(METHODS[m].label for m in group)} (log scale)")
    for axes, title in zip(grid[0], DOSES.values(), strict=True):
        axes.set_title(title, fontsize=12.5)
    table = pd.concat(tables, ignore_index=True)
    drawn = points["seed"].isin(rows["seed"]) & points["method"].isin(methods)
    caption = run_caption(points[drawn], recorded)
    return finish(figure, "The strengths, one by one", caption, table, legend_columns=4)


def _all_there(rows: pd.DataFrame, methods: Sequence[str], figure: str) -> None:
    """Refuse methods of which nothing is recorded."""
    if absent := [name for name in methods if name not in set(rows["method"])]:
        raise TableError(
            f"{figure}: {absent[0]!r} is not recorded. Add it with: alignment-tax record tiny "
            "--methods remedies"
        )


@in_style()
def remedy_panels(
    points: pd.DataFrame,
    methods: Sequence[str],
    family: str = "skill",
    live: pd.DataFrame | None = None,
    recorded: bool = True,
) -> Figure:
    """Draw recorded remedies by strength against averages of the plain run, a panel each.

    A curve goes from theta_0 over the strongest strength to the weakest, and on to the plain run
    where it fades into that; these two strengths are written beside their points. All of a panel
    is drawn from the seeds in its title.

    Args:
        points: The columns of points.csv, one study, with the plain run and its averages.
        methods: Remedies, one panel each.
        family: The score on the y axis.
        live: Points of this run, one seed; its model of the panel's method is a hollow star.
        recorded: True for a run from data/results.

    Raises:
        TableError: missing columns, no theta_0, or a method that is not recorded.
    """
    figure_name, values = "remedy_panels", ["reward", *FAMILY_NAMES]
    rows = _since(points, figure_name, values)
    _all_there(rows, [DISTIL, DISTILLED_AVERAGE, *methods], figure_name)
    across = min(4, len(methods))
    down = -(-len(methods) // across)
    size = (PANELS[0], 1.8 + 3.1 * down)
    figure, grid = panels(down, across, size, used=len(methods), sharex=True, sharey=True)
    tables, named = [], []
    for axes, method in zip(grid.flat, methods, strict=False):
        seeds = shared_seeds(rows, [DISTIL, DISTILLED_AVERAGE, method], figure_name)
        own = rows[rows["seed"].isin(seeds)]
        own = own[own["method"].isin([DISTIL, DISTILLED_AVERAGE, method])]
        table = summarise(own, ["method", "strength", "alpha"], values)
        tables.append(table.assign(panel=method, which=seeds_text(seeds)))
        plain, averages, curve = (
            table[table["method"] == name] for name in (DISTIL, DISTILLED_AVERAGE, method)
        )
        remedy, way = REMEDIES[method], METHODS[DISTILLED_AVERAGE]
        averages = averages.sort_values("alpha")
        curve = curve.sort_values("strength", ascending=remedy.weak_is_high)
        shape: dict[str, Any] = {"markersize": 6, "linewidth": 1.6, "elinewidth": 0.8}
        draw.curve(axes, averages, "reward", family, way, **shape)
        # no line from theta_0 where there is no weak setting: there is no model in between
        weak = curve["reward"].min() <= HALF_WAY * plain["reward"].iloc[0]
        line = _from_theta_0(curve, "reward", family) if weak else curve
        line = pd.concat([line, plain]) if remedy.fades else line
        faint = own[own["method"] == method]
        look = METHODS[method]
        draw.curve(axes, line, "reward", family, look, label="_", seeds=faint, **shape)
        draw.curve(axes, plain, "reward", family, METHODS[DISTIL], **shape)
        if live is not None:
            mine = _since(live, figure_name, values)
            for _, model in mine[mine["method"] == method].iterrows():
                draw.star(axes, model["reward"], model[family], label="this run (one seed)")
        axes.set_title(f"{look.label}\n({seeds_text(seeds)})", fontsize=11.5)
        named.append((curve.iloc[[0, -1]].drop_duplicates(), table))
    for axes in grid[-1]:
        axes.set_xlabel(GAIN)
    for axes in grid[:, 0]:
        axes.set_ylabel("change since θ₀ (points)  →")
    what = "mean skill" if family == "skill" else FAMILY_NAMES[family]
    drawn = points["method"].isin([DISTIL, *methods]) & points["seed"].isin(rows["seed"])
    caption = run_caption(points[drawn], recorded) + f"{draw.FAINT} · numbers: strengths"
    title = f"{what.capitalize()} against reward: each remedy beside averaging"
    table = pd.concat(tables, ignore_index=True)
    table = table[["panel", "which", *table.columns.drop(["panel", "which"])]]
    finish(figure, title, caption, table, legend_columns=3)
    for axes, (ends, near) in zip(grid.flat, named, strict=False):
        texts = [f"{strength:g}" for strength in ends["strength"]]
        draw.notes(axes, texts, ends[["reward", family]], near[["reward", family]])
    return figure
