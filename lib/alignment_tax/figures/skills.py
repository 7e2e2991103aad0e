"""Scores of models on the skills, and what RLHF takes from them: the alignment tax."""

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignment_tax.figures import primitives as draw, style
from alignment_tax.figures.style import BLUE, VERMILLION, Look, finish, panels, run_caption
from alignment_tax.labels import FAMILIES, FAMILY_NAMES, SCORES, names_of
from alignment_tax.results import points as select
from alignment_tax.results.points import TableError, need
from alignment_tax.stats.compare import summarise

MODEL_COLOURS = (style.GREY, style.SKY, VERMILLION, BLUE, style.ORANGE, style.PURPLE)
ALPHA_LOOKS = {
    "reward": Look("reward", BLUE, "o"),
    "gold": Look("gold (the true reward)", style.ORANGE, "s"),
    "forgetting": Look("skill, format forgiven", style.BLACK, "o"),
    "skill": Look("skill, as written", style.PURPLE, "D"),
}


def _by_score(frame: pd.DataFrame, scores: list[str], value: str, study: str) -> pd.DataFrame:
    """Return the mean of each model (`frame["model"]`) and score, in both orders as they come."""
    long = frame.melt("model", scores, "score", value)
    for column in ("model", "score"):
        long[column] = pd.Categorical(long[column], long[column].unique())
    table = summarise(long, ["model", "score"], [value]).astype({"model": str, "score": str})
    table.insert(2, "name", table["score"].map(names_of(study)))
    return table


@style.in_style()
def skills_bar(
    scores: pd.DataFrame, baselines: Mapping[str, float] | None = None, *, caption: str,
    study: str = "tiny",
) -> Figure:  # fmt: skip
    """Draw the scores of up to six models side by side; a black line marks what guessing gives.

    `scores` has `model` and a column per skill (percent), several rows for seeds of one model;
    `baselines` are scores of guessing by skill; `study` names the preset whose names skills have.
    """
    need(scores, ["model"])
    # the only slot of a family that is drawn as well would be the same bars twice
    twice = [slots[0] for name, slots in FAMILIES.items() if len(slots) == 1 and name in scores]
    shown = [name for name in SCORES if name in scores and name not in twice]
    if not shown:
        raise TableError(f"skills_bar needs a column per skill, some of {', '.join(SCORES)}.")
    table = _by_score(scores, shown, "value", study)
    table["baseline"] = table["score"].map(baselines or {}).astype(float)
    models = table["model"].unique()
    # "θ₀, forgiven" has the colour of "θ₀, as written", and stripes
    plain = {name: name.split(", ")[0] for name in models}
    colours = dict(zip(dict.fromkeys(plain.values()), MODEL_COLOURS, strict=False))
    stripes = {name: "//" * name.endswith(", forgiven") for name in models}
    looks = {name: Look(name, colours[plain[name]], hatch=stripes[name]) for name in models}
    figure, [[axes]] = panels(size=(11.0, 5.0))
    digits = 1 if len(table) <= 24 else None
    names = draw.bars(axes, table, "name", "model", "value", looks, digits=digits)
    guessed = table.drop_duplicates("score").reset_index(drop=True).dropna(subset=["baseline"])
    if not guessed.empty:
        axes.hlines(
            guessed["baseline"], guessed.index - 0.45, guessed.index + 0.45, color=style.BLACK,
            linewidth=2, linestyle=(0, (3, 1.5)), label="guessing by answer type",
        )  # fmt: skip
    wrapped = [textwrap.fill(name, 11, break_long_words=False) for name in names]
    axes.set_xticks(range(len(names)), wrapped)
    axes.set(ylim=(0, 105), yticks=range(0, 101, 20), ylabel="score (%)")
    return finish(figure, "Skills", caption, table, legend_columns=len(models) + 1)


