"""What RLHF does to rewards and skills: over its rounds, in the end, and along alpha."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment_tax.figures.look import (
    ALGORITHMS,
    BLUE,
    FAMILY_LOOKS,
    GREY,
    METHODS,
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
from alignment_tax.figures.tables import run_caption
from alignment_tax.labels import (
    AXIS_NAMES,
    FAMILIES,
    FAMILY_NAMES,
    SCORES,
    names_of,
    number,
    spread,
)
from alignment_tax.results.points import change, last_rsf, main_line, prepare, theta_0
from alignment_tax.stats.compare import summarise

RSF_LOOK = Look("RSF: keeps the best reply", VERMILLION, "s")
PROXY_LOOK = Look("reward model (optimised)", BLUE, "o")
GOLD_LOOK = Look("gold reward (not optimised)", VERMILLION, "s")


def _has(points: pd.DataFrame, column: str) -> bool:
    """Return whether a column exists and holds a number (no gold reward on real data)."""
    if not isinstance(points, pd.DataFrame) or column not in points.columns:
        return False
    return bool(pd.to_numeric(points[column], errors="coerce").notna().any())


def _trained(rows: pd.DataFrame, algorithm: str, figure: str) -> pd.DataFrame:
    """Return theta_0 as round 0 and the rounds of one algorithm; empty when it was not run."""
    rounds = rows[(rows["algorithm"] == algorithm) & (rows["method"] == "none")]
    if rounds.empty:
        return rounds
    start = theta_0(rows, figure)
    start = start[start["seed"].isin(rounds["seed"])]
    return pd.concat([start.assign(algorithm=algorithm, rounds=0.0), rounds])


def rsf_rounds_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return rewards and skills after every round of RSF and of its random control.

    Returns:
        One row per algorithm (rsf, rsf_random) and round (0 = theta_0): seeds, and mean, _low,
        _high (95 % t interval over seeds) of reward (gained over theta_0 of the same seed: the
        zero of a reward model means nothing), gold (if measured), skill and the families.

    Raises:
        FigureError: missing columns, nothing to draw, no theta_0, no RSF round, several studies.
    """
    figure = "rsf_rounds"
    values = ["reward", *(["gold"] if _has(points, "gold") else []), *FAMILY_NAMES]
    rows = prepare(points, values, figure)
    last_rsf(rows, figure)
    rows = change(rows, ["reward"], figure)
    curves = pd.concat([_trained(rows, name, figure) for name in ("rsf", "rsf_random")])
    return summarise(curves, ["algorithm", "rounds"], values)


