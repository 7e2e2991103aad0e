"""The remedies as stages of a study: both protocols, one run for many strengths, refusals."""

import dataclasses
import json
import math

import pytest
import torch
from conftest import miniature

from alignment_tax import presets
from alignment_tax.merge.average import average
from alignment_tax.mitigate import REMEDIES, DistilConfig, distil
from alignment_tax.models import load_state
from alignment_tax.pipeline.stages import remedies
from alignment_tax.pipeline.study import Study
from alignment_tax.spec import COLUMNS, Spec, UnknownStage
from alignment_tax.store import Store

LAST = 2
PLAIN = Spec("rsf", LAST, "distil")


@pytest.fixture(scope="module")
def plain(study):
    return study.artifact(PLAIN)


def remedied(study, method, strength, rounds=LAST):
    return study.artifact(Spec("rsf", rounds, method, strength=strength))


def setting(study):
    """What the distilled run of a study starts from."""
    return remedies.setting(study, {}, LAST)


def weights(artifact):
    return load_state(artifact.path / "model")


def same(one, other):
    assert set(one) == set(other)
    return all(torch.equal(one[name], other[name]) for name in one)


def stats_of(artifact):
    return json.loads((artifact.path / "stats.json").read_text())


def bare(**changes):
    """A study whose store is empty: nothing may be made for what is refused."""
    return Study(miniature(**changes), 0, Store("/nonexistent"))


# the distillation style
def test_the_plain_run_is_one_finetuning_on_what_rsf_kept(study, plain):
    pool = study.pool()
    kept = [stats_of(study.rsf(r))["kept"] for r in (1, 2)]
    assert len(pool) == sum(kept) > 0
    again = distil(setting(study))
    assert same(dict(again.policy.state_dict()), weights(plain))
    stats = stats_of(plain)
    config = study.preset.distil
    assert stats["steps"] == config.epochs * math.ceil(len(pool) / config.batch_size)
    assert stats["seconds"] > 0
    assert stats["peak_memory_mb"] > 50
    assert (plain.path / "log.jsonl").read_text().count("\n") == stats["steps"]
    assert not same(weights(plain), weights(study.rsf(LAST)))


def test_the_key_holds_all_that_determines_the_run(study, plain):
    assert set(plain.meta["parents"]) == {"theta_0", "reward", "round 1", "round 2"}
    shorter = study.artifact(Spec("rsf", 1, "distil"))
    keys = {plain.key, shorter.key, remedied(study, "l2", 0.1).key, remedied(study, "l2", 1.0).key}
    config = dataclasses.replace(study.preset.distil, epochs=1)
    other = Study(dataclasses.replace(study.preset, distil=config), 0, study.store)
    assert len(keys | {other.artifact(PLAIN).key}) == 5


def test_one_run_serves_all_strengths_of_what_acts_along_or_afterwards(study, plain, capfd):
    wanted = [("sma", 0.5), ("sma", 1.0), ("ema", 0.5), ("graft", 0.2), ("graft", 0.5)]
    ends = {each: weights(remedied(study, *each)) for each in wanted}
    said = capfd.readouterr().err
    assert said.count("Making averages along the plain run") == 1
    assert "Making the distilled run" not in said
    every = list(ends.values())
    assert sum(same(one, other) for one in every for other in every) == len(every)
    for name, strength in wanted[:3]:
        alone = distil(setting(study), {name: strength}).policy
        assert same(dict(alone.state_dict()), ends[name, strength])
    alone = distil(setting(study), {"sma": 0.75}).policy
    assert same(dict(alone.state_dict()), weights(remedied(study, "sma", 0.75)))
    assert "Making the distilled run (sma 0.75)" in capfd.readouterr().err


