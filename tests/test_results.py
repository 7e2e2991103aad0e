"""Recording: what is added to tables that exist, who works on what; values of chapters."""

import json
import shutil
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import golden, miniature, refuses
from nbformat.v4 import new_code_cell, new_notebook, new_output

from alignment_tax import settings
from alignment_tax.cli import main
from alignment_tax.notebooks import CourseError, read_notebook
from alignment_tax.pipeline.record import PORTION, portions, record
from alignment_tax.results import recorded, replies, values
from alignment_tax.results.points import NotRecorded, curve_rows
from alignment_tax.results.recorded import (
    RecordError,
    merge_results,
    merge_rows,
    write_tables,
    written,
)
from alignment_tax.spec import COLUMNS, NAMED, Spec


@pytest.fixture(scope="module")
def place(runs, tmp_path_factory):
    """A folder of results, shared by the tests of this file."""
    top = tmp_path_factory.mktemp("recording")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.RUNS_VARIABLE, str(runs))
        patch.setattr(settings, "results_folder", lambda: top / "results")
        yield top / "results" / "miniature"


@pytest.fixture(scope="module")
def before(place):
    """The tables of a recording without remedies."""
    record(miniature(), [0])
    return read(place)


@pytest.fixture(scope="module")
def after(place, before):
    """The tables after two methods were added."""
    record(miniature(), [0], methods=["l2", "graft"])
    return read(place)


def read(place):
    tables = {path.stem: pd.read_csv(path, dtype={"key": str}) for path in place.glob("*.csv")}
    return tables | {path.stem: pd.read_parquet(path) for path in place.glob("*.parquet")}


