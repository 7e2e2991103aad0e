"""The remedies as stages of a study: both protocols, one run for many strengths, refusals."""

import dataclasses
import json
import math
from functools import partial

import pytest
import torch
from conftest import miniature, refuses

from alignment_tax import presets
from alignment_tax.merge.average import average
from alignment_tax.mitigate import REMEDIES, DistilConfig, distil
from alignment_tax.models import load_state
from alignment_tax.pipeline.stages import remedies
from alignment_tax.pipeline.study import Study
from alignment_tax.spec import Spec, UnknownStage
from alignment_tax.store import Store

LAST = 2
rsf = partial(Spec, "rsf", LAST)
PLAIN = rsf("distil")


@pytest.fixture(scope="module")
def plain(study):
    return study.artifact(PLAIN)


def remedied(study, method, strength, rounds=LAST):
    return study.artifact(Spec("rsf", rounds, method, strength=strength))


def alone(study, **remedies_of):
    """The weights after one distilled run with these remedies, trained here and not by a stage."""
    return dict(distil(remedies.setting(study, {}, LAST), remedies_of).policy.state_dict())


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
def test_the_plain_run_is_one_finetuning_on_what_rsf_kept_and_its_key_holds_all_of_it(study, plain):
    pool = study.pool()
    assert len(pool) == sum(stats_of(study.rsf(r))["kept"] for r in (1, 2)) > 0
    assert same(alone(study), weights(plain))
    stats, config = stats_of(plain), study.preset.distil
    assert stats["steps"] == config.epochs * math.ceil(len(pool) / config.batch_size)
    assert min(stats["seconds"], stats["peak_memory_mb"] - 50) > 0
    assert (plain.path / "log.jsonl").read_text().count("\n") == stats["steps"]
    assert not same(weights(plain), weights(study.rsf(LAST)))
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
        assert same(alone(study, **{name: strength}), ends[name, strength])
    assert same(alone(study, sma=0.75), weights(remedied(study, "sma", 0.75)))
    assert "Making the distilled run (sma 0.75)" in capfd.readouterr().err


@pytest.mark.parametrize(("first", "strength"), [("distil", None), ("l2", 0.1), ("lora", 4)])
def test_averaging_after_a_remedy_is_a_spec_and_a_combination(study, first, strength):
    end = remedied(study, first, strength)
    expected = average(weights(study.sft), weights(end), 0.25)
    spec = rsf(f"{first}+average", alpha=0.25, strength=strength)
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
    assert same(alone(study, l2=0.1, kd=1.0), weights(both))


def test_costs_are_those_of_the_training_behind_a_model(study, plain):
    own = study.cost(PLAIN)
    assert own == stats_of(plain) == study.cost(rsf("distil+average", alpha=0.5))
    graft = study.cost(rsf("graft", strength=0.2))
    assert graft["steps"] == own["steps"]
    assert graft["seconds"] > own["seconds"]
    for spec in (Spec("sft"), Spec("rsf", 1), rsf("average", 0.5)):
        assert study.cost(spec) is None


def test_specs_of_methods_have_theta_0_and_no_doubles(study):
    specs = study.specs(["l2", "l2", "distil", "early_stopping", "rsf"])
    assert specs[0] == Spec("sft")
    assert len(specs) == len(set(specs)) == 1 + 2 + 1 + 2 + len(study.preset.alphas)
    methods = "none distil distil+average l2 lora sma ema graft".split()
    assert {spec.method for spec in study.specs(["remedies"])} == set(methods)
    assert len(study.specs(["l2+average"])) == 1 + 2 * len(study.preset.alphas)
    inside = [rsf("l2_in_rounds", strength=s) for s in (0.1, 1.0)]
    assert study.specs(["l2_in_rounds"])[1:] == inside
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
    start = weights(study.sft)

    def moved(artifact):
        end = weights(artifact)
        return sum((end[name] - start[name]).square().sum() for name in start)

    assert 0 < moved(strong) < 0.5 * moved(off)
    spec = rsf("l2_in_rounds", strength=100.0)
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
NO_ROUNDS = "needs no rounds of its own.*l1, l2"
REFUSED = [
    (rsf("kl", strength=math.nan), ValueError, "is nan: it must be a finite number"),
    (rsf("graft", strength=0.0), ValueError, r"graft is 0.0: it must lie in \(0, 1\]"),
    (rsf("graft_random", strength=1.5), ValueError, r"density of the graft is 1.5"),
    (rsf("sma", strength=0.01), ValueError, "this one has 0"),
    (rsf("sma", strength=0.1), ValueError, "this one has 1"),
    (rsf("ema", strength=0.0), ValueError, "horizon of EMA"),
    (rsf("l2"), ValueError, "'l2' needs a strength: lambda"),
    (rsf("distil", strength=0.5), ValueError, "it has no strength=0.5"),
    (rsf("l3", strength=1.0), UnknownStage, "no method 'l3'.*distil.*l2"),
    (Spec("rsf", 3, "l2", strength=0.1), UnknownStage, "no rsf round 3.* 1 to 2"),
    (Spec("rsf_random", LAST, "l2", strength=0.1), UnknownStage, "the samples of rsf"),
    (rsf("l2+average", strength=0.1), ValueError, r"'l2\+average' needs alpha"),
    (rsf("l2+average", 1.5, 0.1), ValueError, "alpha"),
    (rsf("sma_in_rounds", strength=0.5), UnknownStage, f"'sma' {NO_ROUNDS}"),
    (rsf("graft_in_rounds", strength=0.5), UnknownStage, f"'graft' {NO_ROUNDS}"),
    (rsf("average_in_rounds", strength=0.5), UnknownStage, f"'average' {NO_ROUNDS}"),
]


@pytest.mark.parametrize(("spec", "error", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_before_any_work(spec, error, message):
    for use in (bare().evaluate, bare().artifact):
        refuses(error, message, use, spec)


def test_remedies_together_and_presets_without_numbers_or_text_are_refused():
    refuses(ValueError, "pass extrapolate=True", bare().distilled, {"average": 1.5})
    refuses(UnknownStage, "set its `distil`", remedied, bare(distil=None), "l2", 0.1)
    with pytest.raises(UnknownStage, match="no pretraining text to replay"):
        remedied(bare(replay_documents=0), "replay", 1.0)
