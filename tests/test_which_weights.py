"""Averaging all weights, the linear layers or one part: differences worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from alignment_tax import figures
from alignment_tax.figures.style import alt_text
from alignment_tax.labels import SCORES
from alignment_tax.stats import compare
from alignment_tax.which_weights import (
    EVERYTHING,
    LINEAR,
    answer,
    by_alpha,
    changes,
    comparisons,
    gaps_at_equal_reward,
    linear_minus_everything,
    single_parts,
)

T = 12.706  # the t quantile for two seeds


def make_points() -> pd.DataFrame:
    """Two seeds: RSF (5, 70); averages (1, 80), (3, 76), (5, 70); linear layers (4, 74), norms.

    Seed 1 has one more reward, and its linear layers half a unit and a point of skill beyond that.
    """
    rows = []
    for s in (0, 1):
        models = [
            ("sft", "none", None, None, 0, 1, 80),
            ("rsf", "none", None, None, 1, 9, 75),
            ("rsf", "none", None, None, 2, 5, 70),
            ("rsf", "average", None, 0.0, 2, 1, 80),
            ("rsf", "average", None, 0.5, 2, 3, 76),
            ("rsf", "average", None, 1.0, 2, 5, 70),
            ("rsf", "part", "linear", 0.5, 2, 4 + s / 2, 74 + s),
            ("rsf", "part", "norms", 0.0, 2, 4.9 - s / 10, 70.5),
            ("rsf", "part", "input", 0.5, 2, 99, 99),
            ("rsf", "hma", "0.6|0.5|0.4", 0.5, 2, 99, 99),
            ("dpo", "part", "linear", 0.5, 2, 99, 99),
            ("dpo", "none", None, None, 7, 99, 99),
        ]
        for algorithm, method, part, alpha, rounds, reward, skill in models:
            rows.append(
                dict.fromkeys(SCORES, float(skill))
                | {"study": "tiny", "seed": s, "algorithm": algorithm, "method": method}
                | {"strength": np.nan, "part": part, "alpha": alpha, "rounds": rounds}
                | {"reward": float(reward + s), "n_items": 10}
            )
    return pd.DataFrame(rows)


@pytest.fixture
def changed() -> pd.DataFrame:
    return changes(make_points())


def test_changes_are_since_the_aligned_model_of_the_same_seed(changed: pd.DataFrame) -> None:
    assert set(changed["part"]) == {EVERYTHING, LINEAR, "norms"}
    assert by_alpha(changed, EVERYTHING, "reward").to_numpy().tolist() == [[-4, -2, 0]] * 2
    assert by_alpha(changed, EVERYTHING, "skill").to_numpy().tolist() == [[10, 6, 0]] * 2
    assert by_alpha(changed, LINEAR, "reward")[0.5].tolist() == [-1, -0.5]
    assert by_alpha(changed, LINEAR, "skill")[0.5].tolist() == [4, 5]


def test_a_seed_without_single_parts_is_left_out() -> None:
    points = make_points()
    half = points[(points["method"] != "part") | (points["seed"] == 1)]
    assert set(changes(half)["seed"]) == {1}
    assert changes(points[points["method"] != "part"]).empty


def test_linear_layers_against_everything_by_hand(changed: pd.DataFrame) -> None:
    assert linear_minus_everything(changed, "reward")[0.5].tolist() == [1, 1.5]
    assert linear_minus_everything(changed, "skill")[0.5].tolist() == [-2, -1]
    found = comparisons(changed)
    # 1 and 1.5: mean 1.25, standard error 0.25
    assert found["reward"].difference == found["reward at 0.5"].difference == 1.25
    assert found["reward"].high == pytest.approx(1.25 + T * 0.25, abs=1e-3)
    assert found["skill"].low == pytest.approx(-1.5 - T * 0.5, abs=1e-3)


def test_at_equal_reward_both_are_read_as_lines_to_the_aligned_model(changed: pd.DataFrame) -> None:
    # seed 0: from (-1, 4) and (-2, 6) to (0, 0): at reward r skill -4 r and -3 r, r from -1 to 0
    # seed 1: from (-0.5, 5): -10 r and -3 r, r from -0.5 to 0
    assert gaps_at_equal_reward(changed).tolist() == pytest.approx([0.5, 1.75])


def test_one_part_alone_by_hand(changed: pd.DataFrame) -> None:
    found = single_parts(changed, "reward")
    assert set(found) == {"norms at 0"}
    # -0.1 and -0.2
    assert found["norms at 0"].difference == pytest.approx(-0.15)
    assert found["norms at 0"].low == pytest.approx(-0.15 - T * 0.05, abs=1e-3)


def test_the_answer_follows_the_intervals() -> None:
    def said(reward: list[float], skill: list[float], equal: list[float]) -> str:
        names = {"reward": reward, "skill": skill, "skill at equal reward": equal}
        return answer({name: compare.compare_seeds(values) for name, values in names.items()})

    undecided = [-1.0, 1.0]
    # standard error 0.01
    text = said([0.99, 1.01], [-2.01, -1.99], undecided)
    assert "**At equal α it matters**" in text
    assert "more reward, +1.00 units (+0.87 to +1.13), and less skill, -2.00 points" in text
    assert "At equal reward no difference in skill is shown" in text
    text = said(undecided, undecided, [0.99, 1.01])
    assert "At equal α no difference is shown" in text
    assert "no other reward that these seeds can tell" in text
    assert "the linear layers alone trade better" in text
    assert "trade worse" in said(undecided, undecided, [-1.01, -0.99])


def test_the_figure_shows_what_the_table_holds() -> None:
    points = make_points()
    table = figures.which_weights_table(points)
    assert len(table) == 3 + 1 + 1
    [row] = table[table["part"] == LINEAR].to_dict("records")
    # -1 and -0.5: mean -0.75, standard error 0.25
    assert row["reward"] == -0.75
    assert row["reward_low"] == pytest.approx(-0.75 - T * 0.25, abs=1e-3)
    figure = figures.which_weights(points, recorded=True)
    assert "linear layers, alpha 0.5: reward -0.75" in alt_text(figure)
    with pytest.raises(figures.FigureError, match="method 'part'"):
        figures.which_weights(points[points["method"] != "part"])
