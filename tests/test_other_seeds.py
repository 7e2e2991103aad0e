"""Seeds that have DPO and PPO, but no RSF: nothing that is told of RSF may change by them."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from alignment_tax import figures, report
from alignment_tax.results.points import main_line, shared
from alignment_tax.results.recorded import Recorded, recorded, recorded_items
from alignment_tax.spec import block_count
from alignment_tax.stats import claims, methods
from alignment_tax.stats.capped_bleu import lost_to_talk
from alignment_tax.stats.claim_list import CLAIMS

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
    hma = points["part"].map(block_count).eq(3) & points["method"].eq("hma")
    own = points[(points["algorithm"] == "rsf") & (points["method"].eq("part") | hma)]
    added += [own.assign(algorithm=name) for name in ("dpo", "ppo")]
    new = pd.concat(added)
    scores = ["skill", "commonsense", "reading", "translation", "bleu"]
    new = new.assign(seed=new["seed"] + LATER, **{score: new[score] + 10 for score in scores})
    return replace(run, points=pd.concat([points, new], ignore_index=True))


def about(*starts: str) -> list[claims.Claim]:
    own = [c for c in CLAIMS.values() if c.id.startswith(starts)]
    return [claim for claim in own if not claim.score.startswith("capped")]


def test_what_is_said_of_rsf_stays(run: Recorded, more: Recorded) -> None:
    assert more.seeds == list(OLD)
    assert report.skill_table(main_line(more.points)) == report.skill_table(main_line(run.points))
    rsf = about("tax.rsf", "gain.rsf", "average_vs_early.rsf", "hma_vs_average.k3", "part.input",
                "average.rsf", "front.", "hma_k9", "pattern")  # fmt: skip
    # RSF, RLOO have the old seeds alone: algorithms side by side are of seeds that all have
    beside = [claim for claim in about("tax.", "gain.", "average_vs_early.") if claim.shared]
    before, after = (claims.table(each.points, [*rsf, *beside]) for each in (run, more))
    pd.testing.assert_frame_equal(after, before)
    items = recorded_items()
    ends = more.points[more.points["method"] == "none"]
    items = items[(items["slot"] == "bleu") & items["key"].isin(ends["key"])]
    both = (lost_to_talk(main_line(each.points), items) for each in (more, run))
    pd.testing.assert_series_equal(*both)


def test_shared_seeds_are_those_of_every_algorithm(more: Recorded) -> None:
    kept = shared(more.points)
    assert set(kept["seed"]) == set(OLD)
    both = more.points[more.points["algorithm"].isin(["base", "sft", "dpo", "ppo"])]
    assert set(shared(both)["seed"]) == {0, 1, 5, 6}
    apart = pd.DataFrame({"seed": [0, 1], "algorithm": ["dpo", "ppo"], "method": ["none", "none"]})
    assert len(shared(apart)) == 2  # none has all: nothing is left out


def test_parts_of_another_algorithm_are_of_its_own_seeds(more: Recorded) -> None:
    names = ("part.dpo.input.skill", "hma_vs_average.dpo.k3.reading")
    table = claims.table(more.points, [CLAIMS[name] for name in names])
    assert table["seeds"].tolist() == ["5 6", "5 6"]


def test_the_table_of_remedies_stays(run: Recorded, more: Recorded) -> None:
    before, after = (methods.method_table(each.points, each.costs) for each in (run, more))
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
    rows = more.points
    pair = {name: rows[rows["algorithm"] == name] for name in ("rsf", "rloo")}
    assert figures.groups_caption(pair, recorded=True).startswith("recorded run tiny, seeds 0-1, ")
