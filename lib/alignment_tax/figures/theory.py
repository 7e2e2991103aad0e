"""Why averaging works: the gain of averaging in the feature model, simulated beside its formula."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures import primitives as draw
from alignment_tax.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PANELS,
    VERMILLION,
    WIDE,
    Look,
    finish,
    in_style,
    panels,
)
from alignment_tax.labels import number
from alignment_tax.results.points import TableError, finite, need
from alignment_tax.stats.compare import summarise

WORLD = ["features", "p", "labels"]
AVERAGES = {
    "outputs": Look("averaged outputs, simulated", GREEN, "^"),
    "weights": Look("averaged weights, simulated", BLUE, "o"),
}
FORMULAS = {
    "printed": (Look("Proposition 5.1 as printed", BLACK, ""), "--"),
    "weights": (Look("the same, a shared feature counted 4 times", VERMILLION, ""), ":"),
}
MOST_PANELS = 4


@in_style()
def effectiveness(repeats: pd.DataFrame, formulas: pd.DataFrame, *, caption: str) -> Figure:
    """Draw the gain of averaging against the overlap n_o, a panel for each world.

    Args:
        repeats: One row per repeat of a simulation: features (n), p, labels ("same" or
            "different"), shared (n_o), average ("outputs" or "weights"), gain (xi in points).
        formulas: The lines beside them: features, p, labels, shared, and the predicted gains in
            points, `printed` and `weights` (NaN where there is no formula).
        caption: Which run this is.

    Raises:
        TableError: missing columns, no rows, a gain that is no finite number, an unknown average,
            or more than four worlds.
    """
    need(repeats, [*WORLD, "shared", "average", "gain"], "effectiveness")
    need(formulas, [*WORLD, "shared", *FORMULAS], "effectiveness")
    finite(repeats["gain"], "effectiveness", "gains")
    if unknown := sorted(set(repeats["average"]) - set(AVERAGES)):
        raise TableError(f"average is one of {', '.join(AVERAGES)}, not {unknown[0]!r}.")
    table = summarise(repeats, [*WORLD, "average", "shared"], ["gain"])
    table = table.sort_values("labels", ascending=False, kind="stable", ignore_index=True)
    worlds = list(table.groupby(WORLD, sort=False))
    if len(worlds) > MOST_PANELS:
        raise TableError(f"effectiveness draws up to {MOST_PANELS} worlds, not {len(worlds)}.")
    across = min(2, len(worlds))
    size = PANELS if len(worlds) > 2 else (PANELS[0] if across == 2 else WIDE[0], 4.9)
    figure, grid = panels(-(-len(worlds) // across), across, size, used=len(worlds), sharey=True)
    for axes, (world, own) in zip(grid.flat, worlds, strict=False):
        axes.axhline(0, color=INK, linewidth=1.2)
        lines = formulas[(formulas[WORLD] == list(world)).all(axis=1)]
        for name, (look, stroke) in FORMULAS.items():
            if len(known := lines.dropna(subset=[name])):
                draw.line(axes, known, "shared", name, look, linestyle=stroke, zorder=1.5)
        for average, curve in own.groupby("average"):
            draw.curve(axes, curve, "shared", "gain", AVERAGES[str(average)])
        axes.set_title(f"n = {world[0]}, p = {world[1]:g}, {world[2]} labels")
        axes.set_xlabel("shared features $n_o$")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    for axes in grid[:, 0]:
        axes.set_ylabel("gain ξ (points of accuracy)")
    return finish(
        figure, "What does averaging gain?", _repeated(caption, table),
        table.rename(columns={"seeds": "repeats"}), legend_columns=2,
    )  # fmt: skip


def _repeated(caption: str, table: pd.DataFrame) -> str:
    count = int(table["seeds"].max())
    return f"{caption} · mean, 95 % t interval over {count} repeats" if count > 1 else caption


@in_style()
def limit(repeats: pd.DataFrame, *, caption: str) -> Figure:
    """Draw the accuracy of a single model against its number of features, and the normal limit.

    Args:
        repeats: One row per repeat: features (n), accuracy (percent, simulated), predicted
            (percent, F_p; the same in all repeats of one n).
        caption: Which run this is.

    Raises:
        TableError: missing columns, no rows, or a value that is no finite number.
    """
    need(repeats, ["features", "accuracy", "predicted"], "limit")
    finite(repeats[["accuracy", "predicted"]], "limit", "accuracies")
    table = summarise(repeats, ["features", "predicted"], ["accuracy"])
    table["error"] = table["accuracy"] - table["predicted"]
    figure, [[axes]] = panels(1, 1, (WIDE[0], 4.8))
    normal = Look("normal limit $F_p$", BLACK, "D")
    draw.curve(axes, table, "features", "predicted", normal, bars="", hollow=True, linestyle="--")
    simulated = Look("one model, simulated", ORANGE, "s")
    draw.curve(axes, table, "features", "accuracy", simulated)
    for n, y, error in table[["features", "accuracy", "error"]].itertuples(index=False):
        draw.note(axes, number(error, sign=True), n, y, (0, -1), bbox=None)
    axes.set_xscale("log")
    axes.set_xticks(table["features"], [str(n) for n in table["features"]])
    axes.minorticks_off()
    axes.margins(x=0.07, y=0.15)
    axes.set_xlabel("features n of the model (log scale)")
    axes.set_ylabel("accuracy (%)")
    return finish(
        figure, "How many features does the formula need?", _repeated(caption, table),
        table.rename(columns={"seeds": "repeats"}), legend_columns=2,
    )  # fmt: skip
