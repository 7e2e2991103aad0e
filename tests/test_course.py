"""The run of the course: order, parameters, failures, the index page, the command line."""

import errno
import html
import io
import json
import re
import signal
import subprocess
import sys
import types
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import python, refuses, until
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from alignment_tax import notebooks, presets, settings
from alignment_tax.cli import main
from alignment_tax.notebooks import Chapter, CourseError, run_course
from alignment_tax.results.recorded import recording_key

PARAMETERS = 'preset = "tiny"  # the dial\nseed = 7  # another seed, another run'
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"  # one pixel
PNG += "YPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
GOOD = f"""
import os, sys
from alignment_tax.results.values import record
from IPython.display import display
record("seen", [preset, seed])
record("python", sys.executable)
record("folder", os.getcwd())
record("runs", os.environ["ALIGNMENT_TAX_RUNS"])
record("<b>name</b>", 0.123456789)
display({{"image/png": "{PNG}"}}, raw=True, metadata={{"image/png": {{"alt": 'falls "here"'}}}})
"""
RECORD = "from alignment_tax.results.values import record\nrecord('{}', 1)"


def write_notebook(path, *cells, front="# 01 A title"):
    nodes = [new_markdown_cell(front)]
    nodes.append(new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
    # the kernelspec of a notebook that was saved elsewhere must not matter
    spec = {"kernelspec": {"name": "elsewhere", "display_name": "x", "language": "python"}}
    nodes += [new_code_cell(cell) for cell in cells]
    nbformat.write(new_notebook(cells=nodes, metadata=spec), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A course of four chapters, of which two fail and one ends before its last cell."""
    notebooks = tmp_path_factory.mktemp("notebooks")
    tax = "# 04 The *tax* & more\n\n**Question.** Does it\nfall?\n\n**By the end** you will.\n\n"
    tax += "**Machine minutes.** smoke 0.5, tiny about 3, small 20"
    cells = {
        "# 03 It fails": ("03_fails", RECORD.format("before"), "\nbroken = 1 / 0  # here", "1"),
        tax: ("04_good", GOOD),
        "# 04 A copy of JupyterLab's": ("04_good-Copy1", "1 / 0"),
        "# 05 It ends": ("05_ends", "import sys\nsys.exit(0)", "1"),
        "# 12 It dies": ("12_dies", "import os\nos._exit(9)"),
    }
    for front, (name, *code) in cells.items():
        write_notebook(notebooks / f"{name}.ipynb", *code, front=front)
    (notebooks / "scratch.ipynb").write_text("no chapter, no notebook")
    return notebooks


@pytest.fixture(scope="module")
def ran(folder, tmp_path_factory):
    """Exit code, output folder and printed text of one run of the whole toy course."""
    out = tmp_path_factory.mktemp("out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    said, err = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.RUNS_VARIABLE, str(out))
        code = main("run --preset smoke --seed 3 --jobs 2".split(), folder)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}, "ran in place"
    told = {"said": said.getvalue(), "err": err.getvalue()}
    return types.SimpleNamespace(code=code, out=out / "smoke-seed3", **told)


def summary(out):
    entries = json.loads((out / "run.json").read_text())["chapters"]
    return {entry["number"]: entry for entry in entries}


def test_a_failure_is_named_and_the_rest_is_still_run(ran):
    statuses = {number: entry["status"] for number, entry in summary(ran.out).items()}
    failed = dict.fromkeys(("03", "05", "12"), "failed")
    assert (ran.code, statuses) == (1, failed | {"04": "ok"})
    assert summary(ran.out)["03"]["records"] == {"before": 1}, "recorded before it failed"
    for said in (
        f"FAILED {ran.out / '03_fails.ipynb'}, In [4]: broken = 1 / 0  # here",
        "ZeroDivisionError: division by zero",
        "12_dies.ipynb, the cell that begins: import os\n    The kernel died",
        "05_ends.ipynb, the cell that begins: import sys\n    SystemError: exit()",
    ):
        assert said in ran.err


def test_parameters_python_and_folders_reach_the_notebook(ran):
    # what is written without a folder lands in that of the run
    where = {"folder": str(ran.out), "runs": str(ran.out.parent), "python": sys.executable}
    told = {"seen": ["smoke", 3], "<b>name</b>": 0.123456789}
    assert summary(ran.out)["04"]["records"] == where | told


def test_a_line_says_when_a_chapter_starts_and_ends_and_where_to_look(ran):
    lines = ran.said.splitlines()
    started = sum(line.endswith(": started") for line in lines)
    assert ("4 chapters on smoke, seed 3, 2 side by side" in lines[0], started) == (True, 4)
    ends = [line for line in lines if line.startswith("[")]
    assert [line[:5] for line in ends] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert re.fullmatch(r"\[1/4\] .*: \w+, \d+\.\d min, about \d+\.\d min to go", ends[0])
    assert lines[-1] == f"Open {ran.out / 'index.html'} in a browser."


def test_ctrl_c_ends_every_kernel_and_keeps_what_is_finished(tmp_path, monkeypatch):
    front = "# 01 Done\n\n**Minutes.** tiny 9"
    write_notebook(tmp_path / "01_done.ipynb", RECORD.format("x"), front=front)
    for number in ("02", "03"):
        code = f"pathlib.Path('pid{number}').write_text(str(os.getpid()))\ntime.sleep(600)"
        write_notebook(tmp_path / f"{number}_waits.ipynb", f"import os, pathlib, time\n{code}")
    # a shell in the background has children that ignore Ctrl-C
    code = """import pathlib, signal, sys; from alignment_tax.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(['run', '--jobs', '2'], pathlib.Path(sys.argv[1])))"""
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "runs"))
    run = python(code, tmp_path, start=subprocess.Popen)
    pids = [tmp_path / "runs" / "tiny-seed0" / name for name in ("pid02", "pid03")]
    until(lambda: all(path.exists() and path.read_text() for path in pids))
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    until(lambda: not any(Path(f"/proc/{path.read_text()}").exists() for path in pids))
    kept = summary(tmp_path / "runs" / "tiny-seed0")
    assert [entry["status"] for entry in kept.values()] == ["ok", "interrupted", "interrupted"]
    assert kept["01"]["records"] == {"x": 1}


def test_the_executed_notebooks_are_whole_and_without_widget_state(ran):
    notebook = nbformat.read(ran.out / "04_good.ipynb", 4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    assert not list(ran.out.glob(".*.ipynb"))
    assert (ran.out / "04_good.html").stat().st_size > 1000


def test_the_index_page_shows_everything_and_needs_nothing_from_elsewhere(ran):
    page = (ran.out / "index.html").read_text()
    links = re.findall(r'<a href="([^"]*)"', page)
    assert len(links) == 8, "page and notebook of each of four chapters"
    assert all((ran.out / link).is_file() for link in links)
    image = f'src="data:image/png;base64,{PNG}"\nalt="falls "here""'
    said = ('lang="en"', image, "1 ok, 3 failed", "Does it fall?", "ZeroDivisionError", "0.123457")
    assert [each for each in said if each not in html.unescape(page)] == []
    assert "&lt;b&gt;name&lt;/b&gt;" in page
    assert re.findall("<(?:script|link|img)", page) == ["<img"]


def test_a_chapter_run_again_alone_keeps_the_others_on_the_page(ran, folder, capsys):
    path = ran.out / "03_fails.ipynb"
    before = path.read_bytes()
    text = (ran.out / "run.json").read_text()  # of another version, which knew more
    (ran.out / "run.json").write_text(text.replace('"number"', '"new": 1, "number"'))
    run = run_course("smoke", 3, ["4"], ran.out, folder)
    assert run.failed == [], "an earlier failure is not this run's"
    assert [c.number for c in run.chapters if c.earlier] == ["03", "05", "12"]
    assert [c.status for c in run.chapters] == ["failed", "ok", "failed", "failed"]
    assert path.read_bytes() == before
    assert "failed (earlier run)" in (ran.out / "index.html").read_text()


# --- refused before anything runs ----------------------------------------------------------------
@pytest.mark.parametrize(("arguments", "said"), [
    ("--preset huge", "no preset 'huge'. Choose one of: smoke, tiny"),
    *((f"--seed {seed}", f"'{seed}' is not a whole number from 0 up") for seed in ("-1", "one")),
    ("--only 04 06", "no notebook '06'. There are: 03_fails, 04_good, 05_ends, 12_dies"),
    ("--only good", "no notebook 'good'"),
    ("--prest tiny", "unrecognized arguments: --prest tiny"),
    ("--jobs 0", "'0' is not a whole number from 1 up"),
])  # fmt: skip
def test_wrong_arguments_are_refused(ends, folder, tmp_path, arguments, said):
    ends(said, "run", "--out", tmp_path / "out", *arguments.split(), course=folder)
    assert not (tmp_path / "out").exists()


def test_what_cannot_run_is_refused_from_python_too(folder, tmp_path):
    run = partial(run_course, notebooks=folder)
    for seed in ("0", 1.0, True, -1, None):
        refuses(CourseError, "whole number from 0 up", run, "tiny", seed, out=tmp_path / "out")
    refuses(presets.UnknownPreset, "Tiny", run, "Tiny", out=tmp_path / "out")
    refuses(CourseError, "holds the course's notebooks", run, out=folder / "." / "")
    with FileLock(tmp_path / ".run.lock"):
        refuses(CourseError, "Another run is writing", run, only=["04"], out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A folder of two chapters, of which the second has a merge conflict."""
    for name in ("01_x.ipynb", "02_y.ipynb"):
        write_notebook(tmp_path / name, "1")
    (tmp_path / "02_y.ipynb").write_text("<<<<<<< HEAD\n{}")
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "runs"))
    return tmp_path


