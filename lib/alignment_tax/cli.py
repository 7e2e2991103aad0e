"""The command line `alignment-tax`; what needs torch is imported by the commands that need it."""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from alignment_tax import labels, notebooks as chapters, presets, settings, shipping, store
from alignment_tax.merge.layout import MergeError
from alignment_tax.results.values import CompareError, differences, read_run
from alignment_tax.spec import UnknownStage
from alignment_tax.weights import CheckpointError, open_checkpoint

# 2 is what argparse returns for a wrong command line, 130 what shells give for Ctrl-C
FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
ABOUT = """See, measure and mitigate the alignment tax of RLHF: a course in notebooks.

A run is a seed and a preset: recorded (no training), smoke (a test), tiny (two CPU cores), small
(a real model, hours on a CPU), paper-3b, paper-7b (the paper's; `plan` says what they take)."""
EXITS = """exit codes:
  0    all is well
  1    something failed, or two runs differ
  2    the command line or a file it names is wrong; nothing was run
  130  interrupted by Ctrl-C; what is finished is kept"""
#: What `bench` measures.
MEASURES = {
    "speed": "Measure speed and memory, to data/results/bench.json.",
    "ppo": "Train by our PPO and by TRL's (see make bench-ppo), to data/results/bench_ppo.json.",
    "merge": "Time averaging on disk beside mergekit and cp, to data/results/bench.json.",
    "tune": "Choose learning rates of DPO, RLOO and PPO on validation prompts.",
    "faults": "Give fifty malformed inputs, and write what is said to data/results/faults.md.",
    "planted": "Plant ten faults, and write which ones regress finds, to planted_faults.csv.",
    "kill": "Kill `run` and `record` at random moments, and compare, to data/results/kill.json.",
    "instructions": "Train with AVX2 and with AVX-512, to data/results/instruction_sets.json.",
}
#: What every command is given beside its options.
NO_OPTIONS = {"command", "bench", "do", "notebooks"}

Given = argparse.Namespace


def whole_number(text: str, least: int = 0) -> int:
    """Return a seed, or from 1 up a number of things, from the command line."""
    if text.isascii() and text.isdecimal() and int(text) >= least:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} up")


def seed_range(text: str) -> tuple[int, ...]:
    """Return seeds from the command line: one, or the first and last of several, as in 0-4."""
    first, dash, last = text.partition("-")
    start = whole_number(first)
    found = tuple(range(start, whole_number(last) + 1)) if dash else (start,)
    if found:
        return found
    raise argparse.ArgumentTypeError(f"{text!r} goes down: give the lower seed first")


def number(text: str, fits: Callable[[float], bool], what: str) -> float:
    """Return a number from the command line that fits, or say that it is none of the wanted."""
    with contextlib.suppress(ValueError):
        if fits(float(text)):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number {what}")


def numbers(text: str) -> tuple[float, ...]:
    """Return numbers in [0, 1] from the command line, as in 0.8,0.6,0.4."""
    what = "in [0, 1]; several are written as 0.8,0.6,0.4"
    return tuple(number(each, lambda found: 0 <= found <= 1, what) for each in text.split(","))


count = partial(whole_number, least=1)
above_0 = partial(number, fits=lambda found: 0 < found < 1e6, what="above 0")
share = partial(number, fits=lambda found: 0 <= found < 1, what="in [0, 1)")


def new_file(text: str) -> Path:
    """Return the path of a file from the command line that a long work is to write."""
    file = settings.absolute(text)
    settings.writable(file.parent, "Name another file.")
    if file.is_dir():
        raise argparse.ArgumentTypeError(f"{file} is a folder: name a file")
    return file


