"""How training went: losses, the reward model, what sampling more buys, RSF round by round."""

from math import comb

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from alignment_tax.figures import primitives as draw, style
from alignment_tax.figures.style import BLUE, GREY, VERMILLION, Look, finish, panels, run_caption
from alignment_tax.labels import number
from alignment_tax.results import points as select
from alignment_tax.stats.compare import interval, summarise, wilson

# Yellow lines on white cannot be seen on a projector.
LINE_COLOURS = (BLUE, VERMILLION, style.PURPLE, style.GREEN, style.SKY, style.ORANGE)
WIDE = (style.WIDE[0], 4.6)


@style.in_style()
def pair_accuracy_by_kind(pairs: pd.DataFrame, *, caption: str, fooled: bool = False) -> Figure:
    """Draw the reward model's pair accuracy by kind of pair, the hardest first.

    `pairs` has `kind` (what tells two replies apart) and `correct` (1 if the chosen reply has the
    higher reward, 0 if not, 0.5 for a tie); if `fooled`, that column: 1 if a worse reply has.
    """
    own, value, everything = "correct", "accuracy", "all pairs"
    if fooled:
        own, value, everything = "fooled", "fooled", "all replies"
    select.need(pairs, ["kind", own])
    select.finite(pairs[own], f"values of {own}")
    by_kind = pairs.groupby("kind")[own].agg(["size", "mean"])
    by_kind = by_kind.sort_values("mean", kind="stable", ascending=not fooled)
    by_kind.loc[everything] = [len(pairs), pairs[own].mean()]
    table = by_kind.reset_index().set_axis(["kind", "pairs", value], axis=1).astype({"pairs": int})
    shares = zip(table[value], table["pairs"], strict=True)
    table[["low", "high"]] = [wilson(share * n, n) for share, n in shares]
    table[[value, "low", "high"]] *= 100
    figure, [[axes]] = panels(size=(WIDE[0], 1.9 + 0.48 * len(table)))
    looks = [*[Look("_", BLUE, "o")] * (len(table) - 1), Look("_", style.BLACK, "D")]
    named = table.assign(line=table["kind"] + "  (n = " + table["pairs"].astype(str) + ")")
    draw.forest(axes, named, name="line", value=value, looks=looks, sign=False)
    axes.set_xlim(min(45.0, table["low"].min() - 3), 101)
    caption += " · 95 % Wilson interval"
    if fooled:
        axes.set_xlabel("worse replies that get at least the reward of the good one (%)")
        return finish(figure, "What fools the reward model?", caption, table)
    draw.level(axes, 50, upright=True)
    axes.set_xlabel("pairs in which the preferred reply gets the higher reward (%)")
    title = "Which replies can the reward model tell apart?"
    return finish(figure, title, f"{caption} · dashed: a coin", table)


@style.in_style()
def gold_scatter(scores: np.ndarray, gold: np.ndarray, *, caption: str) -> Figure:
    """Draw the score (n,) of each reply against its gold reward (n,); the table correlates them."""
    x, y = (select.finite(each, "rewards") for each in (gold, scores))
    if x.shape != y.shape:
        raise select.TableError(f"{y.shape} scores do not go with {x.shape} gold rewards.")
    pearson, spearman = (pd.Series(x).corr(pd.Series(y), way) for way in ("pearson", "spearman"))
    table = pd.DataFrame({"replies": [len(x)], "pearson": pearson, "spearman": spearman})
    figure, [[axes]] = panels(size=(7.4, 5.6))
    pale = float(np.clip(150 / len(x), 0.12, 0.7))
    axes.scatter(x, y, s=22, color=BLUE, linewidths=0, rasterized=True, alpha=pale)
    axes.set(xlabel="gold reward", ylabel="reward model's score")
    caption += f", {len(x)} replies · Spearman {number(spearman, 2)}"
    return finish(figure, "Does the reward model see what is good?", caption, table)


