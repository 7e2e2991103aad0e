"""Fronts, hypervolume, intervals and verdicts, against numbers worked out by hand."""

import numpy as np
import pytest
from conftest import refuses
from hypothesis import given, strategies as st

from alignment_tax.stats.compare import compare_seeds, interval, paired_bootstrap, verdict
from alignment_tax.stats.pareto import gap_at_equal_reward, hypervolume, interpolate

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


#: Low and high end, direction, smallest effect of interest, verdict.
VERDICTS = [
    (0.1, 2.0, 1, 0.0, "holds"),
    (-2.0, -0.1, -1, 0.5, "holds"),
    (-2.0, -0.1, 1, 0.5, "opposite"),
    (0.1, 2.0, -1, 0.0, "opposite"),
    (0.0, 2.0, 1, 0.5, "inconclusive"),
    (-1.0, 0.0, 1, 0.5, "inconclusive"),
    # the smallest effect of interest wins over both other verdicts, and at its edge, too
    (0.1, 0.5, 1, 0.5, "negligible"),
    (-0.5, -0.1, 1, 0.5, "negligible"),
    (-0.4, 0.4, -1, 0.5, "negligible"),
    (0.4, 0.6, 1, 0.5, "holds"),
    (0.0, 0.0, 1, 0.0, "negligible"),
]


def test_verdicts_and_intervals_by_hand() -> None:
    assert [(*row, verdict(*row)) for *row, _ in VERDICTS] == VERDICTS
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
    for a, b, said in (
        ([np.ones(3)], [np.ones(4)], "other items than"),
        ([np.ones(0)], [np.ones(0)], "no items"),
        ([[np.nan]], [np.ones(1)], "NaN or infinity"),
    ):
        refuses(ValueError, said, paired_bootstrap, a, b, rng=rng)
