"""Figures of algorithms, ratios, remedies, weights, theory and verdicts: their numbers by hand."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from points import T_1, figure_points, row

from alignment_tax import figures
from alignment_tax.figures import TableError, alt_text, primitives, style
from alignment_tax.figures.weights import strokes
from alignment_tax.stats import compare

CAPTION = "this run: tiny, seed 0"
POINTS = figure_points(2, "remedies", "ratios", "algorithms")
METHODS = ["l2", "lora"]


def with_penalties() -> pd.DataFrame:
    """PPO, (4, 72) under its own coefficient 0.1, beside 0 and 0.4; its average at 0.5."""
    rows = []
    for s in (0, 1):
        for strength, score, reward in ((0.0, 70, 6), (0.4, 79, 1)):
            place = {"method": "kl_coef", "strength": strength, "rounds": 2}
            rows.append(row(s, "ppo", score, reward, **place))
        rows.append(row(s, "ppo", 77, 2, method="average", alpha=0.5, rounds=2))
    return pd.concat([POINTS, pd.DataFrame(rows)], ignore_index=True)


def live() -> pd.DataFrame:
    """Models of seed 0: theta_0, the plain run (4, 70), its average (2, 78), L2 (2, 76)."""
    rows = [row(0, "sft", 80, 0), row(0, "rsf", 70, 4, method="distil", rounds=2)]
    rows += [row(0, "rsf", 78, 2, method="distil+average", alpha=0.5, rounds=2)]
    rows += [row(0, "rsf", 76, 2, method="l2", strength=0.06, rounds=2)]
    return pd.DataFrame(rows)


def effects(*methods: str) -> pd.DataFrame:
    """What was measured of live models: their changes since theta_0."""
    rows = live().set_index("method").loc[list(methods)].reset_index()
    change = rows["skill"] - 80
    return rows.assign(gain=rows["reward"], change=change, capped_change=change / 2, distance=1.5)


RUNS, AVERAGES = effects("distil", "l2"), effects("distil+average")
HALF = effects("l2").assign(method="l2+average", alpha=0.5, gain=1.0, change=-1.0)
LOST = pd.DataFrame({"name": ["span", "span"], "kind": ["format", "forgotten"],
                     "share": [3.0, 1.0]})  # fmt: skip
USE = pd.DataFrame({"strength": [0.0, 1.0, 1.0, 1.0], "tokens": [50.0, 50.0, 120.0, 30.0],
                    "family": ["reply", "reply", "span", "statement"]})  # fmt: skip
WALK = pd.DataFrame({"step": [1, 2, 3], "trained": [5.0, 10.0, 15.0], "EMA": [2.5, 6.25, 10.5]})
NORMS = pd.DataFrame({"density": [0.2, 1.0], "largest": [0.9, 1.0], "random": [0.45, 1.0]})
MASKS = pd.DataFrame({"mask": ["largest"] * 2, "kind": ["all", "norm"], "density": [0.2, 0.4],
                      "norm": [0.9, 0.8]})  # fmt: skip
GRAFTS = pd.DataFrame({"mask": ["average", "largest"], "norm": [0.5, 0.5], "reward": [1.0, 2.0],
                       "skill": [-3.0, -1.0]})  # fmt: skip
GAINS = pd.DataFrame({"features": 20, "p": 0.8, "labels": "same", "shared": [0, 0, 20, 20],
                      "average": "weights", "gain": [10.0, 12.0, 0.0, 0.0]})  # fmt: skip
FORMULAS = pd.DataFrame({"features": 20, "p": 0.8, "labels": "same", "shared": [0, 20],
                         "printed": [11.0, 0.0], "weights": np.nan})  # fmt: skip
LIMIT = pd.DataFrame({"features": [20, 20], "accuracy": [76.0, 78.0], "predicted": [82.0, 82.0]})
PATH = pd.DataFrame({"step": [0, 1], "ratios": [(0.5, 0.5, 0.5), (0.7, 0.1, 0.7)],
                     "full": [2.0, 1.5]})  # fmt: skip
GRID = pd.DataFrame({"ratios": [(0.9, 0.3, 0.3), (0.3, 0.9, 0.3), (0.3, 0.3, 0.9), (0.5, 0.5, 0.5)],
                     "full": [4.0, 3.0, 1.0, 2.0]})  # fmt: skip
CLAIMS = pd.DataFrame({"claim": ["a", "b | c"], "difference": [2.0, -2.0], "low": [1.0, -3.0],
                       "high": [3.0, -1.0], "verdict": ["holds", "opposite"]})  # fmt: skip
RIVALS = CLAIMS.drop(columns="claim").assign(name=["L2", "KD"], seeds="seeds 0-1", unit="points",
                                             score="mean skill", measure="hypervolume")  # fmt: skip
SHARES = pd.DataFrame({"steps": [0.5, 2.0], "share": [25.0, 75.0]})

#: figure -> (how it is drawn from tables, the tables, a column that the first must have)
FIGURES: dict[str, tuple[Callable[..., Figure], list[pd.DataFrame], str]] = {
    "kl_penalty": (partial(figures.kl_penalty, own=0.1), [with_penalties()], "forgetting"),
    "penalty_doses": (lambda p: figures.penalty_doses(p, METHODS), [POINTS], "skill"),
    "remedy_panels": (lambda p, own: figures.remedy_panels(p, METHODS, live=own), [POINTS, live()],
                      "skill"),
    "live_fronts": (lambda p, own: figures.live_fronts(p, own, CAPTION), [POINTS, live()],
                    "translation"),
    "family_changes": (lambda p: figures.family_changes(p, ["distil", "l2"], CAPTION), [live()],
                       "reading"),
    "penalty_front": (partial(figures.penalty_front, caption=CAPTION), [POINTS, RUNS, AVERAGES],
                      "skill"),
    "penalty_effects": (partial(figures.penalty_effects, caption=CAPTION), [RUNS], "kl"),
    "penalty_combined": (partial(figures.penalty_combined, alpha=0.5, caption=CAPTION),
                         [pd.concat([RUNS, HALF]), AVERAGES], "gain"),
    "penalty_changes": (lambda own: figures.penalty_changes({"l2": own}, caption=CAPTION), [SHARES],
                        "share"),
    "replay_mix": (lambda use: figures.replay_mix({"all": use}, CAPTION), [USE], "tokens"),
    "path_lengths": (partial(figures.path_lengths, caption=CAPTION), [WALK], "trained"),
    "graft_masks": (partial(figures.graft_masks, caption=CAPTION), [NORMS, MASKS], "random"),
    "same_norm": (partial(figures.same_norm, caption=CAPTION), [GRAFTS], "norm"),
    "razor": (lambda p: figures.razor(p, pd.DataFrame()), [POINTS], "forgetting"),
    "lost_items": (partial(figures.lost_items, caption=CAPTION), [LOST], "share"),
    "effectiveness": (partial(figures.effectiveness, caption=CAPTION), [GAINS, FORMULAS], "p"),
    "limit": (partial(figures.limit, caption=CAPTION), [LIMIT], "predicted"),
    "ratio_path": (partial(figures.ratio_path, alpha=0.5, caption=CAPTION), [PATH], "full"),
    "simplex": (lambda g: figures.simplex(g, {"best": (0.3, 0.3, 0.9)}, 0.5, caption=CAPTION,
                                          eps=0.1, path=list(PATH["ratios"])), [GRID], "full"),
    "forest": (partial(figures.forest, caption=CAPTION, sides=("worse", "better")), [CLAIMS],
               "low"),
    "rivals": (partial(figures.rivals, caption=CAPTION), [RIVALS], "unit"),
}  # fmt: skip


def drawn(name: str, *tables: pd.DataFrame) -> Figure:
    draw, usual, _ = FIGURES[name]
    return draw(*[*tables, *usual[len(tables) :]])


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_and_its_alt_text_holds_its_numbers(name: str) -> None:
    figure = drawn(name)
    figure.canvas.draw()
    table, said = figures.table(figure), alt_text(figure)
    assert len(table)
    assert "nan" not in said.lower().split()
    for place in (0, -1):
        own = table.select_dtypes("number").iloc[place].dropna()
        values = [f"{abs(value):{form}}" for value in own for form in (".0f", ".1f", ".2f", "g")]
        assert any(value in said for value in values)


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_missing_is_refused(name: str) -> None:
    table, column = FIGURES[name][1][0], FIGURES[name][2]
    with pytest.raises(TableError):
        drawn(name, table.iloc[:0])
    with pytest.raises(TableError, match=column):
        drawn(name, table.drop(columns=column))


def triangle(marks: dict[str, tuple[float, ...]]) -> Figure:
    return figures.simplex(GRID, marks, 0.5, caption=CAPTION)


SKILLS = pd.DataFrame({"model": ["base"], "span": [60.0]})
BARE = POINTS[~POINTS["method"].str.contains("distil") & (POINTS["method"] != "l2")]
#: What is wrong with a call -> the call, and what its message says.
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: figures.fronts(POINTS, ["rewrad"]), "rewrad.* is no skill"),
    (lambda: figures.remedy_fronts(figure_points()), "no remedy"),
    (lambda: figures.tax_bars(POINTS, alpha=0.3), r"0\.3; the points have 0, 0\.5, 1"),
    (lambda: figures.skills_bar(SKILLS, {"onehop": 25.0}, caption=CAPTION), "no skill .* onehop"),
    (lambda: figures.learning_curves(pd.DataFrame({"tokens": [1]}), caption=CAPTION), "per skill"),
    (lambda: figures.reward_hacking(POINTS.assign(gold=np.nan)), "gold"),
    (lambda: figures.reliability(pd.DataFrame({"predicted": [60], "observed": [50], "count": [9]}),
                                 caption=CAPTION), "between 0 and 1"),
    (lambda: figures.gold_scatter(np.ones(3), np.ones(4), caption=CAPTION), "do not go with"),
    (lambda: figures.losses(pd.DataFrame({"step": [0, 1], "loss": [np.nan, 1]}), caption=CAPTION),
     "1 of 2 losses are NaN"),
    (lambda: figures.best_of_n(np.zeros(3), caption=CAPTION), "a matrix"),
    (lambda: figures.reward_histogram(np.array([]), np.ones(1), caption=CAPTION), "nothing to dr"),
    (lambda: style.look_of("rsf", "magic"), "'magic'"),
    (lambda: figures.taxes(POINTS[POINTS["algorithm"] == "sft"], ["rsf"]), "there are no rounds"),
    (lambda: figures.kl_penalty(POINTS, own=0.1), "none is recorded"),
    (lambda: figures.part_curves(POINTS[POINTS["part"] != "middle"]), "the middle part"),
    (lambda: figures.part_curves(POINTS, algorithms=("dpo",)), "--methods dpo part"),
    (lambda: figures.search_fronts(POINTS, [("hma", 4)]), "no rows of 'hma' with K = 4"),
    (lambda: figures.search_fronts(POINTS, []), "in common"),
    (lambda: drawn("ratio_path", PATH.assign(ratios=[(0.5, 0.5), (0.5,) * 3])), r"\[2, 3\] ratios"),
    (lambda: triangle({"two": (0.5, 0.5)}), "three ratios"),
    (lambda: triangle({"other": (0.9, 0.9, 0.9)}), "one mean"),
    (lambda: triangle(dict.fromkeys("abcdef", (0.5, 0.5, 0.5))), "5 markers"),
    (lambda: figures.remedy_panels(BARE, ["l2"]), "not recorded.*--methods remedies"),
    (lambda: figures.penalty_doses(BARE, ["l2"]), "not recorded.*--methods remedies"),
    (lambda: figures.live_fronts(POINTS, live().iloc[1:], CAPTION), "theta_0"),
    (lambda: figures.family_changes(live(), ["sma"], CAPTION), "one row of 'sma'; there are 0"),
    (lambda: drawn("penalty_effects", effects("l2")), "plain run"),
    (lambda: drawn("penalty_front", POINTS, effects("l2")), "plain run"),
    (lambda: drawn("penalty_combined", RUNS), "its average"),
    (lambda: drawn("path_lengths", WALK.assign(trained=0.0)), "did not move"),
    (lambda: figures.lora_spectra({"lora": np.zeros(3)}, caption=CAPTION), "did not move"),
    (lambda: drawn("effectiveness", GAINS.assign(average="tokens")), "not 'tokens'"),
    (lambda: drawn("effectiveness", pd.concat([GAINS.assign(features=n) for n in range(5)])),
     "up to 4 worlds, not 5"),
    (lambda: drawn("limit", LIMIT.assign(accuracy=[76.0, np.inf])), "infinite"),
    (lambda: figures.verdict_style(CLAIMS.assign(low=2.5)), "'a' misses its value"),
    (lambda: figures.verdict_style(CLAIMS.assign(verdict="perhaps")), "'perhaps' is no verdict"),
    (lambda: figures.verdict_style(CLAIMS.assign(high=np.inf)), "infinite"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_makes_no_sense_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TableError, match=message):
        call()


#: Drawn in the order that is given.
ORDERED = {"forest", "rivals", "penalty_effects", "penalty_combined", "simplex",
           "lost_items", "penalty_changes"}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ORDERED])
def test_the_order_of_rows_and_other_columns_change_nothing(name: str) -> None:
    table = FIGURES[name][1][0]
    first, second = (
        figures.table(drawn(name, each)) for each in (table, table[::-1].assign(other="x"))
    )
    by = [column for column in first if first[column].notna().all()]
    pd.testing.assert_frame_equal(
        *(each.sort_values(by, ignore_index=True) for each in (first, second)), check_dtype=False
    )


# --- algorithms ----------------------------------------------------------------------------------


def test_algorithms_by_hand() -> None:
    points = with_penalties()
    points["reading_forgiven"] += 4 * (points["algorithm"] == "rsf")  # a fifth was format
    rounds = figures.table(figures.rounds(points, ["rsf", "ppo"])).set_index(
        ["algorithm", "rounds"]
    )
    assert rounds.loc[("rsf", 2), ["skill", "forgetting"]].tolist() == [-20, -20]
    assert rounds.loc[("ppo", 0), "skill"] == 0
    figure = figures.taxes(points, ["rsf", "ppo", "not recorded"])
    assert "RSF, family common sense, tax -20" in alt_text(figure)
    tax = figures.table(figure).set_index(["way", "algorithm", "family"])["tax"]
    assert tax["as written", "rsf", "reading"] == -20  # a loss is negative
    assert tax["format forgiven", "rsf", "reading"] == -16
    assert tax["format forgiven", "ppo", "reading"] == -8
    fronts = figures.table(figures.algorithm_fronts(points))
    half = fronts[(fronts["algorithm"] == "dpo") & (fronts["alpha"] == 0.5)].iloc[0]
    assert half[["reward", "forgetting"]].tolist() == [0.8, 79]


def test_a_coefficient_is_compared_on_the_seeds_that_have_it() -> None:
    points = with_penalties()
    table = figures.table(figures.kl_penalty(points, own=0.1))
    swept = table[table["method"] == "kl_coef"]
    assert swept[["strength", "reward", "forgetting"]].to_numpy().tolist() == [
        [0, 6, 71], [0.1, 4, 73], [0.4, 1, 80],
    ]  # fmt: skip
    one = points[~((points["method"] == "kl_coef") & (points["seed"] == 1))]
    assert set(figures.table(figures.kl_penalty(one, own=0.1))["seeds"]) == {1}


# --- ratios --------------------------------------------------------------------------------------


def test_parts_are_differences_to_the_aligned_model_of_the_seed() -> None:
    table = figures.table(figures.part_curves(POINTS)).set_index(["part", "alpha"])
    assert table.loc[("input", 0.5), ["reward", "skill"]].tolist() == [1, 2]
    assert table.loc[("output", 0.5), ["reward", "skill"]].tolist() == [-1, 4]
    assert table.loc[("output", 1.0), ["reward", "skill"]].tolist() == [0, 0]


def test_searches_have_the_same_means_seeds_and_ends() -> None:
    searches = [("hma", 3), ("hma", 6), ("adamerging", 9)]
    extra = row(0, "rsf", 99, 1, method="average", alpha=0.1, rounds=2)
    points = pd.concat([POINTS, pd.DataFrame([extra])])
    table = figures.table(figures.search_fronts(points, searches))
    assert set(table["mean"]) == {0, 0.5, 1}
    assert set(table["seeds"]) == {2}
    own = table[table["method"].eq("hma") & table["blocks"].eq(3)]
    assert own[["reward", "skill"]].to_numpy().tolist() == [[0, 81], [3, 77], [4, 61]]
    figure = figures.search_fronts(POINTS, [("hma", 3)], ["skill", "reading", "commonsense"])
    assert sum(axes.get_visible() for axes in figure.axes) == 3


def test_more_blocks_are_compared_at_the_same_mean() -> None:
    table = figures.table(figures.ablation(POINTS)).set_index("blocks")
    expected = {1: (0, 0), 3: (0, 1), 6: (0.5, 0), 9: (0.5, -1)}
    for blocks, values in expected.items():
        assert tuple(table.loc[blocks, ["reward", "skill"]]) == pytest.approx(values)


def test_ratios_are_read_seed_by_seed() -> None:
    table = figures.table(figures.recorded_ratios(POINTS)).set_index(["seed", "block"])["ratio"]
    assert table[1].tolist() == pytest.approx([0.8, 0.5, 0.2])
    released = figures.table(figures.recorded_ratios(POINTS, "hma_released"))
    assert released["ratio"].tolist() == [0.51, 0.5, 0.49] * 2  # what is fixed is no block


def test_the_steps_of_a_search_are_a_table() -> None:
    path = figures.table(figures.ratio_path(PATH, 0.5, caption=CAPTION))
    assert path.iloc[-1].tolist() == [1, 1.5, 0.7, 0.1, 0.7]


# --- remedies and weights ------------------------------------------------------------------------


def test_remedies_are_drawn_from_the_seeds_that_all_of_a_panel_have() -> None:
    doses = figures.table(figures.penalty_doses(POINTS, METHODS))
    own = POINTS[(POINTS["method"] == "l2") & (POINTS["seed"] == 0)].sort_values("strength")
    l2 = doses[doses["method"] == "l2"]
    assert l2["strength"].tolist() == own["strength"].tolist()
    # changes since theta_0: seed 1 has half a point more or less
    assert l2["reward"].tolist() == pytest.approx(own["reward"])
    assert l2["skill"].to_numpy() == pytest.approx(own["skill"].to_numpy() - 80, abs=0.5)
    some = POINTS[~POINTS["method"].isin(["lora"]) | (POINTS["seed"] == 1)]
    figure = figures.remedy_panels(some, METHODS)
    titles = [axes.get_title(loc="left").split("\n")[1] for axes in figure.axes]
    assert titles == ["(seeds 0-1)", "(seed 1)"]
    assert set(figures.table(figure).groupby("panel")["seeds"].max()) == {1, 2}


@pytest.mark.parametrize(("least", "starts"), [(1.0, 0.0), (3.9, 3.9)])
def test_no_line_leads_to_a_curve_without_a_strong_setting(least: float, starts: float) -> None:
    rows = POINTS["method"] == "lora"
    points = POINTS.assign(reward=POINTS["reward"].mask(rows, least + POINTS["seed"]))
    axes = figures.remedy_panels(points, ["lora"]).axes[0]
    marker = style.METHODS["lora"].marker
    [line] = [line for line in axes.get_lines() if line.get_marker() == marker]
    assert line.get_xdata()[0] == pytest.approx(starts)


def test_models_of_this_seed_are_changes_since_theta_0() -> None:
    table = figures.table(figures.live_fronts(POINTS, live(), CAPTION))
    mine = table[table["live"]].set_index("method")
    assert mine.loc["l2", ["reward", "skill"]].tolist() == [2, -4]
    recorded = table[~table["live"] & (table["method"] == "none")].set_index("rounds")
    assert recorded.loc[2, ["reward", "skill"]].tolist() == [4, -20]
    bars = figures.table(drawn("family_changes")).set_index(["method", "family"])["change"]
    assert bars[("distil", "reading")] == -10


def test_live_models_stand_beside_averages_of_the_plain_run() -> None:
    table = figures.table(drawn("penalty_front")).set_index(["series", "method"])
    own = table.loc[("this seed", "l2"), ["gain", "change", "capped_change"]]
    assert own.squeeze().tolist() == [2, -4, -2]
    assert "L2 0.06" in alt_text(drawn("penalty_effects"))


def test_shares_of_replayed_text_distances_and_masks_by_hand() -> None:
    mix = figures.table(drawn("replay_mix")).set_index(["strength", "family"])["share"]
    assert mix[1.0].to_dict() == {"reply": 25, "span": 60, "statement": 15}
    lengths = figures.table(drawn("path_lengths"))
    assert lengths.iloc[1].tolist() == pytest.approx([2, 200 / 3, 125 / 3])
    moved = figures.table(drawn("penalty_changes")).iloc[0]
    assert moved[["below_one_rate", "half_below"]].tolist() == [25, 2]
    spectra = {"lora": np.array([2.0, 1.0, 0.0])}
    lora = figures.table(figures.lora_spectra(spectra, caption=CAPTION)).iloc[0]
    assert lora[["largest", "above_a_thousandth", "values"]].tolist() == [2, 2, 3]
    assert strokes(["kd", "kl", "l1"]) == {"kd": "-", "kl": "--", "l1": "-"}


def test_the_distances_of_three_tokens_by_hand() -> None:
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


def test_gains_and_limit_by_hand() -> None:
    gains = figures.table(drawn("effectiveness")).set_index("shared")
    assert gains.loc[0, ["gain", "repeats"]].tolist() == [11, 2]
    assert gains.loc[0, "gain_low"] == pytest.approx(11 - T_1, abs=1e-3)
    assert figures.table(drawn("limit")).loc[0, ["accuracy", "error"]].tolist() == [77, -5]


def test_verdicts_as_markdown_and_as_a_forest() -> None:
    found = {"a claim": compare.compare_seeds([1.0, 2.0, 3.0])}
    table = figures.table(figures.forest(found, caption=CAPTION))
    assert table.loc[0, ["claim", "difference"]].tolist() == ["a claim", 2]
    lines = figures.verdict_markdown(CLAIMS).splitlines()
    assert lines[2:] == ["| a | +2.00 | +1.00 to +3.00 | holds |",
                         "| b \\| c | -2.00 | -3.00 to -1.00 | opposite |"]  # fmt: skip
    assert figures.verdict_markdown(CLAIMS.to_dict("records")) == "\n".join(lines)
    assert "+2.00" in figures.verdict_style(CLAIMS).to_html()


def test_rivals_have_a_panel_per_score_and_measure() -> None:
    more = pd.concat([RIVALS.assign(score=s, measure=m) for s in "ab" for m in "cd"])
    figure = figures.rivals(more, caption=CAPTION)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["a, c", "a, d", "b, c", "b, d"]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "L2 (seeds 0-1)"


def test_notes_hide_neither_points_nor_one_another() -> None:
    figure, [[axes]] = style.panels()
    x, y = np.linspace(0, 1, 6), np.zeros(6)
    axes.plot(x, y)
    spots = np.column_stack([x, y])
    primitives.notes(axes, [f"name {i}" for i in range(6)], spots)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    places = axes.transData.transform(spots)
    assert not any(box.contains(*place) for box in boxes for place in places)
    assert not any(one.overlaps(two) for i, one in enumerate(boxes) for two in boxes[:i])
