"""Checks of exercises, and those of the chapters: stubs fail, solutions pass, mistakes are told."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import golden, refuses

from alignment_tax import exercises, grading, settings
from alignment_tax.exercises import FOLDED, find_exercises, student_notebook, teacher_notebook
from alignment_tax.mitigate.graft import largest_mask
from alignment_tax.mitigate.moving_average import Ema
from alignment_tax.mitigate.output_penalty import forward_kl
from alignment_tax.mitigate.weight_penalty import WeightPenalty
from alignment_tax.notebooks import CourseError, code_cells, read_notebook, write_notebook

CHAPTERS = sorted(settings.notebooks_folder().glob("[0-9][0-9]_*.ipynb"))
ALL = {e.names[0]: (path, e) for path in CHAPTERS for e in find_exercises(path)}
LINES = (Path(__file__).with_name("wrong_answers.txt")).read_text("utf-8").splitlines()
ANSWERS = [line.split(" :: ") for line in LINES if not line.startswith("#")]
each_exercise = pytest.mark.parametrize("name", ALL)
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


# --- checks: one of a product, with a mistake that is known ---------------------------------------
CASES = [((2, 3), 6), ((4, 5), 20, "four times five")]


@pytest.mark.parametrize(("yours", "said"), [
    (lambda a, b: a * b, "right"),
    (lambda a, b: np.float64(a * b), "right"),
    (lambda a, b: None, "not solved yet: multiply"),
    (lambda a, b: 6, "not yet: the first case is right, but four times five gives 20, not 6"),
    (lambda a, b: a + b, "not yet: that is the sum"),
    (lambda a, b: "six", "not yet: 2, 3 gives 6, not six"),
    (lambda a, b: [6], "not yet: 2, 3 gives 6, not [6]"),
    (lambda a, b: a / 0, "not yet: it stops with ZeroDivisionError: division by zero"),
])  # fmt: skip
def test_an_answer_is_diagnosed_and_used_only_if_it_is_right(capsys, yours, said):
    mistakes = [(5, "that is the sum")]
    chosen = exercises.use(yours, lambda a, b: a * b, CASES, mistakes, hint="multiply")
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], chosen is yours) == (said, said == "right")
    assert lines[1].endswith("yours." if said == "right" else "the function of the library.")


def test_nothing_may_be_the_right_answer_and_lists_and_words_are_compared(capsys):
    none = [((0,), 0), ((1,), None)]
    assert exercises.check(lambda n: 0 if n == 0 else None, none, hint="")
    assert not exercises.check(lambda n: None, none, hint="")
    assert "not solved yet" in capsys.readouterr().out
    same = [([1, None], [1.0001, None]), ("a b", "a b")]
    other = [([1, None], [None, 1]), ([[1.0], [2.0, 3.0]], [[1.0], [2.0, 4.0]])]
    assert [exercises.same(*both) for both in same + other] == [True, True, False, False]


# --- the exercises of the chapters ----------------------------------------------------------------
def told(name, code):
    """What the check of an exercise says first of a cell in the place of its stub."""
    path, exercise = ALL[name]
    names = dict(grading.around(path))
    exec(code, names)
    try:
        return grading.first_line(exercise.check, names)
    except Exception as error:  # which a chapter shows as it is
        return f"it stops with {type(error).__name__}: {error}"


def answer(name, body):
    """A stub's cell with other numbers, or with another body of its function."""
    _, exercise = ALL[name]
    stub = exercises.definitions(exercise.stub)[name]
    if not isinstance(stub, ast.FunctionDef):
        return f"{', '.join(exercise.names)} = {body}"
    body = body if "return" in body else f"return {body}"
    return f"{exercise.stub}\n\ndef {name}({ast.unparse(stub.args)}): {body}"


def test_every_stub_is_an_exercise_with_a_name_of_its_own():
    stubs = [cell for path in CHAPTERS for cell in exercises.tagged(read_notebook(path), "stub")]
    assert len(ALL) == len(stubs) >= 40
    assert {name for name, *_ in ANSWERS} == ALL.keys()
    # what is written into a stub has a name that no other cell of the chapter defines
    for path, exercise in ALL.values():
        cells = [cell.source for cell in code_cells(read_notebook(path))]
        own = [set(exercise.names) & set(exercises.definitions(cell)) for cell in cells]
        assert [names for names in own if names] == [set(exercise.names)]


@each_exercise
def test_the_stub_fails_and_the_solution_passes(name):
    _, exercise = ALL[name]
    assert told(name, exercise.solution).lower().startswith("right")
    assert re.search("(?i)^not solved yet|still the colleague's", told(name, exercise.stub))


@each_exercise
def test_five_wrong_answers_are_told_what_they_are_and_apart(name):
    said = []
    for body, expected in [own[1:] for own in ANSWERS if own[0] == name]:
        said.append(told(name, answer(name, body)))
        assert expected in said[-1]
        assert not said[-1].lower().startswith("right")
    assert len(said) == len(set(said)) >= 5


