"""Chapter 07: distances by hand, what is recorded in both states, its figures and its exercises."""

import copy
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from alignment_tax import figures, penalties, remedies, results, rivals, settings, talk
from alignment_tax.figures import TableError, alt_text
from alignment_tax.mitigate import REMEDIES
from alignment_tax.notebooks import read_notebook
from alignment_tax.pipeline.study import Study
from alignment_tax.spec import Spec

NOTEBOOK = settings.notebooks_folder() / "07_penalties_and_lora.ipynb"
FAMILIES = ("commonsense", "reading", "translation", "skill")


def point(seed, algorithm, reward, skill, method="none", rounds=2, alpha=None, strength=None):
    return {
        "study": "tiny", "seed": seed, "algorithm": algorithm, "method": method,
        "strength": strength, "alpha": alpha, "part": None, "rounds": rounds,
        "reward": float(reward), "gold": 0.0, "kl": float(reward), "n_items": 100,
        **dict.fromkeys(FAMILIES, float(skill)),
    }  # fmt: skip


def main_rows(seed):
    """theta_0 (0, 80), RSF (2, 76) and (4, 70), and its averages."""
    rows = [
        point(seed, "base", -9, 90, rounds=0),
        point(seed, "sft", 0, 80, rounds=0),
        point(seed, "rsf", 2, 76, rounds=1),
        point(seed, "rsf", 4, 70),
    ]
    for alpha, reward, skill in ((0.0, 0, 80), (0.5, 2, 77), (1.0, 4, 70)):
        rows.append(point(seed, "rsf", reward, skill, "average", alpha=alpha))
    return rows


def remedy_rows(seed):
    """The plain run (4, 70), its averages over (2, 78), L2 below that curve and LoRA above it."""
    rows = [
        point(seed, "rsf", 4, 70, "distil"),
        point(seed, "rsf", 2, 75 - seed, "l2", strength=0.1),
        point(seed, "rsf", 1, 76 + seed, "l2", strength=1.0),
        point(seed, "rsf", 2, 80, "lora", strength=1),
        point(seed, "rsf", 3, 81, "lora", strength=4),
        point(seed, "rsf", 2, 74, "l2+average", alpha=1.0, strength=0.1),
        point(seed, "rsf", 1, 75 + seed, "l2+average", alpha=0.5, strength=0.1),
        point(seed, "rsf", 0, 80, "l2+average", alpha=0.0, strength=0.1),
    ]
    for alpha, reward, skill in ((0.0, 0, 80), (0.5, 2, 78), (1.0, 4, 70)):
        rows.append(point(seed, "rsf", reward, skill, "distil+average", alpha=alpha))
    return rows


def table(remedied=(), seeds=(0, 1, 2)):
    """Points of some seeds, of which `remedied` have rows of remedies."""
    rows = [row for s in seeds for row in main_rows(s)]
    return pd.DataFrame(rows + [row for s in remedied for row in remedy_rows(s)])


@pytest.fixture
def bare():
    return table()


@pytest.fixture
def full():
    return table(remedied=(0, 1, 2))


# distances


class Two(torch.nn.Module):
    """A matrix and a vector, all of one value."""

    def __init__(self, value):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.full((2, 2), value))
        self.vector = torch.nn.Parameter(torch.full((3,), value))


def test_changes_and_distances_by_hand():
    before, after = Two(2.0), Two(2.0)
    with torch.no_grad():
        after.matrix[0, 0] = 5.0
        after.vector[2] = -2.0
    moved = penalties.changes(before, after)
    assert moved.tolist() == [3, 0, 0, 0, 0, 0, -4]
    relative, steps = penalties.how_far(before, after, unit=0.5)
    assert relative == pytest.approx(5 / np.sqrt(7 * 4))
    assert steps == pytest.approx(7 / 0.5 / 7)
    with pytest.raises(ValueError, match="has the parameter 'bias'"):
        penalties.changes(before, torch.nn.Linear(2, 2))


def test_a_histogram_counts_every_weight_that_moved():
    shares = penalties.histogram(torch.tensor([0.0, -0.01, 0.01, 1e9]), unit=0.01, bins=6)
    # seven edges 1e-3 ... 1e3: what flew off is in the outermost bin, what did not move in none
    assert shares["share"].tolist() == pytest.approx([0, 0, 0, 200 / 3, 0, 100 / 3])
    assert shares["steps"].iloc[3] == pytest.approx(np.sqrt(10))


