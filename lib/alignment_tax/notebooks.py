"""The chapters: found, checked, executed through papermill (a fresh kernel each), and shown."""

import ast
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import asdict, dataclass, field, replace
from json import dumps
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from jinja2 import FileSystemLoader

from alignment_tax import elsewhere, labels, presets, provenance, settings
from alignment_tax.results.recorded import recording_key
from alignment_tax.results.values import SUMMARY, CompareError, read_records, read_run
from alignment_tax.store import digest, list_files, write_whole

PARAMETERS = ("preset", "seed")
INDEX = "index.html"
#: In the metadata of a notebook: the key of the recording that its kept outputs show.
STAMP = "recording"
WIDGET = "application/vnd.jupyter.widget"


class CourseError(ValueError):
    """Raised before anything runs: a wrong preset, seed, selector, notebook or folder."""


@dataclass(frozen=True)
class Chapter:
    """A notebook and what its front matter says; `minutes` is preset name -> typical minutes."""

    number: str
    title: str
    question: str
    path: Path
    minutes: Mapping[str, float]

    @property
    def name(self) -> str:
        """Number and title."""
        return f"{self.number} {self.title}"


@dataclass(frozen=True)
class ChapterRun:
    """What came of a chapter."""

    number: str
    title: str
    question: str
    status: str = "not run"  # or "ok", "failed", "interrupted"
    minutes: float = 0.0
    records: dict[str, Any] = field(default_factory=dict)
    cell: str = ""
    error: str = ""
    notebook: str = ""  # its file in the folder of the run, "" if there is none
    page: str = ""  # the same as HTML
    earlier: bool = False  # of an earlier run in the same folder
    recording: str = ""  # the key of the recorded results that it showed
    made_of: str = ""  # a digest of what it depends on


@dataclass(frozen=True)
class CourseRun:
    """A run of the course: where it is, and what came of each notebook, in the course's order."""

    out: Path
    preset: str
    seed: int
    runs: dict[Path, ChapterRun]

    @property
    def chapters(self) -> list[ChapterRun]:
        """What came of each chapter."""
        return list(self.runs.values())

    @property
    def failed(self) -> list[ChapterRun]:
        """The chapters that failed or were interrupted in this run."""
        bad = ("failed", "interrupted")
        return [each for each in self.chapters if each.status in bad and not each.earlier]


