"""The command line `alignment-tax`; what needs torch is imported by the commands that need it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alignment_tax import presets, settings
from alignment_tax.labels import ALPHA
from alignment_tax.merge.layout import MergeError
from alignment_tax.notebooks import (
    INDEX,
    CourseError,
    find_chapters,
    keep_outputs,
    run_course,
    strip_outputs,
)
from alignment_tax.results.values import CompareError, differences, read_run
from alignment_tax.shipping import fetch_runs, pack_runs
from alignment_tax.spec import UnknownStage
from alignment_tax.store import ArtifactError, write_whole
from alignment_tax.weights import CheckpointError, open_checkpoint

# 2 is what argparse returns for a wrong command line, 130 what shells give for Ctrl-C
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
ABOUT = """See, measure and mitigate the alignment tax of RLHF: a course in notebooks.

A run is a seed and a preset: recorded (no training), smoke (a test), tiny (two CPU cores), small
(one GPU), paper-3b and paper-7b (the paper's size; `plan` says what they take)."""
EXITS = """exit codes:
  0    all is well
  1    something failed, or two runs differ
  2    the command line or a file it names is wrong; nothing was run
  130  interrupted by Ctrl-C; what is finished is kept"""

Given = argparse.Namespace
#: A command: takes what was given, returns its exit code; None means that all is well.
Command = Callable[[Given], int | None]


def whole_number(text: str) -> int:
    """Return a seed from the command line: a whole number from 0 up."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def count(text: str) -> int:
    """Return a number of things from the command line: a whole number from 1 up."""
    if number := whole_number(text):
        return number
    raise argparse.ArgumentTypeError("0 is too few: give 1 or more")


def seed_range(text: str) -> tuple[int, ...]:
    """Return seeds from the command line: one, or the first and last of several, as in 0-4."""
    first, dash, last = text.partition("-")
    start = whole_number(first)
    found = tuple(range(start, whole_number(last) + 1)) if dash else (start,)
    if found:
        return found
    raise argparse.ArgumentTypeError(f"{text!r} goes down: give the lower seed first")


def above_0(text: str) -> float:
    """Return an amount from the command line, as minutes: a number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e6:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")


def share(text: str) -> float:
    """Return a number in [0, 1) from the command line."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} does not lie in [0, 1)")


def numbers(text: str) -> tuple[float, ...]:
    """Return numbers in [0, 1] from the command line, as in 0.8,0.6,0.4."""
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if found and all(0 <= each <= 1 for each in found):
        return found
    raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers in [0, 1], like 0.8,0.6,0.4")


def new_file(text: str) -> Path:
    """Return the path of a file from the command line that a long work is to write."""
    file = settings.absolute(text)
    settings.writable(file.parent, "Name another file.")
    if file.is_dir():
        raise argparse.ArgumentTypeError(f"{file} is a folder: name a file")
    return file


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the help of a command is its function's first line."""
    looks: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("alignment-tax", description=ABOUT, epilog=EXITS, **looks)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(do: Command, example: str, among: Any = commands) -> Callable[..., Any]:
        text = (do.__doc__ or "").splitlines()[0]
        words = {"help": text[0].lower() + text[1:].rstrip("."), "description": text}
        words["epilog"] = f"example:\n  alignment-tax {example}"
        made: argparse.ArgumentParser = among.add_parser(
            do.__name__.partition("_")[2].replace("_", "-"), **words, **looks
        )
        made.set_defaults(do=do)
        return made.add_argument

    names, path = f"one of: {', '.join(presets.PRESETS)}", settings.absolute
    command(do_list, "list")
    option = command(do_run, "run --preset tiny --seed 1 --only 04 05")
    text = f"{names}; or {presets.RECORDED}, where nothing is trained; default tiny"
    option("--preset", default="tiny", help=text)
    option("--seed", type=whole_number, default=0, help="default 0")
    option("--only", nargs="+", action="extend", default=[], metavar="NN", help="default all")
    option("--jobs", type=count, help="chapters side by side; default one a core")
    option("--out", type=path, help="folder; default runs/<preset>-seed<seed>")
    option("--keep", action="store_true", help="leave what ended well and has not changed since")
    option("--limit", type=above_0, metavar="MINUTES", help="end a cell that takes longer")
    option = command(do_plan, "plan paper-3b --gpus 8 --memory 80")
    option("preset", help=", ".join(each.name for each in presets.PAPER))
    option("--gpus", type=count, default=8, help="of one machine; default 8")
    option("--memory", type=count, default=80, metavar="GB", help="of each; default 80")
    text = "what a GPU was measured to reach in training; default 40 %% of an H100's 989"
    option("--tflops", type=above_0, default=0.4 * 989, metavar="X", help=text)
    option = command(do_regress, "regress --preset tiny --seeds 0-4 --only 04 05 --out nightly")
    option("--preset", default="tiny", help=f"{names}; default tiny")
    text = "as in 0 1 2 or 0-2; default 0"
    option("--seeds", type=seed_range, nargs="+", default=[(0,)], metavar="N", help=text)
    option("--only", nargs="+", action="extend", default=[], metavar="NN", help="default all")
    option("--jobs", type=count, help="seeds side by side; default one a core")
    option("--out", type=path, default=path("regress"), help="folder; default regress")
    text = "the --out folder of an earlier one, for values that the recording does not hold"
    option("--baseline", type=path, metavar="FOLDER", help=text)
    text = "end a cell that takes longer; default three times what all chapters take"
    option("--limit", type=above_0, metavar="MINUTES", help=text)
    option("--scheduler", metavar="ADDRESS", help="of Dask, tcp://HOST:PORT: its workers do it")
    option("--latest", action="store_true", help="with the newest releases, in a fresh environment")
    option("--pins", type=path, metavar="FILE", help="with these requirements instead")
    option = command(do_compare, "compare nightly/first nightly/today --tolerance 0.01")
    option("first", type=path, help="folder of the run to compare with")
    option("second", type=path, help="folder of the new run")
    text = "numbers are alike if they differ by at most X, or by X times the larger; default 0"
    option("--tolerance", type=share, default=0.0, metavar="X", help=text)
    option = command(do_record, "record tiny --seeds 0 1 2 --methods remedies --jobs 2")
    option("preset", help=names)
    option("--seeds", type=whole_number, nargs="+", default=[0, 1, 2, 3, 4])
    option("--jobs", type=count, default=1, help="processes side by side; default 1")
    text = "add only these to the recorded tables: algorithms, remedies, searches; or all "
    option("--methods", nargs="+", metavar="METHOD", help=text + "'remedies', all 'parts'")
    text = "of Dask, tcp://HOST:PORT: its workers do it, who share the folder of runs"
    option("--scheduler", metavar="ADDRESS", help=text)
    option = command(do_add, "add tiny elsewhere/data/results/tiny")
    option("preset", help=names)
    option("folder", type=path, help="a folder data/results/<preset> from elsewhere")
    command(do_report, "report")
    option = command(do_figures, "figures --out signature.png")
    option("--points", type=path, help="default data/results/tiny/points.csv")
    option("--out", type=new_file, help="the README's figure; default data/results/signature.png")
    option = command(do_outputs, "outputs runs/tiny-seed0")
    option("folder", nargs="?", type=path, help="a finished run; default runs/tiny-seed0")
    option("--strip", action="store_true", help="take all outputs out instead")
    option = command(do_exercises, "exercises --out class")
    option("--out", type=path, required=True, help="folder for student/ and teacher/")
    option = command(do_grade, "grade handed-in --out grades")
    option("folder", type=path, help="a sub-folder with notebooks, or one notebook, a student")
    option("--out", type=path, default=path("grades"), help="folder of the table; default grades")
    text = "of one exercise, before it is ended; default 10"
    option("--seconds", type=count, default=10, metavar="N", help=text)
    text = "of one exercise, beyond what the libraries take; default 1024"
    option("--memory", type=count, default=1024, metavar="MB", help=text)
    option("--jobs", type=count, help="students side by side; default one a core")
    option = command(do_pool, "pool handed-in --seeds 10 11 12")
    option("folder", type=path, help="holds a folder (or notebook) of each student")
    option("--out", type=path, help="folder of the page; default FOLDER with -pooled behind")
    option("--preset", default="tiny", help="what all have run; default tiny")
    text = "the seeds that were given out; default any"
    option("--seeds", type=whole_number, nargs="+", default=[], help=text)
    option = command(do_pack_runs, "pack-runs tiny-seed0.zip")
    option("file", type=new_file, help="is written; its sha256 is printed")
    option("--preset", default="tiny", help=names)
    option("--seed", type=whole_number, default=0, help="default 0")
    option = command(do_fetch_runs, "fetch-runs tiny-seed0.zip")
    option("source", help="a file of pack-runs, or an address that begins with https://")
    option("--sha256", default="", help="what the file must have")
    command(do_base, "base")
    ends = ("before", "folder or Hub id of the model before RLHF"), ("after", "of the one after it")
    option = command(do_merge, "merge owner/sft owner/rlhf --out averaged --alpha 0.4")
    for end, text in ends:
        option(end, help=text)
    option("--out", type=path, required=True, help="folder of the average, which must not exist")
    text = "weight of AFTER; of ratios by --hma the mean; default 0.4"
    option("--alpha", type=float, default=ALPHA, help=text)
    text = "a weight of AFTER for each block of layers, from the input on"
    option("--ratios", type=numbers, default=(), metavar="A,B,...", help=text)
    text = "let HMA find three ratios, on AFTER's own replies to --prompts; loads both models"
    option("--hma", action="store_true", help=text)
    option("--prompts", type=path, help="a file with a prompt a line, as text or as JSON")
    option("--pad", action="store_true", help="take tokens that only one model has as they are")
    text = "write a configuration of mergekit for the same weights"
    option("--export", type=new_file, metavar="FILE", help=text)
    option = command(do_audit, "audit owner/sft owner/rlhf --tasks arc_easy,piqa")
    for end, text in ends:
        option(end, help=text)
    text = "of lm-eval, or of this project (tiny, real, or one of their tasks); by commas"
    option("--tasks", required=True, metavar="A,B,...", help=text)
    text = "a sequence classification model with one label: folder or Hub id"
    option("--reward", metavar="MODEL", help=text)
    option("--prompts", type=path, help="what the reward is measured on: a prompt a line")
    text = "weights of AFTER between 0 and 1; default 0.2,0.4,0.6,0.8"
    option("--alphas", type=numbers, default=(0.2, 0.4, 0.6, 0.8), metavar="A,B,...", help=text)
    option("--limit", type=count, help="items a task, from the first; default all")
    text = "take rows and tokens that only one model has as they are, as merge does"
    option("--pad", action="store_true", help=text)
    text = "look after 1/4, 1/2, 3/4 and all items, stop once 98.75 %% intervals decide (README)"
    option("--stop-early", action="store_true", help=text)
    option("--out", type=path, default=path("audit"), help="folder of the page; default audit")
    text = "exit with 1 if the mean tax, with its whole interval, is more than X points"
    option("--fail-if-tax", type=float, metavar="X", help=text)
    text = "measure on this machine, from a checkout: speed, our PPO, learning rates, faults"
    bench = commands.add_parser("bench", help=text, description=text.capitalize() + ".")
    among = bench.add_subparsers(dest="bench", required=True, metavar="WHAT")
    option = command(bench_speed, "bench speed --only score_model --against ../other", among)
    option("--limit", type=count, help="items a task, for a quick trial; default all")
    option("--only", nargs="+", metavar="PART", help="measure these parts alone")
    option("--against", type=path, help="time this checkout against another one, in turn")
    option("--out", type=new_file, help="default data/results/bench.json")
    option = command(bench_ppo, "bench ppo --trl .venv/trl-1.12.0", among)
    option("--trl", type=path, required=True, help="folder with a TRL that has PPO")
    option("--iterations", type=count, help="of each run")
    option("--out", type=new_file, help="default data/results/bench_ppo.json")
    line = "bench merge --mergekit .venv/mergekit/bin/mergekit-yaml"
    option = command(bench_merge, line, among)
    text = "the program mergekit-yaml of mergekit 0.1.5, in an environment of its own"
    option("--mergekit", type=path, required=True, help=text)
    option("--runs", type=count, default=5, help="of each program; default 5")
    option("--out", type=new_file, help="default data/results/bench.json")
    option = command(bench_tune, "bench tune tiny --algorithms dpo", among)
    option("preset", help=names)
    option("--algorithms", nargs="+", help="default dpo rloo ppo")
    option("--seed", type=whole_number, help="default one that is never reported")
    for do in (bench_faults, bench_planted, bench_kill, bench_instructions):
        command(do, f"bench {do.__name__.removeprefix('bench_')}", among)
    return parser


def do_list(given: Given) -> None:
    """List the chapters and their questions."""
    for chapter in find_chapters(given.notebooks):
        print(chapter.name.replace(" ", "  ", 1))
        if chapter.question:
            print(f"    {chapter.question}")


def do_run(given: Given) -> int | None:
    """Execute the chapters and write a page of results."""
    if given.preset in {each.name for each in presets.PAPER}:
        artifacts = settings.runs_folder() / "artifacts"
        library("plan").check_machine(presets.get(given.preset), artifacts)
    course = run_course(
        given.preset, given.seed, given.only, given.out, given.notebooks, given.jobs,
        given.limit, given.keep,
    )  # fmt: skip
    for chapter in course.failed:
        where = course.out / chapter.notebook if chapter.notebook else chapter.title
        cell = f", {chapter.cell}" if chapter.cell else ""
        print(f"FAILED {where}{cell}\n    {chapter.error}", file=sys.stderr)
    print(f"Open {course.out / INDEX} in a browser.")
    statuses = {chapter.status for chapter in course.failed}
    return INTERRUPTED if "interrupted" in statuses else FAILED if statuses else None


def do_plan(given: Given) -> None:
    """Say what a preset of the paper's size takes: memory, time, disk; trains nothing."""
    preset = presets.get(given.preset)
    print(library("plan").plan_text(preset, given.gpus, given.memory, given.tflops), end="")


def do_regress(given: Given) -> int | None:
    """Run the chapters for several seeds, and say which values and claims have changed."""
    own = library("regress")
    seeds = tuple(dict.fromkeys(seed for each in given.seeds for seed in each))
    named = {name: getattr(given, name) for name in ("jobs", "baseline", "limit", "scheduler")}
    asked = own.Asked(given.preset, seeds, given.out, given.notebooks, tuple(given.only), **named)
    if given.latest or given.pins:
        return int(own.run_elsewhere(asked, given.pins))
    found = own.regress(asked)
    print(own.summary(found))
    return FAILED if found.moved or found.failed else None


def do_compare(given: Given) -> int | None:
    """Name the recorded values that differ between two runs."""
    found = differences(read_run(given.first), read_run(given.second), given.tolerance)
    for each in found:
        print(f"{each.place}\n    {each.first} -> {each.second}")
    print(f"Recorded values that differ: {len(found)}." if found else "All are the same.")
    return FAILED if found else None


def do_record(given: Given) -> None:
    """Run the study for several seeds and write data/results/<preset>."""
    presets.get(given.preset)
    named = given.preset, given.seeds, given.jobs, given.methods, given.scheduler
    library("pipeline.record").record(*named)


def do_add(given: Given) -> None:
    """Add tables that another machine recorded to data/results/<preset>."""
    preset = presets.get(given.preset).name
    seeds = library("results.recorded").merge_results(given.folder, preset)
    where = settings.results_folder() / preset
    print(f"The rows of seeds {', '.join(map(str, seeds))} are now in {where}.")
    print("Write them into the pages with: alignment-tax report")


def do_report(given: Given) -> None:
    """Write the recorded results into README.md and its pages."""
    library("report").write_pages()


def do_figures(given: Given) -> int:
    """Redraw figures from recorded results, without a model."""
    return int(library("figures.readme").redraw_figures(given.points, given.out))


def do_outputs(given: Given) -> None:
    """Keep a run's outputs in notebooks/, or strip them all."""
    if given.strip:
        paths, word = strip_outputs(given.notebooks), "stripped"
    else:
        folder = given.folder or settings.runs_folder() / "tiny-seed0"
        paths, word = keep_outputs(folder, given.notebooks), "kept the outputs of"
    print("\n".join(f"{word} {path.name}" for path in paths))


def do_exercises(given: Given) -> None:
    """Make a student's and a teacher's notebook of every chapter."""
    paths = library("exercises").write_handouts(given.notebooks, given.out)
    print(f"{len(paths)} notebooks are in {given.out}, under student/ and teacher/.")


def do_grade(given: Given) -> None:
    """Grade a class: a row a student, a column an exercise, as CSV and as a page."""
    grading = library("grading")
    limits = grading.Limits(given.seconds, given.memory)
    jobs = given.jobs or os.cpu_count() or 1
    rows = grading.grade(given.folder, given.out, given.notebooks, limits, jobs)
    for row in rows:
        print("; ".join([f"{row.student}: {row.right} of {len(row.verdicts)} right", *row.notes]))
    print(f"Open {given.out / 'grades.html'} in a browser; grades.csv lies beside it.")


def do_pool(given: Given) -> None:
    """Join what a class ran, each student another seed, beside the recorded run."""
    out = given.out or given.folder.with_name(f"{given.folder.name}-pooled")
    print(f"The page is {library('pool').pool(given.folder, out, given.preset, given.seeds)}.")


def do_pack_runs(given: Given) -> None:
    """Pack the finished stages of a run into one file, for those who shall not wait."""
    root = settings.runs_folder() / "artifacts"
    sha256 = pack_runs(root, presets.get(given.preset).name, given.seed, given.file)
    print(f"{given.file}: {given.file.stat().st_size / 1e6:.0f} MB, sha256 {sha256}")


def do_fetch_runs(given: Given) -> None:
    """Put packed stages in place, so that no chapter has to make them."""
    made = fetch_runs(given.source, settings.runs_folder() / "artifacts", given.sha256)
    print(f"{len(made)} stages are new in {settings.runs_folder()}; what was there is kept.")


def do_base(given: Given) -> None:
    """Train the base model of the tiny world; goes on where it was interrupted."""
    library("train.pretrain").make_base()


def do_merge(given: Given) -> None:
    """Average two checkpoints of your own, file by file."""
    files = library("merge.checkpoint")
    ends = [open_checkpoint(name) for name in (given.before, given.after)]
    ratios, alpha = given.ratios, given.alpha
    if given.hma:
        found = library("audit").find_ratios(*ends, alpha, given.prompts)
        ratios, alpha = found.blocks, found.alpha
    elif ratios:
        alpha = sum(ratios) / len(ratios)
    recipe = files.Recipe(alpha, ratios, given.pad)
    made = files.merge_checkpoints(*ends, recipe, given.out)
    if given.export:
        write_whole(given.export, files.mergekit_config(*ends, recipe))
    print(f"The average is in {made}.")


def do_audit(given: Given) -> int | None:
    """Measure what a pair of your own lost, and what averaging gives back."""
    audit = library("audit")
    options = "reward prompts limit alphas pad stop_early".split()
    named = {name: getattr(given, name) for name in options} | {"bar": given.fail_if_tax or 0.0}
    tasks = tuple(filter(None, given.tasks.split(",")))
    found = audit.measure(audit.Asked(given.before, given.after, tasks, **named))
    print(f"The page is {audit.write_page(found, given.out)}.")
    tax = found.change(1.0)
    if given.fail_if_tax is None or tax.high >= -given.fail_if_tax:
        return None
    print(f"The tax is {audit.said(tax)} points: beyond {given.fail_if_tax:g}.", file=sys.stderr)
    return FAILED


def bench_speed(given: Given) -> int:
    """Measure speed and memory, to data/results/bench.json."""
    return program("bench.speed").run(given.limit, given.only, given.against, given.out)


def bench_ppo(given: Given) -> int:
    """Train by our PPO and by TRL's last one (make bench-ppo), to data/results/bench_ppo.json."""
    return program("bench.ppo_against_trl").run(given.trl, given.iterations, given.out)


def bench_merge(given: Given) -> int:
    """Time averaging on disk beside mergekit and cp, to data/results/bench.json."""
    return program("bench.merge").run(given.mergekit, given.runs, out=given.out)


def bench_tune(given: Given) -> int:
    """Choose learning rates of DPO, RLOO and PPO on validation prompts."""
    return program("bench.tune").run(given.preset, given.algorithms, given.seed)


def library(name: str) -> Any:
    """Return a module of the library that is too slow to load for a command that needs it not."""
    return importlib.import_module(f"alignment_tax.{name}")


def bench_faults(given: Given) -> int:
    """Give fifty malformed inputs, and write what is said to data/results/faults.md."""
    return program("malformed", "tests").run()


def bench_planted(given: Given) -> int:
    """Plant ten faults, and write which ones regress finds to data/results/planted_faults.csv."""
    return program("bench.planted").run()


def bench_kill(given: Given) -> int:
    """Kill `run` and `record` at random moments, and compare, to data/results/kill.json."""
    return program("bench.kill").run()


def bench_instructions(given: Given) -> int:
    """Train with AVX2 and with AVX-512, to data/results/instruction_sets.json."""
    return program("bench.instructions").run()


def program(name: str, folder: str = "") -> Any:
    """Return a program beside the library, which a checkout has and an installed one has not."""
    sys.path.insert(0, str(settings.repo_root() / folder))
    return importlib.import_module(name)


def main(argv: Sequence[str] | None = None, notebooks: Path | None = None) -> int:
    """Run the command line on the chapters in a folder and return its exit code."""
    try:
        given = make_parser().parse_args(argv)
        given.notebooks = notebooks or settings.notebooks_folder()
        return int(given.do(given) or 0)
    except (
        CheckpointError, CompareError, CourseError, MergeError, UnknownStage,
        presets.UnknownPreset, settings.SettingsError,
    ) as error:  # fmt: skip
        print(f"alignment-tax: {error}", file=sys.stderr)
        return WRONG_USE
    except (ArtifactError, OSError) as error:
        print(f"alignment-tax: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept.", file=sys.stderr)
        return INTERRUPTED
