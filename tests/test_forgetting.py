"""Over-optimisation and forgetting against KL: small tables, every number worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from points import made_up_points

from alignment_tax.stats import forgetting
from alignment_tax.stats.compare import judge


@pytest.fixture
def points():
    return made_up_points()


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1, 1.1], [2, 2.1], "holds"),
        ([1, 1.1], [-2, -2.1], "opposite"),
        ([1, 1.1], [-5, 6], "inconclusive"),
        ([1], [2, 2.1], "inconclusive"),
    ],
)
def test_two_claims_hold_only_together(first, second, verdict):
    assert forgetting.both(judge(first), judge(second)) == verdict


# over-optimisation


def test_gold_that_falls_while_reward_rises_is_over_optimisation(points):
    rsf = forgetting.over_optimisation(points, "rsf")
    assert rsf.best == {0: 1, 1: 1}
    assert (rsf.gold.difference, rsf.reward.difference, rsf.verdict) == (1.0, 2.0, "holds")
    ppo = forgetting.over_optimisation(points, "ppo")
    assert ppo.best == {0: 2, 1: 2}
    assert (ppo.gold.difference, ppo.verdict) == (0.0, "negligible")


def test_the_best_round_of_a_seed_is_chosen_on_the_others(points):
    # seed 0 has its best gold at the end, by luck: it must not choose for itself
    lucky = points.copy()
    end = (lucky["algorithm"] == "rsf") & (lucky["rounds"] == 2) & (lucky["method"] == "none")
    lucky.loc[end & (lucky["seed"] == 0), "gold"] = 9.0
    found = forgetting.over_optimisation(lucky, "rsf")
    assert found.best == {0: 1, 1: 2}
    # seed 0: 3 at round 1 minus 9 at the end; seed 1: at the end already
    assert found.gold.difference == pytest.approx((-6 + 0) / 2)


# forgetting against KL


def test_forgetting_is_paired_with_both_kls(points):
    trained = points[points["method"].isin(["none", "kl_coef"])]
    kl = trained.drop(columns=["kl", "skill"]).assign(forward_kl=trained["reward"])
    rows = forgetting.forgetting(points, kl)
    assert len(rows) == 2 * 7
    assert {"base", "sft"}.isdisjoint(rows["algorithm"])
    last = rows[(rows["algorithm"] == "rsf") & (rows["rounds"] == 2) & (rows["seed"] == 1)]
    numbers = last[["tax", "gain", "kl", "forward_kl"]].to_numpy().tolist()
    assert numbers == [[12.0, 4.0, 4.0, 9.0]]
    swept = rows[(rows["method"] == "kl_coef") & (rows["strength"] == 0.4)]
    assert swept["forward_kl"].tolist() == [1.0, 6.0]
    assert forgetting.forgetting(points)["forward_kl"].isna().all()


def table(kl, tax, seed=0, algorithm="rsf", gain=0.0):
    return pd.DataFrame(
        {"seed": seed, "algorithm": algorithm, "kl": kl, "tax": tax, "gain": gain,
         "forward_kl": np.nan}
    )  # fmt: skip


def test_a_line_through_theta_0_by_hand():
    rows = table([1.0, 2.0, 3.0], [2.0, 1.0, 3.0])
    # slope (1 * 2 + 2 * 1 + 3 * 3) / (1 + 4 + 9) = 13 / 14; errors 15/14, -12/14, 3/14
    found = forgetting.fit(rows, shape="line")
    assert found.coefficients == pytest.approx((13 / 14, 0))
    assert found.r_squared == pytest.approx(1 - (15**2 + 12**2 + 3**2) / 14**2 / 2)
    assert (found.n, np.isnan(found.low)) == (3, True)
    assert found(np.array([0.0, 14.0])) == pytest.approx([0, 13])
    assert forgetting.explains_half(found, 1) is None
    assert forgetting.fit(rows.head(2), shape="line") is None
    # all forgot 9 to 11 points at once, however far they went: worse than the mean
    rows = table([1.0, 2.0, 3.0, 4.0], [9.0, 11.0, 9.0, 11.0])
    assert forgetting.fit(rows, shape="line").r_squared < 0


def test_a_saturating_curve_is_recovered_with_its_level_and_scale():
    x = np.array([0.1, 0.5, 1.0, 3.0, 10.0, 40.0])
    found = forgetting.fit(table(x, 13 * (1 - np.exp(-x / 0.7))))
    assert found.shape == "saturating"
    assert found.coefficients == pytest.approx((13, 0.7), rel=1e-5)
    assert found.r_squared == pytest.approx(1)
    # at x = b ln 2 half of the level is reached, and at theta_0 nothing
    assert found(np.array([0.0, 0.7 * np.log(2)])) == pytest.approx([0, 6.5], rel=1e-4)
    # no further than three values of x: as many as a parabola refuses
    assert forgetting.fit(table(x[:3], x[:3])) is None
    # and it can be as straight as a line
    assert forgetting.fit(table(x, 2 * x)).r_squared == pytest.approx(1, abs=1e-4)
    # a reward below the start does not overflow it
    x = np.array([-4.0, 1.0, 2.0, 3.0, 4.0])
    assert np.isfinite(forgetting.fit(table(x, np.abs(x), gain=x), "gain").r_squared)


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
    assert forgetting.off_the_curve(rows)[claim].difference == pytest.approx(0, abs=1e-3)
    bent = forgetting.off_the_curve(rows, shape="parabola")[claim]
    assert (bent.verdict, bent.difference > 3) == ("holds", True)


def test_a_parabola_is_found_and_its_interval_comes_from_whole_seeds():
    x = np.arange(5.0)
    exact = table(x, x + 2 * x**2)
    found = forgetting.fit(exact, shape="parabola")
    assert found.coefficients == pytest.approx((2, 1, 0), abs=1e-9)
    assert found.r_squared == pytest.approx(1)
    # a second seed that bends the other way: alone each is a perfect parabola, together not
    both = pd.concat([exact, table(x, -2 * x**2, seed=1)])
    pooled = forgetting.fit(both, shape="parabola")
    assert pooled.high == pytest.approx(1)
    assert pooled.low == pytest.approx(pooled.r_squared)
    assert pooled.r_squared < 0.5
    half = forgetting.explains_half(pooled, 2)
    assert half.difference == pytest.approx(pooled.r_squared - 0.5)
    assert half.verdict == "inconclusive"


def test_an_algorithm_off_the_common_curve_is_found_by_leaving_it_out():
    x = np.arange(1.0, 5.0)
    parts = [table(x, x, seed=s, algorithm=a) for s in (0, 1) for a in ("rsf", "dpo")]
    # PPO forgets 3 points more, and once goes where the others never were
    parts += [table([1.0, 3.0, 9.0], [4.0, 6.0, 0.0], seed=s, algorithm="ppo") for s in (0, 1)]
    found = forgetting.off_the_curve(pd.concat(parts), shape="line")
    ppo = found["PPO forgets more than the curve of the others says"]
    assert (ppo.difference, ppo.verdict) == (pytest.approx(3), "holds")
    # the line through RSF and PPO: slope (2 * 30 + 2 * (4 + 18)) / (2 * 30 + 2 * 91), so 104 / 242
    dpo = found["DPO forgets more than the curve of the others says"]
    assert dpo.difference == pytest.approx(2.5 * (1 - 104 / 242))
    assert list(found) == [
        f"{name} forgets more than the curve of the others says" for name in ("RSF", "DPO", "PPO")
    ]
    # a seed alone gives no interval
    one = forgetting.off_the_curve(pd.concat(parts[:2]), shape="line")
    assert set(one.values()) == {None}
    # the control alone is no curve to hold others against, but may be held against one
    parts = [table(x, x, seed=s) for s in (0, 1)]
    parts += [table(x, x - 1, seed=s, algorithm="rsf_random") for s in (0, 1)]
    found = forgetting.off_the_curve(pd.concat(parts), shape="line")
    assert found["RSF forgets more than the curve of the others says"] is None
    control = found["the random control forgets more than the curve of the others says"]
    assert control.difference == pytest.approx(-1)


def test_kl_explains_more_than_reward_where_only_kl_tells():
    x = np.arange(6.0)
    noise = np.array([3.0, 1.0, 4.0, 1.5, 5.0, 9.0])
    rows = pd.concat([table(x, x, seed=s, gain=np.roll(noise, s)) for s in range(3)])
    found = forgetting.explains_more(rows, "kl", "gain", shape="line")
    assert found.verdict == "holds"
    assert found.difference == pytest.approx(1 - forgetting.fit(rows, "gain", "line").r_squared)
    assert forgetting.explains_more(rows, "forward_kl", "gain") is None
    # two measures of forgetting, by the same models
    noise = np.array([3.0, -1.0, 4.0, -1.5, 5.0, 9.0])
    rows = pd.concat(
        [table(x + 1, np.roll(noise, s), seed=s).assign(capped=x + 1) for s in range(3)]
    )
    found = forgetting.explains_more(rows, "kl", "kl", "line", y="capped", other_y="tax")
    assert found.difference == pytest.approx(1 - forgetting.fit(rows, "kl", "line").r_squared)


def test_two_algorithms_are_compared_at_the_same_kl(points):
    rows = forgetting.forgetting(points)
    found = forgetting.at_equal_kl(rows, "rsf", "ppo")
    # at KL 2, a third of the way from (1, 2) to (4, 10) and from (1, 3) to (4, 12), PPO forgot 4
    assert found.difference == pytest.approx(((2 + 8 / 3) + (3 + 9 / 3)) / 2 - 4)
    # the other way round it is the same place
    assert forgetting.at_equal_kl(rows, "ppo", "rsf").difference == pytest.approx(-found.difference)
    assert forgetting.at_equal_kl(rows, "ppo", "dpo") is None
    control = forgetting.at_equal_kl(rows, "rsf", "rsf_random")
    assert control.difference == pytest.approx((2 + 3) / 2 - 1)
    found = forgetting.at_equal_kl(rows, "ppo", "rsf", y="gold_gain")
    # at KL 2 PPO has gained 1.5, and RSF 2 - 1 / 3
    assert found.difference == pytest.approx(1.5 - 5 / 3)


def test_the_share_of_a_tax_is_given_only_where_there_is_one(points):
    halved = points.assign(forgetting=80 - (80 - points["skill"]) / 2)
    assert forgetting.share_kept(halved, "ppo") == pytest.approx((0.5, 0.5, 0.5))
    # over two seeds 10 and 12 points are not shown to be more than none
    assert forgetting.share_kept(halved, "rsf") is None


def test_the_table_of_fits_leaves_out_what_cannot_be_fitted(points):
    table = forgetting.razor_table(forgetting.forgetting(points))
    # RSF has two values of KL, and the control is never fitted by itself
    assert list(table["runs"].unique()) == ["PPO", "all"]
    assert set(table["x"]) == {"kl", "gain"}
    assert set(table["shape"]) == set(forgetting.SHAPES)
    assert (table["r_squared"] <= 1).all()
