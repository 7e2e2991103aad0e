"""The command line `alignment-tax`, and the run of the whole course through papermill.

`alignment-tax run` executes the notebooks in order, each in a fresh kernel of this very Python,
into a folder of its own, and writes an index page of what came out. It never executes in place.
"""

from __future__ import annotations

import argparse
import ast
import html
import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from json import dumps, loads
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout

from alignment_tax import presets, settings
from alignment_tax.results.values import SUMMARY, read_records, value_text
from alignment_tax.store import ArtifactError, write_whole

PARAMETERS = ("preset", "seed")
CHAPTER_FILE = "[0-9][0-9]_*.ipynb"
INDEX = "index.html"
# exit codes: 2 is what argparse returns for a wrong command line, 130 what shells give for Ctrl-C
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
# nbconvert's own template drops the alt text that `figures.show` puts into the output's metadata
ALT_TEMPLATE = """{%- extends 'lab/index.html.j2' -%}{%- block data_png scoped -%}
{%- set alt = output | get_metadata('alt', 'image/png') -%}{%- if alt -%}
{{ super() | replace('<img ', '<img alt="' ~ (alt | escape_html) ~ '" ', 1) }}
{%- else -%}{{ super() }}{%- endif -%}{%- endblock data_png -%}"""
# command -> (module whose main(arguments) does it, help)
FORWARDED = {
    "base": ("alignment_tax.train.pretrain", "train the base model of the tiny world"),
    "figures": ("alignment_tax.figures", "redraw the figures from the recorded results"),
    "compare": (
        "alignment_tax.results.compare_runs",
        "say which recorded values differ between two runs",
    ),
    "outputs": ("alignment_tax.outputs", "keep the outputs of a run in notebooks/"),
    "add": ("alignment_tax.add", "add tables that another machine recorded to data/results"),
    "report": ("alignment_tax.report", "write the recorded results into README.md"),
    "bench": ("alignment_tax.bench", "measure speed and memory"),
    "tune": ("alignment_tax.tune", "choose numbers of RLHF algorithms on validation prompts"),
    "bench-ppo": ("alignment_tax.bench_ppo", "compare our PPO with TRL's last one"),
}


class CourseError(ValueError):
    """Raised before anything runs: a wrong preset, seed, selector, notebook or folder."""


@dataclass(frozen=True)
class Chapter:
    """A notebook of the course and what its front matter says.

    `minutes` is preset name -> typical minutes, empty where the front matter gives none.
    """

    number: str
    title: str
    question: str
    path: Path
    minutes: dict[str, float]


@dataclass(frozen=True)
class ChapterRun:
    """What came of a chapter. `status` is "ok", "failed", "interrupted" or "not run".

    `notebook` and `page` (the same as HTML) are file names in the folder of the run, "" if there
    is none.
    `earlier` marks a result of an earlier run in the same folder.
    """

    number: str
    title: str
    question: str
    status: str = "not run"
    minutes: float = 0.0
    records: dict[str, Any] = field(default_factory=dict)
    cell: str = ""
    error: str = ""
    notebook: str = ""
    page: str = ""
    earlier: bool = False


@dataclass(frozen=True)
class CourseRun:
    """A run of the course: where it is and what came of each chapter, in order."""

    out: Path
    preset: str
    seed: int
    chapters: list[ChapterRun]

    @property
    def failed(self) -> list[ChapterRun]:
        """The chapters that failed or were interrupted in this run."""
        return [
            chapter
            for chapter in self.chapters
            if chapter.status in ("failed", "interrupted") and not chapter.earlier
        ]


# --- chapters ------------------------------------------------------------------------------------