def add_option(
    made: argparse.ArgumentParser, name: str, kind: Any, text: str, default: Any = None, **how: Any
) -> None:
    """Let a command take something of a kind (bool: on where it is named); say a plain default."""
    how |= {"action": "store_true"} if kind is bool else {"type": kind, "default": default}
    if isinstance(default, (str, int, float)):
        text = f"{text}; default {default}".removeprefix("; ")
    made.add_argument(name, help=text, **how)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the help of a command is its function's first line."""
    looks: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("alignment-tax", description=ABOUT, epilog=EXITS, **looks)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        do: Callable[[Given], int | None], example: str = "", among: Any = commands, name: str = ""
    ) -> Callable[..., None]:
        text = MEASURES[name] if name else (do.__doc__ or "").splitlines()[0]
        name = name or do.__name__.removeprefix("do_").replace("_", "-")
        words = {"help": text[0].lower() + text[1:].rstrip("."), "description": text}
        made: argparse.ArgumentParser = among.add_parser(name, **words, **looks)
        made.epilog = f"example:\n  {made.prog} {example}".rstrip()
        made.set_defaults(do=do)
        return partial(add_option, made)

    names, path = f"one of: {', '.join(presets.PRESETS)}", settings.absolute
    command(do_list)
    option = command(do_run, "--preset tiny --seed 1 --only 04 05")
    option("--preset", str, f"{names}; or {presets.RECORDED}, where nothing is trained", "tiny")
    option("--seed", whole_number, "", 0)
    option("--only", str, "default all", [], nargs="+", action="extend", metavar="NN")
    option("--jobs", count, "chapters side by side; default one a core")
    option("--out", path, "folder; default runs/<preset>-seed<seed>")
    option("--keep", bool, "leave what ended well and has not changed since")
    option("--limit", above_0, "end a cell that takes longer", metavar="MINUTES")
    option = command(do_plan, "paper-3b --gpus 8 --memory 80")
    option("preset", str, ", ".join(each.name for each in presets.PAPER))
    option("--gpus", count, "of one machine", 8)
    option("--memory", count, "of each", 80, metavar="GB")
    option("--tflops", above_0, "a GPU reaches in training; default 40 %% of 989", metavar="X")
    option = command(do_regress, "--preset tiny --seeds 0-4 --only 04 05 --out nightly")
    option("--preset", str, names, "tiny")
    option("--seeds", seed_range, "as in 0 1 2 or 0-2; default 0", [(0,)], nargs="+", metavar="N")
    option("--only", str, "default all", [], nargs="+", action="extend", metavar="NN")
    option("--jobs", count, "seeds side by side; default one a core")
    option("--out", path, "folder", "regress")
    option("--baseline", path, "an earlier run's --out, for values not recorded", metavar="FOLDER")
    option("--limit", above_0, "end a longer cell; default thrice what all take", metavar="MINUTES")
    option("--scheduler", str, "of Dask, tcp://HOST:PORT: its workers do it", metavar="ADDRESS")
    option("--latest", bool, "with the newest releases, in a fresh environment")
    option("--pins", path, "with these requirements instead", metavar="FILE")
    option = command(do_compare, "nightly/first nightly/today --tolerance 0.01")
    option("first", path, "folder of the run to compare with")
    option("second", path, "folder of the new run")
    text = "numbers are alike if they differ by at most X, or by X times the larger"
    option("--tolerance", share, text, "0", metavar="X")
    option = command(do_record, "tiny --seeds 0 1 2 --methods remedies --jobs 2")
    option("preset", str, names)
    option("--seeds", whole_number, "default 0 1 2 3 4", [0, 1, 2, 3, 4], nargs="+")
    option("--jobs", count, "processes side by side", 1)
    text = "add only these to the recorded tables: algorithms, remedies, searches; or all "
    option("--methods", str, text + "'remedies', all 'parts'", nargs="+", metavar="METHOD")
    text = "of Dask, tcp://HOST:PORT: its workers do it, who share the folder of runs"
    option("--scheduler", str, text, metavar="ADDRESS")
    option = command(do_add, "tiny elsewhere/data/results/tiny")
    option("preset", str, names)
    option("folder", path, "a folder data/results/<preset> from elsewhere")
    command(do_report)
    option = command(do_figures, "--out signature.png")
    option("--points", path, "default data/results/tiny/points.csv")
    option("--out", new_file, "the README's figure; default data/results/signature.png")
    option = command(do_outputs, "runs/tiny-seed0")
    option("folder", path, "a finished run; default runs/tiny-seed0", nargs="?")
    option("--strip", bool, "take all outputs out instead")
    option = command(do_exercises, "--out class --preset recorded")
    option("--out", path, "folder for student/ and teacher/", required=True)
    option("--preset", str, f"what they begin with; {names}; or {presets.RECORDED}", "tiny")
    option = command(do_grade, "handed-in --only 00 05")
    option("folder", path, "a sub-folder with notebooks, or one notebook, a student")
    option("--out", path, "folder of the table", "grades")
    option("--only", str, "chapters; default all", [], nargs="+", action="extend", metavar="NN")
    option("--seconds", count, "of one exercise, before it is ended", 10, metavar="N")
    option("--memory", count, "of one exercise, beyond the libraries' own", 1024, metavar="MB")
    option("--jobs", count, "students side by side; default one a core")
    option = command(do_pool, "handed-in --seeds 10-39")
    option("folder", path, "holds a folder (or notebook) of each student")
    option("--out", path, "folder of the page; default FOLDER with -pooled behind")
    option("--preset", str, "what all have run", "tiny")
    option("--seeds", seed_range, "that were given out; default any", [], nargs="+", metavar="N")
    option = command(do_pack_runs, "tiny-seed0.zip")
    option("file", new_file, "is written; its sha256 is printed")
    option("--preset", str, names, "tiny")
    option("--seed", whole_number, "", 0)
    option = command(do_fetch_runs, "tiny-seed0.zip")
    option("source", str, "a file of pack-runs, or an address that begins with https://")
    option("--sha256", str, "what the file must have")
    command(do_base)
    option = command(do_merge, "owner/sft owner/rlhf --out averaged --alpha 0.4")
    option("before", str, "folder or Hub id of the model before RLHF")
    option("after", str, "of the one after it")
    option("--out", path, "folder of the average, which must not exist", required=True)
    option("--alpha", float, "weight of AFTER; of ratios by --hma the mean", labels.ALPHA)
    option("--ratios", numbers, "weights of AFTER by block, from the input", (), metavar="A,B,...")
    option("--hma", bool, "let HMA find three ratios, on AFTER's replies to --prompts")
    option("--prompts", path, "a file with a prompt a line, as text or as JSON")
    option("--pad", bool, "take tokens that only one model has as they are")
    option("--export", new_file, "write mergekit's configuration of these weights", metavar="FILE")
    option = command(do_audit, "owner/sft owner/rlhf --tasks arc_easy,triviaqa")
    option("before", str, "folder or Hub id of the model before RLHF")
    option("after", str, "of the one after it")
    text = "of lm-eval, or of this project (tiny, real, or one of their tasks); by commas"
    option("--tasks", str, text, required=True, metavar="A,B,...")
    option("--reward", str, "sequence classifier with one label: folder or Hub id", metavar="MODEL")
    option("--judge", str, "reward model with no say in the alpha advised", metavar="MODEL")
    option("--prompts", path, "what the reward is measured on: a prompt a line")
    option("--alphas", numbers, "weights of AFTER in [0, 1]", "0.2,0.4,0.6,0.8", metavar="A,B,...")
    option("--limit", count, "items a task, from the first; default all")
    option("--pad", bool, "take rows and tokens that only one model has as they are, as merge does")
    option("--stop-early", bool, "look at every quarter, stop once 98.75 %% intervals decide")
    option("--out", path, "folder of the page", "audit")
    option("--fail-if-tax", float, "exit with 1 if the tax is surely larger", metavar="POINTS")
    text = (do_bench.__doc__ or "").rstrip(".")
    bench = commands.add_parser("bench", help=text[0].lower() + text[1:], description=f"{text}.")
    measures = bench.add_subparsers(dest="bench", required=True, metavar="WHAT")
    option = command(do_bench, "--only score_model --against ../other", measures, "speed")
    option("--limit", count, "items a task, for a quick trial; default all")
    option("--only", str, "measure these parts alone", nargs="+", metavar="PART")
    text = "time this checkout against another one, in turn"
    option("--against", path, text, dest="against_folder", metavar="FOLDER")
    option("--out", new_file, "default data/results/bench.json")
    option = command(do_bench, "--trl .venv/trl-1.12.0", measures, "ppo")
    option("--trl", path, "folder with a TRL that has PPO", required=True)
    option("--iterations", count, "of each run")
    option("--out", new_file, "default data/results/bench_ppo.json")
    option = command(do_bench, "--mergekit .venv/mergekit/bin/mergekit-yaml", measures, "merge")
    option("--mergekit", path, "mergekit-yaml 0.1.5, in an environment of its own", required=True)
    option("--runs", count, "of each program", 5)
    option("--out", new_file, "default data/results/bench.json")
    option = command(do_bench, "tiny --algorithms dpo", measures, "tune")
    option("name", str, names, metavar="preset")
    option("--algorithms", str, "default dpo rloo ppo", nargs="+")
    option("--seed", whole_number, "default one that is never reported")
    for name in ("faults", "planted", "kill", "instructions"):
        command(do_bench, "", measures, name)
    return parser


