"""RSF, DPO, RLOO and PPO side by side: rounds, over-optimisation, fronts, tax, KL and forgetting.

Drawn from tables of points that hold several algorithms, and from the logs of short PPO runs.
"""

from __future__ import annotations

from collections.abc import Mapping

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
from alignment_tax.figures.tables import (
    AXIS_NAMES,
    FAMILY_NAMES,
    change,
    need,
    number,
    prepare,
    run_caption,
    spread,
    summarise,
    theta_0,
)

# How the two ways through one algorithm are drawn: its rounds, and the averages of its ends.
ROUNDS_LOOK = Look("as trained, round by round", VERMILLION, "s")
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
    "forward_kl": "KL(θ₀ ‖ θ), nats a reply",
    "kl": "KL(θ ‖ θ₀), nats a reply",
    "gain": "reward gained over θ₀",
}


def _trained(points: pd.DataFrame, values: list[str], figure: str) -> pd.DataFrame:
    """Return theta_0 as round 0 and the rounds of every algorithm; reward is gained over theta_0.

    Raises:
        FigureError: as `prepare`, or no algorithm was recorded.
    """
    rows = prepare(points, values, figure)
    rows = change(rows, ["reward"], figure) if "reward" in values else rows
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
        over seeds) of reward (gained over theta_0 of the same seed), gold (if measured) and skill.

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
    caption = run_caption(rows, recorded)
    names = {"reward": "reward gained over θ₀", "gold": "gold reward", "skill": "mean skill (%)"}
    with style():
        figure = canvas((PANELS[0], 4.9))
        for axes, name in zip(figure.subplots(1, len(values)), values, strict=True):
            for algorithm in claims.present(rows):
                look = ALGORITHMS[algorithm]
                own = rows[rows["algorithm"] == algorithm]
                _seed_lines(axes, own, "rounds", name, look.colour, "rounds")
                part = table[table["algorithm"] == algorithm].sort_values("rounds")
                _mean_line(axes, part, "rounds", name, look)
            axes.set_title(names[name])
            axes.set_xlabel("rounds")
            axes.xaxis.get_major_locator().set_params(integer=True)
        alt = _rounds_alt(table, values, caption)
        return finish(figure, "Four algorithms, one budget of replies", caption, alt, 4)