@each_exercise
def test_hidden_cases_are_those_of_the_solution(name):
    path, exercise = ALL[name]
    if isinstance(exercises.definitions(exercise.stub)[name], ast.Assign):
        assert not exercise.hidden  # numbers have one right answer
        return
    names = dict(grading.around(path)) | {"exercises": exercises}
    exec(exercise.solution, names)
    check = f"exercises.check({name}, {exercise.hidden}, hint='')"
    assert grading.first_line(check, names) == "right"


def texts(notebook, tags):
    """The texts of the cells that bear one of these tags, and of those that do not."""
    both = [], []
    for cell in notebook.cells:
        both[not {*tags} & {*cell.metadata.get("tags", [])}].append(cell.source)
    return both


@each_chapter
def test_nothing_of_solutions_and_checks_is_left_for_the_student(path, tmp_path):
    source, student = read_notebook(path), student_notebook(path)
    left = "\n".join(cell.source for cell in student.cells)
    open_texts = texts(source, ["check", "solution"])[1]
    secret = texts(source, ["check"])[0]
    secret += FOLDED.findall("\n".join(texts(source, ["solution"])[0]))
    both = [[each for text in own for each in text.splitlines()] for own in (secret, open_texts)]
    lines, known, whole = ({line.strip() for line in own} for own in (*both, left.splitlines()))
    lines -= known
    found = [line for line in lines if line in (left if len(line) > 25 else whole)]
    assert [line for line in found if len(line) > 12] == []
    for exercise in find_exercises(path):
        solved = {line.strip() for line in exercise.solution.splitlines()}
        assert solved & whole <= {"", *(line.strip() for line in exercise.stub.splitlines())}
    assert "<details" not in left
    assert not any("hidden" in cell.metadata for cell in student.cells)
    assert not any(cell.outputs for cell in code_cells(student))
    # nothing else is taken away or changed
    assert texts(student, ["check", "solution"])[1] == open_texts
    write_notebook(tmp_path / path.name, student)


@each_chapter
def test_the_teachers_stubs_are_solved_and_their_checks_say_so(path, capsys):
    names = dict(grading.around(path))
    cells = code_cells(teacher_notebook(path))
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if "stub" in tags:
            exec(cell.source, names)
        elif "check" in tags or cell.id.endswith("-hidden"):
            assert grading.first_line(cell.source, names).lower().startswith("right")
    assert len(cells) > len(code_cells(read_notebook(path)))


def test_a_students_check_is_the_courses(capsys, tmp_path, monkeypatch):
    path, exercise = ALL["mask_prompt"]
    [check] = [c for c in code_cells(student_notebook(path)) if "cell-32" in c.source]
    names = dict(grading.around(path))
    exec(exercise.stub, names)
    exec(check.source, names)
    assert "not solved yet" in capsys.readouterr().out
    assert names["labels_of"]([5, 6], 1) == [-100, 6]  # the chapter goes on with the library's
    exec(exercise.solution, names)
    exec(check.source, names)
    assert capsys.readouterr().out.startswith("right")
    assert names["labels_of"] is names["mask_prompt"]
    refuses(CourseError, "no check elsewhere", exercises.check_here, path.stem, "elsewhere", {})
    # who puts the handouts in the place of the course is told so
    write_notebook(tmp_path / path.name, student_notebook(path))
    monkeypatch.setattr(settings, "notebooks_folder", lambda: tmp_path)
    refuses(CourseError, "beside notebooks/", exercises.check_here, path.stem, check.id, names)


def test_a_stub_without_a_check_or_a_solution_is_named(tmp_path):
    for tag in ("check", "solution"):
        notebook = read_notebook(CHAPTERS[2])
        for cell in exercises.tagged(notebook, tag):
            cell.metadata.tags = []
        write_notebook(tmp_path / "02_x.ipynb", notebook)
        refuses(CourseError, tag, find_exercises, tmp_path / "02_x.ipynb")


def test_a_wrong_projection_is_told_so():
    for said, code in golden("projections.yaml").items():
        assert told("project_by_hand", code).startswith(said)


def test_the_solutions_are_what_the_library_does():
    names = {"torch": torch}
    for name in ("l2_penalty", "kl_divergence", "largest", "ema"):
        exec(ALL[name][1].solution, names)
    torch.manual_seed(0)
    before, after = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    changes = [p - q for p, q in zip(after.parameters(), before.parameters(), strict=True)]
    loss = WeightPenalty(before, 1.0, 2, 0.01).loss(after, {}, None)
    torch.testing.assert_close(names["l2_penalty"](changes, 0.01), loss)
    p, q = torch.softmax(torch.randn(2, 5, 7), dim=-1)
    torch.testing.assert_close(names["kl_divergence"](p, q), forward_kl(p.log(), q.log()))
    change = changes[0].detach().flatten()
    theirs = largest_mask({"w": 0 * change}, {"w": change}, 0.3)["w"]
    assert torch.equal(names["largest"](change, 0.3), theirs)
    average, walk = Ema(before, 0.9), [torch.randn(3, 4) for _ in range(5)]
    start = before.weight.detach().clone()
    for step, weights in enumerate(walk, start=1):
        before.weight.data.copy_(weights)
        average.after_step(before, step)
    ours = names["ema"](start, walk, 0.9)
    torch.testing.assert_close(ours, average.weights()["weight"].detach().float())
