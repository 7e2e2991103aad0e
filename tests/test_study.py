"""A whole study in miniature: same numbers twice, through kills, damage and two runs at once."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import miniature

from alignment_tax import settings
from alignment_tax.merge.average import MergeError
from alignment_tax.merge.hma import (
    HmaConfig,
    ReplyLikelihood,
    epoch_batches,
    learn_ratios,
    softmax_ratios,
)
from alignment_tax.models import load_state
from alignment_tax.pipeline.record import rounds_table, run_side_by_side
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import UnknownPreset
from alignment_tax.settings import repo_root
from alignment_tax.spec import COLUMNS, Spec, UnknownStage, ratios_text
from alignment_tax.store import MissingArtifact, Store
from bench import speed as bench

SCRIPT = """
import sys
from pathlib import Path
from conftest import miniature
from alignment_tax.store import Store
from alignment_tax.pipeline.study import Study
study = Study(miniature(), 0, Store(Path(sys.argv[1])))
print("key", {stage}.key)
"""


def start(store, stage):
    """Start a process that asks for a stage of the miniature study in the folder `store`."""
    paths = [str(repo_root() / "lib"), str(Path(__file__).parent)]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(stage=stage), str(store)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(miniature(), 0, Store(tmp_path_factory.mktemp("undisturbed")))


@pytest.fixture(scope="module")
def points(study):
    return study.points()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A store whose run was killed with SIGKILL in the middle of the second round of RSF."""
    store = tmp_path_factory.mktemp("killed")
    process = start(store, "study.rsf(2)")

    def second_round():
        finished = [path for path in store.glob("rsf/*/meta.json") if path.parent.name[0] != "."]
        return finished and list(store.glob("rsf/.*.tmp-*"))

    try:
        wait_until(second_round, process)
    finally:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return store


def row(points, algorithm, rounds, method="none", alpha=None):
    chosen = points[
        (points["algorithm"] == algorithm)
        & (points["rounds"] == rounds)
        & (points["method"] == method)
        & (points["alpha"].isna() if alpha is None else points["alpha"] == alpha)
    ]
    assert len(chosen) == 1
    return chosen.iloc[0]


# the table of points


def test_points_have_their_columns_and_a_row_for_every_model(points, preset):
    assert list(points.columns) == COLUMNS
    assert set(points["study"]) == {"miniature"}
    assert set(points["seed"]) == {0}
    assert set(points["n_items"]) == {7 * preset.eval.limit}
    for rounds in (1, 2):
        row(points, "rsf", rounds)
    for algorithm, rounds in (("base", 0), ("sft", 0), ("rsf_random", 2)):
        row(points, algorithm, rounds)
    for alpha in preset.alphas:
        row(points, "rsf", 2, "average", alpha)
    assert len(points) == 5 + len(preset.alphas)
    percent = points[["one_hop", "bleu", "commonsense", "reading", "translation", "skill"]]
    # a perfect BLEU comes out of sacrebleu as 100 and a rounding error
    assert ((percent >= 0) & (percent <= 100 + 1e-9)).all().all()
    means = points[["commonsense", "reading", "translation"]].mean(axis=1)
    pd.testing.assert_series_equal(means, points["skill"], check_names=False)


def test_theta_0_has_no_divergence_from_itself_and_training_moved_it(points):
    assert row(points, "sft", 0)["kl"] == 0
    trained = [row(points, "rsf", r)["kl"] for r in (1, 2)]
    assert len({0.0, *trained}) == 3
    # the control goes another way than the best replies
    assert row(points, "rsf_random", 2)["kl"] != row(points, "rsf", 2)["kl"]


def test_every_round_tells_what_it_sampled_and_kept(study, points, preset):
    table = rounds_table(study)
    assert set(zip(table["algorithm"], table["rounds"], strict=True)) == {
        (algorithm, rounds) for algorithm in ("rsf", "rsf_random") for rounds in (1, 2)
    }
    assert table["finished"].between(0, 1).all()
    assert (table["kept"] + table["dropped"] == preset.rsf.prompts_per_round).all()
    best = table[table["algorithm"] == "rsf"]
    # not the mean of all samples: a reply that was cut off may have the highest reward
    assert best["kept_reward"].to_numpy() == pytest.approx(best["best_reward"].to_numpy())
    for rounds in (1, 2):
        samples = pd.read_parquet(study.rsf(rounds).path / "samples.parquet")
        assert len(samples) == preset.rsf.prompts_per_round * preset.rsf.n
        assert samples.loc[samples["chosen"], "finished"].all()
    first, second = (study.round_prompts(rounds) for rounds in (1, 2))
    assert not {str(p) for p in first} & {str(p) for p in second}


