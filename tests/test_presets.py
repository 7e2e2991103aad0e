"""The dial: what a preset is computed with, and numbers that no run can use."""

import dataclasses
import math
from unittest.mock import Mock

import pytest

from alignment_tax import presets
from alignment_tax.pipeline.study import Study
from alignment_tax.store import Store


def test_a_run_without_bfloat16_says_so_and_has_other_keys(tmp_path, caplog, monkeypatch):
    keys = set()
    for has_it in (True, False):
        monkeypatch.setattr(
            "alignment_tax.pipeline.stages.run.use_bf16", lambda where, it=has_it: it
        )
        caplog.clear()
        store = Mock(Store)
        Study("small", 0, store).get("stage", {}, lambda folder: None, {}, "a stage")
        keys.add(str(store.get.call_args.args[1]))
        assert ("float32" in caplog.text) == (not has_it)
    assert len(keys) == 2
    caplog.clear()
    Study("smoke", 0, Store(tmp_path))
    assert not caplog.text


@pytest.mark.parametrize("preset", [presets.TINY, presets.SMOKE], ids=lambda preset: preset.name)
def test_all_algorithms_sample_as_many_replies_as_rsf(preset):
    ppo, others = preset.ppo, (preset.rsf, preset.dpo, preset.rloo)
    (budget,) = {config.rounds * config.prompts_per_round * config.n for config in others}
    assert ppo.rounds * ppo.iterations * ppo.prompts_per_iteration == budget
    assert len({each.max_new_tokens for each in preset.algorithms.values()}) == 1


def test_numbers_that_no_run_can_use_are_named():
    for preset in presets.PRESETS.values():
        presets.check(preset)
    numbers = {"grid_step": 0.0, "learning_rate": math.nan, "kept_texts": -1, "kept_weight": -1.0}
    for name, value in numbers.items():
        ratios = dataclasses.replace(presets.TINY_RATIOS, **{name: value})
        with pytest.raises(ValueError, match=rf"ratios\.{name} is {value}"):
            presets.check(dataclasses.replace(presets.TINY, ratios=ratios))