def test_a_full_disk_loses_pages_alone_and_a_folder_holds_one_run(pair, monkeypatch, capsys):
    def full(path, text, write=notebooks.write_whole):
        if path.suffix == ".html":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text)

    monkeypatch.setattr(notebooks, "write_whole", full)
    out = pair / "out"
    ran = run_course("smoke", 0, ["1"], out, pair).chapters
    assert [chapter.status for chapter in ran] == ["ok", "not run"]
    assert capsys.readouterr().err.count("No space left") == 2
    kept = (out / "run.json").read_text()
    assert json.loads(kept)["chapters"][0]["status"] == "ok"
    said = r"holds a run of preset smoke, seed 0\..*--out"
    for preset, seed in (("smoke", 1), ("tiny", 0)):
        refuses(CourseError, said, run_course, preset, seed, ["1"], out, pair)
    refuses(CourseError, "02_y.ipynb is not", run_course, "smoke", 0, ["2"], out, pair)
    assert (out / "run.json").read_text() == kept


def test_a_notebook_that_a_full_disk_cut_off_is_a_failed_chapter(pair, monkeypatch):
    def cut(path, running, **_):
        Path(running).write_text('{"cells": [')
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(papermill, "execute_notebook", cut)
    (failed,) = run_course("smoke", 0, ["1"], pair / "out", pair).failed
    assert "No space left" in failed.error
    assert not list((pair / "out").glob("*.ipynb"))


