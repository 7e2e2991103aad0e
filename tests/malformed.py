"""Fifty malformed inputs, and what is said to each; `alignment-tax bench faults` tells it."""

import contextlib
import dataclasses
import gzip
import io
import json
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import exit_code
from nbformat.v4 import new_code_cell, new_notebook
from points import made_up_points
from safetensors.torch import load_file, save_file
from test_models import make_policy, make_tokenizer

from alignment_tax import presets, settings, skills
from alignment_tax.merge.average import average
from alignment_tax.models import load_policy, load_reward_model, save_policy
from alignment_tax.pipeline.study import Study
from alignment_tax.results.recorded import recorded
from alignment_tax.spec import Spec
from alignment_tax.store import write_whole
from alignment_tax.world import real

SMOKE = presets.get("smoke")
UP = "model.layers.0.mlp.up_proj.weight"
PIQA = {"goal": "dry a cup", "sol1": "towel", "sol2": "lamp", "label": 0}
GOOD = "preset = 'tiny'\nseed = 0"
OTHERS = tuple(slot for slot in skills.SLOTS if slot != "span")
RESULTS = "faults.md"
HEAD = """# Fifty malformed inputs, and what is said to each

Written by `alignment-tax bench faults`; every one is refused before anything is trained or written.
Paths are shortened.

| | kind | what is wrong | what is said |
| ---: | --- | --- | --- |
"""


class Refused(Exception):
    """What the command line said when it ended with 1 or 2."""