def read_notebook(path: Path) -> Any:
    """Return a notebook as an nbformat node.

    Raises:
        CourseError: the file is not a notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0][:120]
        raise CourseError(f"{path} is not a readable notebook: {reason}") from error


def front_matter(text: str) -> tuple[str, str, dict[str, float]]:
    """Return title, question and minutes per preset of a chapter's first markdown cell.

    The form is a heading "# 04 Title", a paragraph "**Question.** ...", and a paragraph
    "**Machine minutes.** smoke 0.5, tiny 3". What is missing comes back empty.
    """
    heading = re.search(r"^#\s+(?:chapter\s+)?(?:\d+\W+)?(.+)$", text, re.MULTILINE | re.IGNORECASE)

    def paragraph(word: str) -> str:
        pattern = rf"\*\*{word}[.:]?\*\*[.:]?\s*(.+?)(?:\n\s*\n|\n\s*[-*|#]|\Z)"
        found = re.search(pattern, text, re.DOTALL | re.IGNORECASE)
        return " ".join(found.group(1).split()) if found else ""

    names = "|".join(presets.PRESETS)
    said = paragraph(r"(?:Machine\s+)?Minutes[^*]*?")
    minutes = re.findall(rf"\b({names})\b[^\d,;|·]*(\d+(?:\.\d+)?)", said)
    title = heading.group(1).strip() if heading else ""
    return title, paragraph("Question"), {name: float(number) for name, number in minutes}


def read_chapter(path: Path) -> Chapter:
    """Return the chapter in a notebook file; the title falls back to the file's name.

    Raises:
        CourseError: the file is not a notebook.
    """
    notebook = read_notebook(path)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    title, question, minutes = front_matter(texts[0] if texts else "")
    number, _, name = path.stem.partition("_")
    return Chapter(number, title or name.replace("_", " "), question, path.resolve(), minutes)


def find_chapters(notebooks: Path) -> list[Chapter]:
    """Return the chapters in a folder (NN_name.ipynb) by number.

    Raises:
        CourseError: the folder does not exist or holds no chapter.
    """
    paths = sorted(notebooks.glob(CHAPTER_FILE)) if notebooks.is_dir() else []
    if not paths:
        raise CourseError(f"There is no notebook called NN_name.ipynb in {notebooks}.")
    return [read_chapter(path) for path in paths]


def select_chapters(chapters: Sequence[Chapter], only: Iterable[str]) -> list[Chapter]:
    """Return the chapters that `only` names, in the course's order; all if it is empty.

    Args:
        chapters: all chapters.
        only: numbers ("4", "04") or names ("04_rsf", "04_rsf.ipynb").

    Raises:
        CourseError: a name fits no chapter.
    """
    wanted = list(only)
    if not wanted:
        return list(chapters)
    chosen: set[Path] = set()
    for word in wanted:
        stem = Path(word).name.removesuffix(".ipynb")
        fitting = {
            chapter.path
            for chapter in chapters
            if stem == chapter.path.stem or (stem.isdecimal() and int(stem) == int(chapter.number))
        }
        if not fitting:
            known = ", ".join(chapter.path.stem for chapter in chapters)
            raise CourseError(f"There is no notebook {word!r}. There are: {known}.")
        chosen |= fitting
    return [chapter for chapter in chapters if chapter.path in chosen]


def parameter_names(path: Path) -> set[str]:
    """Return the names that a notebook's parameters cell sets.

    Raises:
        CourseError: there is no such cell, or more than one, or it is no Python.
    """
    cells = [
        cell.source
        for cell in read_notebook(path).cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) != 1:
        raise CourseError(f"{path.name} has {len(cells)} cells tagged 'parameters' instead of one.")
    try:
        body = ast.parse(cells[0]).body
    except SyntaxError as error:
        raise CourseError(f"{path.name}: the parameters cell is no Python: {error}.") from error
    targets = [
        target
        for node in body
        for target in (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
    ]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def check_parameters(chapters: Iterable[Chapter]) -> None:
    """Check that every notebook takes the parameters that a run passes.

    Papermill only warns about a parameter that a notebook does not have, and goes on with the
    notebook's own value.

    Raises:
        CourseError: naming every notebook that lacks one.
    """
    lacking = []
    for chapter in chapters:
        missing = [name for name in PARAMETERS if name not in parameter_names(chapter.path)]
        if missing:
            lacking.append(f"{chapter.path.name} does not set {' and '.join(missing)}")
    if lacking:
        raise CourseError(
            f"The parameters cell must set preset and seed: {'; '.join(lacking)}. Nothing was run."
        )


# --- one notebook --------------------------------------------------------------------------------


def kernel_class() -> type:
    """Return a kernel manager that starts this very Python with this very package.

    A kernelspec called "python3" may belong to another environment, so none is looked up.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    package = str(Path(__file__).resolve().parents[1])
    python_path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    # at a lower level each kernel prints a warning about local sockets into the progress lines
    spec = KernelSpec(**get_kernel_dict(["--log-level=ERROR"]))
    # a relative folder would mean another one from the notebooks' folder
    spec.env = {"PYTHONPATH": python_path, settings.RUNS_VARIABLE: str(settings.runs_folder())}

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

    return ThisPython


