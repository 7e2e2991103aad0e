"""Averaging against each remedy: four comparisons by hand, and the answer they give together."""

import pandas as pd
import pytest
from test_remedies_page import make_points, point

from alignment_tax import figures, remedies, rivals
from alignment_tax.figures import TableError, alt_text

CAPTION = "recorded run tiny, seeds 0-1"


def forgiving(points, back=1.0):
    """Points of which every trained model loses less skill."""
    trained = points["algorithm"] == "rsf"
    return points.assign(skill=points["skill"].where(~trained, points["skill"] + back))


def rows(verdicts):
    """A table of comparisons with the verdicts of (method, score): hypervolume, equal reward."""
    found = []
    for (method, score), pair in verdicts.items():
        for (measure, unit), verdict in zip(rivals.UNITS.items(), pair, strict=True):
            middle = {"holds": 2.0, "does not hold": -2.0, "inconclusive": 0.0}[verdict]
            found.append(
                {"method": method, "name": remedies.NAMES[method], "seeds": "seeds 0-1"}
                | {"n_seeds": 2, "score": score, "measure": measure, "unit": unit}
                | {"difference": middle, "low": middle - 1, "high": middle + 1}
                | {"verdict": verdict}
            )
    return pd.DataFrame(found)


def test_averaging_is_compared_with_each_remedy_by_hand():
    points = make_points()
    found = rivals.compare(points, forgiving(points), ["early_stopping", "l2", "kd"])
    assert list(found["method"].unique()) == ["early_stopping", "l2"]  # kd has no rows
    assert set(found["seeds"]) == {"seeds 0-1"}
    own = found.set_index(["method", "score", "measure"])
    # averages cover 2 x 9 and 2 x 7 above (0, 70), L2 thinned to as many points 2 x 5
    assert own.loc[("l2", "mean skill", "hypervolume"), "difference"] == pytest.approx(6)
    gained = remedies.gained(points)
    for measure, compare in rivals.MEASURES.items():
        expected = compare(gained, "average", "early_stopping")
        row = own.loc[("early_stopping", "mean skill", measure)]
        assert row["difference"] == pytest.approx(expected.difference)
        assert row["verdict"] == expected.verdict
    more = remedies.ahead(remedies.gained(forgiving(points)), "distil+average", "l2")
    row = own.loc[("l2", "talk forgiven", "hypervolume")]
    assert row["difference"] == pytest.approx(more.difference)
    assert rivals.verdicts(found, "talk forgiven", "hypervolume")["l2"] == more.verdict


def test_only_seeds_that_both_have_are_compared_and_named():
    points = make_points()
    extra = [point(2, "base", -9, 90, rounds=0), point(2, "sft", 0, 80, rounds=0)]
    extra += [point(2, "rsf", 4, 70, "distil"), point(2, "rsf", 1, 99, "l2", strength=1.0)]
    more = pd.concat([points, pd.DataFrame(extra)], ignore_index=True)  # no averages in seed 2
    assert rivals.shared_seeds(remedies.gained(more), "l2") == [0, 1]
    found = rivals.compare(more, more, ["l2"])
    assert set(found["n_seeds"]) == {2}
    assert set(found["seeds"]) == {"seeds 0-1"}
    one = points[points["seed"] == 0]
    assert rivals.compare(one, one, ["l2"]).empty


def test_seeds_without_rsf_and_other_methods_are_left_out():
    points = make_points()
    other = [point(9, "sft", 0, 80, rounds=0), point(9, "dpo", 3, 70)]
    both = [point(0, "rsf", 1, 70, "l2+average", alpha=0.5, strength=0.1)]
    own = rivals.own_rows(pd.concat([points, pd.DataFrame(other + both)]), ["l2"])
    assert set(own["seed"]) == {0, 1}
    assert set(own["method"]) == {"none", "average", "distil", "distil+average", "l2", "l2+average"}


