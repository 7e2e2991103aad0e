"""Scores of models on the skills, with the score that guessing gives."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignment_tax.figures.look import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    FigureError,
    bar_lengths,
    canvas,
    finish,
    style,
)
from alignment_tax.labels import FAMILIES, SCORES, names_of, number, spread
from alignment_tax.results.points import finite, need
from alignment_tax.stats.compare import interval

MODEL_COLOURS = (GREY, SKY, VERMILLION, BLUE, ORANGE, PURPLE)
SLOTS = tuple(slot for slots in FAMILIES.values() for slot in slots)


def _skills_in(frame: pd.DataFrame, figure: str) -> list[str]:
    """Return the skills a table has columns for, in the order of the course."""
    found = [name for name in SCORES if name in frame.columns]
    if not found:
        raise FigureError(f"{figure} needs a column per skill, some of {', '.join(SCORES)}.")
    # the only slot of a family that is drawn as well would be the same bars twice
    alone = {slots[0] for family, slots in FAMILIES.items()
             if len(slots) == 1 and family in found}  # fmt: skip
    return [name for name in found if name not in alone]


def _score_text(value: float) -> str:
    """Return a score as it stands on its bar; what is short of 100 is not rounded up to it."""
    return f"{value:.1f}" if 99.5 <= value < 99.95 else f"{value:.0f}"


def _check_baselines(baselines: Mapping[str, float] | None, figure: str) -> dict[str, float]:
    """Return the baselines as a plain dict; a name that is no skill is an error."""
    given = dict(baselines or {})
    unknown = [name for name in given if name not in SCORES]
    if unknown:
        raise FigureError(f"{figure}: no skill is called {', '.join(unknown)}.")
    finite(list(given.values()) or [0.0], figure, "baselines")
    return given


def skills_table(
    scores: pd.DataFrame, baselines: Mapping[str, float] | None = None, study: str = "tiny"
) -> pd.DataFrame:
    """Return the scores of models as one row per model and skill.

    Args:
        scores: column `model` and one column per skill (percent); several rows of one model are
            its seeds.
        baselines: skill -> score of guessing by answer type (percent).
        study: name of the preset, for the names of the skills.

    Returns:
        Columns model, score, name, value, low, high (95 % t interval over rows; NaN for one row),
        baseline (NaN where not given).

    Raises:
        FigureError: missing columns, nothing to draw, a score that is no number.
    """
    figure = "skills_bar"
    need(scores, ["model"], figure)
    guesses = _check_baselines(baselines, figure)
    names = names_of(study)
    records = []
    for skill in _skills_in(scores, figure):
        finite(scores[skill], figure, f"scores of {skill}")
        for model, rows in scores.groupby("model", sort=False):
            value, low, high = interval(rows[skill])
            records.append(
                {
                    "model": str(model),
                    "score": skill,
                    "name": names[skill],
                    "value": value,
                    "low": low,
                    "high": high,
                    "baseline": guesses.get(skill, float("nan")),
                }
            )
    return pd.DataFrame(records)


def skills_bar(
    scores: pd.DataFrame,
    baselines: Mapping[str, float] | None = None,
    *,
    caption: str,
    study: str = "tiny",
) -> Figure:
    """Draw the scores of up to six models side by side; a black line marks what guessing gives.

    Args as `skills_table`; `caption` says which run this is (`caption_line`).

    Raises:
        FigureError: as `skills_table`, or more than six models.
    """
    table = skills_table(scores, baselines, study)
    models = list(dict.fromkeys(table["model"]))
    if len(models) > len(MODEL_COLOURS):
        raise FigureError(
            f"skills_bar draws {len(MODEL_COLOURS)} models at most, not {len(models)}."
        )
    skills = list(dict.fromkeys(table["score"]))
    width = 0.84 / len(models)
    with style():
        figure = canvas((11.0, 5.0))
        axes = figure.add_subplot()
        for index, model in enumerate(models):
            part = table[table["model"] == model]
            where = np.arange(len(part)) + (index - (len(models) - 1) / 2) * width
            axes.bar(
                where,
                part["value"],
                width=0.94 * width,
                color=MODEL_COLOURS[index],
                yerr=bar_lengths(part["value"], part["low"], part["high"]),
                error_kw={"elinewidth": 1.4},
                label=model,
            )
            if len(models) * len(skills) <= 24:
                tops = part[["value", "high"]].max(axis=1)
                for x, y, value in zip(where, tops, part["value"], strict=True):
                    axes.annotate(
                        _score_text(value), (x, y), xytext=(0, 2), textcoords="offset points",
                        ha="center", va="bottom", fontsize=10.5,
                    )  # fmt: skip
        first = table[table["model"] == models[0]].reset_index(drop=True)
        known = first[first["baseline"].notna()]
        if not known.empty:
            axes.hlines(
                known["baseline"], known.index - 0.45, known.index + 0.45, color=BLACK,
                linewidth=2, linestyle=(0, (3, 1.5)), label="guessing by answer type",
            )  # fmt: skip
        axes.set_xticks(
            range(len(first)),
            [textwrap.fill(name, 11, break_long_words=False) for name in first["name"]],
        )
        axes.set_ylim(0, 105)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel("score (%)")
        axes.grid(visible=False, axis="x")
        alt = _skills_alt(table, caption)
        return finish(figure, "Skills", caption, alt, len(models) + 1)


def _skills_alt(table: pd.DataFrame, caption: str) -> str:
    """Return the description of `skills_bar`."""
    parts = [f"Scores in percent ({caption})."]
    for model, rows in table.groupby("model", sort=False):
        each = [f"{r['name']} {spread(r['value'], r['low'], r['high'])}"
                for r in rows.to_dict("records")]  # fmt: skip
        parts.append(f"{model}: {'; '.join(each)}.")
    guesses = table.drop_duplicates("score").dropna(subset=["baseline"])
    if not guesses.empty:
        each = [f"{r['name']} {number(r['baseline'])}" for r in guesses.to_dict("records")]
        parts.append(f"Guessing: {'; '.join(each)}.")
    return " ".join(parts)


def learning_curves_table(
    log: pd.DataFrame,
    baselines: Mapping[str, float] | None = None,
    x: str = "tokens",
    study: str = "tiny",
) -> pd.DataFrame:
    """Return the end of every learning curve beside what guessing gives.

    Args:
        log: one row per evaluation: column `x` and one column per skill (percent).
        baselines: skill -> score of guessing by answer type (percent).
        x: "step", "tokens" or "seconds".
        study: name of the preset, for the names of the skills.

    Returns:
        One row per skill: score, name, first, last, best (percent), baseline (NaN if not given).

    Raises:
        FigureError: missing columns, nothing to draw, a skill without a number.
    """
    figure = "learning_curves"
    need(log, [x], figure)
    finite(log[x], figure, f"values of {x}")
    guesses = _check_baselines(baselines, figure)
    names = names_of(study)
    records = []
    ordered = log.sort_values(x)
    for skill in _skills_in(log, figure):
        values = pd.to_numeric(ordered[skill], errors="coerce").dropna()
        finite(values, figure, f"scores of {skill}")
        records.append(
            {
                "score": skill,
                "name": names[skill],
                "first": values.iloc[0],
                "last": values.iloc[-1],
                "best": values.max(),
                "baseline": guesses.get(skill, float("nan")),
            }
        )
    return pd.DataFrame(records)


def learning_curves(
    log: pd.DataFrame,
    baselines: Mapping[str, float] | None = None,
    x: str = "tokens",
    *,
    caption: str,
    study: str = "tiny",
) -> Figure:
    """Draw one small panel a skill: its score over pretraining, guessing as a dashed line.

    Args and errors as `learning_curves_table`; `caption` says which run this is.
    """
    table = learning_curves_table(log, baselines, x, study)
    unit, scale, label = _x_unit(x, float(log[x].max()))
    columns = 4 if len(table) > 3 else len(table)
    rows = -(-len(table) // columns)
    with style():
        figure = canvas((11.0, 1.4 + 2.6 * rows))
        grid = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
        for axes in grid[len(table) :]:
            axes.set_visible(False)
        for axes, row in zip(grid, table.to_dict("records"), strict=False):
            curve = log[[x, row["score"]]].dropna().sort_values(x)
            axes.plot(
                curve[x] / scale, curve[row["score"]], color=BLUE, marker="o", markersize=4.5,
                markeredgecolor="white", markeredgewidth=0.5, label="model",
            )  # fmt: skip
            if not np.isnan(row["baseline"]):
                axes.axhline(
                    row["baseline"], color=VERMILLION, linestyle="--", linewidth=1.8,
                    label="guessing by answer type",
                )  # fmt: skip
            axes.set_title(f"{row['name']}: {number(row['last'])}", fontsize=13)
            axes.set_ylim(0, 104)
            axes.set_yticks(range(0, 101, 25))
        for axes in grid[max(0, len(table) - columns) : len(table)]:
            axes.tick_params(labelbottom=True)
        for axes in grid[(rows - 1) * columns : len(table)]:
            axes.set_xlabel(f"{label}{unit}")
        for axes in grid[: len(table) : columns]:
            axes.set_ylabel("score (%)")
        each = [
            f"{r['name']} from {number(r['first'])} to {number(r['last'])}"
            + ("" if np.isnan(r["baseline"]) else f", guessing {number(r['baseline'])}")
            for r in table.to_dict("records")
        ]
        alt = f"Learning curves in percent against {x} ({caption}): {'; '.join(each)}."
        return finish(figure, "What pretraining teaches, and when", caption, alt, 2)


def _x_unit(x: str, largest: float) -> tuple[str, float, str]:
    """Return unit, divisor and name of the x axis of a learning curve."""
    if x == "tokens" and largest >= 1e6:
        return " (millions)", 1e6, "tokens"
    if x == "seconds" and largest >= 600:
        return "", 60.0, "minutes"
    return "", 1.0, x


def skills_frame(models: Sequence[str], scores: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """Return the table `skills_bar` takes from names and score dicts (SkillScores.metrics).

    Raises:
        FigureError: not as many names as scores.
    """
    if len(models) != len(scores):
        raise FigureError(f"{len(models)} names for {len(scores)} sets of scores.")
    return pd.DataFrame(
        [{"model": name, **dict(row)} for name, row in zip(models, scores, strict=True)]
    )
