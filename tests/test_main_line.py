"""Rows of other methods, and seeds without RSF, change nothing that is told of the main line."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from alignment_tax import figures, report
from alignment_tax.figures.style import png
from alignment_tax.labels import FORGIVEN, SCORES
from alignment_tax.results.points import shared
from alignment_tax.results.recorded import recorded, recorded_items
from alignment_tax.results.select import Selection
from alignment_tax.spec import block_count
from alignment_tax.stats import claims, methods
from alignment_tax.stats.capped_bleu import lost_to_talk
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


def with_others(points):
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
def run():
    found = recorded()
    return replace(found, points=figures.main_line(found.points))


@pytest.fixture(scope="module")
def more(run):
    return replace(run, points=with_others(run.points))


def test_the_main_line_is_what_is_left(run, more):
    assert len(more.points) == len(run.points) + len(OTHERS) * len(run.seeds)
    left = figures.main_line(more.points).reset_index(drop=True)
    pd.testing.assert_frame_equal(left, run.points.reset_index(drop=True), check_dtype=False)
    # a table that was just made has None where a stored one has "none"
    unnamed = run.points.assign(method=run.points["method"].mask(lambda m: m == "none", None))
    assert len(figures.main_line(unnamed)) == len(run.points)
    with pytest.raises(figures.TableError, match="needs the column"):
        figures.main_line(run.points.drop(columns="method"))


def test_the_readme_says_the_same(run, more):
    assert report.skill_table(figures.main_line(more.points)) == report.skill_table(run.points)
    main = [c for c in CLAIMS.values() if c.chapter in ("04", "05")]
    told, alone = (claims.table(each.points, main) for each in (more, run))
    pd.testing.assert_frame_equal(told, alone)
    items = recorded_items()
    pd.testing.assert_series_equal(
        lost_to_talk(more.points, items), lost_to_talk(run.points, items)
    )


def test_no_later_round_of_another_method_becomes_the_last_one(run):
    later = run.points[run.points["algorithm"] == "rsf"].assign(method="l2_in_rounds", rounds=99)
    both = Selection(pd.concat([run.points, later]))
    last = run.points.loc[run.points["algorithm"] == "rsf", "rounds"].max()
    assert set(both.model("rsf/last")["rounds"]) == {last}


DRAWN = [figures.front, figures.rsf_rounds, figures.tax_bars]
DRAWN += [figures.alpha_curves, figures.reward_hacking]


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_figures_of_the_main_line_are_the_same(run, more, draw):
    tables = [figures.table(draw(each.points)) for each in (more, run)]
    pd.testing.assert_frame_equal(*tables, check_dtype=False)


def test_a_front_of_averaging_has_no_other_method(run, more):
    others = more.points[more.points["algorithm"] != "dpo"]
    for draw in (figures.front, figures.fronts):
        drawn = (draw(figures.main_line(others)), draw(run.points))
        pd.testing.assert_frame_equal(*map(figures.table, drawn), check_dtype=False)
    figure = figures.front(figures.main_line(more.points))
    assert png(figure) == png(figures.front(run.points))
    plt.close(figure)


def test_the_page_of_the_real_model_lists_the_main_line_alone():
    real, items = recorded(report.REAL), recorded_items(report.REAL)
    other = replace(real, points=with_others(real.points))
    pages = []
    for each in (real, other):
        found = claims.table(figures.main_line(each.points), items=items)
        pages.append(report.one_seed_page(each, items, found))
    assert pages[0] == pages[1]


def test_curves_are_of_one_method_and_parts_have_none(run, more):
    for method in ("average", "early_stopping"):
        np.testing.assert_array_equal(more.curve(method, 0), run.curve(method, 0))
    with pytest.raises(ValueError, match="each of its parts is one"):
        more.curve("part", 0)
    assert "part" not in methods.recorded_methods(more.points)
    assert {"hma", "distil+average", "l2"} <= set(methods.recorded_methods(more.points))


# seeds that have DPO and PPO, but no RSF

OLD, LATER = (0, 1), 5


@pytest.fixture(scope="module")
def few():
    """Two seeds of the recorded run, in which DPO and PPO have no parts and no ratios per block.

    What is not recorded of another algorithm yet is made up of RSF's rows.
    """
    whole = recorded()
    points = whole.points[whole.points["seed"].isin(OLD)]
    plain = points["method"].isin(["none", "average", "kl_coef"])
    points = points[(points["algorithm"] == "rsf") | plain]
    own = points[(points["algorithm"] == "rsf") & points["method"].isin(["none", "average"])]
    missing = sorted({"dpo", "rloo", "ppo"} - set(points["algorithm"]))
    made_up = [own.assign(algorithm=name) for name in missing]
    return replace(whole, points=pd.concat([points, *made_up], ignore_index=True))


@pytest.fixture(scope="module")
def later(few):
    """The same and two seeds more, of which theta_0, DPO and PPO are recorded, with their parts.

    The new seeds' skills are 10 points higher: whatever takes them in by mistake moves.
    """
    points = few.points
    others = points["algorithm"].isin(["dpo", "ppo"]) & (points["method"] != "kl_coef")
    added = [points[points["algorithm"].isin(["base", "sft"]) | others]]
    hma = points["part"].map(block_count).eq(3) & points["method"].eq("hma")
    own = points[(points["algorithm"] == "rsf") & (points["method"].eq("part") | hma)]
    added += [own.assign(algorithm=name) for name in ("dpo", "ppo")]
    new = pd.concat(added)
    scores = ["skill", "commonsense", "reading", "translation", "bleu"]
    new = new.assign(seed=new["seed"] + LATER, **{score: new[score] + 10 for score in scores})
    return replace(few, points=pd.concat([points, new], ignore_index=True))


def about(*starts: str) -> list[claims.Claim]:
    own = [c for c in CLAIMS.values() if c.id.startswith(starts)]
    return [claim for claim in own if claim.score not in FORGIVEN.values()]


def test_what_is_said_of_rsf_stays(few, later):
    assert later.seeds == list(OLD)
    lines = [figures.main_line(each.points) for each in (later, few)]
    assert report.skill_table(lines[0]) == report.skill_table(lines[1])
    rsf = about("tax.rsf", "gain.rsf", "average_vs_early.rsf", "hma_vs_average.k3", "part.input",
                "average.rsf", "front.", "hma_k9", "pattern")  # fmt: skip
    # RSF, RLOO have the old seeds alone: algorithms side by side are of seeds that all have
    beside = [claim for claim in about("tax.", "gain.", "average_vs_early.") if claim.shared]
    before, after = (claims.table(each.points, [*rsf, *beside]) for each in (few, later))
    pd.testing.assert_frame_equal(after, before)
    items = recorded_items()
    ends = later.points[later.points["method"] == "none"]
    items = items[(items["slot"] == "bleu") & items["key"].isin(ends["key"])]
    pd.testing.assert_series_equal(*(lost_to_talk(line, items) for line in lines))


def test_shared_seeds_are_those_of_every_algorithm(later):
    assert set(shared(later.points)["seed"]) == set(OLD)
    both = later.points[later.points["algorithm"].isin(["base", "sft", "dpo", "ppo"])]
    assert set(shared(both)["seed"]) == {0, 1, 5, 6}
    apart = pd.DataFrame({"seed": [0, 1], "algorithm": ["dpo", "ppo"], "method": ["none", "none"]})
    assert len(shared(apart)) == 2  # none has all: nothing is left out


def test_parts_of_another_algorithm_are_of_its_own_seeds(later):
    names = ("part.dpo.input.skill", "hma_vs_average.dpo.k3.reading")
    table = claims.table(later.points, [CLAIMS[name] for name in names])
    assert table["seeds"].tolist() == ["5 6", "5 6"]


def test_the_table_of_remedies_stays(few, later):
    before, after = (methods.method_table(each.points, each.costs) for each in (few, later))
    pd.testing.assert_frame_equal(after, before)


NAMED = "rsf_rounds tax_bars alpha_curves reward_hacking front search_fronts part_curves"
NAMED += " shares_along remedy_fronts algorithm_fronts taxes rounds"


@pytest.mark.parametrize("name", NAMED.split())
def test_a_figure_names_the_seeds_it_draws(name, few, later):
    drawn = (getattr(figures, name)(each.points, recorded=True) for each in (few, later))
    before, after = map(figures.alt_text, drawn)
    assert after == before  # the caption is in the alt text, with all the numbers
    assert "seeds 0-1" in after