def refusal(give, folder):
    """Give a malformed input, made in an empty folder, to the library; return error and words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.RUNS_VARIABLE, str(folder / "runs"))
        patch.setenv(settings.DATA_VARIABLE, str(folder))
        patch.setattr(settings, "results_folder", lambda: folder / "results")
        patch.chdir(folder)
        with pytest.raises(Exception) as found:  # noqa: PT011
            give(folder)
    said = str(found.value).replace(f"{folder}/", "").replace(str(folder), "FOLDER")
    return found.value, " ".join(said.split())


def escaped(said):
    """Return words as they stand in a cell of a table in Markdown."""
    return re.sub(r"([|<*])", r"\\\1", said)


def run(out=None):
    """Write the page of all cases."""
    page = HEAD
    for number, (kind, fault, give, *_) in enumerate(CASES, start=1):
        with tempfile.TemporaryDirectory() as folder:
            said = escaped(refusal(give, Path(folder).resolve())[1])
        page += f"| {number} | {kind} | {fault} | {said} |\n"
    write_whole(out or settings.results_folder() / RESULTS, page)
    return 0


# --- makers: a file in a folder, and the way in ---------------------------------------------------
def command(*words, course=None):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
        code = exit_code(words, course)
    if code in (1, 2):
        raise Refused(said.getvalue().strip().splitlines()[-1].removeprefix("alignment-tax: "))


def setting(name, value, do, *given):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, str(value))
        do(*given)


def file(path, content=""):
    """Write a file and the folders above it; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cut(path):
    """Cut a file off in its middle; return its folder."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path.parent


def without(path, *others):
    """Take a file away, and others beside it; return their folder."""
    for name in (path.name, *others):
        path.with_name(name).unlink()
    return path.parent


def study(part="", **changes):
    """Return a study of smoke with some numbers changed, of the preset or of a part of it."""
    changed = {part: dataclasses.replace(getattr(SMOKE, part), **changes)} if part else changes
    return Study(dataclasses.replace(SMOKE, **changed), 0)


def real_prompts():
    real.RealWorld().prompts(1, 0, "rlhf")


def chapter(folder, source, tags=("parameters",)):
    """Run a chapter of one cell on smoke by the command line."""
    made = new_notebook(cells=[new_code_cell(source, metadata={"tags": list(tags)})])
    broken(folder, nbformat.writes(made))


def broken(folder, text):
    """Run a file as a chapter by the command line."""
    course = file(folder / "course" / "01_x.ipynb", text).parent
    command("run", "--preset", "smoke", course=course)


def results(folder, change=lambda table: table):
    """Write made-up results of tiny, the points changed; return their folder."""
    path = file(folder / "results" / "tiny" / "provenance.json", "[{}]").parent
    change(made_up_points()).to_csv(path / "points.csv", index=False)
    for name in ("pairs", "items"):
        made_up_points()[["seed", "key"]].to_parquet(path / f"{name}.parquet")
    return path


def drawn(path):
    command("figures", "--points", path, "--out", path.with_name("figure.png"))


def policy(folder, change=dict, **config):
    """Save a policy, its weights and configuration changed; return its folder."""
    folder = folder / "policy"
    save_policy(make_policy(), make_tokenizer(), folder)
    state = change(load_file(folder / "model.safetensors"))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    kept = json.loads((folder / "config.json").read_text())
    return file(folder / "config.json", json.dumps(kept | config)).parent


def pickled(folder):
    """Save a policy as a pickle alone; return its folder."""
    torch.save({"w": torch.ones(1)}, policy(folder) / "pytorch_model.bin")
    return without(folder / "policy" / "model.safetensors")


def rows(folder, name, *lines):
    """Load a set whose file in the local folder has these rows (text as it is)."""
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    file(folder / f"{real.SOURCES[name].local}.jsonl.gz", gzip.compress(text.encode()))
    real.load(name)


def no_conversations(folder):
    for name in real.PREFERENCE_SETS:
        rows(folder, name, {"chosen": "x", "rejected": "y"})
    real_prompts()


def task(folder, old, new):
    """Score two items of a task whose file is changed."""
    tasks = shutil.copytree(Path(skills.__file__).parent / "tiny", folder / "tasks")
    file(tasks / "_generate.yaml", (tasks / "_generate.yaml").read_text().replace(old, new))
    scorer = skills.Scorer("tiny", 2, 8, folder=tasks, without=OTHERS)
    scorer.score(*load_policy(settings.base_folder()))


RUNS, DATA = settings.RUNS_VARIABLE, settings.DATA_VARIABLE
#: Kind, what is wrong, how it is made and given, and words that must be said.
# fmt: off
CASES = [
    ("setting", f"{RUNS} is a file",
     lambda f: setting(RUNS, file(f / "file"), chapter, f, GOOD), RUNS, "file"),
    ("setting", f"{DATA} is a file", lambda f: setting(DATA, file(f / "file"), real_prompts), DATA),
    ("setting", f"{DATA} is a folder without the sets",
     lambda f: real_prompts(), "hh_helpful_base_test.jsonl.gz", DATA),
    ("setting", "the library lies outside a checkout",
     lambda f: settings.repo_root(f / "settings.py", f), "settings.py", "pip install -e ."),
    ("parameter", "a preset that does not exist", lambda f: Study("tyni"), "tyni"),
    ("parameter", "a negative seed", lambda f: Study("smoke", -1), "seed", "-1"),
    ("parameter", "a temperature of 0", lambda f: study("rsf", temperature=0.0), "rsf.temperat"),
    ("parameter", "no replies to a prompt", lambda f: study("rsf", n=0), "rsf.n is 0"),
    ("parameter", "a learning rate that is text",
     lambda f: study("sft", learning_rate="7e-4"), "sft.learning_rate", "'7e-4'"),
    ("parameter", "strengths of a remedy that does not exist",
     lambda f: study(remedies=(("l3", (1.0,)),)).specs(["remedies"]), "l3", "l1, l2"),
    ("parameter", "a negative strength",
     lambda f: study().artifact(Spec("rsf", 2, "l2", strength=-1.0)), "L2", "-1"),
    ("parameter", "an alpha above 1",
     lambda f: average(*[make_policy().state_dict()] * 2, 1.5), "alpha = 1.5", "extrapolate"),
    ("command line", "`record tiny --methods l7`",
     lambda f: command("record", "tiny", "--methods", "l7"), "l7", "l2"),
    ("command line", "`run --seed 1.5`", lambda f: command("run", "--seed", "1.5"), "--seed"),
    ("command line", "`run --only 44`", lambda f: command("run", "--only", "44"), "44"),
    ("command line", "`compare` of a folder without a run",
     lambda f: command("compare", f, f), "run.json", "alignment-tax run"),
    ("notebook", "a merge conflict", lambda f: broken(f, "<<<<<<< HEAD\n{}"), "version control"),
    ("notebook", "JSON, but without cells", lambda f: broken(f, '{"nbformat": 4}'), "cells"),
    ("notebook", "no cell of parameters", lambda f: chapter(f, GOOD, ()), "parameters"),
    ("notebook", "a parameters cell without the seed",
     lambda f: chapter(f, "preset = 'tiny'"), "01_x.ipynb", "seed"),
    ("notebook", "a parameters cell that is no Python",
     lambda f: chapter(f, "preset = = 'tiny'"), "01_x.ipynb", "line 1"),
    ("result table", "an empty points.csv", lambda f: drawn(file(f / "points.csv")), "points.csv"),
    ("result table", "a points.csv that is not text",
     lambda f: drawn(file(f / "points.csv", b"\xff\x00")), "points.csv", "record it"),
    ("result table", "no column of rewards",
     lambda f: drawn(results(f, lambda t: t.drop(columns="reward")) / "points.csv"), "points.csv",
     "column(s) reward;", "--points"),
    ("result table", "words in the column of rewards",
     lambda f: drawn(results(f, lambda t: t.assign(reward="much")) / "points.csv"), "points.csv",
     "reward", "--points"),
    ("result table", "a provenance.json that is cut off",
     lambda f: cut(results(f) / "provenance.json") and recorded("tiny"), "provenance.json"),
    ("result table", "a pairs.parquet that is cut off",
     lambda f: cut(results(f) / "pairs.parquet") and recorded("tiny"), "pairs.parquet"),
    ("result table", "tables to add that lack a column",
     lambda f: command("add", "tiny", results(f, lambda t: t.drop(columns="study"))), "points.csv",
     "'study'"),
    ("checkpoint", "an empty folder", lambda f: load_policy(f), "config.json", "save_policy"),
    ("checkpoint", "a config.json that is cut off",
     lambda f: load_policy(cut(policy(f) / "config.json")), "policy/config.json"),
    ("checkpoint", "an architecture in code of its own (auto_map)",
     lambda f: load_policy(policy(f, model_type="x", auto_map={"AutoConfig": "own.Own"})),
     "policy/config.json", "model_type 'x'", "never run"),
    ("checkpoint", "weights in a pickle alone", lambda f: load_policy(pickled(f)), "safetensors"),
    ("checkpoint", "weights that are cut off",
     lambda f: load_policy(cut(policy(f) / "model.safetensors")), "policy/model.safetensors"),
    ("checkpoint", "a matrix is missing",
     lambda f: load_policy(policy(f, lambda s: {n: t for n, t in s.items() if n != UP})),
     "policy", UP),
    ("checkpoint", "a .gguf file that is none",
     lambda f: load_policy(file(f / "x.gguf", "GGUX")), "x.gguf"),
    ("checkpoint", "a policy in the place of a reward model",
     lambda f: load_reward_model(policy(f)), "policy", "backbone.embed_tokens.weight"),
    ("adapter", "an adapter without its model",
     lambda f: load_policy(file(f / "adapter_config.json", "{}").parent), "adapter", "merge"),
    ("adapter", "matrices of LoRA beside the model's",
     lambda f: load_policy(policy(f, lambda s: s | {"lora_A": torch.ones(2)})), "policy", "lora_A",
     "merged"),
    ("adapter", "a rank above a layer's",
     lambda f: study().artifact(Spec("rsf", 2, "lora", strength=10**6)), "1000000", "q_proj"),
    ("tokenizer", "no tokenizer",
     lambda f: load_policy(without(policy(f) / "tokenizer.json", "tokenizer_config.json")),
     "policy", "tokenizer.json", "save_pretrained"),
    ("tokenizer", "a tokenizer.json that is cut off",
     lambda f: load_policy(cut(policy(f) / "tokenizer.json")), "policy", "tokenizer.json"),
    ("tokenizer", "no chat template",
     lambda f: load_policy(without(policy(f) / "chat_template.jinja")), "policy", "chat temp"),
    ("data row", "a file that is not gzipped",
     lambda f: file(f / "dolly_15k.jsonl.gz", "{}") and real.load("dolly"),
     "dolly_15k.jsonl.gz", DATA),
    ("data row", "a row without a field",
     lambda f: rows(f, "piqa_validation", PIQA, {"goal": "x"}), "Row 2", "sol1", "piqa_valid.js"),
    ("data row", "the right choice is one that there is not",
     lambda f: rows(f, "piqa_validation", PIQA | {"label": 2}), "Row 1", "number 2 of 2"),
    ("data row", "pairs whose texts are no conversations", no_conversations, "rlhf prompts", DATA),
    ("task file", "no file of the task",
     lambda f: skills.Scorer("tiny", 2, 8, folder=f, without=OTHERS), "'tiny_span'", "YAML"),
    ("task file", "no YAML", lambda f: task(f, "test_split:", "test_split: ["), "line 4"),
    ("task file", "a function that there is not",
     lambda f: task(f, "utils.exact_match", "utils.exact"), "tiny_span", "'exact'"),
    ("task file", "no end of a reply", lambda f: task(f, '["<eos>"]', "[]"), "tiny_span", "until"),
]
# fmt: on