def read_notebook(path: Path) -> Any:
    """Return a notebook as an nbformat node; what is no notebook is a CourseError."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0][:120]
        remedy = "Get it back from version control, or take it out of the folder."
        raise CourseError(f"{path} is not a readable notebook ({reason}). {remedy}") from error


def read_chapter(path: Path) -> Chapter:
    """Return a chapter: "# 04 Title", "**Question.** ..." and "**Minutes.** smoke 0.3, tiny 5"."""
    text = ""
    with contextlib.suppress(CourseError):  # check_parameters refuses it if it is to run
        cells = read_notebook(path).cells
        text = next((cell.source for cell in cells if cell.cell_type == "markdown"), "")

    def said(pattern: str) -> str:
        found = re.search(rf"{pattern}\s*(.+?)\s*(?:\n\s*\n|\Z)", text, re.DOTALL)
        return " ".join(found[1].split()) if found else ""

    number, _, name = path.stem.partition("_")
    title = said(r"\A# \d+\W+") or name.replace("_", " ")
    names = "|".join(presets.PRESETS)
    minutes = re.findall(rf"\b({names})\b[^\d,;]*(\d+(?:\.\d+)?)", said(r"inutes\.\*\*"))
    usual = {preset: float(typical) for preset, typical in minutes}
    return Chapter(number, title, said(r"\*\*Question\.\*\*"), path.resolve(), usual)


def words_to_read(path: Path) -> int:
    """Return how many words of prose a notebook has, without folded solutions."""
    cells = read_notebook(path).cells
    prose = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    words = re.sub(r"<!--.*?-->|<details>.*?</details>|<[^>]+>", " ", prose, flags=re.DOTALL)
    return len(words.split())


def reading_minutes(path: Path) -> float:
    """Return how long a notebook takes: 180 words or 40 lines of code a minute, 1.5 a figure."""
    code = "\n".join(cell.source for cell in code_cells(read_notebook(path)))
    figures = len(re.findall(r"figures\.show\(|_sliders?\(", code))
    return words_to_read(path) / 180 + len(code.splitlines()) / 40 + 1.5 * figures


def find_chapters(notebooks: Path) -> list[Chapter]:
    """Return the chapters in a folder (NN_name.ipynb) by number; without one, a CourseError."""
    # JupyterLab's 01_x-Copy1.ipynb is no chapter
    paths = [p for p in notebooks.glob("*") if re.fullmatch(r"\d\d_\w+\.ipynb", p.name)]
    if not (chapters := [read_chapter(path) for path in sorted(paths)]):
        raise CourseError(f"There is no notebook called NN_name.ipynb in {notebooks}.")
    return chapters


def select_chapters(chapters: Sequence[Chapter], only: Iterable[str]) -> list[Chapter]:
    """Return the chapters that numbers ("4") or names ("04_rsf.ipynb") stand for; default all."""
    chosen: set[Path] = set()
    for word in (words := list(only)):
        stem = Path(word).name.removesuffix(".ipynb")
        number = int(stem) if stem.isdecimal() else None
        fitting = {c.path for c in chapters if stem == c.path.stem or number == int(c.number)}
        if not fitting:
            known = ", ".join(chapter.path.stem for chapter in chapters)
            raise CourseError(f"There is no notebook {word!r}. There are: {known}.")
        chosen |= fitting
    return [chapter for chapter in chapters if chapter.path in chosen or not words]


def code_cells(notebook: Any) -> list[Any]:
    """Return the code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook: Any, tag: str) -> list[Any]:
    """Return the cells of a notebook that have a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def check_parameters(chapters: Iterable[Chapter]) -> None:
    """Refuse notebooks without a cell that takes what a run passes; papermill only warns."""
    lacking = []
    for path in (chapter.path for chapter in chapters):
        cells = tagged(read_notebook(path), "parameters")
        if len(cells) != 1:
            found = f"{path.name} has {len(cells)} cells tagged 'parameters' instead of one"
            raise CourseError(f"{found}: tag the one that sets {' and '.join(PARAMETERS)}.")
        try:
            nodes = list(ast.walk(ast.parse(cells[0].source)))
        except SyntaxError as error:
            fault = f"line {error.lineno} of the parameters cell is no Python ({error.msg})"
            raise CourseError(f"{path.name}: {fault}. Correct it; nothing was run.") from error
        stored = (n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        if missing := sorted({*PARAMETERS} - {name.id for name in stored}):
            lacking.append(f"{path.name} does not set {' and '.join(missing)}")
    if lacking:
        raise CourseError(f"A parameters cell lacks a name: {'; '.join(lacking)}. Nothing was run.")


class Kernels:
    """The kernels of a run, of this very Python and package; a cell may take `limit` minutes."""

    def __init__(self, side_by_side: bool, limit: float | None = None) -> None:
        from ipykernel.kernelspec import get_kernel_dict
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import AsyncKernelManager

        self.stopped, self.limit = False, limit
        managers = self.managers = list[AsyncKernelManager]()
        # at a lower level each kernel prints a warning about local sockets into the progress lines
        spec = KernelSpec(**get_kernel_dict(["--log-level=ERROR"]))
        spec.env = {"PYTHONPATH": elsewhere.environment()["PYTHONPATH"], **settings.environment()}
        if side_by_side:
            # a preset fixes the number of threads; those that wait must not take another's core
            spec.env["OMP_WAIT_POLICY"] = "PASSIVE"

        class ThisPython(AsyncKernelManager):
            # one that is looked up, "python3", may belong to another environment
            kernel_spec = spec

            def __init__(self, *arguments: Any, **named: Any) -> None:
                super().__init__(*arguments, **named)
                managers.append(self)

        self.manager_class = ThisPython

    def end(self, work: Iterable[Future[Any]]) -> None:
        """End every kernel, and what it started, until all work has ended with them."""
        while waiting := wait(work, timeout=0).not_done:  # one may just be starting
            self.stopped = True
            for manager in self.managers:  # each has a process group of its own
                group = getattr(manager.provisioner, "pgid", None)
                if group and manager.has_kernel:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(group, signal.SIGKILL)
            wait(waiting, timeout=0.5)


def failure(error: Exception, running: Path) -> tuple[str, str]:
    """Return where in a notebook, as it was left, an error came up, and what it is."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        cells = read_notebook(running).cells
    except (CourseError, OSError):  # not begun, or cut off by a full disk
        running.unlink(missing_ok=True)
        cells = []
    if isinstance(error, PapermillExecutionError):
        first = error.source.strip().partition("\n")[0]
        return f"In [{error.exec_count}]: {first}", f"{error.ename}: {error.evalue}"
    # papermill notes a start time in every cell that it reached
    reached = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    source = reached[-1].source.strip().partition("\n")[0] if reached else ""
    ended = {
        DeadKernelError: "The kernel died; the usual cause is too little memory.",
        CellTimeoutError: "The cell reached its limit of time (--limit), and was ended.",
    }
    text = ended.get(type(error), f"{type(error).__name__}: {error}")
    return f"the cell that begins: {source}" if source else "", text


