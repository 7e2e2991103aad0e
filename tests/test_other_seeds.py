"""Seeds that have DPO and PPO, but no RSF: nothing that is told of RSF may change by them."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from alignment_tax.talk import lost_to_talk

from alignment_tax import algorithms_claims, claims, figures, heterogeneous, remedies, report
from alignment_tax.results.recorded import Recorded, recorded, recorded_items

OLD, LATER = (0, 1), 5


@pytest.fixture(scope="module")
def run() -> Recorded:
    """Two seeds of the recorded run, in which DPO and PPO have no parts and no ratios per block."""
    whole = recorded()
    points = whole.points[whole.points["seed"].isin(OLD)]
    plain = points["method"].isin(["none", "average", "kl_coef"])
    return replace(whole, points=points[(points["algorithm"] == "rsf") | plain])


@pytest.fixture(scope="module")
def more(run: Recorded) -> Recorded:
    """The same and two seeds more, of which theta_0, DPO and PPO are recorded, with their parts.

    The new seeds' skills are 10 points higher: whatever takes them in by mistake moves.
    """
    points = run.points
    others = points["algorithm"].isin(["dpo", "ppo"]) & (points["method"] != "kl_coef")
    added = [points[points["algorithm"].isin(["base", "sft"]) | others]]
    hma = points["part"].map(heterogeneous.block_count).eq(3) & points["method"].eq("hma")
    own = points[(points["algorithm"] == "rsf") & (points["method"].eq("part") | hma)]
    added += [own.assign(algorithm=name) for name in ("dpo", "ppo")]
    new = pd.concat(added)
    scores = ["skill", "commonsense", "reading", "translation", "bleu"]
    new = new.assign(seed=new["seed"] + LATER, **{score: new[score] + 10 for score in scores})
    return replace(run, points=pd.concat([points, new], ignore_index=True))


def test_what_the_readme_says_of_rsf_stays(run: Recorded, more: Recorded) -> None:
    assert more.seeds == list(OLD)
    assert report.claims(more) == report.claims(run)
    assert report.skill_table(more) == report.skill_table(run)
    assert report.ratios_compared(more.points) == report.ratios_compared(run.points)
    # RSF, RLOO have the old seeds alone: algorithms side by side are of seeds that all have
    assert report.algorithms_compared(more.points) == report.algorithms_compared(run.points)
    items = recorded_items()
    ends = more.points[more.points["method"] == "none"]
    items = items[(items["slot"] == "bleu") & items["key"].isin(ends["key"])]
    pd.testing.assert_series_equal(lost_to_talk(more, items), lost_to_talk(run, items))


def test_changes_are_of_seeds_that_have_both_ends(run: Recorded, more: Recorded) -> None:
    pd.testing.assert_series_equal(
        claims.rise(more.points, "skill"), claims.rise(run.points, "skill")
    )
    one, other = pd.Series({0: 5.0, 1: 7.0}), pd.Series({1: 3.0, 2: 9.0})
    assert claims.minus(one, other).to_dict() == {1: 4.0}
    told = [claims.paper_table(each.points, 0.0, None) for each in (run, more)]
    pd.testing.assert_frame_equal(*told)


def test_a_front_of_rsf_and_another_is_of_the_seeds_of_both(run: Recorded, more: Recorded) -> None:
    for method in ("average", "none"):
        before, after = (
            algorithms_claims.front_claims(each.points, method=method) for each in (run, more)
        )
        assert after == before


def test_shared_seeds_are_those_of_every_algorithm(more: Recorded) -> None:
    kept = algorithms_claims.shared(more.points)
    assert set(kept["seed"]) == set(OLD)
    both = more.points[more.points["algorithm"].isin(["base", "sft", "dpo", "ppo"])]
    assert set(algorithms_claims.shared(both)["seed"]) == {0, 1, 5, 6}
    apart = pd.DataFrame({"seed": [0, 1], "algorithm": ["dpo", "ppo"], "method": ["none", "none"]})
    assert len(algorithms_claims.shared(apart)) == 2  # none has all: nothing is left out


def test_parts_and_ratios_are_compared_seed_by_seed(run: Recorded, more: Recorded) -> None:
    for table in (heterogeneous.search_table, heterogeneous.put_back):
        pd.testing.assert_frame_equal(table(more.points), table(run.points))
    found = heterogeneous.claim_table(more.points).set_index("claim")
    before = heterogeneous.claim_table(run.points).set_index("claim")
    rsf = ~found.index.str.startswith(("DPO:", "PPO:"))
    pd.testing.assert_frame_equal(found[rsf], before[rsf])
    # the parts of DPO are of the new seeds alone, minus DPO's own aligned model of these
    claim = found.loc["DPO: averaging the input part alone raises mean skill"]
    of_dpo = heterogeneous.of_algorithm(more.points, "dpo")
    assert set(heterogeneous.part_gaps(of_dpo, "input", "skill").index) == {5, 6}
    assert claim["seeds"] == 2
    assert found.loc["DPO: HMA (K = 3) keeps more reading than averaging at equal reward", "seeds"]


def test_the_table_of_remedies_stays(run: Recorded, more: Recorded) -> None:
    before, after = (remedies.method_table(each.points, each.costs) for each in (run, more))
    pd.testing.assert_frame_equal(after, before)


DRAWN = ("rsf_rounds", "tax_bars", "alpha_curves", "reward_hacking", "front", "search_fronts")
DRAWN += ("part_curves", "ablation", "recorded_ratios", "remedy_fronts", "which_weights")
DRAWN += ("algorithm_tax", "algorithm_rounds", "algorithm_fronts", "over_optimisation")


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_names_the_seeds_it_draws(name: str, run: Recorded, more: Recorded) -> None:
    before, after = (
        figures.alt_text(getattr(figures, name)(each.points, recorded=True)) for each in (run, more)
    )
    assert after == before  # the caption is in the alt text, with all the numbers
    assert "seeds 0-1" in after


def test_of_rows_of_other_seeds_each_is_named(more: Recorded) -> None:
    drawn = figures.part_curves(more.points, recorded=True, algorithms=("rsf", "dpo", "ppo"))
    assert "recorded run tiny, RSF seeds 0-1; DPO, PPO seeds 5-6, " in figures.alt_text(drawn)
    of_dpo = heterogeneous.of_algorithm(more.points, "dpo")
    assert "seeds 5-6" in figures.alt_text(figures.search_fronts(of_dpo, recorded=True))
    rows = more.points
    pair = {name: rows[rows["algorithm"] == name] for name in ("rsf", "rloo")}
    assert figures.groups_caption(pair, recorded=True).startswith("recorded run tiny, seeds 0-1, ")


def parts_told(points: pd.DataFrame) -> str:
    """Return what the page of all comparisons says of parts."""
    return "\n".join(report.parts_markdown(points, report.parts_compared(points)))


def test_the_readme_tells_parts_of_every_algorithm_by_its_own_seeds(more: Recorded) -> None:
    told = parts_told(more.points)
    assert "Seeds: RSF 2, DPO 2, PPO 2." in told
    of_ppo = heterogeneous.of_algorithm(more.points, "ppo")
    found = heterogeneous.part_effect(of_ppo, "input", "reward")
    line = next(row for row in told.splitlines() if row.startswith("| PPO: averaging the input"))
    assert f"| {found.difference:+.2f} |" in line
    assert told.count("HMA, K = 3 keeps more skill") == 2  # RSF's is told with all searches
    assert parts_told(more.points[more.points["method"] != "part"]) == ""
    no_input = more.points["part"].ne("input") | more.points["algorithm"].ne("dpo")
    of_others = parts_told(more.points[no_input])
    assert "Seeds: RSF 2, PPO 2." in of_others  # parts, but not the one that the claim is about
    assert "DPO" not in of_others
