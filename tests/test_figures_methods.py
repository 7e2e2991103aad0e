"""What holds for every figure; algorithms, ratios, remedies, theory and verdicts by hand."""

import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import refuses
from matplotlib.text import Text
from points import figure_points, row

from alignment_tax import figures
from alignment_tax.figures import TableError, alt_text
from alignment_tax.stats import compare

CAPTION = "your run: tiny, seed 0"
POINTS = figure_points(2, "remedies", "ratios", "algorithms")


def with_rows(points, *rows):
    return pd.concat([points, pd.DataFrame(rows)], ignore_index=True)


#: PPO, (4, 72) under its own coefficient 0.1, beside 0 and 0.4; its average at 0.5.
PENALTIES = [
    [row(s, "ppo", 70, 6, "kl_coef", strength=0.0), row(s, "ppo", 79, 1, "kl_coef", strength=0.4),
     row(s, "ppo", 77, 2, "average", alpha=0.5)]
    for s in (0, 1)
]  # fmt: skip
WITH_PENALTIES = with_rows(POINTS, *PENALTIES[0], *PENALTIES[1])
#: Models of seed 3: theta_0, the plain run (4, 70), its average (2, 78), L2 (2, 76).
LIVE = pd.DataFrame([
    row(3, "sft", 80, 0), row(3, "rsf", 70, 4, "distil"),
    row(3, "rsf", 78, 2, "distil+average", alpha=0.5), row(3, "rsf", 76, 2, "l2", strength=0.06),
])  # fmt: skip
#: Of what RSF loses in reading a fifth is format.
WITH_FORMAT = figure_points(2, "algorithms")
WITH_FORMAT["reading_forgiven"] += 4 * (WITH_FORMAT["algorithm"] == "rsf")
#: Ratios per block, and an average at a mean that no search has.
ANOTHER_MEAN = with_rows(figure_points(2, "ratios"), row(0, "rsf", 99, 1, "average", alpha=0.1))
LOST = pd.DataFrame({"name": ["span", "span"], "kind": ["format", "forgotten"],
                     "share": [3.0, 1.0]})  # fmt: skip
GAINS = pd.DataFrame({"features": 20, "p": 0.8, "labels": "same", "shared": [0, 0, 20, 20],
                      "average": "weights", "gain": [10.0, 12.0, 0.0, 0.0]})  # fmt: skip
FORMULAS = pd.DataFrame({"features": 20, "p": 0.8, "labels": "same", "shared": [0, 20],
                         "printed": [11.0, 0.0], "weights": np.nan})  # fmt: skip
PATH = [(0.5, 0.5, 0.5), (0.7, 0.1, 0.7)]
WAYS = pd.DataFrame({"panel": ["a", "a", "b", "b"], "way": "weights", "alpha": [0, 1, 0, 1],
                     "loss": [2.0, 1.0, 1.0, 3.0]})  # fmt: skip
GRID = pd.DataFrame({"ratios": [(0.9, 0.3, 0.3), (0.3, 0.9, 0.3), (0.3, 0.3, 0.9), (0.5, 0.5, 0.5)],
                     "full": [4.0, 3.0, 1.0, 2.0]})  # fmt: skip
CLAIMS = {"a": compare.compare_seeds([1.0, 3.0, 2.0]), "b | c": compare.compare_seeds([-2.0, -1.9])}

