"""Scores of models on the skills, and what RLHF takes from them: the alignment tax."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignment_tax.figures.primitives import bars, curve, level, line
from alignment_tax.figures.style import (
    BLACK,
    BLUE,
    FAMILY_LOOKS,
    GREY,
    INK,
    METHODS,
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
from alignment_tax.labels import FAMILIES, FAMILY_NAMES, SCORES, names_of, number
from alignment_tax.results.points import (
    TableError,
    change,
    finite,
    last_rsf,
    main_line,
    need,
    prepare,
)
from alignment_tax.stats.compare import interval, summarise

MODEL_COLOURS = (GREY, SKY, VERMILLION, BLUE, ORANGE, PURPLE)
GUESSING = "guessing by answer type"


def skills_frame(models: Sequence[str], scores: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """Return the table `skills_bar` takes from names and score dicts (SkillScores.metrics).

    Raises:
        TableError: not as many names as scores.
    """
    if len(models) != len(scores):
        raise TableError(f"{len(models)} names for {len(scores)} sets of scores.")
    return pd.DataFrame(
        [{"model": name, **dict(row)} for name, row in zip(models, scores, strict=True)]
    )


def _skills_in(frame: pd.DataFrame, figure: str) -> list[str]:
    """Return the skills a table has columns for, in the order of the course."""
    found = [name for name in SCORES if name in frame.columns]
    if not found:
        raise TableError(f"{figure} needs a column per skill, some of {', '.join(SCORES)}.")
    # the only slot of a family that is drawn as well would be the same bars twice
    alone = {slots[0] for family, slots in FAMILIES.items()
             if len(slots) == 1 and family in found}  # fmt: skip
    return [name for name in found if name not in alone]


def _guesses(baselines: Mapping[str, float] | None, figure: str) -> dict[str, float]:
    """Return the baselines as a plain dict; a name that is no skill is an error."""
    given = dict(baselines or {})
    if unknown := [name for name in given if name not in SCORES]:
        raise TableError(f"{figure}: no skill is called {', '.join(unknown)}.")
    finite(list(given.values()) or [0.0], figure, "baselines")
    return given


@in_style()
def skills_bar(
    scores: pd.DataFrame,
    baselines: Mapping[str, float] | None = None,
    *,
    caption: str,
    study: str = "tiny",
) -> Figure:
    """Draw the scores of up to six models side by side; a black line marks what guessing gives.

    Args:
        scores: column `model` and one column per skill (percent); several rows of one model are
            its seeds.
        baselines: skill -> score of guessing by answer type (percent).
        caption: which run this is (`caption_line`).
        study: name of the preset, for the names of the skills.

    Raises:
        TableError: missing columns, nothing to draw, a score that is no number, or more than six
            models.
    """
    need(scores, ["model"], "skills_bar")
    guesses, names = _guesses(baselines, "skills_bar"), names_of(study)
    records = []
    for skill in _skills_in(scores, "skills_bar"):
        finite(scores[skill], "skills_bar", f"scores of {skill}")
        for model, rows in scores.groupby("model", sort=False):
            value, low, high = interval(rows[skill])
            records.append(
                {"model": str(model), "score": skill, "name": names[skill], "value": value,
                 "low": low, "high": high, "baseline": guesses.get(skill, np.nan)}
            )  # fmt: skip
    table = pd.DataFrame(records)
    models = list(dict.fromkeys(table["model"]))
    if len(models) > len(MODEL_COLOURS):
        raise TableError(
            f"skills_bar draws {len(MODEL_COLOURS)} models at most, not {len(models)}."
        )
    looks = {name: Look(name, c, "o") for name, c in zip(models, MODEL_COLOURS, strict=False)}
    figure, grid = panels(size=(11.0, 5.0))
    axes = grid[0, 0]
    digits = 1 if len(table) <= 24 else None
    skills = bars(axes, table, "name", "model", "value", looks, digits=digits)
    known = table.drop_duplicates("score").reset_index(drop=True).dropna(subset=["baseline"])
    if not known.empty:
        axes.hlines(
            known["baseline"], known.index - 0.45, known.index + 0.45, color=BLACK, linewidth=2,
            linestyle=(0, (3, 1.5)), label=GUESSING,
        )  # fmt: skip
    wrapped = [textwrap.fill(name, 11, break_long_words=False) for name in skills]
    axes.set_xticks(range(len(skills)), wrapped)
    axes.set_ylim(0, 105)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("score (%)")
    return finish(figure, "Skills", caption, table, legend_columns=len(models) + 1)


@in_style()
def learning_curves(
    log: pd.DataFrame,
    baselines: Mapping[str, float] | None = None,
    x: str = "tokens",
    *,
    caption: str,
    study: str = "tiny",
) -> Figure:
    """Draw one small panel a skill: its score over pretraining, guessing as a dashed line.

    Args:
        log: one row per evaluation: column `x` and one column per skill (percent).
        baselines: skill -> score of guessing by answer type (percent).
        x: "step", "tokens" or "seconds".
        caption: which run this is.
        study: name of the preset, for the names of the skills.

    Raises:
        TableError: missing columns, nothing to draw, a skill without a number.
    """
    need(log, [x], "learning_curves")
    largest = float(finite(log[x], "learning_curves", f"values of {x}").max())
    guesses, names = _guesses(baselines, "learning_curves"), names_of(study)
    millions, minutes = x == "tokens" and largest >= 1e6, x == "seconds" and largest >= 600
    scale = 1e6 if millions else 60.0 if minutes else 1.0
    label = "tokens (millions)" if millions else "minutes" if minutes else x
    skills = _skills_in(log, "learning_curves")
    columns = 4 if len(skills) > 3 else len(skills)
    rows = -(-len(skills) // columns)
    figure, grid = panels(
        rows, columns, (11.0, 1.4 + 2.6 * rows), used=len(skills), sharex=True, sharey=True
    )
    records = []
    for place, (axes, skill) in enumerate(zip(grid.flat, skills, strict=False)):
        own = log[[x, skill]].apply(pd.to_numeric, errors="coerce").dropna().sort_values(x)
        values = finite(own[skill], "learning_curves", f"scores of {skill}")
        guess = guesses.get(skill, np.nan)
        records.append(
            {"score": skill, "name": names[skill], "first": values[0], "last": values[-1],
             "best": values.max(), "baseline": guess}
        )  # fmt: skip
        line(
            axes, own.assign(**{x: own[x] / scale}), x, skill, Look("model", BLUE, "o"),
            marker="o", markersize=4.5, markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip
        if np.isfinite(guess):
            axes.axhline(guess, color=VERMILLION, linestyle="--", linewidth=1.8, label=GUESSING)
        axes.set_title(f"{names[skill]}: {number(values[-1])}", fontsize=13)
        axes.set_ylim(0, 104)
        axes.set_yticks(range(0, 101, 25))
        axes.set_xlabel(label if place >= (rows - 1) * columns else "")
        axes.set_ylabel("score (%)" if place % columns == 0 else "")
    table = pd.DataFrame(records)
    return finish(figure, "What pretraining teaches, and when", caption, table, legend_columns=2)


def _taxes(
    points: pd.DataFrame,
    alpha: float | None,
    intervals: Mapping[str, tuple[float, float]] | None,
) -> pd.DataFrame:
    """Return the change since theta_0 of the same seed by model and score, with its interval."""
    figure = "tax_bars"
    # a suite may leave a slot out (its data cannot be had): its column is empty then
    empty = {name for name in SCORES if name in points and points[name].isna().all()}
    scores = [name for name in SCORES if name not in empty or "skill" in empty]
    rows = change(prepare(points, scores, figure), scores, figure)
    models = {"RSF": last_rsf(rows, figure)}
    if alpha is not None:
        averages = rows[(rows["algorithm"] == "rsf") & (rows["method"] == "average")]
        chosen = averages[np.isclose(averages["alpha"], alpha)]
        if chosen.empty:
            there = ", ".join(f"{each:g}" for each in sorted(averages["alpha"].unique())) or "none"
            raise TableError(
                f"{figure}: no averaged model at alpha {alpha:g}; the points have {there}."
            )
        models[f"averaging at α = {alpha:g}"] = chosen
    names, order = names_of(str(rows["study"].iloc[0])), ["skill"]
    for family, slots in FAMILIES.items():  # a family of one slot stands for both
        order += [family, *slots] if len(slots) > 1 else [family]
    records = []
    for model, group in models.items():
        for score in (name for name in order if name in scores):
            tax, low, high = interval(group[score])
            if model == "RSF" and intervals is not None:
                low, high = intervals.get(score, (low, high))
            records.append(
                {"model": model, "score": score, "name": names[score],
                 "family": score in FAMILY_NAMES, "tax": tax, "low": low, "high": high,
                 "seeds": len(group)}
            )  # fmt: skip
    return pd.DataFrame(records)


@in_style()
def tax_bars(
    points: pd.DataFrame,
    alpha: float | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    recorded: bool = False,
) -> Figure:
    """Draw the tax per family and per slot with 95 % intervals; theta_0 is the zero line.

    A tax is a score minus that of theta_0 of the same seed, in points: left of 0 is lost.

    Args:
        points: the columns of points.csv, one study.
        alpha: also the tax of averaging at this alpha.
        intervals: slot or family -> (low, high) for RSF, for instance a paired bootstrap over
            items, used in place of the t interval over seeds.
        recorded: True for a run from data/results.

    Raises:
        TableError: missing columns, nothing to draw, no theta_0, no RSF, no such alpha.
    """
    table = _taxes(points, alpha, intervals)
    caption = run_caption(main_line(points), recorded)
    if intervals is not None:
        caption += " · bars of RSF: given 95 % interval"
    models = list(dict.fromkeys(table["model"]))
    looks = {m: Look(m, c, "s") for m, c in zip(models, (VERMILLION, BLUE), strict=False)}
    families = table.drop_duplicates("score").set_index("name")["family"]
    figure, grid = panels(size=(WIDE[0], 6.2))
    axes = grid[0, 0]
    bars(
        axes, table, "name", "model", "tax", looks, across=True, digits=1, sign=True,
        pale=list(families[~families].index), text_size=9.5 if len(models) > 1 else 12,
    )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=1.4)
    labels = [name if family else f"{name}  " for name, family in families.items()]
    axes.set_yticks(range(len(labels)), labels)  # slots stand in from their family
    for tick, family in zip(axes.get_yticklabels(), families, strict=True):
        tick.set_fontweight("bold" if family else "normal")
    axes.set_xlabel("change since θ₀, in points (left of 0: lost)")
    title = "The alignment tax, skill by skill"
    return finish(figure, title, caption, table, legend_columns=len(models))


@in_style()
def alpha_curves(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw reward (left) and every family's tax (right) against alpha: changes since theta_0.

    Each seed's reward model has a zero of its own, which means nothing.

    Raises:
        TableError: missing columns, nothing to draw, no theta_0, no averaged model.
    """
    values = ["reward", *FAMILY_NAMES]
    rows = change(prepare(points, values, "alpha_curves"), values, "alpha_curves")
    rows = rows[(rows["algorithm"] == "rsf") & (rows["method"] == "average")]
    if rows.empty:
        raise TableError("alpha_curves needs rows with algorithm 'rsf' and method 'average'.")
    table = summarise(rows, ["alpha"], values)
    figure, grid = panels(1, 2, (PANELS[0], 5.0))
    left, right = grid[0]
    curve(left, table, "alpha", "reward", METHODS["average"], label="reward", linewidth=2)
    for family, look in FAMILY_LOOKS.items():
        curve(right, table, "alpha", family, look, linewidth=2)
    level(right, 0)
    left.set_title("reward gained over θ₀ (reward model's units)")
    right.set_title("change in skill since θ₀ (points)")
    for axes in (left, right):
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_xlabel("α   (0 = before RLHF, 1 = after)")
    caption = run_caption(main_line(points), recorded)
    return finish(figure, "Averaging along α", caption, table, legend_columns=5)
