"""The nightly run: what it finds, keeps and ends, and that planted faults are found by name."""

import contextlib
import math
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from conftest import exit_code, golden, refuses
from hypothesis import given, strategies as st
from test_course import write_notebook

from alignment_tax import elsewhere, regress, settings
from alignment_tax.notebooks import CourseError, run_course
from alignment_tax.results.recorded import recorded
from alignment_tax.results.values import read_run
from alignment_tax.stats import claims, compare, drift
from alignment_tax.stats.drift import Held, judge, settled
from bench import planted
from bench.speed import NOT_COPIED

CHAPTER = """
import torch
from alignment_tax.merge.average import mix
from alignment_tax.results.values import record
record("mixed", float(mix(torch.zeros(1), torch.ones(1), 0.4)))
record("spread", [0.31, 0.35, 0.29, 0.33][seed])
record("said", "the same")
record("seed", seed)
"""


# --- the bands -----------------------------------------------------------------------------------
def test_a_new_mean_is_held_against_the_recorded_spread():
    found = compare.move([1.0, 3.0], [5.0, 7.0])  # s = sqrt 2, error = sqrt 2 * sqrt(1/2 + 1/2)
    assert (found.difference, found.error) == pytest.approx((4, math.sqrt(2)))
    assert found.half == pytest.approx(12.7062 * math.sqrt(2), rel=1e-4)  # t of one degree
    # Student's t of one degree is Cauchy: p = 1 - 2/pi atan(t)
    t = 4 / math.sqrt(2)
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(t))
    assert compare.move([1, 1], [1 + 1e-4], rounding=1e-3).p == 1
    assert compare.move([1, 1], [2]).p == 0
    refuses(ValueError, "2 and 1 are needed", compare.move, [1], [2])


@given(st.lists(st.floats(0, 1), max_size=30))
def test_of_many_p_values_the_small_ones_are_told_together(p):
    said = compare.discoveries(p)
    ranked = sorted(p)
    # Benjamini and Hochberg's own words: the largest k with p_(k) <= 0.05 k / n
    k = max((i for i, each in enumerate(ranked, 1) if each <= 0.05 * i / len(p)), default=0)
    assert sum(said) == k or math.isclose(ranked[k - 1] * len(p), 0.05 * k, rel_tol=1e-9)


def test_where_nothing_changed_a_night_in_twenty_says_so():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(150):
        rows = rng.normal(size=(20, 8))
        halves = [[Held(dict(enumerate(half))) for half in (row[:5], row[5:])] for row in rows]
        asked = [judge(f"05 {i}", then, now, ()) for i, (then, now) in enumerate(halves)]
        alarms += any(each.moved for each in settled(asked))
    low, high = compare.wilson(alarms, 150)
    assert low <= 0.05 <= high


def test_a_value_is_judged_by_what_there_is():
    for then, now, paired, how, moved in golden("judged.yaml"):
        [found] = settled([judge("05 tax: skill", Held(then), Held(now), paired)])
        assert (found.chapter, found.name) == ("05", "tax: skill")
        assert (found.how, found.moved) == (getattr(drift, how), moved), (then, now)
    # tables of six digits are allowed their rounding
    then, now = Held({0: -25.7850}, tables=True), Held({0: -25.785031})
    assert not judge("05 tax", then, now, {0}).moved
    assert judge("05 tax", replace(then, tables=False), now, {0}).moved


# --- claims --------------------------------------------------------------------------------------
def test_the_recording_itself_has_not_moved_and_a_changed_average_moves_its_claims_alone():
    every = recorded().points
    points = every[every["algorithm"].isin(["base", "sft", "rsf", "rsf_random"])]
    some = points[points["seed"] < 2]
    assert drift.same_starts(points, some) == {0, 1}
    found = drift.claimed(points, some, {0, 1})
    assert len(found) > 50
    assert not any(each.moved or each.turned for each in found)
    stored = claims.read().iloc[::40]
    read = drift.read_anew(every, stored)
    assert not any(each.moved or each.turned for each in read)
    assert drift.read_anew(every, stored.assign(difference=99.0))[0].moved
    # a run of theta_0 alone is asked what it can be
    starts = points[points["algorithm"].isin(["base", "sft"]) | (points["alpha"] == 0)]
    found = drift.claimed(points, starts.assign(seed=starts["seed"] + 10), ())
    assert "cost.sft.skill" in {each.name for each in found}
    assert not any(each.name.endswith("hypervolume") for each in found)
    worse = points["skill"] - 30 * (points["method"] == "average")
    changed = points.assign(skill=worse, seed=points["seed"] + 10)
    found = settled(drift.claimed(points, changed, ()))
    moved = {each.name for each in found if each.moved}
    assert {"average.rsf@0.5.skill", "average_vs_early.rsf.skill"} <= moved
    assert not moved & {"tax.rsf.skill", "gain.rsf.reward", "average_vs_early.rsf.forgetting"}
    [one] = [each for each in found if each.name == "average_vs_early.rsf.skill"]
    assert (one.was, one.verdict, one.turned) == ("holds", "opposite", True)


# --- the run -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout whose course is one short chapter."""
    copy = tmp_path_factory.mktemp("planted") / "checkout"
    ignore = shutil.ignore_patterns(*NOT_COPIED, ".git", "tests", "notebooks")
    shutil.copytree(settings.repo_root(), copy, ignore=ignore)
    (copy / "notebooks").mkdir()
    write_notebook(copy / "notebooks" / "09_averages.ipynb", CHAPTER, front="# 09 Averages")
    return copy