def test_a_path_is_as_long_as_its_steps():
    model = Two(2.0)
    way = penalties.PathLength(model)
    for step, value in ((1, 5.0), (2, 4.0), (3, 2.0)):  # there and back again
        with torch.no_grad():
            model.matrix[0, 1] = value
        way.after_step(model, step)
    assert way.path.tolist() == [0, 3 + 1 + 2, 0, 0, 0, 0, 0]


def test_unevenness_does_not_depend_on_size():
    moved = torch.tensor([0.0, 3.0, -4.0, 0.0])
    # of two that moved: root of 12.5 over 3.5; the farther one holds 16 of 25
    for size in (1.0, 1e-4):
        ratio, held = penalties.unevenness(size * moved, share=0.5)
        assert ratio == pytest.approx(np.sqrt(12.5) / 3.5)
        assert held == pytest.approx(16 / 25)
    assert penalties.unevenness(torch.ones(200)) == pytest.approx((1, 0.01))


def test_the_spectrum_of_a_change_of_rank_one():
    before, after = Two(2.0), Two(2.0)
    with torch.no_grad():
        after.matrix += torch.tensor([[3.0, 3.0], [4.0, 4.0]])
    values = penalties.spectrum(before, after, "matrix")
    assert values[0] == pytest.approx(5 * np.sqrt(2))
    assert penalties.rank_of(values) == 1
    assert penalties.rank_of(np.array([1.0, 0.5, 1e-4])) == 2
    with pytest.raises(ValueError, match="1 axes"):
        penalties.spectrum(before, after, "vector")


def test_models_above_the_averages_of_the_plain_run():
    averages = pd.DataFrame({"gain": [2.0], "change": [-4.0], "capped_change": [-1.0]})
    end = pd.Series({"gain": 4.0, "change": -10.0, "capped_change": -3.0})
    curve = penalties.plain_curve(averages, end)
    assert curve.tolist() == [[0, 0], [2, -4], [4, -10]]
    live = pd.DataFrame({"gain": [1.0, 3.0, 9.0], "change": [0.0, -9.0, -9.0]})
    gaps = penalties.above(live, curve)
    assert gaps.iloc[:2].tolist() == [2, -2]
    assert np.isnan(gaps.iloc[2])
    capped = penalties.plain_curve(averages, end, "capped_change")
    assert capped.tolist() == [[0, 0], [2, -1], [4, -3]]
    live["capped_change"] = [-1.0, -1.0, 0.0]
    assert penalties.above(live, capped, "capped_change").iloc[:2].tolist() == [-0.5, 1]


# what was lost


def test_shares_of_french_and_talk_that_are_kept():
    changes = pd.DataFrame(
        {
            "method": ["distil", "l1", "kd"],
            "translation": [-40.0, -41.0, -10.0],
            "capped_translation": [-4.0, -1.0, -2.0],
        }
    )
    kept = penalties.kept(changes)
    # French lost: 4, 1, 2; by talking on: 36, 40, 8
    assert kept["french"].tolist() == pytest.approx([0, 3 / 4, 1 / 2])
    assert kept["stopping"].tolist() == pytest.approx([0, -4 / 36, 28 / 36])
    changes.loc[0, "capped_translation"] = -0.5  # too little lost for a share of it
    kept = penalties.kept(changes)
    assert kept["french"].isna().all()
    assert kept.loc["kd", "stopping"] == pytest.approx(1 - 8 / 39.5)


def test_titles_are_those_of_a_reader():
    rows = pd.DataFrame(
        [
            ("none", None, None),
            ("distil", np.nan, None),
            ("l2", 0.06, None),
            ("lora", 16, None),
            ("l2+average", 0.06, 0.5),
            ("distil+average", None, 0.2),
        ],
        columns=["method", "strength", "alpha"],
    )
    assert penalties.titles(rows) == [
        "θ₀",
        "the plain run",
        "L2 (0.06)",
        "LoRA (16)",
        "L2 (0.06), averaged at α = 0.5",
        "averaging the distilled run, α = 0.2",
    ]


# specs


