"""The run of the course: order, parameters, failures, the index page, the command line."""

import contextlib
import errno
import html
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import nbformat
import papermill
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from alignment_tax import notebooks, presets, settings
from alignment_tax.cli import main
from alignment_tax.notebooks import Chapter, CourseError, run_course
from alignment_tax.results.recorded import recording_key

PARAMETERS = 'preset = "tiny"  # the dial\nseed = 7  # another seed, another run'
# one pixel
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "YPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
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


def write_notebook(path, *cells, front="# 01 A title", parameters=PARAMETERS):
    nodes = [new_markdown_cell(front)]
    if parameters is not None:
        nodes.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
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
    said, complaint = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complaint),
    ):
        patch.setenv(settings.RUNS_VARIABLE, str(out))
        code = main(["run", "--preset", "smoke", "--seed", "3", "--jobs", "2"], folder)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}, "ran in place"
    said, complaint = said.getvalue(), complaint.getvalue()
    return types.SimpleNamespace(code=code, out=out / "smoke-seed3", said=said, err=complaint)


def summary(out):
    entries = json.loads((out / "run.json").read_text())["chapters"]
    return {entry["number"]: entry for entry in entries}


def test_a_failure_is_named_and_the_rest_is_still_run(ran):
    assert ran.code == 1
    statuses = {number: entry["status"] for number, entry in summary(ran.out).items()}
    assert statuses == {"03": "failed", "04": "ok", "05": "failed", "12": "failed"}
    assert summary(ran.out)["03"]["records"] == {"before": 1}, "recorded before it failed"
    assert f"FAILED {ran.out / '03_fails.ipynb'}, In [4]: broken = 1 / 0  # here" in ran.err
    assert "ZeroDivisionError: division by zero" in ran.err
    assert "12_dies.ipynb, the cell that begins: import os\n    The kernel died" in ran.err
    assert "05_ends.ipynb, the cell that begins: import sys\n    SystemError: exit()" in ran.err


def test_parameters_python_and_folders_reach_the_notebook(ran):
    records = summary(ran.out)["04"]["records"]
    assert records["seen"] == ["smoke", 3]
    assert records["python"] == sys.executable
    assert Path(records["folder"]) == ran.out, "what is written without a folder lands there"
    assert Path(records["runs"]) == ran.out.parent
    assert records["<b>name</b>"] == 0.123456789


def test_a_line_says_when_a_chapter_starts_and_ends_and_where_to_look(ran):
    lines = ran.said.splitlines()
    assert "4 chapters on smoke, seed 3, 2 side by side" in lines[0]
    assert sum(line.endswith(": started") for line in lines) == 4
    ends = [line for line in lines if line.startswith("[")]
    assert [line[:5] for line in ends] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    number = r"\d+\.\d min"
    assert re.fullmatch(rf"\[1/4\] .*: \w+, {number}, about {number} to go", ends[0])
    assert lines[-1] == f"Open {ran.out / 'index.html'} in a browser."


def test_ctrl_c_ends_every_kernel_and_keeps_what_is_finished(tmp_path):
    front = "# 01 Done\n\n**Minutes.** tiny 9"
    write_notebook(tmp_path / "01_done.ipynb", RECORD.format("x"), front=front)
    for number in ("02", "03"):
        code = f"pathlib.Path('pid{number}').write_text(str(os.getpid()))\ntime.sleep(600)"
        write_notebook(tmp_path / f"{number}_waits.ipynb", f"import os, pathlib, time\n{code}")
    code = "import pathlib, signal, sys; from alignment_tax.cli import main\n"
    # a shell in the background has children that ignore Ctrl-C
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"sys.exit(main(['run', '--jobs', '2'], pathlib.Path({str(tmp_path)!r})))"
    environment = {**os.environ, settings.RUNS_VARIABLE: str(tmp_path / "runs")}
    run = subprocess.Popen([sys.executable, "-c", code], env=environment)
    pids = [tmp_path / "runs" / "tiny-seed0" / name for name in ("pid02", "pid03")]
    until(lambda: all(path.exists() and path.read_text() for path in pids))
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    until(lambda: not any(Path(f"/proc/{path.read_text()}").exists() for path in pids))
    kept = summary(tmp_path / "runs" / "tiny-seed0")
    assert [entry["status"] for entry in kept.values()] == ["ok", "interrupted", "interrupted"]
    assert kept["01"]["records"] == {"x": 1}