def failure(error: Exception, notebook: Any) -> tuple[str, str]:
    """Return where in an executed notebook an error came up, and what it says.

    Args:
        error: what papermill raised.
        notebook: the executed notebook as saved, or None.
    """
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if isinstance(error, PapermillExecutionError):
        first = next((line for line in error.source.splitlines() if line.strip()), "")
        return f"In [{error.exec_count}]: {first.strip()}", f"{error.ename}: {error.evalue}"
    cells = notebook.cells if notebook is not None else []
    # papermill notes a start time in every cell that it reached
    reached = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    source = reached[-1].source.strip() if reached else ""
    cell = f"the cell that begins: {source.splitlines()[0]}" if source else ""
    if isinstance(error, DeadKernelError):
        return cell, "The kernel died; the usual cause is too little memory."
    return cell, f"{type(error).__name__}: {error}"


def execute(chapter: Chapter, preset: str, seed: int, out: Path) -> ChapterRun:
    """Execute one notebook into `out` and return what came of it; an error is not raised.

    The executed notebook, with its error if there was one, appears under its own name at the end;
    while it runs it is called .NN_name.running.ipynb.
    """
    import papermill

    running = out / f".{chapter.path.stem}.running.ipynb"
    status, cell, text = "ok", "", ""
    started = time.perf_counter()
    try:
        papermill.execute_notebook(
            chapter.path,
            running,
            parameters={"preset": preset, "seed": seed},
            kernel_name="python3",
            language="python",
            kernel_manager_class=kernel_class(),
            cwd=chapter.path.parent,
            progress_bar=False,
            store_widget_state=False,
        )
    except KeyboardInterrupt:
        status, text = "interrupted", "interrupted from the keyboard"
    except Exception as error:
        status = "failed"
        cell, text = failure(error, read_notebook(running) if running.exists() else None)
    minutes = (time.perf_counter() - started) / 60
    run = ChapterRun(
        chapter.number, chapter.title, chapter.question, status, minutes, cell=cell, error=text
    )
    if not running.exists():
        return run
    name = chapter.path.name
    running.replace(out / name)
    records = read_records(out / name)
    return replace(run, records=records, notebook=name, page=export_page(out / name))


def export_page(path: Path) -> str:
    """Write an executed notebook as HTML beside it; return the page's name, "" if that fails.

    The page is a convenience: the notebook itself stays whatever happens here.
    """
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    loader = DictLoader({"alt.html.j2": ALT_TEMPLATE})
    try:
        exporter = HTMLExporter(extra_loaders=[loader], template_file="alt.html.j2")
        page, _ = exporter.from_filename(str(path))
    except Exception as error:
        reason = str(error).splitlines()[0]
        print(f"(no HTML page of {path.name}: {reason})", file=sys.stderr)
        return ""
    write_whole(path.with_suffix(".html"), page)
    return path.with_suffix(".html").name


# --- the whole course ----------------------------------------------------------------------------


def remaining_minutes(typical: Sequence[float | None], measured: Sequence[float]) -> float | None:
    """Return an estimate of the minutes that the chapters not yet run will take.

    Chapters that have run tell how fast this machine is compared with the typical minutes; a
    chapter without typical minutes counts as the mean of those that have run.

    Args:
        typical: typical minutes of every chapter in order, None where unknown.
        measured: minutes of the first chapters, those that have run.

    Returns:
        Minutes, or None when nothing is known about some chapter.
    """
    done, ahead = typical[: len(measured)], typical[len(measured) :]
    pairs = [(real, usual) for real, usual in zip(measured, done, strict=True) if usual]
    pace = sum(real for real, _ in pairs) / sum(usual for _, usual in pairs) if pairs else 1.0
    mean = sum(measured) / len(measured) if measured else None
    parts = [mean if usual is None else usual * pace for usual in ahead]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def check_run(preset: str, seed: object, out: Path, notebooks: Path) -> None:
    """Check what a run is asked for.

    Raises:
        presets.UnknownPreset: no such preset.
        CourseError: the seed is no whole number from 0 up, or the run would write over the course.
    """
    presets.get(preset)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise CourseError(f"The seed must be a whole number from 0 up, not {seed!r}.")
    if out.resolve() == notebooks.resolve():
        raise CourseError(f"{out} holds the course's notebooks; choose another folder with --out.")