def test_the_live_models_are_in_the_grids():
    specs = penalties.live_specs(6)
    assert specs[:2] == [Spec("sft"), Spec("rsf", 6, "distil")]
    assert [spec.method for spec in specs[2:]] == list(penalties.METHODS)
    assert all(spec.strength in REMEDIES[spec.method].strengths for spec in specs[2:])
    assert penalties.middle("l1") == 0.4  # of 0.04, 0.1, 0.4, 0.6, 1
    averaged = penalties.combined_specs(6, 0.5)
    assert [spec.method for spec in averaged] == ["l2+average", "lora+average"]
    assert [spec.end for spec in averaged] == [specs[3], specs[7]]
    assert {spec.alpha for spec in averaged} == {0.5}
    plain = penalties.plain_specs(6)
    assert {spec.end for spec in plain} == {specs[1]}
    assert [spec.alpha for spec in plain] == [0.2, 0.4, 0.6, 0.8]


# what is recorded, in both states


def test_nothing_recorded_gives_no_verdict(bare):
    assert penalties.present(bare) == []
    assert penalties.missing(bare) == list(penalties.METHODS)
    assert "None of these 7" in penalties.state(bare)
    assert penalties.combined_claims(bare) == {}
    assert set(penalties.paper_claims(bare)["agrees"]) == {"not recorded"}


def test_recorded_remedies_are_judged(full):
    assert penalties.present(full) == ["l2", "lora"]
    said = penalties.state(full)
    assert "2 of 7 remedies are recorded, over 3 seeds each" in said
    assert f"Not recorded yet: {remedies.NAMES['l1']}" in said
    found = rivals.compare(full, full, penalties.present(full))
    found = found[(found["score"] == rivals.SKILL) & (found["measure"] == rivals.HYPERVOLUME)]
    found = found.set_index("method")
    assert list(found.index) == ["l2", "lora"]
    # above (0, 70): averages 2 x 8; L2, thinned to theta_0, its weaker strength and the plain run,
    # 2 x (5, 4, 3)
    assert found.loc["l2", "difference"] == pytest.approx(16 - 8)
    assert found.loc["l2", "verdict"] == "holds"
    # LoRA covers 3 x 11
    assert found.loc["lora", "difference"] == pytest.approx(16 - 33)
    assert found.loc["lora", "verdict"] == "does not hold"


def test_grids_are_printed_with_what_is_live_and_what_was_added(full):
    more = full.assign(strength=full["strength"].where(full["strength"] != 1.0, 10.0))
    l2 = penalties.grids(more).loc[remedies.NAMES["l2"]]
    assert l2["grid"] == "0.01, 0.04, 0.06, 0.08, 0.1"
    assert l2[["live", "recorded besides"]].tolist() == ["0.06", "10"]


def test_one_seed_is_no_verdict():
    points = table(remedied=(1,))
    assert rivals.compare(points, points, penalties.present(points)).empty
    assert "With a single seed there is no verdict" in penalties.state(points)


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ((0,), "over 1 seed each"),
        ((0, 1), "over 2 seeds each"),
        ((0, 1, 2, 3, 4), "over 5 seeds each"),
    ],
)
def test_the_state_counts_seeds(seeds, said):
    text = penalties.state(table(remedied=seeds, seeds=range(5)))
    assert said in text
    assert ("few seeds" in text) == (len(seeds) == 2)


def test_claims_that_differ_in_the_score_alone_are_listed_once(bare):
    claims = penalties.paper_claims(bare)
    short = penalties.claim_list(claims)
    assert short["tests"].sum() == len(claims)
    row = short[short["claim"] == "averaging the distilled run is ahead of L1"]
    assert row[["place", "tests"]].to_numpy().tolist() == [["Fig. 3", 4]]


def test_combinations_are_judged_strength_by_strength(full):
    found = penalties.combined_claims(full)
    (claim,) = found
    assert claim == "L2 (0.1), then averaging, is ahead of averaging"
    # above (0, 70): averages 16; L2, then averaging: 2 x 4, and 1 x (1, 2, 3) more
    assert found[claim].difference == pytest.approx(8 + 2 - 16)
    assert found[claim].verdict == "does not hold"


