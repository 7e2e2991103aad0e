"""Parts and ratios per block in the recorded table: differences worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from alignment_tax.heterogeneous import AVERAGE, HMA

from alignment_tax import heterogeneous
from alignment_tax.results.points import NotRecorded, curve_rows
from alignment_tax.spec import COLUMNS, patterns, ratios_text

# t(0.975) for 1 degree of freedom; with differences d - 1 and d + 1 the standard error is 1
HALF = 12.7062


def row(seed: int, method: str, reward: float, skill: float, **more: object) -> dict[str, object]:
    """A model whose families all have the score `skill`; gold is half the reward."""
    scores = dict.fromkeys(("skill", "commonsense", "reading", "translation"), skill)
    values: dict[str, object] = {**dict.fromkeys(COLUMNS), "study": "tiny", "seed": seed}
    values |= {"algorithm": "rsf", "method": method, "rounds": 6, "n_items": 10}
    return values | {"reward": reward, "gold": reward / 2, **scores, **more}


def table() -> pd.DataFrame:
    """Two seeds; seed 1 has 5 more reward and 2 more skill everywhere.

    theta_0 (0, 80), aligned (4, 60), averaging on the line between: (1, 75) at 0.2, (2, 70) at 0.4,
    (3, 65) at 0.6. HMA of 3 blocks lies above it: (1, 77), (2, 72), and of 9: (1.5, 74), (2.5, 69).
    """
    rows = []
    for seed in (0, 1):
        up, more = 5.0 * seed, 2.0 * seed
        rows.append(row(seed, "none", up, 80 + more, algorithm="sft", rounds=0))
        rows.append(row(seed, "none", 2 + up, 70 + more, rounds=3))
        rows.append(row(seed, "none", 4 + up, 60 + more))
        for alpha, reward in {0.0: 0, 0.2: 1, 0.4: 2, 0.6: 3, 1.0: 4}.items():
            rows.append(row(seed, "average", reward + up, 80 - 5 * reward + more, alpha=alpha))
        wiggle = 1 if seed else -1
        for alpha, base in ((0.2, 1.0), (0.4, 2.0)):
            plain = 80 - 5 * base + more
            triple = f"{alpha + 0.1 * wiggle}|{alpha}|{alpha - 0.1 * wiggle}"
            nine = "|".join([str(alpha)] * 9)
            rows += [
                row(seed, "hma", base + up, plain + 2 + wiggle, alpha=alpha, part=triple),
                row(seed, "hma", base + 0.5 + up, plain - 1, alpha=alpha, part=nine),
            ]
        for alpha in (0.5, 0.0):
            gain = (1 - alpha) * 2
            rows += [
                row(seed, "part", 4 + up + gain, 60 + more + gain, alpha=alpha, part="input"),
                row(seed, "part", 4 + up - gain, 60 + more + 2 * gain + wiggle * gain / 2,
                    alpha=alpha, part="output"),
            ]  # fmt: skip
    return pd.DataFrame(rows)


def test_one_part_is_compared_with_the_aligned_model_of_its_seed() -> None:
    points = table()
    curve = heterogeneous.part_curve(points, "input", 1)
    assert curve.index.tolist() == [1.0, 0.5, 0.0]
    assert curve["reward"].tolist() == [4, 5, 6]  # over theta_0 of seed 1
    assert heterogeneous.part_gaps(points, "output", "reward").loc[0].tolist() == [-1, -2]
    # skill of the output part: seed 0 has 2 - 0.5 and 4 - 1, seed 1 has 2 + 0.5 and 4 + 1
    gaps = heterogeneous.part_gaps(points, "output", "skill")
    assert gaps.to_numpy().tolist() == [[1.5, 3.0], [2.5, 5.0]]
    effect = heterogeneous.part_effect(points, "output", "skill")
    assert effect.difference == pytest.approx(3)  # (2.25 + 3.75) / 2
    assert effect.high == pytest.approx(3 + 0.75 * HALF, abs=1e-3)
    assert effect.verdict == "inconclusive"
    assert heterogeneous.part_effect(points, "input", "reward").verdict == "holds"


def test_another_algorithm_stands_where_rsf_stood() -> None:
    own = table()
    other = own[own["algorithm"] == "rsf"].assign(algorithm="dpo")
    other.loc[other["method"] == "part", "skill"] += 4
    points = pd.concat([own, other], ignore_index=True)
    assert heterogeneous.part_effect(points, "output", "skill").difference == pytest.approx(3)
    of_dpo = heterogeneous.of_algorithm(points, "dpo")
    assert heterogeneous.part_effect(of_dpo, "output", "skill").difference == pytest.approx(7)
    pd.testing.assert_frame_equal(heterogeneous.of_algorithm(points, "rsf"), own)
    with pytest.raises(NotRecorded, match="ppo"):
        heterogeneous.of_algorithm(points, "ppo")


def test_the_papers_claims_on_other_algorithms_are_about_their_own_models() -> None:
    own = table()
    other = own[own["algorithm"] == "rsf"].assign(algorithm="dpo")
    other.loc[other["method"] == "part", ["reward", "skill"]] -= 3
    claims = heterogeneous.claim_table(pd.concat([own, other], ignore_index=True))
    found = claims.set_index("claim")
    raised = "averaging the input part alone raises mean skill"
    # 1 and 2 more at the two alphas; DPO's 3 less
    assert found.loc[raised, "difference"] == pytest.approx(1.5)
    assert found.loc[f"DPO: {raised}", ["place", "verdict"]].tolist() == [
        "Fig. 13",
        "does not hold",
    ]
    assert found.loc[f"DPO: {raised}", "difference"] == pytest.approx(-1.5)
    assert found.loc[f"PPO: {raised}", "verdict"] == "not recorded"
    hma = "HMA (K = 3) keeps more reading than averaging at equal reward"
    assert found.loc[f"DPO: {hma}", "difference"] == found.loc[hma, "difference"]
    assert set(claims.loc[claims["claim"].str.startswith("PPO"), "verdict"]) == {"not recorded"}


def test_an_algorithm_counts_as_recorded_from_two_seeds_on() -> None:
    own = table()
    other = own[(own["algorithm"] == "rsf") & (own["seed"] == 0)].assign(algorithm="dpo")
    points = pd.concat([other, own], ignore_index=True)
    assert heterogeneous.algorithms_with(points, "part") == ["rsf"]
    points = pd.concat([other, other.assign(seed=1), own], ignore_index=True)
    assert heterogeneous.algorithms_with(points, "part") == ["rsf", "dpo"]
    assert heterogeneous.algorithms_with(points, "adamerging") == []


def test_two_parts_are_compared_at_the_same_alphas() -> None:
    points = table()
    points = points[~((points["part"] == "input") & (points["alpha"] == 0.5))]
    # alpha 0 alone is shared: 2 against -2 of reward, 2 against 3 and 5 of skill
    found = heterogeneous.part_difference(points, "input", "output", "reward")
    assert (found.difference, found.verdict) == (4, "holds")
    assert heterogeneous.part_difference(points, "input", "output", "skill").difference == -2


def test_both_axes_hold_only_where_each_does() -> None:
    effects = heterogeneous.part_effects(table())
    assert sorted(heterogeneous.raises_both(effects, "input")) == [0, 0.5]
    assert sorted(heterogeneous.raises_both(effects, "input", "strict", "gold")) == [0, 0.5]
    assert heterogeneous.raises_both(effects, "output") == []
    lost = effects[(effects["part"] == "output") & (effects["score"] == "reward")]
    assert set(lost["verdict"]) == {"does not hold"}


def test_looking_at_many_alphas_widens_the_interval() -> None:
    skewed = table()
    own = (skewed["part"] == "input") & (skewed["alpha"] == 0.5) & (skewed["seed"] == 1)
    skewed.loc[own, "skill"] += 0.1  # 1.0 and 1.1: s.e. 0.05, half 0.635 at 95 %, 1.27 at 97.5 %
    effects = heterogeneous.part_effects(skewed, ["input"])
    here = effects[(effects["score"] == "skill") & (effects["alpha"] == 0.5)].iloc[0]
    assert here["low"] == pytest.approx(1.05 - 0.05 * HALF, abs=1e-3)
    assert (here["verdict"], here["strict"]) == ("holds", "inconclusive")


def test_what_putting_a_part_back_regains() -> None:
    back = heterogeneous.put_back(table())
    # the tax is 20 points, the gain 4: the input part at alpha 0 has 2 more of both
    assert back.loc["input", ["skill_back", "reward_lost", "gold_gained"]].tolist() == [10, -50, 1]
    assert back.loc["output", ["skill_back", "reward_lost"]].tolist() == [20, 50]
    # seeds differ by nothing in the input part; in the output's 3 - 1 and 3 + 1 points, 20 - 5 and
    # 20 + 5 % of the tax: both parts together 30, as wide
    wide = back.loc[heterogeneous.TOGETHER, ["skill_back", "skill_back_low", "skill_back_high"]]
    assert wide.tolist() == pytest.approx([30, 30 - 5 * HALF, 30 + 5 * HALF], abs=1e-2)
    assert back.loc["input", "skill_back_low"] == pytest.approx(10)


def test_a_search_is_compared_with_averaging_at_its_own_mean() -> None:
    points = table()
    gaps = heterogeneous.gaps_at_equal_alpha(points, HMA, "skill")
    assert gaps.to_numpy().tolist() == [[1, 1], [3, 3]]
    found = heterogeneous.mean_gap(points, HMA, "skill")
    assert (found.difference, found.verdict) == (2, "inconclusive")
    assert heterogeneous.at_equal_alpha(points, HMA, "reward")["difference"].tolist() == [0, 0]
    # a mean of 0.25 is a quarter of the way from 0.2 to 0.4: skill 73.75, gold 0.625
    plain = heterogeneous.average_at(points, pd.Series({0: 0.25}))
    assert plain.loc[0, ["skill", "reward", "gold"]].tolist() == pytest.approx([73.75, 1.25, 0.625])


def test_curves_have_the_same_means_and_both_ends() -> None:
    points = table()
    assert heterogeneous.common_ratios(points, HMA, AVERAGE) == [0.2, 0.4]
    plain = heterogeneous.curve_points(points, AVERAGE, [0.2, 0.4])
    assert plain[1].tolist() == [[0, 82], [1, 77], [2, 72], [4, 62]]
    own = heterogeneous.curve_points(points, HMA, [0.2, 0.4], "reading", "gold")
    # gold is half the reward and nothing is subtracted; theta_0 of seed 0 has 0
    assert own[0].tolist() == [[0, 80], [0.5, 76], [1, 71], [2, 60]]


def test_the_front_is_compared_at_equal_reward() -> None:
    # seed 1 is 3 above averaging at rewards 1 and 2, 0 at both ends, with lines between: the area
    # 3/2 + 3 + 3 over a width of 4; seed 0 is 1 above: a third of that
    found = heterogeneous.ahead(table(), HMA)
    assert found.difference == pytest.approx((7.5 + 2.5) / 8, abs=0.01)
    assert found.n_seeds == 2
    # nine blocks lie on averaging's line at 1.5 and 2.5, 1.5 points higher: (1.5, 74) for 72.5
    nine = heterogeneous.ahead(table(), ("hma", 9))
    assert nine.verdict == "holds"
    assert nine.difference == pytest.approx(1.5 * (0.75 + 1 + 0.75) / 4, abs=0.01)
    # at 0.2 alone, 1 and 3 above averaging at a reward of 1: triangles over a width of 4
    few = heterogeneous.ahead(table(), HMA, alphas=[0.2])
    assert few.difference == pytest.approx((0.5 + 1.5) / 2, abs=0.01)


def test_what_more_blocks_change() -> None:
    points = table()
    reward = heterogeneous.change_with_blocks(points, "reward")
    assert (reward.difference, reward.verdict) == (0.5, "holds")
    # skill of K = 9 is plain - 1, of K = 3 plain + 1 in seed 0 and plain + 3 in seed 1
    skill = heterogeneous.change_with_blocks(points, "skill")
    assert skill.difference == -3
    assert skill.low == pytest.approx(-3 - HALF, abs=1e-3)


def test_the_table_of_searches_allows_for_many_looks() -> None:
    found = heterogeneous.search_table(table())
    assert found["search"].tolist() == ["HMA, K = 3", "HMA, K = 9"]
    assert found["alphas"].tolist() == [2, 2]
    assert found.loc[1, "verdict"] == found.loc[1, "strict"] == "holds"
    assert list(heterogeneous.search_table(table()[table()["method"] != "hma"])) == list(found)


def test_ratios_set_by_hand_are_those_of_the_paper_in_both_readings() -> None:
    assert patterns(of_start=False) == [
        *((0.2, 0.2, 0.1), (0.3, 0.3, 0.2), (0.4, 0.4, 0.3)),
        *((0.2, 0.1, 0.1), (0.3, 0.2, 0.2), (0.4, 0.3, 0.3)),
    ]
    # weights of the aligned model: what has less of theta_0 has more of it
    assert patterns(of_start=True)[0] == (0.8, 0.8, 0.9)
    assert patterns(of_start=True)[-1] == (0.6, 0.7, 0.7)


def test_ratios_set_by_hand_are_compared_with_averaging_at_their_own_reward() -> None:
    points, rows = table(), []
    for seed in (0, 1):
        for i, ratios in enumerate(patterns(of_start=True)[:3]):
            # on the line of averages skill is 80 - 5 * reward; above it by 1, 2, 3 and the seed
            reward, above = 2.5 + 0.5 * i, 1 + i + 2 * seed
            skill = 80 - 5 * reward + 2 * seed + above
            rows.append(
                row(seed, "pattern", reward + 5 * seed, skill, alpha=0.8, part=ratios_text(ratios))
            )
    short, whole = (pd.concat([points, pd.DataFrame(own)]) for own in (rows[:-1], rows))
    found = heterogeneous.pattern_gap(whole, 1, True, "reading")
    assert found.difference == pytest.approx(3)  # 2 and 4
    assert found.high == pytest.approx(3 + HALF, abs=1e-3)
    with pytest.raises(NotRecorded):  # one of the three bases is missing in seed 1
        heterogeneous.pattern_gap(short, 1, True, "reading")
    with pytest.raises(NotRecorded):
        heterogeneous.pattern_gap(whole, 2, True, "reading")


def test_claims_are_those_of_the_paper_in_its_direction() -> None:
    claims = heterogeneous.claim_table(table()).set_index("claim")
    rises = claims.loc["averaging the input part alone raises reward"]
    assert (rises["difference"], rises["verdict"], rises["agrees"]) == (1.5, "holds", "agrees")
    lowers = claims.loc["averaging the output part alone lowers reward"]
    assert (lowers["difference"], lowers["agrees"]) == (1.5, "agrees")
    falls = claims.loc["at fixed alpha reading falls with K (3 to 9)"]
    assert falls["difference"] == 3
    assert claims.loc["at fixed alpha reward rises with K (3 to 9)", "agrees"] == "agrees"
    absent = claims.loc["averaging the middle part alone lowers reward"]
    assert (absent["verdict"], absent["seeds"]) == ("not recorded", 0)
    assert np.isnan(absent["difference"])
    assert set(claims.loc[claims["place"] == "Fig. 15", "agrees"]) == {"not recorded"}


def test_what_is_not_recorded_is_said() -> None:
    points = table()
    with pytest.raises(NotRecorded, match="no rows of part 'middle'"):
        heterogeneous.part_effect(points, "middle", "skill")
    with pytest.raises(NotRecorded, match="Seed 0 has no rows of part 'middle'"):
        heterogeneous.part_curve(points, "middle", 0)
    with pytest.raises(NotRecorded, match="no rows of AdaMerging, K = 9"):
        heterogeneous.ahead(points, heterogeneous.ADAMERGING)
    with pytest.raises(NotRecorded, match=r"1 seed\(s\) have both HMA, K = 3"):
        heterogeneous.ahead(points[points["seed"] == 0], HMA)
    with pytest.raises(NotRecorded, match="Seed 0 has no row of theta_0"):
        heterogeneous.reported(points[points["algorithm"] != "sft"])


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "inconclusive"], "inconclusive"),
        (["inconclusive", "does not hold"], "does not hold"),
    ],
)
def test_claims_together(verdicts: list, together: str) -> None:
    assert heterogeneous.all_of(verdicts) == together


def test_a_curve_of_ratios_is_the_fewest_blocks_with_both_ends() -> None:
    rows = curve_rows(table(), "hma", 0)
    assert rows["skill"].tolist() == [80, 76, 71, 60]
    with pytest.raises(ValueError, match="each of its parts is one"):
        curve_rows(table(), "part", 0)