def test_the_table_has_a_column_per_score_and_measure():
    found = rows(
        {
            ("sma", "mean skill"): ("holds", "inconclusive"),
            ("sma", "talk forgiven"): ("inconclusive", "does not hold"),
        }
    )
    table = rivals.verdict_table(found)
    assert list(table.index) == [(remedies.NAMES["sma"], "seeds 0-1")]
    assert table.iloc[0].tolist() == [
        "+2.00 (+1.00 to +3.00), holds",
        "0.00 (-1.00 to +1.00), inconclusive",
        "0.00 (-1.00 to +1.00), inconclusive",
        "-2.00 (-3.00 to -1.00), does not hold",
    ]


def test_the_answer_says_by_which_comparisons():
    n = remedies.NAMES
    both, forgiven, one = ("does not hold",) * 2, ("holds",) * 2, ("holds", "inconclusive")
    said = rivals.answer(
        rows(
            {
                ("replay", "mean skill"): both, ("replay", "talk forgiven"): both,
                ("kd", "mean skill"): both, ("kd", "talk forgiven"): forgiven,
                ("sma", "mean skill"): one, ("sma", "talk forgiven"): ("inconclusive",) * 2,
                ("ema", "mean skill"): ("inconclusive",) * 2,
                ("ema", "talk forgiven"): ("inconclusive",) * 2,
                ("graft", "mean skill"): ("holds", "does not hold"),
                ("graft", "talk forgiven"): ("inconclusive", "does not hold"),
            }
        ),
        ["bema"],
    )  # fmt: skip
    assert said.split(". ") == [
        f"Yes for {n['replay']}, whichever score is taken",
        f"By mean skill, ahead of averaging by both measures: {n['replay']}, {n['kd']}; behind it "
        "by both: none",
        f"With talk forgiven, ahead of averaging by both measures: {n['replay']}; behind it by "
        f"both: {n['kd']}",
        f"Under both scores, ahead of averaging by both measures: {n['replay']}; behind it by "
        "both: none",
        f"Resting on hypervolume alone (mean skill): {n['sma']} (behind)",
        f"The two measures contradict each other (mean skill): {n['graft']} (behind, ahead)",
        f"Resting on skill at equal reward alone (talk forgiven): {n['graft']} (ahead)",
        f"Inconclusive by all four comparisons: {n['ema']}",
        f"Not recorded over seeds: {n['bema']}.",
    ]


def test_the_answer_begins_with_what_can_be_said():
    both, none, behind = ("does not hold",) * 2, ("inconclusive",) * 2, ("holds",) * 2
    one_score = rows({("kd", "mean skill"): both, ("kd", "talk forgiven"): none})
    assert rivals.answer(one_score).startswith("It depends on the score: no remedy")
    never = rows({("kd", "mean skill"): behind, ("kd", "talk forgiven"): none})
    assert rivals.answer(never).startswith("Not shown for any remedy. By mean skill")
    assert rivals.answer(rows({}), ["kd"]).startswith("Not answered yet")
    # a name with a comma would read as two in a list
    squared = rows({("kd_squared", "mean skill"): both, ("kd_squared", "talk forgiven"): both})
    assert rivals.answer(squared).startswith("Yes for squared KD, whichever")


def test_remedies_without_a_weak_setting_are_named():
    table = pd.DataFrame({"method": ["sma", "l1"], "least": [80.6, 3.0]})
    said = rivals.undialled(table)
    assert f"{remedies.NAMES['sma']} 81 %. " in said
    assert remedies.NAMES["l1"] not in said
    assert rivals.undialled(table.iloc[1:]).startswith("Each of them can be dialled")


def test_the_figure_has_a_panel_per_comparison():
    points = make_points()
    found = rivals.compare(points, forgiving(points), ["early_stopping", "l2"])
    figure = figures.rivals(found, caption=CAPTION)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "mean skill, hypervolume", "mean skill, at equal reward", "talk forgiven, hypervolume",
        "talk forgiven, at equal reward",
    ]  # fmt: skip
    l2 = remedies.NAMES["l2"]
    assert f"mean skill, hypervolume, {l2} (seeds 0-1): +6.00" in alt_text(figure)
    ahead = "← the remedy ahead | averaging ahead →"
    assert all(axes.get_xlabel().startswith(ahead) for axes in figure.axes)
    with pytest.raises(TableError):
        figures.rivals(found.iloc[:0], caption=CAPTION)
