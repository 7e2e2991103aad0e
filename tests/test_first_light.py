"""One recorded seed: differences are paired by item, and the page is the recorded run's."""

import numpy as np
import pandas as pd
import pytest

from alignment_tax import first_light, presets, report, settings
from alignment_tax.labels import BLEU_COLUMNS
from alignment_tax.results.items import bleu_statistics
from alignment_tax.results.recorded import Recorded, recorded
from alignment_tax.spec import COLUMNS

REFERENCE = "the black cat sleeps in the old house"
KEYS = {"sft": "k0", "rsf": "k1", "average": "k2"}


def items(right: dict[str, int], n: int = 40) -> pd.DataFrame:
    """Items of three models: `right` of n items are right in every slot."""
    rows = []
    for model, count in right.items():
        for item in range(n):
            good = item < count
            for slot in ("one_hop", "span"):
                blank = dict.fromkeys(BLEU_COLUMNS, np.nan)
                rows.append((KEYS[model], slot, item, float(good), blank))
            counts = bleu_statistics(REFERENCE, REFERENCE if good else "no")
            rows.append(
                (KEYS[model], "bleu", item, np.nan, dict(zip(BLEU_COLUMNS, counts, strict=True)))
            )
    return pd.DataFrame(
        [{"key": k, "slot": s, "item": i, "value": v, "seed": 0, **b} for k, s, i, v, b in rows]
    )


def points() -> pd.DataFrame:
    rows = [
        {"algorithm": "sft", "method": "none", "rounds": 0, "key": "k0", "skill": 90.0},
        {"algorithm": "rsf", "method": "none", "rounds": 1, "key": "old", "skill": 50.0},
        {"algorithm": "rsf", "method": "none", "rounds": 2, "key": "k1", "skill": 50.0},
        {"algorithm": "rsf", "method": "average", "alpha": 0.5, "rounds": 2, "key": "k2"},
    ]
    table = pd.DataFrame(rows, columns=COLUMNS).assign(study="small", seed=0, n_items=120)
    return table.fillna({"one_hop": 1, "span": 1, "bleu": 1, "skill": 1, "reward": 0, "gold": 0})


def run(seeds: tuple[int, ...] = (0,)) -> Recorded:
    small = presets.fit_to_device(presets.SMALL, "cpu")
    provenance = {
        "preset": presets.as_dict(small),
        "device": "cpu",
        "threads": 2,
        "seconds_of_stages_last_seed": {"all stages": 600.0},
    }
    table = pd.concat([points().assign(seed=seed) for seed in seeds])
    return Recorded(table, pd.DataFrame(), pd.DataFrame(), provenance)


def test_costs_are_theta_0_minus_the_last_round_by_item():
    table = items({"sft": 36, "rsf": 20, "average": 30})
    found = first_light.claims(first_light.one_seed(run(), table))
    cost = found["RSF costs reading (theta_0 minus RSF)"]
    assert cost.difference == pytest.approx(100 * (36 - 20) / 40)
    # 16 of 40 items were lost: the standard error of the paired difference is 7.7 points
    assert cost.low == pytest.approx(40 - 1.96 * 7.75, abs=2.5)
    assert cost.verdict == "holds"
    back = found["averaging gives skill back (alpha 0.5 minus RSF)"]
    assert back.difference > 0


def test_no_difference_is_inconclusive_or_does_not_hold():
    table = items({"sft": 20, "rsf": 20, "average": 20})
    cost = first_light.claims(first_light.one_seed(run(), table))
    assert all(each.verdict == "does not hold" for each in cost.values())


def test_several_seeds_are_refused():
    with pytest.raises(ValueError, match="2 seeds"):
        first_light.one_seed(run((0, 1)), items({"sft": 1, "rsf": 1, "average": 1}))


def test_the_page_says_how_large_the_run_was_and_leaves_missing_slots_out():
    table = items({"sft": 36, "rsf": 20, "average": 30})
    pairs = pd.DataFrame({"margin": [1.0, 1.0, 1.0, -1.0]})
    page = first_light.markdown(first_light.one_seed(run(), table), pairs)
    small = presets.fit_to_device(presets.SMALL, "cpu")
    assert f"{small.rsf.rounds} rounds of RSF" in page
    assert f"first {small.eval.limit} items" in page
    assert "orders 75 % ± 42" in page
    assert "no better than a coin" in page
    sure = pd.DataFrame({"margin": [1.0] * 90 + [-1.0] * 10})
    assert "coin, so what it chose" in first_light.markdown(
        first_light.one_seed(run(), table), sure
    )
    assert "SQuAD" in page
    assert "RACE" not in page


def test_a_model_that_is_not_recorded_is_named():
    table = items({"sft": 1, "rsf": 1, "average": 1})
    with pytest.raises(ValueError, match="rsf_random"):
        first_light.one_seed(run(), table).key("rsf_random")


def test_the_page_of_the_real_model_is_that_of_its_recorded_run():
    page = (settings.results_folder() / report.REAL / "README.md").read_text(encoding="utf-8")
    assert page == report.page_of(report.REAL), (
        "data/results/small and its page differ: run `alignment-tax report`"
    )
    assert len(recorded(report.REAL).seeds) == 1
