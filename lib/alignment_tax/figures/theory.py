"""Why averaging works: the bend along alpha, the ways from theta_0 to theta, the feature model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures import primitives as draw, style
from alignment_tax.figures.style import Look, run_caption
from alignment_tax.results import points as select
from alignment_tax.stats.compare import summarise

WORLD = ["features", "p", "labels"]
AVERAGES = {
    "outputs": Look("averaged outputs, simulated", style.GREEN, "^"),
    "weights": Look("averaged weights, simulated", style.BLUE, "o"),
}
FORMULAS = {
    "printed": (Look("Proposition 5.1 as printed", style.BLACK), "--"),
    "weights": (Look("the same, a shared feature counted 4 times", style.VERMILLION), ":"),
}
SHARES = {
    "reward": Look("reward gained", style.BLUE, "o"),
    "tax": Look("forgetting", style.VERMILLION, "s"),
}
#: From theta_0 to the aligned model: weights, logits, weights with hidden units numbered anew.
WAYS = {
    "weights": Look("averaged weights", style.BLUE, "o"),
    "outputs": Look("averaged outputs", style.GREEN, "^"),
    "renumbered": Look("weights, units renumbered", style.VERMILLION, "s"),
}


@style.in_style()
def effectiveness(repeats: pd.DataFrame, formulas: pd.DataFrame, *, caption: str) -> Figure:
    """Draw the gain of averaging against the overlap n_o, a panel for each world, four at most.

    `repeats` has a row per simulation: features (n), p, labels, shared (n_o), average ("outputs" or
    "weights"), gain (xi in points). `formulas` predict gains: `printed`, `weights` (NaN: none).
    """
    select.need(repeats, [*WORLD, "shared", "average", "gain"])
    select.need(formulas, [*WORLD, "shared", *FORMULAS])
    select.finite(repeats["gain"], "gains")
    table = summarise(repeats, [*WORLD, "average", "shared"], ["gain"])
    table = table.sort_values("labels", ascending=False, kind="stable")
    worlds = list(table.groupby(WORLD, sort=False))
    if len(worlds) > 4:
        raise select.TableError(f"effectiveness draws up to 4 worlds, not {len(worlds)}.")
    across, down = min(2, len(worlds)), (len(worlds) + 1) // 2
    size = style.PANELS if down > 1 else (style.PANELS[0] if across > 1 else style.WIDE[0], 4.9)
    figure, grid = style.panels(
        down, across, size, used=len(worlds), sharey=True, xlabel="shared features $n_o$",
        ylabel="gain ξ (points of accuracy)",
    )  # fmt: skip
    for axes, (world, own) in zip(grid.flat, worlds, strict=False):
        axes.axhline(0, color=style.INK, linewidth=1.2)
        lines = formulas[(formulas[WORLD] == list(world)).all(axis=1)]
        for name, (look, stroke) in FORMULAS.items():
            if len(known := lines.dropna(subset=[name])):
                draw.line(axes, known, "shared", name, look, linestyle=stroke, zorder=1.5)
        draw.curves(axes, own, "average", "shared", "gain", AVERAGES)
        axes.set_title(f"n = {world[0]}, p = {world[1]:g}, {world[2]} labels")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    count = table["seeds"].max()
    caption += f" · mean, 95 % t interval over {count} repeats" * bool(count > 1)
    table = table.rename(columns={"seeds": "repeats"})
    return style.finish(figure, "What does averaging gain?", caption, table, legend_columns=2)


@style.in_style()
def shares_along(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw which share of RSF's reward and of its tax averages have, and dashed straight lines."""
    values = ["reward", "forgetting"]
    rows = select.prepare(select.main_line(points), values)
    rows = rows[(rows["algorithm"] == "rsf") & (rows["method"] == "average")]
    if rows.empty:
        raise select.TableError("shares_along needs rows of rsf with method 'average'.")
    means = summarise(rows, ["alpha"], values)
    gone = means[values] - means[values].iloc[0]
    table = means[["alpha", "seeds"]].assign(line=100 * means["alpha"])
    table[[*SHARES]] = 100 * gone / gone.iloc[-1]
    figure, [[axes]] = style.panels(xlabel=style.ALONG, ylabel="share of what RSF changed (%)")
    for name, look in SHARES.items():
        draw.curve(axes, table, "alpha", name, look)
    straight = Look("if both ran in straight lines", style.GREY)
    draw.line(axes, table, "alpha", "line", straight, linestyle="--", zorder=1)
    axes.set_xticks(np.linspace(0, 1, 6))
    caption = run_caption(points[points["seed"].isin(rows["seed"])], recorded).split(" · ")[0]
    title = "How much of both has come at α?"
    caption, table = f"{caption} · of means over seeds", table.drop(columns="line")
    return style.finish(figure, title, caption, table, legend_columns=3)


@style.in_style()
def ways(
    rows: pd.DataFrame, value: str, shown: Sequence[str], title: str, *, caption: str
) -> Figure:
    """Draw ways from theta_0 to the aligned model, a panel for each thing that is measured.

    `rows` have panel, way (of `WAYS`), alpha, `value`. Dashed: straight between ends of shown[0].
    """
    select.need(rows, ["panel", "way", "alpha", value])
    select.finite(rows[value], value)
    table = rows[rows["way"].isin(shown)].sort_values(["panel", "way", "alpha"])
    panels = list(dict.fromkeys(rows["panel"]))
    size = (style.PANELS[0] if len(panels) > 1 else style.WIDE[0], 4.8)
    figure, [line] = style.panels(1, len(panels), size, xlabel=style.ALONG)
    for axes, panel in zip(line, panels, strict=True):
        own = table[table["panel"] == panel]
        ends = own[own["way"] == shown[0]].iloc[[0, -1]]
        chord = Look("straight line between the ends", style.GREY)
        draw.line(axes, ends, "alpha", value, chord, linestyle="--", zorder=1)
        draw.curves(axes, own, "way", "alpha", value, {way: WAYS[way] for way in shown})
        axes.set_title(panel if len(panels) > 1 else "")
        axes.set_xticks(np.linspace(0, 1, 6))
    table = table[["panel", "way", "alpha", value]]
    return style.finish(figure, title, caption, table, legend_columns=len(shown) + 1)