def run_course(
    preset: str = "tiny",
    seed: int = 0,
    only: Iterable[str] = (),
    out: Path | None = None,
    notebooks: Path | None = None,
) -> CourseRun:
    """Execute chapters in order, go on after a failure, and write the index page.

    Args:
        preset: name of a preset.
        seed: whole number from 0 up.
        only: numbers or names of chapters; empty for all.
        out: folder to write to; default <runs>/<preset>-seed<seed>.
        notebooks: folder of the chapters; default the course's.

    Raises:
        presets.UnknownPreset, CourseError: before anything runs.
    """
    notebooks = notebooks or settings.notebooks_folder()
    out = (out or settings.runs_folder() / f"{preset}-seed{seed}").resolve()
    check_run(preset, seed, out, notebooks)
    chapters = find_chapters(notebooks)
    chosen = select_chapters(chapters, only)
    check_parameters(chosen)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".run.lock").acquire(timeout=0):
            return run_chapters(chapters, chosen, preset, seed, out)
    except Timeout:
        raise CourseError(
            f"Another run is writing to {out}. Wait for it, or choose another folder with --out."
        ) from None


def run_chapters(
    chapters: Sequence[Chapter], chosen: Sequence[Chapter], preset: str, seed: int, out: Path
) -> CourseRun:
    """Execute the chosen chapters, a line of progress each; the index page is kept up to date."""
    runs = {
        chapter.path: earlier
        for chapter, earlier in zip(chapters, earlier_runs(chapters, out), strict=True)
    }
    typical = [chapter.minutes.get(preset) for chapter in chosen]
    measured: list[float] = []
    estimate = remaining_minutes(typical, measured)
    about = f", about {minutes_text(estimate)}" if estimate else ""
    print(f"Running {len(chosen)} chapters on {preset}, seed {seed}{about}. Output: {out}")
    course = CourseRun(out, preset, seed, list(runs.values()))
    for n, chapter in enumerate(chosen, start=1):
        print(f"[{n}/{len(chosen)}] {chapter.number} {chapter.title} ...", end=" ", flush=True)
        run = execute(chapter, preset, seed, out)
        runs[chapter.path] = run
        measured.append(run.minutes)
        print(progress_text(run, measured, remaining_minutes(typical, measured)), flush=True)
        course = CourseRun(out, preset, seed, list(runs.values()))
        write_summary(course)
        if run.status == "interrupted":
            break
    return course


def progress_text(run: ChapterRun, measured: Sequence[float], estimate: float | None) -> str:
    """Return the end of a chapter's progress line: status, minutes, minutes so far, estimate."""
    left = "" if not estimate else f", about {minutes_text(estimate)} to go"
    taken, total = minutes_text(run.minutes), minutes_text(sum(measured))
    return f"{run.status}, {taken} ({total} so far{left})"


def minutes_text(minutes: float) -> str:
    """Return minutes for a reader, with one decimal."""
    return f"{minutes:.1f} min"