# --- the parts -----------------------------------------------------------------------------------
def test_the_estimate_follows_the_pace_of_the_machine():
    for done, ahead, jobs, expected in (
        ([], [2, 4, 6], 1, 12), ([], [None, 2], 1, None), ([(1, 5), (1, 5)], [], 1, 0),
        # twice as slow as typical: what is left takes twice as long
        ([(2, 4)], [4, 6], 1, 20),
        # unknown chapters count as the mean of those that ran
        ([(None, 3)], [None, 6], 1, 3 + 6),
        # side by side; no less than the longest
        ([], [2, 4, 6], 2, 6), ([], [1, 6], 2, 6),
    ):  # fmt: skip
        assert notebooks.remaining_minutes(done, ahead, jobs) == expected


def test_the_longest_chapter_goes_first_and_beside_it_what_needs_no_stage(tmp_path):
    front = "# {0} x\n\n**Minutes.** tiny {1}"
    for number, minutes in (("01", 1), ("02", 2), ("03", 9), ("04", 1)):
        code = "1" if number == "04" else "s = Study()"
        write_notebook(tmp_path / f"{number}_x.ipynb", code, front=front.format(number, minutes))
    order = notebooks.in_order_of_work(notebooks.find_chapters(tmp_path), "tiny")
    assert [chapter.number for chapter in order] == ["03", "04", "02", "01"]


