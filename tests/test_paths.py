"""Replay and the path of training: counts, distances and masks by hand; both states of a record."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_mitigate import DOCUMENTS, line, make_setting
from test_remedies_page import make_points as recorded_remedies
from test_remedies_page import point

from alignment_tax import figures, paths, remedies, rivals, settings
from alignment_tax.figures import TableError, alt_text
from alignment_tax.labels import BLEU_COLUMNS
from alignment_tax.merge.average import average
from alignment_tax.mitigate.bema import Bema
from alignment_tax.mitigate.graft import graft, largest_mask
from alignment_tax.mitigate.moving_average import Ema, Sma
from alignment_tax.mitigate.replay import (
    EVALUATED,
    find_overlap,
    tiny_documents,
    tiny_families,
    tiny_reported,
)
from alignment_tax.notebooks import read_notebook
from alignment_tax.skills import SkillScores
from alignment_tax.stats import compare
from alignment_tax.train import pretrain
from alignment_tax.world.corpus import MIXTURE

CAPTION = "this run: tiny, seed 0"


# replay


def test_families_are_those_of_the_documents():
    documents, families = tiny_documents(80, 3), tiny_families(80, 3)
    for document, family in zip(documents, families, strict=True):
        assert document.text.startswith("passage :") == (
            family in ("span", "counting", "race_like")
        ), family
    other = tiny_families(80, 3, evaluated_formats=False)
    assert set(other) <= set(MIXTURE) - set(EVALUATED)
    assert find_overlap((d.text for d in tiny_documents(80, 3, False)), tiny_reported()) is None


def test_what_replay_reads_by_hand():
    setting = make_setting()
    use = paths.replay_use(setting, ["statement", "how_to", "question"], (0.0, 1.0))
    off = use[use["strength"] == 0]
    assert off["family"].tolist() == [paths.REPLY]
    [replies] = off["tokens"]
    # "yes x" and the end of sequence: three tokens a reply
    assert replies == 3 * len(setting.pool) * setting.config.epochs
    on = use[(use["strength"] == 1) & (use["family"] != paths.REPLY)]
    # documents are taken whole: at most one too many, and none too few
    longest = max(len(ids) for ids in paths._token_ids(setting, DOCUMENTS))
    assert replies <= on["tokens"].sum() < replies + longest
    assert (on["different"] == 1).all()
    assert (on["counted"] <= on["tokens"]).all()
    assert set(on["family"]) == {"statement", "how_to", "question"}


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
    row = paths.use_table(use).loc[1.0]
    assert row[["tokens", "counted", "documents", "different"]].tolist() == [150, 37.5, 6, 5]
    assert row[["share", "weight"]].tolist() == [75, 25]


def test_what_counts_is_bold():
    class Words:
        def decode(self, ids):
            return ["where", "?", "the", "barn", "<eos>"][ids[0]]

    setting = dataclasses.replace(make_setting(), tokenizer=Words())
    row = pretrain.Row([0, 1, 2, 3, 4], [0.02, 0.02, 1.0, 1.0, 1.0], list(range(5)), [0] * 5)
    assert paths.marked(setting, row) == "where ? **the barn \\<eos>**"


def test_a_planted_item_is_refused():
    setting = make_setting(reported=["x y z yes"])
    with pytest.raises(ValueError, match="contains the reported text"):
        paths.make_replay(setting, 1.0)


# the path


def test_distances_along_a_walk_by_hand():
    model = line(0.0, 0.0)
    sma, ema = Sma(start=2), Ema(model, 0.5)
    watch = paths.Watch({"SMA": sma, "EMA": ema})
    watch.begin(model)
    for step, place in enumerate(([3.0, 4.0], [6.0, 8.0], [9.0, 12.0]), start=1):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([place]))
            watch.after_step(model, step)
    assert [row["trained"] for row in watch.rows] == pytest.approx([5, 10, 15])
    # 2.5, then half of 2.5 and 10, then half of 6.25 and 15
    assert [row["EMA"] for row in watch.rows] == pytest.approx([2.5, 6.25, 10.625])
    # one checkpoint is no mean; the mean of the last two is (7.5, 10)
    assert [math.isnan(row["SMA"]) for row in watch.rows] == [True, True, False]
    assert watch.rows[-1]["SMA"] == pytest.approx(12.5)
    table = figures.path_lengths_table(pd.DataFrame(watch.rows))
    assert table.loc[3, "trained"] == 100
    assert table.loc[3, "EMA"] == pytest.approx(100 * 10.625 / 15)
    said = alt_text(figures.path_lengths(pd.DataFrame(watch.rows), CAPTION))
    assert "EMA 70.8 %" in said
    with pytest.raises(TableError, match="did not move"):
        figures.path_lengths_table(pd.DataFrame({"step": [1], "trained": [0.0]}))


def test_bema_can_be_watched_while_it_runs():
    setting = make_setting()
    model = setting.theta_0
    watch = paths.Watch({"BEMA": Bema(0.5)})
    watch.begin(model)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
        watch.after_step(model, 1)
    assert watch.rows[0]["BEMA"] > 0


# graft


def test_norms_of_masks_and_averages_by_hand():
    before = {"a.weight": torch.zeros(1, 2), "norm.weight": torch.zeros(2)}
    after = {"a.weight": torch.tensor([[3.0, 4.0]]), "norm.weight": torch.tensor([12.0, 0.0])}
    mask = largest_mask(before, after, 1 / 3)
    share = paths.norm_kept(before, after, mask)
    assert share == pytest.approx(12 / 13)
    changes = [graft(before, after, mask), average(before, after, share)]
    norms = [torch.cat([w.flatten() for w in state.values()]).norm() for state in changes]
    assert float(norms[0]) == pytest.approx(float(norms[1])) == pytest.approx(12)
    table = paths.mask_table(before, after, {"largest": mask}).set_index("kind")
    assert table.loc["all", ["changed", "kept"]].tolist() == [3, 1]
    assert table.loc["all", "density"] == pytest.approx(1 / 3)
    # of the linear layer's change, of length 5, nothing is kept
    assert table["norm"].to_dict() == pytest.approx({"all": 12 / 13, "linear": 0, "norm": 1})
    assert table.loc["norm", ["changed", "kept", "density"]].tolist() == [1, 1, 1]
    assert table.loc["linear", ["changed", "kept", "density"]].tolist() == [2, 0, 0]
    kept = paths.norms_kept(before, after, (1 / 3, 1.0))
    assert kept["largest"].tolist() == pytest.approx([12 / 13, 1])
    assert kept["random"].tolist() == pytest.approx([3**-0.5, 1])
    said = alt_text(figures.graft_masks(kept, table.reset_index(), CAPTION))
    assert (
        "Density 0.333333: the largest changes keep 92 % of the norm, random ones are due 58"
        in said
    )
    assert "the largest changes, measured at density 0.333333: 92 % of the norm" in said
    assert "norms 100.0 %" in said


def test_grafts_and_averages_are_drawn_by_norm():
    rows = pd.DataFrame(
        {"mask": ["average", "largest"], "norm": [0.5, 0.5], "reward": [1.0, 2.0],
         "skill": [-3.0, -1.0]}
    )  # fmt: skip
    said = alt_text(figures.same_norm(rows, CAPTION))
    assert "graft: the largest changes, norm 0.50: reward +2.00, skill -1.0" in said
    with pytest.raises(TableError, match="norm"):
        figures.same_norm(rows.drop(columns="norm"), CAPTION)


def test_grafts_against_averages_of_the_same_norm_by_hand():
    along = pd.DataFrame({"norm": [1.0, 0.0, 0.5], "reward": [4.0, 0, 2], "skill": [-10.0, 0, -2]})
    graft_row = {"mask": "largest", "norm": 0.5, "reward": 1.0, "skill": -1.5, "gold": 0.0}
    too_far = {"mask": "learnt", "norm": 0.5, "reward": 5.0, "skill": -3.0}
    other = {"mask": "average", "norm": 0.5, "reward": 2.0, "skill": -2.0}
    found = paths.at_equal_norm([(graft_row, other), (too_far, other)], along)
    assert found.loc["largest", ["reward_gap", "skill_gap"]].tolist() == [-1, 0.5]
    # half way from (0, 0) to (2, -2) is (1, -1)
    assert found.loc["largest", "skill_at_equal_reward"] == pytest.approx(-0.5)
    assert found.loc["learnt", ["reward_gap", "skill_gap"]].tolist() == [3, -1]
    assert math.isnan(found.loc["learnt", "skill_at_equal_reward"])


# translations


def scores(matches, length, reference=9):
    """Twenty translations alike: so many n-grams of each order are right; the rest is BLEU's."""
    counts = [*matches, *(max(length - n, 0) for n in range(4)), length, reference]
    items = pd.DataFrame([dict(zip(BLEU_COLUMNS, counts, strict=True))] * 20)
    return SkillScores({}, items.assign(slot="bleu", value=0.0))