def test_held_out_pairs_measure_the_reward_model(study, points, preset):
    pairs = pd.read_parquet(study.reward.path / "held_out.parquet")
    stats = json.loads((study.reward.path / "stats.json").read_text())
    assert len(pairs) == stats["held_out_pairs"] == preset.reward.validation_pairs
    assert stats["pair_accuracy"] == pytest.approx((pairs["margin"] > 0).mean())


def test_seeds_side_by_side_give_the_same_numbers(study, points, tmp_path, monkeypatch):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path))
    run_side_by_side(miniature(), [0, 1], jobs=2)
    monkeypatch.setattr(Store, "_make", None)  # nothing is left to be made
    pd.testing.assert_frame_equal(Study(miniature(), 0).points(), points)
    assert set(Study(miniature(), 1).points()["seed"]) == {1}


def test_an_error_in_one_of_several_seeds_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path))
    broken = dataclasses.replace(miniature(), model="data/none")
    with pytest.raises(MissingArtifact, match="the base model is not in"):
        run_side_by_side(broken, [0, 1], jobs=2)


# the ends of the average


def test_alpha_0_and_1_are_theta_0_and_rsf_to_the_bit(study, points):
    numbers = COLUMNS[COLUMNS.index("reward") :]
    for alpha, end in ((0.0, row(points, "sft", 0)), (1.0, row(points, "rsf", 2))):
        assert row(points, "rsf", 2, "average", alpha)[numbers].tolist() == end[numbers].tolist()
    model, tokenizer, sweep = study.sweep()
    for alpha, folder in ((1.0, study.rsf(2).path), (0.0, study.sft.path)):
        sweep.set(0.3)
        sweep.set(alpha)
        end = load_state(folder / "model")
        own = model.state_dict()
        assert set(end) == set(own)
        assert all(torch.equal(own[name], end[name]) for name in own)
    sweep.set(1.0)
    assert study.scorer.score(model, tokenizer).metrics == study.scores(Spec("rsf", 2)).metrics


def test_an_average_in_between_lies_between(study, points):
    model, _, sweep = study.sweep()
    sweep.set(0.5)
    start, end = load_state(study.sft.path / "model"), load_state(study.rsf(2).path / "model")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, (start[name] + end[name]) / 2)
    middle = row(points, "rsf", 2, "average", 0.5)
    assert middle["key"] not in {row(points, "sft", 0)["key"], row(points, "rsf", 2)["key"]}


# part by part


