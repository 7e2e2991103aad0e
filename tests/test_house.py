"""The house stays as it is meant: one-way imports, reasoned pins, licences, one test command."""

import ast
import os
import re
import sys
from importlib.metadata import packages_distributions

import pytest
import yaml

from alignment_tax.settings import repo_root

ROOT = repo_root()
PACKAGE = ROOT / "lib" / "alignment_tax"
MODULES = sorted(PACKAGE.rglob("*.py"))

# a room may import rooms on lower floors, and its neighbours as long as that goes in no circle
FLOORS = (
    ("presets", "settings", "store", "provenance"),
    ("labels", "spec", "registry"),
    ("models", "world", "smollm2"),
    ("train", "mitigate", "merge", "skills", "stats", "results"),
    ("pipeline",),
    ("course", "figures", "widgets", "bench", "outputs", "report", "claims"),
)
# these know nothing of language models beyond named tensors and points
BARE = ("merge", "stats")
LANGUAGE_LIBRARIES = {"transformers", "trl", "peft", "datasets", "lm_eval", "tokenizers"}


def room(path):
    """The room that a file is in: the first name below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every module that a file imports, absolute, wherever in the file."""
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from alignment_tax import presets` imports the room presets
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    known = {room(module) for module in MODULES}
    names = {name.split(".")[1] for name in imports(path) if re.match(r"alignment_tax\.\w", name)}
    return (names & known) - {room(path)}


def floor(name):
    """The floor of a room; one that is not listed is at the top."""
    return next((i for i, names in enumerate(FLOORS) if name in names), len(FLOORS) - 1)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    # the names of the package itself (its version) are free to all
    if path == PACKAGE / "__init__.py":
        assert rooms_imported(path) == set()
        return
    upward = {name for name in rooms_imported(path) if floor(name) > floor(room(path))}
    assert upward == set(), f"{room(path)} must not import {upward}"
    if room(path) in BARE:
        assert {floor(name) for name in rooms_imported(path)} <= {0, floor("merge")}
        assert LANGUAGE_LIBRARIES.isdisjoint(name.split(".")[0] for name in imports(path))


def test_rooms_import_each_other_in_no_circle():
    graph = {}
    for path in MODULES:
        graph.setdefault(room(path), set()).update(rooms_imported(path))
    done = set()
    while ready := [name for name in graph if name not in done and graph[name] <= done]:
        done.update(ready)
    circle = {name: graph[name] - done for name in graph.keys() - done}
    assert circle == {}


def requirement_lines(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_and_says_what_it_is_for(name):
    lines = requirement_lines(name)
    assert lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==\d[\w.]*  # \S.*", line), line


def test_every_library_that_is_imported_is_required():
    required = {line.split("==")[0].lower() for line in requirement_lines("requirements.txt")}
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


def test_ci_runs_what_the_readme_says():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    assert lines[0].startswith("#!")
    assert "set -euo pipefail" in lines
    command = lines[-1]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    commands = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    assert command == "make test"
    assert command in commands


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.MULTILINE))
    assert {"run", "test"} <= named <= targets


def test_the_licences_are_there():
    code = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in code
    assert "Version 2.0, January 2004" in code
    assert "END OF TERMS AND CONDITIONS" in code
    assert "CC BY 4.0" in (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8")


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    for key in ("cff-version", "message", "title", "authors"):
        assert citation[key]
    assert citation["authors"] == [{"name": "The alignment-tax course authors"}]
    paper = citation["preferred-citation"]
    assert paper["title"] == "Mitigating the Alignment Tax of RLHF"
    assert (paper["year"], paper["start"], paper["end"]) == (2024, 580, 606)
    families = [author["family-names"] for author in paper["authors"]]
    assert (len(families), families[0], families[-1]) == (17, "Lin", "Zhang")
    assert paper["url"].endswith("2309.06256")