def test_the_papers_claims_are_those_of_this_chapter(full):
    claims = penalties.paper_claims(full)
    assert set(claims["place"]) == {"Fig. 3", "4.1", "D.4c", "Fig. 8"}
    assert not claims["claim"].str.contains("replay|SMA|graft|HMA|alpha").any()
    by_claim = claims.set_index("claim")["agrees"]
    assert by_claim["averaging the distilled run is ahead of L2 in reading"] == "agrees"
    assert by_claim["averaging the distilled run is ahead of LoRA in reading"] == "disagrees"
    assert by_claim["averaging the distilled run is ahead of L1 in reading"] == ("not recorded")


# figures


def live_rows():
    rows = [point(0, "sft", 0, 80, rounds=0), point(0, "rsf", 4, 70, "distil")]
    rows += [point(0, "rsf", 2, 76, "l2", strength=0.06)]
    rows += [point(0, "rsf", 1, 79, "l2+average", alpha=0.5, strength=0.06)]
    return measured(rows)


def average_rows():
    return measured([point(0, "rsf", 2, 78, "distil+average", alpha=0.5)])


def measured(rows):
    frame = pd.DataFrame(rows)
    change = frame["skill"] - 80
    return frame.assign(gain=frame["reward"], change=change, capped_change=change / 2, distance=1.5)


def test_the_distances_of_three_tokens_by_hand():
    values = figures.penalty_distances_table()
    columns = ["forward", "reverse", "squared"]
    drops, adds = (values[values["panel"] == name] for name in ("drops", "adds"))
    for own in (drops, adds):  # each starts at theta_0
        assert own[columns].iloc[0].abs().max() < 1e-9
    last = drops.iloc[-1]
    assert last["student"] == pytest.approx(1e-6)
    # the first token has 0.999 - 1e-6
    gone = 0.6 * np.log(0.6 / 0.998999) + 0.399 * np.log(0.399 / 1e-6)
    assert last["forward"] == pytest.approx(gone)
    assert last["reverse"] == pytest.approx(0.999 * np.log(0.999 / 0.6), abs=1e-4)
    last = adds.iloc[-1]  # half for the third token, half for the others: 0.3003, 0.1997
    assert last["reverse"] == pytest.approx(0.5 * np.log(0.5 / 0.001) + 0.5 * np.log(0.5 / 0.999))
    assert last["forward"] == pytest.approx(0.999 * np.log(0.999 / 0.5) + 0.001 * np.log(0.002))
    text = alt_text(figures.penalty_distances())
    assert "the policy drops the second token, from 0.399, where all are 0, to 1e-06" in text


def test_figures_of_weights_say_what_they_show():
    shares = {"distil": penalties.histogram(torch.tensor([0.0, 0.1, 1.0, 1.0, 1.0]), 0.5)}
    assert "25.0 % of those that moved" in alt_text(figures.penalty_changes(shares, caption="c"))
    text = alt_text(figures.lora_spectra({"lora": np.array([2.0, 1.0, 0.0])}, caption="c"))
    assert "LoRA: largest 2, 2 of 3 above" in text
    with pytest.raises(TableError, match="no run"):
        figures.penalty_changes({}, caption="c")
    with pytest.raises(TableError, match="did not move"):
        figures.lora_spectra({"lora": np.zeros(3)}, caption="c")


def test_runs_of_one_colour_have_another_stroke():
    shares = penalties.histogram(torch.tensor([1.0]), 1.0)
    figure = figures.penalty_changes({"kd": shares, "kl": shares}, caption="c")
    strokes = [line.get_linestyle() for line in figure.axes[0].get_lines()[:2]]
    assert strokes == ["-", "--"]


