"""RSF, DPO, RLOO and PPO side by side: rounds, fronts, tax, KL, over-optimisation, forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw
from alignment_tax.figures.style import (
    ALGORITHMS,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    INK,
    METHODS,
    ORANGE,
    PANELS,
    PURPLE,
    VERMILLION,
    WIDE,
    Look,
    finish,
    in_style,
    panels,
)
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import ALGORITHM_NAMES, AXIS_NAMES, FAMILY_NAMES, spread
from alignment_tax.results.points import (
    RLHF,
    TableError,
    change,
    last_round,
    need,
    prepare,
    present,
    shared,
    theta_0,
)
from alignment_tax.stats import forgetting
from alignment_tax.stats.compare import summarise

# How the two ways through one algorithm are drawn: its rounds, and the averages of its ends.
ROUNDS = Look("as trained, round by round", BLACK, "s")
AVERAGES = Look("average of θ₀ and the last round", BLUE, "o")
# PPO as it is meant and with something taken away, in the order in which runs are passed.
RUNS = ((BLACK, "o"), (VERMILLION, "s"), (PURPLE, "v"), (BLUE, "D"), (ORANGE, "^"))
RUN_PANELS = {
    "reward": "reward (reward model's units)",
    "kl": "KL from θ₀ (nats a reply)",
    "reply_length": "length of a reply (tokens)",
    "finished": "replies that end (share)",
}
# The averages whose ratio stands beside them.
LABELLED_ALPHAS = (0.2, 0.5, 0.8)


def _trained(points: pd.DataFrame, values: Sequence[str], figure: str) -> pd.DataFrame:
    """Return theta_0 as round 0 and the rounds of every algorithm; rewards are gained over theta_0.

    Of the seeds that all algorithms have (`results.points.shared`).
    """
    rows = shared(prepare(points, values, figure))
    rows = change(rows, [name for name in ("reward", "gold") if name in values], figure)
    start, parts = theta_0(rows, figure), []
    for name in present(rows):
        own = rows[(rows["algorithm"] == name) & (rows["method"] == "none")]
        at_0 = start[start["seed"].isin(own["seed"])].assign(algorithm=name, rounds=0.0)
        parts += [at_0, own]
    if not parts:
        raise TableError(f"{figure} needs rounds of {', '.join(RLHF)}: there are none.")
    return pd.concat(parts, ignore_index=True)


def _by_algorithm(
    axes: Axes, table: pd.DataFrame, rows: pd.DataFrame, x: str, y: str, apart: float = 0.0
) -> None:
    """Draw the rounds of every algorithm, `apart` on the x axis so that no bar hides another."""
    there = present(rows)
    for place, name in enumerate(there):
        own = table[table["algorithm"] == name].sort_values("rounds")
        own = own.assign(**{x: own[x] + apart * (place - (len(there) - 1) / 2)})
        seeds = rows[rows["algorithm"] == name]
        draw.curve(axes, own, x, y, ALGORITHMS[name], seeds=seeds, order="rounds", bars="y")


@in_style()
def algorithm_rounds(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward, gold reward and mean skill against the rounds, a line an algorithm.

    Raises:
        TableError: missing columns, nothing to draw, no theta_0, no algorithm, several studies.
    """
    names = {
        "reward": "reward gained over θ₀",
        "gold": "gold reward gained over θ₀",
        "skill": "mean skill (%)",
    }
    if "gold" not in points or points["gold"].isna().all():  # real data have none
        del names["gold"]
    rows = _trained(points, list(names), "algorithm_rounds")
    table = summarise(rows, ["algorithm", "rounds"], list(names))
    figure, grid = panels(1, len(names), (PANELS[0], 4.9))
    for axes, (name, title) in zip(grid[0], names.items(), strict=True):
        _by_algorithm(axes, table, rows, "rounds", name, apart=0.12)
        axes.set_title(title)
        axes.set_xlabel("rounds")
        axes.xaxis.get_major_locator().set_params(integer=True)
    title = "One budget of replies, round by round"
    return finish(figure, title, run_caption(rows, recorded), table, legend_columns=4)