#: Figures of points, by the rows they need beside the main line.
MAIN_LINE = ["rsf_rounds", "tax_bars", "alpha_curves", "reward_hacking", "front"]
BESIDE = {
    "": [*MAIN_LINE, "fronts"], "remedies": ["remedy_fronts"],
    "algorithms": ["algorithm_fronts", "taxes", "rounds"],
    "ratios": ["part_curves", "search_fronts", "shares_along"],
}  # fmt: skip
OF_POINTS = {n: (getattr(figures, n), more.split()) for more, own in BESIDE.items() for n in own}
OF_POINTS["rounds"] = partial(figures.rounds, names=["rsf", "ppo"]), ["algorithms"]
#: figure -> (how it is drawn from tables, the tables, a column that the first must have)
FIGURES = {
    **{name: (draw, [figure_points(2, *more)], "rounds")
       for name, (draw, more) in OF_POINTS.items()},
    "taxes": (lambda p: figures.taxes(p, ["rsf", "ppo", "not recorded"]), [WITH_FORMAT], "rounds"),
    "search_fronts": (figures.search_fronts, [ANOTHER_MEAN], "rounds"),
    "kl_penalty": (partial(figures.kl_penalty, own=0.1), [WITH_PENALTIES], "forgetting"),
    "live_remedies": (figures.live_remedies, [LIVE], "forgetting"),
    "razor": (figures.razor, [POINTS], "forgetting"),
    "lost_items": (partial(figures.lost_items, caption=CAPTION), [LOST], "share"),
    "effectiveness": (partial(figures.effectiveness, caption=CAPTION), [GAINS, FORMULAS], "p"),
    "ways": (lambda rows: figures.ways(rows, "loss", ["weights"], "A title", caption=CAPTION),
             [WAYS], "loss"),
    "simplex": (lambda g: figures.simplex(g, {"best": (0.3, 0.3, 0.9)}, 0.5, caption=CAPTION,
                                          path=PATH), [GRID], "full"),
}  # fmt: skip
#: The tables they carry, worked out by hand or checked so when they were written down.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "figures.json").read_text("utf-8"))


def drawn(name, *tables):
    draw, usual, _ = FIGURES[name]
    return draw(*[*tables, *usual[len(tables) :]])


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_carries_its_table_and_its_alt_text_holds_its_numbers(name):
    figure = drawn(name)
    table, said = figures.table(figure), alt_text(figure)
    assert len(table)
    if name != "remedy_fronts":  # whose rows are those of the preset's remedies
        texts = table.to_csv(index=False), "\n".join(GOLDEN[name])
        found, wanted = (pd.read_csv(io.StringIO(text)) for text in texts)
        pd.testing.assert_frame_equal(found, wanted, check_dtype=False, rtol=1e-5, atol=1e-9)
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert "nan" not in " ".join([said, *texts]).lower().split()
    assert " ".join(figure.get_supxlabel().split()) in said
    for place in (0, -1):
        own = table.select_dtypes("number").iloc[place].dropna()
        values = [f"{abs(value):{form}}" for value in own for form in (".0f", ".1f", ".2f", "g")]
        assert any(value in said for value in values)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("name", OF_POINTS)
def test_a_figure_of_points_says_its_run(name, seeds):
    draw, more = OF_POINTS[name]
    said = alt_text(draw(figure_points(seeds, *more), recorded=True))
    assert "recorded run tiny, seed" in said
    averaged = seeds > 1 and name != "shares_along"  # that one is of means
    assert ("95 % t interval" in said) == averaged


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_missing_is_refused(name):
    table, column = FIGURES[name][1][0], FIGURES[name][2]
    for broken, message in ((table.iloc[:0], None), (table.drop(columns=column), column)):
        refuses(TableError, message, drawn, name, broken)


def triangle(marks):
    return figures.simplex(GRID, marks, 0.5, caption=CAPTION)


