"""A class's notebooks, graded: a row a student, a column an exercise.

Only stubs, and the imports and definitions around them, are run, in the sandbox; checks call them.
"""

import ast
import io
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from alignment_tax import exercises, labels, settings, store
from alignment_tax.elsewhere import processes
from alignment_tax.exercises import Exercise, bound, definitions, find_exercises, statements, tagged
from alignment_tax.notebooks import CourseError, code_cells, find_chapters, read_notebook
from alignment_tax.sandbox import Ended, Limits, Sandbox

Chapters = dict[str, list[Exercise]]
#: Statements outside the stubs that are run too: they cost next to nothing.
CHEAP = (*exercises.IMPORTS, ast.FunctionDef, ast.ClassDef)
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
LARGEST = 50  # megabytes of a notebook's file


@dataclass(frozen=True)
class Row:
    """What came of one student: column -> "right" or what is wrong, and what else happened."""

    student: str
    verdicts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def right(self) -> int:
        """How many exercises are right."""
        return list(self.verdicts.values()).count("right")


def find_students(folder: Path) -> dict[str, list[Path]]:
    """Return each student's notebooks: a sub-folder with any, or a file of their own, a student."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        inner = sorted(path.rglob("*.ipynb")) if path.is_dir() else [path]
        own = [p for p in inner if p.suffix == ".ipynb" and ".ipynb_checkpoints" not in p.parts]
        if own or path.is_dir():
            found.setdefault(path.stem if path.is_file() else path.name, []).extend(own)
    if not any(found.values()):
        raise CourseError(f"There is no notebook in {folder}: give it a folder or file a student.")
    return found


def code_of(notebook: Any, exercise: Exercise) -> list[str]:
    """Return what an exercise needs of a notebook: changed cells, what is CHEAP (CourseError)."""
    cells, faults = [], []
    empty = {ast.dump(node) for node in definitions(exercise.stub).values()}
    for cell in code_cells(notebook):
        try:
            cells.append(statements(cell.source))
        except UNREADABLE as error:
            if any(name in cell.source for name in exercise.names):
                faults.append(f"its cell stops with {type(error).__name__}: {error}")
    own = [body for body in cells if any(bound(each) & {*exercise.names} for each in body)]
    if not own:
        raise CourseError(faults[0] if faults else "its cell is gone")
    solved = [body for body in own if {ast.dump(n) for n in body if bound(n)} - empty]
    code = [each for body in solved or own for each in body]
    others = [each for body in cells if body not in own for each in body]
    return [ast.unparse(each) for each in [*needed(code, others), *code]]


def needed(code: Sequence[ast.stmt], others: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return what code uses of other statements that are CHEAP, also by way of each other."""
    cheap = [each for each in others if isinstance(each, CHEAP)]
    kept, more = [], [*code]
    while more:
        used = {n.id for each in more for n in ast.walk(each) if isinstance(n, ast.Name)}
        more = [each for each in cheap if each not in kept and bound(each) & used]
        kept += more
    return [each for each in cheap if each in kept]


@cache
def around(path: Path) -> dict[str, Any]:
    """Return what a chapter's exercises use of its parameters, imports and definitions."""
    notebook, exercises = read_notebook(path), find_exercises(path)
    texts = [text for e in exercises for text in (e.stub, e.solution, e.check, e.hidden)]
    own = [cell for tag in ("stub", "check") for cell in tagged(notebook, tag)]
    cells = [cell for cell in code_cells(notebook) if cell not in own]
    others = [each for cell in cells for each in statements(cell.source)]
    code = [each for text in texts for each in statements(text)]
    names: dict[str, Any] = {"__name__": "__main__"}
    for each in (*needed(code, others), *statements(tagged(notebook, "parameters")[0].source)):
        exec(ast.unparse(each), names)
    return names


def verdict(
    exercise: Exercise, notebook: Any, around: dict[str, Any], folder: Path, limits: Limits
) -> tuple[str, list[str]]:
    """Return "right" or what is wrong with one answer, and what else is to be known."""
    notes: list[str] = []
    base = {name: value for name, value in around.items() if name not in exercise.names}
    try:
        code = code_of(notebook, exercise)
        with Sandbox(code, exercise.names, base, folder, limits) as box:
            try:
                apart, values = box.start()
                if not apart:
                    notes.append("no namespace to be had: network refused in Python alone")
                base |= {name: values[name] for name in exercise.names}
                said = first_line(exercise.check, base)
                if said.lower().startswith("right") and exercise.hidden and not box.ended:
                    call = f"exercises.check({exercise.names[0]}, {exercise.hidden}, hint='')"
                    said = first_line(call, base | {"exercises": exercises})
                    if said != "right":
                        said = f"not yet: right where the notebook shows it, elsewhere {said}"
            finally:
                if box.printed.exists() and box.printed.stat().st_size >= 2**20 * limits.output:
                    notes.append(f"printed {limits.output} MB or more")
        said = f"not yet: {box.ended}" if box.ended else said
    except (Ended, CourseError) as error:
        said = f"not yet: {error}"
    except Exception as error:  # what the student's function raised, or the check over its answer
        said = f"not yet: it stops with {type(error).__name__}: {error}"
    return "right" if said.lower().startswith("right") else said[:400], notes