def made_of(chapter: Chapter, course: CourseRun) -> str:
    """Return a digest of what the values of a chapter depend on."""
    cells = [cell.source for cell in read_notebook(chapter.path).cells]
    tables = list_files(settings.results_folder() / "tiny")
    return digest([provenance.maker(), cells, tables, course.preset, course.seed])


def execute(chapter: Chapter, course: CourseRun, kernels: Kernels) -> ChapterRun:
    """Execute one notebook and return what came of it; an error is not raised."""
    import papermill

    out, name = course.out, chapter.path.name
    running = out / f".{chapter.path.stem}.running.ipynb"
    run = ChapterRun(chapter.number, chapter.title, chapter.question, recording=recording_key())
    if kernels.stopped:
        return run
    run = replace(run, made_of=made_of(chapter, course))
    print(f"{chapter.name}: started", flush=True)
    started, status, cell, text = time.perf_counter(), "ok", "", ""
    try:
        done = papermill.execute_notebook(
            chapter.path, running, parameters={"preset": course.preset, "seed": course.seed},
            kernel_name="python3", language="python", kernel_manager_class=kernels.manager_class,
            cwd=out, progress_bar=False, store_widget_state=False,
            execution_timeout=kernels.limit and max(1, round(60 * kernels.limit)),
            start_timeout=600,  # a busy or networked machine may need more than papermill's 60 s
        )  # fmt: skip
        # papermill takes a cell that calls exit(0) for a success
        if not all(cell.execution_count for cell in code_cells(done) if cell.source.strip()):
            raise SystemError("exit() ended the notebook; the cells below did not run.")
    except Exception as error:
        status, (cell, text) = "failed", failure(error, running)
    if kernels.stopped and status == "failed":
        status, text = "interrupted", "interrupted from the keyboard"
    minutes = (time.perf_counter() - started) / 60
    run = replace(run, status=status, minutes=minutes, cell=cell, error=text)
    if not running.exists():
        return run
    running.replace(out / name)
    page = "" if kernels.stopped else export_page(out / name)
    return replace(run, records=read_records(read_notebook(out / name)), notebook=name, page=page)


def export_page(path: Path) -> str:
    """Write an executed notebook as HTML beside it; return the page's name, "" if that fails."""
    from nbconvert import HTMLExporter

    page, loader = path.with_suffix(".html"), FileSystemLoader(labels.TEMPLATES)
    try:
        exporter = HTMLExporter(extra_loaders=[loader], template_file="chapter.html.j2")
        write_whole(page, exporter.from_filename(str(path))[0])
    except Exception as error:
        reason = str(error).partition("\n")[0]
        print(f"(no HTML page of {path.name}: {reason})", file=sys.stderr)
        return ""
    return page.name


def in_order_of_work(chapters: Sequence[Chapter], preset: str) -> list[Chapter]:
    """Return the order of starts: the longest, which makes most stages, then what needs none."""
    first, *rest = sorted(chapters, key=lambda each: -each.minutes.get(preset, 0.0))
    return [first, *sorted(rest, key=lambda each: "Study(" in each.path.read_text("utf-8"))]


def remaining_minutes(
    done: Sequence[tuple[float | None, float]], ahead: Sequence[float | None], jobs: int = 1
) -> float | None:
    """Return the minutes `ahead` at the pace of `done`, (typical, measured); None: not known."""
    pairs = [(usual, real) for usual, real in done if usual]
    pace = sum(real for _, real in pairs) / sum(usual for usual, _ in pairs) if pairs else 1.0
    mean = sum(real for _, real in done) / len(done) if done else None
    left = [mean if usual is None else usual * pace for usual in ahead]
    known = [minutes for minutes in left if minutes is not None]
    return max(sum(known) / jobs, max(known, default=0.0)) if len(known) == len(left) else None


