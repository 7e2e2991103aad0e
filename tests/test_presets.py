"""The dial: what a preset becomes on a device without a GPU, and that it says so."""

import dataclasses
import logging
import math

import pytest

from alignment_tax import presets
from alignment_tax.pipeline.study import Study
from alignment_tax.store import Store


@pytest.mark.parametrize("preset", [presets.SMOKE, presets.TINY], ids=lambda p: p.name)
def test_the_tiny_world_is_the_same_everywhere(preset):
    assert presets.fit_to_device(preset, "cpu") == preset
    assert presets.fit_to_device(preset, "cuda") == preset


def test_the_real_model_shrinks_on_a_cpu_alone_and_says_so(tmp_path, caplog, monkeypatch):
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
    device = "alignment_tax.pipeline.stages.run.device"
    monkeypatch.setattr(device, lambda: type("D", (), {"type": "cpu"}))
    with caplog.at_level(logging.WARNING):
        study = Study("small", 0, Store(tmp_path))
    assert presets.size_text(study.preset) in caplog.text
    assert f"{study.preset.eval.limit} items a benchmark" in caplog.text
    caplog.clear()
    Study("smoke", 0, Store(tmp_path))
    assert not caplog.text


@pytest.mark.parametrize("name", ["tiny", "smoke"])
def test_all_algorithms_sample_as_many_replies_as_rsf(name):
    preset = presets.get(name)
    rsf, ppo = preset.rsf, preset.ppo
    budget = rsf.rounds * rsf.prompts_per_round * rsf.n
    for config in (preset.dpo, preset.rloo):
        assert config.rounds * config.prompts_per_round * config.n == budget
    assert ppo.rounds * ppo.iterations * ppo.prompts_per_iteration == budget
    lengths = {config.max_new_tokens for config in preset.algorithms.values()}
    assert lengths == {rsf.max_new_tokens}


@pytest.mark.parametrize(
    ("name", "value"),
    [("grid_step", 0.0), ("learning_rate", math.nan), ("kept_texts", -1), ("kept_weight", -1.0)],
)
def test_numbers_that_no_run_can_use_are_named(name, value):
    for preset in presets.PRESETS.values():
        presets.check(preset)
    ratios = dataclasses.replace(presets.TINY_RATIOS, **{name: value})
    with pytest.raises(ValueError, match=rf"ratios\.{name} is {value}"):
        presets.check(dataclasses.replace(presets.TINY, ratios=ratios))
