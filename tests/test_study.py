"""A study in miniature: same numbers twice, through kills and two at once; one that is recorded."""

import dataclasses
import json
import signal
import subprocess
import sys

import pandas as pd
import pytest
import torch
from conftest import miniature, python, refuses, until
from IPython.core.interactiveshell import InteractiveShell

from alignment_tax import settings
from alignment_tax.mitigate import Treatment
from alignment_tax.models import load_state
from alignment_tax.pipeline.record import rounds_table, run_side_by_side
from alignment_tax.pipeline.recorded_only import LeaveOut, LeftOut
from alignment_tax.pipeline.study import Study
from alignment_tax.registry import REMEDIES, Remedy
from alignment_tax.results.recorded import recorded
from alignment_tax.spec import COLUMNS, Spec
from alignment_tax.store import ArtifactError, Store
from alignment_tax.train.algorithms import ALGORITHMS


@pytest.fixture(scope="module")
def points(study):
    return study.points()


def row(points, algorithm, rounds, method="none", alpha=None):
    named = points[["algorithm", "rounds", "method"]] == [algorithm, rounds, method]
    own = points["alpha"].isna() if alpha is None else points["alpha"] == alpha
    (chosen,) = points[named.all(axis=1) & own].to_dict("records")
    return chosen


# the table of points
def test_points_have_their_columns_and_a_row_for_every_model(points, preset):
    assert list(points.columns) == COLUMNS
    told = points[["study", "seed", "n_items"]].drop_duplicates().values.tolist()
    assert told == [["miniature", 0, 7 * preset.eval.limit]]
    expected = [Spec("base"), Spec("sft")]
    expected += [Spec(name, rounds) for name in ("rsf", "rsf_random") for rounds in (1, 2)]
    expected += [Spec("rsf", 2, "average", alpha) for alpha in preset.alphas]
    found = [Spec.of_row(each) for each in points.to_dict("records")]
    assert (len(found), set(found)) == (len(expected), set(expected))
    percent = points[["one_hop", "bleu", "commonsense", "reading", "translation", "skill"]]
    # a perfect BLEU comes out of sacrebleu as 100 and a rounding error
    assert ((percent >= 0) & (percent <= 100 + 1e-9)).all().all()
    # training moved theta_0, and the control goes another way than the best replies
    models = (("sft", 0), ("rsf", 1), ("rsf", 2), ("rsf_random", 2))
    kls = [row(points, *model)["kl"] for model in models]
    assert (kls[0], len(set(kls))) == (0, 4)


def test_every_round_tells_what_it_sampled_and_kept(study, points, preset):
    table = rounds_table(study)
    names = {(algorithm, rounds) for algorithm in ("rsf", "rsf_random") for rounds in (1, 2)}
    assert set(zip(table["algorithm"], table["rounds"], strict=True)) == names
    assert (table["kept"] + table["dropped"] == preset.rsf.prompts_per_round).all()
    first, second = (study.round_prompts(rounds) for rounds in (1, 2))
    assert not {str(p) for p in first} & {str(p) for p in second}
    pairs = pd.read_parquet(study.reward.path / "held_out.parquet")
    stats = json.loads((study.reward.path / "stats.json").read_text())
    assert len(pairs) == stats["held_out_pairs"] == preset.reward.validation_pairs
    assert stats["pair_accuracy"] == pytest.approx((pairs["margin"] > 0).mean())


def test_seeds_side_by_side_and_a_kill_change_no_number(points, tmp_path, monkeypatch, capfd):
    """Another store, several processes, one of them killed in a round: the same last digits."""
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path))
    code = "from conftest import Study, miniature; Study(miniature(), 0).rsf(2)"
    process = python(code, start=subprocess.Popen)
    rsf = tmp_path / "artifacts" / "rsf"
    until(lambda: [*rsf.glob("[!.]*/meta.json")] and [*rsf.glob(".*.tmp-*")])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    capfd.readouterr()
    run_side_by_side(miniature(), [0, 1], jobs=2)
    said = capfd.readouterr().err
    assert said.count("Making rsf round 2 of 2 (miniature, seed 0)") == 1
    for finished in ("theta_0", "the reward model", "rsf round 1 of 2"):
        assert f"Making {finished} (miniature, seed 0)" not in said
    assert not list((tmp_path / "artifacts").glob("*/.*.tmp-*"))
    monkeypatch.setattr(Store, "_make", None)  # nothing is left to be made
    again, other = (Study(miniature(), seed) for seed in (0, 1))
    pd.testing.assert_frame_equal(again.points(), points, check_exact=True)
    # another seed is another study
    assert set(other.points()["seed"]) == {1}
    assert other.round_prompts(1) != again.round_prompts(1)
    states = [load_state(each.sft.path / "model") for each in (again, other)]
    assert not torch.equal(*(state["lm_head.weight"] for state in states))