@pytest.mark.parametrize(("first", "strength"), [("distil", None), ("l2", 0.1), ("lora", 4)])
def test_averaging_after_a_remedy_is_a_spec_and_a_combination(study, first, strength):
    end = remedied(study, first, strength)
    start = load_state(study.sft.path / "model")
    expected = average(start, weights(end), 0.25)
    spec = Spec("rsf", LAST, f"{first}+average", alpha=0.25, strength=strength)
    assert study.artifact(spec) == end
    assert same(dict(study.model(spec)[0].state_dict()), expected)
    chosen = {} if strength is None else {first: strength}
    assert same(weights(study.distilled({"average": 0.25, **chosen})), expected)


def test_terms_combine_in_one_run_and_replay_has_its_own_key(study, plain):
    one, other = remedied(study, "replay", 0.5), remedied(study, "replay_other", 0.5)
    assert not same(weights(one), weights(other))
    assert one.meta["inputs"].keys() - plain.meta["inputs"].keys() == {"replay"}
    assert len(study.replay_documents()) == 60
    both = study.distilled({"l2": 0.1, "kd": 1.0})
    assert both.key == study.distilled({"kd": 1.0, "l2": 0.1}).key
    alone = distil(setting(study), {"l2": 0.1, "kd": 1.0}).policy
    assert same(dict(alone.state_dict()), weights(both))


# points
def test_points_name_remedies_and_their_ends_are_scored_once(study, plain, monkeypatch):
    wanted = [Spec("rsf", LAST, "distil+average", alpha=a) for a in (0.0, 0.5, 1.0)]
    wanted += [Spec("rsf", LAST, "l2", strength=s) for s in (0.1, 1.0)]
    points = study.points([Spec("sft"), Spec("rsf", LAST, "distil"), *wanted])
    assert list(points.columns) == COLUMNS
    assert points["method"].tolist() == ["none", "distil", *["distil+average"] * 3, "l2", "l2"]
    assert points["strength"].tolist()[-2:] == [0.1, 1.0]
    key = points["key"].tolist()
    assert key[2] == key[0]
    assert key[4] == key[1]
    assert len(set(key)) == 5
    assert points["kl"].iloc[0] == 0


def test_costs_are_those_of_the_training_behind_a_model(study, plain):
    own = study.cost(Spec("rsf", LAST, "distil"))
    assert own == stats_of(plain)
    assert study.cost(Spec("rsf", LAST, "distil+average", alpha=0.5)) == own
    graft = study.cost(Spec("rsf", LAST, "graft", strength=0.2))
    assert graft["steps"] == own["steps"]
    assert graft["seconds"] > own["seconds"]
    for spec in (Spec("sft"), Spec("rsf", 1), Spec("rsf", LAST, "average", 0.5)):
        assert study.cost(spec) is None


def test_specs_of_methods_have_theta_0_and_no_doubles(study):
    specs = study.specs(["l2", "l2", "distil", "early_stopping", "rsf"])
    assert specs[0] == Spec("sft")
    assert len(specs) == len(set(specs)) == 1 + 2 + 1 + 2 + len(study.preset.alphas)
    every = study.specs(["remedies"])
    methods = "none distil distil+average l2 lora sma ema graft".split()
    assert {spec.method for spec in every} == set(methods)
    both = study.specs(["l2+average"])
    assert len(both) == 1 + 2 * len(study.preset.alphas)
    assert study.specs(["l2_in_rounds"])[1:] == [
        Spec("rsf", LAST, "l2_in_rounds", strength=s) for s in (0.1, 1.0)
    ]
    with pytest.raises(UnknownStage, match=r"no method 'l3'.*early_stopping, part, .*distil.*l2"):
        study.specs(["l2", "l3"])


def test_presets_record_every_remedy_at_strengths_that_it_knows():
    for name in ("tiny", "smoke", "small"):
        preset = presets.get(name)
        like = DistilConfig.like(preset.rsf)
        longest = preset.distil.max_length
        assert preset.distil == dataclasses.replace(like, max_length=longest)
        assert longest >= like.max_length
        assert len(preset.remedies) == len(dict(preset.remedies))
        for name, strengths in preset.remedies:
            assert len(strengths) == len(set(strengths)) > 0
            assert REMEDIES[name].off not in strengths
    assert dict(presets.TINY.remedies).keys() == set(REMEDIES) - {"average"}
    assert all(n == each.name and each.describe and each.source for n, each in REMEDIES.items())


