"""Remedies, and searches for ratios, as stages of a study: protocols, what is found, refusals."""

import dataclasses
import json
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import miniature, refuses

from alignment_tax import presets
from alignment_tax.merge import search
from alignment_tax.merge.average import MergeError, average
from alignment_tax.merge.hma import KlToStart, ReplyLikelihood, grid_ratios, mean_objective
from alignment_tax.merge.layout import ratios_of_blocks
from alignment_tax.merge.search import SEARCHES, Found, SampledReward, Task
from alignment_tax.mitigate import REMEDIES, DistilConfig, distil
from alignment_tax.mitigate.replay import tiny_reported
from alignment_tax.models import load_state
from alignment_tax.pipeline.stages import remedies
from alignment_tax.pipeline.stages.ratios import resolved
from alignment_tax.pipeline.study import Study
from alignment_tax.spec import Spec, UnknownStage, ratios_in, simplest
from alignment_tax.store import Store
from alignment_tax.train.rsf import short_prompts
from alignment_tax.train.sample import sample_replies, sampling

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
    refuses(UnknownStage, "no method 'l3'.*early_stopping.*l2", study.specs, ["l2", "l3"])


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


# --- searches for ratios: each holds its mean, and none is worse than equal ones ------------------
K, ALPHA = 3, 0.3


def spec(method, alpha, part="K=3"):
    return Spec("rsf", LAST, method, alpha, part=part)


@pytest.fixture(scope="module")
def found(study):
    """What every search finds for three blocks of mean 0.3."""
    return {method: study.ratios(method, K, ALPHA) for method in SEARCHES}


@pytest.fixture(scope="module")
def parts(study):
    """A network, and the mixture of theta_0 and the last round of RSF in three blocks."""
    return study.mixture(K)[::2]


def mixed(mixture, blocks):
    return mixture.weights(ratios_of_blocks(mixture.partition, blocks, ALPHA))


# what each search finds
@pytest.mark.parametrize("method", sorted(SEARCHES))
def test_ratios_have_the_mean_lie_in_the_box_and_are_no_worse_than_equal_ones(found, method):
    result, released = found[method], method == "hma_released"
    assert len(result.blocks) == K
    assert all(0 <= ratio <= 1 for ratio in result.blocks)
    assert math.isfinite(result.objective)
    # bfloat16 has 8 bits of mantissa: 0.7 is rounded by at most 0.2 %
    assert result.alpha == pytest.approx(ALPHA, abs=0.002 if released else 1e-9)
    assert result.fixed == ({"embeddings": 0.0, "norms": 0.0} if released else {})
    assert released or result.objective <= result.equal


def test_hma_is_the_likelihood_of_the_policys_best_replies(study, found, parts):
    model, mixture = parts
    data = study.search_data()
    samples = pd.read_parquet(study.best_replies().path / "samples.parquet")
    best = samples[samples["chosen"]]
    assert len(data.replies) == len(best) > 0
    highest = samples[samples["finished"]].groupby("group")["reward"].transform("max")
    assert (best["reward"] == highest[best.index]).all()
    objective, hma = ReplyLikelihood(model, data.replies), found["hma"]
    for blocks, value in ((hma.blocks, hma.objective), ((ALPHA,) * K, hma.equal)):
        again = mean_objective(objective, mixed(mixture, blocks), study.preset.ratios.batch_size)
        assert value == pytest.approx(again, rel=1e-6)
    assert hma.objective < hma.equal
    assert len(set(hma.blocks)) == K
    assert hma.path[0]["ratios"] == pytest.approx([ALPHA] * K)


def test_the_grid_is_whole_and_its_best_point_is_the_smallest(study, found):
    for method, step in search.GRID_STEPS.items():
        rows = found[method].path
        points = [tuple(row["ratios"]) for row in rows]
        assert points == grid_ratios(ALPHA, getattr(study.preset.ratios, step))
        assert len(points) > 3
        best = min(rows, key=lambda row: row["full"])
        expected = (best["full"], tuple(best["ratios"]))
        assert (found[method].objective, found[method].blocks) == expected
    # the same data at equal ratios: the same number
    assert found["hma_grid"].equal == pytest.approx(found["hma"].equal, rel=1e-6)


def test_a_sampled_reward_is_that_of_replies_with_common_random_numbers(study, parts):
    model, mixture = parts
    data = study.search_data(method="hma_reward")
    assert data.prompts == study.preset.ratios.reward_prompts
    objective = SampledReward(model, data.prompts, data.reward)
    chosen, ratios = range(data.prompts), (0.6, 0.2, 0.1)
    one, other = mixed(mixture, ratios), mixed(mixture, (0.0, 0.3, 0.6))
    first = objective(one, chosen).item()
    assert objective(other, chosen).item() != first
    assert objective(one, chosen).item() == first
    # by hand: the mixture by another way, replies and rewards one by one
    network, tokenizer, sweep = study.mixture(K)
    sweep.set(ratios_of_blocks(sweep.partition, ratios, ALPHA))
    rsf = study.preset.rsf
    every = study.world.prompts(10**6, study.seed, "rlhf")
    prompts = short_prompts(tokenizer, every, rsf.max_prompt_length)[: data.prompts]
    replies = sample_replies(network, tokenizer, prompts, 1, seed=study.seed, **sampling(rsf))
    rewards = study.rewards(prompts, [group[0] for group in replies])
    assert first == pytest.approx(-np.mean(rewards), rel=1e-6)