def options(given: Given) -> dict[str, Any]:
    """Return what was given, without what every command has."""
    return {name: value for name, value in vars(given).items() if name not in NO_OPTIONS}


def do_list(given: Given) -> None:
    """List the chapters and their questions."""
    for chapter in chapters.find_chapters(given.notebooks):
        print(chapter.name.replace(" ", "  ", 1))
        if chapter.question:
            print(f"    {chapter.question}")


def do_run(given: Given) -> int | None:
    """Execute the chapters and write a page of results."""
    if given.preset in {each.name for each in presets.PAPER}:
        artifacts = settings.runs_folder() / "artifacts"
        library("plan").check_machine(presets.get(given.preset), artifacts)
    course = chapters.run_course(**options(given), notebooks=given.notebooks)
    for chapter in course.failed:
        where = course.out / chapter.notebook if chapter.notebook else chapter.title
        cell = f", {chapter.cell}" if chapter.cell else ""
        print(f"FAILED {where}{cell}\n    {chapter.error}", file=sys.stderr)
    print(f"Open {course.out / chapters.INDEX} in a browser.")
    statuses = {chapter.status for chapter in course.failed}
    return INTERRUPTED if "interrupted" in statuses else FAILED if statuses else None


def do_plan(given: Given) -> None:
    """Say what a preset of the paper's size takes: memory, time, disk; trains nothing."""
    plan, preset = library("plan"), presets.get(given.preset)
    tflops = given.tflops or plan.TRAINING * plan.H100
    print(plan.plan_text(preset, given.gpus, given.memory, tflops), end="")


