"""Work in other processes: a scheduler's, of which one is killed; ended with their starter."""

import os
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alignment_tax import elsewhere
from alignment_tax.elsewhere import there, workers
from alignment_tax.settings import RUNS_VARIABLE, SettingsError


def survive(folder: str, number: int) -> str:
    """What is finished is kept; the first that comes to number 2 waits to be killed."""
    (Path(folder) / f"{number}-{os.getpid()}").touch()
    if number == 2 and len(list(Path(folder).glob("2-*"))) == 1:
        time.sleep(600)
    return f"{number} {os.environ['WHERE']}"


def test_a_killed_worker_loses_nothing(tmp_path, monkeypatch, capfd):
    distributed = pytest.importorskip("distributed")
    # workers find this file as a module
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    where = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**where) as local, workers(local.scheduler_address) as pool:
        work = [pool.submit(there, {"WHERE": "there"}, survive, str(tmp_path), i) for i in range(6)]
        while not list(tmp_path.glob("2-*")):
            time.sleep(0.05)
        [held] = tmp_path.glob("2-*")
        os.kill(int(held.name.partition("-")[2]), signal.SIGKILL)
        assert [each.result(timeout=120) for each in work] == [f"{i} there" for i in range(6)]
    assert len(list(tmp_path.glob("2-*"))) == 2
    assert "2 workers; dashboard: http" in capfd.readouterr().err


def test_a_scheduler_that_cannot_be_used_is_refused(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(elsewhere, "FIND", 1)
    where = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": ":0"}
    with distributed.LocalCluster(processes=False, **where) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(SettingsError, match=r"threads.*--nthreads 1"), workers(address):
            pass
    with pytest.raises(SettingsError, match="No scheduler answers"), workers("tcp://127.0.0.1:9"):
        pass


def test_without_dask_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match="pip install distributed"), workers("tcp://a:1"):
        pass


def test_record_hands_its_portions_to_the_workers(monkeypatch):
    # a worker that imports this file to find `survive` needs no torch
    from alignment_tax.pipeline import record

    seen = []

    def here(address):
        seen.append(address)
        return ThreadPoolExecutor(1)

    def some(preset, seed, specs):
        seen.append((seed, *specs))
        if seed == 7:
            raise ValueError("seed 7")

    preset = types.SimpleNamespace(name="x")
    study = types.SimpleNamespace(preset=preset, specs=lambda methods: ["a", "b"])
    monkeypatch.setattr(record, "Study", lambda *given: study)
    monkeypatch.setattr(record, "workers", here)
    monkeypatch.setattr(record, "_run_some", some)
    record.run_side_by_side("x", [0, 1], 1, scheduler="tcp://a:1")
    assert seen == ["tcp://a:1", (0, "a", "b"), (1, "a", "b")]
    with pytest.raises(ValueError, match="seed 7"):
        record.run_side_by_side("x", [7, 8], 1, scheduler="tcp://a:1")
    assert seen[-1] == (8, "a", "b")


def test_stages_made_by_workers_of_which_one_is_killed_are_those_made_alone(
    tmp_path, monkeypatch, store
):
    distributed, pd = map(pytest.importorskip, ("distributed", "pandas"))
    from conftest import miniature, until

    from alignment_tax.pipeline.record import run_side_by_side
    from alignment_tax.pipeline.study import Study
    from alignment_tax.store import Store

    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path))
    preset, methods, made = miniature(), ["rsf", "l2"], tmp_path / "artifacts"
    where = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**where) as local, ThreadPoolExecutor(1) as waiting:
        given = [0], 1, methods, local.scheduler_address
        running = waiting.submit(run_side_by_side, preset, *given)
        until(lambda: running.done() or list(made.glob("rsf/.*.tmp-*")), 1200)
        [half] = made.glob("rsf/.*.tmp-*")
        os.kill(int(half.name.rpartition("-")[2]), signal.SIGKILL)
        running.result()
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
    child = elsewhere.CHILD.replace(
        "sys.exit(main(sys.argv[2:], Path(sys.argv[1])))", "signal.pause()"
    )
    assert "pause" in child
    command = [sys.executable, "-c", STARTER, child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as starter:
        pid = int(starter.stdout.readline())
        starter.kill()
    end = time.monotonic() + 120
    while Path(f"/proc/{pid}").exists():
        if "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            break
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.1)