@in_style()
def over_optimisation(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward and gold reward against the KL from theta_0, rounds joined (Gao et al. 2023).

    The x axis is the root of the KL, as there: it is the distance in which their curves are simple.

    Raises:
        TableError: as `algorithm_rounds`, or no gold reward.
    """
    names = {"reward": "reward gained (optimised)", "gold": "gold reward gained (not optimised)"}
    rows = _trained(points, ["kl", *names], "over_optimisation")
    # a KL that is estimated from few samples may come out below 0, which no root can show
    rows["kl"] = rows["kl"].clip(lower=0.0)
    table = summarise(rows, ["algorithm", "rounds"], ["kl", *names])
    figure, grid = panels(1, 2, (PANELS[0], 5.0), sharey=True)
    for axes, (name, title) in zip(grid[0], names.items(), strict=True):
        _by_algorithm(axes, table, rows, "kl", name)
        draw.level(axes, 0)
        axes.set_xscale("function", functions=(_root, np.square))
        axes.set_xlim(left=0)
        axes.set_title(title)
        axes.set_xlabel("KL(θ ‖ θ₀), nats a reply (root scale)")
    # rewards are of replies to prompts: the number of items is that of the skills
    caption = run_caption(rows.drop(columns="n_items"), recorded)
    title = "Does the true reward follow the optimised one?"
    return finish(figure, title, caption, table, legend_columns=4)


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0.0))


@in_style()
def algorithm_fronts(points: pd.DataFrame, family: str = "skill", recorded: bool = False) -> Figure:
    """Draw skill against reward, a panel for every algorithm, axes shared (paper Fig. 14).

    Each panel holds the rounds and the averages of one algorithm, with the intervals of the last
    round and of some averages; the averages of RSF stand behind the others as a grey line.

    Raises:
        TableError: an unknown family, or as `algorithm_rounds`.
    """
    figure_name = "algorithm_fronts"
    if family not in FAMILY_NAMES:
        raise TableError(f"{figure_name}: {family!r} is no family: {', '.join(FAMILY_NAMES)}.")
    rows = _trained(points, ["reward", family], figure_name).assign(alpha=np.nan, method="none")
    every = change(shared(prepare(points, ["reward", family], figure_name)), ["reward"], "")
    mixed = every[(every["method"] == "average") & every["algorithm"].isin(names := present(rows))]
    rows = pd.concat([rows, mixed], ignore_index=True)
    table = summarise(rows, ["algorithm", "method", "rounds", "alpha"], ["reward", family])
    averages = table[table["method"] == "average"].sort_values("alpha")
    across = min(2, len(names))
    down = -(-len(names) // across)
    size = (PANELS[0], 1.0 + 3.8 * down)
    figure, grid = panels(down, across, size, used=len(names), sharex=True, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        if name != "rsf" and len(behind := averages[averages["algorithm"] == "rsf"]):
            look = Look("the averages of RSF", GREY, "")
            draw.line(axes, behind, "reward", family, look, linestyle=":", linewidth=1.4, zorder=1)
        _averages(axes, averages[averages["algorithm"] == name], family)
        own = table[(table["algorithm"] == name) & (table["method"] == "none")]
        own = own.sort_values("rounds")
        barred = draw.barless(own, own["rounds"] < own["rounds"].max())
        draw.curve(axes, barred, "reward", family, ROUNDS, bars="y")
        draw.star(axes, *own[["reward", family]].iloc[0], label="θ₀")
        axes.set_title(ALGORITHM_NAMES[name])
    for axes in grid[-1]:
        axes.set_xlabel("reward gained over θ₀")
    for axes in grid[:, 0]:
        axes.set_ylabel(AXIS_NAMES[family])
    title = f"{FAMILY_NAMES[family].capitalize()} against reward, algorithm by algorithm"
    return finish(figure, title, run_caption(rows, recorded), table, legend_columns=4)


def _averages(axes: Axes, own: pd.DataFrame, y: str) -> None:
    """Draw the averages of one algorithm: some with their ratio and interval, the ends bare.

    At alpha 0 and 1 they are theta_0 and the last round, which have markers of their own.
    """
    draw.line(axes, own, "reward", y, Look("_", BLUE, ""), zorder=1.5)
    inner = own[own["alpha"].between(0, 1, inclusive="neither")]
    shown = inner["alpha"].round(3).isin(LABELLED_ALPHAS)
    draw.curve(axes, draw.barless(inner, ~shown), "reward", y, AVERAGES, bars="y")
    for x, height, alpha in inner.loc[shown, ["reward", y, "alpha"]].itertuples(index=False):
        draw.note(axes, f"α {alpha:g}", x, height, (1, 1), far=6, color=BLUE, fontsize=10)


@in_style()
def kl_penalty(points: pd.DataFrame, own: float, recorded: bool = False) -> Figure:
    """Draw skill against reward for PPO's KL coefficients and for averages of its own end (Fig. 8).

    Of the seeds that have another coefficient, so that all points are of the same.

    Args:
        points: The columns of points.csv, one study.
        own: The KL coefficient of the models whose method is "none".
        recorded: True for a run from data/results.

    Raises:
        TableError: missing columns, no theta_0, or there is no PPO under another coefficient.
    """
    name = "kl_penalty"
    rows = change(prepare(points, ["reward", "skill"], name), ["reward"], name)
    ppo = rows[rows["algorithm"] == "ppo"]
    swept = ppo[ppo["method"] == "kl_coef"]
    if swept.empty:
        raise TableError(f"{name} needs PPO under another KL coefficient: none is recorded.")
    plain = last_round(ppo, "ppo", name).assign(method="kl_coef", strength=own)
    rows = pd.concat([swept, plain, ppo[ppo["method"] == "average"]], ignore_index=True)
    rows = rows[rows["seed"].isin(swept["seed"])]
    table = summarise(rows, ["method", "strength", "alpha"], ["reward", "skill"])
    figure, [[axes]] = panels(1, 1, (PANELS[0], WIDE[1]))
    looks = {"kl_coef": METHODS["kl_coef"], "average": AVERAGES}
    for (method, look), order in zip(looks.items(), ("strength", "alpha"), strict=True):
        seeds = rows[rows["method"] == method]
        drawn = table[table["method"] == method].sort_values(order)
        draw.curve(axes, drawn, "reward", "skill", look, seeds=seeds, order=order, bars="y")
    axes.set_xlabel("reward gained over θ₀  →")
    axes.set_ylabel(f"{AXIS_NAMES['skill']}  →")
    title, caption = "A heavier KL penalty, or averaging?", run_caption(rows, recorded)
    finish(figure, title, caption, table, legend_columns=2)
    named = table[table["method"] == "kl_coef"]
    spots = [each[["reward", "skill"]] for each in (named, table[table["method"] == "average"])]
    texts = [f"{strength:g}" for strength in named["strength"]]
    draw.notes(axes, texts, *spots, fontsize=11, color=looks["kl_coef"].colour)
    return figure


@in_style()
def algorithm_tax(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw what each algorithm costs in every family, with 95 % intervals, numbers at the side.

    Raises:
        TableError: as `algorithm_rounds`.
    """
    families = ["skill", *(name for name in FAMILY_NAMES if name != "skill")]
    rows = change(shared(prepare(points, families, "algorithm_tax")), families, "algorithm_tax")
    names = present(rows) or ["rsf"]
    ends = pd.concat([last_round(rows, name, "algorithm_tax") for name in names])
    ends = ends.melt(["algorithm", "seed"], families, "family", "tax")
    table = summarise(ends.assign(tax=-ends["tax"]), ["algorithm", "family"], ["tax"])
    table.insert(2, "name", table["family"].map(FAMILY_NAMES))
    words = [FAMILY_NAMES[family] for family in families]
    figure, [[axes]] = panels(1, 1, (PANELS[0], 2.4 + 0.3 * len(families) * max(len(names), 2)))
    for place, name in enumerate(names):
        own = table[table["algorithm"] == name]
        aside = 0.8 / len(names) * (place - (len(names) - 1) / 2)
        looks = [ALGORITHMS[name]] * len(own)
        draw.forest(
            axes, own, name="name", value="tax", looks=looks, names=words, aside=aside, digits=None
        )
        for row in own.itertuples():
            # two decimals where one would hide the interval
            digits = 2 if row.tax_high - row.tax_low < 0.5 else 1
            axes.annotate(
                spread(row.tax, row.tax_low, row.tax_high, digits, sign=True),
                (1.01, words.index(row.name) + aside), xycoords=axes.get_yaxis_transform(),
                fontsize=10.5, va="center", color=INK,
            )  # fmt: skip
    axes.hlines(np.arange(len(words) - 1) + 0.5, *axes.get_xlim(), color="#E4E4E4", linewidth=0.8)
    axes.set_ylim(len(words) - 0.5, -0.5)
    axes.set_xlabel("points lost since θ₀ (left of 0: gained)")
    caption = run_caption(shared(points), recorded)
    return finish(figure, "The tax of each algorithm", caption, table, legend_columns=4)


@in_style()
def razor(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw what was forgotten against KL and against the reward gained, with fits to all.

    KL is on a root scale. The limits are those of the models: the parabola may leave them. The
    table holds the fits.

    Args:
        rows: Rows of `stats.forgetting.forgetting`; an x that is not recorded is left out.
        caption: Which run this is.

    Raises:
        TableError: missing columns, or too few models for a fit.
    """
    need(rows, ["algorithm", "method", "seed", "tax", "kl", "forward_kl", "gain"], "razor")
    xs = [name for name in forgetting.X_NAMES if rows[name].nunique() >= 4]  # what the fits need
    if not xs:
        raise TableError("razor has nothing to draw: fewer points than a fit needs.")
    figure, grid = panels(1, len(xs), (PANELS[0], 5.2), sharey=True)
    fits = []
    for axes, x in zip(grid[0], xs, strict=True):
        _razor_models(axes, rows, x)
        fits += _razor_fits(axes, rows, x)
        draw.level(axes, 0)
        draw.star(axes, 0, 0, label="θ₀", size=15)
        axes.set_xlabel("reward gained over θ₀")
        if x != "gain":
            axes.set_xscale("function", functions=(_root, np.square))
            axes.set_xlim(0, 1.08 * rows[x].max())
            axes.set_xlabel(f"{forgetting.X_NAMES[x]}, nats a reply\n(root scale)")
    low, high = min(0.0, rows["tax"].min()), max(0.0, rows["tax"].max())
    grid[0, 0].set_ylim(low - 0.06 * (high - low), high + 0.12 * (high - low))
    grid[0, 0].set_ylabel("forgotten: points of mean skill")
    title = "Does KL tell how much is forgotten?"
    return finish(figure, title, caption, pd.DataFrame(fits), legend_columns=4)


def _razor_models(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    """Draw every model: PPO's under other KL coefficients hollow, the control on top."""
    for (name, swept), own in rows.groupby([rows["algorithm"], rows["method"] == "kl_coef"]):
        look, on_top = ALGORITHMS[name], name == "rsf_random"
        draw.scatter(
            axes, own, x, "tax", look, hollow=bool(swept), markersize=6, zorder=4 if on_top else 2,
            alpha=1 if on_top else 0.75, markeredgewidth=1.2 if swept else 0.5,
            label=f"{look.label}, other KL coefficients" if swept else look.label,
        )  # fmt: skip
    if x != "gain":  # what went furthest, and how far
        row = rows.loc[rows[x].idxmax()]
        text = forgetting.WITH_CONTROL[row["algorithm"]]
        if row["method"] == "kl_coef":
            text += f", KL coefficient {row['strength']:g}"
        axes.annotate(
            f"{text}:\n{row[x]:.0f} nats", (row[x], row["tax"]), xytext=(0.97, 0.32),
            textcoords="axes fraction", ha="right", va="top", fontsize=10, color=INK,
            arrowprops={"arrowstyle": "-", "color": "#8A8A8A", "linewidth": 0.8, "shrinkB": 5},
        )  # fmt: skip


def _razor_fits(axes: Axes, rows: pd.DataFrame, x: str) -> list[dict[str, Any]]:
    """Draw both fits to all models, R squared in the title; return them as rows of a table."""
    way = pd.DataFrame({x: np.linspace(min(0.0, rows[x].min()), rows[x].max(), 600)})
    table = []
    for shape, stroke, width in (("saturating", "-", 2.2), ("parabola", "--", 1.1)):
        found = forgetting.fit(rows, x, shape)
        if found is None:
            continue
        label = "saturating curve" if shape == "saturating" else shape
        look = Look(f"{label}, through θ₀", GREEN, "")
        drawn = way.assign(tax=found(way[x].to_numpy()))
        draw.line(axes, drawn, x, "tax", look, linestyle=stroke, linewidth=width, zorder=3)
        if shape == "saturating":
            text = spread(found.r_squared, found.low, found.high, 2)
            axes.set_title(f"R² = {text}", fontsize=12.5)
        row = {"against": forgetting.X_NAMES[x], "shape": shape, "models": found.n}
        table.append({**row, "r_squared": found.r_squared, "low": found.low, "high": found.high})
    return table


@in_style()
def ppo_runs(logs: Mapping[str, pd.DataFrame], caption: str) -> Figure:
    """Draw short PPO runs by iteration: reward, KL, length, share of finished replies.

    Args:
        logs: Name of the run -> one row per iteration: iteration, reward, kl, reply_length,
            finished (see `train.ppo.step`).
        caption: Which run this is.

    Raises:
        TableError: no run, more runs than there are looks, or missing columns.
    """
    if not 1 <= len(logs) <= len(RUNS):
        raise TableError(f"ppo_runs draws 1 to {len(RUNS)} runs, not {len(logs)}.")
    figure, grid = panels(2, 2, (PANELS[0], 6.2), sharex=True)
    for axes, (name, title) in zip(grid.flat, RUN_PANELS.items(), strict=True):
        for place, (run, log) in enumerate(logs.items()):
            need(log, ["iteration", *RUN_PANELS], "ppo_runs")
            # equal runs beside one another
            aside = log.assign(iteration=log["iteration"] + 0.09 * (place - (len(logs) - 1) / 2))
            look = Look(run, *RUNS[place])
            draw.curve(axes, aside, "iteration", name, look, bars="", markersize=6)
        axes.set_title(title, fontsize=12.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in grid[1]:
        axes.set_xlabel("iteration of PPO")
    table = pd.concat(
        [log[["iteration", *RUN_PANELS]].assign(run=run) for run, log in logs.items()]
    )
    table = table[["run", "iteration", *RUN_PANELS]]
    title = "PPO, and PPO with a part missing: one run each"
    return finish(figure, title, caption, table, legend_columns=2)