def test_added_methods_leave_other_rows_as_they_were_and_every_stage_says_something(before, after):
    points = after["points"]
    added = points["method"].isin(["l2", "graft"])
    others = after | {"points": points[~added].reset_index(drop=True)}
    for name in ("points", "rounds", "pairs"):
        pd.testing.assert_frame_equal(others[name], before[name], check_dtype=False)
    assert points.loc[added, "strength"].tolist() == [0.1, 1.0, 0.2, 0.5]
    assert not points.duplicated(NAMED).any()
    assert list(points.columns) == COLUMNS
    old, new = before["items"], after["items"]
    assert set(old["key"]) < set(new["key"]) == set(points["key"])
    assert new.groupby("key", observed=True).size().nunique() == 1
    assert not new.duplicated(["seed", "key", "slot", "item"]).any()
    assert [t.name for t in old.dtypes] == [t.name for t in new.dtypes]
    # to the same three things
    table = before["replies"]
    assert table.groupby("slot").size().to_dict() == {"bleu": 4, "request": 4, "span": 4}
    assert table.loc[table["slot"] == "request", ["reward", "gold"]].notna().all(axis=None)
    said = replies.said(table, 0)
    assert list(said.index) == ["base model", "θ₀, after SFT", "θ, after RLHF", "average, α = 0.5"]
    assert list(said) == ["to the request", "reward", "gold", "to the French", "to the question"]
    assert len(replies.asked(table, 0)) == 3
    refuses(NotRecorded, "seed 1", replies.asked, table, 1)
    assert len(after["replies"]) == len(table)  # a remedy says nothing new


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder of results."""
    monkeypatch.setattr(settings, "results_folder", lambda: tmp_path / "here")
    (tmp_path / "here" / "miniature").mkdir(parents=True)
    return tmp_path / "here"


def test_recording_again_changes_nothing_and_makes_nothing(place, after, capfd):
    record(miniature(), [0], methods=["graft", "l2"])
    assert "Making" not in capfd.readouterr().err
    again = read(place)
    for name in ("points", "costs", "rounds"):
        key = [column for column in NAMED if column in after[name]]
        one, two = (t[name].sort_values(key, ignore_index=True) for t in (after, again))
        pd.testing.assert_frame_equal(one, two)
    assert len(again["items"]) == len(after["items"])


def test_provenance_has_one_entry_for_each_call(place, after, before):
    run = recorded("miniature")
    first, second, *_ = run.calls
    assert run.provenance == first
    assert (first["methods"], second["methods"]) == (None, ["l2", "graft"])
    assert second["command"] == "alignment-tax record miniature --methods l2 graft --seeds 0"
    assert first["preset"]["name"] == "miniature"
    # where training took place decides the last digits of a model
    assert torch.backends.cpu.get_cpu_capability() in first["processor"]
    assert (len(run.costs), "costs" in before) == (4, False)
    costs = after["costs"]
    assert costs["method"].tolist() == ["l2", "l2", "graft", "graft"]
    assert (costs["seconds"] > 0).all()
    assert list(costs.columns) == [*NAMED, "steps", "seconds", "peak_memory_mb"]


def test_a_provenance_of_one_call_is_read_and_kept(place, after, here):
    shutil.copytree(place, here / "miniature", dirs_exist_ok=True)
    (here / "miniature" / "provenance.json").write_text(json.dumps({"command": "old"}))
    assert recorded("miniature").provenance == {"command": "old"}
    record(miniature(), [0], methods=["l2"])
    called = [call["command"].split()[0] for call in recorded("miniature").calls]
    assert called == ["old", "alignment-tax"]


@pytest.mark.parametrize(("column", "value"), [("key", "0" * 16), ("bleu", 12.5)])
def test_rows_of_another_theta_0_are_not_added_to(place, after, here, column, value):
    table = after["points"].copy()
    table.loc[table["algorithm"] == "sft", column] = value
    path = here / "miniature" / "points.csv"
    table.to_csv(path, index=False, float_format="%.6g")
    stored = path.read_bytes()
    refuses(RecordError, f"another theta_0 .*{column}", record, miniature(), [0], methods=["lora"])
    assert (list(path.parent.iterdir()), path.read_bytes()) == ([path], stored)


def test_a_new_recording_says_which_rows_it_drops(place, after, here, capfd):
    path = here / "miniature" / "points.csv"
    after["points"].to_csv(path, index=False)
    record(miniature(), [0])
    assert "rows of graft, l2 with them" in capfd.readouterr().err
    assert set(pd.read_csv(path)["method"]) == {"none", "average"}


def test_methods_are_made_side_by_side(place, after, here, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "runs"))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    record(miniature(), [0], jobs=9, methods=["l2", "graft"])
    assert "Seeds left: none" in capfd.readouterr().err
    points = read(here / "miniature")["points"]
    assert len(after["points"].merge(points, on=COLUMNS)) == len(points) == 1 + 4


# pure functions
def test_portions_begin_with_each_seed_and_its_rounds_and_then_split_by_method():
    averages = [Spec("rsf", 2, "average", alpha=i / 10) for i in range(2 * PORTION + 1)]
    rounds = [Spec("dpo", n) for n in range(1, PORTION + 2)]
    specs = [Spec("sft"), Spec("rsf", 2), *averages, *rounds]
    specs += [Spec("rsf", 2, "l1", strength=s) for s in (1, 2)]
    assert portions(specs, [3, 4], split=False) == [(3, specs), (4, specs)]
    parts = portions(specs, [3, 4], split=True)
    assert parts[:4] == [(3, specs[:2]), (4, specs[:2]), (3, rounds), (4, rounds)]
    sizes = [(PORTION, "average"), (PORTION, "average"), (1, "average"), (2, "l1")]
    found = [(seed, len(part), {spec.method for spec in part}) for seed, part in parts[4:]]
    assert found == [(seed, size, {method}) for seed in (3, 4) for size, method in sizes]
    for seed in (3, 4):
        assert {s for n, part in parts if n == seed for s in part} == set(specs)


def test_merged_rows_replace_those_of_the_same_name_and_keep_all_columns():
    for case in golden("merged.yaml"):
        columns = [*NAMED, "skill"]
        stored, fresh = (pd.DataFrame(case[of], columns=columns) for of in ("stored", "fresh"))
        merged = merge_rows(stored, fresh)
        assert merged[["seed", "skill"]].to_numpy().tolist() == case["kept"]
    assert merged["part"][0] == "0.7|0.4|0.1"
    assert merge_rows(pd.DataFrame(), fresh) is fresh
    key = ["seed", "algorithm", "rounds"]
    rsf = pd.DataFrame([(0, "rsf", 1, 128, 4.5)], columns=[*key, "kept", "best_reward"])
    merged = merge_rows(rsf, pd.DataFrame([(0, "ppo", 1, 0.2)], columns=[*key, "kl"]), key)
    assert list(merged.columns) == [*key, "kept", "best_reward", "kl"]
    assert merged.fillna(-1)[["best_reward", "kl"]].to_numpy().tolist() == [[4.5, -1], [-1, 0.2]]
    # what is written has six digits and no NaN
    values = (None, np.nan, 1.23456789, 3, np.int64(3), 3.0, "a")
    assert [written(v) for v in values] == ["", "", "1.23457", "3", "3", "3", "a"]


def test_curves_run_from_theta_0_over_the_strengths_to_the_end_of_their_protocol():
    rows = [("sft", "none", None, 0, 0), ("rsf", "none", None, 2, 2), ("rsf", "distil", None, 2, 3)]
    tens = {"graft": 100, "l2_in_rounds": 20}
    rows += [("rsf", name, s, 2, ten * s) for name, ten in tens.items() for s in (1, 2)]
    names = ["algorithm", "method", "strength", "rounds", "skill"]
    points = pd.DataFrame(rows, columns=names).assign(seed=0, alpha=None)
    # a low density is a strong graft; what is inside the rounds ends at RSF, the strongest first
    for method, skills in {"graft": [0, 100, 200, 3], "l2_in_rounds": [0, 40, 20, 2]}.items():
        assert curve_rows(points, method, 0)["skill"].tolist() == skills
    refuses(ValueError, "no points of method 'kd', seed 0", curve_rows, points, "kd", 0)


# tables from elsewhere
def recorded_elsewhere(tmp_path, seed, theta_0=60.0, study="tiny"):
    """Write the tables of one seed into a folder of their own, as `record` does."""
    folder = tmp_path / f"elsewhere{seed}" / study
    folder.mkdir(parents=True)
    rows = [("sft", 0, theta_0, f"a{seed}"), ("dpo", 6, 50.0, f"b{seed}")]
    points = pd.DataFrame(rows, columns=["algorithm", "rounds", "skill", "key"])
    points = points.assign(method="none", study=study, seed=seed).reindex(columns=COLUMNS)
    items = points[["key"]].assign(slot="span", item=0, value=1.0)
    items = items.astype({"key": "category", "slot": "category"}).assign(seed=seed)
    empty = {name: pd.DataFrame() for name in ("rounds", "costs", "kl")}
    pairs = pd.DataFrame({"kind": ["x"], "margin": [1.0], "seed": [seed]})
    write_tables(folder, {"points": points, **empty}, pairs, items, fresh=True)
    call = {"command": f"record --seeds {seed}", "commit": str(seed)}
    (folder / "provenance.json").write_text(json.dumps([call]))
    return folder


def test_tables_from_two_machines_become_one_and_twice_the_same_changes_nothing(tmp_path, here):
    sources = {seed: recorded_elsewhere(tmp_path, seed) for seed in (3, 4)}
    for seed, source in sources.items():
        assert merge_results(source, "tiny") == [seed]
    made = read(here / "tiny")
    names = made["points"][["seed", "algorithm"]].to_numpy().tolist()
    assert names == [[3, "sft"], [3, "dpo"], [4, "sft"], [4, "dpo"]]
    assert sorted(made["items"]["key"]) == ["a3", "a4", "b3", "b4"]
    assert sorted(made["pairs"]["seed"]) == [3, 4]

    def stored():
        own = here / "tiny"
        calls = json.loads((own / "provenance.json").read_text())
        rows = {path.name: path.read_bytes() for path in own.glob("*.csv")}
        return rows, len(read(own)["items"]), [call["commit"] for call in calls]

    before = stored()
    assert before[1:] == (4, ["3", "4"])
    merge_results(sources[3], "tiny")
    assert stored() == before


def test_tables_of_another_theta_0_or_preset_are_refused_and_nothing_written(tmp_path, here):
    refuses(RecordError, r"needs points\.csv", merge_results, tmp_path, "tiny")
    with pytest.raises(RecordError, match="preset smoke, not tiny"):
        merge_results(recorded_elsewhere(tmp_path, 1, study="smoke"), "tiny")
    assert not (here / "tiny").exists()
    merge_results(recorded_elsewhere(tmp_path, 3), "tiny")
    before = (here / "tiny" / "points.csv").read_bytes()
    with pytest.raises(RecordError, match=r"Seed 3 .*skill 60 -> 61"):
        merge_results(recorded_elsewhere(tmp_path / "b", 3, theta_0=61.0), "tiny")
    assert (here / "tiny" / "points.csv").read_bytes() == before


# --- values that a notebook records; two runs side by side ----------------------------------------
def test_a_record_goes_through_a_saved_notebook_and_what_is_none_is_refused(displayed, tmp_path):
    values.record("tax", 1)
    values.record("tax", -3.25, unit="points", items=400)  # the last record of a name wins
    values.record("skills", {"bleu": 91.5, "front": [0, None, True, "é"]})
    bundles = [output["data"] for output in displayed]
    assert bundles[1]["text/plain"] == "tax = -3.25"
    assert bundles[1][values.MIME]["meta"] == {"unit": "points", "items": 400}
    path = tmp_path / "done.ipynb"
    outputs = [new_output("display_data", data=data) for data in bundles]
    cells = [new_code_cell("record(...)", outputs=[each]) for each in outputs]
    nbformat.write(new_notebook(cells=cells), path)
    expected = {"tax": -3.25, "skills": {"bleu": 91.5, "front": [0, None, True, "é"]}}
    assert values.read_records(read_notebook(path)) == expected
    (tmp_path / "cut.ipynb").write_text('{"cells": [')
    refuses(CourseError, "not a readable notebook", read_notebook, tmp_path / "cut.ipynb")
    refuses(FileNotFoundError, None, read_notebook, tmp_path / "none.ipynb")


def test_numpy_scalars_become_numbers_and_scripts_print(displayed, capsys, monkeypatch):
    scalars = {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.array(2.0)}
    values.record("x", scalars)
    value = displayed[0]["data"][values.MIME]["value"]
    assert json.dumps(value) == '{"a": 0.5, "b": 3, "c": true, "d": 2.0}'
    monkeypatch.delitem(sys.modules, "IPython")
    values.record("pairs", 0.8123456789)
    assert capsys.readouterr().out == "pairs = 0.812346\n"


def test_what_json_lacks_and_what_has_no_name_is_refused():
    nan = {"bleu": [1.0, np.float32("nan")]}
    refuses(ValueError, r"x\[1\] is nan.*Use None", values.record, "x", [1.0, float("nan")])
    refuses(ValueError, "x is inf.*Use None", values.record, "x", float("inf"))
    refuses(ValueError, r"x\['bleu'\]\[1\] is nan", values.record, "x", nan)
    refuses(TypeError, r"is a ndarray.*\.tolist\(\)", values.record, "x", np.zeros(3))
    refuses(TypeError, "has the key 1: keys must be text", values.record, "x", {1: "a"})
    refuses(TypeError, "is a bytes", values.record, "x", b"bytes")
    refuses(TypeError, r"x\['a'\]\['b'\] is a object", values.record, "x", {"a": {"b": object()}})
    refuses(ValueError, "needs a name", values.record, " ", 1)
    refuses(TypeError, "name is text, not int", values.record, 3, 1)


def run_with(records, preset="tiny", seed=0):
    chapters = [{"number": "05", "records": records}, {"number": "09", "records": {}}]
    return {"preset": preset, "seed": seed, "chapters": chapters}


def test_what_differs_is_named_down_to_the_number():
    first = run_with({"tax": 14.0, "by": {"bleu": [1.0, 2.0]}, "verdict": "holds", "gone": 1})
    second = run_with({"tax": 14.0, "by": {"bleu": [1.0, 2.5]}, "verdict": "inconclusive"})
    assert values.differences(first, second) == [
        values.Difference("05 by: bleu: 2", 2.0, 2.5),
        values.Difference("05 verdict", "holds", "inconclusive"),
        values.Difference("05 gone", 1, "no value"),
    ]
    assert values.differences(first, first) == []


def test_the_tolerance_is_absolute_and_a_share_of_the_larger_number():
    nan = float("nan")
    # what should be 0 is 1e-9 elsewhere; a number that becomes a truth value is another value
    for first, second, tolerance, differ in (
        (100.0, 101.0, 0.009, True), (100.0, 101.0, 0.01, False), (0.0, 0.0, 0.01, False),
        (0.0, 1e-9, 1e-6, False), (0.0, 1e-9, 0.0, True), (nan, nan, 0.0, False),
        (1, True, 0.0, True),
    ):  # fmt: skip
        found = values.differences(run_with({"x": first}), run_with({"x": second}), tolerance)
        assert [each.place for each in found] == ["05 x"] * differ


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    one, other, smoke = (run_with({"x": 1}, **of) for of in ({}, {"seed": 1}, {"preset": "smoke"}))
    refuses(values.CompareError, "seed 0, the second 1", values.differences, one, other)
    refuses(values.CompareError, "preset tiny, the second smoke", values.differences, one, smoke)
    refuses(values.CompareError, "Neither run", values.differences, run_with({}), run_with({}))
    (tmp_path / "run.json").write_text("{}")
    refuses(values.CompareError, "no summary", values.read_run, tmp_path)


def test_the_command_prints_and_returns_what_it_found(tmp_path, capsys, ends):
    for name, tax in (("first", 14.0), ("second", 13.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(run_with({"tax": tax})))
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    ends("All are the same.", "compare", first, first, code=0)
    assert main(["compare", first, second]) == 1
    assert "05 tax\n    14.0 -> 13.0\nRecorded values that differ: 1." in capsys.readouterr().out
    assert main(["compare", first, second, "--tolerance", "0.1"]) == 0
