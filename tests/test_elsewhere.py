"""Work in other processes: a scheduler's, of which one is killed; ended with their starter."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from conftest import miniature, refuses, until

from alignment_tax import elsewhere
from alignment_tax.elsewhere import workers
from alignment_tax.pipeline import record
from alignment_tax.pipeline.study import Study
from alignment_tax.settings import RUNS_VARIABLE, SettingsError
from alignment_tax.store import Store


def test_a_scheduler_that_cannot_be_used_is_refused(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(elsewhere, "FIND", 1)
    where = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": ":0"}
    with distributed.LocalCluster(processes=False, **where) as cluster:
        address = cluster.scheduler_address
        refuses(SettingsError, "threads.*--nthreads 1", workers(address).__enter__)
    refuses(SettingsError, "No scheduler answers", workers("tcp://127.0.0.1:9").__enter__)


def test_without_dask_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    refuses(SettingsError, "pip install distributed", workers("tcp://a:1").__enter__)


def test_processes_end_with_the_one_that_started_them_though_it_is_killed():
    code = """if True:
        import os, time
        from alignment_tax.elsewhere import processes
        print(processes(1).submit(os.getpid).result(), flush=True)
        time.sleep(600)"""
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = Path("/proc", starter.stdout.readline().strip())
    assert worker.exists()
    starter.kill()
    starter.communicate()
    until(lambda: not worker.exists() or "Z (zombie)" in (worker / "status").read_text())


def test_where_one_portion_fails_the_others_are_made_and_it_is_told(monkeypatch):
    seen = []

    def some(preset, seed, specs):
        seen.append(seed)
        if seed == 7:
            raise ValueError("seed 7")

    monkeypatch.setattr(record, "workers", lambda address: ThreadPoolExecutor(1))
    monkeypatch.setattr(record, "_run_some", some)
    given = (miniature(), [7, 8], 1)
    refuses(ValueError, "seed 7", record.run_side_by_side, *given, scheduler="tcp://a:1")
    assert set(seen) == {7, 8}


def test_workers_make_what_is_made_alone_though_one_is_killed(tmp_path, monkeypatch, store, capfd):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path / "of the workers themselves"))
    preset, methods, made = miniature(), ["rsf", "l2"], tmp_path / "artifacts"
    where = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**where) as local, ThreadPoolExecutor(1) as waiting:
        monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path))  # what is told with the work counts
        given = [0], 1, methods, local.scheduler_address
        running = waiting.submit(record.run_side_by_side, preset, *given)
        until(lambda: running.done() or list(made.glob("rsf/.*.tmp-*")), 1200)
        [half] = made.glob("rsf/.*.tmp-*")
        os.kill(int(half.name.rpartition("-")[2]), signal.SIGKILL)
        running.result()
    assert "2 workers; dashboard: http" in capfd.readouterr().err
    before = sorted(made.glob("*/*/meta.json"))
    there, here = (Study(preset, 0, each) for each in (Store(made), store))
    points = there.points(there.specs(methods))
    assert sorted(made.glob("*/*/meta.json")) == before, "nothing was left to be made"
    pd.testing.assert_frame_equal(points, here.points(here.specs(methods)))


STARTER = """
import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "none", *sys.argv[2:]],
                         stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_a_command_ends_with_its_starter_however_that_is_killed(tmp_path):
    # `main` is stood in for by a wait, so that nothing but the watch can end it
    main = "sys.exit(main(sys.argv[2:], Path(sys.argv[1])))"
    child = elsewhere.CHILD.replace(main, "signal.pause()")
    assert "pause" in child
    command = [sys.executable, "-c", STARTER, child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as starter:
        pid = int(starter.stdout.readline())
        starter.kill()
    stat = Path(f"/proc/{pid}/stat")
    until(lambda: not stat.exists() or "Z" in stat.read_text().split()[2], 120)
