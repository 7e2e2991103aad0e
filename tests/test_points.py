"""Selectors of rows, and what averaging a subset of the weights changes."""

from __future__ import annotations

import pandas as pd
import pytest
from points import made_up_points, point

from alignment_tax.results.points import (
    EVERYTHING,
    LINEAR,
    NotRecorded,
    curve_rows,
    own_rows,
    present,
    shared,
    start,
    subset_changes,
)


def test_what_is_recorded_of_the_algorithms() -> None:
    points = made_up_points()
    assert present(points) == ["rsf", "ppo"]
    with pytest.raises(ValueError, match="no theta_0"):
        start(points[points["algorithm"] != "sft"], "skill")
    apart = points[(points["seed"] == 0) | (points["algorithm"] != "ppo")]
    assert set(shared(apart)["seed"]) == {0}


def test_a_chapter_compares_its_own_rows() -> None:
    points = made_up_points()
    own = own_rows(points, ["l2"])
    assert set(own["method"]) == {"none", "average", "distil", "distil+average", "l2"}
    assert set(own["algorithm"]) == {"base", "sft", "rsf", "rsf_random"}


def test_a_remedy_inside_the_rounds_ends_at_rsf() -> None:
    more = pd.DataFrame([point(0, "rsf", 1, 75, "l2_in_rounds", strength=0.1)])
    points = pd.concat([made_up_points(), more], ignore_index=True)
    assert curve_rows(points, "l2_in_rounds", 0)["skill"].tolist() == [80, 75, 70]
    with pytest.raises(NotRecorded, match="no points of method 'kd', seed 0"):
        curve_rows(points, "kd", 0)


def test_changes_of_a_subset_are_since_the_aligned_model_of_the_same_seed() -> None:
    own = [point(s, "rsf", 3 + s / 2, 74 + s, "part", alpha=0.5, part="linear") for s in (0, 1)]
    points = pd.concat([made_up_points(), pd.DataFrame(own)], ignore_index=True)
    changed = subset_changes(points)
    assert set(changed["part"]) == {EVERYTHING, LINEAR}
    linear = changed[changed["part"] == LINEAR].set_index("seed")
    assert linear["reward"].tolist() == [-1, -0.5]
    assert linear["skill"].tolist() == [4, 7]
    half = points[(points["part"] != "linear") | (points["seed"] == 1)]
    assert set(subset_changes(half)["seed"]) == {1}
    assert subset_changes(points[points["method"] != "part"]).empty
