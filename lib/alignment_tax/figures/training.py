"""How training went: losses, the reward model, what sampling more buys, RSF round by round."""

from __future__ import annotations

from dataclasses import replace
from math import comb
from statistics import NormalDist

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignment_tax.figures.primitives import curve, forest, line, note
from alignment_tax.figures.primitives import level as dashed
from alignment_tax.figures.style import (
    ALGORITHMS,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PANELS,
    PURPLE,
    SKY,
    VERMILLION,
    WIDE,
    Look,
    finish,
    in_style,
    panels,
)
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import AXIS_NAMES, FAMILY_NAMES, number
from alignment_tax.results.points import (
    TableError,
    change,
    finite,
    last_rsf,
    main_line,
    need,
    prepare,
    theta_0,
)
from alignment_tax.stats.compare import interval, summarise

# Yellow lines on white cannot be seen on a projector.
LINE_COLOURS = (BLUE, VERMILLION, PURPLE, GREEN, SKY, ORANGE)
PROXY_LOOK = Look("reward model (optimised)", BLUE, "o")
GOLD_LOOK = Look("gold reward (not optimised)", VERMILLION, "s")


def wilson(right: float, n: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval (0-1) of a share of `right` among `n` trials."""
    z = NormalDist().inv_cdf(0.975)
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half


@in_style()
def pair_accuracy_by_kind(
    pairs: pd.DataFrame,
    *,
    caption: str,
    title: str = "Which replies can the reward model tell apart?",
) -> Figure:
    """Draw the reward model's pair accuracy by kind of pair; the dashed line is a coin.

    Args:
        pairs: one row per preference pair: `kind` (what tells the two replies apart) and
            `correct` (1 if the chosen reply has the higher reward, 0 if not, 0.5 for a tie).
        caption: which run this is.
        title: what is asked.

    Raises:
        TableError: missing columns, nothing to draw, `correct` outside 0-1.
    """
    need(pairs, ["kind", "correct"], "pair_accuracy_by_kind")
    correct = finite(pairs["correct"], "pair_accuracy_by_kind", "values of correct")
    if correct.min() < 0 or correct.max() > 1:
        raise TableError("pair_accuracy_by_kind: correct is 1 (right), 0 (wrong) or 0.5 (tie).")
    every = pd.concat([pairs, pairs.assign(kind="all pairs")])
    table = every.groupby("kind")["correct"].agg(pairs="size", accuracy="mean").reset_index()
    ends = [wilson(a * n, n) for a, n in zip(table["accuracy"], table["pairs"], strict=True)]
    table[["low", "high"]] = ends
    table[["accuracy", "low", "high"]] *= 100
    table = table.sort_values(  # the hardest kind first, all pairs last
        "accuracy", key=lambda a: a.where(table["kind"] != "all pairs", np.inf), kind="stable"
    )
    figure, grid = panels(size=(WIDE[0], 1.9 + 0.48 * len(table)))
    axes = grid[0, 0]
    looks = [Look("_", BLUE, "o")] * (len(table) - 1) + [Look("_", BLACK, "D")]
    named = table.assign(line=table["kind"] + "  (n = " + table["pairs"].astype(str) + ")")
    forest(axes, named, name="line", value="accuracy", looks=looks, zero=None, sign=False)
    dashed(axes, 50, upright=True)
    axes.set_xlim(min(45.0, table["low"].min() - 3), 101)
    axes.set_xlabel("pairs in which the preferred reply gets the higher reward (%)")
    return finish(figure, title, f"{caption} · 95 % Wilson interval · dashed: a coin", table)


@in_style()
def reliability(bins: pd.DataFrame, *, caption: str) -> Figure:
    """Draw observed against predicted preference; on the diagonal the model is calibrated.

    The lower panel counts the pairs behind each point.

    Args:
        bins: as train.reward.calibration returns them: predicted (mean probability that the
            preferred reply wins, 0-1), observed (share in which it does, 0-1), count (pairs).
        caption: which run this is.

    Raises:
        TableError: missing columns, nothing to draw, a share outside 0-1.
    """
    need(bins, ["predicted", "observed", "count"], "reliability")
    rows = bins[bins["count"] > 0]
    shares = finite(rows[["predicted", "observed"]], "reliability", "predicted or observed shares")
    if shares.min() < 0 or shares.max() > 1:
        raise TableError("reliability: predicted and observed are shares between 0 and 1.")
    table = rows[["predicted", "observed"]].reset_index(drop=True)
    counts = rows["count"].astype(int).tolist()
    table[["low", "high"]] = [
        wilson(o * n, n) for o, n in zip(table["observed"], counts, strict=True)
    ]
    table = (100 * table).assign(count=counts)
    gap = (table["predicted"] - table["observed"]).abs()
    error = number(float(np.average(gap, weights=counts)))
    start = 50 if table["predicted"].min() >= 50 else 0
    figure, grid = panels(2, 1, (7.0, 6.4), sharex=True, height_ratios=[4, 1])
    upper, lower = grid[:, 0]
    upper.plot([start, 100], [start, 100], color=GREY, linestyle="--", label="calibrated")
    curve(upper, table, "predicted", "observed", Look("reward model", BLUE, "o"))
    upper.set_ylabel("it is the preferred one (%)")
    width = 0.6 * (100 - start) / max(len(bins), 5)
    lower.bar(table["predicted"], table["count"], width=width, color=GREY)
    lower.set_ylabel("pairs")
    lower.set_xlabel("the reward model's confidence in a reply (%)")
    lower.set_xlim(start - 2, 102)
    lower.grid(visible=False, axis="x")
    caption += f" · 95 % Wilson interval · expected calibration error {error} %"
    title = "Does the reward model know how sure to be?"
    return finish(figure, title, caption, table, legend_columns=2)


@in_style()
def gold_scatter(scores: np.ndarray, gold: np.ndarray, *, caption: str) -> Figure:
    """Draw the reward model's score of each reply against its gold reward.

    Args:
        scores: reward model's scores of replies (n,).
        gold: gold rewards of the same replies (n,).
        caption: which run this is.

    Raises:
        TableError: other lengths, fewer than three replies, NaN, or a constant.
    """
    x, y = finite(gold, "gold_scatter", "gold rewards"), finite(scores, "gold_scatter", "scores")
    if x.shape != y.shape or x.ndim != 1:
        raise TableError(f"gold_scatter: {y.shape} scores do not go with {x.shape} gold rewards.")
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise TableError(
            "gold_scatter needs three replies or more whose rewards are not all equal."
        )
    both = pd.DataFrame({"x": x, "y": y})
    table = pd.DataFrame({
        "replies": [len(x)], "pearson": both.corr().loc["x", "y"],
        "spearman": both.rank().corr().loc["x", "y"],
    })  # fmt: skip
    figure, grid = panels(size=(7.4, 5.6))
    axes = grid[0, 0]
    pale = float(np.clip(150 / len(x), 0.12, 0.7))
    axes.scatter(gold, scores, s=22, color=BLUE, linewidths=0, rasterized=True, alpha=pale)
    axes.set_xlabel("gold reward")
    axes.set_ylabel("reward model's score")
    caption += f", {len(x)} replies · Spearman {number(table['spearman'].item(), 2)}"
    return finish(figure, "Does the reward model see what is good?", caption, table)


@in_style()
def losses(
    log: pd.DataFrame,
    window: int = 20,
    *,
    caption: str,
    level: tuple[float, str] | None = None,
) -> Figure:
    """Draw losses against steps: faint as logged, strong as a running mean.

    The table says how each curve begins (`first`, as logged: a mean would hide where training
    began) and ends (`last` and `lowest`, running means over `window` logged steps).

    Args:
        log: one row per logged step: step, loss, and where there are several curves `series`.
        window: logged steps in the centred running mean (shorter at the ends).
        caption: which run this is.
        level: a loss to compare with, and what it is: a dashed line.

    Raises:
        TableError: missing columns, nothing to draw, a loss that is no finite number.
    """
    need(log, ["step", "loss"], "losses")
    finite(log["step"], "losses", "steps")
    finite(log["loss"], "losses", "losses")
    named = log if "series" in log.columns else log.assign(series="training loss")
    figure, grid = panels(size=(WIDE[0], 4.6))
    axes, records = grid[0, 0], []
    for place, (name, own) in enumerate(named.groupby("series", sort=False)):
        own = own.sort_values("step")
        steps = max(1, min(window, len(own) // 5))
        look = Look(str(name), LINE_COLOURS[place % len(LINE_COLOURS)], "o")
        line(axes, own, "step", "loss", look, smooth=steps, marker="o" if len(own) < 12 else None)
        smooth = own["loss"].rolling(steps, center=True, min_periods=1).mean()
        records.append(
            {"series": str(name), "steps": int(own["step"].iloc[-1]), "first": own["loss"].iloc[0],
             "last": smooth.iloc[-1], "lowest": smooth.min(), "window": steps}
        )  # fmt: skip
    table = pd.DataFrame(records)
    if (longest := int(table["window"].max())) > 1:
        caption += f" · pale: as logged, strong: mean of {longest} logged steps"
    head = ""
    if level is not None:
        dashed(axes, *level)
        head = f"Dashed: {level[1]}, {number(level[0], 3)}."
    axes.set_xlabel("step")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("loss")
    axes.margins(x=0.01)
    columns = min(4, len(table) + (level is not None))
    return finish(figure, "Training", caption, table, head=head, legend_columns=columns)


@in_style()
def best_of_n(rewards: np.ndarray, n_max: int | None = None, *, caption: str) -> Figure:
    """Draw the reward to expect of the best of n replies against n = 1 .. n_max.

    The mean over all subsets of n of the k sampled replies, without bias: with a prompt's rewards
    sorted upwards, sum_i C(i - 1, n - 1) / C(k, n) r_(i). Intervals are over prompts.

    Args:
        rewards: one row a prompt, one column a sampled reply (prompts, k).
        n_max: largest n, at most k; default k.
        caption: which run this is.

    Raises:
        TableError: not a matrix of finite numbers, or n_max outside 1 .. k.
    """
    matrix = finite(rewards, "best_of_n", "rewards")
    if matrix.ndim != 2:
        raise TableError(f"best_of_n takes a matrix prompts x replies, not {matrix.shape}.")
    k = matrix.shape[1]
    top = k if n_max is None else n_max
    if not 1 <= top <= k:
        raise TableError(f"best_of_n: n_max is between 1 and the {k} replies, not {top}.")
    ordered, records = np.sort(matrix, axis=1), []
    for n in range(1, top + 1):
        best = ordered @ [comb(i, n - 1) / comb(k, n) for i in range(k)]
        records.append((n, *interval(best)))
    table = pd.DataFrame(records, columns=["n", "reward", "low", "high"])
    figure, grid = panels(size=(WIDE[0], 4.6))
    axes = grid[0, 0]
    axes.fill_between(table["n"], table["low"], table["high"], color=BLUE, alpha=0.18, lw=0)
    curve(axes, table, "n", "reward", Look("_", BLUE, "o"), bars="")
    axes.set_xscale("log", base=2)
    ticks = [2**power for power in range(int(np.log2(top)) + 1)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("n: replies sampled for a prompt (the best one is kept)")
    axes.set_ylabel("expected reward")
    caption += f" · mean and 95 % t interval over {len(matrix)} prompts"
    return finish(figure, "What sampling more replies buys", caption, table)


@in_style()
def reward_histogram(before: np.ndarray, after: np.ndarray, *, caption: str) -> Figure:
    """Draw how the rewards of sampled replies spread before and after RLHF.

    Raises:
        TableError: nothing to draw, or a reward that is no finite number.
    """
    both = {
        name: finite(values, "reward_histogram", f"rewards {name}").ravel()
        for name, values in (("before RLHF (θ₀)", before), ("after RLHF", after))
    }
    edges = np.histogram_bin_edges(np.concatenate(list(both.values())), bins=40)
    figure, grid = panels(size=(WIDE[0], 4.6))
    axes, records = grid[0, 0], []
    for (name, values), colour in zip(both.items(), (GREY, VERMILLION), strict=True):
        mean, (low, high) = float(values.mean()), np.quantile(values, [0.25, 0.75])
        records.append(
            {"model": name, "replies": values.size, "mean": mean,
             "sd": float(values.std(ddof=1)) if values.size > 1 else np.nan,
             "lower quartile": low, "upper quartile": high}
        )  # fmt: skip
        axes.hist(
            values, edges, weights=np.full(values.size, 100 / values.size), histtype="stepfilled",
            color=(colour, 0.3), edgecolor=colour, linewidth=1.2,
            label=f"{name}: mean {number(mean, 2)}",
        )  # fmt: skip
        axes.axvline(mean, color=colour, linestyle="--" if name.startswith("before") else "-")
    axes.set_xlabel("reward of a reply (reward model's units)")
    axes.set_ylabel("replies (%)")
    table = pd.DataFrame(records)
    return finish(figure, "Rewards before and after", caption, table, legend_columns=2)


def _trained(rows: pd.DataFrame, algorithm: str, figure: str) -> pd.DataFrame:
    """Return theta_0 as round 0 and the rounds of one algorithm; empty when it was not run."""
    rounds = rows[(rows["algorithm"] == algorithm) & (rows["method"] == "none")]
    start = theta_0(rows, figure)
    start = start[start["seed"].isin(rounds["seed"])]
    return pd.concat([start.assign(algorithm=algorithm, rounds=0.0), rounds])


@in_style()
def rsf_rounds(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward, gold reward and skills against the rounds of RSF (paper Fig. 12).

    The control keeps a random reply instead of the best: what it changes, training on the
    model's own text changes; what only RSF changes, the reward does. The reward is the gain over
    theta_0 of the same seed (the zero of a reward model means nothing).

    Raises:
        TableError: missing columns, nothing to draw, no theta_0, no RSF round, several studies.
    """
    figure_name, need_gold = "rsf_rounds", isinstance(points, pd.DataFrame) and "gold" in points
    gold = ["gold"] if need_gold and points["gold"].notna().any() else []
    values = ["reward", *gold, *FAMILY_NAMES]
    rows = prepare(points, values, figure_name)
    last_rsf(rows, figure_name)
    rows = change(rows, ["reward"], figure_name)
    curves = pd.concat([_trained(rows, name, figure_name) for name in ("rsf", "rsf_random")])
    table = summarise(curves, ["algorithm", "rounds"], values)
    control, own = ALGORITHMS["rsf_random"], table.set_index("algorithm")["rounds"]
    scored = set(own.get("rsf_random", pd.Series(dtype=float)))
    if scored < set(own["rsf"]):
        few = " and ".join(f"{each:g}" for each in sorted(scored - {0}))
        control = replace(control, label=f"{control.label} (only round {few} was scored)")
    looks = {"rsf_random": control, "rsf": Look("RSF: keeps the best reply", VERMILLION, "s")}
    figure, grid = panels(2, 3, PANELS, sharex=True)
    families = [name for name in FAMILY_NAMES if name != "skill"]
    upper = ["reward", *gold, "skill"]
    for axes in grid[0, len(upper) :]:
        axes.set_visible(False)
    for axes, name in zip([*grid[0, : len(upper)], *grid[1]], [*upper, *families], strict=True):
        for algorithm, look in looks.items():
            part = table[table["algorithm"] == algorithm]
            if len(part):
                dash = "-" if algorithm == "rsf" else "--"
                curve(axes, part, "rounds", name, look, linestyle=dash, linewidth=2)
        titles = {"reward": "reward gained over θ₀", "skill": "mean skill (%)"}
        axes.set_title(titles.get(name, AXIS_NAMES[name]))
    for axes in grid[1]:
        axes.set_xlabel("rounds of RSF")
        axes.xaxis.get_major_locator().set_params(integer=True)
    caption = run_caption(main_line(points), recorded)
    return finish(figure, "RSF round by round", caption, table, legend_columns=2)


@in_style()
def reward_hacking(points: pd.DataFrame, x: str = "rounds", recorded: bool = False) -> Figure:
    """Draw the optimised reward against the gold reward (after Gao et al. 2023).

    Left: both against the rounds (or the KL), each as a share of its largest mean change, so that
    the place where they part is seen. Right: the path of the rounds in the units of both.

    Args:
        points: the columns of points.csv, one study, gold filled in.
        x: "rounds", or "kl" for the KL from theta_0 in nats.
        recorded: True for a run from data/results.

    Raises:
        TableError: missing columns, nothing to draw, no theta_0, no RSF, or a reward that never
            changes.
    """
    name = "reward_hacking"
    if x not in ("rounds", "kl"):
        raise TableError(f"{name}: x is 'rounds' or 'kl', not {x!r}.")
    more = ["kl"] if x == "kl" else []
    rows = prepare(points, ["reward", "gold", *more], name)
    last_rsf(rows, name)
    path = _trained(rows, "rsf", name)
    gains = _trained(change(rows, ["reward", "gold"], name), "rsf", name)
    for each in ("reward", "gold"):
        largest = gains.groupby("rounds")[each].mean().abs().max()
        if largest == 0:
            raise TableError(f"{name}: {each} is the same after every round.")
        path[f"{each}_share"] = gains[each] / largest
    values = ["reward", "gold", "reward_share", "gold_share", *more]
    table = summarise(path, ["rounds"], values)
    figure, grid = panels(1, 2, (PANELS[0], 5.0))
    left, right = grid[0]
    curve(left, table, x, "reward_share", PROXY_LOOK, bars="y")
    curve(left, table, x, "gold_share", GOLD_LOOK, bars="y")
    dashed(left, 0)
    left.set_title("change since θ₀, share of the largest")
    left.set_xlabel("rounds of RSF" if x == "rounds" else "KL from θ₀ (nats)")
    if x == "rounds":
        left.xaxis.get_major_locator().set_params(integer=True)
    curve(right, table, "reward", "gold", Look("_", GREY, "o"), bars="")
    best = int(table["gold"].argmax())
    for place in {0, best, len(table) - 1}:
        row = table.iloc[place]
        # The path comes from the left: above its top and beside its ends there is room.
        side = (0, 1) if place == best else (-0.9, -1)
        text = f"round {row['rounds']:g}" if place else "θ₀"
        note(right, text, row["reward"], row["gold"], side, fontsize=12.5, bbox=None)
    right.margins(x=0.14, y=0.16)
    right.set_title("gold reward against reward")
    right.set_xlabel("reward (reward model's units)")
    right.set_ylabel("gold reward")
    top = table.iloc[best]
    head = f"Gold is highest, {number(top['gold'], 2)}, at round {top['rounds']:g}."
    caption = run_caption(main_line(points), recorded)
    title = "Does the true reward follow?"
    return finish(figure, title, caption, table, head=head, legend_columns=2)
