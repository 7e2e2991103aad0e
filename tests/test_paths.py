"""Chapter 08: its figures, what its cells work out, by hand, and its exercises."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_remedies_page import make_points as recorded_remedies
from test_remedies_page import point

from alignment_tax import figures, remedies, results, rivals, settings
from alignment_tax.notebooks import read_notebook
from alignment_tax.figures import FigureError, alt_text
from alignment_tax.labels import BLEU_COLUMNS, FAMILY_NAMES
from alignment_tax.mitigate import inspect
from alignment_tax.mitigate.graft import largest_mask
from alignment_tax.results.items import SkillScores, capped_bleu, corpus_bleu
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats import compare, pareto

CAPTION = "this run: tiny, seed 0"


# figures


def test_ways_are_drawn_in_shares_of_the_runs_end():
    rows = pd.DataFrame({"step": [1, 2], "trained": [5.0, 15.0], "EMA": [2.5, 10.625]})
    table = figures.path_lengths_table(rows)
    assert table.loc[2, ["trained", "EMA"]].tolist() == pytest.approx([100, 100 * 10.625 / 15])
    assert "EMA 70.8 %" in alt_text(figures.path_lengths(rows, CAPTION))
    with pytest.raises(FigureError, match="did not move"):
        figures.path_lengths_table(pd.DataFrame({"step": [1], "trained": [0.0]}))


def test_masks_are_drawn_by_the_norm_that_they_keep():
    before = {"a.weight": torch.zeros(1, 2), "norm.weight": torch.zeros(2)}
    after = {"a.weight": torch.tensor([[3.0, 4.0]]), "norm.weight": torch.tensor([12.0, 0.0])}
    masks = {"largest": largest_mask(before, after, 1 / 3)}
    kept = pd.DataFrame({"density": [1 / 3, 1.0], "largest": [12 / 13, 1], "random": [3**-0.5, 1]})
    figure = figures.graft_masks(kept, inspect.mask_table(before, after, masks), CAPTION)
    said = alt_text(figure)
    assert "measured at density 0.333333: 92 % of the norm" in said
    assert "norms 100.0 %" in said


def test_grafts_and_averages_are_drawn_by_norm():
    rows = pd.DataFrame(
        {"mask": ["average", "largest"], "norm": [0.5, 0.5], "reward": [1.0, 2.0],
         "skill": [-3.0, -1.0]}
    )  # fmt: skip
    said = alt_text(figures.same_norm(rows, CAPTION))
    assert "graft: the largest changes, norm 0.50: reward +2.00, skill -1.0" in said
    with pytest.raises(FigureError, match="norm"):
        figures.same_norm(rows.drop(columns="norm"), CAPTION)


# recorded and live


def without_remedies():
    points = recorded_remedies()
    return points[points["method"].isin(["none", "average"])]


def with_paths():
    """Replay keeps 78 at 1 and 79 at 4; without the formats 75 and 76; plain 70. Seed 1 the same.

    The plain run gains 4, replay 3 and 2, without the formats 3.5 and 2.5; graft (2, 77).
    """
    rows = []
    for s in (0, 1):
        rows += [
            point(s, "rsf", 3, 78, "replay", strength=1.0),
            point(s, "rsf", 2, 79, "replay", strength=4.0),
            point(s, "rsf", 3.5, 75 - s, "replay_other", strength=1.0),
            point(s, "rsf", 2.5, 76 - s, "replay_other", strength=4.0),
            point(s, "rsf", 2, 77, "graft", strength=0.2),
        ]
    return pd.concat([recorded_remedies(), pd.DataFrame(rows)], ignore_index=True)


def test_what_is_not_recorded_is_not_drawn():
    with pytest.raises(FigureError, match=r"'distil' is not recorded.*--methods remedies"):
        figures.path_fronts(without_remedies(), ["replay"])


def test_recorded_strengths_are_drawn_with_their_seeds():
    points = with_paths()
    there = ["replay", "replay_other", "graft"]
    own = rivals.own_rows(points, there)
    assert "l2" not in set(own["method"])
    drawn = figures.path_fronts_table(own, there).set_index(["method", "strength"]).sort_index()
    assert drawn.loc[("replay", 4.0), "reward"] == 2
    assert drawn.loc[("replay", 4.0), "skill"] == -1
    live = points[points["seed"] == 0]
    said = alt_text(figures.path_fronts(own, there, "translation", live=live))
    assert "replay 1 (seeds 0-1): reward +3.00, -2.0" in said
    one_seed = own[(own["method"] != "graft") | (own["seed"] == 1)]
    figure = figures.path_fronts(one_seed, ["replay", "graft"], live=live)
    titles = [axes.get_title(loc="left").split("\n")[1] for axes in figure.axes]
    assert titles == ["(seeds 0-1)", "(seed 1)"]
    beside = figures.path_fronts_table(one_seed, ["replay", "graft"])
    beside = beside[(beside["method"] == "distil+average") & (beside["alpha"] == 0.5)]
    # averages at 0.5: -1 in seed 0, -3 in seed 1
    assert beside.set_index("panel")["skill"].to_dict() == {"replay": -2, "graft": -3}


def test_live_points_lie_over_the_recorded_front():
    points = without_remedies()
    live = with_paths()
    wanted = ["none", "distil", "graft", "distil+average"]
    live = live[(live["seed"] == 1) & live["method"].isin(wanted) & (live["rounds"] != 1)]
    live = live[live["alpha"].isna() | (live["alpha"] == 0.5)]
    table = figures.live_fronts_table(points, live)
    mine = table[table["live"]].set_index("method")
    # rewards of seed 1 are 5 higher throughout: the gain is not
    assert mine.loc["graft", ["reward", "skill"]].tolist() == [2, -3]
    assert mine.loc["none", ["reward", "skill"]].tolist() == [4, -10]
    recorded = table[~table["live"]]
    assert (recorded["seeds"] == 2).all()
    figure = figures.live_fronts(points, live, CAPTION)
    assert "graft: reward +2.00" in alt_text(figure)
    # the averages of the live seed: theta_0, its one average, the distilled run
    lines = {x.get_label(): x for x in figure.axes[3].get_lines()}
    averages = lines["averaging the distilled run, this seed"]
    assert averages.get_linestyle() == "-"
    assert averages.get_xydata().tolist() == [[0, 0], [2, -3], [4, -10]]
    assert lines["averaging RSF (recorded)"].get_linestyle() == "--"
    assert {x.get_text() for x in figure.axes[3].texts} == {"RSF", "plain run", "graft"}
    bare = figures.live_fronts(points, live[live["method"] != "distil+average"], CAPTION)
    assert (
        "averaging the distilled run, this seed" not in bare.axes[0].get_legend_handles_labels()[1]
    )
    orphan = live[live["algorithm"] != "sft"]
    with pytest.raises(FigureError, match="theta_0"):
        figures.live_fronts(points, orphan, CAPTION)


def test_the_families_of_replay_are_changes_since_theta_0():
    live = with_paths()
    live = live[(live["seed"] == 0) & ((live["strength"] == 1) | live["strength"].isna())]
    names = ["distil", "replay", "replay_other"]
    table = figures.family_changes_table(live, names)
    assert table["reading"].tolist() == [-10, -2, -5]
    assert "replay: common sense -2.0" in alt_text(figures.family_changes(live, names, CAPTION))
    with pytest.raises(FigureError, match="one row of 'sma'; there are 0"):
        figures.family_changes_table(live, ["sma"])


def test_the_mix_is_in_shares():
    use = pd.DataFrame(
        {"strength": [1.0, 1.0, 1.0], "family": ["reply", "span", "statement"],
         "tokens": [50.0, 40.0, 10.0]}
    )  # fmt: skip
    table = figures.replay_mix_table(use)
    assert table.loc[1.0].to_dict() == {"reply": 50, "statement": 10, "span": 40}
    said = alt_text(figures.replay_mix({"all formats": use}, CAPTION))
    assert "proportion 1: replies 50.0 %, statements 10.0 %, passages, span* 40.0 %" in said


def test_strengths_that_touch_share_a_label():
    points = with_paths()
    points.loc[points["method"] == "replay_other", ["reward", "skill"]] = (3.0, 75.0)
    figure = figures.path_fronts(points, ["replay", "replay_other"])
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [["1", "4"], ["1 to 4"]]
    assert "the weakest and the strongest strength" in alt_text(figure)


def test_names_at_points_hide_neither_markers_nor_each_other():
    live = with_paths()
    live = live[(live["seed"] == 1) & live["method"].isin(["none", "distil", "graft"])]
    live = live[live["rounds"] != 1]
    live.loc[live["method"] == "distil", ["reward", "skill"]] = (9.0, 70.4)  # beside RSF's end
    figure = figures.live_fronts(without_remedies(), live, CAPTION)
    figure.draw_without_rendering()
    axes = figure.axes[3]
    boxes = [text.get_window_extent() for text in axes.texts]
    spots = axes.transData.transform([(4, -10), (4, -9.6), (2, -3)])
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert not any(box.contains(x, y) for x, y in spots)


# cells


def run(cell, **names):
    """Execute one cell of the notebook; return its names and what it recorded."""
    path = settings.notebooks_folder() / "08_replay_and_paths.ipynb"
    (own,) = [c for c in json.loads(path.read_text())["cells"] if c["id"] == cell]
    records = {}
    library = {
        "figures": figures, "inspect": inspect, "remedies": remedies, "results": results,
        "rivals": rivals, "compare": compare, "pareto": pareto, "np": np, "pd": pd,
        "DISTIL": DISTIL, "DISTILLED_AVERAGE": DISTILLED_AVERAGE, "FAMILY_NAMES": FAMILY_NAMES,
        "BLEU_COLUMNS": BLEU_COLUMNS, "capped_bleu": capped_bleu, "corpus_bleu": corpus_bleu,
        "SAID": inspect.SAID, "say": lambda text: None, "display": lambda each: None,
        "record": lambda name, value: records.update({name: value}), "caption": CAPTION,
    }  # fmt: skip
    names = library | names
    exec("".join(own["source"]), names)
    return names, records


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(figures, "show", lambda figure: None)


def test_the_table_of_what_is_replayed_by_hand():
    use = pd.DataFrame(
        {
            "strength": [1.0, 1.0, 1.0],
            "family": ["reply", "span", "statement"],
            "tokens": [50.0, 120.0, 30.0],
            "counted": [50.0, 7.5, 30.0],
            "documents": [0, 4, 2],
            "different": [0, 3, 2],
        }
    )
    names, _ = run(
        "cell-10",
        inspect=SimpleNamespace(REPLY="reply", replay_use=lambda *arguments: use),
        REMEDIES={"replay": SimpleNamespace(strengths=(1.0,))},
        tiny_families=lambda *arguments: [],
        s=SimpleNamespace(preset=SimpleNamespace(replay_documents=9)),
        setting=None,
        seed=0,
    )
    row = names["totals"](use).loc[1.0]
    assert row[["tokens", "counted", "documents", "different"]].tolist() == [150, 37.5, 6, 5]
    assert row[["share", "weight"]].tolist() == [75, 25]


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_recorded_and_what_rsf_has_paid_by_hand(monkeypatch, whole):
    points = with_paths()
    if not whole:
        points = points[(points["method"] != "graft") | (points["seed"] == 0)]
    # rounds 1 and 2 stand for the second and the last
    points = points.assign(rounds=points["rounds"] + (points["algorithm"] == "rsf"))
    monkeypatch.setattr(results, "recorded", lambda preset: SimpleNamespace(points=points))
    monkeypatch.setattr(figures, "rsf_rounds", lambda *arguments, **options: None)
    names, records = run("cell-16")
    there = ["replay", "replay_other", "graft"]
    assert names["there"] == (there if whole else there[:2])
    # of a gain of 4 and a loss of 10 the first round has 2 and 4
    assert records["rsf_bill_at_round_2"] == pytest.approx({"reward": 0.5, "skill": 0.4})


def test_replay_with_against_without_the_formats_by_hand():
    names, records = run(
        "cell-48", points=with_paths(), there=["replay", "replay_other"], live=with_paths()
    )
    found = names["on_formats"]
    skill = found["replay with the evaluated formats has more translation than without"]
    # 3 in seed 0 at both strengths, 4 in seed 1
    assert skill.difference == pytest.approx(3.5)
    assert skill.n_seeds == 2
    back = found["replay without them has more translation than the plain run"]
    assert back.difference == pytest.approx(np.mean([75.5 - 70, 74.5 - 70]))
    reward = found["replay with the evaluated formats has more reward than without"]
    assert reward.difference == pytest.approx(-0.5)
    assert records["verdict_formats"].keys() == found.keys()
    assert run("cell-48", points=without_remedies(), there=[])[1]["verdict_formats"] == {}


def test_words_and_habit_by_hand():
    spoken = pd.DataFrame(
        {"begins_right": [80.0, 70.0, 0.0], "exact": [80.0, 7.0, 0.0]},
        index=["theta_0", "distil", "mute"],
    )
    found = run("cell-36", spoken=spoken, names={})[0]["parts"]
    assert found.loc[["theta_0", "distil"], "stops"].tolist() == pytest.approx([100, 10])
    # words: 10 x the mean of 1 and 0.1; habit: 0.9 x the mean of 80 and 70
    assert found.loc["theta_0", ["gap", "by_words", "by_habit"]].tolist() == pytest.approx(
        [73, 5.5, 67.5]
    )
    assert found.loc["distil", ["gap", "by_words", "by_habit"]].tolist() == [0, 0, 0]
    assert found.loc["mute", ["stops", "by_words", "by_habit"]].isna().all()


def scores(matches, length, reference=9):
    """Twenty translations alike: so many n-grams of each order are right; the rest is BLEU's."""
    counts = [*matches, *(max(length - n, 0) for n in range(4)), length, reference]
    items = pd.DataFrame([dict(zip(BLEU_COLUMNS, counts, strict=True))] * 20)
    return SkillScores({}, items.assign(slot="bleu", value=0.0))


