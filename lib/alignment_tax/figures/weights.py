"""What remedies do to weights and outputs: distances, spectra, paths of training, graft's masks.

`caption` says which run it is. What cannot be drawn is a TableError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.style import METHODS, Look
from alignment_tax.results.points import TableError, need

#: The three ways in which `mitigate.output_penalty` measures how far the outputs are.
DISTANCES = {
    "forward": Look("KD: KL(θ₀ ‖ θ)", style.PURPLE),
    "reverse": Look("KL penalty: KL(θ ‖ θ₀)", style.SKY),
    "squared": Look("squared distance", style.GREEN),
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
FILLS = {
    "largest": replace(MASKS["largest"], colour=style.BLACK),
    "random": replace(MASKS["random"], colour="white", hatch="///"),
    "learnt": replace(MASKS["learnt"], colour="#BBBBBB", hatch="..."),
}
KINDS = {"embedding": "embeddings", "norm": "norms"}


def strokes(methods: Iterable[str]) -> dict[str, str]:
    """Return the stroke of each method's line: dashed where its colour is taken."""
    colours = {method: style.look_of("rsf", method).colour for method in methods}
    first = {colour: method for method, colour in reversed(colours.items())}
    return {method: "-" if first[colours[method]] == method else "--" for method in colours}


@style.in_style()
def penalty_distances() -> Figure:
    """Draw the three distances between outputs where a token is dropped, and where one is added.

    In the table `student` is, in the panel "drops", the probability of the second token, which the
    first gains; in "adds" that of the third, which the other two lose in proportion.
    """
    first, second, third = p = np.array(THREE_TOKENS)
    dropped = np.logspace(np.log10(second), -6, 400)
    added = np.logspace(np.log10(third), np.log10(0.5), 400)
    rest = (1 - added) / (first + second)
    students = {
        "drops": (dropped, [1 - third - dropped, dropped, np.full(400, third)]),
        "adds": (added, [rest * first, rest * second, added]),
    }
    parts = []
    for panel, (student, tokens) in students.items():
        q = np.stack(tokens, axis=1)
        ratio = np.log(p) - np.log(q)
        terms = {"forward": p * ratio, "reverse": -q * ratio, "squared": (p - q) ** 2}
        sums = {name: each.sum(axis=1) for name, each in terms.items()}
        parts.append(pd.DataFrame({"panel": panel, "student": student, **sums}))
    titles = ("the policy drops the second token", "the policy says the third token more and more")
    figure, [line] = style.panels(1, 2, (style.PANELS[0], 5.0), sharey=True, ylabel="distance")
    for axes, own, title in zip(line, parts, titles, strict=True):
        for name, look in DISTANCES.items():
            draw.line(axes, own, "student", name, look)
        draw.level(axes, start := own["student"].iloc[0], upright=True)
        axes.set(xscale="log", xlabel=f"its probability (θ₀: {start:g}, dashed)")
        axes.set_title(title, fontsize=12.5)
    line[0].invert_xaxis()
    said = ", ".join(f"{value:g}" for value in THREE_TOKENS)
    caption = f"worked out; three tokens, to which θ₀ gives {said}"
    table = pd.concat(parts)
    return style.finish(figure, "Three ways to be far from θ₀", caption, table, legend_columns=3)


@style.in_style()
def penalty_changes(shares: Mapping[str, pd.DataFrame], *, caption: str) -> Figure:
    """Draw how many weights moved by how many steps, a line a run.

    `shares` maps a method to the histogram of its run: steps (learning rates), share (percent). The
    table has the share that moved by less than one learning rate, and what half moved less than.
    """
    figure, [[axes]] = style.panels(
        xlabel="change of a weight since θ₀, in learning rates of the plain run "
        "(far left: that or less)",
        ylabel="share of the weights that moved (%)",
    )
    table = []
    for method, stroke in strokes(shares).items():
        own = shares[method]
        need(own, ["steps", "share"], "penalty_changes")
        draw.line(axes, own, "steps", "share", style.look_of("rsf", method), linestyle=stroke)
        half = own["steps"].iloc[int((own["share"].cumsum() < 50).sum())]
        little = own.loc[own["steps"] < 1, "share"].sum()
        table.append({"method": method, "below_one_rate": little, "half_below": half})
    need(pd.DataFrame(table), [], "penalty_changes")
    draw.level(axes, 1, upright=True)
    axes.set(xscale="log", ylim=(0, None))
    title = "How far does each weight go?"
    return style.finish(figure, title, caption, pd.DataFrame(table), legend_columns=3)


@style.in_style()
def lora_spectra(values: Mapping[str, np.ndarray], *, caption: str) -> Figure:
    """Draw the singular values of the change of one matrix, a line a run.

    `values` maps a method to the singular values of its run, the largest first. Thin dots mark a
    thousandth of the largest: what lies above counts as a direction.
    """
    figure, [[axes]] = style.panels(
        xlabel="number of the singular value", ylabel="singular value of the change"
    )
    table = []
    for method, stroke in strokes(values).items():
        each, look = values[method], style.look_of("rsf", method)
        if not each.max() > 0:
            raise TableError(f"lora_spectra: under {method!r} the matrix did not move.")
        own = pd.DataFrame({"number": np.arange(1, len(each) + 1), "value": each})
        draw.line(axes, own, "number", "value", look, linestyle=stroke)
        axes.axhline(each.max() / 1000, color=look.colour, linewidth=1, linestyle=":")
        count = int((each > each.max() / 1000).sum())
        table.append({"method": method, "largest": each.max(), "above_a_thousandth": count,
                      "values": len(each)})  # fmt: skip
    need(pd.DataFrame(table), [], "lora_spectra")
    axes.set(yscale="log", ylim=(1e-7 * max(each.max() for each in values.values()), None))
    title = "How far, and in how many directions? (dotted: a thousandth)"
    return style.finish(figure, title, caption, pd.DataFrame(table), legend_columns=3)