def test_an_error_in_one_of_several_seeds_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path))
    given = (miniature(model="data/none"), [0, 1], 2)
    refuses(ArtifactError, "the base model is not in", run_side_by_side, *given)


def test_no_portion_of_a_seed_whose_theta_0_lost_too_much_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=r"lost .* points of .* to instruction tuning"):
        run_side_by_side(miniature(theta_0_may_lose=0), [0], jobs=2, methods=["rsf"])
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} & {"sft", "rsf"} == {"sft"}


# the ends of the average
def test_alpha_0_and_1_are_theta_0_and_rsf_to_the_bit(study, points):
    numbers = COLUMNS[COLUMNS.index("reward") :]
    for alpha, end in ((0.0, row(points, "sft", 0)), (1.0, row(points, "rsf", 2))):
        average = row(points, "rsf", 2, "average", alpha)
        assert [average[name] for name in numbers] == [end[name] for name in numbers]
    model, tokenizer, sweep = study.sweep()
    for alpha, made in ((0.0, study.sft), (1.0, study.rsf(2))):
        sweep.set(0.3)
        sweep.set(alpha)
        end, own = load_state(made.path / "model"), model.state_dict()
        assert set(end) == set(own)
        assert all(torch.equal(own[name], end[name]) for name in own)
    assert study.scorer.score(model, tokenizer).metrics == study.scores(Spec("rsf", 2)).metrics
    middle = row(points, "rsf", 2, "average", 0.5)
    assert middle["key"] not in {row(points, "sft", 0)["key"], row(points, "rsf", 2)["key"]}


# part by part
def assert_mixed(study, spec, ratio_of):
    """Every tensor of the model is (1 - r) theta_0 + r theta, with r = ratio_of(its name)."""
    start, end = (load_state(a.path / "model") for a in (study.sft, study.rsf(2)))
    for name, tensor in study.model(spec)[0].state_dict().items():
        r = ratio_of(name)
        torch.testing.assert_close(tensor, (1 - r) * start[name] + r * end[name])


def block(name):
    """The third of nine layers that a tensor is in, None outside of them and for norms."""
    outside = ".layers." not in name or "norm" in name
    return None if outside else int(name.split(".layers.")[1].split(".")[0]) // 3


def test_a_part_or_a_block_is_mixed_by_its_own_ratio_and_leaves_nothing_behind(study):
    middle = Spec("rsf", 2, "part", 0.25, part="middle")
    assert_mixed(study, middle, lambda name: 0.25 if block(name) == 1 else 1.0)
    assert_mixed(study, Spec("rsf", 2, "average", 0.5), lambda name: 0.5)
    norms = Spec("rsf", 2, "part", 0.25, part="norms")
    assert_mixed(study, norms, lambda name: 0.25 if "norm" in name else 1.0)
    hma = Spec("rsf", 2, "hma", 0.4, part="0.6|0.4|0.2")
    of_blocks = {None: 0.4, 0: 0.6, 1: 0.4, 2: 0.2}
    assert_mixed(study, hma, lambda name: of_blocks[block(name)])


def test_a_longer_run_goes_on_from_a_shorter_one(study):
    for rounds, change, same in ((2, {"rounds": 5}, True), (1, {"temperature": 0.7}, False)):
        rsf = dataclasses.replace(study.preset.rsf, **change)
        other = Study(miniature(rsf=rsf), 0, study.store).rsf(rounds)
        assert (other.key == study.rsf(rounds).key) == same


# a new remedy or algorithm is one file and one line
class Nearer(Treatment):
    """Take a share of the way back to theta_0 when the run has ended."""

    def __init__(self, setting, share):
        self.start, self.share = dict(setting.theta_0.state_dict()), share

    def end(self, model):
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                tensor.lerp_(self.start[name], self.share)
        return model


