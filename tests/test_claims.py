"""The table of claims: selectors, measures by hand, and every recorded number of the old tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import refuses
from points import T_1, made_up_points, point, versus

from alignment_tax.registry import REMEDIES
from alignment_tax.results.points import NotRecorded, curve_rows, present, shared
from alignment_tax.results.recorded import recorded
from alignment_tax.results.select import Selection, parse
from alignment_tax.spec import patterns, ratios_text
from alignment_tax.stats import claims, methods
from alignment_tax.stats.claim_list import REASONS, SESOI
from alignment_tax.stats.claims import CLAIMS, Claim, evaluate

#: What is found of the made-up points, but of PPO's own seeds, of which there may be more.
GOLDEN = Path(__file__).parent / "golden" / "claims.csv"
SELECTORS = yaml.safe_load(GOLDEN.with_name("selectors.yaml").read_text("utf-8"))


@pytest.fixture(scope="module")
def points():
    return made_up_points()


@pytest.fixture(scope="module")
def rows(points):
    return Selection(points)


@pytest.fixture(scope="module")
def found():
    return claims.read("tiny")


# --- selectors ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "skills"), SELECTORS["models"].items())
def test_a_selector_means_one_model_a_seed(rows, text, skills):
    assert rows.model(text)["skill"].tolist() == pytest.approx(skills)


@pytest.mark.parametrize(("text", "curve"), SELECTORS["curves"].items())
def test_a_curve_runs_from_theta_0_on(rows, text, curve):
    found = rows.curve(text)[1][["reward", "skill"]].to_numpy(dtype=float)
    np.testing.assert_allclose(found, curve)


def test_curves_at_the_same_mean_ratios_have_the_same_ends(rows):
    assert rows.ratios("rsf/hma/K=3", "rsf/average") == (0.2, 0.4)
    plain = rows.curve("rsf/average", (0.2, 0.4))[1]
    assert plain["skill"].tolist() == pytest.approx([80, 79.2, 78.4, 68])
    assert rows.curve("rsf/part=input", (0.5,), from_start=False)[0]["skill"].tolist() == [71, 70]


def test_what_is_no_selector_or_not_recorded_is_refused(points, rows):
    for text in ("", "rsf/", "rsf/last/mean", "rsf/l2@", "rsf/part=", "a b"):
        refuses(ValueError, "selects nothing", parse, text)
    one = points[points["seed"] == 0]
    headless = points[(points["seed"] == 0) | (points["algorithm"] != "sft")]
    for said, call, *given in (
        ("each of its parts is one", curve_rows, points, "part", 0),
        ("hold no dpo/last", rows.model, "dpo/last"),
        ("lora_mlp", rows.model, "rsf/lora_mlp/strongest"),
        ("several models a seed", rows.model, "rsf/l2"),
        ("no mean ratio", rows.ratios, "rsf/part=input", "rsf/hma/K=3"),
        ("Seed 1 has no row of theta_0", Selection, headless),
        ("two are needed", versus, one, "rsf/last", "sft"),
        ("no nothing", versus, rows, "rsf/last", "sft", "nothing"),
    ):
        refuses(ValueError, said, call, *given)


# by hand, hypervolumes: averaging the distilled run 2 x 11 + 2 x 2 and 2 x 9 + 2 x 2, L2 thinned to
# theta_0, (2, 75), (4, 70); the bend: 80 - 4 alpha, RSF's end at 70 - 2 s: (6 + 2 s) alpha above
def test_claims_stay_whatever_order_other_seeds_and_other_methods_there_are():
    golden = pd.read_csv(GOLDEN, index_col="id", dtype={"seeds": str})
    more = [point(7, "sft", 0, 10), point(7, "base", 0, 10), point(7, "ppo", 9, 10)]
    more += [point(s, "dpo", 9, 10) for s in (0, 1, 7)]
    for s in (0, 1):
        more.append(point(s, "rsf", 9, 99, "ema", strength=0.5))
        more.append(point(s, "rsf", 9, 99, "l2_in_rounds", strength=0.5, rounds=99))
        more.append(point(s, "rsf", 9, 99, "hma", alpha=0.3, part="0.4|0.3|0.2|0.3"))
    both = pd.concat([made_up_points(), pd.DataFrame(more)], ignore_index=True)
    both = both.sample(frac=1, random_state=0, ignore_index=True)
    found = claims.table(both, [CLAIMS[name] for name in golden.index]).set_index("id")
    pd.testing.assert_frame_equal(found[golden.columns], golden, check_dtype=False, rtol=1e-5)


# --- measures, by hand ----------------------------------------------------------------------------


def test_curves_are_compared_at_equal_reward(points):
    front = versus(points, "rsf/average", "ppo/average", measure="equal_reward")
    # 80 - r against 80 - 2 r over the rewards 0 to 2 that both reach: r is 1 on average
    assert (front.difference, front.verdict) == (pytest.approx(1), "holds")
    heavier = versus(points, "ppo/average", "ppo/kl_coef", measure="equal_reward")
    # 80 - 2 r against 80 - r up to 1, then 79 - 3 (r - 1)
    assert heavier.difference == pytest.approx(-0.5, abs=0.01)
    far = points.assign(reward=points["reward"].where(points["algorithm"] != "ppo", -50.0))
    far = far[(far["algorithm"] != "ppo") | (far["method"] != "none")]
    ends = ("rsf/average", "ppo/average")
    refuses(NotRecorded, "share no range", versus, far, *ends, measure="equal_reward")


def test_searches_are_compared_at_the_same_mean_ratios(points):
    # a mean of 0.3 lies half-way between 0.2 and 0.4 of averaging: skill 78.8
    own = points.copy()
    own.loc[own["method"].eq("hma") & own["alpha"].eq(0.2), "alpha"] = 0.24
    moved = claims.same_alpha(Selection(own), "rsf/hma/K=3", "rsf/average", "skill")
    assert moved.loc[0, 0.2] == pytest.approx(80.2 - 79.04)


def test_ratios_set_by_hand_are_compared_at_their_own_reward(points):
    more = []
    for s in (0, 1):
        for i, ratios in enumerate(patterns(of_start=True)[:3]):
            # above the line 80 - r by 1, 2, 3 and twice the seed
            text, reward = ratios_text(ratios), 1.0 + 0.5 * i
            skill = 80 - reward + 1 + i + 2 * s
            more.append(point(s, "rsf", reward, skill, "pattern", alpha=0.8, part=text))
    both = pd.concat([points, pd.DataFrame(more)], ignore_index=True)
    claim = Claim("", "", "", "rsf/pattern=start-1", "rsf/average", "reading", "off_curve")
    found = evaluate(both, claim)
    assert (found.difference, found.high) == (pytest.approx(3), pytest.approx(3 + T_1, abs=1e-3))
    # one of the three bases is missing in a seed
    refuses(NotRecorded, None, evaluate, both.iloc[:-1], claim)


def test_algorithms_side_by_side_share_their_seeds(points):
    more = [point(7, "sft", 0, 80), point(7, "ppo", 1, 50)]
    both = pd.concat([points, pd.DataFrame(more)], ignore_index=True)
    table = claims.table(both, [CLAIMS["tax.ppo.skill"], CLAIMS["tax.ppo.skill.shared"]])
    assert table[["seeds", "n_seeds"]].values.tolist() == [["0 1 7", 3], ["0 1", 2]]
    assert table["difference"].tolist()[-1] == -4
    assert (present(both), set(shared(both)["seed"])) == (["rsf", "ppo"], {0, 1})
    apart = both.query("seed == 1 and algorithm == 'rsf' or seed == 7 and algorithm == 'ppo'")
    assert set(shared(apart)["seed"]) == {1, 7}  # no seed has all: nothing is left out


def test_the_table_of_methods_by_hand(points):
    costs = pd.DataFrame({"method": ["l2"] * 2, "seconds": [60.0, 120.0],
                          "peak_memory_mb": [500.0, 700.0]})  # fmt: skip
    table = methods.method_table(points, costs).set_index("method")
    assert list(table.index)[:5] == ["average", "distil+average", "early_stopping", "l2", "lora"]
    assert "part" not in table.index
    # 76 lies two thirds on the way from 78 down to 75; 72 three fifths from 75 to 70
    l2 = {
        "seeds": 2, "points": 4, "hypervolume": 1 * 10 + 1 * 7 + 2 * 2, "ahead": 6, "least": 25,
        "kept_95": 100 * (1 + 2 / 3) / 4, "kept_90": 100 * (2 + 2 * 3 / 5) / 4, "reached": 100,
        "minutes": 1.5, "memory_mb": 600,
    }  # fmt: skip
    assert table.loc["l2", list(l2)].tolist() == pytest.approx([*l2.values()])
    assert np.isnan(table.loc["lora", "minutes"])
    assert table.loc["distil+average", "ahead_verdict"] == ""
    told = methods.method_table(points[points["seed"] == 0], costs).set_index("method").loc["l2"]
    assert (told["ahead_verdict"], np.isnan(told["kept_90_low"])) == ("not recorded", True)
    later = pd.DataFrame([point(7, "sft", 0, 90), point(7, "ppo", 1, 80)])  # a seed without RSF
    beside = methods.method_table(pd.concat([points, later], ignore_index=True), costs)
    pd.testing.assert_frame_equal(beside, table.reset_index())
    assert methods.method_markdown(table.reset_index()).count("\n") == len(table) + 1


# --- the registry, and the recorded run -----------------------------------------------------------
def test_claims_are_named_once_and_say_what_they_are():
    ids = {"tax.rsf.skill_beyond_control", "gain.ppo.gold", "part.dpo.input.skill",
           "tax.rsf.forgetting", "tax.rsf.forgetting_beyond_control", "part.input.forgetting",
           "average_vs_early.rsf.forgetting", "average_vs_learning_rate.forgetting",
           "hma_vs_average.k3.forgetting", "average_vs_kd.hypervolume.forgetting",
           "tax.rsf.reading_forgiven", "average_vs_early.dpo.forgetting.shared"}  # fmt: skip
    assert ids <= set(CLAIMS)
    for claim in CLAIMS.values():
        parse(claim.a), parse(claim.b)
        assert claim.measure in claims.MEASURES
        assert claim.direction in (1, -1)
        assert (claim.sesoi, bool(claim.place)) == (SESOI[claim.unit], bool(claim.paper)), claim.id
    for remedy in set(REMEDIES) - {"average", "expo"}:  # which lies beyond what it averages
        assert f"average_vs_{remedy}.skill" in CLAIMS


def test_rows_are_picked_by_id_or_by_how_it_begins(found):
    assert claims.pick(found, "tax.rsf.skill")["id"].tolist() == ["tax.rsf.skill"]
    begun = claims.pick(found, "tax.rsf.")["id"]
    assert "tax.rsf.reading" in set(begun)
    assert not begun.str.contains("forgetting|forgiven|shared").any()
    shown = claims.show(found, "average_vs_l2.", paper=True)
    assert {"where", "the paper", "format forgiven"} < set(shown.columns)
    assert len(claims.markdown(found, "average_vs_l2.").splitlines()) == len(shown) + 2
    refuses(KeyError, "holds no claim", claims.one, found, "tax.nobody.skill")


def test_the_recorded_claims_are_those_of_the_recorded_points(found):
    again = claims.table(recorded().points)
    stale = "claims.csv and the points differ: run `alignment-tax report`"
    pd.testing.assert_frame_equal(found, again, check_dtype=False, atol=1e-12, obj=stale)


def test_every_recorded_claim_of_the_paper_that_came_out_opposite_has_a_reason(found):
    opposite = claims.pick(found[(found["verdict"] == "opposite") & (found["place"] != "")], "")
    assert sorted(set(opposite["id"]) - set(REASONS)) == []
    assert set(REASONS) <= set(CLAIMS)
