"""The dial: what a preset becomes on a device without a GPU, and that it says so."""

import dataclasses
import logging
import math
from types import SimpleNamespace

import pytest

from alignment_tax import presets
from alignment_tax.pipeline.study import Study
from alignment_tax.store import Store


def test_the_real_model_alone_shrinks_on_a_cpu_alone_and_says_so(tmp_path, caplog, monkeypatch):
    for preset in (presets.SMOKE, presets.TINY):
        assert {presets.fit_to_device(preset, device) for device in ("cpu", "cuda")} == {preset}
    assert presets.fit_to_device(presets.SMALL, "cuda") == presets.SMALL
    small = presets.fit_to_device(presets.SMALL, "cpu")
    for name in ("sft", "reward", "judge", "rsf"):
        before, after = getattr(presets.SMALL, name), getattr(small, name)
        counts = [k for k in ("documents", "pairs", "rounds", "n") if hasattr(before, k)]
        assert all(getattr(after, k) < getattr(before, k) for k in counts), name
    assert small.eval.limit < presets.SMALL.eval.limit
    # the same model, data and slots: only the amount differs
    assert (small.model, small.world) == (presets.SMALL.model, presets.SMALL.world)
    amounts = {"limit": 1, "batch_size": 1, "reward_prompts": 1}
    evals = {dataclasses.replace(each.eval, **amounts) for each in (small, presets.SMALL)}
    assert len(evals) == 1
    cpu = SimpleNamespace(type="cpu")
    monkeypatch.setattr("alignment_tax.pipeline.stages.run.device", lambda: cpu)
    with caplog.at_level(logging.WARNING):
        study = Study("small", 0, Store(tmp_path))
    assert presets.size_text(study.preset) in caplog.text
    assert f"{study.preset.eval.limit} items a benchmark" in caplog.text
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