def earlier_runs(chapters: Sequence[Chapter], out: Path) -> list[ChapterRun]:
    """Return, for every chapter, its result of an earlier run in this folder, or "not run"."""
    try:
        kept = {
            entry["notebook"]: entry
            for entry in loads((out / SUMMARY).read_text("utf-8"))["chapters"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        # no earlier run, or one that cannot be read: it is only for show
        kept = {}
    runs = []
    for chapter in chapters:
        entry = kept.get(chapter.path.name)
        if entry and (out / chapter.path.name).exists():
            runs.append(ChapterRun(**{**entry, "earlier": True}))
        else:
            runs.append(ChapterRun(chapter.number, chapter.title, chapter.question))
    return runs


def write_summary(course: CourseRun) -> None:
    """Write run.json and index.html into the folder of the run."""
    summary = {
        "preset": course.preset,
        "seed": course.seed,
        "chapters": [asdict(chapter) for chapter in course.chapters],
    }
    write_whole(course.out / SUMMARY, dumps(summary, indent=2) + "\n")
    write_whole(course.out / INDEX, index_page(course))


# --- the index page ------------------------------------------------------------------------------

STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #bbb; padding: .4rem .6rem; text-align: left;
         vertical-align: top; }
.ok { color: #00613f; } .failed, .interrupted { color: #a3260b; font-weight: bold; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.figures img { width: 20rem; max-width: 100%; height: auto; border: 1px solid #bbb; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f4f4; padding: .5rem; }
td.value { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
"""


def find_figures(notebook: Any) -> list[tuple[str, str]]:
    """Return the PNG figures of an executed notebook: (base64 text, alt text or "")."""
    figures = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png:
                meta = output.get("metadata", {})
                alt = meta.get("image/png", {}).get("alt") or meta.get("alt") or ""
                figures.append(("".join(png.split()), alt))
    return figures


def status_text(chapter: ChapterRun) -> str:
    """Return a chapter's status for the index page."""
    return f"{chapter.status} (earlier run)" if chapter.earlier else chapter.status


def chapter_row(chapter: ChapterRun) -> str:
    """Return a chapter's row in the index page's table."""
    title = html.escape(f"{chapter.number} {chapter.title}")
    links = ""
    if chapter.page:
        title = f'<a href="{html.escape(chapter.page)}">{title}</a>'
    if chapter.notebook:
        name = html.escape(chapter.notebook)
        links = f'<a href="{name}" aria-label="notebook {name}">notebook</a>'
    minutes = f"{chapter.minutes:.1f}" if chapter.notebook else ""
    return (
        f'<tr><th scope="row">{title}</th><td>{html.escape(chapter.question)}</td>'
        f'<td class="{chapter.status.replace(" ", "-")}">{status_text(chapter)}</td>'
        f"<td>{minutes}</td><td>{links}</td></tr>"
    )


def chapter_section(chapter: ChapterRun, out: Path) -> str:
    """Return a chapter's section of the index page: error, figures and recorded values."""
    if chapter.status == "not run":
        return ""
    parts = [f"<section><h2>{html.escape(f'{chapter.number} {chapter.title}')}</h2>"]
    if chapter.error:
        where = f"{chapter.cell}\n" if chapter.cell else ""
        parts.append(
            f'<p class="{chapter.status}">This chapter {chapter.status}.</p>'
            f"<pre>{html.escape(where + chapter.error)}</pre>"
        )
    if chapter.notebook:
        images = [
            f'<img src="data:image/png;base64,{png}" alt="'
            + html.escape(alt or f"Figure {n} of chapter {chapter.number}, {chapter.title}")
            + '">'
            for n, (png, alt) in enumerate(find_figures(read_notebook(out / chapter.notebook)), 1)
        ]
        parts.append(f'<div class="figures">{"".join(images)}</div>' if images else "")
    if chapter.records:
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th>'
            f'<td class="value">{html.escape(value_text(value))}</td></tr>'
            for name, value in chapter.records.items()
        )
        parts.append(
            f"<details><summary>{len(chapter.records)} recorded values</summary>"
            f'<table><thead><tr><th scope="col">name</th><th scope="col">value</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></details>"
        )
    return "\n".join([*parts, "</section>"])


def index_page(course: CourseRun) -> str:
    """Return the index page of a run: one HTML file that needs nothing from elsewhere."""
    title = f"The alignment tax: {course.preset}, seed {course.seed}"
    total = sum(chapter.minutes for chapter in course.chapters if not chapter.earlier)
    counts = ", ".join(
        f"{sum(chapter.status == status for chapter in course.chapters)} {status}"
        for status in ("ok", "failed", "interrupted", "not run")
        if any(chapter.status == status for chapter in course.chapters)
    )
    heads = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("chapter", "question", "status", "minutes", "file")
    )
    rows = "\n".join(chapter_row(chapter) for chapter in course.chapters)
    sections = "\n".join(chapter_section(chapter, course.out) for chapter in course.chapters)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
<p>Chapters: {counts}. This run took {total:.1f} minutes.</p>
<table>
<caption>The chapters of the course and what came of them</caption>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
{sections}
</main>
</body>
</html>
"""


# --- the command line ----------------------------------------------------------------------------


def whole_number(text: str) -> int:
    """Return a seed from the command line: a whole number from 0 up."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def jobs_number(text: str) -> int:
    """Return a number of processes from the command line: a whole number from 1 up."""
    if whole_number(text) == 0:
        raise argparse.ArgumentTypeError("0 processes run nothing: give 1 or more")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="alignment-tax", description="See, measure and mitigate the alignment tax of RLHF."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="list the chapters")
    run = commands.add_parser("run", help="execute the chapters and write an index page")
    run.add_argument("--preset", default="tiny", help=f"one of: {', '.join(presets.PRESETS)}")
    run.add_argument("--seed", type=whole_number, default=0, help="whole number from 0 up")
    run.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="NN", help="chapters, e.g. 04 05"
    )
    run.add_argument("--out", type=Path, help="folder to write to")
    rec = commands.add_parser("record", help="run the study and write data/results/<preset>")
    rec.add_argument("preset", help=f"one of: {', '.join(presets.PRESETS)}")
    rec.add_argument("--seeds", type=whole_number, nargs="+", default=[0, 1, 2, 3, 4])
    rec.add_argument(
        "--jobs", type=jobs_number, default=1, help="processes side by side; default 1"
    )
    rec.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="record only these, into the tables that exist: algorithms, remedies, searches for "
        "ratios, or all 'remedies', all 'parts'",
    )
    for name, (_, text) in FORWARDED.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def list_command(notebooks: Path) -> int:
    """Print number, title and question of every chapter."""
    for chapter in find_chapters(notebooks):
        print(f"{chapter.number}  {chapter.title}")
        if chapter.question:
            print(f"    {chapter.question}")
    return 0