def test_bleu_and_capped_bleu_of_items_by_hand():
    right, long = scores((9, 8, 7, 6), 9), scores((9, 8, 7, 6), 18)
    found = paths.of_items(long, right)
    # precisions 9/18, 8/17, 7/16, 6/15; all items are alike, so the interval has no width
    bleu = 100 * (9 / 18 * 8 / 17 * 7 / 16 * 6 / 15) ** 0.25
    assert found.difference == pytest.approx(bleu - 100)
    assert found.low == pytest.approx(found.high)
    assert (found.n_seeds, found.verdict) == (1, "does not hold")
    assert paths.of_items(long, right, capped=True).difference == pytest.approx(0)


def comparison(difference, half):
    low, high = difference - half, difference + half
    return compare.Comparison(difference, low, high, 1, 10, compare.verdict(low, high))


def test_what_is_saved_is_said_in_words():
    lost = comparison(-40.0, 2.0)
    assert paths.in_words(lost) == "-40.0 (-42.0 to -38.0)"
    half = paths.saved_in_words(lost, comparison(20.0, 1.0))
    assert half == "saves 50% of it (+20.0 (+19.0 to +21.0) points against the plain run)"
    more = paths.saved_in_words(lost, comparison(54.5, 1.0))
    assert more.startswith("saves all of it, and ends 14.5 points above θ₀")
    assert paths.saved_in_words(lost, comparison(1.0, 2.0)).startswith("is not shown to save any")
    with pytest.raises(ValueError, match="lost nothing"):
        paths.saved_in_words(comparison(1.0, 0.5), lost)


