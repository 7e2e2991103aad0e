"""What the bench measures is fair and is what it says; what is refused; how numbers are chosen."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import defaultdict
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import miniature
from test_models import make_reward_model

from alignment_tax import lent as lending, presets, settings
from alignment_tax.merge import hma
from alignment_tax.models import measured
from alignment_tax.pipeline.study import Study
from alignment_tax.world.tiny import TinyWorld
from bench import ppo_against_trl as bench_ppo, speed, tune


@pytest.mark.parametrize("side", ["left", "right"])
def test_trl_is_given_our_reward_of_every_prefix(side):
    reward_model = make_reward_model()
    ids = torch.randint(1, 13, (1, 7), generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(1, 3, dtype=torch.long)
    padded = torch.cat([padding, ids] if side == "left" else [ids, padding], dim=1)
    mask = (padded != 0).long()
    first = 3 if side == "left" else 0
    trl = bench_ppo.as_trl_reward(reward_model)
    with torch.inference_mode():
        # as TRL calls it: position ids by an exclusive cumulative sum
        positions = mask.cumsum(1) - mask
        given = {"input_ids": padded, "position_ids": positions, "output_hidden_states": True}
        rewards = trl.score(trl.backbone(attention_mask=mask.bool(), **given).hidden_states[-1])
        for length in range(1, 8):
            alone = reward_model(ids[:, :length]).logits
            assert rewards[0, first + length - 1, 0] == pytest.approx(alone.item(), abs=1e-5)


def test_trl_critic_starts_at_zero_with_a_body_of_its_own():
    reward_model = make_reward_model()
    critic = bench_ppo.as_trl_critic(reward_model)
    hidden = critic.backbone(input_ids=torch.ones(1, 4, dtype=torch.long)).last_hidden_state
    assert critic.score(hidden).abs().max() == 0
    assert critic.backbone is not reward_model.backbone


def test_seeds_are_compared_pair_by_pair():
    of = {"ours": (1.0, 1.0), "trl": (0.0, 2.0)}
    rows = [(name, seed, seed + of[name][0], of[name][1]) for seed in range(3) for name in of]
    columns = ["implementation", "seed", "judged_reward", "seconds_per_step"]
    runs = pd.DataFrame(rows, columns=columns).assign(judged_kl=1.0, finished=1.0)
    found = bench_ppo.compared(runs.sample(frac=1, random_state=0))
    reward, saved = found["judged_reward"], found["seconds_saved"]
    # the seeds differ by 2 among themselves and by exactly 1 within each pair
    assert [reward["difference"], reward["low"], saved["difference"]] == pytest.approx([1, 1, 1])
    assert (found["judged_kl"]["difference"], saved["verdict"]) == (0, "holds")
    assert found["times_faster"] == pytest.approx(2)
    numbers = json.loads((settings.results_folder() / "bench_ppo.json").read_text("utf-8"))
    assert bench_ppo.compared(pd.DataFrame(numbers["runs"])) == numbers["comparison"]


@pytest.mark.parametrize(("words", "said"), [
    ("ppo --trl nowhere", "make bench-ppo"),
    ("speed --only speed", "Choose from: rates, evaluation, ratios"),
    ("tune small --algorithms ppo", "small has no ppo"),
    ("tune tiny --algorithms grpo", "no candidates for 'grpo'"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(words, said, ends):
    ends(said, "bench", *words.split())


def test_a_checkout_is_timed_beside_another_in_turn(tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("another")
    monkeypatch.setattr(settings, "repo_root", lambda: other)
    order = []

    def measure(copy, preset):
        order.append((copy != other, (copy / "README.md").read_text(), preset))
        return float(len(order))

    monkeypatch.setitem(speed.MEASURES, "score_model", (measure, 2))
    out = tmp_path / "bench.json"
    out.write_text('{"rates": 1, "ratios_to_other": {"make_run": 2}}')
    speed.run(only=["score_model"], against_folder=other, out=out)
    assert order == [(True, "another", "tiny")] * 4
    # what was measured before stays
    found = json.loads(out.read_text())
    own = found["ratios_to_other"]["score_model"]
    assert own["seconds"] == {"here": [1, 3], "there": [2, 4]}
    assert own["ratio"] == pytest.approx(2 / 3)
    assert (found["rates"], found["ratios_to_other"]["make_run"]) == (1, 2)


def test_both_take_equally_many_steps_and_a_long_run_begins_its_prompts_again():
    config = replace(bench_ppo.CONFIG, iterations=100)
    prompts = bench_ppo.prompts_of(TinyWorld(), config, 0)
    assert len(prompts) == 100 * config.prompts_per_iteration
    different = {json.dumps(prompt) for prompt in prompts}
    assert prompts[len(different)] == prompts[0]
    config = bench_ppo.CONFIG
    assert config.prompts_per_iteration % config.minibatch == 0
    assert config.critic_learning_rate == config.learning_rate  # TRL has one optimiser for both
    assert (config.reward_baseline, config.reward_scale) == (0, 1)


# numbers of RLHF algorithms are chosen on validation prompts, with RSF's budget
def test_the_highest_reward_is_chosen_among_policies_whose_replies_end():
    rows = [("ppo", "a", 1.0, 1.0), ("ppo", "b", 3.0, 0.5), ("ppo", "c", 2.0, 0.96)]
    columns = ["algorithm", "numbers", "judged_reward", "finished"]
    table = pd.DataFrame([*rows, ("dpo", "d", 0.5, 1.0)], columns=columns)
    assert set(tune.chosen(table)["numbers"]) == {"c", "d"}


def test_a_candidate_is_trained_judged_and_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMENT_TAX_RUNS", str(tmp_path))
    monkeypatch.setattr(bench_ppo, "JUDGED", 8)
    small = dict.fromkeys(("rounds", "prompts_per_round", "n", "batch_size"), 2)
    dpo = replace(presets.get("smoke").dpo, **small)
    preset = replace(miniature(), dpo=dpo)
    row = tune.try_out(preset, "dpo", {"learning_rate": 2e-4}, 0)
    assert json.loads(row["numbers"]) == {"learning_rate": 2e-4}
    assert 0 <= row["finished"] <= 1
    config = replace(dpo, learning_rate=2e-4)
    study = Study(replace(preset, dpo=config), 0)
    assert study.artifact(study.end("dpo")).key.startswith(row["key"])


def test_bench_measures_what_it_says(study, preset):
    rates = speed.rates(study)
    assert set(rates) == {"sampling", "scoring", "training"}
    for rate in rates.values():
        assert rate["tokens"] > 0
        assert rate["tokens_per_second"] == pytest.approx(rate["tokens"] / rate["seconds"])
    # training and scoring read each prompt and reply
    assert rates["sampling"]["tokens"] < rates["training"]["tokens"]
    evaluation = speed.evaluation(study)
    assert 0 < evaluation["forward_seconds"] < evaluation["seconds"]
    assert evaluation["items"] == 7 * preset.eval.limit
    found = speed.ratios(study, repeats=2)
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
    scores = -speed.hma_step(mixture, objective, batch).sign()  # Adam's first step
    assert hma.softmax_ratios(scores, 0.4).tolist() == pytest.approx(path[1]["ratios"], abs=1e-3)


def test_memory_is_measured_for_the_work_alone():
    def work(size):
        return measured(lambda: torch.ones(size, dtype=torch.float64).sum().item())

    total, seconds, large = work(40_000_000)
    assert total == 40_000_000
    assert seconds > 0
    assert large - work(10)[2] > 200


def test_the_readme_says_which_processors_repeat_each_other():
    path = settings.results_folder() / "instruction_sets.json"
    runs = [each for own in json.loads(path.read_text("utf-8"))["runs"].values() for each in own]
    weights, rewards = defaultdict(set), defaultdict(set)
    for each in runs:
        weights[each["processor"]].add(tuple(each["sha256"].values()))
        rewards[each["processor"]].add(each["mean_reward"])
    assert {"AMD", "Intel"} <= {name[: name.index(" ")].removesuffix("(R)") for name in weights}
    assert {len(own) for own in weights.values()} == {1}, "each repeats itself"
    assert len(set.union(*weights.values())) == len(weights), "and no other"
    first, *others = (own.pop() for own in rewards.values())
    assert all(1e-7 < abs(other / first - 1) < 1e-4 for other in others)


def test_a_lent_machine_records_what_it_can_and_says_how_fast_it_was(tmp_path, runs, monkeypatch):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(runs))
    root, out = settings.repo_root(), tmp_path / "out"
    for part in ("lib", "bench", "data/base"):
        shutil.copytree(root / part, tmp_path / part)
    shutil.copy(root / "pyproject.toml", tmp_path)

    found_in = os.environ | {"PYTHONPATH": str(tmp_path / "lib")}

    def lent(minutes):
        given = f"--preset smoke --methods rsf --jobs 1 --minutes {minutes} --out {out}"
        line = [sys.executable, "-m", "alignment_tax.lent", "--seed", "0", *given.split()]
        code = subprocess.run(line, env=found_in, stdout=subprocess.DEVNULL).returncode
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
    found = lending.needed(["trl"], ["torch"])
    assert {"trl", "transformers", "tokenizers", "datasets"} <= set(found)
    assert "torch" not in found
    assert found["trl"].version
