"""Claims, fronts, intervals, verdicts, forgetting and cut translations: numbers by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import golden, refuses
from hypothesis import given, strategies as st
from points import T_1, made_up_points, point, table_of, versus

from alignment_tax.labels import BLEU_COLUMNS, CUT_COLUMNS
from alignment_tax.registry import REMEDIES
from alignment_tax.results.items import bleu_statistics, capped_bleu, corpus_bleu, goes_on, right
from alignment_tax.results.points import NotRecorded, curve_rows, present, shared
from alignment_tax.results.recorded import recorded
from alignment_tax.results.select import Selection, parse
from alignment_tax.spec import patterns, ratios_text
from alignment_tax.stats import capped_bleu as talk, claims, forgetting, methods
from alignment_tax.stats.calibration import calibration_error
from alignment_tax.stats.claim_list import REASONS, SESOI
from alignment_tax.stats.claims import CLAIMS, Claim, evaluate
from alignment_tax.stats.compare import compare_seeds, interval, paired_bootstrap, verdict
from alignment_tax.stats.pareto import gap_at_equal_reward, hypervolume, interpolate
from alignment_tax.stats.probe import probe

STAIRS = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [1.5, 1.5]]
NAN, INF = float("nan"), float("inf")

coordinate = st.integers(-8, 8).map(float)
clouds = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=12)


@given(clouds)
def test_area_equals_counted_unit_squares(cloud: list[tuple[float, float]]) -> None:
    cells = [(r, s) for r in range(-9, 8) for s in range(-9, 8)]
    covered = sum(any(r + 1 <= x and s + 1 <= y for x, y in cloud) for r, s in cells)
    assert hypervolume(cloud, (-9, -9)) == covered


def test_fronts_areas_and_gaps_by_hand_and_that_a_finer_grid_is_no_advantage() -> None:
    for curve, at, skill in (
        # left of the curve its best point already has more reward and more skill
        ([[0, 60], [2, 50], [4, 20]], [-1, 0, 1, 2, 3, 4, 4.1], [60, 60, 55, 50, 35, 20, np.nan]),
        # reward rises to 3, then falls to 1 while skill falls: the upper branch counts
        ([[0, 10], [3, 8], [1, 2]], 1.5, [9]),
        # skill dips, then recovers at more reward: at reward 1 the later point is the better offer
        ([[0, 10], [1, 4], [2, 9]], 1, [9]),
        ([[1, 5]], [0.5, 1.0], [5, 5]),
    ):
        np.testing.assert_array_equal(interpolate(curve, at), skill)
    # slabs above (0, 0): 3 x 1, then 2 x 1, then 1 x 1
    assert hypervolume(STAIRS, (0, 0)) == 6.0
    assert hypervolume(STAIRS, (1, 0)) == 3.0  # [1, 3] is no longer above: 2 x 1 + 1 x 1
    assert hypervolume(STAIRS, (5, 5)) == 0.0
    straight, bent = [[0, 60], [4, 20]], [[0, 60], [2, 50], [4, 20]]
    # the triangle between them: height 10 at reward 2, so 5 on average over [0, 4]
    assert gap_at_equal_reward(bent, straight) == pytest.approx(5.0)
    assert gap_at_equal_reward(straight, bent) == pytest.approx(-5.0)
    # only the range that both reach counts: [0, 2], where the gap rises from 0 to 10
    assert gap_at_equal_reward(bent[:2], straight) == pytest.approx(5.0)
    fine = [[r, 60 - 10 * r] for r in np.linspace(0, 4, 21)]
    assert gap_at_equal_reward(fine, straight) == pytest.approx(0.0, abs=1e-9)
    assert hypervolume(fine, (-1, 0)) > hypervolume(straight, (-1, 0))


def test_verdicts_and_intervals_by_hand() -> None:
    rows = golden("verdicts.yaml")
    assert [[*row, verdict(*row)] for *row, _ in rows] == rows
    # 1 and 3: mean 2, standard error 1
    assert interval([1.0, 3.0]) == pytest.approx((2, 2 - 12.7062, 2 + 12.7062), abs=1e-3)
    assert interval([5.0])[0] == 5
    assert np.isnan(interval([5.0])[1:]).all()


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8), st.floats(0, 5))
def test_verdicts_turn_round_with_their_sign_and_mind_no_order(gaps, sesoi) -> None:
    one = compare_seeds(gaps, sesoi=sesoi)
    turned = compare_seeds([-gap for gap in reversed(gaps)], sesoi=sesoi, direction=-1)
    assert turned.verdict == one.verdict
    assert (-turned.high, -turned.low) == pytest.approx((one.low, one.high), abs=1e-9)
    mean, low, high = interval(gaps)
    assert (one.difference, one.low, one.high) == (mean, low, high)
    assert low <= mean <= high


def test_bootstrap_of_items_agrees_with_the_standard_error_and_pairs_by_item() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.random(400) < 0.7).astype(float), (rng.random(400) < 0.5).astype(float)
    result = paired_bootstrap([a], [b], rng=rng, n_boot=1000)
    error = (a - b).std(ddof=1) / np.sqrt(400)
    assert result.difference == pytest.approx((a - b).mean())
    assert result.high - result.low == pytest.approx(2 * 1.96 * error, rel=0.12)
    assert (result.n_seeds, result.n_items, result.verdict) == (1, 400, "holds")
    # the difficulty of items is taken out; the same generator gives the same interval
    hard = rng.normal(0, 10, size=200)
    a = [hard + 0.5 + rng.normal(0, 0.1, 200) for _ in range(3)]
    rngs = (np.random.default_rng(9) for _ in range(2))
    result, again = (paired_bootstrap(a, [hard] * 3, rng=each, n_boot=100) for each in rngs)
    assert result == again
    assert result.high - result.low < 0.2


def test_bootstrap_keeps_groups_and_takes_any_statistic() -> None:
    rng = np.random.default_rng(3)
    a, b = ([{"one": each(10), "two": np.zeros(30)}] * 2 for each in (np.ones, np.zeros))
    result = paired_bootstrap(a, b, rng=rng, n_boot=50)
    # mean of the two groups, whatever their sizes
    assert (result.difference, result.low, result.high, result.n_items) == (0.5, 0.5, 0.5, 40)

    def ratio(items):  # a statistic of sums, as BLEU is
        total = items["items"].sum(axis=0)
        return total[0] / total[1]

    counts, other = [np.array([[1.0, 2.0], [3.0, 4.0]])], [np.array([[0.0, 1.0]] * 2)]
    result = paired_bootstrap(counts, other, rng=rng, n_boot=50, statistic=ratio)
    assert result.difference == pytest.approx(4 / 6)
    assert 0.5 <= result.low <= result.high <= 0.75


def test_degenerate_points_and_comparisons_are_refused() -> None:
    rng = np.random.default_rng(0)
    for call, given_, said in (
        (verdict, [2.0, 1.0], "no interval"), (verdict, [NAN, 1.0], "no interval"),
        (verdict, [0.0, 1.0, 0], "direction"), (hypervolume, [[], (0, 0)], "no points"),
        (verdict, [0.0, 1.0, 1, -1], "no interval|direction"),
        (hypervolume, [[[1.0, NAN]], (0, 0)], r"Point 0 is \(1.0, nan\)"),
        (hypervolume, [[[1.0, 2.0], [INF, 1.0]], (0, 0)], "Point 1"),
        (hypervolume, [[[1.0, 2.0, 3.0]], (0, 0)], r"rows \(reward, skill\)"),
        (compare_seeds, [[1.0]], "run at least two"),
        (compare_seeds, [[1.0, NAN]], "seed number 1 is nan"),
        (gap_at_equal_reward, [[[0, 1], [1, 0]], [[2, 1], [3, 0]]], "share no range"),
    ):  # fmt: skip
        refuses(ValueError, said, call, *given_)
    none, one, three, four = ([np.ones(n)] for n in (0, 1, 3, 4))
    refuses(ValueError, "other items than", paired_bootstrap, three, four, rng=rng)
    refuses(ValueError, "no items", paired_bootstrap, none, none, rng=rng)
    refuses(ValueError, "NaN or infinity", paired_bootstrap, [[np.nan]], one, rng=rng)


# --- forgetting against KL ------------------------------------------------------------------------
def test_forgetting_is_paired_with_both_kls():
    points = made_up_points()
    points["forgetting"] = points["skill"]
    rows = forgetting.forgetting(points.assign(forward_kl=points["reward"]))
    assert len(rows) == 2 * 7
    assert {"base", "sft"}.isdisjoint(rows["algorithm"])
    last = rows[(rows["algorithm"] == "rsf") & (rows["rounds"] == 2) & (rows["seed"] == 1)]
    assert last[["tax", "kl", "forward_kl"]].to_numpy().tolist() == [[12.0, 4.0, 9.0]]
    swept = rows[(rows["method"] == "kl_coef") & (rows["strength"] == 0.4)]
    assert swept["forward_kl"].tolist() == [1.0, 6.0]
    assert forgetting.forgetting(points)["forward_kl"].isna().all()


def test_confidence_is_held_against_how_often_it_is_right():
    # by hand: four at 0.95 of which three are right are 0.2 off, one at 0.55 that is wrong 0.55
    off = calibration_error(np.array([0.95] * 4 + [0.55]), np.array([1, 1, 1, 0, 0]))
    assert off == pytest.approx(100 * (0.8 * 0.2 + 0.2 * 0.55))
    assert calibration_error(np.array([1.0, 0.25]), np.array([True, False])) == pytest.approx(12.5)


def test_a_curve_that_levels_off_is_found():
    x = np.linspace(0.1, 4, 20)
    found = forgetting.fit(pd.DataFrame({"kl": x, "tax": 13 * (1 - np.exp(-x / 0.7))}))
    assert (found.level, found.scale, found.r_squared) == pytest.approx((13, 0.7, 1), rel=7e-4)
    assert found(np.array([0.0, 0.7])) == pytest.approx([0, 13 * (1 - np.exp(-1))], abs=0.01)
    # a line is a curve that has not levelled off yet; through theta_0, so worse than a mean may be
    assert forgetting.fit(pd.DataFrame({"kl": x, "tax": 2 * x})).r_squared > 0.999
    assert forgetting.fit(pd.DataFrame({"kl": x, "tax": 9 - x})).r_squared < 0


def test_a_probe_finds_what_states_hold_and_guesses_what_they_do_not():
    rng = np.random.default_rng(0)
    answers, choices = rng.integers(4, size=200).tolist(), [["b", "d", "a", "c"]] * 200
    known = np.eye(4)[answers] @ rng.normal(size=(4, 16)) * 10 + rng.normal(size=(200, 16))
    assert probe(known, choices, answers).all()
    assert probe(rng.normal(size=(200, 16)), choices, answers).mean() == pytest.approx(
        0.25, abs=0.1
    )
    # a question whose state is like none of the others' is not answered from its own answer
    alone = np.eye(200)
    assert probe(alone, choices, answers).mean() < 0.5
    # another word than the answer that is likelier, but no choice, is not taken
    two = [["a", "b"] if answer < 2 else ["c", "d"] for answer in answers]
    assert probe(known, two, [answer % 2 for answer in answers]).all()


def test_two_algorithms_at_the_same_kl():
    points = made_up_points()
    found = versus(points, "rsf/early_stopping", "ppo/early_stopping", measure="equal_kl")
    # at KL 2, PPO's last round has 76; RSF, between (1, 78 - s) and (4, 70 - 2 s), a third further
    assert found.difference == pytest.approx(((78 - 8 / 3 - 76) + (77 - 9 / 3 - 76)) / 2)
    # all the way there the gap goes, of seed 0, from 0 (at 0 and 1) to -2/3, of seed 1 by 1 a nat
    found = versus(points, "rsf/early_stopping", "ppo/early_stopping", measure="along_kl")
    assert found.difference == pytest.approx(-(1 / 6 + 1) / 2, rel=0.01)
    # means -10 and -3
    assert forgetting.own_share(np.array([-8.0, -12.0]), np.full(2, -3.0)) == pytest.approx(0.7)


# --- translations that go on talking --------------------------------------------------------------
REFERENCE = "the black cat sleeps in the old house"


def bleu(rows):
    return corpus_bleu(rows[list(BLEU_COLUMNS)].to_numpy(dtype=float))


def items_of(said, reference=REFERENCE):
    """The items of models that answered with these texts, all to the same reference."""
    return pd.DataFrame(
        {"seed": 0, "key": key, "slot": "bleu", "item": item, "value": float("nan")}
        | dict(zip(BLEU_COLUMNS, bleu_statistics(reference, text), strict=True))
        # cut where the reference ends
        | dict(zip(CUT_COLUMNS, bleu_statistics(reference, text[: len(reference)]), strict=True))
        for key, texts in said.items()
        for item, text in enumerate(texts)
    )


def test_a_right_translation_with_words_behind_it_is_lost_to_talk():
    said = {
        "before": [REFERENCE, REFERENCE, REFERENCE, "no"],
        # one kept, one goes on, one is wrong, one that was never right goes on
        "after": [REFERENCE, f"{REFERENCE} let me", "the red cat", f"{REFERENCE} you are welcome"],
    }
    ends = [point(0, "sft", 0, 0, key="before"), point(0, "rsf", 0, 0, rounds=1, key="none")]
    points = table_of([*ends, point(0, "rsf", 0, 0, key="after")])
    assert talk.lost_to_talk(points, items_of(said))[0] == pytest.approx(1 / 2)


def test_what_is_exact_and_what_goes_on():
    # the last has every word of the reference and one more, in another order
    texts = [REFERENCE, f"{REFERENCE} let me know", "the black cat sleeps"]
    texts.append("in the old house the black cat sleeps well")
    # a reference of fewer than four words can be held
    short = items_of({"a": ["a cat", "a cat sleeps", "cat"]}, reference="a cat")
    for rows in (items_of({"a": texts}), short):
        # the first alone is right, the second alone goes on
        assert [np.flatnonzero(each(rows)).tolist() for each in (right, goes_on)] == [[0], [1]]


def test_capped_counts_by_hand_and_beside_a_text_that_is_really_cut():
    # 8 words of the reference and 3 more: 11, 10, 9, 8 n-grams, of which 8, 7, 6, 5 match
    rows = items_of({"a": [f"{REFERENCE} let me know"]})
    assert rows[list(BLEU_COLUMNS)].iloc[0].tolist() == [8, 7, 6, 5, 11, 10, 9, 8, 11, 8]
    # (8/11 * 7/10 * 6/9 * 5/8) ** (1/4) = 0.6787, and no penalty for a text that is too long
    items = items_of({"a": [REFERENCE] * 4, "b": [f"{REFERENCE} let me know"] * 4})
    # another slot is no translation
    items = pd.concat([items, items.iloc[:1].assign(slot="span")], ignore_index=True)
    found = talk.measures(items)[["bleu", "cut", "capped"]].to_numpy(dtype=float)
    np.testing.assert_allclose(found, [[100] * 3, [67.87, 100, 100]], rtol=1e-3)
    # what is short is not changed
    rows = items_of({"a": ["the black cat sleeps", "the", REFERENCE]})
    assert capped_bleu(rows) == pytest.approx(bleu(rows))
    texts = [f"{REFERENCE} let me know how it goes !", f"of course , {REFERENCE}"]
    texts.append("the black dog sleeps in a house , the old house")
    cut = [" ".join(text.split()[: len(REFERENCE.split())]) for text in texts]
    real = corpus_bleu([bleu_statistics(REFERENCE, text) for text in cut])
    assert bleu(items_of({"a": texts})) < real < capped_bleu(items_of({"a": texts}))


# --- the table of claims: selectors, measures, and every recorded number --------------------------
#: What is found of the made-up points, but of PPO's own seeds, of which there may be more.
GOLDEN = Path(__file__).parent / "golden" / "claims.csv"
SELECTORS = golden("selectors.yaml")


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
    refuses(ValueError, "each of its parts is one", curve_rows, points, "part", 0)
    refuses(ValueError, "hold no dpo/last", rows.model, "dpo/last")
    refuses(ValueError, "lora_mlp", rows.model, "rsf/lora_mlp/strongest")
    refuses(ValueError, "several models a seed", rows.model, "rsf/l2")
    refuses(ValueError, "no mean ratio", rows.ratios, "rsf/part=input", "rsf/hma/K=3")
    refuses(ValueError, "Seed 1 has no row of theta_0", Selection, headless)
    refuses(ValueError, "two are needed", versus, one, "rsf/last", "sft")
    refuses(ValueError, "no nothing", versus, rows, "rsf/last", "sft", "nothing")


# by hand, hypervolumes: averaging the distilled run 2 x 11 + 2 x 2 and 2 x 9 + 2 x 2, L2 thinned to
# theta_0, (2, 75), (4, 70); the bend: 80 - 4 alpha, RSF's end at 70 - 2 s: (6 + 2 s) alpha above
def test_claims_stay_whatever_order_other_seeds_and_other_methods_there_are():
    told = pd.read_csv(GOLDEN, index_col="id", dtype={"seeds": str})
    more = [point(7, "sft", 0, 10), point(7, "base", 0, 10), point(7, "ppo", 9, 10)]
    more += [point(s, "dpo", 9, 10) for s in (0, 1, 7)]
    for s in (0, 1):
        more.append(point(s, "rsf", 9, 99, "ema", strength=0.5))
        more.append(point(s, "rsf", 9, 99, "l2_in_rounds", strength=0.5, rounds=99))
        more.append(point(s, "rsf", 9, 99, "hma", alpha=0.3, part="0.4|0.3|0.2|0.3"))
    both = pd.concat([made_up_points(), pd.DataFrame(more)], ignore_index=True)
    both = both.sample(frac=1, random_state=0, ignore_index=True)
    found = claims.table(both, [CLAIMS[name] for name in told.index]).set_index("id")
    pd.testing.assert_frame_equal(found[told.columns], told, check_dtype=False, rtol=1e-5)


# --- measures, by hand ----------------------------------------------------------------------------
# at rewards that both reach: average_vs_lora and average_vs_l2 of the golden table
def test_curves_are_compared_at_equal_reward(points):
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