@style.in_style()
def losses(log: pd.DataFrame, *, caption: str, level: tuple[float, str] | None = None) -> Figure:
    """Draw losses against steps: faint as logged, strong as a centred running mean.

    `log` has step, loss and, of several curves, `series`; dashed is a `level` and what it is. The
    table has each curve's first loss as logged, and last and lowest mean over `window` steps.
    """
    select.need(log, ["step", "loss"])
    select.finite(log["loss"], "losses")
    named = log if "series" in log.columns else log.assign(series="training loss")
    figure, [[axes]] = panels(size=WIDE)
    records = []
    for place, (name, own) in enumerate(named.groupby("series", sort=False)):
        own = own.sort_values("step")
        steps = max(1, min(20, len(own) // 5))  # in the running mean
        look = Look(str(name), LINE_COLOURS[place % len(LINE_COLOURS)], "o")
        smooth = own["loss"].rolling(steps, center=True, min_periods=1).mean()
        if steps > 1:
            draw.line(axes, own, "step", "loss", look, alpha=0.25, linewidth=1, label="_")
        mark = "o" if len(own) < 12 else None
        draw.line(axes, own.assign(loss=smooth), "step", "loss", look, marker=mark)
        ends = own["loss"].iloc[0], smooth.iloc[-1], smooth.min()
        records.append((name, own["step"].iloc[-1], *ends, steps))
    table = pd.DataFrame(records, columns=["series", "steps", "first", "last", "lowest", "window"])
    if (longest := table["window"].max()) > 1:
        caption += f" · pale: as logged, strong: mean of up to {longest} logged steps"
    head = ""
    if level is not None:
        draw.level(axes, *level)
        head = f"Dashed: {level[1]}, {number(level[0], 3)}."
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.locator_params(axis="x", integer=True)
    if named["loss"].max() > 5 * named["loss"].min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.margins(x=0.01)
    columns = min(4, len(table) + (level is not None))
    return finish(figure, "Training", caption, table, head=head, legend_columns=columns)


@style.in_style()
def best_of_n(rewards: np.ndarray, *, caption: str) -> Figure:
    """Draw the reward to expect of the best of n replies, n = 1 .. k, from `rewards` (prompts, k).

    The mean over all subsets of n replies, without bias: with a prompt's rewards sorted upwards,
    sum_i C(i - 1, n - 1) / C(k, n) r_(i).
    """
    matrix = select.finite(rewards, "rewards")
    if matrix.ndim != 2:
        raise select.TableError(f"best_of_n takes a matrix prompts x replies, not {matrix.shape}.")
    k, ordered = matrix.shape[1], np.sort(matrix, axis=1)
    weights = {n: [comb(i, n - 1) / comb(k, n) for i in range(k)] for n in range(1, k + 1)}
    means = [(n, *interval(ordered @ weight)) for n, weight in weights.items()]
    table = pd.DataFrame(means, columns=["n", "reward", "low", "high"])
    figure, [[axes]] = panels(size=WIDE)
    axes.fill_between(table["n"], table["low"], table["high"], color=BLUE, alpha=0.18, lw=0)
    draw.curve(axes, table, "n", "reward", Look("_", BLUE, "o"), bars="")
    axes.set_xscale("log", base=2)
    ticks = [2**power for power in range(int(np.log2(k)) + 1)]
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    label = "n: replies sampled for a prompt, the best one kept (log scale)"
    axes.set(xlabel=label, ylabel="expected reward")
    caption += f" · mean and 95 % t interval over {len(matrix)} prompts"
    return finish(figure, "What sampling more replies buys", caption, table)


@style.in_style()
def rsf_rounds(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward gained and gold by rounds of RSF and of its control, a random reply (Fig. 12)."""
    values = ["reward", "gold"] if select.has_gold(points) else ["reward"]
    rows = select.prepare(points, values, ["reward"])
    select.last_round(rows)
    looks = {
        "rsf_random": style.ALGORITHMS["rsf_random"],
        "rsf": Look("RSF: keeps the best reply", VERMILLION, "s"),
    }
    curves = [select.rounds_from_0(rows, name) for name in looks]
    table = summarise(pd.concat(curves), ["algorithm", "rounds"], values)
    figure, [line] = panels(1, len(values), (style.PANELS[0], 5.0), xlabel="rounds")
    titles = ("reward gained over θ₀", "gold, the true reward")
    for axes, name, title in zip(line, values, titles, strict=False):
        axes.set_title(title)
        draw.curves(axes, table, "algorithm", "rounds", name, looks)
        axes.xaxis.get_major_locator().set_params(integer=True)
    caption = run_caption(select.main_line(points), recorded, skills=False)
    return finish(figure, "RSF round by round", caption, table, legend_columns=2)


@style.in_style()
def reward_hacking(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw the path of the rounds of RSF: gold against optimised reward (after Gao et al. 2023)."""
    values = ["reward", "gold"]
    rows = select.prepare(points, values, ["reward"])
    select.last_round(rows)
    path = select.rounds_from_0(rows, "rsf")
    table = summarise(path, ["rounds"], values)
    figure, [[axes]] = panels()
    for _, own in path.groupby("seed"):
        axes.plot(own["reward"], own["gold"], color=GREY, alpha=0.45, linewidth=1.2)
    look = Look("_", VERMILLION, "s")  # RSF, as in every other figure
    draw.curve(axes, table, "reward", "gold", look, bars="y", elinewidth=0.9)
    best = int(table["gold"].argmax())
    for place, side in {0: (-0.9, -1), best: (0, 1), len(table) - 1: (1, 0)}.items():
        row = table.iloc[place]
        text = f"round {row['rounds']:g}" if place else "θ₀"
        draw.note(axes, text, row["reward"], row["gold"], side, fontsize=12.5)
    axes.margins(x=0.12, y=0.12)
    axes.set(xlabel="reward gained over θ₀ (optimised)  →", ylabel="gold, the true reward  →")
    top = table.iloc[best]
    head = f"Gold is highest, {number(top['gold'], 2)}, at round {top['rounds']:g}."
    caption = run_caption(select.main_line(points), recorded, skills=False) + " · grey: each seed"
    return finish(figure, "Does the true reward follow?", caption, table, head=head)
