"""RSF, DPO, RLOO and PPO side by side: rounds, over-optimisation, fronts, tax, KL and forgetting.

Drawn from tables of points that hold several algorithms, and from the logs of short PPO runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax import algorithms_claims as claims
from alignment_tax.figures.look import (
    ALGORITHMS,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    METHODS,
    ORANGE,
    PANELS,
    PURPLE,
    VERMILLION,
    FigureError,
    Look,
    bar_lengths,
    canvas,
    draw_line,
    finish,
    style,
)
from alignment_tax.figures.tables import run_caption
from alignment_tax.labels import AXIS_NAMES, FAMILY_NAMES, number, spread
from alignment_tax.results.points import change, need, prepare, theta_0
from alignment_tax.stats.compare import summarise

# How the two ways through one algorithm are drawn: its rounds, and the averages of its ends.
ROUNDS_LOOK = Look("as trained, round by round", BLACK, "s")
AVERAGES_LOOK = Look("average of θ₀ and the last round", BLUE, "o")
# PPO as it is meant and with something taken away, in the order of `ppo_live.variants`.
RUN_LOOKS = (
    Look("as meant", BLACK, "o"),
    Look("no KL penalty", VERMILLION, "s"),
    Look("no whitening", PURPLE, "v"),
    Look("little room", BLUE, "D"),
    Look("little room, no penalty for a missing end", ORANGE, "^"),
)
RUN_PANELS = {
    "reward": "reward (reward model's units)",
    "kl": "KL from θ₀ (nats a reply)",
    "reply_length": "length of a reply (tokens)",
    "finished": "replies that end (share)",
}
X_NAMES = {
    "forward_kl": f"{claims.X_NAMES['forward_kl']}, nats a reply",
    "kl": f"{claims.X_NAMES['kl']}, nats a reply",
    "gain": "reward gained over θ₀",
}
# The averages whose ratio stands beside them.
LABELLED_ALPHAS = (0.2, 0.5, 0.8)


def _trained(points: pd.DataFrame, values: list[str], figure: str) -> pd.DataFrame:
    """Return theta_0 as round 0 and the rounds of every algorithm; rewards are gained over theta_0.

    Of the seeds that all algorithms have (`algorithms_claims.shared`).

    Raises:
        FigureError: as `prepare`, or no algorithm was recorded.
    """
    rows = claims.shared(prepare(points, values, figure))
    rows = change(rows, [name for name in ("reward", "gold") if name in values], figure)
    start = theta_0(rows, figure)
    parts = []
    for name in claims.present(rows):
        own = rows[(rows["algorithm"] == name) & (rows["method"] == "none")]
        at_0 = start[start["seed"].isin(own["seed"])].assign(algorithm=name, rounds=0.0)
        parts += [at_0, own]
    if not parts:
        raise FigureError(f"{figure} needs rounds of {', '.join(claims.NAMES)}: there are none.")
    return pd.concat(parts, ignore_index=True)


def _golds(points: pd.DataFrame) -> list[str]:
    """Return ["gold"] if the points have a gold reward (real data have none)."""
    return ["gold"] if "gold" in points and points["gold"].notna().any() else []


def _seed_lines(axes: Axes, rows: pd.DataFrame, x: str, y: str, colour: str, order: str) -> None:
    """Draw one faint line a seed, where there are several."""
    if rows["seed"].nunique() < 2:
        return
    for _, own in rows.groupby("seed"):
        line = own.sort_values(order)
        axes.plot(line[x], line[y], color=colour, alpha=0.22, linewidth=0.9, zorder=1.2)


def _mean_line(axes: Axes, table: pd.DataFrame, x: str, y: str, look: Look) -> None:
    """Draw the means of `y` with their intervals."""
    low, high = table[f"{y}_low"].to_numpy(), table[f"{y}_high"].to_numpy()
    draw_line(axes, table[x].to_numpy(), table[y].to_numpy(), low, high, look)


# --- rounds --------------------------------------------------------------------------------------


def algorithm_rounds_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return rewards and mean skill after every round of every algorithm.

    Returns:
        One row per algorithm and round (0 = theta_0): seeds, and mean, _low, _high (95 % t interval
        over seeds) of reward and gold (if measured), both gained over theta_0 of the same seed, and
        skill.

    Raises:
        FigureError: missing columns, nothing to draw, no theta_0, no algorithm, several studies.
    """
    values = ["reward", *_golds(points), "skill"]
    rows = _trained(points, values, "algorithm_rounds")
    return summarise(rows, ["algorithm", "rounds"], values)