def do_regress(given: Given) -> int | None:
    """Run the chapters for several seeds, and say which values and claims have changed."""
    own, named = library("regress"), options(given) | {"only": tuple(given.only)}
    newest, pins = named.pop("latest"), named.pop("pins")
    named["seeds"] = tuple(dict.fromkeys(sum(given.seeds, ())))
    asked = own.Asked(**named, notebooks=given.notebooks)
    if newest or pins:
        return int(own.run_elsewhere(asked, pins))
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


def do_figures(given: Given) -> None:
    """Redraw figures from recorded results, without a model."""
    library("figures.readme").redraw_figures(given.points, given.out)


def do_outputs(given: Given) -> None:
    """Keep a run's outputs in notebooks/, or strip them all."""
    if given.strip:
        paths, word = chapters.strip_outputs(given.notebooks), "stripped"
    else:
        folder = given.folder or settings.runs_folder() / "tiny-seed0"
        paths, word = chapters.keep_outputs(folder, given.notebooks), "kept the outputs of"
    print("\n".join(f"{word} {path.name}" for path in paths))


def do_exercises(given: Given) -> None:
    """Make a student's and a teacher's notebook of every chapter."""
    paths = library("exercises").write_handouts(given.notebooks, given.out, given.preset)
    print(f"{len(paths)} notebooks are in {given.out}, under student/ and teacher/.")
    print("Students copy student/ beside notebooks/, and open it with: make lab CHAPTERS=student")


def do_grade(given: Given) -> None:
    """Grade a class: a row a student, a column an exercise, as CSV and as a page."""
    grading = library("grading")
    limits = grading.Limits(given.seconds, given.memory)
    jobs = given.jobs or os.cpu_count() or 1
    chosen = chapters.select_chapters(chapters.find_chapters(given.notebooks), given.only)
    columns = [e.column for each in chosen for e in grading.find_exercises(each.path)]
    rows = grading.grade(given.folder, given.out, given.notebooks, limits, jobs, columns)
    for row in rows:
        print("; ".join([f"{row.student}: {row.right} of {len(row.verdicts)} right", *row.notes]))
    print(f"Open {given.out / 'grades.html'} in a browser; grades.csv lies beside it.")


