"""Grading: what a notebook does costs its student alone, and the row says what it was."""

import csv
import os
import re
import socket
import textwrap
from dataclasses import replace

import nbformat
import psutil
import pytest
from conftest import golden, refuses

from alignment_tax import cli, grading, sandbox, settings
from alignment_tax.exercises import student_notebook, tagged
from alignment_tax.grading import Limits, grade_student
from alignment_tax.notebooks import CourseError, write_notebook

NOTEBOOKS = settings.notebooks_folder()
PATH = NOTEBOOKS / "02_instruction_tuning.ipynb"
COLUMN, OTHER = "02 mask_prompt", "02 replayed_share"
RIGHT = "[-100] * n + ids[n:]"
LIMITS = Limits(seconds=20, memory=400, output=1, processes=6)
EXERCISES = {PATH.stem: grading.find_exercises(PATH)}
SOLVED = f"def mask_prompt(ids, n): return {RIGHT}"
WRONG = "def mask_prompt(ids, n): return ids"


def notebook(cell=None):
    """A student's chapter 02 with another cell for `mask_prompt`, and one right answer."""
    made = student_notebook(PATH)
    stubs = tagged(made, "stub")
    if cell is not None:
        stubs[0].source = textwrap.dedent(cell)
    stubs[2].source = "def replayed_share(c, d): return sum(d) / (sum(c) + sum(d))"
    return made