def test_bleu_and_capped_bleu_of_items_by_hand():
    right, long = scores((9, 8, 7, 6), 9), scores((9, 8, 7, 6), 18)
    own = {"theta_0": right, "distil": long, "replay": right, "replay_other": long}
    both = run("cell-39", scores=own)[0]["both"]
    since, capped, replay, other = both.values()
    # precisions 9/18, 8/17, 7/16, 6/15; all items are alike, so the interval has no width
    bleu = 100 * (9 / 18 * 8 / 17 * 7 / 16 * 6 / 15) ** 0.25
    assert since.difference == pytest.approx(bleu - 100)
    assert since.low == pytest.approx(since.high)
    assert capped.difference == pytest.approx(0)
    assert replay.difference == pytest.approx(100 - bleu)
    assert other.difference == 0


def test_grafts_against_averages_of_the_same_norm_by_hand():
    rows = [("average", 1.0, 4.0, -10.0), ("average", 0.0, 0.0, 0.0), ("average", 0.5, 2.0, -2.0)]
    rows += [("largest", 0.5, 1.0, -1.5), ("learnt", 0.5, 5.0, -3.0)]
    tries = pd.DataFrame(rows, columns=["mask", "norm", "reward", "skill"]).assign(n=9)
    found = run("cell-44", tries=tries)[0]["matched"]
    graft, learnt = found.loc[inspect.SAID["graft"]], found.loc[inspect.SAID["graft_learnt"]]
    assert graft[["reward_gap", "skill_gap"]].tolist() == [-1, 0.5]
    # half way from (0, 0) to (2, -2) is (1, -1)
    assert graft["skill_at_equal_reward"] == pytest.approx(-0.5)
    assert learnt[["reward_gap", "skill_gap"]].tolist() == [3, -1]
    assert np.isnan(learnt["skill_at_equal_reward"])


# exercises


def check_of(marker):
    notebook = read_notebook(settings.notebooks_folder() / "08_replay_and_paths.ipynb")
    (check,) = [cell.source for cell in notebook.cells if marker in cell.source]
    return check


@pytest.mark.parametrize(
    ("largest", "at_random", "message"),
    [
        (0.92, 0.58, "right"),
        (12 / 13, 3**-0.5, "right"),
        (0.333, 0.58, "first: 1/3 is the density"),
        (0.85, 0.58, "first: that is the share of the SQUARED"),
        (0.632, 0.58, "first: 19 is the sum"),
        (0.95, 0.58, "first: norm of"),
        (0.92, 0.33, "second: the mean of the SQUARES"),
        (0.92, 0.5, "second: mean of"),
        (None, 0.58, "not solved yet"),
    ],
)
def test_rounded_answers_to_the_third_exercise_are_answered_rightly(largest, at_random, message):
    names = {"np": np, "alpha_of_the_largest": largest, "alpha_at_random": at_random}
    exec(check_of("not solved yet: set both numbers"), names)
    assert names["message"].startswith(message), names["message"]
