"""The house stays as it is meant: rooms, one-way imports, sizes, pins, licences, one command."""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
import yaml

from alignment_tax.settings import repo_root

ROOT = repo_root()
PACKAGE = ROOT / "lib" / "alignment_tax"
MODULES = sorted(PACKAGE.rglob("*.py"))
PYTHON = sorted(path for top in ("lib", "bench", "tests") for path in (ROOT / top).rglob("*.py"))

# every room, from the ground up: one may import those below it, never those beside or above it
FLOORS = """
settings < presets provenance < store < elsewhere registry shipping < spec < labels
< plan results weights world < models < skills < train < merge < mitigate < stats
< pipeline figures < audit lent notebooks prose sandbox widgets < exercises pool regress report
< grading < cli < __main__
"""
#: Rooms that are opened without a model: none of these libraries is loaded, not even indirectly.
LIGHT = ("labels", "spec", "results", "stats", "figures", "report")
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "lm_eval", "accelerate"}
#: Knows nothing of language models beyond named tensors.
BARE, LANGUAGE = "merge", HEAVY - {"torch"} | {"tokenizers"}
#: Where an interval over seeds or items is worked out; what doing so looks like.
INTERVALS, SIGNS = PACKAGE / "stats" / "compare.py", re.compile(r"\.ppf\(|\bsem\(|bootstrap\(\s*\(")
#: Most lines of Python, docstrings and all: what there is. The aim is 15,000, 10,000 and 900;
#: whoever takes lines away takes them off here too.
MOST_LINES = {"lib": 18_379, "tests": 10_994, "bench": 1_023}
MOST_IN_A_MODULE = {"lib": 600, "tests": 600, "bench": 300}


def room(path):
    """The room that a file is in: the first name below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every module that a file imports, absolute, wherever in the file."""
    package = path.relative_to(PACKAGE.parent).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from alignment_tax import presets` imports the room presets
            yield from (f"{module}.{alias.name}" for alias in node.names)


#: Which floor a room is on, from 0; of what is outside all rooms, below.
FLOOR = {name: i for i, names in enumerate(FLOORS.split("<")) for name in names.split()}
FLOOR["__init__"] = -1
IDS = [str(path.relative_to(PACKAGE)) for path in MODULES]
each_module = pytest.mark.parametrize("path", MODULES, ids=IDS)


def test_every_room_is_listed():
    assert {room(path) for path in MODULES} == set(FLOOR)


@each_module
def test_imports_go_down(path):
    imported = {name.split(".")[1] for name in imports(path) if name.startswith("alignment_tax.")}
    own = FLOOR[room(path)]
    wrong = {name for name in imported - {room(path)} if FLOOR.get(name, -2) >= own}
    assert wrong == set(), f"{room(path)} must not import {wrong}"
    if room(path) == BARE:
        assert LANGUAGE.isdisjoint(name.split(".")[0] for name in imports(path))


def test_rooms_of_tables_and_figures_are_opened_without_a_model():
    light = [path.relative_to(PACKAGE.parent).with_suffix("") for path in MODULES]
    names = [".".join(path.parts) for path in light if path.parts[1] in LIGHT]
    code = f"import sys, {', '.join(names)}; print(*{HEAVY} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize("top", MOST_LINES)
def test_the_house_stays_small(top):
    sizes = {path: len(path.read_text("utf-8").splitlines()) for path in PYTHON}
    own = {path: size for path, size in sizes.items() if ROOT / top in path.parents}
    assert sum(own.values()) <= MOST_LINES[top]
    assert {str(path): size for path, size in own.items() if size > MOST_IN_A_MODULE[top]} == {}


@each_module
def test_every_public_name_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    inner = [n for c in public if isinstance(c, ast.ClassDef) for n in c.body]
    public += [n for n in inner if isinstance(n, kinds) and not n.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
    assert ast.get_docstring(tree) or not tree.body


def test_an_interval_is_worked_out_in_one_place():
    places = [path for path in PYTHON if SIGNS.search(path.read_text(encoding="utf-8"))]
    assert [p for p in places if p != INTERVALS and ROOT / "tests" not in p.parents] == []


def requirement_lines(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-dev.txt", "web/requirements.txt"]
)
def test_every_requirement_is_pinned_and_says_what_it_is_for(name):
    lines, told = requirement_lines(name), re.compile(r"[A-Za-z0-9_.-]+==\d[\w.]*  # \S.*")
    assert lines
    assert [line for line in lines if not told.fullmatch(line)] == []


def test_every_library_that_is_imported_is_required():
    required = {line.split("==")[0].lower() for line in requirement_lines("requirements.txt")}
    required |= {"distributed"}  # where an option asks for it; pinned with the tools to develop
    distributions = packages_distributions()
    missing = set()
    for path in MODULES:
        for top in {name.split(".")[0] for name in imports(path)}:
            # the metadata of some packages writes lm_eval where its index page writes lm-eval
            names = {name.lower() for name in distributions.get(top, [top])}
            names |= {name.replace("_", "-") for name in names}
            if top not in {*sys.stdlib_module_names, "alignment_tax"} and not names & required:
                missing.add((top, str(path.relative_to(ROOT))))
    assert missing == set()


def test_ci_runs_what_the_readme_says_and_every_target_exists():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    assert lines[0].startswith("#!")
    assert "set -euo pipefail" in lines
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    commands = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    assert lines[-1] == "make test" in commands
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.MULTILINE))
    assert {"run", "test"} <= named <= targets


def test_the_licences_and_the_citation_of_the_paper_are_there():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["authors"] == [{"name": "The alignment-tax course authors"}]
    paper = citation["preferred-citation"]
    told = ("Mitigating the Alignment Tax of RLHF", 2024, 580, 606)
    assert tuple(paper[key] for key in ("title", "year", "start", "end")) == told
    families = [author["family-names"] for author in paper["authors"]]
    assert (len(families), families[0], families[-1]) == (17, "Lin", "Zhang")
    assert paper["url"].endswith("2309.06256")
    code = (ROOT / "LICENSE").read_text(encoding="utf-8")
    told = ("Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS")
    assert [each for each in told if each not in code] == []
    assert "CC BY 4.0" in (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8")