def test_words_and_habit_by_hand():
    spoken = pd.DataFrame(
        {"begins_right": [80.0, 70.0, 0.0], "exact": [80.0, 7.0, 0.0]},
        index=["theta_0", "distil", "mute"],
    )
    found = paths.split_by_cause(spoken)
    assert found.loc[["theta_0", "distil"], "stops"].tolist() == pytest.approx([100, 10])
    # words: 10 x the mean of 1 and 0.1; habit: 0.9 x the mean of 80 and 70
    assert found.loc["theta_0", ["gap", "by_words", "by_habit"]].tolist() == pytest.approx(
        [73, 5.5, 67.5]
    )
    assert found.loc["distil", ["gap", "by_words", "by_habit"]].tolist() == [0, 0, 0]
    assert found.loc["mute", ["stops", "by_words", "by_habit"]].isna().all()


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


def test_nothing_is_said_of_remedies_that_are_not_recorded():
    points = without_remedies()
    assert paths.recorded_methods(points) == []
    assert paths.format_claims(points) == {}
    table = paths.claims(points)
    about = table[~table["claim"].str.contains("stopping") & (table["place"] != "Fig. 12")]
    assert len(about) > 10
    assert set(about["verdict"]) == {"not recorded"}
    stopping = table[table["claim"].str.contains("stopping")]
    assert "not recorded" not in set(stopping["verdict"])
    with pytest.raises(TableError, match=r"'distil' is not recorded.*--methods remedies"):
        figures.path_fronts(points, ["replay"])


def test_one_seed_of_a_remedy_is_not_recorded():
    points = with_paths()
    one = points[(points["method"] != "graft") | (points["seed"] == 0)]
    assert paths.recorded_methods(points) == ["replay", "replay_other", "graft"]
    assert paths.recorded_methods(one) == ["replay", "replay_other"]


