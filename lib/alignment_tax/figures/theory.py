"""Why averaging works: the gain of averaging in the feature model, simulated beside its formula.

`caption` says which run it is. What cannot be drawn is a TableError.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.style import Look
from alignment_tax.labels import number
from alignment_tax.results.points import TableError, finite, need
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


@style.in_style()
def effectiveness(repeats: pd.DataFrame, formulas: pd.DataFrame, *, caption: str) -> Figure:
    """Draw the gain of averaging against the overlap n_o, a panel for each world, four at most.

    Args:
        repeats: One row per repeat of a simulation: features (n), p, labels ("same" or
            "different"), shared (n_o), average ("outputs" or "weights"), gain (xi in points).
        formulas: The lines beside them: features, p, labels, shared, and the predicted gains in
            points, `printed` and `weights` (NaN where there is no formula).
    """
    need(repeats, [*WORLD, "shared", "average", "gain"], "effectiveness")
    need(formulas, [*WORLD, "shared", *FORMULAS], "effectiveness")
    finite(repeats["gain"], "effectiveness", "gains")
    if unknown := sorted(set(repeats["average"]) - set(AVERAGES)):
        raise TableError(f"average is one of {', '.join(AVERAGES)}, not {unknown[0]!r}.")
    table = summarise(repeats, [*WORLD, "average", "shared"], ["gain"])
    table = table.sort_values("labels", ascending=False, kind="stable")
    worlds = list(table.groupby(WORLD, sort=False))
    if len(worlds) > 4:
        raise TableError(f"effectiveness draws up to 4 worlds, not {len(worlds)}.")
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
    return _finish(figure, "What does averaging gain?", caption, table)


@style.in_style()
def limit(repeats: pd.DataFrame, *, caption: str) -> Figure:
    """Draw the accuracy of a single model against its number of features, and the normal limit.

    One row per repeat: features (n), accuracy (percent, simulated), predicted (percent, F_p; the
    same in all repeats of one n).
    """
    need(repeats, ["features", "accuracy", "predicted"], "limit")
    finite(repeats[["accuracy", "predicted"]], "limit", "accuracies")
    table = summarise(repeats, ["features", "predicted"], ["accuracy"])
    table["error"] = table["accuracy"] - table["predicted"]
    figure, [[axes]] = style.panels(1, 1, (style.WIDE[0], 4.8))
    normal = Look("normal limit $F_p$", style.BLACK, "D")
    draw.curve(axes, table, "features", "predicted", normal, bars="", hollow=True, linestyle="--")
    simulated = Look("one model, simulated", style.ORANGE, "s")
    draw.curve(axes, table, "features", "accuracy", simulated)
    for n, y, error in table[["features", "accuracy", "error"]].to_numpy():
        draw.note(axes, number(error, sign=True), n, y, (0, -1), bbox=None)
    axes.set_xscale("log")
    axes.set_xticks(table["features"], [str(n) for n in table["features"]])
    axes.minorticks_off()
    axes.margins(x=0.07, y=0.15)
    axes.set(xlabel="features n of the model (log scale)", ylabel="accuracy (%)")
    return _finish(figure, "How many features does the formula need?", caption, table)


def _finish(figure: Figure, title: str, caption: str, table: pd.DataFrame) -> Figure:
    if (count := int(table["seeds"].max())) > 1:
        caption += f" · mean, 95 % t interval over {count} repeats"
    table = table.rename(columns={"seeds": "repeats"})
    return style.finish(figure, title, caption, table, legend_columns=2)