def test_a_heavy_kl_term_moves_the_ratios_to_what_keeps_theta_0(study, found, parts):
    model, mixture = parts
    data = study.search_data(method="hma_kl")
    kl = KlToStart(model, mixture.theta_0, data.texts, weight=1.0)
    heavy = dataclasses.replace(study.preset.ratios, kept_weight=1e4)
    task = Task(mixture, model, data, heavy, ALPHA, study.seed)
    kept = SEARCHES["hma_kl"](task)
    with torch.no_grad():
        before, after = (kl(mixed(mixture, each.blocks)).item() for each in (found["hma"], kept))
    assert 0 < after < before
    # what was minimised is the likelihood and the term, no more
    plain = mean_objective(task.likelihood, mixed(mixture, kept.blocks), heavy.batch_size)
    assert kept.objective == pytest.approx(plain + 1e4 * after, rel=1e-6)


def test_kept_texts_are_pretraining_text_with_or_without_the_formats(study):
    _, tokenizer = study.policy("sft")
    texts = {}
    for method in search.KEEPING:
        ids = study.search_data(method=method).texts
        assert len(ids) == study.preset.ratios.kept_texts
        texts[method] = [tokenizer.decode(row) for row in ids]
    asked = {name: sum("question :" in text for text in held) for name, held in texts.items()}
    assert asked["hma_kl_other"] == 0
    # a passage comes with one of its questions and the answer to it
    passages = [text for text in texts["hma_kl"] if text.startswith("passage :")]
    assert all(text.count("question :") == 1 and "answer :" in text for text in passages)
    assert not {text for held in texts.values() for text in held} & set(tiny_reported())


def test_adamerging_is_no_worse_than_equal_ratios_on_labelled_items(study, found, parts):
    model, mixture = parts
    data = study.search_data(method="adamerging")
    objective = ReplyLikelihood(model, data.labelled)
    blocks = (found["adamerging"].blocks, (ALPHA,) * K)
    at = [mean_objective(objective, mixed(mixture, each), 64) for each in blocks]
    assert at[0] <= at[1]
    assert found["adamerging"].objective == pytest.approx(at[0], rel=1e-5)
    # read as it is scored: the prompt, then the answer and the end
    _, tokenizer = study.policy("sft")
    ids, labels = data.labelled[0]
    answer = [label for label in labels if label != -100]
    assert ids[-len(answer) :] == answer
    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[: -len(answer)]).endswith("answer :")


# specs
def test_a_spec_with_open_ratios_is_resolved_and_scored_once(study, found):
    open_ = spec("hma_grid", ALPHA)
    closed = resolved(study, open_)
    assert (closed.alpha, *ratios_in(closed)) == (ALPHA, found["hma_grid"].blocks, {})
    assert resolved(study, closed) is closed
    like = dataclasses.replace(closed, method="hma")
    assert len({study.evaluate(each).key for each in (open_, closed, like)}) == 1
    table = study.points([open_, like])
    assert table["method"].tolist() == ["hma_grid", "hma"]
    assert (table["part"].tolist(), table["key"].nunique()) == ([closed.part] * 2, 1)
    # released ratios are scored with embeddings and norms of theta_0
    released = resolved(study, dataclasses.replace(open_, method="hma_released"))
    assert released.part.endswith("|embeddings=0.0|norms=0.0")
    start, end = weights(study.sft), weights(study.rsf(LAST))
    for each, block, layer in ((open_, 2, 8), (released, 0, 0)):
        own = dict(study.model(each)[0].state_dict())
        ratio, name = found[each.method].blocks[block], f"model.layers.{layer}.mlp.up_proj.weight"
        torch.testing.assert_close(own[name], (1 - ratio) * start[name] + ratio * end[name])
    outside = [name for name in own if "norm" in name or "embed" in name]
    assert outside
    assert all(torch.equal(own[name], start[name]) for name in outside)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.3, 0.4])
def test_equal_ratios_that_were_found_are_the_plain_average(study, monkeypatch, alpha):
    """The mean of 0.1, 0.1 and 0.1 is not 0.1 in floating point."""
    equal = Found((alpha,) * K, {}, 1.0, 1.0, [])
    monkeypatch.setattr("alignment_tax.pipeline.stages.ratios.found_by", lambda *_: equal)
    assert simplest(resolved(study, spec("hma", alpha))) == Spec("rsf", LAST, "average", alpha)