@style.in_style()
def tax_bars(
    points: pd.DataFrame, intervals: Mapping[str, tuple[float, float]] | None = None,
    recorded: bool = False,
) -> Figure:  # fmt: skip
    """Draw the tax by family and slot, in points; `intervals` (low, high) replace t intervals."""
    # a suite may leave a slot out (its data cannot be had): its column is empty then
    empty = {name for name in SCORES if name in points and points[name].isna().all()}
    scores = [name for name in SCORES if name not in empty or "skill" in empty]
    rows = select.prepare(points, scores, since=scores)
    order = ["skill"]
    for family, slots in FAMILIES.items():  # a family of one slot stands for both
        order += [family, *slots] if len(slots) > 1 else [family]
    last, shown = select.last_round(rows), [name for name in order if name in scores]
    table = _by_score(last.assign(model="RSF"), shown, "tax", str(rows["study"].iloc[0]))
    table.insert(3, "family", table["score"].isin(FAMILY_NAMES))
    caption = run_caption(select.main_line(points), recorded)
    if intervals is not None:
        caption += " · lines: 95 % interval over items"
        for score, ends in intervals.items():
            table.loc[table["score"] == score, ["tax_low", "tax_high"]] = ends
    names, bold = table["name"], table["family"].astype(bool)
    figure, [[axes]] = panels(size=(style.WIDE[0], 6.2))
    draw.bars(
        axes, table, "name", "model", "tax", {"RSF": Look("RSF", VERMILLION)}, across=True,
        digits=1, sign=True, pale=list(names[~bold]), text_size=12,
    )  # fmt: skip
    axes.axvline(0, color=style.INK, linewidth=1.4)
    axes.set_yticks(range(len(table)), names.where(bold, names + "  "))  # slots stand in
    for tick, weight in zip(axes.get_yticklabels(), bold, strict=True):
        tick.set_fontweight("bold" if weight else "normal")
    axes.set_xlabel("change since θ₀, in points (left of 0: lost)")
    return finish(figure, "The alignment tax, skill by skill", caption, table, legend_columns=1)


@style.in_style()
def lost_items(lost: pd.DataFrame, *, caption: str) -> Figure:
    """Draw items lost, by skill: `lost` has name, kind (format | forgotten) and share (percent)."""
    need(lost, ["name", "kind", "share"])
    looks = {
        "forgotten": Look("forgotten: not wholly right, even cut", VERMILLION),
        "format": Look("format: it is there and not alone, or not said", style.SKY, hatch="///"),
    }
    figure, [[axes]] = panels(size=(style.WIDE[0], 4.6))
    draw.bars(axes, lost, "name", "kind", "share", looks, across=True, stacked=True)
    axes.margins(x=0.05)
    axes.set_xlabel("items that were right before RLHF and are not after it, % of all")
    return finish(figure, "What was lost, item by item", caption, lost, legend_columns=2)


@style.in_style()
def alpha_curves(points: pd.DataFrame, recorded: bool = False) -> Figure:
    """Draw what averages change since theta_0: rewards, skills; dashed is a fair exchange."""
    values = ["reward", *(["gold"] if select.has_gold(points) else []), "forgetting", "skill"]
    rows = select.prepare(points, values, since=values)
    select.last_round(rows)
    rows = rows[(rows["algorithm"] == "rsf") & (rows["method"] == "average")]
    if rows.empty:
        raise TableError("alpha_curves needs rows with algorithm 'rsf' and method 'average'.")
    table = summarise(rows, ["alpha"], values)
    figure, [[left, right]] = panels(1, 2, (style.PANELS[0], 5.0), xlabel=style.ALONG)
    for score in values:
        axes, look = (left if score in ("reward", "gold") else right), ALPHA_LOOKS[score]
        draw.curve(axes, table, "alpha", score, look)
        ends = table.iloc[[0, -1]]
        axes.plot(ends["alpha"], ends[score], color=look.colour, linewidth=1.3, linestyle="--")
    left.set_title("gained since θ₀ (units of each reward)")
    right.set_title("skill since θ₀ (points; below 0: lost)")
    for axes in (left, right):
        axes.set_xticks(np.linspace(0, 1, 6))
    caption = run_caption(select.main_line(points), recorded)
    return finish(figure, "Averaging along α", caption, table, legend_columns=4)
