"""What the bench of speed measures is what it says, on the miniature study."""

import json

import pytest
import torch

from alignment_tax.merge import hma
from alignment_tax.models import measured
from bench import speed as bench


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
    found = bench.ratios(study, repeats=2)
    config = study.preset.ratios
    assert config.batch_size <= found["replies"] <= config.prompts
    assert found["batch"] == config.batch_size
    # mean 0.4 in steps of 0.1: two ratios from 0 to 1 each, the third 1.2 less both, in [0, 1]
    triples = [(a, b) for a in range(11) for b in range(11) if 0 <= 12 - a - b <= 10]
    assert found["grid_points"] == len(triples) == 82
    assert json.loads(json.dumps(found)) == found


def test_what_the_bench_times_is_a_step_of_the_search(study):
    model, _, mixture = study.mixture(3)
    examples = study.search_data().replies
    objective = hma.ReplyLikelihood(model, examples)
    config = hma.HmaConfig(0.4, learning_rate=1.0, epochs=1, batch_size=len(examples))
    path = hma.learn_ratios(mixture, objective, config).path
    batch = hma.batches_of(len(examples), config)[0]
    scores = -bench.hma_step(mixture, objective, batch).sign()  # Adam's first step
    assert hma.softmax_ratios(scores, 0.4).tolist() == pytest.approx(path[1]["ratios"], abs=1e-3)


def test_memory_is_measured_for_the_work_alone():
    def work(size):
        return measured(lambda: torch.ones(size, dtype=torch.float64).sum().item())

    total, seconds, large = work(40_000_000)
    assert total == 40_000_000
    assert seconds > 0
    assert large - work(10)[2] > 200
