"""Every RLHF algorithm as a stage of the study: kept by rounds, resumed, told apart."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import miniature, refuses

from alignment_tax import settings
from alignment_tax.models import load_state
from alignment_tax.pipeline import catalogue, record
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import SAMPLED, DpoConfig, PpoConfig, RlooConfig
from alignment_tax.results.recorded import recorded
from alignment_tax.spec import NAMED, Spec, UnknownStage
from alignment_tax.stats.calibration import calibration_error
from alignment_tax.store import Store
from alignment_tax.train.kl import reply_log_probs
from alignment_tax.train.sample import kept_replies
from bench import speed as bench

SMALL = {**SAMPLED, "rounds": 2, "learning_rate": 1e-3}
FAST = {"sampling_batch": 64, "epochs": 1}
DPO = DpoConfig(**SMALL, **FAST, prompts_per_round=8, n=4, beta=0.1, batch_size=4, max_length=110)
RLOO = RlooConfig(**SMALL, prompts_per_round=4, n=4, beta=0.05, batch_size=8)
STEPS = {"iterations": 2, "prompts_per_iteration": 8, "minibatch": 4}
PPO = PpoConfig(**SMALL, **FAST, **STEPS, critic_learning_rate=1e-3, kl_coef=0.05)
ALL = ("rsf", "dpo", "rloo", "ppo")


def with_algorithms(**others):
    return miniature(**({"dpo": DPO, "rloo": RLOO, "ppo": PPO, "kl_coefs": (0.0, 0.4)} | others))


@pytest.fixture(scope="module")
def study(store):
    return Study(with_algorithms(), 0, store)


def weights(study, algorithm, rounds):
    return load_state(study.artifact(Spec(algorithm, rounds)).path / "model")


def log_of(artifact):
    return pd.read_json(artifact.path / "log.jsonl", lines=True)


@pytest.mark.parametrize("algorithm", ALL)
def test_every_round_moves_the_policy_on_and_is_kept(study, store, algorithm, monkeypatch):
    first, second = weights(study, algorithm, 1), weights(study, algorithm, 2)
    for one, other in ((load_state(study.sft.path / "model"), first), (first, second)):
        assert any(not torch.equal(one[name], other[name]) for name in one)
    assert len(log_of(study.artifact(Spec(algorithm, 2)))) > 0
    monkeypatch.setattr(Store, "_make", None)  # nothing is made again
    last = Spec(algorithm, 2)
    assert Study(with_algorithms(), 0, store).artifact(last) == study.artifact(last)


def test_ppo_cut_into_rounds_is_the_same_run(study, store):
    whole = replace(PPO, rounds=1, iterations=PPO.iterations * PPO.rounds)
    uncut = Study(with_algorithms(ppo=whole), 0, store)
    one, other = weights(study, "ppo", 2), weights(uncut, "ppo", 1)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert log_of(study.artifact(Spec("ppo", 2)))["iteration"].tolist() == [3, 4]


def test_the_other_pairs_of_dpo_are_another_run(study, store):
    offline = Study(with_algorithms(dpo=replace(DPO, source="offline")), 0, store)
    rounds = [each.artifact(Spec("dpo", 1)) for each in (study, offline)]
    assert rounds[0].key != rounds[1].key
    own, written = (pd.read_parquet(each.path / "samples.parquet") for each in rounds)
    assert (own["margin"] > 0).all()
    assert not set(own["prompt"]) & set(written["prompt"])


def test_every_algorithm_has_its_rounds_and_averages_and_no_others(study):
    specs = study.specs()
    assert len(specs) == len(set(specs))
    for algorithm in ALL:
        own = [spec for spec in specs if spec.algorithm == algorithm]
        rounds = [Spec(algorithm, 1), Spec(algorithm, 2)]
        assert own == rounds + [Spec(algorithm, 2, "average", a) for a in study.preset.alphas]
    assert Spec("dpo", 2, "average", 0.5) in Study(with_algorithms(), 1).specs()
    of_rsf = Study(miniature(), 0)
    assert {spec.algorithm for spec in of_rsf.specs()} == {"base", "sft", "rsf", "rsf_random"}
    known = "no algorithm 'grpo'.*rsf, rsf_random, dpo, rloo, ppo"
    refuses(UnknownStage, known, study.artifact, Spec("grpo", 1))
    refuses(UnknownStage, "no dpo round 3.*1 to 2", study.artifact, Spec("dpo", 3))
    refuses(UnknownStage, "no algorithm 'ppo'", of_rsf.artifact, Spec("ppo", 1))


def test_the_table_of_rounds_says_of_each_algorithm_what_is_known(study):
    table = record.rounds_table(study, ALL)
    assert len(table) == 8
    first = table[table["rounds"] == 1].set_index("algorithm")
    assert first[["kept_gold", "finished"]].loc[["rsf", "rloo", "ppo"]].notna().all(axis=None)
    # DPO keeps its chosen replies alone: their mean is not that of all that were sampled
    assert np.isnan(first.loc["dpo", "mean_gold"])
    chosen = pd.read_parquet(study.artifact(Spec("dpo", 1)).path / "samples.parquet")["gold"]
    assert first.loc["dpo", "kept_gold"] == pytest.approx(chosen.mean())
    # PPO keeps no replies: its log has their mean gold in each of two iterations
    means = log_of(study.artifact(Spec("ppo", 1)))[["gold", "reward"]].mean().tolist()
    assert first.loc["ppo", ["mean_gold", "mean_reward"]].tolist() == pytest.approx(means)


def test_the_forward_kl_is_taken_on_the_replies_of_theta_0(study):
    kls = [study.forward_kl(spec).path / "kl.json" for spec in (Spec("sft"), Spec("ppo", 2))]
    own, found = (json.loads(path.read_text()) for path in kls)
    assert own == {"forward_kl": 0.0, "replies": 4}
    replies = pd.read_parquet(study.evaluate(Spec("sft")).path / "replies.parquet")
    policy, tokenizer = study.policy("ppo")
    prompts = [json.loads(prompt) for prompt in replies["prompt"]]
    after = reply_log_probs(policy, tokenizer, prompts, kept_replies(replies), 32)
    assert found["forward_kl"] == pytest.approx((replies["log_prob_0"] - after).mean(), abs=1e-4)
    assert found["forward_kl"] != study.point(Spec("ppo", 2))["kl"]
    beside = json.loads((study.calibration(Spec("sft")).path / "calibration.json").read_text())
    assert beside["entropy"] == pytest.approx(-replies["log_prob"].mean())
    sure = study.scorer.confidences(*study.policy("sft"))
    assert beside["ece"] == calibration_error(sure["confidence"], sure["right"])
    both = sure.merge(study.scores(Spec("sft")).items, on=["slot", "item"])
    assert len(both) == len(sure) > 0
    assert both["right"].tolist() == (both["forgiven"] == 1).tolist()
    specs = [Spec("base"), Spec("sft"), Spec("ppo", 1), Spec("ppo", 2, "average", 0.5)]
    table = record.forward_kls(study, specs)
    assert (*table["algorithm"], table["alpha"].iloc[-1]) == ("sft", "ppo", "ppo", 0.5)
    assert list(table.columns) == [*NAMED, "forward_kl", "ece", "entropy", "probe"]


def test_ppo_under_another_kl_coefficient_is_another_run(study):
    specs = study.specs(["kl_coef"])
    assert specs == [Spec("sft"), *(Spec("ppo", 2, "kl_coef", strength=c) for c in (0.0, 0.4))]
    free, held = (study.artifact(spec) for spec in specs[1:])
    own = study.artifact(Spec("ppo", 2)).key
    assert len({free.key, held.key, own}) == 3
    assert study.artifact(Spec("ppo", 2, "kl_coef", strength=PPO.kl_coef)).key == own
    assert [log_of(each)["kl_coef"].iloc[-1] for each in (free, held)] == [0.0, 0.4]
    point = study.point(specs[1])
    assert (point["method"], point["strength"]) == ("kl_coef", 0.0)
    assert "kl_coef" not in catalogue.methods(miniature())
    other = Spec("rsf", 2, "kl_coef", strength=0.1)
    refuses(ValueError, "a method of ppo alone", study.artifact, other)


def test_another_algorithm_is_recorded_beside_rsf(runs, tmp_path, monkeypatch):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(runs))  # where all test files keep their stages
    monkeypatch.setattr(settings, "results_folder", lambda: tmp_path / "results")
    small = replace(with_algorithms(rloo=None), alphas=(0.0, 1.0))
    record.record(replace(small, dpo=None, ppo=None), [0])
    record.record(small, [0], methods=["dpo", "ppo"])
    every = recorded("miniature")
    assert {"dpo", "ppo", "rsf"} <= set(every.points["algorithm"])
    assert set(every.rounds["algorithm"]) == {"rsf", "rsf_random", "dpo", "ppo"}
    trained = every.points[every.points["forward_kl"].notna() & (every.points["method"] == "none")]
    assert set(trained["algorithm"]) == {"sft", "rsf", "rsf_random", "dpo", "ppo"}
    assert len(every.curve("average", 0)) == 2  # of RSF alone


def test_the_bench_says_where_the_time_of_each_algorithm_goes(study):
    found = bench.algorithms(study)
    assert tuple(found) == ALL
    for name, each in found.items():
        assert each["replies"] == {"rsf": 8, "dpo": 32, "rloo": 16, "ppo": 16}[name]
        assert each["replies_per_second"] == pytest.approx(each["replies"] / each["seconds"])
        shares = [each[part] for part in ("sampling", "scoring", "learning")]
        assert (min(shares) > 0, sum(shares)) == (True, pytest.approx(1))
    # its own clock covers a whole step
    assert 1 <= found["ppo"]["step_over_parts"] < 2
