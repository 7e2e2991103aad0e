"""Rows of other methods beside the main line change no number and no figure that tells of it."""

from collections.abc import Callable
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from alignment_tax import figures, report
from alignment_tax.figures.style import alt_text, png
from alignment_tax.labels import SCORES
from alignment_tax.results.points import curve_rows
from alignment_tax.results.recorded import Recorded, recorded, recorded_items
from alignment_tax.results.select import Selection
from alignment_tax.stats import claims, methods
from alignment_tax.stats.capped_bleu import lost_translations, table
from alignment_tax.stats.claim_list import CLAIMS

#: Rows as they are recorded beside the main line: same rounds of RSF, or another algorithm's.
OTHERS = [
    {"method": "part", "alpha": 0.4, "part": "linear"},
    {"method": "part", "alpha": 0.0, "part": "norms"},
    {"method": "hma", "alpha": 0.4, "part": "0.6|0.4|0.2"},
    {"method": "hma_eq11", "alpha": 0.4, "part": "0.5|0.4|0.3"},
    {"method": "distil"},
    {"method": "distil+average", "alpha": 0.3},
    {"method": "l2", "strength": 0.1},
    {"method": "none", "algorithm": "dpo"},
    {"method": "average", "algorithm": "dpo", "alpha": 0.3},
]


def with_others(points: pd.DataFrame) -> pd.DataFrame:
    """Every seed with a row of each method, better than anything that was recorded."""
    scores = [*SCORES, "reward", "gold", "kl"]
    ends = points[(points["algorithm"] == "rsf") & (points["method"] == "none")]
    rows = []
    for _, end in ends[ends["rounds"] == ends["rounds"].max()].iterrows():
        for number, other in enumerate(OTHERS):
            key = f"other-{number}-{end['seed']}"
            better = {name: end[name] + 20 for name in scores} | {"n_items": 99_999, "key": key}
            rows.append(end.to_dict() | better | other)
    # as they are merged into the table: seed by seed
    both = pd.concat([points, pd.DataFrame(rows)[points.columns]], ignore_index=True)
    return both.sort_values("seed", kind="stable", ignore_index=True)


@pytest.fixture(scope="module")
def run() -> Recorded:
    found = recorded()
    return replace(found, points=figures.main_line(found.points))


@pytest.fixture(scope="module")
def more(run: Recorded) -> Recorded:
    return replace(run, points=with_others(run.points))


def test_the_main_line_is_what_is_left(run: Recorded, more: Recorded) -> None:
    assert len(more.points) == len(run.points) + len(OTHERS) * len(run.seeds)
    left = figures.main_line(more.points).reset_index(drop=True)
    pd.testing.assert_frame_equal(left, run.points.reset_index(drop=True), check_dtype=False)
    # a table that was just made has None where a stored one has "none"
    unnamed = run.points.assign(method=run.points["method"].mask(lambda m: m == "none", None))
    assert len(figures.main_line(unnamed)) == len(run.points)
    with pytest.raises(figures.TableError, match="needs the column"):
        figures.main_line(run.points.drop(columns="method"))


def test_the_readme_says_the_same(run: Recorded, more: Recorded) -> None:
    assert report.skill_table(figures.main_line(more.points)) == report.skill_table(run.points)
    main = [c for c in CLAIMS.values() if c.chapter in ("04", "05") and "capped" not in c.score]
    told, alone = (claims.table(each.points, main) for each in (more, run))
    pd.testing.assert_frame_equal(told, alone)
    items = recorded_items()
    pd.testing.assert_frame_equal(
        lost_translations(more.points, items), lost_translations(run.points, items)
    )


def test_items_of_other_models_are_left_alone(run: Recorded) -> None:
    points, items = run.points[run.points["method"] == "none"], recorded_items()
    extra = items[items["key"] == items["key"].iloc[0]].assign(key="other")
    both = pd.concat([items.astype({"key": str}), extra])
    pd.testing.assert_frame_equal(table(points, both), table(points, items))


def test_no_later_round_of_another_method_becomes_the_last_one(run: Recorded) -> None:
    later = run.points[run.points["algorithm"] == "rsf"].assign(method="l2_in_rounds", rounds=8)
    both = Selection(pd.concat([run.points, later]))
    assert set(both.model("rsf/last")["rounds"]) == {6}


DRAWN: list[Callable[[pd.DataFrame], Figure]] = [
    figures.signature,
    figures.rsf_rounds,
    figures.tax_bars,
    figures.alpha_curves,
    figures.reward_hacking,
]


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_figures_of_the_main_line_are_the_same(
    run: Recorded, more: Recorded, draw: Callable[[pd.DataFrame], Figure]
) -> None:
    tables = [figures.table(draw(each.points)) for each in (more, run)]
    pd.testing.assert_frame_equal(*tables, check_dtype=False)


def test_a_front_of_averaging_has_no_other_method(run: Recorded, more: Recorded) -> None:
    others = more.points[more.points["algorithm"] != "dpo"]
    for draw in (figures.front, figures.fronts):
        drawn = (draw(others, methods=["average"]), draw(run.points))
        pd.testing.assert_frame_equal(*map(figures.table, drawn), check_dtype=False)
    figure = figures.front(figures.main_line(more.points))
    assert alt_text(figure) == alt_text(figures.front(run.points))
    assert png(figure) == png(figures.front(run.points))
    plt.close(figure)


def test_the_page_of_the_real_model_lists_the_main_line_alone() -> None:
    real, items = recorded(report.REAL), recorded_items(report.REAL)
    other = replace(real, points=with_others(real.points))
    page = report.one_seed_page(other, items, report.over_items(other, items))
    assert page == report.one_seed_page(real, items, report.over_items(real, items))


def test_curves_are_of_one_method_and_parts_have_none(run: Recorded, more: Recorded) -> None:
    for method in ("average", "early_stopping"):
        np.testing.assert_array_equal(more.curve(method, 0), run.curve(method, 0))
    with pytest.raises(ValueError, match="each of its parts is one"):
        more.curve("part", 0)
    assert "part" not in methods.recorded_methods(more.points)
    assert {"hma", "distil+average", "l2"} <= set(methods.recorded_methods(more.points))


def test_a_curve_of_ratios_does_not_mix_numbers_of_blocks(more: Recorded) -> None:
    three = more.points[more.points["method"] == "hma"]
    six = three.assign(alpha=0.5, part="0.6|0.5|0.4|0.6|0.5|0.4|norms=0.0")
    rows = curve_rows(pd.concat([more.points, six]), "hma", 0)
    assert rows["part"].dropna().tolist() == ["0.6|0.4|0.2"]