def test_recorded_specs_are_those_of_the_preset_and_named_for_a_reader(study):
    found, open_ = (spec("hma", 0.4, part) for part in ("0.61234|norms=0.0", "K=3"))
    assert str(found) == "rsf round 2 with hma, alpha 0.4, ratios 0.612, norms 0"
    assert str(open_).endswith("hma, alpha 0.4, 3 blocks")
    assert study.specs(["part"])[1:] == [spec("part", 0.5, part) for part in ("input", "linear")]
    by_hand = study.specs(["pattern"])[1:]
    assert len(by_hand) == 12  # two shapes around three bases, in two readings
    assert by_hand[0] == spec("pattern", pytest.approx(0.5 / 3), "0.2|0.2|0.1")
    assert study.specs(["hma"])[1:] == [spec("hma", 0.3)]
    words = ("part", "pattern", "hma", "hma_grid")
    every = [Spec("sft"), *(each for word in words for each in study.specs([word])[1:])]
    assert study.specs(["parts"]) == every
    assert not {"part", "hma"} & {spec.method for spec in study.specs()}
    refuses(UnknownStage, "no method 'parts'", bare(ratios=None).specs, ["parts"])
    for name in ("tiny", "smoke"):
        shipped = Study(name)
        assert {grid[0] for grid in shipped.preset.ratios.grids} == set(SEARCHES)
        parts = {each.part for each in shipped.specs(["parts"])}  # refuses what cannot be searched
        assert parts >= {"linear", "input", "head", "K=3"}


# found ratios are kept
def test_a_search_is_loaded_as_it_was_found_and_not_made_again(study, found, parts, monkeypatch):
    model, mixture = parts
    task = Task(mixture, model, study.search_data(), study.preset.ratios, ALPHA, study.seed)
    # the number of threads decides the last digits, and another test's study may have changed it
    torch.set_num_threads(study.preset.threads)
    assert SEARCHES["hma"](task) == found["hma"]
    # what is recorded does not change what is found
    changes = {"parts": (("head", (0.1,)),), "grids": (("hma", 9, (0.1,)),)}
    other = dataclasses.replace(study.preset.ratios, **changes)
    preset = dataclasses.replace(study.preset, ratios=other)
    monkeypatch.setattr(Store, "_make", None)
    assert Study(preset, 0, study.store).ratios("hma_kl", K, ALPHA) == found["hma_kl"]


# --- refused before anything is made --------------------------------------------------------------
NO_ROUNDS = "needs no rounds of its own.*l1, l2"


@pytest.mark.parametrize(("asked", "error", "message"), [
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
    (spec("hmm_x", 0.3), UnknownStage, "no method 'hmm_x'"),
    (spec("hma_x", 0.3), UnknownStage, "no search 'hma_x'.*hma, hma_eq11"),
    (spec("hma", 0.3, "K=10"), MergeError, "10 blocks cannot be cut from 9 layers"),
    (spec("hma", 0.3, "K=1"), MergeError, "one block there is nothing to search"),
    (spec("hma", None), ValueError, "needs alpha"),
    (spec("hma_grid", 0.3, "K=6"), MergeError, "grid search is for K = 3 blocks, not 6"),
    (spec("hma_eq11", 0.9), MergeError, "eps of 5.667 or more, or the softmax"),
    (spec("hma_grid", 0.3), MergeError, "step of the grid is 1.5"),
    (spec("part", 0.3, "top"), MergeError, "no part 'top'.*input, middle, output"),
    (spec("part", 0.3, None), ValueError, "needs a part and an alpha"),
    (spec("hma", 0.3, "0.3|0.4"), MergeError, "mean must be 0.3"),
    (spec("hma", 0.3, "norms=0.0"), ValueError, "ratios of its blocks.*'norms=0.0'"),
    (spec("hma", 0.3, None), ValueError, "ratios of its blocks.*None"),
    (spec("hma", 0.3, "0.3|0.3|K=3"), MergeError, "'K' has no ratio to fix"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_made(asked, error, message):
    study = bare(ratios=dataclasses.replace(miniature().ratios, grid_step=1.5))
    for use in (study.evaluate, study.artifact, study.model, study.point):
        refuses(error, message, use, asked)


def test_presets_without_numbers_or_text_and_unknown_rounds_are_refused():
    less = bare(replay_documents=0)
    refuses(UnknownStage, "set its `distil`", remedied, bare(distil=None), "l2", 0.1)
    refuses(UnknownStage, "set its `ratios`", bare(ratios=None).ratios, "hma_kl", 3, 0.3)
    refuses(UnknownStage, "no pretraining text to replay", remedied, less, "replay", 1.0)
    refuses(UnknownStage, "no pretraining text", less.ratios, "hma_kl", 3, 0.3)
    dpo = Spec("dpo", 1, "hma", 0.3, part="K=3")
    refuses(UnknownStage, "no algorithm 'dpo'", bare().model, dpo)
    refuses(ValueError, "pass extrapolate=True", bare().distilled, {"average": 1.5})
    to_the_end = dataclasses.replace(miniature().ratios, grids=(("hma_grid", 3, (0.3, 1.0)),))
    refuses(MergeError, "strictly between 0 and 1", bare(ratios=to_the_end).specs, ["parts"])