def algorithm_rounds(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward, gold reward and mean skill against the rounds, a line an algorithm.

    Raises:
        FigureError: as `algorithm_rounds_table`.
    """
    table = algorithm_rounds_table(points)
    values = [name for name in ("reward", "gold", "skill") if name in table]
    rows = _trained(points, values, "algorithm_rounds")
    caption, there = run_caption(rows, recorded), claims.present(rows)
    names = {
        "reward": "reward gained over θ₀",
        "gold": "gold reward gained over θ₀",
        "skill": "mean skill (%)",
    }
    with style():
        figure = canvas((PANELS[0], 4.9))
        for axes, name in zip(figure.subplots(1, len(values)), values, strict=True):
            for place, algorithm in enumerate(there):
                look = ALGORITHMS[algorithm]
                aside = 0.12 * (place - (len(there) - 1) / 2)  # so that no bar hides another
                own = rows[rows["algorithm"] == algorithm]
                _seed_lines(axes, own, "rounds", name, look.colour, "rounds")
                part = table[table["algorithm"] == algorithm].sort_values("rounds")
                _mean_line(axes, part.assign(rounds=part["rounds"] + aside), "rounds", name, look)
            axes.set_title(names[name])
            axes.set_xlabel("rounds")
            axes.xaxis.get_major_locator().set_params(integer=True)
        alt = _rounds_alt(table, values, caption)
        return finish(figure, "One budget of replies, round by round", caption, alt, 4)


def _rounds_alt(table: pd.DataFrame, values: list[str], caption: str) -> str:
    """Return the description of `algorithm_rounds`."""
    parts = [f"Rounds of RLHF ({caption})."]
    for algorithm, rows in table.groupby("algorithm", sort=False):
        ordered = rows.sort_values("rounds")
        first, end = ordered.iloc[0], ordered.iloc[-1]
        moves = [
            f"{FAMILY_NAMES.get(name, f'{name} over θ₀')} from "
            f"{number(first[name], 2)} to {number(end[name], 2)}"
            for name in values
        ]
        who = claims.NAMES[str(algorithm)]
        parts.append(f"{who}, {int(end['rounds'])} rounds: {', '.join(moves)}.")
    return " ".join(parts)


# --- over-optimisation ---------------------------------------------------------------------------


def over_optimisation_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return KL, reward and gold reward after every round of every algorithm.

    Returns:
        One row per algorithm and round (0 = theta_0): seeds, and with _low, _high: kl (KL(theta ||
        theta_0), nats a reply), reward and gold, both gained over theta_0 of the same seed.

    Raises:
        FigureError: as `algorithm_rounds_table`, or no gold reward.
    """
    values = ["kl", "reward", "gold"]
    return summarise(_gained_both(points), ["algorithm", "rounds"], values)


def _gained_both(points: pd.DataFrame) -> pd.DataFrame:
    rows = _trained(points, ["kl", "reward", "gold"], "over_optimisation")
    # a KL that is estimated from few samples may come out below 0, which no root can show
    return rows.assign(kl=rows["kl"].clip(lower=0.0))


def over_optimisation(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward and gold reward against the KL from theta_0, rounds joined (Gao et al. 2023).

    The x axis is the root of the KL, as there: it is the distance in which their curves are simple.

    Raises:
        FigureError: as `over_optimisation_table`.
    """
    table, rows = over_optimisation_table(points), _gained_both(points)
    # rewards are of replies to prompts: the number of items is that of the skills
    caption = run_caption(rows.drop(columns="n_items"), recorded)
    names = {"reward": "reward gained (optimised)", "gold": "gold reward gained (not optimised)"}
    with style():
        figure = canvas((PANELS[0], 5.0))
        for axes, name in zip(figure.subplots(1, 2, sharey=True), names, strict=True):
            for algorithm in claims.present(rows):
                look = ALGORITHMS[algorithm]
                own = rows[rows["algorithm"] == algorithm]
                _seed_lines(axes, own, "kl", name, look.colour, "rounds")
                part = table[table["algorithm"] == algorithm].sort_values("rounds")
                _mean_line(axes, part, "kl", name, look)
            axes.axhline(0, color=GREY, linewidth=1.2, linestyle="--")
            axes.set_xscale("function", functions=(_root, np.square))
            axes.set_xlim(left=0)
            axes.set_title(names[name])
            axes.set_xlabel("KL(θ ‖ θ₀), nats a reply (root scale)")
        parts = [f"Reward and gold reward gained over θ₀ against KL ({caption})."]
        for algorithm in claims.present(rows):
            part = table[table["algorithm"] == algorithm].sort_values("rounds")
            end, best = part.iloc[-1], part.iloc[int(part["gold"].argmax())]
            parts.append(
                f"{claims.NAMES[algorithm]}: at the end KL {number(end['kl'])}, reward "
                f"{number(end['reward'], 2, sign=True)}, gold {number(end['gold'], 2, sign=True)}; "
                f"gold is highest, {number(best['gold'], 2, sign=True)}, at round "
                f"{int(best['rounds'])}, KL {number(best['kl'])}."
            )
        title = "Does the true reward follow the optimised one?"
        return finish(figure, title, caption, " ".join(parts), 4)


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0.0))


# --- fronts --------------------------------------------------------------------------------------


def algorithm_fronts_table(points: pd.DataFrame, family: str = "skill") -> pd.DataFrame:
    """Return the two curves of every algorithm: its rounds, and averages of theta_0 and its end.

    Args:
        points: the columns of points.csv, one study.
        family: skill, or a family.

    Returns:
        One row per algorithm, method (none, average), rounds and alpha: seeds, and with _low, _high
        reward (gained over theta_0 of the same seed) and `family`.

    Raises:
        FigureError: an unknown family, or as `algorithm_rounds_table`.
    """
    rows = _fronts_rows(points, family)
    return summarise(rows, ["algorithm", "method", "rounds", "alpha"], ["reward", family])


def _fronts_rows(points: pd.DataFrame, family: str) -> pd.DataFrame:
    figure = "algorithm_fronts"
    if family not in FAMILY_NAMES:
        raise FigureError(f"{figure}: {family!r} is no family; choose from {list(FAMILY_NAMES)}.")
    trained = _trained(points, ["reward", family], figure)
    rows = claims.shared(prepare(points, ["reward", family], figure))
    rows = change(rows, ["reward"], figure)
    mixed = rows[(rows["method"] == "average") & rows["algorithm"].isin(claims.present(rows))]
    return pd.concat([trained.assign(method="none", alpha=np.nan), mixed], ignore_index=True)


def algorithm_fronts(points: pd.DataFrame, family: str = "skill", recorded: bool = False) -> Figure:
    """Draw skill against reward, a panel for every algorithm, axes shared (paper Fig. 14).

    Each panel holds the rounds and the averages of one algorithm, with the intervals of the last
    round and of some averages; the averages of RSF stand behind the others as a grey line.

    Raises:
        FigureError: as `algorithm_fronts_table`.
    """
    table = algorithm_fronts_table(points, family)
    rows = _fronts_rows(points, family)
    caption, names = run_caption(rows, recorded), claims.present(rows)
    columns = 1 if len(names) == 1 else 2
    lines = -(-len(names) // columns)
    with style():
        figure = canvas((PANELS[0], 1.0 + 3.8 * lines))
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        behind = _front_of(table, "rsf", "average") if "rsf" in names else table[:0]
        for axes, algorithm in zip(grid.flat, names, strict=False):
            if algorithm != "rsf" and not behind.empty:
                axes.plot(
                    behind["reward"], behind[family], color=GREY, linewidth=1.4, linestyle=":",
                    label="the averages of RSF", zorder=1,
                )  # fmt: skip
            _draw_averages(axes, _front_of(table, algorithm, "average"), family)
            rounds = _front_of(table, algorithm, "none")
            _mean_line(
                axes, _barred(rounds, rounds.index[-1:], family), "reward", family, ROUNDS_LOOK
            )
            at_0 = rounds.iloc[0]
            axes.plot(
                at_0["reward"], at_0[family], marker="*", markersize=16, color=BLACK,
                markerfacecolor="white", linestyle="none", label="θ₀", zorder=5,
            )  # fmt: skip
            axes.set_title(claims.NAMES[algorithm])
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        for axes in grid.flat[max(0, len(names) - columns) : len(names)]:
            axes.set_xlabel("reward gained over θ₀")
            axes.tick_params(labelbottom=True)
        for axes in grid[:, 0]:
            axes.set_ylabel(AXIS_NAMES[family])
        title = f"{FAMILY_NAMES[family].capitalize()} against reward, algorithm by algorithm"
        return finish(figure, title, caption, _fronts_alt(table, family, caption), 4)


def _barred(part: pd.DataFrame, index: pd.Index, y: str) -> pd.DataFrame:
    """Return one curve with the intervals of `y` at these rows alone."""
    shown = part.copy()
    shown.loc[~part.index.isin(index), [f"{y}_low", f"{y}_high"]] = np.nan
    return shown


def _draw_averages(axes: Axes, part: pd.DataFrame, y: str) -> None:
    """Draw the averages of one algorithm: some with their ratio and interval, the ends bare.

    At alpha 0 and 1 they are theta_0 and the last round, which have markers of their own.
    """
    if part.empty:
        return
    look = AVERAGES_LOOK
    axes.plot(part["reward"], part[y], color=look.colour, zorder=1.5)
    inner = part[part["alpha"].between(0, 1, inclusive="neither")]
    if inner.empty:
        return
    shown = inner[inner["alpha"].round(3).isin(LABELLED_ALPHAS)]
    _mean_line(axes, _barred(inner, shown.index, y), "reward", y, look)
    for row in shown.to_dict("records"):
        axes.annotate(
            f"α {row['alpha']:g}", (row["reward"], row[y]), xytext=(6, 6),
            textcoords="offset points", fontsize=10, color=look.colour,
        )  # fmt: skip


def _front_of(table: pd.DataFrame, algorithm: str, method: str) -> pd.DataFrame:
    """Return one curve of the table of fronts, in order."""
    part = table[(table["algorithm"] == algorithm) & (table["method"] == method)]
    return part.sort_values("rounds" if method == "none" else "alpha")


def _fronts_alt(table: pd.DataFrame, family: str, caption: str) -> str:
    """Return the description of `algorithm_fronts`."""
    parts = [f"{FAMILY_NAMES[family]} against reward gained over θ₀ ({caption})."]
    for algorithm in dict.fromkeys(table["algorithm"]):
        rounds = _front_of(table, algorithm, "none")
        first, end = rounds.iloc[0], rounds.iloc[-1]
        text = (
            f"{claims.NAMES[algorithm]}: from {number(first[family])} to {number(end[family])} "
            f"while reward rises by {number(end['reward'], 2)}"
        )
        mixed = _front_of(table, algorithm, "average")
        if not mixed.empty:
            middle = mixed.iloc[len(mixed) // 2]
            text += (
                f"; the average at alpha {middle['alpha']:g} has {number(middle[family])} and "
                f"{number(middle['reward'], 2)}"
            )
        parts.append(text + ".")
    return " ".join(parts)


def kl_penalty_table(points: pd.DataFrame, own: float) -> pd.DataFrame:
    """Return PPO under several KL coefficients beside the averages of its own end (paper Fig. 8).

    Args:
        points: the columns of points.csv, one study.
        own: the KL coefficient of the models whose method is "none".

    Returns:
        One row per method ("kl_coef" by strength, "average" by alpha): seeds, and with _low, _high
        reward (gained over theta_0 of the same seed) and skill. Only of seeds that have another
        coefficient, so that all points are of the same seeds.

    Raises:
        FigureError: as `prepare`, or there is no PPO under another coefficient.
    """
    return summarise(
        _penalty_rows(points, own), ["method", "strength", "alpha"], ["reward", "skill"]
    )


def _penalty_rows(points: pd.DataFrame, own: float) -> pd.DataFrame:
    figure = "kl_penalty"
    rows = change(prepare(points, ["reward", "skill"], figure), ["reward"], figure)
    ppo = rows[rows["algorithm"] == "ppo"]
    swept, plain = ppo[ppo["method"] == "kl_coef"], ppo[ppo["method"] == "none"]
    if swept.empty or plain.empty:
        raise FigureError(f"{figure} needs PPO under another KL coefficient: none is recorded.")
    plain = plain[plain["rounds"] == plain["rounds"].max()]
    plain = plain.assign(method="kl_coef", strength=own)
    every = pd.concat([swept, plain, ppo[ppo["method"] == "average"]], ignore_index=True)
    return every[every["seed"].isin(swept["seed"])]


def kl_penalty(points: pd.DataFrame, own: float, recorded: bool = False) -> Figure:
    """Draw skill against reward for PPO's KL coefficients and for averages of its own end.

    Args and errors as `kl_penalty_table`.
    """
    table, rows = kl_penalty_table(points, own), _penalty_rows(points, own)
    caption = run_caption(rows, recorded)
    looks = {"kl_coef": METHODS["kl_coef"], "average": AVERAGES_LOOK}
    with style():
        figure = canvas()
        axes = figure.add_subplot()
        for method, look in looks.items():
            order = "strength" if method == "kl_coef" else "alpha"
            part = table[table["method"] == method].sort_values(order)
            if part.empty:
                continue
            own_rows = rows[rows["method"] == method]
            _seed_lines(axes, own_rows, "reward", "skill", look.colour, order)
            _mean_line(axes, part, "reward", "skill", look)
        for row in table[table["method"] == "kl_coef"].to_dict("records"):
            place = (7, 7 if row["strength"] == own else -14)
            axes.annotate(
                f"{row['strength']:g}", (row["reward"], row["skill"]), xytext=place,
                textcoords="offset points", fontsize=11, color=looks["kl_coef"].colour,
            )  # fmt: skip
        axes.set_xlabel("reward gained over θ₀  →")
        axes.set_ylabel(f"{AXIS_NAMES['skill']}  →")
        each = [
            f"coefficient {row['strength']:g}: reward {number(row['reward'], 2)}, skill "
            f"{number(row['skill'])}"
            for row in table[table["method"] == "kl_coef"].to_dict("records")
        ]
        alt = f"PPO by its KL coefficient and its averages ({caption}). {'; '.join(each)}."
        return finish(figure, "A heavier KL penalty, or averaging?", caption, alt, 2)


# --- tax -----------------------------------------------------------------------------------------


def algorithm_tax_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return what every algorithm costs in every family: theta_0 minus its last round.

    Returns:
        One row per algorithm and family: name, tax (points; positive = lost), low, high, seeds.

    Raises:
        FigureError: as `algorithm_rounds_table`.
    """
    families = list(FAMILY_NAMES)
    rows = claims.shared(prepare(points, families, "algorithm_tax"))
    rows = change(rows, families, "algorithm_tax")
    rows[families] = -rows[families]
    records = []
    for algorithm in claims.present(rows):
        own = rows[(rows["algorithm"] == algorithm) & (rows["method"] == "none")]
        end = own[own["rounds"] == own["rounds"].max()]
        table = summarise(end, ["algorithm"], families).iloc[0]
        for family in ("skill", *(name for name in families if name != "skill")):
            records.append(
                {
                    "algorithm": algorithm,
                    "family": family,
                    "name": FAMILY_NAMES[family],
                    "tax": table[family],
                    "low": table[f"{family}_low"],
                    "high": table[f"{family}_high"],
                    "seeds": table["seeds"],
                }
            )
    if not records:
        raise FigureError("algorithm_tax needs the rounds of an algorithm: there are none.")
    return pd.DataFrame(records)


def algorithm_tax(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw what each algorithm costs in every family, with 95 % intervals, numbers at the side.

    Raises:
        FigureError: as `algorithm_tax_table`.
    """
    table = algorithm_tax_table(points)
    caption = run_caption(claims.shared(points), recorded)
    names = list(dict.fromkeys(table["algorithm"]))
    families = list(dict.fromkeys(table["family"]))
    step = 0.8 / len(names)
    with style():
        figure = canvas((PANELS[0], 2.4 + 0.3 * len(families) * max(len(names), 2)))
        axes = figure.add_subplot()
        for place, algorithm in enumerate(names):
            part = table[table["algorithm"] == algorithm].set_index("family").loc[families]
            where = np.arange(len(part)) + (place - (len(names) - 1) / 2) * step
            look = ALGORITHMS[algorithm]
            axes.errorbar(
                part["tax"], where, xerr=bar_lengths(part["tax"], part["low"], part["high"]),
                color=look.colour, marker=look.marker, markersize=9, markeredgecolor="white",
                linestyle="none", elinewidth=2.2, label=look.label,
            )  # fmt: skip
            for y, row in zip(where, part.to_dict("records"), strict=True):
                axes.annotate(
                    _tax_text(row), (1.01, y),
                    xycoords=axes.get_yaxis_transform(), fontsize=10.5, va="center",
                    color="#333333",
                )  # fmt: skip
        for edge in np.arange(len(families) - 1) + 0.5:
            axes.axhline(edge, color="#E4E4E4", linewidth=0.8)
        axes.axvline(0, color="#333333", linewidth=1.4)
        axes.set_yticks(range(len(families)), [FAMILY_NAMES[family] for family in families])
        axes.set_ylim(len(families) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("points lost since θ₀ (left of 0: gained)")
        each = [
            f"{claims.NAMES[row['algorithm']]}, {row['name']} {_tax_text(row)}"
            for row in table.to_dict("records")
        ]
        alt = f"Points lost since θ₀ ({caption}). {'; '.join(each)}."
        return finish(figure, "The tax of each algorithm", caption, alt, 4)


def _tax_text(row: Mapping[Any, Any]) -> str:
    """Return a tax with its interval; with two decimals where one would hide the interval."""
    digits = 2 if row["high"] - row["low"] < 0.5 else 1
    return spread(row["tax"], row["low"], row["high"], digits, sign=True)


# --- forgetting against KL -----------------------------------------------------------------------


def razor(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw what was forgotten against KL and against the reward gained, with fits to all.

    KL is on a root scale. The limits are those of the models: the parabola may leave them.

    Args:
        rows: Rows of `algorithms_claims.forgetting`; an x that is not recorded is left out.
        caption: Which run this is.

    Raises:
        FigureError: missing columns, or no row with a KL.
    """
    need(rows, ["algorithm", "method", "seed", "tax", "kl", "forward_kl", "gain"], "razor")
    xs = [name for name in X_NAMES if rows[name].nunique() >= 4]  # what the fits need
    if not xs:
        raise FigureError("razor has nothing to draw: fewer points than a fit needs.")
    alts = []
    with style():
        figure = canvas((PANELS[0], 5.2))
        grid = figure.subplots(1, len(xs), sharey=True, squeeze=False)[0]
        for axes, x in zip(grid, xs, strict=True):
            _razor_models(axes, rows, x)
            texts = _razor_fits(axes, rows, x)
            axes.axhline(0, color=GREY, linewidth=1.2, linestyle="--")
            axes.plot(
                0, 0, marker="*", markersize=15, color=BLACK, markerfacecolor="white",
                linestyle="none", label="θ₀", zorder=5,
            )  # fmt: skip
            title = X_NAMES[x]
            if x != "gain":
                axes.set_xscale("function", functions=(_root, np.square))
                axes.set_xlim(0, 1.08 * rows[x].max())
                _label_furthest(axes, rows, x)
                title += "\n(root scale)"
            axes.set_xlabel(title)
            alts.append(f"against {X_NAMES[x]}: {', '.join(texts)}")
        low, high = min(0.0, rows["tax"].min()), max(0.0, rows["tax"].max())
        grid[0].set_ylim(low - 0.06 * (high - low), high + 0.12 * (high - low))
        grid[0].set_ylabel("forgotten: points of mean skill")
        alt = f"Skill lost since θ₀ ({caption}), {len(rows)} models {'; '.join(alts)}."
        return finish(figure, "Does KL tell how much is forgotten?", caption, alt, 4)


def _razor_models(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    """Draw every model: PPO's under other KL coefficients hollow, the control on top."""
    for name in [n for n in ALGORITHMS if n in set(rows["algorithm"])]:
        look, on_top = ALGORITHMS[name], name == "rsf_random"
        for swept in (False, True):
            own = rows[(rows["algorithm"] == name) & ((rows["method"] == "kl_coef") == swept)]
            if own.empty:
                continue
            axes.scatter(
                own[x], own["tax"], marker=look.marker, s=34, alpha=1 if on_top else 0.75,
                facecolors="none" if swept else look.colour,
                edgecolors=look.colour if swept else "white", linewidths=1.2 if swept else 0.5,
                label=f"{look.label}, other KL coefficients" if swept else look.label,
                zorder=4 if on_top else 2,
            )  # fmt: skip


def _razor_fits(axes: Axes, rows: pd.DataFrame, x: str) -> list[str]:
    """Draw both fits to all models, R squared in the title; return them in words."""
    looks: dict[str, dict[str, Any]] = {
        "saturating": {"linewidth": 2.2, "label": "saturating curve, through θ₀"},
        "parabola": {"linewidth": 1.1, "linestyle": "--", "label": "parabola, through θ₀"},
    }
    line = np.linspace(min(0.0, rows[x].min()), rows[x].max(), 600)
    texts = []
    for shape, look in looks.items():
        found = claims.fit(rows, x, shape)
        if found is None:
            continue
        axes.plot(line, found(line), color=GREEN, zorder=3, **look)
        text = spread(found.r_squared, found.low, found.high, 2)
        texts.append(f"R squared of the {shape}{' curve' * (shape == 'saturating')} {text}")
        if shape == "saturating":
            axes.set_title(f"R² = {text}", fontsize=12.5)
    return texts


def _label_furthest(axes: Axes, rows: pd.DataFrame, x: str) -> None:
    """Write beside the model that went furthest what it is and how far."""
    row = rows.sort_values(x).iloc[-1]
    name = claims.WITH_CONTROL[str(row["algorithm"])]
    if row["method"] == "kl_coef":
        name += f", KL coefficient {row['strength']:g}"
    axes.annotate(
        f"{name}:\n{row[x]:.0f} nats", (row[x], row["tax"]), xytext=(0.97, 0.32),
        textcoords="axes fraction", ha="right", va="top", fontsize=10, color="#333333",
        arrowprops={"arrowstyle": "-", "color": "#8A8A8A", "linewidth": 0.8, "shrinkB": 5},
    )  # fmt: skip


# --- PPO, live -----------------------------------------------------------------------------------


def ppo_runs(logs: Mapping[str, pd.DataFrame], caption: str) -> Figure:
    """Draw short PPO runs by iteration: reward, KL, length, share of finished replies.

    Args:
        logs: name of the run -> one row per iteration: iteration, reward, kl, reply_length,
            finished (see `train.ppo.step`).
        caption: Which run this is.

    Raises:
        FigureError: no run, more runs than there are looks, or missing columns.
    """
    if not 1 <= len(logs) <= len(RUN_LOOKS):
        raise FigureError(f"ppo_runs draws 1 to {len(RUN_LOOKS)} runs, not {len(logs)}.")
    looks = dict(zip(logs, RUN_LOOKS, strict=False))
    parts = [f"Short PPO runs ({caption})."]
    with style():
        figure = canvas((PANELS[0], 6.2))
        for axes, name in zip(figure.subplots(2, 2, sharex=True).flat, RUN_PANELS, strict=True):
            for place, (run, log) in enumerate(logs.items()):
                need(log, ["iteration", *RUN_PANELS], "ppo_runs")
                look = looks[run]
                aside = 0.09 * (place - (len(logs) - 1) / 2)  # equal runs beside one another
                axes.plot(
                    log["iteration"] + aside, log[name], color=look.colour, marker=look.marker,
                    markersize=6, markeredgecolor="white", label=run,
                )  # fmt: skip
            axes.set_title(RUN_PANELS[name], fontsize=12.5)
            axes.xaxis.get_major_locator().set_params(integer=True)
        for axes in figure.axes[2:]:
            axes.set_xlabel("iteration of PPO")
        for run, log in logs.items():
            first, end = log.iloc[0], log.iloc[-1]
            parts.append(
                f"{run}: reward {number(first['reward'], 2)} to {number(end['reward'], 2)}, KL "
                f"{number(end['kl'], 2)}, length {number(first['reply_length'])} to "
                f"{number(end['reply_length'])}, finished {number(100 * end['finished'], 0)} %."
            )
        title = "PPO, and PPO with a part missing: one run each"
        return finish(figure, title, caption, " ".join(parts), 2)
