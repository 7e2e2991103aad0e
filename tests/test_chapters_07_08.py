"""Chapters 07 and 08: what their cells work out, by hand, in both states."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from points import point

from alignment_tax import figures, results, settings
from alignment_tax.labels import BLEU_COLUMNS, FAMILY_NAMES
from alignment_tax.mitigate import inspect
from alignment_tax.notebooks import read_notebook
from alignment_tax.registry import REMEDIES
from alignment_tax.results import items as answers
from alignment_tax.results.items import SkillScores
from alignment_tax.results.points import own_rows
from alignment_tax.spec import DISTIL, DISTILLED_AVERAGE
from alignment_tax.stats import claims, compare, methods, pareto

CAPTION = "this run: tiny, seed 0"
CHAPTER_07 = settings.notebooks_folder() / "07_penalties_and_lora.ipynb"
CHAPTER_08 = settings.notebooks_folder() / "08_replay_and_paths.ipynb"


def averages(seed, middle, method):
    """An average at 0, 0.5 and 1 on the way from theta_0 to (4, 70)."""
    ways = ((0.0, 0, 80), (0.5, 2, middle), (1.0, 4, 70))
    return [point(seed, "rsf", r, skill, method, alpha=a) for a, r, skill in ways]


def main_rows(seed):
    """theta_0 (0, 80), RSF (2, 76) and (4, 70), and its averages."""
    return [
        point(seed, "base", -9, 90, rounds=0),
        point(seed, "sft", 0, 80),
        point(seed, "rsf", 2, 76, rounds=1),
        point(seed, "rsf", 4, 70),
        *averages(seed, 77, "average"),
    ]


def remedy_rows(seed):
    """The plain run (4, 70), its averages over (2, 78), L2 below that curve and LoRA above it."""
    return [
        point(seed, "rsf", 4, 70, "distil"),
        point(seed, "rsf", 2, 75 - seed, "l2", strength=0.1),
        point(seed, "rsf", 1, 76 + seed, "l2", strength=1.0),
        point(seed, "rsf", 2, 80, "lora", strength=1),
        point(seed, "rsf", 3, 81, "lora", strength=4),
        point(seed, "rsf", 2, 74, "l2+average", alpha=1.0, strength=0.1),
        point(seed, "rsf", 1, 75 + seed, "l2+average", alpha=0.5, strength=0.1),
        point(seed, "rsf", 0, 80, "l2+average", alpha=0.0, strength=0.1),
        *averages(seed, 78, "distil+average"),
    ]


def table(remedied=(), seeds=(0, 1, 2)):
    """Points of some seeds, of which `remedied` have rows of remedies."""
    rows = [row for s in seeds for row in main_rows(s)]
    return pd.DataFrame(rows + [row for s in remedied for row in remedy_rows(s)])


# chapter 07


@pytest.mark.parametrize("remedied", [(), (0,), (0, 1, 2, 3, 4)])
def test_chapter_07_follows_what_is_recorded(monkeypatch, remedied):
    points = table(remedied=remedied, seeds=range(5))
    run = SimpleNamespace(points=points, seeds=list(range(5)), costs=pd.DataFrame())
    capped = points.assign(capped_skill=points["skill"], capped_translation=points["translation"])
    found = claims.table(capped)
    monkeypatch.setattr(results, "recorded", lambda preset: run)
    monkeypatch.setattr(claims, "read", lambda preset: found)
    monkeypatch.setattr(figures, "show", lambda figure: shown.append(figure))
    shown, said, records = [], [], {}
    names = {
        "figures": figures, "inspect": inspect, "REMEDIES": REMEDIES, "results": results,
        "own_rows": own_rows, "claims": claims, "methods": methods, "pd": pd, "Markdown": str,
        "display": lambda each: None, "say": said.append,
        "record": lambda name, value: records.update({name: copy.deepcopy(value)}),
    }  # fmt: skip
    for cell in read_notebook(CHAPTER_07).cells:
        if cell.cell_type == "code" and "recorded" in cell.metadata.get("tags", []):
            exec(cell.source, names)
    there = ["l2", "lora"] if remedied else []
    assert records["recorded_remedies"] == there
    judged = records["verdict_averaging_is_ahead"]
    assert bool(judged) == bool(records["verdict_combined"]) == (len(remedied) > 1)
    assert len(records["verdict_by_score_and_measure"]) == 4 * len(judged)
    # strengths, fronts; and with verdicts two forests
    assert len(shown) == (0 if not remedied else 2 if len(remedied) == 1 else 4)
    assert any("Mind their number" in text for text in said) == bool(judged)
    assert any("Not answered yet" in text for text in said) != bool(judged)
    if len(remedied) == 5:
        # above (0, 70): averages 16; L2, then averaging, has less; LoRA covers 3 x 11
        assert judged == {"L2": "holds", "LoRA": "opposite"}


# chapter 08


def with_paths():
    """Replay keeps 78 at 1 and 79 at 4; without the formats 75 and 76; plain 70. Seed 1 the same.

    The plain run gains 4, replay 3 and 2, without the formats 3.5 and 2.5; graft (2, 77).
    """
    rows = [row for s in (0, 1) for row in main_rows(s)]
    for s in (0, 1):
        rows += [
            point(s, "rsf", 4, 70, "distil"),
            *averages(s, 79, "distil+average"),
            point(s, "rsf", 3, 78, "replay", strength=1.0),
            point(s, "rsf", 2, 79, "replay", strength=4.0),
            point(s, "rsf", 3.5, 75 - s, "replay_other", strength=1.0),
            point(s, "rsf", 2.5, 76 - s, "replay_other", strength=4.0),
            point(s, "rsf", 2, 77, "graft", strength=0.2),
        ]
    return pd.DataFrame(rows)


def run(cell, **names):
    """Execute one cell of the notebook; return its names and what it recorded."""
    (own,) = [c for c in json.loads(CHAPTER_08.read_text())["cells"] if c["id"] == cell]
    records = {}
    library = {
        "figures": figures, "inspect": inspect, "results": results, "own_rows": own_rows,
        "claims": claims, "compare": compare, "pareto": pareto, "np": np, "pd": pd,
        "DISTIL": DISTIL, "DISTILLED_AVERAGE": DISTILLED_AVERAGE, "FAMILY_NAMES": FAMILY_NAMES,
        "BLEU_COLUMNS": BLEU_COLUMNS, "answers": answers,
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
    assert run("cell-48", points=with_paths(), there=["replay"])[1]["verdict_formats"] == {}


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