# inside the rounds of RSF
def test_a_remedy_inside_the_rounds_changes_them_and_off_is_rsf_itself(study):
    off = remedied(study, "l2_in_rounds", 0.0)
    assert same(weights(off), weights(study.rsf(LAST)))
    strong = remedied(study, "l2_in_rounds", 100.0)
    start = load_state(study.sft.path / "model")

    def moved(artifact):
        end = weights(artifact)
        return sum((end[name] - start[name]).square().sum() for name in start)

    assert 0 < moved(strong) < 0.5 * moved(off)
    spec = Spec("rsf", LAST, "l2_in_rounds", strength=100.0)
    both = [stats_of(remedied(study, "l2_in_rounds", 100.0, r)) for r in (1, 2)]
    assert study.cost(spec)["seconds"] == sum(stats["seconds"] for stats in both)
    assert study.point(spec)["method"] == "l2_in_rounds"


@pytest.mark.parametrize(("name", "strength"), [("lora", 4), ("kl", 1.0), ("replay", 1.0)])
def test_what_works_inside_the_rounds_leaves_an_ordinary_policy(study, name, strength):
    end, start = weights(remedied(study, f"{name}_in_rounds", strength)), weights(study.sft)
    assert set(end) == set(start)
    assert torch.equal(end["lm_head.weight"], start["lm_head.weight"]) == (name == "lora")
    assert not same(end, start)
    assert not same(end, weights(study.rsf(LAST)))


# bad input: refused before anything is made
@pytest.mark.parametrize(
    ("method", "strength", "message"),
    [
        ("kl", math.nan, "is nan: it must be a finite number"),
        ("graft", 0.0, r"density of the graft is 0.0: it must lie in \(0, 1\]"),
        ("graft_random", 1.5, r"density of the graft is 1.5"),
        ("sma", 0.01, "this one has 0"),
        ("sma", 0.1, "this one has 1"),
        ("ema", 0.0, "horizon of EMA"),
        ("l2", None, "'l2' needs a strength: lambda"),
        ("distil", 0.5, "it has no strength=0.5"),
    ],
)
def test_bad_strengths_are_refused_before_any_work(method, strength, message):
    with pytest.raises(ValueError, match=message):
        bare().evaluate(Spec("rsf", LAST, method, strength=strength))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (Spec("rsf", LAST, "l3", strength=1.0), UnknownStage, "no method 'l3'.*distil.*l2"),
        (Spec("rsf", 3, "l2", strength=0.1), UnknownStage, "no rsf round 3.* 1 to 2"),
        (Spec("rsf_random", LAST, "l2", strength=0.1), UnknownStage, "the samples of rsf"),
        (Spec("rsf", LAST, "l2+average", strength=0.1), ValueError, r"'l2\+average' needs alpha"),
        (Spec("rsf", LAST, "l2+average", 1.5, 0.1), ValueError, "alpha"),
        *(
            (Spec("rsf", LAST, f"{name}_in_rounds", strength=0.5), UnknownStage, message)
            for name in ("sma", "graft", "average")
            for message in (f"'{name}' needs no rounds of its own.*l1, l2",)
        ),
    ],
)
def test_models_that_make_no_sense_are_refused_before_any_work(spec, error, message):
    with pytest.raises(error, match=message):
        bare().artifact(spec)


def test_remedies_together_and_presets_without_numbers_or_text_are_refused():
    with pytest.raises(ValueError, match="pass extrapolate=True"):
        bare().distilled({"average": 1.5})
    with pytest.raises(UnknownStage, match="set its `distil`"):
        remedied(bare(distil=None), "l2", 0.1)
    with pytest.raises(UnknownStage, match="no pretraining text to replay"):
        remedied(bare(replay_documents=0), "replay", 1.0)