def test_live_models_are_drawn_since_theta_0(bare):
    live, averages = live_rows(), average_rows()
    text = alt_text(figures.penalty_effects(live.iloc[:3], caption="c"))
    assert f"{name_of('l2')} 0.06: reward gained 2.00, skill since θ₀ (points) -4.00" in text
    figure = figures.penalty_front(bare, live.iloc[:3], averages, caption="c")
    text = alt_text(figure)
    assert "recorded: averaging RSF's last round: ends at reward 4.00, skill -10.0" in text
    assert [axes.get_ylabel().startswith("mean skill") for axes in figure.axes] == [True, True]
    assert "talk forgiven" in figure.axes[1].get_ylabel()
    lines = [
        line.get_linestyle() for line in figure.axes[0].get_lines() if line.get_marker() == "o"
    ]
    assert lines == ["--"]  # recorded averages of RSF; the live ones are solid
    assert "mean skill, this seed: averaging the distilled run: alpha 0.5 2.00, -2.0" in text
    assert f"mean skill, this seed: {name_of('l2')} 0.06: reward 2.00, skill -4.0" in text
    assert f"(capped BLEU), this seed: {name_of('l2')} 0.06: reward 2.00, skill -2.0" in text
    text = alt_text(figures.penalty_combined(live, averages, 0.5, caption="c"))
    assert "averaging the plain run: alpha 0.5 2.00, -2.0" in text
    assert (
        f"{name_of('l2')} 0.06: reward 2.00, skill -4.0; averaged at alpha 0.5: 1.00, -1.0" in text
    )
    with pytest.raises(TableError, match="plain run"):
        figures.penalty_effects(live.iloc[2:3], caption="c")
    with pytest.raises(TableError, match="plain run"):
        figures.penalty_front(bare, live.iloc[2:3], averages, caption="c")
    with pytest.raises(TableError, match="its average"):
        figures.penalty_combined(live.iloc[:3], averages, 0.5, caption="c")


def test_no_marker_stands_twice_on_the_live_front(bare):
    rows = [point(0, "sft", 0, 80, rounds=0), point(0, "rsf", 4, 70, "distil")]
    rows += [point(0, "rsf", 2, 76, m, strength=penalties.middle(m)) for m in penalties.METHODS]
    figure = figures.penalty_front(bare, measured(rows), average_rows(), caption="c")
    black = [x for x in figure.axes[0].get_lines() if x.get_markeredgecolor() == "#000000"]
    markers = [line.get_marker() for line in black]
    assert len(markers) == len(set(markers)) == 10


def test_recorded_strengths_go_from_weak_to_strong(full):
    doses = figures.penalty_doses_table(full, ["l2", "lora"]).set_index(["method", "place"])
    assert doses["strength"].tolist() == [0.1, 1.0, 4, 1]  # LoRA is weak where its rank is high
    # seeds 0, 1, 2: 75, 74, 73 of 80
    assert doses.loc[("l2", 1), "change"] == pytest.approx(-6)
    assert doses.loc[("l2", 1), "change_low"] < -6 < doses.loc[("l2", 1), "change_high"]
    figure = figures.penalty_doses(full, ["l2", "lora"])
    assert f"{name_of('l2')} 1 (seeds 0-2): reward gained 1.00" in alt_text(figure)
    ticks = [[text.get_text() for text in axes.get_xticklabels()] for axes in figure.axes[::3]]
    assert ticks == [["0.1", "1"], ["4", "1"]]
    assert f"{name_of('distil')} (dashed)" in figure.axes[0].get_legend_handles_labels()[1]
    with pytest.raises(TableError, match="'kd'"):
        figures.penalty_doses(full, ["kd"])


def test_recorded_fronts_have_a_panel_a_remedy(full):
    figure = figures.penalty_fronts(full, ["l2", "lora"])
    # from theta_0 over the strengths; L2 fades into the plain run, LoRA does not
    said = f"{name_of('l2')} (seeds 0-2): 0.00, 0.0; 1.00, -3.0; 2.00, -6.0; 4.00, -10.0"
    assert said in alt_text(figure)
    assert f"{name_of('lora')} (seeds 0-2): 0.00, 0.0; 2.00, 0.0; 3.00, +1.0" in alt_text(figure)
    with pytest.raises(TableError, match="'kd'"):
        figures.penalty_fronts(full, ["kd"])


def test_a_panel_is_drawn_from_the_seeds_that_all_of_it_have(full):
    # LoRA lacks seed 0, in which the averages of the plain run are worse
    some = full[(full["method"] != "lora") | (full["seed"] != 0)].copy()
    odd = (some["seed"] == 0) & (some["method"] == "distil+average") & (some["alpha"] == 0.5)
    some.loc[odd, "skill"] = 60
    figure = figures.penalty_fronts(some, ["l2", "lora"])
    assert [axes.get_title(loc="left").split("\n")[1] for axes in figure.axes] == [
        "(seeds 0-2)",
        "(seeds 1-2)",
    ]
    middles = [lines_of(axes, "distil+average")[1] for axes in figure.axes]
    assert middles == [pytest.approx((2, -8)), pytest.approx((2, -2))]
    weights, rank = (axes.get_ylabel() for axes in figures.penalty_doses(some, ["l2", "lora"])
                     .axes[::3])  # fmt: skip
    assert (weights, rank) == ("weights (seeds 0-2)", "rank (seeds 1-2)")
    with pytest.raises(TableError, match="no seed has rows of all of"):
        figures.penalty_fronts(some[(some["method"] != "distil") | (some["seed"] == 0)], ["lora"])


