"""Selectors of rows, and what averaging a subset of the weights changes."""

from __future__ import annotations

import pandas as pd
import pytest
from points import made_up_points, point

from alignment_tax.results.points import (
    NotRecorded,
    curve_rows,
    present,
    shared,
    start,
)


def test_what_is_recorded_of_the_algorithms() -> None:
    points = made_up_points()
    assert present(points) == ["rsf", "ppo"]
    with pytest.raises(ValueError, match="no theta_0"):
        start(points[points["algorithm"] != "sft"], "skill")
    apart = points[(points["seed"] == 0) | (points["algorithm"] != "ppo")]
    assert set(shared(apart)["seed"]) == {0}


def test_a_remedy_inside_the_rounds_ends_at_rsf() -> None:
    more = pd.DataFrame([point(0, "rsf", 1, 75, "l2_in_rounds", strength=0.1)])
    points = pd.concat([made_up_points(), more], ignore_index=True)
    assert curve_rows(points, "l2_in_rounds", 0)["skill"].tolist() == [80, 75, 70]
    with pytest.raises(NotRecorded, match="no points of method 'kd', seed 0"):
        curve_rows(points, "kd", 0)