def _rounds_alt(table: pd.DataFrame, values: list[str], caption: str) -> str:
    """Return the description of `algorithm_rounds`."""
    parts = [f"Rounds of RLHF ({caption})."]
    for algorithm, rows in table.groupby("algorithm", sort=False):
        ordered = rows.sort_values("rounds")
        first, end = ordered.iloc[0], ordered.iloc[-1]
        moves = [
            f"{'reward over θ₀' if name == 'reward' else FAMILY_NAMES.get(name, name)} from "
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
    start = rows[rows["rounds"] == 0].drop_duplicates("seed").set_index("seed")["gold"]
    # a KL that is estimated from few samples may come out below 0, which no root can show
    kl = rows["kl"].clip(lower=0.0)
    return rows.assign(gold=rows["gold"] - rows["seed"].map(start), kl=kl)


def over_optimisation(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward and gold reward against the KL from theta_0, rounds joined (Gao et al. 2022).

    The x axis is the root of the KL, as there: it is the distance in which their curves are simple.

    Raises:
        FigureError: as `over_optimisation_table`.
    """
    table, rows = over_optimisation_table(points), _gained_both(points)
    caption = run_caption(rows, recorded)
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
    rows = change(prepare(points, ["reward", family], figure), ["reward"], figure)
    mixed = rows[(rows["method"] == "average") & rows["algorithm"].isin(claims.present(rows))]
    return pd.concat([trained.assign(method="none", alpha=np.nan), mixed], ignore_index=True)


def algorithm_fronts(points: pd.DataFrame, family: str = "skill", recorded: bool = False) -> Figure:
    """Draw skill against reward for every algorithm in a row, axes shared (paper Fig. 14).

    Each panel holds the rounds and the averages of one algorithm; the averages of RSF stand behind
    the others as a grey line.

    Raises:
        FigureError: as `algorithm_fronts_table`.
    """
    table, rows = algorithm_fronts_table(points, family), _fronts_rows(points, family)
    caption = run_caption(rows, recorded)
    names = claims.present(rows)
    with style():
        figure = canvas((PANELS[0], 4.6))
        grid = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
        behind = _front_of(table, "rsf", "average") if "rsf" in names else table[:0]
        for axes, algorithm in zip(grid, names, strict=True):
            if algorithm != "rsf" and not behind.empty:
                axes.plot(
                    behind["reward"], behind[family], color=GREY, linewidth=1.4, linestyle=":",
                    label="the averages of RSF", zorder=1,
                )  # fmt: skip
            for method, look in (("none", ROUNDS_LOOK), ("average", AVERAGES_LOOK)):
                own = rows[(rows["algorithm"] == algorithm) & (rows["method"] == method)]
                order = "rounds" if method == "none" else "alpha"
                _seed_lines(axes, own, "reward", family, look.colour, order)
                part = _front_of(table, algorithm, method)
                if not part.empty:
                    _mean_line(axes, part, "reward", family, look)
            at_0 = _front_of(table, algorithm, "none").iloc[0]
            axes.plot(
                at_0["reward"], at_0[family], marker="*", markersize=16, color=BLACK,
                markerfacecolor="white", linestyle="none", label="θ₀", zorder=5,
            )  # fmt: skip
            axes.set_title(claims.NAMES[algorithm])
            axes.set_xlabel("reward gained over θ₀")
        grid[0].set_ylabel(AXIS_NAMES[family])
        title = f"{FAMILY_NAMES[family].capitalize()} against reward, algorithm by algorithm"
        return finish(figure, title, caption, _fronts_alt(table, family, caption), 4)


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
        reward (gained over theta_0 of the same seed) and skill.

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
    return pd.concat([swept, plain, ppo[ppo["method"] == "average"]], ignore_index=True)


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
            axes.annotate(
                f"{row['strength']:g}", (row["reward"], row["skill"]), xytext=(7, 7),
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
    """Return the change in every family from theta_0 to the last round of every algorithm.

    Returns:
        One row per algorithm and family: name, tax (points; negative = lost), low, high, seeds.

    Raises:
        FigureError: as `algorithm_rounds_table`.
    """
    families = list(FAMILY_NAMES)
    rows = change(prepare(points, families, "algorithm_tax"), families, "algorithm_tax")
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
    """Draw the change in every family since theta_0, a bar an algorithm, with 95 % intervals.

    Raises:
        FigureError: as `algorithm_tax_table`.
    """
    table = algorithm_tax_table(points)
    caption = run_caption(points, recorded)
    names = list(dict.fromkeys(table["algorithm"]))
    families = list(dict.fromkeys(table["family"]))
    height = 0.82 / len(names)
    with style():
        figure = canvas((PANELS[0], 5.6))
        axes = figure.add_subplot()
        for index, algorithm in enumerate(names):
            part = table[table["algorithm"] == algorithm].set_index("family").loc[families]
            where = np.arange(len(part)) + (index - (len(names) - 1) / 2) * height
            look = ALGORITHMS[algorithm]
            axes.barh(
                where, part["tax"], height=0.9 * height, color=look.colour, label=look.label,
                xerr=bar_lengths(part["tax"], part["low"], part["high"]),
                error_kw={"elinewidth": 1.3, "ecolor": "#333333"},
            )  # fmt: skip
            for y, row in zip(where, part.to_dict("records"), strict=True):
                lost = row["tax"] < 0
                reach = [v for v in (row["tax"], row["low"], row["high"]) if not np.isnan(v)]
                axes.annotate(
                    number(row["tax"], sign=True), (min(reach) if lost else max(reach), y),
                    xytext=(-5 if lost else 5, 0), textcoords="offset points", fontsize=9.5,
                    ha="right" if lost else "left", va="center",
                )  # fmt: skip
        axes.axvline(0, color="#333333", linewidth=1.4)
        axes.set_yticks(range(len(families)), [FAMILY_NAMES[family] for family in families])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12, y=0.02)
        axes.set_xlabel("change since θ₀, in points (left of 0: lost)")
        each = [
            f"{claims.NAMES[row['algorithm']]}, {row['name']} "
            f"{spread(row['tax'], row['low'], row['high'], sign=True)}"
            for row in table.to_dict("records")
        ]
        alt = f"Change since θ₀ in points ({caption}). {'; '.join(each)}."
        return finish(figure, "The tax of each algorithm", caption, alt, 4)


# --- forgetting against KL -----------------------------------------------------------------------


def razor(rows: pd.DataFrame, caption: str, degree: int = 2) -> Figure:
    """Draw what was forgotten against KL and against the reward gained, with pooled fits.

    Args:
        rows: Rows of `algorithms_claims.forgetting`; an x that is not recorded is left out.
        caption: Which run this is.
        degree: Of the fitted polynomials.

    Raises:
        FigureError: missing columns, or no row with a KL.
    """
    need(rows, ["algorithm", "seed", "tax", "kl", "forward_kl", "gain"], "razor")
    xs = [name for name in X_NAMES if rows[name].notna().sum() > degree + 1]
    if not xs:
        raise FigureError("razor has nothing to draw: fewer points than a fit needs.")
    alts = []
    with style():
        figure = canvas((PANELS[0], 4.8))
        grid = figure.subplots(1, len(xs), sharey=True, squeeze=False)[0]
        for axes, x in zip(grid, xs, strict=True):
            for name in [n for n in ALGORITHMS if n in set(rows["algorithm"])]:
                own, look = rows[rows["algorithm"] == name], ALGORITHMS[name]
                axes.scatter(
                    own[x], own["tax"], color=look.colour, marker=look.marker, s=34, alpha=0.75,
                    edgecolors="white", linewidths=0.5, label=look.label, zorder=2,
                )  # fmt: skip
            found = claims.fit(rows, x, degree)
            title = X_NAMES[x]
            if found is not None:
                line = np.linspace(rows[x].min(), rows[x].max(), 100)
                axes.plot(line, found(line), color=GREEN, linewidth=2, label="fit to all", zorder=3)
                text = spread(found.r_squared, found.low, found.high, 2)
                axes.set_title(f"R² = {text}", fontsize=12.5)
                alts.append(f"against {title}: R squared {text}, {found.n} models")
            axes.axhline(0, color=GREY, linewidth=1.2, linestyle="--")
            axes.set_xlabel(title)
        grid[0].set_ylabel("forgotten: points of mean skill")
        alt = f"Skill lost since θ₀ ({caption}) {'; '.join(alts)}."
        return finish(figure, "Does KL tell how much is forgotten?", caption, alt, 6)


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
            for run, log in logs.items():
                need(log, ["iteration", *RUN_PANELS], "ppo_runs")
                look = looks[run]
                axes.plot(
                    log["iteration"], log[name], color=look.colour, marker=look.marker,
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
        return finish(figure, "PPO, and PPO with a part missing", caption, " ".join(parts), 2)
