"""Rewards: how good the reward model is, what sampling more buys, how training went."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy import special, stats

from alignment_tax.figures.look import (
    BLACK,
    BLUE,
    GREY,
    OKABE_ITO,
    VERMILLION,
    WIDE,
    FigureError,
    bar_lengths,
    canvas,
    finish,
    style,
)
from alignment_tax.labels import number, spread
from alignment_tax.results.points import finite, need

# Yellow lines on white cannot be seen on a projector.
LINE_COLOURS = tuple(colour for colour in OKABE_ITO if colour not in (BLACK, "#F0E442"))[::-1]


def wilson(right: float, n: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval (0-1) of a share of `right` among `n` trials."""
    z = float(stats.norm.ppf(0.975))
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half


def pair_accuracy_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the pair accuracy of a reward model by kind of pair, and over all pairs.

    Args:
        pairs: one row per preference pair: `kind` (what tells the two replies apart) and
            `correct` (1 if the chosen reply has the higher reward, 0 if not, 0.5 for a tie).

    Returns:
        One row per kind, hardest first, and a last one "all pairs": kind, pairs, accuracy, low,
        high (percent, 95 % Wilson intervals).

    Raises:
        FigureError: missing columns, nothing to draw, `correct` outside 0-1.
    """
    figure = "pair_accuracy_by_kind"
    need(pairs, ["kind", "correct"], figure)
    correct = finite(pairs["correct"], figure, "values of correct")
    if correct.min() < 0 or correct.max() > 1:
        raise FigureError(f"{figure}: correct is 1 (right), 0 (wrong) or 0.5 (tie) per pair.")
    rows = []
    groups = [(str(kind), group["correct"]) for kind, group in pairs.groupby("kind", sort=True)]
    for kind, values in [*groups, ("all pairs", pairs["correct"])]:
        right, n = float(np.asarray(values, dtype=float).sum()), len(values)
        low, high = wilson(right, n)
        rows.append(
            {
                "kind": kind,
                "pairs": n,
                "accuracy": 100 * right / n,
                "low": 100 * low,
                "high": 100 * high,
            }
        )
    table = pd.DataFrame(rows)
    kinds = table.iloc[:-1].sort_values("accuracy", kind="stable")
    return pd.concat([kinds, table.iloc[-1:]], ignore_index=True)


def pair_accuracy_by_kind(
    pairs: pd.DataFrame,
    *,
    caption: str,
    title: str = "Which replies can the reward model tell apart?",
) -> Figure:
    """Draw the reward model's pair accuracy by kind of pair; the dashed line is a coin.

    Args and errors as `pair_accuracy_table`; `caption` says which run this is.
    """
    table = pair_accuracy_table(pairs)
    with style():
        figure = canvas((WIDE[0], 1.9 + 0.48 * len(table)))
        axes = figure.add_subplot()
        where = np.arange(len(table))
        overall = (table["kind"] == "all pairs").to_numpy()
        for mask, colour, marker in ((~overall, BLUE, "o"), (overall, BLACK, "D")):
            part = table[mask]
            errors = bar_lengths(part["accuracy"], part["low"], part["high"])
            axes.errorbar(
                part["accuracy"], where[mask], xerr=errors, fmt=marker, color=colour,
                elinewidth=2, markersize=9,
            )  # fmt: skip
        axes.axvline(50, color=GREY, linestyle="--", linewidth=1.5)
        labels = [f"{row['kind']}  (n = {row['pairs']})" for row in table.to_dict("records")]
        axes.set_yticks(where, labels)
        axes.set_ylim(-0.6, len(table) - 0.4)
        axes.set_xlim(min(45.0, table["low"].min() - 3), 101)
        for y, row in zip(where, table.to_dict("records"), strict=True):
            axes.annotate(
                number(row["accuracy"]), (row["accuracy"], y), xytext=(0, 6),
                textcoords="offset points", ha="center", va="bottom", fontsize=11,
            )  # fmt: skip
        axes.set_xlabel("pairs in which the preferred reply gets the higher reward (%)")
        axes.grid(visible=False, axis="y")
        each = [
            f"{r['kind']} {spread(r['accuracy'], r['low'], r['high'])} of {r['pairs']} pairs"
            for r in table.to_dict("records")
        ]
        alt = f"Pair accuracy of the reward model in percent ({caption}): {'; '.join(each)}."
        line = f"{caption} · 95 % Wilson interval · dashed: a coin"
        return finish(figure, title, line, alt)


def reliability_table(bins: pd.DataFrame) -> pd.DataFrame:
    """Return predicted and observed preference per bin, with the interval of the observed share.

    Args:
        bins: as train.reward.calibration returns them: predicted (mean probability that the
            preferred reply wins, 0-1), observed (share in which it does, 0-1), count (pairs).

    Returns:
        Columns predicted, observed, low, high (percent, 95 % Wilson), count; empty bins dropped.

    Raises:
        FigureError: missing columns, nothing to draw, a share outside 0-1.
    """
    figure = "reliability"
    need(bins, ["predicted", "observed", "count"], figure)
    rows = bins[bins["count"] > 0]
    shares = finite(rows[["predicted", "observed"]], figure, "predicted or observed shares")
    if shares.min() < 0 or shares.max() > 1:
        raise FigureError(f"{figure}: predicted and observed are shares between 0 and 1.")
    ends = [wilson(o * n, n) for o, n in zip(rows["observed"], rows["count"], strict=True)]
    return pd.DataFrame(
        {
            "predicted": 100 * rows["predicted"].to_numpy(),
            "observed": 100 * rows["observed"].to_numpy(),
            "low": [100 * low for low, _ in ends],
            "high": [100 * high for _, high in ends],
            "count": rows["count"].astype(int).to_numpy(),
        }
    )


def calibration_error(table: pd.DataFrame) -> float:
    """Return the expected calibration error of a `reliability_table`: mean gap, weighted, in %."""
    gap = (table["predicted"] - table["observed"]).abs()
    return float(np.average(gap, weights=table["count"]))


def reliability(bins: pd.DataFrame, *, caption: str) -> Figure:
    """Draw observed against predicted preference; on the diagonal the model is calibrated.

    The lower panel counts the pairs behind each point.
    Args and errors as `reliability_table`; `caption` says which run this is.
    """
    table = reliability_table(bins)
    error = calibration_error(table)
    start = 50 if table["predicted"].min() >= 50 else 0
    with style():
        figure = canvas((7.0, 6.4))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        upper.plot([start, 100], [start, 100], color=GREY, linestyle="--", label="calibrated")
        errors = bar_lengths(table["observed"], table["low"], table["high"])
        upper.errorbar(
            table["predicted"], table["observed"], yerr=errors, color=BLUE, marker="o",
            markeredgecolor="white", elinewidth=1.6, label="reward model",
        )  # fmt: skip
        upper.set_ylabel("it is the preferred one (%)")
        width = 0.6 * (100 - start) / max(len(bins), 5)
        lower.bar(table["predicted"], table["count"], width=width, color=GREY)
        lower.set_ylabel("pairs")
        lower.set_xlabel("the reward model's confidence in a reply (%)")
        lower.set_xlim(start - 2, 102)
        lower.grid(visible=False, axis="x")
        each = [
            f"predicted {number(r['predicted'], 0)}, observed {number(r['observed'], 0)} "
            f"({r['count']} pairs)"
            for r in table.to_dict("records")
        ]
        alt = (
            f"Calibration of the reward model in percent ({caption}): {'; '.join(each)}. "
            f"Expected calibration error {number(error)}."
        )
        line = f"{caption} · 95 % Wilson interval · expected calibration error {number(error)} %"
        return finish(figure, "Does the reward model know how sure to be?", line, alt, 2)


def gold_scatter_table(scores: np.ndarray, gold: np.ndarray) -> pd.DataFrame:
    """Return one row: replies, pearson, spearman of the reward model's score and the gold reward.

    Args:
        scores: reward model's scores of replies (n,).
        gold: gold rewards of the same replies (n,).

    Raises:
        FigureError: other lengths, fewer than three replies, NaN, or a constant.
    """
    figure = "gold_scatter"
    x, y = finite(gold, figure, "gold rewards"), finite(scores, figure, "scores")
    if x.shape != y.shape or x.ndim != 1:
        raise FigureError(f"{figure}: {y.shape} scores do not go with {x.shape} gold rewards.")
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise FigureError(f"{figure} needs three replies or more whose rewards are not all equal.")
    return pd.DataFrame(
        {
            "replies": [len(x)],
            "pearson": [float(stats.pearsonr(x, y).statistic)],
            "spearman": [float(stats.spearmanr(x, y).statistic)],
        }
    )


def gold_scatter(scores: np.ndarray, gold: np.ndarray, *, caption: str) -> Figure:
    """Draw the reward model's score of each reply against its gold reward.

    Args and errors as `gold_scatter_table`; `caption` says which run this is.
    """
    row = gold_scatter_table(scores, gold).iloc[0]
    with style():
        figure = canvas((7.4, 5.6))
        axes = figure.add_subplot()
        axes.scatter(
            gold, scores, s=22, color=BLUE, linewidths=0, rasterized=True,
            alpha=float(np.clip(150 / row["replies"], 0.12, 0.7)),
        )  # fmt: skip
        axes.set_xlabel("gold reward")
        axes.set_ylabel("reward model's score")
        alt = (
            f"Reward model's score against gold reward of {int(row['replies'])} replies "
            f"({caption}). Pearson correlation {number(row['pearson'], 2)}, Spearman "
            f"{number(row['spearman'], 2)}."
        )
        line = f"{caption}, {int(row['replies'])} replies · Spearman {number(row['spearman'], 2)}"
        return finish(figure, "Does the reward model see what is good?", line, alt)


def losses_table(log: pd.DataFrame, window: int = 20) -> pd.DataFrame:
    """Return how the loss of each curve begins and ends.

    Args:
        log: one row per logged step: step, loss, and where there are several curves `series`.
        window: logged steps in the centred running mean (shorter at the ends).

    Returns:
        Columns series, steps (last step), first (as logged: a mean over the steps after it would
        hide where training began), last and lowest (running means), window (logged steps in them).

    Raises:
        FigureError: missing columns, nothing to draw, a loss that is no finite number.
    """
    figure = "losses"
    rows = []
    for name, curve in _loss_curves(log, figure, window):
        rows.append(
            {
                "series": name,
                "steps": int(curve["step"].iloc[-1]),
                "first": curve["loss"].iloc[0],
                "last": curve["smooth"].iloc[-1],
                "lowest": curve["smooth"].min(),
                "window": _window(curve, window),
            }
        )
    return pd.DataFrame(rows)


def _loss_curves(log: pd.DataFrame, figure: str, window: int) -> list[tuple[str, pd.DataFrame]]:
    """Return the curves of a log by name, in step order, with a smoothed column."""
    need(log, ["step", "loss"], figure)
    finite(log["step"], figure, "steps")
    finite(log["loss"], figure, "losses")
    named = log if "series" in log.columns else log.assign(series="training loss")
    curves = []
    for name, rows in named.groupby("series", sort=False):
        curve = rows.sort_values("step")
        middle = curve["loss"].rolling(_window(curve, window), center=True, min_periods=1)
        smooth = middle.mean()
        curves.append((str(name), curve.assign(smooth=smooth)))
    return curves


def _window(curve: pd.DataFrame, window: int) -> int:
    """Return how many logged steps of a curve go into one running mean."""
    return max(1, min(window, len(curve) // 5))


def losses(
    log: pd.DataFrame,
    window: int = 20,
    *,
    caption: str,
    level: tuple[float, str] | None = None,
) -> Figure:
    """Draw losses against steps: faint as logged, strong as a running mean.

    Args:
        log, window: as `losses_table`, with its errors.
        caption: which run this is.
        level: a loss to compare with, and what it is: a dashed line.
    """
    table = losses_table(log, window)
    with style():
        figure = canvas((WIDE[0], 4.6))
        axes = figure.add_subplot()
        for index, (name, curve) in enumerate(_loss_curves(log, "losses", window)):
            colour = (BLUE, VERMILLION, *LINE_COLOURS)[index % (len(LINE_COLOURS) + 2)]
            axes.plot(curve["step"], curve["loss"], color=colour, alpha=0.25, linewidth=1)
            mark = "o" if len(curve) < 12 else None
            axes.plot(curve["step"], curve["smooth"], color=colour, label=name, marker=mark)
        longest = int(table["window"].max())
        if longest > 1:
            caption += f" · pale: as logged, strong: mean of {longest} logged steps"
        if level is not None:
            value, what = level
            axes.axhline(value, color=GREY, linestyle="--", linewidth=1.5, label=what)
        axes.set_xlabel("step")
        axes.locator_params(axis="x", integer=True)
        axes.set_ylabel("loss")
        axes.margins(x=0.01)
        each = [
            f"{r['series']} from {number(r['first'], 3)} to {number(r['last'], 3)} over "
            f"{r['steps']} steps"
            for r in table.to_dict("records")
        ]
        alt = f"Loss ({caption}): {'; '.join(each)}."
        if level is not None:
            alt += f" Dashed: {level[1]}, {number(level[0], 3)}."
        return finish(figure, "Training", caption, alt, min(4, len(table) + (level is not None)))


def best_of_n_table(rewards: np.ndarray, n_max: int | None = None) -> pd.DataFrame:
    """Return the reward to expect of the best of n replies, n = 1 .. n_max.

    The mean over all subsets of n of the k sampled replies, without bias: with a prompt's rewards
    sorted upwards, sum_i C(i - 1, n - 1) / C(k, n) r_(i).

    Args:
        rewards: one row a prompt, one column a sampled reply (prompts, k).
        n_max: largest n, at most k; default k.

    Returns:
        Columns n, reward, low, high: mean and 95 % t interval over prompts (NaN for one prompt).

    Raises:
        FigureError: not a matrix of finite numbers, or n_max outside 1 .. k.
    """
    figure = "best_of_n"
    matrix = finite(rewards, figure, "rewards")
    if matrix.ndim != 2:
        raise FigureError(f"{figure} takes a matrix prompts x replies, not {matrix.shape}.")
    prompts, k = matrix.shape
    top = k if n_max is None else n_max
    if not 1 <= top <= k:
        raise FigureError(f"{figure}: n_max is between 1 and the {k} replies, not {top}.")
    ordered = np.sort(matrix, axis=1)
    ranks = np.arange(1, k + 1)
    rows = []
    for n in range(1, top + 1):
        weights = special.comb(ranks - 1, n - 1) / special.comb(k, n)
        best = ordered @ weights
        half = np.nan
        if prompts > 1:
            half = stats.t.ppf(0.975, prompts - 1) * best.std(ddof=1) / np.sqrt(prompts)
        mean = float(best.mean())
        rows.append({"n": n, "reward": mean, "low": mean - half, "high": mean + half})
    return pd.DataFrame(rows)


def best_of_n(rewards: np.ndarray, n_max: int | None = None, *, caption: str) -> Figure:
    """Draw the reward to expect of the best of n replies against n.

    Args and errors as `best_of_n_table`; `caption` says which run this is.
    """
    table = best_of_n_table(rewards, n_max)
    prompts = len(rewards)
    with style():
        figure = canvas((WIDE[0], 4.6))
        axes = figure.add_subplot()
        if table["low"].notna().all():
            axes.fill_between(table["n"], table["low"], table["high"], color=BLUE, alpha=0.18, lw=0)
        axes.plot(table["n"], table["reward"], color=BLUE, marker="o", markeredgecolor="white")
        axes.set_xscale("log", base=2)
        ticks = [2**power for power in range(int(np.log2(table["n"].max())) + 1)]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("n: replies sampled for a prompt (the best one is kept)")
        axes.set_ylabel("expected reward")
        each = [
            f"n = {int(r['n'])}: {spread(r['reward'], r['low'], r['high'], 2)}"
            for r in table[table["n"].isin([*ticks, table["n"].max()])].to_dict("records")
        ]
        alt = f"Expected reward of the best of n replies ({caption}): {'; '.join(each)}."
        line = f"{caption} · mean and 95 % t interval over {prompts} prompts"
        return finish(figure, "What sampling more replies buys", line, alt)


def reward_histogram_table(before: np.ndarray, after: np.ndarray) -> pd.DataFrame:
    """Return replies, mean, standard deviation and quartiles of rewards before and after RLHF.

    Raises:
        FigureError: nothing to draw, or a reward that is no finite number.
    """
    rows = []
    for name, values in (("before RLHF (θ₀)", before), ("after RLHF", after)):
        rewards = finite(values, "reward_histogram", f"rewards {name}").ravel()
        rows.append(
            {
                "model": name,
                "replies": rewards.size,
                "mean": float(rewards.mean()),
                "sd": float(rewards.std(ddof=1)) if rewards.size > 1 else float("nan"),
                "lower quartile": float(np.quantile(rewards, 0.25)),
                "upper quartile": float(np.quantile(rewards, 0.75)),
            }
        )
    return pd.DataFrame(rows)


def reward_histogram(before: np.ndarray, after: np.ndarray, *, caption: str) -> Figure:
    """Draw how the rewards of sampled replies spread before and after RLHF.

    Errors as `reward_histogram_table`; `caption` says which run this is.
    """
    table = reward_histogram_table(before, after)
    both = (np.asarray(before, dtype=float).ravel(), np.asarray(after, dtype=float).ravel())
    edges = np.histogram_bin_edges(np.concatenate(both), bins=40)
    with style():
        figure = canvas((WIDE[0], 4.6))
        axes = figure.add_subplot()
        for values, row, colour, dash in zip(
            both, table.to_dict("records"), (GREY, VERMILLION), ("--", "-"), strict=True
        ):
            label = f"{row['model']}: mean {number(row['mean'], 2)}"
            sns.histplot(
                x=values, bins=edges.tolist(), stat="percent", element="step", color=colour,
                alpha=0.3, ax=axes, label=label,
            )  # fmt: skip
            axes.axvline(row["mean"], color=colour, linestyle=dash, linewidth=2.2)
        axes.set_xlabel("reward of a reply (reward model's units)")
        axes.set_ylabel("replies (%)")
        each = [
            f"{r['model']} mean {number(r['mean'], 2)}, middle half "
            f"{number(r['lower quartile'], 2)} to {number(r['upper quartile'], 2)}, "
            f"{r['replies']} replies"
            for r in table.to_dict("records")
        ]
        alt = f"Rewards of sampled replies ({caption}): {'; '.join(each)}."
        return finish(figure, "Rewards before and after", caption, alt, 2)