def run_course(
    preset: str = "tiny", seed: int = 0, only: Iterable[str] = (), out: Path | None = None,
    notebooks: Path | None = None, jobs: int | None = None, limit: float | None = None,
    keep: bool = False,
) -> CourseRun:  # fmt: skip
    """Execute chapters, go on after a failure, and write the index page; faults are raised first.

    `only`: numbers or names; `limit`: minutes of a cell; `keep`: leave what ended well and has not
    changed since.
    """
    real = preset != presets.RECORDED and presets.get(preset).world == "real"
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise CourseError(f"The seed must be a whole number from 0 up, not {seed!r}.")
    notebooks = notebooks or settings.notebooks_folder()
    out = (out or settings.runs_folder() / f"{preset}-seed{seed}").resolve()
    if out == notebooks.resolve():
        raise CourseError(f"{out} holds the course's notebooks; choose another folder with --out.")
    chapters = find_chapters(notebooks)
    chosen = select_chapters(chapters, only)
    check_parameters(chosen)
    # a real model and its data fill the GPU
    jobs = min(jobs or (1 if real else os.cpu_count() or 1), len(chosen))
    settings.writable(out, "Choose another folder with --out, or set ALIGNMENT_TAX_RUNS.")
    if not (settings.runs_folder() / "artifacts").is_dir():  # a finished one may be read-only
        settings.writable(settings.runs_folder(), "Set ALIGNMENT_TAX_RUNS to another folder.")
    try:
        # papermill changes the folder of the whole process: with it changed here, to the same
        # one, its threads do not move it under each other
        with FileLock(out / elsewhere.LOCK).acquire(timeout=0), contextlib.chdir(out):
            course = earlier_run(chapters, out, preset, seed)
            if keep:
                well = {at: run.made_of for at, run in course.runs.items() if run.status == "ok"}
                chosen = [each for each in chosen if well.get(each.path) != made_of(each, course)]
            run_chapters(course, chosen, jobs, Kernels(jobs > 1, limit))
            return course
    except Timeout:
        raise CourseError(f"Another run is writing to {out}: choose another --out.") from None


def run_chapters(course: CourseRun, chosen: Sequence[Chapter], jobs: int, kernels: Kernels) -> None:
    """Execute the chosen chapters, a line as each starts and ends; the page is kept up to date."""
    preset, runs, done = course.preset, course.runs, list[Chapter]()

    def estimate() -> str:
        over = [(each.minutes.get(preset), runs[each.path].minutes) for each in done]
        ahead = [each.minutes.get(preset) for each in chosen if each not in done]
        left = remaining_minutes(over, ahead, jobs)
        return "" if not left else f"about {left:.1f} min to go"

    where = f"{preset}, seed {course.seed}" + (f", {jobs} side by side" if jobs > 1 else "")
    print(f"Running {len(chosen)} chapters on {where}. Output: {course.out}")
    print(estimate() or "How long it takes is not known.", flush=True)
    order = in_order_of_work(chosen, preset) if jobs > 1 and chosen else chosen
    with ThreadPoolExecutor(jobs) as pool:
        work = {pool.submit(execute, each, course, kernels): each for each in order}
        try:
            for future in as_they_end(work, kernels):
                chapter, run = work[future], future.result()
                if run.status == "not run":
                    continue
                runs[chapter.path] = run
                done.append(chapter)
                said = ", ".join(filter(None, (run.status, f"{run.minutes:.1f} min", estimate())))
                print(f"[{len(done)}/{len(chosen)}] {chapter.name}: {said}", flush=True)
                write_summary(course)
        finally:
            kernels.end(work)  # after an error here, say a full disk


def as_they_end(work: Iterable[Future[Any]], kernels: Kernels) -> Iterator[Future[Any]]:
    """Yield each chapter's future when it ends; Ctrl-C ends all kernels, and then all futures."""
    waiting = set(work)
    try:
        for future in as_completed(list(waiting)):
            waiting.discard(future)
            yield future
    except KeyboardInterrupt:
        kernels.end(waiting)
        yield from waiting


def earlier_run(chapters: Sequence[Chapter], out: Path, preset: str, seed: int) -> CourseRun:
    """Return what a folder holds of this run, else "not run" (CourseError: it holds another)."""
    kept, held = {}, (preset, seed)
    # no earlier run, or one that cannot be read: it is only for show
    with contextlib.suppress(CompareError, KeyError, TypeError):
        summary = read_run(out)
        held, entries = (summary["preset"], summary["seed"]), summary["chapters"]
        kept = {entry["notebook"]: entry for entry in entries if (out / entry["notebook"]).exists()}
    if held != (preset, seed):
        told = f"a run of preset {held[0]}, seed {held[1]}"
        raise CourseError(f"{out} holds {told}. Choose another folder with --out.")
    course = CourseRun(out, preset, seed, {})
    for chapter in chapters:
        run = ChapterRun(chapter.number, chapter.title, chapter.question)
        if said := kept.get(chapter.path.name):
            # of a summary that another version wrote, what this one knows
            known = {name: said[name] for name in asdict(run) if name in said}
            run = replace(run, **known | {"earlier": True})
        course.runs[chapter.path] = run
    return course


