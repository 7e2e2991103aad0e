"""What remedies do to weights and outputs: distances, spectra, paths of training, graft's masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures import primitives as draw
from alignment_tax.figures.style import (
    BLACK,
    GREEN,
    GREY,
    METHODS,
    PANELS,
    PURPLE,
    SKY,
    Look,
    finish,
    in_style,
    look_of,
    panels,
)
from alignment_tax.results.points import TableError, need

#: The three ways in which `mitigate.output_penalty` measures how far the outputs are.
DISTANCES = {
    "forward": Look("KD: KL(θ₀ ‖ θ)", PURPLE, ">"),
    "reverse": Look("KL penalty: KL(θ ‖ θ₀)", SKY, "<"),
    "squared": Look("squared distance", GREEN, "s"),
}
#: What theta_0 says to three tokens in `penalty_distances`.
THREE_TOKENS = (0.6, 0.399, 0.001)
#: Averages along a path share a colour: strokes tell them apart.
PATHS = {
    "trained": (replace(METHODS["distil"], label="the plain run"), "-"),
    "SMA": (METHODS["sma"], "-"),
    "EMA": (METHODS["ema"], "--"),
    "BEMA": (METHODS["bema"], ":"),
}
MASKS = {
    "average": replace(METHODS["distil+average"], label="averaging, α = share of the norm"),
    "largest": replace(METHODS["graft"], label="graft: the largest changes"),
    "random": replace(METHODS["graft_random"], label="graft: at random"),
    "learnt": replace(METHODS["graft_learnt"], label="graft: learnt"),
}
FILLS = {"largest": (BLACK, ""), "random": ("white", "///"), "learnt": ("#BBBBBB", "...")}
KINDS = {"all": "all", "embedding": "embeddings", "linear": "linear", "norm": "norms",
         "head": "head"}  # fmt: skip


def strokes(methods: Iterable[str]) -> dict[str, str]:
    """Return the stroke of each method's line: dashed where its colour is taken."""
    taken: set[str] = set()
    found = {}
    for method in methods:
        colour = look_of("rsf", method).colour
        found[method] = "--" if colour in taken else "-"
        taken.add(colour)
    return found


@in_style()
def penalty_distances() -> Figure:
    """Draw the three distances between outputs where a token is dropped, and where one is added.

    Its table has the panel, the student's probability, and forward, reverse and squared distance.
    In the panel "drops" the student is the probability of the second token, which the first gains;
    in "adds" that of the third, which the other two lose in proportion.
    """
    first, second, third = p = np.array(THREE_TOKENS)
    dropped = np.logspace(np.log10(second), -6, 400)
    added = np.logspace(np.log10(third), np.log10(0.5), 400)
    rest = (1 - added) / (first + second)
    students = {
        "drops": [1 - third - dropped, dropped, np.full(400, third)],
        "adds": [rest * first, rest * second, added],
    }
    table = []
    for (panel, columns), student in zip(students.items(), (dropped, added), strict=True):
        q = np.stack(columns, axis=1)
        ratio = np.log(p) - np.log(q)
        distances = {"forward": p * ratio, "reverse": -q * ratio, "squared": (p - q) ** 2}
        sums = {name: each.sum(axis=1) for name, each in distances.items()}
        table.append(pd.DataFrame({"panel": panel, "student": student, **sums}))
    titles = ("the policy drops the second token", "the policy says the third token more and more")
    figure, [line] = panels(1, 2, (PANELS[0], 5.0), sharey=True)
    for axes, own, title in zip(line, table, titles, strict=True):
        for name, look in DISTANCES.items():
            draw.line(axes, own, "student", name, look)
        start = own["student"].iloc[0]
        draw.level(axes, start, upright=True)
        axes.set_xscale("log")
        axes.set_title(title, fontsize=12.5)
        axes.set_xlabel(f"its probability (θ₀: {start:g}, dashed)")
    line[0].invert_xaxis()
    line[0].set_ylabel("distance")
    said = ", ".join(f"{value:g}" for value in THREE_TOKENS)
    caption = f"worked out; three tokens, to which θ₀ gives {said}"
    title = "Three ways to be far from θ₀"
    return finish(figure, title, caption, pd.concat(table), legend_columns=3)