#: A call that makes no sense, and what its message says.
REFUSED = [
    (lambda: figures.fronts(POINTS, ["rewrad"]), r"needs the column\(s\) rewrad"),
    (lambda: figures.remedy_fronts(figure_points()), "no remedy"),
    (lambda: figures.reward_hacking(POINTS.assign(gold=np.nan)), "gold"),
    (lambda: figures.gold_scatter(np.ones(3), np.ones(4), caption=CAPTION), "do not go with"),
    (lambda: figures.losses(pd.DataFrame({"step": [0, 1], "loss": [np.nan, 1]}), caption=CAPTION),
     "1 of 2 losses are NaN"),
    (lambda: figures.best_of_n(np.zeros(3), caption=CAPTION), "a matrix"),
    (lambda: figures.taxes(POINTS[POINTS["algorithm"] == "sft"], ["rsf"]), "there are no rounds"),
    (lambda: figures.kl_penalty(POINTS, own=0.1), "none is recorded"),
    (lambda: figures.part_curves(POINTS[POINTS["part"] != "middle"]), "the middle part"),
    (lambda: figures.search_fronts(POINTS[POINTS["method"] != "hma"]), "'hma' and 'average'"),
    (lambda: figures.search_fronts(POINTS[POINTS["method"].ne("hma") | POINTS["seed"].eq(0)]
                                   .query("method != 'average' or seed == 1")), "in common"),
    (lambda: figures.shares_along(POINTS[POINTS["method"] != "average"]), "method 'average'"),
    (lambda: triangle({"other": (0.9, 0.9, 0.9)}), "one mean"),
    (lambda: triangle(dict.fromkeys("abcdef", (0.5, 0.5, 0.5))), "5 markers"),
    (lambda: figures.live_remedies(LIVE[LIVE["method"] != "distil"]), "distilled run"),
    (lambda: drawn("effectiveness", pd.concat([GAINS.assign(features=n) for n in range(5)])),
     "up to 4 worlds, not 5"),
    (lambda: figures.verdict_style({}), "no rows"),
    (lambda: drawn("ways", WAYS.assign(loss=np.inf)), "infinite"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_makes_no_sense_is_refused(call, message):
    refuses(TableError, message, call)


# these two are drawn in the order that is given
@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {"simplex", "lost_items"}))
def test_the_order_of_rows_other_columns_and_other_seeds_change_nothing(name):
    more = table = FIGURES[name][1][0]
    if name in OF_POINTS:
        seeds = [row(7, "sft", 10, 9), row(7, "ppo", 20, 9, rounds=1, kl=9.0)]
        others = POINTS[~POINTS["method"].isin(["none", "average"])] if name in MAIN_LINE else None
        more = pd.concat([table, pd.DataFrame(seeds), others])
    both = [drawn(name, each) for each in (table, more[::-1])]
    first, second = map(figures.table, both)
    assert len({figure.get_supxlabel() for figure in both}) == 1  # which says seeds
    by = [column for column in first if first[column].notna().all()]
    pd.testing.assert_frame_equal(
        *(each.sort_values(by, ignore_index=True) for each in (first, second)), check_dtype=False
    )


# --- algorithms ----------------------------------------------------------------------------------
def test_a_coefficient_is_compared_on_the_seeds_that_have_it():
    one = with_rows(POINTS, *PENALTIES[0], PENALTIES[1][-1])
    assert set(figures.table(figures.kl_penalty(one, own=0.1))["seeds"]) == {1}


def test_the_prices_of_three_tokens_by_hand():
    table = figures.table(figures.penalty_distances())
    drops, adds = (table[table["panel"] == name].iloc[:, 2:] for name in ("drops", "adds"))
    for own in (drops, adds):  # each starts at theta_0
        assert own.iloc[0].abs().max() < 1e-9
    # the first token has 0.999 - 1e-6
    gone = 0.6 * np.log(0.6 / 0.998999) + 0.399 * np.log(0.399 / 1e-6)
    assert drops.iloc[-1]["forward"] == pytest.approx(gone)
    assert drops.iloc[-1]["reverse"] == pytest.approx(0.999 * np.log(0.999 / 0.6), abs=1e-4)
    # half for the third token, half for the others: 0.3003, 0.1997
    half = 0.5 * np.log(0.5 / 0.001) + 0.5 * np.log(0.5 / 0.999)
    assert adds.iloc[-1]["reverse"] == pytest.approx(half)


# --- theory and verdicts -------------------------------------------------------------------------
def test_verdicts_as_a_table_and_as_a_forest():
    figure = figures.forest(CLAIMS, caption=CAPTION, sides=("worse", "better"))
    told = figures.table(figure)[["claim", "difference"]].values.tolist()
    assert told == [["a", 2], ["b | c", -1.95]]
    assert "a, inconclusive, difference 2.00 (-0.48 to 4.48)" in alt_text(figure)
    assert "-1.95" in figures.verdict_style(CLAIMS).to_html()