def test_a_new_remedy_is_trained_scored_and_mixed(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "alignment_tax.mitigate.nearer", sys.modules[__name__])
    new = Remedy("nearer", "?", "nearer:Nearer", "afterwards", "share of the way", "test")
    monkeypatch.setitem(REMEDIES, "nearer", new)
    study = Study(miniature(remedies=(("nearer", (0.25,)),)), 0, store)
    specs = study.specs(["nearer", "nearer+average"])
    assert [str(spec.method) for spec in specs[:3]] == ["none", "nearer", "nearer+average"]
    plain, own = (study.artifact(s) for s in (Spec("rsf", 2, "distil"), specs[1]))
    start, end, found = (load_state(a.path / "model") for a in (study.sft, plain, own))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, 0.75 * end[name] + 0.25 * start[name])
    assert study.points(specs[:3])["strength"].tolist()[1:] == [0.25, 0.25]
    assert study.cost(specs[1])["steps"] > 0


def test_a_new_algorithm_is_trained_scored_and_averaged(store, monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "twin", ALGORITHMS["rsf"])
    more = (("twin", dataclasses.replace(miniature().rsf, rounds=1, learning_rate=1e-3)),)
    study = Study(miniature(more_algorithms=more), 0, store)
    specs = study.specs(["twin"])
    assert specs[:3] == [Spec("sft"), Spec("twin", 1), Spec("twin", 1, "average", 0.0)]
    assert study.policy("twin")[0].config.model_type == "llama"
    assert study.points(specs)["key"].nunique() == 2 + len(study.preset.alphas) - 2
    assert rounds_table(study, ["twin"])["kept"].tolist() == [4]


def test_a_seed_that_is_none_is_refused_and_of_other_algorithms_thirds_alone_are_averaged(tmp_path):
    for seed in ("0", 1.0, -1, True, None):
        refuses(ValueError, "seed must be an integer of 0 or more", Study, miniature(), seed)
    study = Study("tiny", 0, Store(tmp_path))
    every = {name: study.specs([name, "part"]) for name in ("rsf", "dpo", "ppo")}
    parts = {name: {s.part for s in own if s.method == "part"} for name, own in every.items()}
    assert parts["dpo"] == parts["ppo"] == {"input", "middle", "output"}
    assert parts["rsf"] > parts["dpo"] | {"linear", "head"}


# --- the preset `recorded` hands out what is recorded; all else ends a cell with one line ---------
def test_points_and_items_are_those_recorded_and_no_model_is_made():
    study, rows = Study("recorded", 1), recorded().points
    (row,) = rows[(rows["seed"] == 1) & (rows["algorithm"] == "sft")].to_dict("records")
    assert study.point(Spec("sft"))["skill"] == row["skill"]
    scores = study.scores(Spec("sft"))
    assert scores.n_items == row["n_items"]
    assert scores.metrics["forgetting"] == pytest.approx(row["forgetting"], abs=1e-3)
    assert study.policy("base")
    refuses(LeftOut, "theta_0", study.policy, "sft")
    refuses(LeftOut, "rsf round 99", study.point, Spec("rsf", 99))
    refuses(ValueError, r"Seed 77 is not recorded: choose from \[0, 1", Study, "recorded", 77)


@pytest.fixture
def shell():
    shell = InteractiveShell()
    shell.push({"LeftOut": LeftOut})
    shell.ast_transformers.append(LeaveOut(shell.user_ns))
    return shell


def test_a_cell_ends_where_something_is_left_out(shell, capsys):
    made = shell.run_cell("""
def fails():
    raise LeftOut("theta_0")

first = stale = 1
second = fails()
stale = 2
""")
    assert made.success
    assert "Left out: this needs theta_0, which is not recorded." in capsys.readouterr().out
    assert shell.user_ns["first"] == 1
    # what an earlier cell had set would be shown as this cell's
    assert {"second", "stale"}.isdisjoint(shell.user_ns)
    assert shell.run_cell("third = stale + 1").success
    assert "Left out: this needs `stale`, left out above." in capsys.readouterr().out
    assert "third" not in shell.user_ns


def test_any_other_cell_is_what_it_was(shell):
    assert [shell.run_cell(code).result for code in ("", "x = 20\nx + 1")] == [None, 21]
    assert isinstance(shell.run_cell("1 / 0").error_in_exec, ZeroDivisionError)
    assert isinstance(shell.run_cell("nowhere").error_in_exec, NameError)