@style.in_style()
def path_lengths(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw how far a run and averages along it are from theta_0, in percent of the run's end.

    `rows` have the columns step, trained and one per average (SMA, EMA, BEMA): the distances.
    """
    need(rows, ["step", "trained"], "path_lengths")
    rows = rows.sort_values("step", ignore_index=True)
    if not (end := float(rows["trained"].iloc[-1])) > 0:
        raise TableError("path_lengths: the run did not move from theta_0.")
    names = [name for name in PATHS if name in rows]
    table = rows[["step"]].join(100 * rows[names] / end)
    figure, [[axes]] = style.panels(
        xlabel="step of the one finetuning", ylabel="distance from θ₀ (% of the end's)  →"
    )
    often = max(1, len(table) // 8)
    for name in names:
        look, stroke = PATHS[name]
        draw.curve(axes, table, "step", name, look, bars="", linestyle=stroke, markevery=often)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    return style.finish(figure, "How far from θ₀?", caption, table, legend_columns=2)


@style.in_style()
def graft_masks(norms: pd.DataFrame, masks: pd.DataFrame, caption: str) -> Figure:
    """Draw what a mask keeps of the norm of the change, and in which kinds of weights.

    `norms` has the columns density, largest, random (shares of the norm that are kept), `masks` has
    mask, kind, density, norm.
    """
    need(norms, ["density", "largest", "random"], "graft_masks")
    need(masks, ["mask", "kind", "density", "norm"], "graft_masks")
    figure, [[left, right]] = style.panels(1, 2, (style.PANELS[0], 4.8))
    along = Look("line: the largest changes", style.BLACK)
    draw.line(left, norms, "density", "largest", along, marker=".")
    due = Look("dashed: √density, due to random ones", style.GREY)
    draw.line(left, norms, "density", "random", due, linestyle="--")
    whole = masks[masks["kind"] == "all"]
    for name, look in FILLS.items():
        draw.scatter(
            left, whole[whole["mask"] == name], "density", "norm", MASKS[name], markersize=10,
            markerfacecolor=look.colour, markeredgecolor=style.BLACK, zorder=4,
            label=f"{look.label} (left)" if name in set(whole["mask"]) else "_",
        )  # fmt: skip
    left.set_xscale("log")
    left.set_xticks(norms["density"], [f"{d:g}" for d in norms["density"]], minor=False)
    left.minorticks_off()
    left.set(ylim=(0, 1.03), xlabel="density of the mask", ylabel="share of the norm that is kept")
    left.set_title("by density")
    order = ["all", "embedding", "linear", "norm", "head"]
    bars = masks.sort_values("kind", key=lambda each: each.map(order.index))
    bars = bars.assign(percent=100 * bars["density"], kind=bars["kind"].replace(KINDS))
    draw.bars(right, bars, "kind", "mask", "percent", FILLS, edgecolor="black", linewidth=0.8)
    densities = " and ".join(f"{d:.2g}" for d in sorted(set(whole["density"].round(4))))
    right.set_title(f"by kind of weight, at density {densities}")
    right.set_ylabel("changes that are kept (%)")
    lines = norms.melt("density", ["largest", "random"], "mask", "norm")
    table = pd.concat([lines.assign(kind="line"), masks])[["mask", "kind", "density", "norm"]]
    return style.finish(figure, "What does a mask keep?", caption, table, legend_columns=3)


@style.in_style()
def same_norm(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw reward and skill of grafts and averages against their norm, and against each other.

    One row per model: mask ("average" or a mask's name), norm (share of the whole change's), reward
    (gained over theta_0), skill (change since theta_0, points).
    """
    need(rows, ["mask", "norm", "reward", "skill"], "same_norm")
    table = rows[["mask", "norm", "reward", "skill"]].sort_values(["mask", "norm"])
    names = {
        "norm": "norm of the change (1: the plain run's)",
        "reward": "reward gained over θ₀  →",
        "skill": "mean skill minus θ₀'s (points)  →",
    }
    figure, [line] = style.panels(1, 3, (1.25 * style.PANELS[0], 4.8))
    planes = (("norm", "reward"), ("norm", "skill"), ("reward", "skill"))
    for axes, (x, y) in zip(line, planes, strict=True):
        for mask, look in MASKS.items():
            own, along = table[table["mask"] == mask], mask == "average"
            draw.curve(
                axes, own, x, y, look, bars="", linestyle="-" if along else "none",
                markersize=8 if along else 11, zorder=2 if along else 3,
                label=look.label if len(own) else "_",
            )  # fmt: skip
        axes.set(xlabel=names[x], ylabel=names[y])
        axes.set_title(f"at equal {x}")
    return style.finish(figure, "Graft or average?", caption, table, legend_columns=4)