@in_style()
def penalty_changes(shares: Mapping[str, pd.DataFrame], *, caption: str) -> Figure:
    """Draw how many weights moved by how many steps, a line a run.

    Its table has for each run the share that moved by less than one learning rate (percent), and
    by how many of these half of them moved less.

    Args:
        shares: Method to the histogram of its run: steps (learning rates), share (percent).
        caption: Which run this is.

    Raises:
        TableError: no run, an unknown method, or missing columns.
    """
    if not shares:
        raise TableError("penalty_changes has nothing to draw: there is no run.")
    figure, [[axes]] = panels()
    table = []
    for (method, own), stroke in zip(shares.items(), strokes(shares).values(), strict=True):
        need(own, ["steps", "share"], "penalty_changes")
        draw.line(axes, own, "steps", "share", look_of("rsf", method), linestyle=stroke)
        little = own.loc[own["steps"] < 1, "share"].sum()
        half = own["steps"].iloc[int((own["share"].cumsum() < 50).sum())]
        table.append({"method": method, "less_than_one_rate": little, "half_less_than": half})
    draw.level(axes, 1, upright=True)
    axes.set_xscale("log")
    axes.set_xlabel(
        "change of a weight since θ₀, in learning rates of the plain run (far left: that or less)"
    )
    axes.set_ylabel("share of the weights that moved (%)")
    axes.set_ylim(bottom=0)
    title = "How far does each weight go?"
    return finish(figure, title, caption, pd.DataFrame(table), legend_columns=3)


@in_style()
def lora_spectra(values: Mapping[str, np.ndarray], *, caption: str) -> Figure:
    """Draw the singular values of the change of one matrix, a line a run.

    Thin dots mark a thousandth of each run's largest: what lies above counts as a direction.

    Args:
        values: Method to the singular values of its run, the largest first.
        caption: Which run and which matrix this is.

    Raises:
        TableError: no run, an unknown method, or a run that did not move.
    """
    if not values:
        raise TableError("lora_spectra has nothing to draw: there is no run.")
    figure, [[axes]] = panels()
    table = []
    for (method, each), stroke in zip(values.items(), strokes(values).values(), strict=True):
        if not each.max() > 0:
            raise TableError(f"lora_spectra: under {method!r} the matrix did not move.")
        own = pd.DataFrame({"number": np.arange(1, len(each) + 1), "value": each})
        look = look_of("rsf", method)
        draw.line(axes, own, "number", "value", look, linestyle=stroke)
        axes.axhline(each.max() / 1000, color=look.colour, linewidth=1, linestyle=":")
        count = int((each > each.max() / 1000).sum())
        table.append({"method": method, "largest": each.max(), "values": len(each),
                      "above_a_thousandth": count})  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(each.max() for each in values.values()) * 1e-7)
    axes.set_xlabel("number of the singular value")
    axes.set_ylabel("singular value of the change")
    title = "How far, and in how many directions? (dotted: a thousandth)"
    return finish(figure, title, caption, pd.DataFrame(table), legend_columns=3)