def test_no_line_leads_to_a_curve_without_a_weak_setting(full):
    high = full.copy()
    high.loc[(high["method"] == "lora") & (high["strength"] == 1), "reward"] = 2.5
    for points, first in ((full, (0, 0)), (high, (2.5, 0))):
        axes = figures.penalty_fronts(points, ["lora"]).axes[0]
        assert lines_of(axes, "lora")[0] == pytest.approx(first)


def lines_of(axes, method):
    """The points of the line that carries a method's marker."""
    marker = figures.METHODS[method].marker
    found = [x for x in axes.get_lines() if x.get_marker() == marker and len(x.get_xdata()) > 1]
    return found[0].get_xydata().tolist()


def name_of(method):
    return figures.METHODS[method].label


# models


@pytest.fixture(scope="module")
def study(preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.RUNS_VARIABLE, str(folder))
        yield Study(preset, 0)


def test_effects_of_an_average_lie_on_the_way_to_its_end(study):
    rounds = study.preset.rsf.rounds
    specs = [Spec("sft"), Spec("rsf", rounds, "l2", strength=0.06)]
    specs.append(Spec("rsf", rounds, "l2+average", 0.5, 0.06))
    found = penalties.effects(study, specs)
    assert found.loc[0, ["gain", "change", "distance"]].tolist() == [0, 0, 0]
    assert found.loc[1, "distance"] > 0
    assert found.loc[2, "distance"] == pytest.approx(found.loc[1, "distance"] / 2, rel=1e-4)
    assert np.isnan(found.loc[0, "seconds"])
    assert found.loc[2, "seconds"] == found.loc[1, "seconds"] > 0
    lost = penalties.lost(study, specs)
    assert lost.iloc[0][[*FAMILIES, "capped_skill"]].abs().max() == 0
    assert lost["skill"].tolist() == pytest.approx(found["change"].tolist())
    assert lost["capped_skill"].tolist() == found["capped_change"].tolist()
    level = penalties.scored(study, specs[:1]).iloc[0]
    assert level["skill"] == pytest.approx(found.loc[0, "skill"])


def test_the_items_say_how_sure_a_difference_is(study):
    found = penalties.against_plain(study, ["l2"], draws=20).loc["l2"]
    assert found["low"] <= found["difference"] <= found["high"]
    rounds = study.preset.rsf.rounds
    plain = study.point(Spec("rsf", rounds, "distil"))["skill"]
    own = study.point(Spec("rsf", rounds, "l2", strength=penalties.middle("l2")))["skill"]
    assert found["difference"] == pytest.approx(own - plain)


def test_lora_counts_by_hand(study):
    sizes = penalties.lora_sizes(study.policy("sft")[0], 0)
    assert sizes["by_hand"].tolist() == sizes["counted"].tolist()
    # 9 layers: four matrices of 128 x 128 and three of 128 x 256
    assert sizes.loc[("mlp", 4), "by_hand"] == 9 * 3 * 4 * 384
    assert sizes.loc[("all", 1), "of_those"] == pytest.approx(
        (4 * 256 + 3 * 384) / (4 * 128**2 + 3 * 128 * 256)
    )


# the notebook


def cells(tag=None):
    found = [c for c in read_notebook(NOTEBOOK).cells if c.cell_type == "code"]
    return [c.source for c in found if tag is None or tag in c.metadata.get("tags", [])]