def run_command(arguments: argparse.Namespace, notebooks: Path) -> int:
    """Execute chapters; return 0, or FAILED or INTERRUPTED after naming what went wrong."""
    course = run_course(arguments.preset, arguments.seed, arguments.only, arguments.out, notebooks)
    for chapter in course.failed:
        where = course.out / chapter.notebook if chapter.notebook else chapter.title
        cell = f", {chapter.cell}" if chapter.cell else ""
        print(f"FAILED {where}{cell}\n    {chapter.error}", file=sys.stderr)
    print(f"Open {course.out / INDEX} in a browser.")
    if any(chapter.status == "interrupted" for chapter in course.failed):
        return INTERRUPTED
    return FAILED if course.failed else 0


def record_command(arguments: argparse.Namespace, results: ModuleType) -> int:
    """Record a preset with the module `results`; an unknown method is a CourseError."""
    study = importlib.import_module("alignment_tax.pipeline.study")
    try:
        results.record(arguments.preset, arguments.seeds, arguments.jobs, arguments.methods)
    except study.UnknownStage as error:
        raise CourseError(str(error)) from error
    return 0


def main(argv: Sequence[str] | None = None, notebooks: Path | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments; default those of the process.
        notebooks: folder of the chapters; default the course's.
    """
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command not in FORWARDED:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if arguments.command == "list":
            return list_command(notebooks or settings.notebooks_folder())
        if arguments.command == "run":
            return run_command(arguments, notebooks or settings.notebooks_folder())
        if arguments.command == "record":
            presets.get(arguments.preset)
            # it imports torch, which the other commands need not wait for
            results = importlib.import_module("alignment_tax.pipeline.record")
            return record_command(arguments, results)
        module = importlib.import_module(FORWARDED[arguments.command][0])
        forward: Callable[[list[str]], int | None] = module.main
        return forward(rest) or 0
    except (CourseError, presets.UnknownPreset, settings.SettingsError) as error:
        print(f"alignment-tax: {error}", file=sys.stderr)
        return WRONG_USE
    except ArtifactError as error:
        print(f"alignment-tax: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