def test_selection_keeps_the_order_of_the_course():
    chapters = [Chapter(n, n, "", Path(f"{n}_x.ipynb"), {}) for n in ("00", "04", "10")]
    words = {"": "00 04 10", "10 4 04_x.ipynb notebooks/04_x.ipynb": "04 10", "0": "00"}
    for only, numbers in words.items():
        chosen = notebooks.select_chapters(chapters, only.split())
        assert [chapter.number for chapter in chosen] == numbers.split()


def test_list_prints_number_title_and_question(folder, tmp_path, capsys, ends):
    assert main(["list"], folder) == 0
    said = "03  It fails|04  The *tax* & more|    Does it fall?|05  It ends|12  It dies"
    assert capsys.readouterr().out.splitlines() == said.split("|")
    ends("There is no notebook called NN_name.ipynb in", "list", course=tmp_path / "none")


# --- outputs in notebooks/ -----------------------------------------------------------------------
def test_a_runs_outputs_are_kept_without_debris_and_stripped_again(tmp_path, folder, ran, ends):
    for name in ("04_good", "12_dies"):
        (tmp_path / f"{name}.ipynb").write_bytes((folder / f"{name}.ipynb").read_bytes())
    done = nbformat.read(ran.out / "04_good.ipynb", 4)
    bar = nbformat.v4.new_output("stream", name="stderr", text="50%|")
    dead = nbformat.v4.new_output("display_data", data={notebooks.WIDGET + "-view+json": {}})
    still = {notebooks.WIDGET + "-view+json": {}, "text/html": "as it stood"}
    done.cells[-1].outputs += [bar, dead, nbformat.v4.new_output("display_data", data=still)]
    (tmp_path / "run").mkdir()
    nbformat.write(done, tmp_path / "run" / "04_good.ipynb")
    (tmp_path / "run" / "run.json").write_bytes((ran.out / "run.json").read_bytes())
    told = summary(ran.out)["04"]["recording"]
    assert main(["outputs", str(tmp_path / "run")], tmp_path) == 0
    kept = nbformat.read(tmp_path / "04_good.ipynb", 4)
    code = notebooks.code_cells(kept)
    assert [cell.execution_count for cell in code] == [1, 2]
    assert code[-1].outputs[:-1] == done.cells[-1].outputs[:-3]
    assert code[-1].outputs[-1].data == {"text/html": "as it stood"}
    assert "papermill" not in kept.metadata
    assert kept.metadata.recording == told == recording_key()
    assert "papermill" not in code[-1].metadata
    assert main(["outputs", "--strip"], tmp_path) == 0
    bare = nbformat.writes(nbformat.read(folder / "04_good.ipynb", 4)) + "\n"
    assert (tmp_path / "04_good.ipynb").read_text("utf-8") == bare
    # a run that failed, or of another text, is not kept
    ends("ended in an error", "outputs", ran.out, course=folder)
    write_notebook(tmp_path / "04_good.ipynb", "another")
    said = r"04_good\.ipynb: .* run it again"
    ends(said, "outputs", tmp_path / "run", course=tmp_path)
