"""What points of several algorithms say: small tables, every number worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from alignment_tax import algorithms_claims as claims
from alignment_tax import figures
from alignment_tax.figures import TableError, alt_text

T_1 = 12.7062  # Student's t, 97.5 %, one degree of freedom


def point(seed, algorithm, reward, skill, gold=0.0, kl=0.0, **more):
    families = dict.fromkeys(("commonsense", "reading", "translation", "skill"), float(skill))
    return {
        "study": "tiny", "seed": seed, "algorithm": algorithm, "method": "none",
        "strength": np.nan, "alpha": np.nan, "part": np.nan, "rounds": 0,
        "reward": reward + 5.0 * seed, "gold": gold, "kl": kl, "n_items": 100, **families, **more,
    }  # fmt: skip


def make_points():
    """Two seeds. RSF costs 10 and 12 points, PPO 4 in both; PPO's averages lie 2 below RSF's."""
    rows = []
    for s in (0, 1):
        rows += [
            point(s, "base", -9, 90),
            point(s, "sft", 0, 80, gold=1.0),
            point(s, "rsf", 2, 78 - s, gold=3.0, kl=1.0, rounds=1),
            point(s, "rsf", 4, 70 - 2 * s, gold=2.0, kl=4.0, rounds=2),
            point(s, "rsf_random", 0, 79, gold=1.0, kl=1.0, rounds=2),
            point(s, "ppo", 1, 78, gold=2.0, kl=1.0, rounds=1),
            point(s, "ppo", 2, 76, gold=2.5, kl=2.0, rounds=2),
            point(s, "ppo", 3, 74, kl=3.0, rounds=2, method="kl_coef", strength=0.0),
            point(s, "ppo", 1, 79, kl=0.5, rounds=2, method="kl_coef", strength=0.4),
        ]
        # straight lines: RSF from (0, 80) to (4, 76), PPO from (0, 80) down twice as steeply
        for alpha in (0.0, 0.5, 1.0):
            average = {"method": "average", "alpha": alpha, "rounds": 2}
            rows.append(point(s, "rsf", 4 * alpha, 80 - 4 * alpha, **average))
            rows.append(point(s, "ppo", 2 * alpha, 80 - 4 * alpha, **average))
    return pd.DataFrame(rows)


@pytest.fixture
def points():
    return make_points()


# comparisons


def test_the_tax_is_theta_0_minus_the_last_round_paired_by_seed(points):
    assert claims.tax(points, "rsf").tolist() == [10.0, 12.0]
    found = claims.tax_claims(points)
    assert list(found) == ["RSF costs mean skill", "PPO costs mean skill"]
    rsf = found["RSF costs mean skill"]
    # mean 11, standard deviation sqrt(2), standard error 1
    assert (rsf.difference, rsf.low) == (11.0, pytest.approx(11 - T_1, abs=1e-3))
    assert rsf.verdict == "inconclusive"
    ppo = found["PPO costs mean skill"]
    assert (ppo.difference, ppo.low, ppo.verdict) == (4.0, 4.0, "holds")
    gain = claims.gain_claims(points)["RSF raises reward"]
    assert (gain.difference, gain.verdict) == (4.0, "holds")


def test_what_is_not_recorded_is_named(points):
    assert claims.present(points) == ["rsf", "ppo"]
    assert claims.missing(points) == ["dpo", "rloo"]
    with pytest.raises(ValueError, match="no round of 'dpo'"):
        claims.tax(points, "dpo")
    with pytest.raises(ValueError, match="no theta_0"):
        claims.tax(points[points["algorithm"] != "sft"], "rsf")


def test_one_seed_gives_no_verdict(points):
    found = claims.tax_claims(points[points["seed"] == 0])
    assert set(found.values()) == {None}
    assert claims.over_optimisation(points[points["seed"] == 0], "rsf").verdict == "inconclusive"


def test_averaging_is_compared_with_the_rounds_of_the_same_algorithm(points):
    curve = claims.curve(points, "ppo", "none")[1]
    assert curve.tolist() == [[5.0, 80.0], [6.0, 78.0], [7.0, 76.0]]
    found = claims.averaging_claims(points)
    ppo = found["averaging PPO keeps more mean skill than stopping it early"]
    assert ppo.difference == pytest.approx(0)  # the same line
    rsf = found["averaging RSF keeps more mean skill than stopping it early"]
    # averages 80 - r; rounds of seed 0: 80 - r, then 78 - 4 (r - 2), below by 0 and by 3, on
    # average over each half; seed 1: 80 - 1.5 r, then 77 - 4.5 (r - 2), below by 0.5 and by 4.5
    assert rsf.difference == pytest.approx((1.5 + 2.5) / 2, abs=0.01)


def test_the_front_of_rsf_is_compared_at_equal_reward(points):
    found = claims.front_claims(points)
    assert list(found) == ["the front of RSF lies above that of PPO"]
    gap = found["the front of RSF lies above that of PPO"]
    # 80 - r against 80 - 2 r over the rewards 0 to 2 that both reach: r is 1 on average
    assert gap.difference == pytest.approx(1)
    assert gap.verdict == "holds"


def test_curves_without_a_reward_in_common_are_not_compared(points):
    apart = points.copy()
    apart.loc[(apart["algorithm"] == "ppo") & (apart["method"] == "average"), "reward"] = -50.0
    assert set(claims.front_claims(apart).values()) == {None}


def test_a_heavier_penalty_is_compared_with_averaging(points):
    curve = claims.penalty_curve(points, own=0.1)[0]
    # theta_0, coefficient 0.4, the plain run, no penalty
    assert curve.tolist() == [[0.0, 80.0], [1.0, 79.0], [2.0, 76.0], [3.0, 74.0]]
    found = list(claims.penalty_claims(points, own=0.1).values())
    assert (found[0].difference, found[0].verdict) == (5.0, "holds")  # 79 - 74
    assert found[1].difference == 2.0  # 3 - 1
    # averages 80 - 2 r; the sweep 80 - r up to 1, then 79 - 3 (r - 1): 0.5 and 0.5 above
    assert found[2].difference == pytest.approx(-0.5, abs=0.01)
    assert claims.penalty_claims(points[points["method"] != "kl_coef"], own=0.1) == {}
    # against a coefficient of the reader's choice, and one that nobody recorded
    paper = claims.penalty_claims(points, own=0.1, least=0.1)
    assert paper["a KL coefficient 0.4 instead of 0.1 keeps more skill"].difference == 3.0
    assert list(claims.penalty_claims(points, own=0.1, least=0.05)) == list(paper)[2:]
    # of the rewards 0 to 2 that averages reach, no penalty was tried below 1
    assert claims.chord_share(points, own=0.1) == pytest.approx(0.5)
    assert claims.chord_share(points[points["method"] != "kl_coef"], own=0.1) is None


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1, 1.1], [2, 2.1], "holds"),
        ([1, 1.1], [-2, -2.1], "does not hold"),
        ([1, 1.1], [-5, 6], "inconclusive"),
        ([1], [2, 2.1], "inconclusive"),
    ],
)
def test_two_claims_hold_only_together(first, second, verdict):
    assert claims.both(claims.judge(first), claims.judge(second)) == verdict


# over-optimisation


def test_gold_that_falls_while_reward_rises_is_over_optimisation(points):
    rsf = claims.over_optimisation(points, "rsf")
    assert rsf.best == {0: 1, 1: 1}
    assert (rsf.gold.difference, rsf.reward.difference, rsf.verdict) == (1.0, 2.0, "holds")
    ppo = claims.over_optimisation(points, "ppo")
    assert ppo.best == {0: 2, 1: 2}
    assert (ppo.gold.difference, ppo.verdict) == (0.0, "does not hold")
    assert (rsf.best_at_the_end, ppo.best_at_the_end) == (False, True)


def test_the_best_round_of_a_seed_is_chosen_on_the_others(points):
    # seed 0 has its best gold at the end, by luck: it must not choose for itself
    lucky = points.copy()
    end = (lucky["algorithm"] == "rsf") & (lucky["rounds"] == 2) & (lucky["method"] == "none")
    lucky.loc[end & (lucky["seed"] == 0), "gold"] = 9.0
    found = claims.over_optimisation(lucky, "rsf")
    assert found.best == {0: 1, 1: 2}
    # seed 0: 3 at round 1 minus 9 at the end; seed 1: at the end already
    assert found.gold.difference == pytest.approx((-6 + 0) / 2)


# forgetting against KL


def test_forgetting_is_paired_with_both_kls(points):
    trained = points[points["method"].isin(["none", "kl_coef"])]
    kl = trained.drop(columns=["kl", "skill"]).assign(forward_kl=trained["reward"])
    rows = claims.forgetting(points, kl)
    assert len(rows) == 2 * 7
    assert {"base", "sft"}.isdisjoint(rows["algorithm"])
    last = rows[(rows["algorithm"] == "rsf") & (rows["rounds"] == 2) & (rows["seed"] == 1)]
    numbers = last[["tax", "gain", "kl", "forward_kl"]].to_numpy().tolist()
    assert numbers == [[12.0, 4.0, 4.0, 9.0]]
    swept = rows[(rows["method"] == "kl_coef") & (rows["strength"] == 0.4)]
    assert swept["forward_kl"].tolist() == [1.0, 6.0]
    assert claims.forgetting(points)["forward_kl"].isna().all()


def table(kl, tax, seed=0, algorithm="rsf", gain=0.0):
    return pd.DataFrame(
        {"seed": seed, "algorithm": algorithm, "kl": kl, "tax": tax, "gain": gain,
         "forward_kl": np.nan}
    )  # fmt: skip


def test_a_line_through_theta_0_by_hand():
    rows = table([1.0, 2.0, 3.0], [2.0, 1.0, 3.0])
    # slope (1 * 2 + 2 * 1 + 3 * 3) / (1 + 4 + 9) = 13 / 14; errors 15/14, -12/14, 3/14
    found = claims.fit(rows, shape="line")
    assert found.coefficients == pytest.approx((13 / 14, 0))
    assert found.r_squared == pytest.approx(1 - (15**2 + 12**2 + 3**2) / 14**2 / 2)
    assert (found.n, np.isnan(found.low)) == (3, True)
    assert found(np.array([0.0, 14.0])) == pytest.approx([0, 13])
    assert claims.explains_half(found, 1) is None
    assert claims.fit(rows.head(2), shape="line") is None


def test_a_curve_through_theta_0_may_be_worse_than_the_mean():
    # all forgot 9 to 11 points at once, however far they went: no line from (0, 0) says so
    rows = table([1.0, 2.0, 3.0, 4.0], [9.0, 11.0, 9.0, 11.0])
    assert claims.fit(rows, shape="line").r_squared < 0


def test_a_saturating_curve_is_recovered_with_its_level_and_scale():
    x = np.array([0.1, 0.5, 1.0, 3.0, 10.0, 40.0])
    found = claims.fit(table(x, 13 * (1 - np.exp(-x / 0.7))))
    assert found.shape == "saturating"
    assert found.coefficients == pytest.approx((13, 0.7), rel=1e-5)
    assert found.r_squared == pytest.approx(1)
    # at x = b ln 2 half of the level is reached, and at theta_0 nothing
    assert found(np.array([0.0, 0.7 * np.log(2)])) == pytest.approx([0, 6.5], rel=1e-4)
    # no further than three values of x: as many as a parabola refuses
    assert claims.fit(table(x[:3], x[:3])) is None


def test_a_saturating_curve_can_be_as_straight_as_a_line():
    x = np.arange(1.0, 6.0)
    assert claims.fit(table(x, 2 * x)).r_squared == pytest.approx(1, abs=1e-4)


def test_where_forgetting_levels_off_the_parabola_hides_the_curve_and_the_verdict():
    # everyone forgets 13 points from some KL on; RSF is the one that goes far
    far, near = np.array([1.0, 2, 4, 8, 16, 32]), np.array([0.5, 1, 1.5, 2, 3])
    parts = [table(far, 13 * (1 - np.exp(-far)), seed=s, algorithm="rsf") for s in (0, 1)]
    parts += [
        table(near, 13 * (1 - np.exp(-near)), seed=s, algorithm=a)
        for s in (0, 1) for a in ("dpo", "ppo")
    ]  # fmt: skip
    rows = pd.concat(parts)
    claim = "DPO forgets more than the curve of the others says"
    assert claims.off_the_curve(rows)[claim].difference == pytest.approx(0, abs=1e-3)
    bent = claims.off_the_curve(rows, shape="parabola")[claim]
    assert (bent.verdict, bent.difference > 3) == ("holds", True)


def test_a_reward_below_the_start_does_not_overflow_the_curve():
    x = np.array([-4.0, 1.0, 2.0, 3.0, 4.0])
    assert np.isfinite(claims.fit(table(x, np.abs(x), gain=x), "gain").r_squared)


def test_a_parabola_is_found_and_its_interval_comes_from_whole_seeds():
    x = np.arange(5.0)
    exact = table(x, x + 2 * x**2)
    found = claims.fit(exact, shape="parabola")
    assert found.coefficients == pytest.approx((2, 1, 0), abs=1e-9)
    assert found.r_squared == pytest.approx(1)
    # a second seed that bends the other way: alone each is a perfect parabola, together not
    both = pd.concat([exact, table(x, -2 * x**2, seed=1)])
    pooled = claims.fit(both, shape="parabola")
    assert pooled.high == pytest.approx(1)
    assert pooled.low == pytest.approx(pooled.r_squared)
    assert pooled.r_squared < 0.5
    half = claims.explains_half(pooled, 2)
    assert half.difference == pytest.approx(pooled.r_squared - 0.5)
    assert half.verdict == "inconclusive"


def test_an_algorithm_off_the_common_curve_is_found_by_leaving_it_out():
    x = np.arange(1.0, 5.0)
    parts = [table(x, x, seed=s, algorithm=a) for s in (0, 1) for a in ("rsf", "dpo")]
    # PPO forgets 3 points more, and once goes where the others never were
    parts += [table([1.0, 3.0, 9.0], [4.0, 6.0, 0.0], seed=s, algorithm="ppo") for s in (0, 1)]
    found = claims.off_the_curve(pd.concat(parts), shape="line")
    ppo = found["PPO forgets more than the curve of the others says"]
    assert (ppo.difference, ppo.verdict) == (pytest.approx(3), "holds")
    # the line through RSF and PPO: slope (2 * 30 + 2 * (4 + 18)) / (2 * 30 + 2 * 91), so 104 / 242
    dpo = found["DPO forgets more than the curve of the others says"]
    assert dpo.difference == pytest.approx(2.5 * (1 - 104 / 242))
    assert list(found) == [
        f"{name} forgets more than the curve of the others says" for name in ("RSF", "DPO", "PPO")
    ]
    # a seed alone gives no interval
    one = claims.off_the_curve(pd.concat(parts[:2]), shape="line")
    assert set(one.values()) == {None}
    # the control alone is no curve to hold others against, but may be held against one
    parts = [table(x, x, seed=s) for s in (0, 1)]
    parts += [table(x, x - 1, seed=s, algorithm="rsf_random") for s in (0, 1)]
    found = claims.off_the_curve(pd.concat(parts), shape="line")
    assert found["RSF forgets more than the curve of the others says"] is None
    control = found["the random control forgets more than the curve of the others says"]
    assert control.difference == pytest.approx(-1)


def test_kl_explains_more_than_reward_where_only_kl_tells():
    x = np.arange(6.0)
    noise = np.array([3.0, 1.0, 4.0, 1.5, 5.0, 9.0])
    rows = pd.concat([table(x, x, seed=s, gain=np.roll(noise, s)) for s in range(3)])
    found = claims.explains_more(rows, "kl", "gain", shape="line")
    assert found.verdict == "holds"
    assert found.difference == pytest.approx(1 - claims.fit(rows, "gain", "line").r_squared)
    assert claims.explains_more(rows, "forward_kl", "gain") is None


def test_two_measures_of_forgetting_are_compared_by_the_same_models():
    x = np.arange(1.0, 7.0)
    noise = np.array([3.0, -1.0, 4.0, -1.5, 5.0, 9.0])
    rows = pd.concat([table(x, np.roll(noise, s), seed=s).assign(capped=x) for s in range(3)])
    found = claims.explains_more(rows, "kl", "kl", "line", y="capped", other_y="tax")
    assert found.difference == pytest.approx(1 - claims.fit(rows, "kl", "line").r_squared)
    assert found.verdict == "holds"


def test_two_algorithms_are_compared_at_the_same_kl(points):
    rows = claims.forgetting(points)
    found = claims.at_equal_kl(rows, "rsf", "ppo")
    # at KL 2, a third of the way from (1, 2) to (4, 10) and from (1, 3) to (4, 12), PPO forgot 4
    assert found.difference == pytest.approx(((2 + 8 / 3) + (3 + 9 / 3)) / 2 - 4)
    # the other way round it is the same place
    assert claims.at_equal_kl(rows, "ppo", "rsf").difference == pytest.approx(-found.difference)
    assert claims.at_equal_kl(rows, "ppo", "dpo") is None
    control = claims.at_equal_kl(rows, "rsf", "rsf_random")
    assert control.difference == pytest.approx((2 + 3) / 2 - 1)


def test_gold_is_compared_at_the_same_kl(points):
    (claim, found), *more = claims.gold_claims(claims.forgetting(points)).items()
    assert (claim, more) == ("PPO gains more gold than RSF at the same KL", [])
    # at KL 2 PPO has gained 1.5, and RSF 2 - 1 / 3
    assert found.difference == pytest.approx(1.5 - 5 / 3)


def test_the_share_of_a_tax_is_given_only_where_there_is_one(points):
    halved = points.assign(skill=80 - (80 - points["skill"]) / 2)
    assert claims.share_kept(points, halved, "ppo") == pytest.approx((0.5, 0.5, 0.5))
    # over two seeds 10 and 12 points are not shown to be more than none
    assert claims.share_kept(points, halved, "rsf") is None


def test_the_table_of_fits_leaves_out_what_cannot_be_fitted(points):
    table = claims.razor_table(claims.forgetting(points))
    # RSF has two values of KL, and the control is never fitted by itself
    assert list(table["runs"].unique()) == ["PPO", "all"]
    assert set(table["x"]) == {"kl", "gain"}
    assert set(table["shape"]) == set(claims.SHAPES)
    assert (table["r_squared"] <= 1).all()


# figures


def test_the_tables_of_the_figures_by_hand(points):
    rounds = figures.algorithm_rounds_table(points).set_index(["algorithm", "rounds"])
    # over theta_0 of the same seed
    assert rounds.loc[("rsf", 2), ["reward", "gold"]].tolist() == [4, 1]
    assert rounds.loc[("ppo", 0), "skill"] == 80
    gao = figures.over_optimisation_table(points).set_index(["algorithm", "rounds"])
    assert gao.loc[("rsf", 1), "gold"] == 2
    assert gao.loc[("rsf", 0), ["kl", "reward", "gold"]].tolist() == [0, 0, 0]
    tax = figures.algorithm_tax_table(points).set_index(["algorithm", "family"])
    assert tax.loc[("rsf", "skill"), "tax"] == 11
    assert tax.loc[("rsf", "skill"), "low"] == pytest.approx(11 - T_1, abs=1e-3)
    fronts = figures.algorithm_fronts_table(points)
    half = fronts[(fronts["algorithm"] == "ppo") & (fronts["alpha"] == 0.5)].iloc[0]
    assert half[["reward", "skill"]].tolist() == [1, 78]
    swept = figures.kl_penalty_table(points, own=0.1)
    swept = swept[swept["method"] == "kl_coef"]
    assert swept[["strength", "reward"]].to_numpy().tolist() == [[0, 3], [0.1, 2], [0.4, 1]]
    # where one seed alone was swept, the others' own runs are no neighbours of its points
    one = figures.kl_penalty_table(
        points[~((points["method"] == "kl_coef") & (points["seed"] == 1))], 0.1
    )
    assert set(one["seeds"]) == {1}


def test_figures_are_drawn_with_their_numbers_in_the_alt_text(points):
    drawn = {
        "PPO, 2 rounds: reward over θ₀ from 0.00 to 2.00": figures.algorithm_rounds(points),
        "RSF: at the end KL 4.0, reward +4.00, gold +1.00": figures.over_optimisation(points),
        "PPO: from 80.0 to 76.0 while reward rises by 2.00": figures.algorithm_fronts(points),
        "RSF, mean of three families +11.0": figures.algorithm_tax(points),
        "coefficient 0.4: reward 1.00, skill 79.0": figures.kl_penalty(points, own=0.1),
        "R squared of the saturating curve": figures.razor(claims.forgetting(points), "seeds 0-1"),
    }
    for text, figure in drawn.items():
        assert text in alt_text(figure), text
        figure.canvas.draw()


def test_figures_refuse_what_would_be_empty(points):
    alone = points[points["algorithm"].isin(["sft", "base"])]
    with pytest.raises(TableError, match="there are none"):
        figures.algorithm_rounds(alone)
    with pytest.raises(TableError, match="none is recorded"):
        figures.kl_penalty(points[points["method"] != "kl_coef"], own=0.1)
    with pytest.raises(TableError, match="no family"):
        figures.algorithm_fronts(points, family="span")
    with pytest.raises(TableError, match="1 to 5 runs"):
        figures.ppo_runs({}, "seed 0")


def test_short_runs_of_ppo_are_drawn():
    log = pd.DataFrame(
        {"iteration": [1, 2], "reward": [1.0, 2.0], "kl": [0.0, 0.5], "reply_length": [9.0, 8.0],
         "finished": [1.0, 0.5]}
    )  # fmt: skip
    figure = figures.ppo_runs({"as meant": log, "no KL penalty": log}, "tiny, seed 0")
    assert "as meant: reward 1.00 to 2.00, KL 0.50" in alt_text(figure)
    assert "finished 50 %" in alt_text(figure)