def rsf_rounds(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward, gold reward and skills against the rounds of RSF (paper Fig. 12).

    The control keeps a random reply instead of the best: what it changes, training on the
    model's own text changes; what only RSF changes, the reward does.

    Raises:
        FigureError: as `rsf_rounds_table`.
    """
    table = rsf_rounds_table(points)
    caption = run_caption(main_line(points), recorded)
    panels = [name for name in ("reward", "gold", "skill") if name in table]
    control = ALGORITHMS["rsf_random"]
    scored = {name: set(part["rounds"]) for name, part in table.groupby("algorithm")}
    if scored.get("rsf_random", set()) < scored["rsf"]:
        rounds = " and ".join(f"{r:g}" for r in sorted(scored.get("rsf_random", set()) - {0}))
        control = replace(control, label=f"{control.label} (only round {rounds} was scored)")
    with style():
        figure = canvas(PANELS)
        grid = figure.subplots(2, 3, sharex=True)
        families = [name for name in FAMILY_NAMES if name != "skill"]
        for axes in grid[0][len(panels) :]:
            axes.set_visible(False)
        used = [*grid[0][: len(panels)], *grid[1]]
        for axes, name in zip(used, [*panels, *families], strict=True):
            for algorithm, look in (("rsf_random", control), ("rsf", RSF_LOOK)):
                curve = table[table["algorithm"] == algorithm]
                if not curve.empty:
                    _line(axes, curve, "rounds", name, look, dashed=algorithm != "rsf")
            axes.set_title(_short(name))
        for axes in grid[1]:
            axes.set_xlabel("rounds of RSF")
            axes.xaxis.get_major_locator().set_params(integer=True)
        return finish(figure, "RSF round by round", caption, _rounds_alt(table, caption), 2)


def _short(name: str) -> str:
    """Return a panel's title."""
    titles = {"reward": "reward gained over θ₀", "gold": "gold reward"}
    return titles.get(name) or AXIS_NAMES[name].replace(
        "skill: mean of three families", "mean skill"
    )


def _line(
    axes: Axes, table: pd.DataFrame, x: str, name: str, look: Look, dashed: bool = False
) -> None:
    """Draw one column of a table with its interval against column `x`."""
    y, low, high = (table[f"{name}{end}"].to_numpy() for end in ("", "_low", "_high"))
    draw_line(axes, table[x].to_numpy(), y, low, high, look, dashed)


def _word(name: str) -> str:
    """Return what a column of `rsf_rounds` is called in a sentence."""
    return "reward over θ₀" if name == "reward" else FAMILY_NAMES.get(name, name)


def _rounds_alt(table: pd.DataFrame, caption: str) -> str:
    """Return the description of `rsf_rounds`."""
    parts = [f"Rounds of RSF ({caption})."]
    for algorithm, who in (("rsf", "RSF"), ("rsf_random", "The control with random replies")):
        curve = table[table["algorithm"] == algorithm].sort_values("rounds")
        if curve.empty:
            continue
        first, last = curve.iloc[0], curve.iloc[-1]
        moves = [
            f"{_word(name)} from {number(first[name], digits)} to {number(last[name], digits)}"
            for name, digits in (("reward", 2), ("gold", 2), *((f, 1) for f in FAMILY_NAMES))
            if name in table
        ]
        parts.append(f"{who}, {int(last['rounds'])} rounds: {', '.join(moves)}.")
    return " ".join(parts)


def tax_table(
    points: pd.DataFrame,
    alpha: float | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> pd.DataFrame:
    """Return the tax of RSF per slot, per family and of their mean: score minus theta_0's.

    Args:
        points: the columns of points.csv, one study.
        alpha: also the tax of averaging at this alpha.
        intervals: slot or family -> (low, high) for RSF, for instance a paired bootstrap over
            items, used in place of the t interval over seeds.

    Returns:
        Columns model, score (slot or family), name, family (whether it is one), tax, low, high
        (points; negative = lost), seeds. Seeds are paired: theta_0 of the same seed is subtracted.

    Raises:
        FigureError: missing columns, nothing to draw, no theta_0, no RSF, no such alpha.
    """
    figure = "tax_bars"
    # a suite may leave a slot out (its data cannot be had): its column is empty then
    empty = {name for name in SCORES if name in points and points[name].isna().all()}
    scores = [name for name in SCORES if name not in empty or "skill" in empty]
    rows = change(prepare(points, scores, figure), scores, figure)
    models = {"RSF": last_rsf(rows, figure)}
    if alpha is not None:
        chosen = rows[(rows["method"] == "average") & np.isclose(rows["alpha"], alpha)]
        if chosen.empty:
            there = sorted(rows.loc[rows["method"] == "average", "alpha"].dropna().unique())
            raise FigureError(
                f"{figure}: no averaged model at alpha {alpha:g}; the points have "
                f"{', '.join(f'{value:g}' for value in there) or 'none'}."
            )
        models[f"averaging at α = {alpha:g}"] = chosen[chosen["algorithm"] == "rsf"]
    names = names_of(str(rows["study"].iloc[0]))
    records = []
    for model, group in models.items():
        table = summarise(group.assign(model=model), ["model"], scores).iloc[0]
        for score in ("skill", *_families_and_slots()):
            if score not in scores:
                continue
            low, high = table[f"{score}_low"], table[f"{score}_high"]
            if intervals is not None and model == "RSF" and score in intervals:
                low, high = intervals[score]
            records.append(
                {
                    "model": model,
                    "score": score,
                    "name": names[score],
                    "family": score in FAMILY_NAMES,
                    "tax": table[score],
                    "low": low,
                    "high": high,
                    "seeds": table["seeds"],
                }
            )
    return pd.DataFrame(records)


def _families_and_slots() -> list[str]:
    """Return each family followed by its slots; a family of one slot stands for both."""
    order: list[str] = []
    for family, slots in FAMILIES.items():
        order += [family, *slots] if len(slots) > 1 else [family]
    return order


def tax_bars(
    points: pd.DataFrame,
    alpha: float | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    recorded: bool = False,
) -> Figure:
    """Draw the tax per family and per slot with 95 % intervals; theta_0 is the zero line.

    Args and errors as `tax_table`.
    """
    table = tax_table(points, alpha, intervals)
    caption = run_caption(main_line(points), recorded)
    if intervals is not None:
        caption += " · bars of RSF: given 95 % interval"
    models = list(dict.fromkeys(table["model"]))
    height = 0.8 / len(models)
    rows = table[table["model"] == models[0]].reset_index(drop=True)
    colours = dict(zip(models, (VERMILLION, BLUE), strict=False))
    with style():
        figure = canvas((WIDE[0], 6.2))
        axes = figure.add_subplot()
        for index, model in enumerate(models):
            part = table[table["model"] == model].reset_index(drop=True)
            where = np.arange(len(part)) + (index - (len(models) - 1) / 2) * height
            bars = axes.barh(
                where,
                part["tax"],
                height=0.92 * height,
                color=colours[model],
                xerr=bar_lengths(part["tax"], part["low"], part["high"]),
                error_kw={"elinewidth": 1.4, "ecolor": "#333333"},
                label=model,
            )
            for bar, is_family in zip(bars.patches, part["family"], strict=True):
                bar.set_alpha(1.0 if is_family else 0.55)
            _values(axes, where, part, small=len(models) > 1)
        axes.axvline(0, color="#333333", linewidth=1.4)
        axes.set_yticks(range(len(rows)), [_indent(row) for row in rows.to_dict("records")])
        for tick, is_family in zip(axes.get_yticklabels(), rows["family"], strict=True):
            tick.set_fontweight("bold" if is_family else "normal")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.14, y=0.02)
        axes.set_xlabel("change since θ₀, in points (left of 0: lost)")
        title = "The alignment tax, skill by skill"
        return finish(figure, title, caption, _tax_alt(table, caption), len(models))


def _indent(row: Mapping[str, object]) -> str:
    """Return the label of a row of the tax; slots stand in from their family."""
    return str(row["name"]) if row["family"] else f"{row['name']}  "


def _values(axes: Axes, where: np.ndarray, part: pd.DataFrame, small: bool) -> None:
    """Print each number beyond the end of its bar and of its interval."""
    for y, row in zip(where, part.to_dict("records"), strict=True):
        lost = row["tax"] < 0
        reach = [value for value in (row["tax"], row["low"], row["high"]) if not np.isnan(value)]
        axes.annotate(
            number(row["tax"], sign=True),
            (min(reach) if lost else max(reach), y),
            xytext=(-5 if lost else 5, 0),
            textcoords="offset points",
            ha="right" if lost else "left",
            va="center",
            fontsize=9.5 if small else 12,
        )


def _tax_alt(table: pd.DataFrame, caption: str) -> str:
    """Return the description of `tax_bars`."""
    parts = [f"Change since θ₀ in points ({caption})."]
    for model, rows in table.groupby("model", sort=False):
        each = [
            f"{row['name']} {spread(row['tax'], row['low'], row['high'], sign=True)}"
            for row in rows.to_dict("records")
        ]
        parts.append(f"{model}: {'; '.join(each)}.")
    return " ".join(parts)


def alpha_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return reward and tax along alpha: means and 95 % t intervals over seeds.

    Returns:
        One row per alpha: seeds, and the change since theta_0 of the same seed in reward (each seed
        has a reward model of its own, whose zero means nothing) and in commonsense, reading,
        translation and skill (points), each with _low and _high.

    Raises:
        FigureError: missing columns, nothing to draw, no theta_0, no averaged model.
    """
    figure = "alpha_curves"
    families = list(FAMILY_NAMES)
    rows = prepare(points, ["reward", *families], figure)
    rows = change(rows, ["reward", *families], figure)
    rows = rows[(rows["algorithm"] == "rsf") & (rows["method"] == "average")]
    if rows.empty:
        raise FigureError(f"{figure} needs rows with algorithm 'rsf' and method 'average'.")
    return summarise(rows, ["alpha"], ["reward", *families])


def alpha_curves(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward (left) and every family's tax (right) against alpha.

    Raises:
        FigureError: as `alpha_table`.
    """
    table = alpha_table(points)
    caption = run_caption(main_line(points), recorded)
    with style():
        figure = canvas((PANELS[0], 5.0))
        left, right = figure.subplots(1, 2)
        look = METHODS["average"]
        _line(left, table, "alpha", "reward", Look("reward", look.colour, look.marker))
        for family, family_look in FAMILY_LOOKS.items():
            _line(right, table, "alpha", family, family_look)
        right.axhline(0, color=GREY, linewidth=1.2, linestyle="--")
        left.set_title("reward gained over θ₀ (reward model's units)")
        right.set_title("change in skill since θ₀ (points)")
        for axes in (left, right):
            axes.set_xticks(np.linspace(0, 1, 6))
            axes.set_xlabel("α   (0 = before RLHF, 1 = after)")
        return finish(figure, "Averaging along α", caption, _alpha_alt(table, caption), 5)


def _alpha_alt(table: pd.DataFrame, caption: str) -> str:
    """Return the description of `alpha_curves`."""
    parts = [f"Averaging along alpha ({caption})."]
    for row in table.to_dict("records"):
        taxes = ", ".join(
            f"{FAMILY_NAMES[family]} {number(row[family], sign=True)}" for family in FAMILY_LOOKS
        )
        parts.append(f"Alpha {row['alpha']:g}: reward gained {number(row['reward'], 2)}, {taxes}.")
    return " ".join(parts)


def reward_hacking_table(points: pd.DataFrame, x: str = "rounds") -> pd.DataFrame:
    """Return the reward that RSF optimises and the gold reward after every round.

    Args:
        points: the columns of points.csv, one study, gold filled in.
        x: "rounds", or "kl" for the KL from theta_0 in nats.

    Returns:
        One row per round (0 = theta_0): rounds, seeds, and with _low, _high: reward, gold, and
        reward_share, gold_share, the change since theta_0 divided by the largest mean change, so
        that both curves can share one axis; with x="kl" also kl.

    Raises:
        FigureError: missing columns, nothing to draw, no theta_0, no RSF, or a reward that never
            changes.
    """
    figure = "reward_hacking"
    if x not in ("rounds", "kl"):
        raise FigureError(f"{figure}: x is 'rounds' or 'kl', not {x!r}.")
    rows = prepare(points, ["reward", "gold", *(["kl"] if x == "kl" else [])], figure)
    last_rsf(rows, figure)
    curve = _trained(rows, "rsf", figure)
    shares = change(curve.assign(algorithm=np.where(curve["rounds"] == 0, "sft", "rsf")),
                    ["reward", "gold"], figure)  # fmt: skip
    for name in ("reward", "gold"):
        largest = shares.groupby("rounds")[name].mean().abs().max()
        if largest == 0:
            raise FigureError(f"{figure}: {name} is the same after every round.")
        curve[f"{name}_share"] = shares[name].to_numpy() / largest
    values = ["reward", "gold", "reward_share", "gold_share", *(["kl"] if x == "kl" else [])]
    return summarise(curve, ["rounds"], values)


def reward_hacking(points: pd.DataFrame, x: str = "rounds", recorded: bool = False) -> Figure:
    """Draw the optimised reward against the gold reward (after Gao et al. 2023).

    Left: both against the rounds (or the KL), each as a share of its largest change, so that the
    place where they part is seen. Right: the path of the rounds in the units of both.

    Raises:
        FigureError: as `reward_hacking_table`.
    """
    table = reward_hacking_table(points, x).sort_values("rounds")
    caption = run_caption(main_line(points), recorded)
    with style():
        figure = canvas((PANELS[0], 5.0))
        left, right = figure.subplots(1, 2)
        for name, look in (("reward_share", PROXY_LOOK), ("gold_share", GOLD_LOOK)):
            _line(left, table, x, name, look)
        left.axhline(0, color=GREY, linewidth=1.2, linestyle="--")
        left.set_title("change since θ₀, share of the largest")
        left.set_xlabel("rounds of RSF" if x == "rounds" else "KL from θ₀ (nats)")
        if x == "rounds":
            left.xaxis.get_major_locator().set_params(integer=True)
        right.plot(table["reward"], table["gold"], color=GREY, marker="o", markeredgecolor="white")
        best = table.iloc[int(table["gold"].argmax())]
        marks = {int(table["rounds"].iloc[0]), int(best["rounds"]), int(table["rounds"].iloc[-1])}
        for row in table[table["rounds"].isin(marks)].to_dict("records"):
            number_of = int(row["rounds"])
            # The path comes from the left: above its top and beside its ends there is room.
            shift, side, end = (
                (9, "center", "bottom") if number_of == best["rounds"] else (-9, "right", "top")
            )
            right.annotate(
                f"round {number_of}" if number_of else "θ₀",
                (row["reward"], row["gold"]),
                xytext=(0 if side == "center" else -8, shift),
                textcoords="offset points",
                ha=side,
                va=end,
            )
        right.margins(x=0.14, y=0.16)
        right.set_title("gold reward against reward")
        right.set_xlabel("reward (reward model's units)")
        right.set_ylabel("gold reward")
        first, last = table.iloc[0], table.iloc[-1]
        alt = (
            f"Optimised reward and gold reward over RSF ({caption}). Before: reward "
            f"{number(first['reward'], 2)}, gold {number(first['gold'], 2)}. Round "
            f"{int(last['rounds'])}: reward {number(last['reward'], 2)}, gold "
            f"{number(last['gold'], 2)}. Gold is highest, {number(best['gold'], 2)}, at round "
            f"{int(best['rounds'])}."
        )
        return finish(figure, "Does the true reward follow?", caption, alt, 2)