@pytest.mark.parametrize(
    ("remedied", "there", "answer"),
    [
        ((), [], "Not answered yet"),
        ((0,), ["l2", "lora"], "Not answered yet"),
        ((0, 1), ["l2", "lora"], "Yes for LoRA"),
        ((0, 1, 2), ["l2", "lora"], "Yes for LoRA"),
        ((0, 1, 2, 3, 4), ["l2", "lora"], "Yes for LoRA"),
    ],
)
def test_the_notebook_follows_what_is_recorded(monkeypatch, remedied, there, answer):
    points = table(remedied=remedied, seeds=range(5))
    run = SimpleNamespace(points=points, seeds=list(range(5)), costs=pd.DataFrame())
    monkeypatch.setattr(results, "recorded", lambda preset: run)
    monkeypatch.setattr(results, "recorded_items", lambda preset: None)
    monkeypatch.setattr(talk, "with_capped", lambda rows, items: rows)
    monkeypatch.setattr(figures, "show", lambda figure: shown.append(figure))
    shown, said, records = [], [], {}
    names = {
        "figures": figures, "penalties": penalties, "remedies": remedies, "results": results,
        "rivals": rivals, "talk": talk, "pd": pd, "display": lambda each: None, "Markdown": str,
        "say": said.append,
        "record": lambda name, value: records.update({name: copy.deepcopy(value)}),
    }  # fmt: skip
    for source in cells("recorded"):
        exec(source, names)
    assert records["recorded_remedies"] == there
    assert records["answer"].startswith(answer)
    judged = records["verdict_averaging_is_ahead"]
    assert bool(judged) == bool(records["verdict_combined"]) == (len(remedied) > 1)
    # strengths, fronts; and with verdicts two forests
    assert len(shown) == (0 if not remedied else 2 if len(remedied) == 1 else 4)
    assert any("ot recorded" in text for text in said)
    assert any("Mind their number" in text for text in said) == bool(judged)
    assert sum(records["agreement_with_paper"].values()) == len(penalties.paper_claims(points))


def test_the_solutions_are_right_and_the_stubs_are_not():
    notebook = read_notebook(NOTEBOOK)
    solutions = [
        code
        for cell in notebook.cells
        if cell.cell_type == "markdown" and "<details>" in cell.source
        for code in re.findall(r"```python\n(.*?)```", cell.source, re.DOTALL)
    ]
    sources = cells()
    checks = [(sources[i - 1], each) for i, each in enumerate(sources) if "not solved yet" in each]
    assert len(solutions) == len(checks) == 3
    for solution, (stub, check) in zip(solutions, checks, strict=True):
        for code, start in ((stub, "not solved yet"), (solution, "right")):
            names = {"np": np, "torch": torch}
            exec(f"{code}\n{check}", names)
            assert names["message"].startswith(start), names["message"]


def told(marker, answer):
    """What the check that holds `marker` says of an answer."""
    check = next(each for each in cells() if marker in each)
    names = {"np": np, "torch": torch}
    exec(f"{answer}\n{check}", names)
    return names["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("0.1 * sum(((c / unit) ** 2).sum() for c in changes)", "a sum"),
        ("0.1 * sum(((c / unit) ** 2).mean() for c in changes) / len(changes)", "the mean of"),
        ("0.1 * torch.cat([c.flatten() for c in changes]).square().mean()", "the unit is missing"),
        ("(torch.cat([c.flatten() for c in changes]) / unit).square().mean()", "the factor 0.1"),
        ("0.1 * torch.cat([c.flatten() for c in changes]).square().mean() / unit", "divided by"),
        (
            "unit * (torch.cat([c.flatten() for c in changes]) / unit).square().mean()",
            "the unit st",
        ),
        ("unit * sum(((c / unit) ** 2).sum() for c in changes)", "0.75 is not it"),
        ("0.1 * (torch.cat(changes) / unit).square().mean()", "the tensors have different"),
        ("0.1 * (torch.cat([c.flatten() for c in changes]) / unit) ** 2", "one number is asked"),
        ("[1.0, 2.0]", "one number is asked for, and there are 2"),
        ("0.5", "right for these changes, not for others"),
    ],
)
def test_wrong_answers_to_the_first_exercise_are_told_apart(body, message):
    answer = f"def l2_by_hand(changes, unit):\n    return {body}"
    said = told("l2_by_hand returns None", answer)
    assert said.startswith(message), said


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("np.log(2), np.inf, 0.5", "the two directions are swapped"),
        ("-np.inf, np.log(2), 0.5", "forward"),
        ("np.inf, 1.0, 0.5", "reverse"),
        ("np.inf, np.log(2), 0.5**0.5", "squared: no root"),
    ],
)
def test_wrong_answers_to_the_third_exercise_are_told_apart(numbers, message):
    said = told("set forward, reverse", f"forward, reverse, squared = {numbers}")
    assert said.startswith(message), said