def write_summary(course: CourseRun) -> None:
    """Write run.json and index.html, which needs nothing from elsewhere, into the run's folder."""
    chapters = [asdict(chapter) for chapter in course.chapters]
    summary = {"preset": course.preset, "seed": course.seed, "chapters": chapters}
    write_whole(course.out / SUMMARY, dumps(summary, indent=2) + "\n")
    done = {run.number: course.out / run.notebook for run in course.chapters if run.notebook}
    try:
        figures = {number: find_figures(read_notebook(path)) for number, path in done.items()}
        page = labels.page("course", "html", course=course, figures=figures)
        write_whole(course.out / INDEX, page)
    except OSError as error:  # the values are kept
        print(f"(no {INDEX}: {error})", file=sys.stderr)


def without_outputs(path: Path, preset: str = "") -> Any:
    """Return a notebook as before its first run, set to a preset if one is named."""
    notebook = read_notebook(path)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    for cell in tagged(notebook, "parameters") if preset else []:
        cell.source = re.sub(r'(?m)^preset = ".*?"', f'preset = "{preset}"', cell.source)
    return notebook


def strip_outputs(notebooks: Path) -> list[Path]:
    """Take all outputs and execution counts out of the chapters in a folder."""
    paths = [chapter.path for chapter in find_chapters(notebooks)]
    for path in paths:
        notebook = without_outputs(path)
        notebook.metadata.pop(STAMP, None)
        write_notebook(path, notebook)
    return paths


def write_notebook(path: Path, notebook: Any) -> None:
    """Write a notebook whole, without the state of its widgets."""
    import nbformat

    notebook.metadata.pop("widgets", None)
    write_whole(path, nbformat.writes(notebook) + "\n")


def with_outputs(path: Path, executed: Path) -> Any:
    """Return a notebook with the outputs of its run, without progress bars and dead widgets."""
    source, done = read_notebook(path), read_notebook(executed)
    ran = [cell for cell in code_cells(done) if cell not in tagged(done, "injected-parameters")]
    code = code_cells(source)
    if [cell.source for cell in ran] != [cell.source for cell in code]:
        raise CourseError(f"{path.name}: The notebook has changed since its run: run it again.")
    for number, (cell, made) in enumerate(zip(code, ran, strict=True), start=1):
        if any(output.output_type == "error" for output in made.outputs):
            raise CourseError(f"{path.name}: its run ended in an error: outputs are not kept.")
        cell.outputs, cell.execution_count = [], number
        for output in made.outputs:
            live = [kind for kind in output.get("data", {}) if kind.startswith(WIDGET)]
            for kind in live:  # what shows as it stood (text/html) stays
                del output.data[kind]
            dead = live and "text/html" not in output.data
            if not dead and output.get("name") != "stderr":
                cell.outputs.append(output)
                if "execution_count" in output:
                    output.execution_count = number
    return source


def keep_outputs(executed: Path, notebooks: Path) -> list[Path]:
    """Put the outputs of every notebook executed into a folder into its source: all, or none."""
    kept = {}
    stamps = {each["notebook"]: each.get(STAMP, "") for each in read_run(executed)["chapters"]}
    for chapter in find_chapters(executed):
        target = notebooks / chapter.path.name
        if not target.is_file():
            raise CourseError(f"{target.name} was executed, but there is no such notebook now.")
        kept[target] = with_outputs(target, chapter.path)
        kept[target].metadata[STAMP] = stamps.get(target.name, "")
    for target, notebook in kept.items():
        write_notebook(target, notebook)
    return list(kept)


def find_figures(notebook: Any) -> list[tuple[str, str]]:
    """Return the PNG figures of an executed notebook: (base64 text, alt text or "")."""
    figures = []
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if png := output.get("data", {}).get("image/png"):
            told = output.get("metadata", {}).get("image/png", {})
            figures.append(("".join(png.split()), told.get("alt", "")))
    return figures