def until(true):
    """Wait for something that another process does."""
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_executed_notebooks_are_whole_and_without_widget_state(ran):
    notebook = nbformat.read(ran.out / "04_good.ipynb", 4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    assert [path.name for path in ran.out.glob(".*.ipynb")] == []
    assert (ran.out / "04_good.html").stat().st_size > 1000


def test_the_index_page_shows_everything_and_needs_nothing_from_elsewhere(ran):
    page = (ran.out / "index.html").read_text()
    links = re.findall(r'<a href="([^"]*)"', page)
    assert len(links) == 8, "page and notebook of each of four chapters"
    assert all((ran.out / link).is_file() for link in links)
    image = f'src="data:image/png;base64,{PNG}"\nalt="falls "here""'
    text = html.unescape(page)
    for said in ('lang="en"', image, "1 ok, 3 failed", "Does it fall?", "ZeroDivisionError"):
        assert said in text, said
    assert "&lt;b&gt;name&lt;/b&gt;" in page
    assert "0.123457" in page
    assert page.count("<img") == 1
    assert not re.search("<(script|link)", page)


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


def refuse(capsys, folder, out, *arguments):
    """Run the command line, which must refuse; return what it says."""
    try:
        code = main(["run", "--out", str(out), *arguments], folder)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert not out.exists(), "something was run"
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--preset huge", "no preset 'huge'. Choose one of: smoke, tiny"),
        ("--seed 1.5", "'1.5' is not a whole number from 0 up"),
        ("--seed -1", "'-1' is not a whole number from 0 up"),
        ("--seed one", "'one' is not a whole number from 0 up"),
        ("--only 04 06", "no notebook '06'. There are: 03_fails, 04_good, 05_ends, 12_dies"),
        ("--only good", "no notebook 'good'"),
        ("--prest tiny", "unrecognized arguments: --prest tiny"),
        ("--jobs 0", "0 is too few"),
    ],
)
def test_wrong_arguments_are_refused(capsys, folder, tmp_path, arguments, said):
    assert said in refuse(capsys, folder, tmp_path / "out", *arguments.split())


@pytest.mark.parametrize("seed", ["0", 1.0, True, -1, None])
def test_what_cannot_run_is_refused_from_python_too(folder, tmp_path, seed):
    with pytest.raises(CourseError, match="whole number from 0 up"):
        run_course("tiny", seed, out=tmp_path / "out", notebooks=folder)
    with pytest.raises(presets.UnknownPreset):
        run_course("Tiny", out=tmp_path / "out", notebooks=folder)
    with pytest.raises(CourseError, match="holds the course's notebooks"):
        run_course(out=folder / "." / "", notebooks=folder)
    refused = pytest.raises(CourseError, match="Another run is writing")
    with FileLock(tmp_path / ".run.lock"), refused:
        run_course(only=["04"], out=tmp_path, notebooks=folder)
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
    for preset, seed in (("smoke", 1), ("tiny", 0)):
        with pytest.raises(CourseError, match=r"holds a run of preset smoke, seed 0\..*--out"):
            run_course(preset, seed, ["1"], out, pair)
    with pytest.raises(CourseError, match=r"02_y.ipynb is not a readable notebook"):
        run_course("smoke", 0, ["2"], out, pair)
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


@pytest.mark.parametrize(
    ("done", "ahead", "jobs", "expected"),
    [
        ([], [2, 4, 6], 1, 12),
        # twice as slow as typical: what is left takes twice as long
        ([(2, 4)], [4, 6], 1, 20),
        # unknown chapters count as the mean of those that ran
        ([(None, 3)], [None, 6], 1, 3 + 6),
        ([], [None, 2], 1, None),
        ([(1, 5), (1, 5)], [], 1, 0),
        # side by side; no less than the longest
        ([], [2, 4, 6], 2, 6),
        ([], [1, 6], 2, 6),
    ],
)
def test_the_estimate_follows_the_pace_of_the_machine(done, ahead, jobs, expected):
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


def test_list_prints_number_title_and_question(folder, tmp_path, capsys):
    assert main(["list"], folder) == 0
    said = "03  It fails|04  The *tax* & more|    Does it fall?|05  It ends|12  It dies"
    assert capsys.readouterr().out.splitlines() == said.split("|")
    assert main(["list"], tmp_path / "none") == 2
    assert "There is no notebook called NN_name.ipynb in" in capsys.readouterr().err


# --- outputs in notebooks/ -----------------------------------------------------------------------


def test_a_runs_outputs_are_kept_without_debris_and_stripped_again(tmp_path, folder, ran, capsys):
    for name in ("04_good", "12_dies"):
        (tmp_path / f"{name}.ipynb").write_bytes((folder / f"{name}.ipynb").read_bytes())
    done = nbformat.read(ran.out / "04_good.ipynb", 4)
    bar = nbformat.v4.new_output("stream", name="stderr", text="50%|")
    dead = nbformat.v4.new_output("display_data", data={notebooks.WIDGET + "-view+json": {}})
    still = {notebooks.WIDGET + "-view+json": {}, "text/html": "as it stood"}
    done.cells[-1].outputs += [bar, dead, nbformat.v4.new_output("display_data", data=still)]
    (tmp_path / "run").mkdir()
    nbformat.write(done, tmp_path / "run" / "04_good.ipynb")
    summed = (ran.out / "run.json").read_text("utf-8")
    (tmp_path / "run" / "run.json").write_text(summed)
    (told,) = (c["recording"] for c in json.loads(summed)["chapters"] if c["number"] == "04")
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
    assert main(["outputs", str(ran.out)], folder) == 2
    assert "ended in an error" in capsys.readouterr().err
    write_notebook(tmp_path / "04_good.ipynb", "another")
    assert main(["outputs", str(tmp_path / "run")], tmp_path) == 2
    assert re.search(r"04_good\.ipynb: .* run it again", capsys.readouterr().err)
