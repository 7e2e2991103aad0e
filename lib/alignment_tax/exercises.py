"""Exercises inside a chapter: a reader's function, tried on cases that were worked out by hand.

A case is (arguments, right answer[, what the arguments are in words]); see CONTRIBUTING.md.
"""

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from alignment_tax import notebooks, presets, settings
from alignment_tax.notebooks import CourseError, code_cells, read_notebook, tagged, without_outputs

Function = Callable[..., Any]
Cases = Sequence[tuple[Any, ...]]
Mistakes = Sequence[tuple[Any, str]]
IMPORTS = (ast.Import, ast.ImportFrom)
FOLDED = re.compile(r"\s*<details>.*?</details>", re.DOTALL)
#: What stands in a student's notebook in the place of a check.
BY_NAME = """from alignment_tax.exercises import check_here

check_here("{chapter}", "{cell}", globals())"""


@dataclass(frozen=True)
class Exercise:
    """An exercise: what its reader defines, and the code of its cells."""

    chapter: str  # the notebook's file, without .ipynb
    names: tuple[str, ...]
    stub: str
    check: str
    solution: str  # the stub's cell, filled in
    hidden: str  # a list of cases of its function, as code; "" if there are none

    @property
    def column(self) -> str:
        """Number of the chapter and first name: no other exercise has both."""
        return f"{self.chapter[:2]} {self.names[0]}"


def use(
    yours: Function, librarys: Function, cases: Cases, mistakes: Mistakes = (), *, hint: str
) -> Function:
    """Return, and name, the function a chapter goes on with: the reader's if `check` says right."""
    right = check(yours, cases, mistakes, hint=hint)
    print(f"The chapter goes on with {'yours' if right else 'the function of the library'}.")
    return yours if right else librarys


def check(yours: Function, cases: Cases, mistakes: Mistakes = (), *, hint: str) -> bool:
    """Return whether a function is right in every case; say so, or what is likely wrong.

    `mistakes` are wrong answers to the first case, the one of the text, and what each means; others
    tell a constant from a rule. `hint` is said while the answer is None.
    """
    for place, (arguments, right, *words) in enumerate(cases):
        try:
            answer = plain(yours(*arguments))
        except Exception as error:
            print(f"not yet: it stops with {type(error).__name__}: {error}")
            return False
        if answer is None and right is not None:
            print(f"not solved yet: {hint}")
            return False
        if same(answer, right):
            continue
        known = (said for wrong, said in mistakes if place == 0 and same(answer, wrong))
        given = words[0] if words else ", ".join(map(repr, arguments))
        first = "the first case is right, but " if place else ""
        short = round(answer, 4) if isinstance(answer, float) else answer
        print(f"not yet: {next(known, f'{first}{given} gives {right}, not {short}')}")
        return False
    print("right")
    return True


def same(answer: Any, right: Any) -> bool:
    """Return whether two answers are equal; numbers, and lists of them, to a thousandth."""
    answer, right = plain(answer), plain(right)
    if isinstance(answer, dict) and isinstance(right, dict):
        return answer.keys() == right.keys() and all(same(answer[n], right[n]) for n in right)
    try:
        found, wanted = (np.asarray(each, dtype=float) for each in (answer, right))
    except (TypeError, ValueError):
        return bool(answer == right)
    alike = found.shape == wanted.shape
    return alike and np.allclose(found, wanted, rtol=0, atol=1e-3, equal_nan=True)


def plain(answer: Any) -> Any:
    """Return the Python numbers of an array or a tensor; anything else itself."""
    return answer.tolist() if hasattr(answer, "tolist") else answer


def statements(source: str) -> list[ast.stmt]:
    """Return a cell's statements without magics and shell lines (SyntaxError: it has faults)."""
    return ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE)).body


def bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement gives to a function, a class, a module or a value."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, IMPORTS):
        return {each.asname or each.name.partition(".")[0] for each in statement.names}
    single = [statement.target] if isinstance(statement, ast.AnnAssign) else []
    nodes = (node for each in getattr(statement, "targets", single) for node in ast.walk(each))
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def definitions(source: str) -> dict[str, ast.stmt]:
    """Return what each name that a cell binds at its top level is bound by."""
    return {name: each for each in statements(source) for name in bound(each)}