def test_recorded_remedies_appear_with_verdicts():
    points = with_paths()
    there = paths.recorded_methods(points)
    own = rivals.own_rows(points, there)
    assert "l2" not in set(own["method"])
    table = remedies.method_table(own, pd.DataFrame()).set_index("method")
    assert set(there) <= set(table.index)
    assert "replay" in remedies.method_markdown(table.reset_index())
    claims = paths.claims(points)
    replay = claims[claims["claim"].str.contains("replay is ahead", regex=False)]
    assert "not recorded" not in set(replay["verdict"])
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


def test_replay_with_against_without_the_formats_by_hand():
    found = paths.format_claims(with_paths())
    skill = found["replay with the evaluated formats has more translation than without"]
    # 3 in seed 0 at both strengths, 4 in seed 1
    assert skill.difference == pytest.approx(3.5)
    assert skill.n_seeds == 2
    back = found["replay without them has more translation than the plain run"]
    assert back.difference == pytest.approx(np.mean([75.5 - 70, 74.5 - 70]))
    reward = found["replay with the evaluated formats has more reward than without"]
    assert reward.difference == pytest.approx(-0.5)


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
    with pytest.raises(TableError, match="theta_0"):
        figures.live_fronts(points, orphan, CAPTION)


def test_the_families_of_replay_are_changes_since_theta_0():
    live = with_paths()
    live = live[(live["seed"] == 0) & ((live["strength"] == 1) | live["strength"].isna())]
    names = ["distil", "replay", "replay_other"]
    table = figures.family_changes_table(live, names)
    assert table["reading"].tolist() == [-10, -2, -5]
    assert "replay: common sense -2.0" in alt_text(figures.family_changes(live, names, CAPTION))
    with pytest.raises(TableError, match="one row of 'sma'; there are 0"):
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


def test_a_preset_without_text_is_refused(preset):
    from alignment_tax.pipeline.study import Study
    from alignment_tax.store import Store

    bare = dataclasses.replace(preset, replay_documents=0)
    with pytest.raises(ValueError, match="take smoke or tiny"):
        paths.make_setting(Study(bare, 0, Store("/nonexistent/paths")))


def test_what_rsf_has_gained_and_paid_by_hand():
    # of a gain of 4 and a loss of 10 round 1 has 2 and 4
    assert paths.rsf_bill(recorded_remedies(), 1) == pytest.approx({"reward": 0.5, "skill": 0.4})


def test_models_above_their_averages_by_hand():
    live = with_paths()
    live = live[(live["seed"] == 1) & (live["strength"].isna() | live["method"].eq("graft"))]
    found = paths.above_averages(live[live["rounds"] != 1])
    # seed 1: theta_0 (0, 80), average (2, 77), distilled (4, 70); graft is (2, 77)
    assert found["graft"] == pytest.approx(0)
    assert found["none"] == pytest.approx(0)
    high = live.assign(reward=live["reward"].where(live["method"] != "graft", 99.0))
    assert math.isnan(paths.above_averages(high)["graft"])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_recorded_sections_bear_few_seeds_and_missing_remedies(seeds):
    two = with_paths()
    one = two[(two["seed"] == 0) & (two["method"] != "replay_other")]
    points = pd.concat([one.assign(seed=s) for s in range(seeds)], ignore_index=True)
    there = paths.recorded_methods(points)
    assert there == ["replay", "graft"]
    assert paths.format_claims(points) == {}
    found = rivals.compare(points, points, ["early_stopping", *there])
    assert set(found["n_seeds"]) == {seeds}
    said = alt_text(figures.path_fronts(rivals.own_rows(points, there), there, live=one))
    assert f"graft 0.2 (seeds 0-{seeds - 1}): reward +2.00, -3.0" in said
    figure = figures.path_fronts(rivals.own_rows(points, there), there)
    assert [x.get_title(loc="left") for x in figure.axes] == [
        f"replay\n(seeds 0-{seeds - 1})",
        f"graft\n(seeds 0-{seeds - 1})",
    ]
    decided = paths.claims(points).query("seeds > 0")
    assert set(decided["seeds"]) == {seeds}
    assert "replay is ahead of averaging the distilled run in reading" in set(decided["claim"])
    assert len(alt_text(figures.rivals(found, caption=CAPTION))) > 0


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