def ratio(name):
    """The ratio of a tensor under 0.6 | 0.4 | 0.2 for nine layers in three blocks, mean 0.4."""
    if ".layers." not in name or "norm" in name:
        return 0.4
    return (0.6, 0.4, 0.2)[int(name.split(".layers.")[1].split(".")[0]) // 3]


def assert_mixed(study, model, ratio_of):
    """Every tensor of the model is (1 - r) theta_0 + r theta, with r = ratio_of(its name)."""
    start, end = load_state(study.sft.path / "model"), load_state(study.rsf(2).path / "model")
    for name, tensor in model.state_dict().items():
        r = ratio_of(name)
        torch.testing.assert_close(tensor, (1 - r) * start[name] + r * end[name])


def test_one_part_is_averaged_and_the_others_stay_aligned(study):
    model, _ = study.model(Spec("rsf", 2, "part", 0.25, part="middle"))
    layers = [f".layers.{number}." for number in (3, 4, 5)]

    def middle(name):
        inside = any(layer in name for layer in layers) and "norm" not in name
        return 0.25 if inside else 1.0

    assert_mixed(study, model, middle)
    # a plain average in between leaves nothing behind
    study.model(Spec("rsf", 2, "average", 0.5))
    model, _ = study.model(Spec("rsf", 2, "part", 0.25, part="norms"))
    assert_mixed(study, model, lambda name: 0.25 if "norm" in name else 1.0)


def test_hma_has_a_ratio_for_each_block_and_alpha_for_the_rest(study):
    part = ratios_text((0.6, 0.4, 0.2))
    assert part == "0.6|0.4|0.2"
    model, _ = study.model(Spec("rsf", 2, "hma", 0.4, part=part))
    assert_mixed(study, model, ratio)


def test_points_of_parts_are_rows_of_their_own_and_the_same_weights_are_scored_once(study, points):
    third = 1 / 3
    specs = [
        Spec("rsf", 2, "part", 0.5, part="input"),
        Spec("rsf", 2, "hma_eq11", third, part=ratios_text((2 / 3, third, 0.0))),
        Spec("rsf", 2, "part", 1.0, part="output"),
        Spec("rsf", 2, "hma", 0.5, part="0.5|0.5|0.5"),
        Spec("rsf", 2, "hma", 0.0, part="0|0|0"),
    ]
    table = study.points(specs)
    assert table["part"].tolist() == [spec.part for spec in specs]
    assert table["method"].tolist() == [spec.method for spec in specs]
    known = [
        row(points, "rsf", 2)["key"],
        row(points, "rsf", 2, "average", 0.5)["key"],
        row(points, "sft", 0)["key"],
    ]
    assert table["key"].tolist()[2:] == known
    assert len({*table["key"][:2], *points["key"]}) == 2 + points["key"].nunique()


def test_parts_and_methods_that_make_no_sense_are_refused(study):
    for spec, error, message in (
        (Spec("rsf", 2, "part", 0.5, part="top"), MergeError, "no part 'top'.*input, middle"),
        (Spec("rsf", 2, "part", 0.5), ValueError, "part needs a part and an alpha"),
        (Spec("rsf", 2, "hma", 0.5, part="0.6|0.4|0.2"), MergeError, "mean must be alpha"),
        (Spec("rsf", 2, "hma", 0.4, part="input"), ValueError, "ratios of its blocks.*'input'"),
        (Spec("rsf", 2, "hma", 0.4), ValueError, "ratios of its blocks.*None"),
        (Spec("rsf", 2, "avrage", 0.5), UnknownStage, "no method 'avrage'"),
    ):
        with pytest.raises(error, match=message):
            study.model(spec)


# the same numbers, whatever happens


def test_kill_9_in_a_round_of_rsf_changes_no_number(killed, points, capfd):
    """Two stores, two processes, one of them killed: the same table to the last digit."""
    again = Study(miniature(), 0, Store(killed))
    pd.testing.assert_frame_equal(again.points(), points, check_exact=True)
    said = capfd.readouterr().err
    assert "Making rsf round 2 of 2" in said
    for finished in ("theta_0", "the reward model", "rsf round 1 of 2"):
        assert f"Making {finished} " not in said
    assert not list(killed.glob("*/.*.tmp-*"))


def test_another_seed_is_another_study(study, points):
    other = Study(miniature(), 1, study.store)
    assert other.round_prompts(1) != study.round_prompts(1)
    folders = {s.store.folder("sft", s.sft.key) for s in (study, other)}
    assert len(folders) == 2
    states = [load_state(s.sft.path / "model") for s in (study, other)]
    assert not torch.equal(states[0]["lm_head.weight"], states[1]["lm_head.weight"])


def test_nothing_is_made_twice(study, points, capfd):
    again = Study(miniature(), 0, study.store).points()
    pd.testing.assert_frame_equal(again, points, check_exact=True)
    assert "Making" not in capfd.readouterr().err


def test_a_longer_run_goes_on_from_a_shorter_one(study, points):
    longer = dataclasses.replace(study.preset, rsf=dataclasses.replace(study.preset.rsf, rounds=5))
    assert Study(longer, 0, study.store).rsf(2).key == study.rsf(2).key
    warmer = dataclasses.replace(
        study.preset, rsf=dataclasses.replace(study.preset.rsf, temperature=0.7)
    )
    assert Study(warmer, 0, study.store).rsf(1).key != study.rsf(1).key


def test_a_damaged_artifact_is_named_and_made_again(study, points, tmp_path, capfd):
    shutil.copytree(study.store.root, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    weights = store.folder("sft", study.sft.key) / "model" / "model.safetensors"
    right = weights.read_bytes()
    flipped = bytearray(right)
    flipped[len(flipped) // 2] ^= 1
    weights.write_bytes(bytes(flipped))
    again = Study(miniature(), 0, store)
    pd.testing.assert_frame_equal(again.points(), points, check_exact=True)
    said = capfd.readouterr().err
    assert "is damaged: model/model.safetensors was altered (its sha256 differs)." in said
    assert "It is moved to " in said
    assert "Making theta_0 (miniature, seed 0)" in said
    assert weights.read_bytes() == right
    assert "Making the reward model" not in said


def test_a_truncated_score_is_never_used(study, points, tmp_path, capfd):
    shutil.copytree(study.store.root, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    folder = store.folder("scores", study.evaluate(Spec("sft")).key)
    (folder / "point.json").write_text((folder / "point.json").read_text()[:-20])
    again = Study(miniature(), 0, store).point(Spec("sft"))
    assert again["skill"] == row(points, "sft", 0)["skill"]
    assert "point.json has " in capfd.readouterr().err


def test_two_processes_at_once_make_a_stage_once(tmp_path, study, points):
    processes = [start(tmp_path, "study.sft") for _ in range(2)]
    try:
        results = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    said = "".join(err for _, err in results)
    assert [process.returncode for process in processes] == [0, 0], said
    assert said.count("Making theta_0") == 1
    assert {out.split()[-1] for out, _ in results} == {study.sft.key}
    assert len([path for path in (tmp_path / "sft").iterdir() if path.name[0] != "."]) == 1


# bad input


def test_unknown_presets_seeds_and_rounds_are_refused_by_name(study):
    with pytest.raises(UnknownPreset, match=r"no preset 'tyni'.*smoke, tiny, small"):
        Study("tyni")
    for seed in ("0", 1.0, -1, True, None):
        with pytest.raises(ValueError, match="seed must be an integer of 0 or more"):
            Study(miniature(), seed)
    for rounds in (3, 0):
        with pytest.raises(UnknownStage, match=rf"no rsf round {rounds} in .* 1 to 2"):
            study.rsf(rounds)
    with pytest.raises(UnknownStage, match=r"no algorithm 'ppo' in .* rsf, rsf_random"):
        study.rsf(1, "ppo")


# the bench, on the miniature


def test_bench_measures_what_it_says(study, points, preset):
    rates = bench.rates(study, conversations=4)
    assert set(rates) == {"sampling", "scoring", "training"}
    for rate in rates.values():
        assert rate["tokens"] > 0
        assert rate["tokens_per_second"] == pytest.approx(rate["tokens"] / rate["seconds"])
    # training reads each prompt and reply, scoring the same with its template
    assert rates["sampling"]["tokens"] < rates["training"]["tokens"]
    evaluation = bench.evaluation(study)
    assert 0 < evaluation["forward_seconds"] < evaluation["seconds"]
    assert evaluation["items"] == 7 * preset.eval.limit
    assert 0.01 < bench.peak_memory_gb() < 100


def test_bench_compares_the_sweep_in_place_with_eleven_runs_of_the_command(
    study, points, monkeypatch
):
    def command(asked, start, end, alpha):
        time.sleep(0.2)
        return {"span": 50.0, "bleu": 60.0}

    monkeypatch.setattr(bench, "by_command", command)
    found = bench.sweep(study, building=3.0)
    assert found["alphas"] == 11
    assert len(found["by_command_seconds_each"]) == found["by_command_alphas_measured"] == 2
    assert found["by_command_seconds"] == pytest.approx(11 * 0.2, rel=0.5)
    assert found["in_place_seconds"] > 3
    assert found["times_faster"] == pytest.approx(
        found["by_command_seconds"] / found["in_place_seconds"]
    )
    assert found["largest_difference"] > 0


def test_bench_measures_what_a_search_for_ratios_costs(study):
    found = bench.ratios(study, repeats=2)
    config = study.preset.ratios
    assert found["replies"] == config.prompts
    assert found["batch"] == config.batch_size
    assert found["step_times_plain"] == pytest.approx(
        found["step_seconds"] / found["plain_seconds"]
    )
    # mean 0.4 in steps of 0.1: two ratios from 0 to 1 each, the third 1.2 less both, in [0, 1]
    triples = [(a, b) for a in range(11) for b in range(11) if 0 <= 12 - a - b <= 10]
    assert found["grid_points"] == len(triples) == 82
    assert found["mixtures"] == 66
    assert found["largest_difference"] == 0
    weights = [load_state(f) for f in (study.base.path, study.sft.path / "model")]
    numbers = sum(tensor.numel() for state in weights for tensor in state.values())
    assert found["memory"]["two_models_mb"] == pytest.approx(4 * numbers / 1e6)
    # both ends are in memory at once, or one and its gradients
    assert found["memory"]["search_mb"] > found["memory"]["two_models_mb"]
    assert found["memory"]["plain_mb"] > found["memory"]["two_models_mb"] / 2
    assert json.loads(json.dumps(found)) == found


def test_what_the_bench_times_is_a_step_of_the_search(study):
    model, _, mixture = study.mixture(3)
    examples = study.search_data().replies
    objective = ReplyLikelihood(model, examples)
    config = HmaConfig(0.4, learning_rate=1.0, epochs=1, batch_size=len(examples))
    path = learn_ratios(mixture, objective, config).path
    batch = next(epoch_batches(len(examples), config))
    scores = -bench.hma_step(mixture, objective, batch).sign()  # Adam's first step
    shares = torch.full_like(scores, 1 / 3)
    assert softmax_ratios(scores, 0.4, shares).tolist() == pytest.approx(
        path[1]["ratios"], abs=1e-3
    )
    whole = bench.plain_step(model, objective, batch)
    assert [gradient.shape for gradient in whole] == [p.shape for p in model.parameters()]
    assert len(set(bench.simplex())) == 66
    assert all(sum(triple) == pytest.approx(1) for triple in bench.simplex())


def test_of_other_algorithms_the_thirds_alone_are_averaged(tmp_path):
    study = Study("tiny", 0, Store(tmp_path))
    parts = {
        name: {spec.part for spec in study.specs([name, "part"]) if spec.method == "part"}
        for name in ("rsf", "dpo", "ppo")
    }
    assert parts["dpo"] == parts["ppo"] == {"input", "middle", "output"}
    assert parts["rsf"] > parts["dpo"] | {"linear", "head"}