def first_line(code: str, names: dict[str, Any]) -> str:
    """Return what a check says first."""
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(io.StringIO()):
        exec(code, names)
    return said.getvalue().partition("\n")[0]


def chapter_of(notebook: Any, chapters: Chapters) -> str:
    """Return the chapter most of whose exercises a notebook defines (CourseError: none)."""
    names: set[str] = set()
    for cell in code_cells(notebook):
        try:
            names |= definitions(cell.source).keys()
        except UNREADABLE:
            known = (e.names[0] for own in chapters.values() for e in own)
            names |= {name for name in known if name in cell.source}
    count = {name: sum(e.names[0] in names for e in own) for name, own in chapters.items()}
    best = max(count, key=lambda name: count[name])
    if not count[best]:
        raise CourseError("no exercise of the course in it")
    return best


def grade_student(
    student: str, paths: Sequence[Path], chapters: Chapters, notebooks: Path, limits: Limits
) -> Row:
    """Grade what one student has handed in; of two files of one chapter the newer one."""
    read: dict[str, tuple[Path, Any]] = {}
    verdicts, notes = {}, [] if paths else ["no notebook handed in"]
    for path in sorted(paths, key=lambda each: each.stat().st_mtime):
        try:
            if path.stat().st_size > 2**20 * LARGEST:
                raise CourseError(f"larger than {LARGEST} MB: clear its outputs")
            notebook = read_notebook(path)
            chapter = chapter_of(notebook, chapters)
        except CourseError as error:
            notes.append(f"{path.name}: {error}")
            continue
        if chapter in read:
            notes.append(f"{read[chapter][0].name}: left out, {path.name} is newer")
        read[chapter] = path, notebook
    for chapter, (path, notebook) in read.items():
        names = around(notebooks / f"{chapter}.ipynb")
        for exercise in chapters[chapter]:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as copy:
                folder = Path(copy).resolve() / "folder"
                if path.parent.name == student:
                    shutil.copytree(path.parent, folder, symlinks=True)
                else:
                    folder.mkdir()
                    shutil.copy(path, folder)
                before = set(folder.rglob("*"))
                said, more = verdict(exercise, notebook, names, folder, limits)
                if gone := sum(not each.exists() for each in before):
                    more.append(f"deleted files in its folder ({gone})")
            verdicts[exercise.column] = said
            notes += more
    return Row(student, verdicts, tuple(dict.fromkeys(notes)))


def grade(
    folder: Path, out: Path, notebooks: Path, limits: Limits, jobs: int, columns: Sequence[str]
) -> list[Row]:
    """Grade a class in some exercises, `jobs` students side by side; write CSV and HTML."""
    if sys.platform != "linux":
        raise CourseError("Only Linux can fence in what students wrote: grade in a container.")
    students, paths = find_students(folder), [each.path for each in find_chapters(notebooks)]
    chapters = {path.stem: found for path in paths if (found := find_exercises(path))}
    settings.writable(out, "Choose another folder with --out.")
    own, jobs = threading.local(), min(jobs, len(students))

    def start() -> None:
        own.process = processes(1)

    def one(student: str) -> Row:
        given = student, students[student], chapters, notebooks, limits
        try:
            row: Row = own.process.submit(grade_student, *given).result()
            return row
        except BrokenProcessPool:
            start()
            return Row(student, notes=("it ended the grader's own process: look at its code",))
        except Exception as error:  # a fault of one row costs no other
            return Row(student, notes=(f"not graded: {type(error).__name__}: {error}",))

    with ThreadPoolExecutor(jobs, initializer=start) as threads:
        work = [threads.submit(one, student) for student in students]
        try:
            for _ in tqdm(as_completed(work), "students", len(work), disable=None):
                pass
        finally:  # after Ctrl-C nobody else is graded
            threads.shutdown(wait=False, cancel_futures=True)
    rows = [each.result() for each in work]
    asked = [{n: row.verdicts[n] for n in columns if n in row.verdicts} for row in rows]
    rows = [replace(row, verdicts=own) for row, own in zip(rows, asked, strict=True)]
    write_grades(rows, out, columns)
    return rows


def write_grades(rows: Sequence[Row], out: Path, columns: Sequence[str]) -> None:
    """Write the table as CSV and as a page; columns that no student has are left out."""
    shown = [name for name in columns if any(name in row.verdicts for row in rows)]
    heads = ["student", "right", "of", *shown, "notes"]
    own = [(row.student, row.right, len(shown), "; ".join(row.notes)) for row in rows]
    told = pd.DataFrame(own, columns=["student", "right", "of", "notes"])
    table = told.join(pd.DataFrame(row.verdicts for row in rows))[heads].fillna("").astype(str)
    store.write_whole(out / "grades.csv", table.to_csv(index=False, lineterminator="\r\n"))
    page = labels.page("grades", "html", head=heads, rows=table.to_numpy().tolist())
    store.write_whole(out / "grades.html", page)