def test_a_planted_fault_is_found_by_chapter_and_name(checkout):
    baseline, out = checkout.parent / "baseline", checkout.parent / "out"
    assert not any(e.moved for e in planted.regress(checkout, baseline, "--seeds", "0-3"))
    [fault] = [each for each in planted.FAULTS if "alpha as" in each.name]
    with planted.planted(fault, checkout):
        found = planted.regress(checkout, out, "--seeds", "0", "--baseline", str(baseline))
    by_name = {each.name: each for each in found}
    assert {name for name, each in by_name.items() if each.moved} == {"mixed"}
    mixed = by_name["mixed"]
    found = (mixed.chapter, mixed.then, mixed.now)
    assert found == ("09", "0.4000000059604645", "0.6000000238418579")
    assert by_name["spread"].how == drift.SEEDS
    page = (out / regress.PAGE).read_text("utf-8")
    assert page.index(">mixed<") < page.index(">spread<")
    assert "http" not in page.replace("http://www.w3.org", "")
    suite = ElementTree.parse(out / regress.JUNIT).getroot()
    [failure] = suite.iter("failure")
    assert "0.4 -> 0.6" in failure.get("message")
    assert suite.get("failures") == "1"
    assert planted.over_seeds(out, baseline)
    # without the fault, what is finished is kept
    before = (baseline / "smoke-seed0" / "run.json").stat().st_mtime_ns
    assert not any(e.moved for e in planted.regress(checkout, baseline, "--seeds", "0-3"))
    assert (baseline / "smoke-seed0" / "run.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("fault", planted.FAULTS, ids=lambda fault: fault.name)
def test_every_fault_can_be_planted_and_taken_back(fault, checkout):
    path = checkout / planted.PACKAGE / fault.file
    before = path.read_text("utf-8")
    with planted.planted(fault, checkout):
        assert path.read_text("utf-8") == before.replace(fault.old, fault.new) != before
        if path.suffix == ".py":
            compile(path.read_text("utf-8"), fault.file, "exec")
    assert path.read_text("utf-8") == before
    nowhere = planted.planted(fault._replace(old="not in any file"), checkout)
    refuses(ValueError, "0 times", nowhere.__enter__)


def test_the_table_of_planted_faults_is_of_these():
    table = pd.read_csv(settings.results_folder() / planted.OUT, dtype={"chapter": str})
    assert list(table["fault"]) == [each.name for each in planted.FAULTS]
    assert list(table["chapter"]) == [each.chapter for each in planted.FAULTS]
    assert table["caught"].dtype == bool
    assert (table.loc[~table["caught"], "moved"] == 0).all()


def test_a_hung_cell_is_ended_and_what_ended_well_is_kept(tmp_path):
    write_notebook(tmp_path / "01_x.ipynb", "2")
    write_notebook(tmp_path / "02_hangs.ipynb", "import time\ntime.sleep(600)")
    out = tmp_path / "out"
    first, hung = run_course("smoke", 0, out=out, notebooks=tmp_path, jobs=2, limit=0.05).chapters
    assert (first.status, hung.status, "limit" in hung.error) == ("ok", "failed", True)
    write_notebook(tmp_path / "02_hangs.ipynb", "'mended'")
    ran = run_course("smoke", 0, out=out, notebooks=tmp_path, keep=True).chapters
    assert [(each.status, each.earlier) for each in ran] == [("ok", True), ("ok", False)]
    write_notebook(tmp_path / "01_x.ipynb", "3")
    ran = run_course("smoke", 0, out=out, notebooks=tmp_path, keep=True).chapters
    assert [each.earlier for each in ran] == [False, True]
    assert [c["status"] for c in read_run(out)["chapters"]] == ["ok", "ok"]


def test_what_makes_no_sense_is_refused_before_anything_runs(tmp_path):
    write_notebook(tmp_path / "01_x.ipynb", "1")
    out = tmp_path / "out"
    asked = regress.Asked("smoke", (0,), out, tmp_path, baseline=tmp_path)
    refuses(CourseError, "holds no finished", regress.regress, asked)
    for words in ("--seeds 4-0", "--limit 0", "--only 07", "--preset tyni", "--seeds x"):
        assert exit_code(["regress", "--out", out, *words.split()], tmp_path) == 2, words
    assert not out.exists()


def test_a_fresh_environment_is_made_once_of_what_is_named(tmp_path, monkeypatch):
    calls, done = [], types.SimpleNamespace(wait=lambda: 0)

    def run(command, **_):
        calls.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, 0)

    @contextlib.contextmanager
    def start(command, **_):
        calls.append(command)
        yield done

    monkeypatch.setattr(elsewhere.subprocess, "run", run)
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(elsewhere.venv, "create", lambda folder, **_: folder.mkdir(exist_ok=True))
    pins = tmp_path / "pins.txt"
    pins.write_text("# a comment\nnumpy==2.0.0  # why\n")
    asked = regress.Asked("tiny", (0, 1), tmp_path / "out", tmp_path, ("04",), jobs=2)
    assert [regress.run_elsewhere(asked, pins) for _ in range(2)] == [0, 0]
    installs = [line for line in calls if "install" in line]
    assert [line[-1] for line in installs] == ["numpy==2.0.0"]
    assert (calls[-1][0] != sys.executable, calls[-1][-1]) == (True, "2")
    assert "--seeds 0 1 --only 04 --jobs 2" in " ".join(calls[-1])
    regress.run_elsewhere(asked, None)
    [latest] = [line for line in calls if "torch" in line]
    assert not any("==" in word for word in latest)