def hand_in(path, made):
    """Write a notebook into a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_notebook(path, made)
    return path


def graded(folder, cell=None, made=None, limits=LIMITS):
    """The row of a student who hands in a notebook, or one with this cell."""
    path = hand_in(folder / "anna" / PATH.name, made or notebook(cell))
    return grade_student("anna", [path], EXERCISES, NOTEBOOKS, limits)


def function(*lines, answer=RIGHT):
    """A `mask_prompt` that does something, and then gives an answer."""
    body = "".join(f"    {line}\n" for line in (*lines, f"return {answer}"))
    imports = "import ctypes, os, socket, sys\nfrom pathlib import Path"
    return f"{imports}\ndef mask_prompt(ids, n):\n{body}"


@pytest.fixture
def nobody_is_left():
    before = psutil.Process().children(recursive=True)
    yield
    assert psutil.Process().children(recursive=True) == before


@pytest.fixture(params=[True, False], ids=["namespace", "without"])
def apart(request, monkeypatch):
    """Whether the kernel gives a namespace: some do not."""
    if not request.param:
        monkeypatch.setattr(sandbox, "NEW_USER", -1)
    return request.param


LEAVES = "ctypes.CDLL(None).fork() or (os.setsid(), __import__('time').sleep(600))"
CRIMES = golden("crimes.yaml")


@pytest.mark.parametrize("name", CRIMES)
def test_what_happened_is_said_and_costs_that_exercise_alone(tmp_path, nobody_is_left, name):
    crime = CRIMES[name]
    own = function(crime.get("does", "pass"), answer=crime.get("answer", RIGHT))
    cell = crime.get("cell", f"{crime.get('before', '')}\n{own}\n{crime.get('behind', '')}")
    limits = replace(LIMITS, seconds=2 if "hangs" in name else LIMITS.seconds)
    row = graded(tmp_path, cell, limits=limits)
    assert re.search(f"^not yet.*{crime['said']}", row.verdicts[COLUMN])
    assert (row.verdicts[OTHER], row.right, len(row.verdicts)) == ("right", 1, 3)


def test_the_checks_of_the_course_cannot_be_replaced(tmp_path):
    row = graded(tmp_path, f"""
        import numpy, builtins, alignment_tax.exercises as e
        e.check = e.use = lambda *a, **k: print("right") or True
        e.same = numpy.allclose = lambda *a, **k: True
        {function(answer="ids").replace(chr(10), chr(10) + " " * 8)}""")  # fmt: skip
    assert row.verdicts[COLUMN].startswith("not yet")


def test_loss_of_own_files_and_long_prints_are_noted(tmp_path, apart):
    lines = ["for each in Path.cwd().iterdir(): each.unlink()", "try: print('x' * 2**22)"]
    row = graded(tmp_path, function(*lines, "except OSError: pass"))
    assert row.verdicts[COLUMN] == "right"
    notes = "\n".join(row.notes)
    for said in ("deleted files in its folder (1)", "printed 1 MB or more"):
        assert said in notes
    assert ("refused in Python alone" in notes) != apart
    assert (tmp_path / "anna" / PATH.name).exists()


@pytest.mark.parametrize("does", ["unlink()", "write_text('x')", "rename('here')"])
def test_files_elsewhere_and_the_environment_are_out_of_reach(tmp_path, monkeypatch, does):
    monkeypatch.setenv("SECRET", "s")
    precious = tmp_path / "precious"
    precious.write_text("work of others")
    row = graded(tmp_path, function(f"Path({str(precious)!r}).{does}"))
    assert "nothing may be changed outside its folder" in row.verdicts[COLUMN]
    assert precious.read_text() == "work of others"
    home = "[os.environ.get('SECRET'), os.environ['HOME'] == os.getcwd()]"
    assert "[None, True]" in graded(tmp_path, function(answer=home)).verdicts[COLUMN]


def test_who_leaves_the_group_or_hangs_and_dies_is_ended_too(tmp_path, apart, nobody_is_left):
    assert graded(tmp_path, function(LEAVES)).verdicts[COLUMN] == "right"
    hangs = "ctypes.CDLL(None).fork() or __import__('time').sleep(600)"
    said = graded(tmp_path, function(hangs, "os._exit(0)")).verdicts[COLUMN]
    assert "ends its own process" in said


def test_the_network_is_that_of_nobody(tmp_path):
    """Even past Python: connect by the C library, to a server that listens."""
    if os.system("unshare --user --net true 2>/dev/null"):
        pytest.skip("no namespaces on this machine")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1].to_bytes(2, "big")
        place = f"(ctypes.c_ubyte * 16)(2, 0, *{port!r}, 127, 0, 0, 1)"
        call = f"ctypes.CDLL(None).connect(socket.socket().fileno(), {place}, 16)"
        assert "-1" in graded(tmp_path, function(answer=call)).verdicts[COLUMN]
        refuses(TimeoutError, None, server.accept)


def test_cells_may_be_reordered_doubled_and_surrounded(tmp_path):
    def verdict(made, before=(), behind=()):
        cells = [[nbformat.v4.new_code_cell(text) for text in own] for own in (before, behind)]
        made.cells = [*cells[0], *made.cells, *cells[1]]
        return graded(tmp_path, made=made).verdicts[COLUMN]

    made = notebook(SOLVED)
    made.cells.reverse()
    assert verdict(made) == "right"
    # an untouched stub behind the answer does not undo it; another answer does
    stub = tagged(student_notebook(PATH), "stub")[0].source
    assert verdict(notebook(SOLVED), behind=[stub]) == "right"
    assert verdict(notebook(SOLVED), behind=[stub, WRONG]).startswith("not yet")
    # helpers and imports of other cells are had, what these cells do is not done
    helped = notebook("mask_prompt = lambda ids, n: masked(n) + ids[n:]")
    other = "import itertools as it\nimport os\ndef masked(n): return list(it.repeat(-100, n))"
    assert verdict(helped, before=[other, "while True: os.remove('x')"]) == "right"
    gone = notebook()
    gone.cells.remove(tagged(gone, "stub")[0])
    assert verdict(gone) == "not yet: its cell is gone"


def test_layouts_of_a_class(tmp_path):
    places = ["carl.ipynb", "anna/02.ipynb", "anna/.ipynb_checkpoints/02.ipynb"]
    for place in (*places, "berta/deep/x.ipynb"):
        hand_in(tmp_path / place, notebook())
    (tmp_path / "dora").mkdir()
    (tmp_path / "notes.txt").write_text("")
    found = {name: len(paths) for name, paths in grading.find_students(tmp_path).items()}
    assert found == {"anna": 1, "berta": 1, "carl": 1, "dora": 0}
    refuses(CourseError, "no notebook", grading.find_students, tmp_path / "dora")


def test_files_that_cannot_be_graded_are_named(tmp_path):
    broken, empty, old, new = (tmp_path / f"{name}.ipynb" for name in ("b", "e", "o", "n"))
    broken.write_text("{")
    write_notebook(empty, nbformat.v4.new_notebook())
    write_notebook(old, notebook(WRONG))
    write_notebook(new, notebook(SOLVED))
    os.utime(old, (1, 1))
    row = grade_student("anna", [broken, empty, new, old], EXERCISES, NOTEBOOKS, LIMITS)
    assert row.verdicts[COLUMN] == "right"
    text = " ".join(row.notes)
    for said in ("not a readable notebook", "no exercise of the course", "o.ipynb: left out"):
        assert said in text
    assert grade_student("b", [], EXERCISES, NOTEBOOKS, LIMITS).notes == ("no notebook handed in",)


def test_a_class_is_graded_to_a_table_and_a_page(tmp_path, ends):
    for name, cell in {"a<b": function(), "bad": function("os._exit(1)"), "none": None}.items():
        hand_in(tmp_path / "in" / name / "x.ipynb", notebook(cell))
    line = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert cli.main([*line, "--seconds", "60"]) == 0
    head, *rows = csv.reader((tmp_path / "out" / "grades.csv").open(encoding="utf-8"))
    assert head == ["student", "right", "of", COLUMN, "02 batch_loss", OTHER, "notes"]
    told = [["a<b", "2", "3", "right"], ["bad", "1", "3", "not yet"]]
    told.append(["none", "1", "3", "not solved yet"])
    assert [[*row[:3], row[3].split(":")[0]] for row in rows] == told
    page = (tmp_path / "out" / "grades.html").read_text("utf-8")
    assert ("a&lt;b" in page, "http" in page) == (True, False)
    assert cli.main(["grade", str(tmp_path / "nowhere")]) == cli.WRONG_USE
    hand_in(tmp_path / "in" / "a<b" / "9.ipynb", student_notebook(next(NOTEBOOKS.glob("09_*"))))
    ends("a<b: 0 of 4 right", *line, "--only", "9", code=0)
    assert cli.main([*line, "--only", "99"]) == cli.WRONG_USE


def test_handouts_are_written_for_both_on_the_preset_that_is_named(tmp_path):
    line = ["exercises", "--out", str(tmp_path / "class")]
    assert cli.main([*line, "--preset", "none"]) == cli.WRONG_USE
    for preset, given in {"tiny": [], "recorded": ["--preset", "recorded"]}.items():
        assert cli.main([*line, *given]) == 0
        made = list((tmp_path / "class").glob("*/*.ipynb"))
        assert len(made) == 2 * len(list(NOTEBOOKS.glob("*.ipynb")))
        assert all(f'preset = \\"{preset}\\"' in path.read_text("utf-8") for path in made)
