"""What the bench of speed measures is what it says, on the miniature study."""

import json
import shutil
import subprocess
import sys
import tarfile

import pandas as pd
import pytest
import torch

from alignment_tax import settings
from alignment_tax.merge import hma
from alignment_tax.models import measured
from bench import gpu, speed as bench


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


def test_a_lent_machine_records_what_it_can_and_says_how_fast_it_was(tmp_path, shared_runs):
    root, out = settings.repo_root(), tmp_path / "out"
    for part in ("lib", "bench", "data/base"):
        shutil.copytree(root / part, tmp_path / part)
    shutil.copy(root / "pyproject.toml", tmp_path)

    def lent(minutes):
        given = f"--preset smoke --methods rsf --jobs 1 --minutes {minutes} --out {out}"
        line = [sys.executable, tmp_path / "bench" / "gpu.py", *given.split()]
        code = subprocess.run(line, check=False, stdout=subprocess.DEVNULL).returncode
        return code, json.loads((out / "gpu.json").read_text())

    code, found = lent(0)
    assert (code, found["recorded"], found["not_finished"]) == (1, [], ["rsf"])
    assert not (out / "tables.tar.gz").exists()
    code, found = lent(30)
    assert (code, found["recorded"], found["not_finished"]) == (0, ["rsf"], [])
    for name, rate in found["rates"].items():
        each = (6 if name == "training" else 2) * found["parameters"] * rate["tokens_per_second"]
        assert rate["mfu"] == pytest.approx(each / 989e12)
    with tarfile.open(out / "tables.tar.gz") as file:
        points = pd.read_csv(file.extractfile("smoke/points.csv"))
    assert set(points["method"]) == {"none", "average"}


def test_what_a_lent_machine_needs_is_packed_with_all_that_it_needs():
    found = gpu.needed(["trl"], ["torch"])
    assert {"trl", "transformers", "tokenizers", "datasets"} <= set(found)
    assert "torch" not in found
    assert found["trl"].version