@in_style()
def path_lengths(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw how far a run and averages along it are from theta_0, in percent of the run's end.

    Args:
        rows: Columns step, trained and one per average (SMA, EMA, BEMA): distances from theta_0.
        caption: Which run this is.

    Raises:
        TableError: missing columns, no rows, or a run that did not move.
    """
    need(rows, ["step", "trained"], "path_lengths")
    rows = rows.sort_values("step", ignore_index=True)
    if not (end := float(rows["trained"].iloc[-1])) > 0:
        raise TableError("path_lengths: the run did not move from theta_0.")
    names = [name for name in PATHS if name in rows]
    table = rows[["step"]].join(100 * rows[names] / end)
    figure, [[axes]] = panels()
    for name in names:
        look, stroke = PATHS[name]
        often = max(1, len(table) // 8)
        draw.curve(axes, table, "step", name, look, bars="", linestyle=stroke, markevery=often)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step of the one finetuning")
    axes.set_ylabel("distance from θ₀ (% of the end's)  →")
    axes.set_ylim(bottom=0)
    return finish(figure, "How far from θ₀?", caption, table, legend_columns=2)


@in_style()
def graft_masks(norms: pd.DataFrame, masks: pd.DataFrame, caption: str) -> Figure:
    """Draw what a mask keeps of the norm of the change, and in which kinds of weights.

    Args:
        norms: Columns density, largest, random: the shares of the norm that are kept.
        masks: Columns mask, kind, density, norm.
        caption: Which run this is.

    Raises:
        TableError: missing columns, or no rows.
    """
    need(norms, ["density", "largest", "random"], "graft_masks")
    need(masks, ["mask", "kind", "density", "norm"], "graft_masks")
    figure, [[left, right]] = panels(1, 2, (PANELS[0], 4.8))
    line = Look("line: the largest changes", BLACK, "")
    draw.line(left, norms, "density", "largest", line, marker=".")
    due = Look("dashed: √density, due to random ones", GREY, "")
    draw.line(left, norms, "density", "random", due, linestyle="--")
    whole = masks[masks["kind"] == "all"]
    for name, own in whole.groupby("mask", sort=False):
        look = MASKS[str(name)]
        face = "white" if name == "random" else FILLS[str(name)][0]
        draw.scatter(
            left, own, "density", "norm", replace(look, label=f"{look.label} (left)"),
            markersize=10, markerfacecolor=face, markeredgecolor=look.colour, zorder=4,
        )  # fmt: skip
    left.set_xscale("log")
    left.set_xticks(norms["density"], [f"{d:g}" for d in norms["density"]], minor=False)
    left.minorticks_off()
    left.set(ylim=(0, 1.03), xlabel="density of the mask", ylabel="share of the norm that is kept")
    left.set_title("by density")
    bars = masks.assign(percent=100 * masks["density"], kind=masks["kind"].map(KINDS))
    bars = bars.sort_values("kind", key=lambda each: each.map(list(KINDS.values()).index))
    draw.bars(right, bars, "kind", "mask", "percent", MASKS, edgecolor=BLACK, linewidth=0.8)
    drawn = [name for name in MASKS if name in set(masks["mask"])]
    for name, container in zip(drawn, right.containers, strict=True):
        for bar in container.patches:
            bar.set(facecolor=FILLS[name][0], hatch=FILLS[name][1])
    densities = " and ".join(f"{d:.2g}" for d in sorted(set(whole["density"].round(4))))
    right.set_title(f"by kind of weight, at density {densities}")
    right.set_ylabel("changes that are kept (%)")
    along = norms.melt("density", ["largest", "random"], "mask", "norm")
    table = pd.concat([along.assign(series="line"), masks.assign(series="measured")])
    table = table[["series", "mask", "kind", "density", "norm"]]
    return finish(figure, "What does a mask keep?", caption, table, legend_columns=3)


@in_style()
def same_norm(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw reward and skill of grafts and averages against their norm, and against each other.

    Args:
        rows: Columns mask ("average" or a mask's name), norm (share of the whole change's), reward
            (gained over theta_0), skill (change since theta_0, points); one row per model.
        caption: Which run this is.

    Raises:
        TableError: missing columns, or no rows.
    """
    need(rows, ["mask", "norm", "reward", "skill"], "same_norm")
    table = rows[["mask", "norm", "reward", "skill"]].sort_values(["mask", "norm"])
    names = {
        "norm": "norm of the change (1: the plain run's)",
        "reward": "reward gained over θ₀  →",
        "skill": "mean skill minus θ₀'s (points)  →",
    }
    figure, [line] = panels(1, 3, (1.25 * PANELS[0], 4.8))
    planes = (("norm", "reward"), ("norm", "skill"), ("reward", "skill"))
    for axes, (x, y) in zip(line, planes, strict=True):
        for mask, own in table.groupby("mask"):
            along = mask == "average"
            draw.curve(
                axes, own, x, y, MASKS[str(mask)], bars="", linestyle="-" if along else "none",
                markersize=8 if along else 11, zorder=2 if along else 3,
            )  # fmt: skip
        axes.set(xlabel=names[x], ylabel=names[y])
        axes.set_title(f"at equal {x}")
    return finish(figure, "Graft or average?", caption, table, legend_columns=4)
