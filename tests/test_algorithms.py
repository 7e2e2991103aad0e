"""Every RLHF algorithm as a stage of the study: kept by rounds, resumed, told apart."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import miniature

from alignment_tax import settings
from alignment_tax.models import load_state
from alignment_tax.pipeline import catalogue, record
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import SAMPLED, DpoConfig, PpoConfig, RlooConfig
from alignment_tax.results.recorded import IDENTITY, recorded
from alignment_tax.spec import Spec, UnknownStage
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


def with_algorithms(**others):
    return miniature(**({"dpo": DPO, "rloo": RLOO, "ppo": PPO, "kl_coefs": (0.0, 0.4)} | others))


@pytest.fixture(scope="module")
def study(store):
    return Study(with_algorithms(), 0, store)


def weights(study, algorithm, rounds):
    return load_state(study.aligned(algorithm, rounds).path / "model")


@pytest.mark.parametrize("algorithm", ["rsf", "dpo", "rloo", "ppo"])
def test_every_round_moves_the_policy_on_and_is_kept(study, store, algorithm, monkeypatch):
    first, second = weights(study, algorithm, 1), weights(study, algorithm, 2)
    start = load_state(study.sft.path / "model")
    for one, other in ((start, first), (first, second)):
        assert any(not torch.equal(one[name], other[name]) for name in one)
    log = pd.read_json(study.aligned(algorithm, 2).path / "log.jsonl", lines=True)
    assert len(log) > 0
    monkeypatch.setattr(Store, "_make", None)  # nothing is made again
    assert Study(with_algorithms(), 0, store).aligned(algorithm, 2) == study.aligned(algorithm, 2)


def test_ppo_cut_into_rounds_is_the_same_run(study, store):
    whole = dataclasses.replace(PPO, rounds=1, iterations=PPO.iterations * PPO.rounds)
    uncut = Study(with_algorithms(ppo=whole), 0, store)
    one, other = weights(study, "ppo", 2), weights(uncut, "ppo", 1)
    assert all(torch.equal(one[name], other[name]) for name in one)
    log = pd.read_json(study.aligned("ppo", 2).path / "log.jsonl", lines=True)
    assert log["iteration"].tolist() == [3, 4]


def test_the_other_pairs_of_dpo_are_another_run(study, store):
    offline = Study(with_algorithms(dpo=dataclasses.replace(DPO, source="offline")), 0, store)
    assert offline.aligned("dpo", 1).key != study.aligned("dpo", 1).key
    own = pd.read_parquet(study.aligned("dpo", 1).path / "samples.parquet")
    written = pd.read_parquet(offline.aligned("dpo", 1).path / "samples.parquet")
    assert (own["margin"] > 0).all()
    assert not set(own["prompt"]) & set(written["prompt"])


def test_every_algorithm_has_its_rounds_and_averages_and_no_others(study):
    specs = study.specs()
    assert len(specs) == len(set(specs))
    for algorithm in ("rsf", "dpo", "rloo", "ppo"):
        own = [spec for spec in specs if spec.algorithm == algorithm]
        rounds = [Spec(algorithm, 1), Spec(algorithm, 2)]
        assert own == rounds + [Spec(algorithm, 2, "average", a) for a in study.preset.alphas]
    assert Spec("dpo", 2, "average", 0.5) in Study(with_algorithms(), 1).specs()
    found = {spec.algorithm for spec in Study(miniature(), 0).specs()}
    assert found == {"base", "sft", "rsf", "rsf_random"}
    for each, algorithm, rounds, message in (
        (study, "grpo", 1, r"no algorithm 'grpo'.*rsf, rsf_random, dpo, rloo, ppo"),
        (study, "dpo", 3, r"no dpo round 3.*1 to 2"),
        (Study(miniature(), 0), "ppo", 1, "no algorithm 'ppo'"),
    ):
        with pytest.raises(UnknownStage, match=message):
            each.aligned(algorithm, rounds)


# what is recorded
def test_the_table_of_rounds_says_of_each_algorithm_what_is_known(study):
    table = record.rounds_table(study, ("rsf", "dpo", "rloo", "ppo"))
    assert len(table) == 8
    first = table[table["rounds"] == 1].set_index("algorithm")
    assert first[["kept_gold", "finished"]].loc[["rsf", "rloo", "ppo"]].notna().all(axis=None)
    # DPO keeps its chosen replies alone: their mean is not that of all that were sampled
    assert np.isnan(first.loc["dpo", "mean_gold"])
    chosen = pd.read_parquet(study.aligned("dpo", 1).path / "samples.parquet")["gold"]
    assert first.loc["dpo", "kept_gold"] == pytest.approx(chosen.mean())
    # PPO keeps no replies: its log has their mean gold in each of two iterations
    log = pd.read_json(study.aligned("ppo", 1).path / "log.jsonl", lines=True)
    assert first.loc["ppo", "mean_gold"] == pytest.approx(log["gold"].mean())
    assert first.loc["ppo", "mean_reward"] == pytest.approx(log["reward"].mean())


def test_the_forward_kl_is_taken_on_the_replies_of_theta_0(study):
    own, found = (
        json.loads((study.forward_kl(spec).path / "kl.json").read_text())
        for spec in (Spec("sft"), Spec("ppo", 2))
    )
    assert own == {"forward_kl": 0.0, "replies": 4}
    replies = pd.read_parquet(study.evaluate(Spec("sft")).path / "replies.parquet")
    policy, tokenizer = study.policy("ppo")
    prompts = [json.loads(prompt) for prompt in replies["prompt"]]
    after = reply_log_probs(policy, tokenizer, prompts, kept_replies(replies), 32)
    assert found["forward_kl"] == pytest.approx((replies["log_prob_0"] - after).mean(), abs=1e-4)
    assert found["forward_kl"] != study.point(Spec("ppo", 2))["kl"]
    specs = [Spec("base"), Spec("sft"), Spec("ppo", 1), Spec("ppo", 2, "average", 0.5)]
    table = record.forward_kls(study, specs)
    assert table["algorithm"].tolist() == ["sft", "ppo", "ppo"]
    assert table["alpha"].tolist()[-1] == 0.5
    assert list(table.columns) == [*IDENTITY, "forward_kl"]


def test_ppo_under_another_kl_coefficient_is_another_run(study):
    specs = study.specs(["kl_coef"])
    assert specs == [Spec("sft"), *(Spec("ppo", 2, "kl_coef", strength=c) for c in (0.0, 0.4))]
    free, held = (study.artifact(spec) for spec in specs[1:])
    own = study.aligned("ppo", 2).key
    assert len({free.key, held.key, own}) == 3
    assert study.artifact(Spec("ppo", 2, "kl_coef", strength=PPO.kl_coef)).key == own
    first = [pd.read_json(a.path / "log.jsonl", lines=True).iloc[-1] for a in (free, held)]
    assert [row["kl_coef"] for row in first] == [0.0, 0.4]
    point = study.point(specs[1])
    assert (point["method"], point["strength"]) == ("kl_coef", 0.0)
    assert "kl_coef" not in catalogue.methods(miniature())
    with pytest.raises(ValueError, match="a method of ppo alone"):
        study.artifact(Spec("rsf", 2, "kl_coef", strength=0.1))


@pytest.mark.usefixtures("shared_runs")
def test_another_algorithm_is_recorded_beside_rsf(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "results_folder", lambda: tmp_path / "results")
    small = dataclasses.replace(with_algorithms(rloo=None), alphas=(0.0, 1.0))
    record.record(dataclasses.replace(small, dpo=None, ppo=None), [0])
    record.record(small, [0], methods=["dpo", "ppo"])
    every = recorded("miniature")
    assert {"dpo", "ppo", "rsf"} <= set(every.points["algorithm"])
    assert set(every.rounds["algorithm"]) == {"rsf", "rsf_random", "dpo", "ppo"}
    trained = every.kl[every.kl["method"] == "none"]
    assert set(trained["algorithm"]) == {"sft", "rsf", "rsf_random", "dpo", "ppo"}
    assert len(every.curve("average", 0)) == 2  # of RSF alone


# speed
def test_the_bench_says_where_the_time_of_each_algorithm_goes(study):
    found = bench.algorithms(study)
    assert list(found) == ["rsf", "dpo", "rloo", "ppo"]
    for name, each in found.items():
        assert each["replies"] == {"rsf": 8, "dpo": 32, "rloo": 16, "ppo": 16}[name]
        assert each["replies_per_second"] == pytest.approx(each["replies"] / each["seconds"])
        shares = [each[part] for part in ("sampling", "scoring", "learning")]
        assert min(shares) > 0
        assert sum(shares) == pytest.approx(1)
    # its own clock covers a whole step
    assert 1 <= found["ppo"]["step_over_parts"] < 2
