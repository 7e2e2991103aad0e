"""Forgetting against KL: small tables, every number worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from points import made_up_points, versus

from alignment_tax.stats import forgetting
from alignment_tax.stats.calibration import calibration_error


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


def test_two_algorithms_at_the_same_kl():
    points = made_up_points()
    found = versus(points, "rsf/early_stopping", "ppo/early_stopping", measure="equal_kl")
    # at KL 2, PPO's last round has 76; RSF, between (1, 78 - s) and (4, 70 - 2 s), a third further
    assert found.difference == pytest.approx(((78 - 8 / 3 - 76) + (77 - 9 / 3 - 76)) / 2)
    # means -10 and -3
    assert forgetting.own_share(np.array([-8.0, -12.0]), np.full(2, -3.0)) == pytest.approx(0.7)