def do_pool(given: Given) -> None:
    """Join what a class ran, each student another seed, beside the recorded run."""
    out = given.out or given.folder.with_name(f"{given.folder.name}-pooled")
    page = library("pool").pool(given.folder, out, given.preset, sum(given.seeds, ()))
    print(f"The page is {page}.")


def do_pack_runs(given: Given) -> None:
    """Pack the finished stages of a run into one file, for those who shall not wait."""
    root = settings.runs_folder() / "artifacts"
    sha256 = shipping.pack_runs(root, presets.get(given.preset).name, given.seed, given.file)
    print(f"{given.file}: {given.file.stat().st_size / 1e6:.0f} MB, sha256 {sha256}")


def do_fetch_runs(given: Given) -> None:
    """Put packed stages in place, so that no chapter has to make them."""
    made = shipping.fetch_runs(given.source, settings.runs_folder() / "artifacts", given.sha256)
    print(f"{len(made)} stages are new in {settings.runs_folder()}; what was there is kept.")


def do_base(given: Given) -> None:
    """Train the base model of the tiny world; goes on where it was interrupted."""
    library("train.pretrain").make_base()


def do_merge(given: Given) -> None:
    """Average two checkpoints of your own, file by file."""
    files, alpha, ratios = library("merge.checkpoint"), given.alpha, given.ratios
    if given.hma and ratios:
        raise MergeError("--ratios gives the ratios that --hma would find: name one of the two.")
    ends = tuple(open_checkpoint(name) for name in (given.before, given.after))
    files.check_new(given.out)
    recipe = files.Recipe(sum(ratios) / len(ratios) if ratios else alpha, ratios, given.pad)
    if given.export:
        files.mergekit_config(*ends, recipe)  # refuses before any work
    if given.hma:
        found = library("audit").find_ratios(ends, alpha, given.prompts, given.pad)
        recipe = replace(recipe, alpha=found.alpha, ratios=found.blocks)
        store.say(f"HMA found --ratios {','.join(map(str, found.blocks))}")
    made = files.merge_checkpoints(*ends, recipe, given.out)
    if given.export:
        store.write_whole(given.export, files.mergekit_config(*ends, recipe))
    print(f"The average is in {made}.")


def do_audit(given: Given) -> int | None:
    """Measure what a pair of your own lost, and what averaging gives back."""
    audit = library("audit")
    named = options(given) | {"tasks": tuple(filter(None, given.tasks.split(",")))}
    out, most = named.pop("out"), named.pop("fail_if_tax")
    found = audit.measure(audit.Asked(**named, bar=most or 0.0))
    print(f"The page is {audit.write_page(found, out)}.")
    tax = found.change(1.0)
    if most is None or tax.high >= -most:
        return None
    print(f"The tax is {audit.said(tax)} points: beyond {most:g}.", file=sys.stderr)
    return FAILED


def do_bench(given: Given) -> int:
    """Measure on this machine, from a checkout: speed, our PPO, learning rates, faults."""
    program = {"ppo": "bench.ppo_against_trl", "faults": "malformed"}
    # only a checkout has these beside the library
    sys.path[:0] = [str(settings.repo_root() / folder) for folder in ("", "tests")]
    module = importlib.import_module(program.get(given.bench, f"bench.{given.bench}"))
    return int(module.run(**options(given)))


def library(name: str) -> Any:
    """Return a module of the library that is too slow to load for a command that needs it not."""
    return importlib.import_module(f"alignment_tax.{name}")


def main(argv: Sequence[str] | None = None, notebooks: Path | None = None) -> int:
    """Run the command line on the chapters in a folder and return its exit code."""
    try:
        given = make_parser().parse_args(argv)
        given.notebooks = notebooks or settings.notebooks_folder()
        return int(given.do(given) or 0)
    except (
        CheckpointError, CompareError, MergeError, UnknownStage, chapters.CourseError,
        presets.UnknownPreset, settings.SettingsError, store.ArtifactError, OSError,
    ) as error:  # fmt: skip
        print(f"alignment-tax: {error}", file=sys.stderr)
        return FAILED if isinstance(error, store.ArtifactError | OSError) else WRONG_USE
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept.", file=sys.stderr)
        return INTERRUPTED
