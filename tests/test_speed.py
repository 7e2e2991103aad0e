"""What the bench of speed measures is what it says, on the miniature study."""

import json
import time

import pytest
import torch
from conftest import miniature

from alignment_tax.merge import hma
from alignment_tax.models import load_state, measured
from alignment_tax.pipeline.study import Study
from alignment_tax.spec import Spec
from bench import speed as bench


@pytest.fixture(scope="module")
def study(store):
    study = Study(miniature(), 0, store)
    study.artifact(Spec("rsf", 2, "distil"))
    return study


def test_bench_measures_what_it_says(study, preset):
    rates = bench.rates(study)
    assert set(rates) == {"sampling", "scoring", "training"}
    for rate in rates.values():
        assert rate["tokens"] > 0
        assert rate["tokens_per_second"] == pytest.approx(rate["tokens"] / rate["seconds"])
    # training and scoring read each prompt and reply
    assert rates["sampling"]["tokens"] < rates["training"]["tokens"]
    evaluation = bench.evaluation(study)
    assert 0 < evaluation["forward_seconds"] < evaluation["seconds"]
    assert evaluation["items"] == 7 * preset.eval.limit
    assert 0.01 < bench.peak_memory_gb() < 100


def test_bench_compares_the_sweep_in_place_with_eleven_runs_of_the_command(study, monkeypatch):
    def command(asked, alpha):
        time.sleep(0.2)
        return {"span": 50.0, "bleu": 60.0}

    monkeypatch.setattr(bench, "by_command", command)
    found = bench.sweep(study, {"evaluation": {"building_the_tasks_once_seconds": 3.0}})
    slow, fast = found["by_command_seconds"], found["in_place_seconds"]
    assert (found["alphas"], len(found["by_command_seconds_each"])) == (11, 2)
    assert slow == pytest.approx(11 * 0.2, rel=0.5)
    assert fast > 3
    assert found["times_faster"] == pytest.approx(slow / fast)
    assert found["largest_difference"] > 0


def test_bench_measures_what_a_search_for_ratios_costs(study):
    found = bench.ratios(study, repeats=2)
    config = study.preset.ratios
    assert config.batch_size <= found["replies"] <= config.prompts
    assert found["batch"] == config.batch_size
    # mean 0.4 in steps of 0.1: two ratios from 0 to 1 each, the third 1.2 less both, in [0, 1]
    triples = [(a, b) for a in range(11) for b in range(11) if 0 <= 12 - a - b <= 10]
    assert found["grid_points"] == len(triples) == 82
    numbers = sum(tensor.numel() for tensor in load_state(study.sft.path / "model").values())
    search, plain, two = (
        found["memory"][f"{each}_mb"] for each in ("search", "plain", "two_models")
    )
    assert two == pytest.approx(2 * 4 * numbers / 1e6)
    # both ends are in memory at once, or one and its gradients
    assert search > two
    assert plain > two / 2
    assert json.loads(json.dumps(found)) == found


def test_what_the_bench_times_is_a_step_of_the_search(study):
    model, _, mixture = study.mixture(3)
    examples = study.search_data().replies
    objective = hma.ReplyLikelihood(model, examples)
    config = hma.HmaConfig(0.4, learning_rate=1.0, epochs=1, batch_size=len(examples))
    path = hma.learn_ratios(mixture, objective, config).path
    batch = next(hma.epoch_batches(len(examples), config))
    scores = -bench.hma_step(mixture, objective, batch).sign()  # Adam's first step
    assert hma.softmax_ratios(scores, 0.4).tolist() == pytest.approx(path[1]["ratios"], abs=1e-3)
    whole = bench.plain_step(model, objective, batch)
    assert [gradient.shape for gradient in whole] == [p.shape for p in model.parameters()]


def test_memory_is_measured_for_the_work_alone():
    def work(size):
        return measured(lambda: torch.ones(size, dtype=torch.float64).sum().item())

    total, seconds, large = work(40_000_000)
    assert total == 40_000_000
    assert seconds > 0
    assert large - work(10)[2] > 200


def test_the_bench_adds_up_what_all_strengths_of_a_seed_take(study):
    plain = study.artifact(Spec("rsf", 2, "distil")).path / "model"
    before = load_state(plain)
    found = bench.remedies(study, {"evaluation": {"seconds": 60.0}})
    took = found["seconds"]
    assert set(took) == {"distil", "along", "l2", "lora", "graft"}
    assert min(took.values()) > 0
    strengths = 2 * took["l2"] + took["lora"] + 2 * took["graft"]
    assert found["training_seconds"] == pytest.approx(took["distil"] + took["along"] + strengths)
    # the plain run, its averages but for both ends, and eight strengths
    assert found["models"] == 1 + len(study.preset.alphas) - 2 + 8
    assert found["total_minutes"] > found["models"]
    after = load_state(plain)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
