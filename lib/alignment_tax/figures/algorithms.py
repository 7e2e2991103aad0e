"""RSF, DPO, RLOO and PPO side by side: rounds, fronts, tax, KL, over-optimisation, forgetting.

`points` are the columns of points.csv, one study; `recorded` says that they are of data/results.
What is side by side is of the seeds that all algorithms have. What cannot be drawn is a TableError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw
from alignment_tax.figures import style
from alignment_tax.figures.style import ALGORITHMS, Look
from alignment_tax.figures.words import run_caption
from alignment_tax.labels import ALGORITHM_NAMES, AXIS_NAMES, FAMILY_NAMES, spread
from alignment_tax.results import points as select
from alignment_tax.results.points import TableError
from alignment_tax.stats import forgetting
from alignment_tax.stats.compare import summarise

LOOKS = {name: ALGORITHMS[name] for name in select.RLHF}
# How the two ways through one algorithm are drawn: its rounds, and the averages of its ends.
ROUNDS = Look("as trained, round by round", style.BLACK, "s")
AVERAGES = Look("average of θ₀ and the last round", style.BLUE, "o")
LABELLED_ALPHAS = (0.2, 0.5, 0.8)
GAINS = ("reward", "gold")
# PPO as it is meant and with something taken away, in the order in which runs are passed.
RUNS = [(style.BLACK, "o"), (style.VERMILLION, "s"), (style.PURPLE, "v"), (style.BLUE, "D"),
        (style.ORANGE, "^")]  # fmt: skip
RUN_PANELS = {
    "reward": "reward (reward model's units)",
    "kl": "KL from θ₀ (nats a reply)",
    "reply_length": "length of a reply (tokens)",
    "finished": "replies that end (share)",
}


def _shared(points: pd.DataFrame, values: Sequence[str], figure: str) -> pd.DataFrame:
    """Return the rows of the seeds that all algorithms have; rewards are gains over theta_0."""
    rows = select.shared(select.prepare(points, values, figure))
    if not select.present(rows):
        raise TableError(f"{figure} needs rounds of {', '.join(LOOKS)}: there are none.")
    return select.change(rows, [name for name in GAINS if name in values], figure)


def _trained(rows: pd.DataFrame) -> pd.DataFrame:
    """Return theta_0 (round 0) and the rounds of each algorithm."""
    each = [select.rounds_from_0(rows, name, "algorithms") for name in select.present(rows)]
    return pd.concat(each, ignore_index=True)


@style.in_style()
def algorithm_rounds(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward, gold reward and mean skill against the rounds, a line an algorithm."""
    names = {"reward": "reward gained over θ₀", "gold": "gold reward gained over θ₀",
             "skill": "mean skill (%)"}  # fmt: skip
    if not select.has_gold(points):
        del names["gold"]
    rows = _trained(_shared(points, list(names), "algorithm_rounds"))
    table = summarise(rows, ["algorithm", "rounds"], list(names))
    figure, [line] = style.panels(1, len(names), (style.PANELS[0], 4.9), xlabel="rounds")
    for axes, (y, title) in zip(line, names.items(), strict=True):
        draw.curves(axes, table, "algorithm", "rounds", y, LOOKS, seeds=rows, order="rounds",
                    apart=0.12)  # fmt: skip
        axes.set_title(title)
        axes.xaxis.get_major_locator().set_params(integer=True)
    title = "One budget of replies, round by round"
    return style.finish(figure, title, run_caption(rows, recorded), table, legend_columns=4)


