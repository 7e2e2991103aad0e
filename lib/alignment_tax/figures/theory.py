"""Why averaging works: the gain of averaging in the feature model, simulated beside its formula."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures.look import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PANELS,
    VERMILLION,
    WIDE,
    FigureError,
    Look,
    bar_lengths,
    canvas,
    draw_line,
    finish,
    style,
)
from alignment_tax.labels import number, spread
from alignment_tax.results.points import finite, need
from alignment_tax.stats.compare import interval

WORLD = ["features", "p", "labels"]
AVERAGES: dict[str, Look] = {
    "outputs": Look("averaged outputs, simulated", GREEN, "^"),
    "weights": Look("averaged weights, simulated", BLUE, "o"),
}
FORMULAS: dict[str, tuple[str, str, str]] = {
    "printed": ("Proposition 5.1 as printed", BLACK, "--"),
    "weights": ("the same, a shared feature counted 4 times", VERMILLION, ":"),
}
MOST_PANELS = 4


def effectiveness_table(repeats: pd.DataFrame) -> pd.DataFrame:
    """Return the gain of averaging for every world, overlap and way of averaging.

    Args:
        repeats: one row per repeat of a simulation: features (n), p, labels ("same" or
            "different"), shared (n_o), average ("outputs" or "weights"), gain (xi in points).

    Returns:
        Columns features, p, labels, average, shared, repeats, gain, low, high: mean and 95 % t
        interval over repeats (NaN for one).

    Raises:
        FigureError: missing columns, no rows, a gain that is no finite number, an unknown average.
    """
    figure = "effectiveness"
    need(repeats, [*WORLD, "shared", "average", "gain"], figure)
    finite(repeats["gain"], figure, "gains")
    unknown = sorted(set(repeats["average"]) - set(AVERAGES))
    if unknown:
        raise FigureError(f"{figure}: average is one of {', '.join(AVERAGES)}, not {unknown[0]!r}.")
    rows = []
    keys = [*WORLD, "average", "shared"]
    for key, group in repeats.groupby(keys, sort=False):
        mean, low, high = interval(group["gain"])
        row = dict(zip(keys, key, strict=True))
        rows.append({**row, "repeats": len(group), "gain": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def effectiveness(repeats: pd.DataFrame, formulas: pd.DataFrame, *, caption: str) -> Figure:
    """Draw the gain of averaging against the overlap n_o, a panel for each world.

    Args:
        repeats: as `effectiveness_table`, of one to four worlds.
        formulas: the lines beside them: features, p, labels, shared, and the predicted gains in
            points, `printed` and `weights` (NaN where there is no formula).
        caption: which run this is.

    Raises:
        FigureError: as `effectiveness_table`, or too many worlds for one figure.
    """
    table = effectiveness_table(repeats)
    need(formulas, [*WORLD, "shared", *FORMULAS], "effectiveness")
    worlds = list(table.groupby(WORLD, sort=False))
    if len(worlds) > MOST_PANELS:
        raise FigureError(f"effectiveness draws up to {MOST_PANELS} worlds, not {len(worlds)}.")
    columns = min(2, len(worlds))
    size = PANELS if len(worlds) > 2 else (PANELS[0] if columns == 2 else WIDE[0], 4.9)
    with style():
        figure = canvas(size)
        panels = figure.subplots(
            -(-len(worlds) // columns), columns, sharey=True, squeeze=False
        ).ravel()
        parts = []
        for axes, (key, rows) in zip(panels, worlds, strict=False):
            world = dict(zip(WORLD, key, strict=True))
            lines = formulas[(formulas[WORLD] == pd.Series(world)).all(axis=1)]
            parts.append(_effectiveness_panel(axes, world, rows, lines))
        for axes in panels[len(worlds) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("gain ξ (points of accuracy)")
        count = int(table["repeats"].max())
        alt = f"Gain of averaging against shared features ({caption}). {' '.join(parts)}"
        line = f"{caption} · mean, 95 % t interval over {count} repeats" if count > 1 else caption
        return finish(figure, "What does averaging gain?", line, alt, 2)


def _effectiveness_panel(
    axes: Axes, world: dict[str, object], rows: pd.DataFrame, lines: pd.DataFrame
) -> str:
    """Draw one world and return what it shows in words."""
    title = f"n = {world['features']}, p = {world['p']:g}, {world['labels']} labels"
    axes.axhline(0, color="#333333", linewidth=1.2)
    for name, (label, colour, dash) in FORMULAS.items():
        known = lines.dropna(subset=[name]).sort_values("shared")
        if not known.empty:
            axes.plot(known["shared"], known[name], dash, color=colour, label=label, zorder=1.5)
    said = []
    for average, group in rows.groupby("average", sort=False):
        curve = group.sort_values("shared")
        x, y, low, high = (curve[c].to_numpy() for c in ("shared", "gain", "low", "high"))
        draw_line(axes, x, y, low, high, AVERAGES[str(average)])
        each = [
            f"n_o = {r['shared']}: {spread(r['gain'], r['low'], r['high'], sign=True)}"
            for r in curve.to_dict("records")
        ]
        said.append(f"averaged {average} {', '.join(each)}")
    axes.set_title(title)
    axes.set_xlabel("shared features $n_o$")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    return f"{title}: {'; '.join(said)}."


def limit_table(repeats: pd.DataFrame) -> pd.DataFrame:
    """Return simulated and predicted accuracy of a single model by its number of features.

    Args:
        repeats: one row per repeat: features (n), accuracy (percent, simulated), predicted
            (percent, F_p; the same in all repeats of one n).

    Returns:
        Columns features, repeats, accuracy, low, high, predicted, error (accuracy - predicted).

    Raises:
        FigureError: missing columns, no rows, or a value that is no finite number.
    """
    figure = "limit"
    need(repeats, ["features", "accuracy", "predicted"], figure)
    finite(repeats[["accuracy", "predicted"]], figure, "accuracies")
    rows = []
    for features, group in repeats.groupby("features"):
        mean, low, high = interval(group["accuracy"])
        predicted = float(group["predicted"].iloc[0])
        rows.append(
            {"features": features, "repeats": len(group), "accuracy": mean, "low": low,
             "high": high, "predicted": predicted, "error": mean - predicted}
        )  # fmt: skip
    return pd.DataFrame(rows)


def limit(repeats: pd.DataFrame, *, caption: str) -> Figure:
    """Draw the accuracy of a single model against its number of features, and the normal limit.

    Args and errors as `limit_table`; `caption` says which run this is.
    """
    table = limit_table(repeats)
    x = table["features"].to_numpy()
    with style():
        figure = canvas((WIDE[0], 4.8))
        axes = figure.add_subplot()
        axes.plot(
            x, table["predicted"], color=BLACK, linestyle="--", marker="D",
            markerfacecolor="white", label="normal limit $F_p$",
        )  # fmt: skip
        axes.errorbar(
            x, table["accuracy"], color=ORANGE, marker="s", markeredgecolor="white",
            yerr=bar_lengths(table["accuracy"], table["low"], table["high"]),
            label="one model, simulated",
        )  # fmt: skip
        for row in table.to_dict("records"):
            axes.annotate(
                number(row["error"], sign=True), (row["features"], row["accuracy"]), xytext=(0, -9),
                textcoords="offset points", ha="center", va="top", fontsize=11,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(x, [str(value) for value in x])
        axes.minorticks_off()
        axes.margins(x=0.07, y=0.15)
        axes.set_xlabel("features n of the model (log scale)")
        axes.set_ylabel("accuracy (%)")
        each = [
            f"n = {r['features']}: simulated {spread(r['accuracy'], r['low'], r['high'])}, "
            f"limit {number(r['predicted'])}"
            for r in table.to_dict("records")
        ]
        count = int(table["repeats"].max())
        line = f"{caption} · mean, 95 % t interval over {count} repeats" if count > 1 else caption
        alt = f"Accuracy of a single model against n ({caption}). {'; '.join(each)}."
        return finish(figure, "How many features does the formula need?", line, alt, 2)