def filled_in(stub: str, solution: str, names: Sequence[str]) -> str:
    """Return a stub's cell with the solution of each name in its place."""
    lines, written = stub.splitlines(), solution.splitlines()
    theirs, ours = definitions(stub), definitions(solution)
    for number, name in reversed(list(enumerate(names))):
        old, new = theirs[name], ours[name]
        start, text = old.lineno - 1, written[new.lineno - 1 : new.end_lineno]
        if isinstance(old, ast.FunctionDef) and isinstance(new, ast.FunctionDef):
            told = old.body[0].end_lineno if ast.get_docstring(old) else None
            start = told or old.body[0].lineno - 1
            text = written[new.body[0].lineno - 1 : new.end_lineno]
        elif number and ours[names[number - 1]] is new:  # one line may set several numbers
            text = []
        lines[start : old.end_lineno] = text
    needed = [ast.unparse(each) for each in statements(solution) if isinstance(each, IMPORTS)]
    return "\n".join([*needed, "", "", *lines] if needed else lines)


def find_exercises(path: Path) -> list[Exercise]:
    """Return the exercises of a chapter; one without a check or a solution is a CourseError."""
    notebook, found = read_notebook(path), []
    folded = [text for cell in tagged(notebook, "solution") for text in FOLDED.findall(cell.source)]
    answers = re.findall(r"```python\n(.*?)```", "\n".join(folded), re.DOTALL)
    for stub, check in pairwise([*code_cells(notebook), None]):
        if stub not in tagged(notebook, "stub"):
            continue
        known = [(a, [n for n in definitions(stub.source) if n in definitions(a)]) for a in answers]
        answer, names = max(known, key=lambda each: len(each[1]), default=("", []))
        checked = check in tagged(notebook, "check")
        if not names or not checked:
            wants = "a solution in Python" if checked else "a cell tagged 'check' behind it"
            raise CourseError(f"{path.name}: the stub in cell {stub.id} needs {wants}.")
        solved = filled_in(stub.source, answer, names)
        hidden = check.metadata.get("hidden", "")
        found.append(Exercise(path.stem, tuple(names), stub.source, check.source, solved, hidden))
    return found


def student_notebook(path: Path, preset: str = "") -> Any:
    """Return a chapter without solutions, and with its checks by name alone."""
    notebook = without_outputs(path, preset)
    instead = "\n\n*Your teacher has the solutions.*"
    for cell in tagged(notebook, "solution"):
        cell.source = FOLDED.sub("", FOLDED.sub(instead, cell.source, count=1)).strip()
    for cell in tagged(notebook, "check"):
        cell.source = BY_NAME.format(chapter=path.stem, cell=cell.id)
        cell.metadata.pop("hidden", None)
    return notebook


def teacher_notebook(path: Path, preset: str = "") -> Any:
    """Return a chapter whose stubs are solved, with a cell of hidden cases behind each check."""
    from nbformat.v4 import new_code_cell

    notebook, exercises = without_outputs(path, preset), find_exercises(path)
    cells = tagged(notebook, "stub"), tagged(notebook, "check")
    for stub, check, exercise in zip(*cells, exercises, strict=True):
        stub.source = exercise.solution
        if check.metadata.pop("hidden", None):
            call = f"exercises.check({exercise.names[0]}, {exercise.hidden}, hint='')"
            text = f"from alignment_tax import exercises\n\n{call};"
            place = notebook.cells.index(check) + 1
            notebook.cells.insert(place, new_code_cell(text, id=f"{check.id}-hidden"))
    return notebook


def write_handouts(chapters: Path, out: Path, preset: str) -> list[Path]:
    """Write all chapters, on a preset, into student/ and teacher/ below `out`; return the files."""
    if preset != presets.RECORDED:
        presets.get(preset)
    paths = [chapter.path for chapter in notebooks.find_chapters(chapters)]
    makers = {"student": student_notebook, "teacher": teacher_notebook}
    made = {out / w / p.name: make(p, preset) for w, make in makers.items() for p in paths}
    for path, notebook in made.items():
        settings.writable(path.parent, "Choose another folder with --out.")
        notebooks.write_notebook(path, notebook)
    return list(made)


def check_here(chapter: str, cell: str, names: dict[str, Any]) -> None:
    """Run a check of the course on what a student's notebook has defined; the notebook goes on."""
    path = settings.notebooks_folder() / f"{chapter}.ipynb"
    checks = tagged(read_notebook(path), "check") if path.is_file() else []
    for check in checks:
        if check.id == cell and "check_here(" not in check.source:
            exec(compile(check.source, f"<check {cell}>", "exec"), names)
            return
    own = "it has to be the course's own notebook. Put handouts beside notebooks/, not into it"
    raise CourseError(f"{path} has no check {cell}: {own}.")