@style.in_style()
def over_optimisation(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward and gold reward against the root of the KL from theta_0 (Gao et al. 2023)."""
    names = {"reward": "reward gained (optimised)", "gold": "gold reward gained (not optimised)"}
    rows = _trained(_shared(points, ["kl", *names], "over_optimisation"))
    # a KL that is estimated from few samples may come out below 0, which no root can show
    rows["kl"] = rows["kl"].clip(lower=0.0)
    table = summarise(rows, ["algorithm", "rounds"], ["kl", *names])
    label = "KL(θ ‖ θ₀), nats a reply (root scale)"
    figure, [line] = style.panels(1, 2, (style.PANELS[0], 5.0), sharey=True, xlabel=label)
    for axes, (y, title) in zip(line, names.items(), strict=True):
        draw.curves(axes, table, "algorithm", "kl", y, LOOKS, seeds=rows, order="rounds", bars="y")
        draw.level(axes, 0)
        axes.set_xscale("function", functions=(_root, np.square))
        axes.set_xlim(left=0)
        axes.set_title(title)
    # rewards are of replies to prompts: the number of items is that of the skills
    caption = run_caption(rows.drop(columns="n_items"), recorded)
    title = "Does the true reward follow the optimised one?"
    return style.finish(figure, title, caption, table, legend_columns=4)


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0.0))


@style.in_style()
def algorithm_fronts(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw mean skill against reward, a panel for every algorithm, axes shared (paper Fig. 14).

    Each panel holds the rounds and the averages of one algorithm, with the intervals of the last
    round and of some averages; the averages of RSF stand behind the others as a grey line.
    """
    values = ["reward", "skill"]
    mixed = _shared(points, values, "algorithm_fronts")
    rows, names = _trained(mixed), select.present(mixed)
    mixed = mixed[(mixed["method"] == "average") & mixed["algorithm"].isin(names)]
    rows = pd.concat([rows, mixed], ignore_index=True)
    table = summarise(rows, ["algorithm", "method", "rounds", "alpha"], values)
    averages = table[table["method"] == "average"].sort_values("alpha")
    across, down = min(2, len(names)), (len(names) + 1) // 2
    figure, grid = style.panels(
        down, across, (style.PANELS[0], 1.0 + 3.8 * down), used=len(names), sharex=True,
        sharey=True, xlabel="reward gained over θ₀", ylabel=AXIS_NAMES["skill"],
    )  # fmt: skip
    for axes, name in zip(grid.flat, names, strict=False):
        if name != "rsf" and len(behind := averages[averages["algorithm"] == "rsf"]):
            look = Look("the averages of RSF", style.GREY)
            draw.line(axes, behind, "reward", "skill", look, linestyle=":", linewidth=1.4, zorder=1)
        _averages(axes, averages[averages["algorithm"] == name])
        own = table[(table["algorithm"] == name) & (table["method"] == "none")]
        own = own.sort_values("rounds")
        ends = draw.barless(own, own["rounds"] < own["rounds"].max())
        draw.curve(axes, ends, "reward", "skill", ROUNDS, bars="y")
        draw.star(axes, *own[values].iloc[0], label="θ₀")
        axes.set_title(ALGORITHM_NAMES[name])
    title = f"{FAMILY_NAMES['skill'].capitalize()} against reward, algorithm by algorithm"
    return style.finish(figure, title, run_caption(rows, recorded), table, legend_columns=4)


def _averages(axes: Axes, own: pd.DataFrame) -> None:
    """Draw the averages of one algorithm, some with ratio and interval; the ends have stars."""
    draw.line(axes, own, "reward", "skill", Look("_", style.BLUE), zorder=1.5)
    inner = own[own["alpha"].between(0, 1, inclusive="neither")]
    shown = inner["alpha"].round(3).isin(LABELLED_ALPHAS)
    draw.curve(axes, draw.barless(inner, ~shown), "reward", "skill", AVERAGES, bars="y")
    for x, y, alpha in inner.loc[shown, ["reward", "skill", "alpha"]].to_numpy():
        draw.note(axes, f"α {alpha:g}", x, y, (1, 1), far=6, color=style.BLUE, fontsize=10)


@style.in_style()
def kl_penalty(points: pd.DataFrame, own: float, recorded: bool = False) -> Figure:
    """Draw skill against reward for PPO's KL coefficients and for averages of its own end (Fig. 8).

    `own` is the coefficient of the models whose method is "none". All are of the seeds that have
    another one too.
    """
    name, values = "kl_penalty", ["reward", "skill"]
    rows = select.change(select.prepare(points, values, name), ["reward"], name)
    ppo = rows[rows["algorithm"] == "ppo"]
    swept = ppo[ppo["method"] == "kl_coef"]
    if swept.empty:
        raise TableError(f"{name} needs PPO under another KL coefficient: none is recorded.")
    plain = select.last_round(ppo, "ppo", name).assign(method="kl_coef", strength=own)
    rows = pd.concat([swept, plain, ppo[ppo["method"] == "average"]], ignore_index=True)
    rows = rows[rows["seed"].isin(swept["seed"])]
    rows = rows.assign(dial=rows["strength"].fillna(rows["alpha"]))
    drawn = summarise(rows, ["method", "strength", "alpha", "dial"], values)
    figure, [[axes]] = style.panels(
        1, 1, (style.PANELS[0], style.WIDE[1]), xlabel="reward gained over θ₀  →",
        ylabel=f"{AXIS_NAMES['skill']}  →",
    )  # fmt: skip
    looks = {"kl_coef": style.METHODS["kl_coef"], "average": AVERAGES}
    draw.curves(axes, drawn, "method", "reward", "skill", looks, seeds=rows, order="dial", bars="y")
    title, caption = "A heavier KL penalty, or averaging?", run_caption(rows, recorded)
    style.finish(figure, title, caption, table := drawn.drop(columns="dial"), legend_columns=2)
    named = table[table["method"] == "kl_coef"]
    texts = [f"{strength:g}" for strength in named["strength"]]
    colour = looks["kl_coef"].colour
    draw.notes(axes, texts, named[values], table[values], fontsize=11, color=colour)
    return figure


@style.in_style()
def algorithm_tax(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw what each algorithm costs in every family, with 95 % intervals, numbers at the side."""
    figure_name, families = "algorithm_tax", ["skill", "commonsense", "reading", "translation"]
    rows = select.change(_shared(points, families, figure_name), families, figure_name)
    names = select.present(rows)
    ends = pd.concat([select.last_round(rows, name, figure_name) for name in names])
    ends = ends.melt(["algorithm", "seed"], families, "family", "tax")
    table = summarise(ends, ["algorithm", "family"], ["tax"])
    size = (style.PANELS[0], 2.4 + 0.3 * len(families) * max(len(names), 2))
    label = "points since θ₀ (left of 0: lost)"
    figure, [[axes]] = style.panels(1, 1, size, xlabel=label)
    for place, name in enumerate(names):
        own = table[table["algorithm"] == name]
        aside = 0.8 / len(names) * (place - (len(names) - 1) / 2)
        draw.forest(axes, own, name="family", value="tax", looks=[ALGORITHMS[name]] * len(own),
                    names=families, aside=aside, digits=None)  # fmt: skip
        for family, tax, low, high in own[["family", "tax", "tax_low", "tax_high"]].to_numpy():
            digits = 2 if high - low < 0.5 else 1  # two where one would hide the interval
            axes.annotate(
                spread(tax, low, high, digits, sign=True), (1.01, families.index(family) + aside),
                xycoords=axes.get_yaxis_transform(), fontsize=10.5, va="center", color=style.INK,
            )  # fmt: skip
    axes.set_yticks(range(len(families)), [FAMILY_NAMES[family] for family in families])
    for edge in range(1, len(families)):
        axes.axhline(edge - 0.5, color="#E4E4E4", linewidth=0.8)
    axes.set_ylim(len(families) - 0.5, -0.5)
    caption = run_caption(select.shared(points), recorded)
    return style.finish(figure, "The tax of each algorithm", caption, table, legend_columns=4)


@style.in_style()
def razor(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw what was forgotten against KL and against the reward gained, with fits to all.

    KL is on a root scale. The limits are those of the models: the parabola may leave them. `rows`
    are those of `stats.forgetting.forgetting`; an x that is not recorded is left out. The table
    holds the fits.
    """
    select.need(rows, ["algorithm", "method", "seed", "tax", "kl", "forward_kl", "gain"], "razor")
    xs = [name for name in forgetting.X_NAMES if rows[name].nunique() >= 4]  # what the fits need
    if not xs:
        raise TableError("razor has nothing to draw: fewer points than a fit needs.")
    label = "forgotten: points of mean skill"
    figure, [line] = style.panels(1, len(xs), (style.PANELS[0], 5.2), sharey=True, ylabel=label)
    fits = []
    for axes, x in zip(line, xs, strict=True):
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
    line[0].set_ylim(low - 0.06 * (high - low), high + 0.12 * (high - low))
    title = "Does KL tell how much is forgotten?"
    return style.finish(figure, title, caption, pd.DataFrame(fits), legend_columns=4)


def _razor_models(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    """Draw every model: PPO's under other KL coefficients hollow, the control on top."""
    for (name, swept), own in rows.groupby(["algorithm", rows["method"] == "kl_coef"]):
        look, on_top = ALGORITHMS[str(name)], name == "rsf_random"
        draw.scatter(
            axes, own, x, "tax", look, hollow=bool(swept), markersize=6, zorder=4 if on_top else 2,
            alpha=1 if on_top else 0.75, markeredgewidth=1.2 if swept else 0.5,
            label=f"{look.label}, other KL coefficients" if swept else look.label,
        )  # fmt: skip
    if x != "gain":  # what went furthest, and how far
        row = rows.sort_values(x).iloc[-1]
        text = forgetting.WITH_CONTROL[row["algorithm"]]
        if row["method"] == "kl_coef":
            text += f", KL coefficient {row['strength']:g}"
        axes.annotate(
            f"{text}:\n{row[x]:.0f} nats", (row[x], row["tax"]), xytext=(0.97, 0.32),
            textcoords="axes fraction", ha="right", va="top", fontsize=10, color=style.INK,
            arrowprops={"arrowstyle": "-", "color": style.GREY, "linewidth": 0.8, "shrinkB": 5},
        )  # fmt: skip


def _razor_fits(axes: Axes, rows: pd.DataFrame, x: str) -> list[dict[str, Any]]:
    """Draw both fits to all models, R squared in the title; return them as rows of a table."""
    way = pd.DataFrame({x: np.linspace(min(0.0, rows[x].min()), rows[x].max(), 600)})
    table = []
    for shape, stroke, width in (("saturating curve", "-", 2.2), ("parabola", "--", 1.1)):
        if (found := forgetting.fit(rows, x, shape.split()[0])) is None:
            continue
        drawn = way.assign(tax=found(way[x].to_numpy()))
        look = Look(f"{shape}, through θ₀", style.GREEN)
        draw.line(axes, drawn, x, "tax", look, linestyle=stroke, linewidth=width, zorder=3)
        if stroke == "-":
            text = spread(found.r_squared, found.low, found.high, 2)
            axes.set_title(f"R² = {text}", fontsize=12.5)
        row = {"against": forgetting.X_NAMES[x], "shape": shape, "models": found.n}
        table.append({**row, "r_squared": found.r_squared, "low": found.low, "high": found.high})
    return table


@style.in_style()
def ppo_runs(logs: Mapping[str, pd.DataFrame], caption: str) -> Figure:
    """Draw up to five short PPO runs by iteration: reward, KL, length, share of finished replies.

    `logs` maps a run to its table: iteration, reward, kl, reply_length, finished (train.ppo.step).
    """
    if not 1 <= len(logs) <= len(RUNS):
        raise TableError(f"ppo_runs draws 1 to {len(RUNS)} runs, not {len(logs)}.")
    for log in logs.values():
        select.need(log, ["iteration", *RUN_PANELS], "ppo_runs")
    table = pd.concat([log.assign(run=run) for run, log in logs.items()])
    table = table[["run", "iteration", *RUN_PANELS]]
    looks = {run: Look(run, *RUNS[place]) for place, run in enumerate(logs)}
    size = (style.PANELS[0], 6.2)
    figure, grid = style.panels(2, 2, size, sharex=True, xlabel="iteration of PPO")
    for axes, (y, title) in zip(grid.flat, RUN_PANELS.items(), strict=True):
        draw.curves(axes, table, "run", "iteration", y, looks, apart=0.09, markersize=6)
        axes.set_title(title, fontsize=12.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    title = "PPO, and PPO with a part missing: one run each"
    return style.finish(figure, title, caption, table, legend_columns=2)
