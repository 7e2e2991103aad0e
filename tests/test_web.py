"""The course on the web: the book, what runs in the browser, badges; slow builds where they can."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
import yaml
from conftest import python, refuses

from alignment_tax.notebooks import find_figures, read_notebook
from alignment_tax.settings import repo_root

ROOT = repo_root()


def load(name):
    """A script of web/ as a module."""
    path = ROOT / "web" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the book -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def conf():
    pytest.importorskip("latex2mathml", reason="web/requirements.txt is not installed: make book")
    return load("book/conf")


def test_links_figures_and_the_table_of_contents_of_the_book(conf):
    text = "[data](data), [tests](tests), [a](README.md), ![x](data/results/pipeline.png)"
    told = "[data](data/README.md), tests, [a](README.md), ![x](data/results/pipeline.png)"
    assert conf.without_folders(text, ROOT) == told
    # a figure of a chapter keeps its alt text
    path = ROOT / "notebooks" / "05_the_alignment_tax.ipynb"
    read = json.loads(conf.prepared(json.loads(path.read_text("utf-8")), path.parent))
    kept = [c["metadata"].get("mystnb", {}).get("image", {}).get("alt") for c in read["cells"]]
    assert [alt for alt in kept if alt] == [alt for _, alt in find_figures(read_notebook(path))]
    # every chapter is in the table of contents
    chapters = [path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")]
    assert {f"notebooks/{name}" for name in chapters} < set(conf.with_toc("text").splitlines())


@pytest.mark.parametrize("link", ["[x](notebooks/no_such.ipynb)", "[x](data/no_such.csv)"])
def test_a_dead_link_ends_the_book(conf, link, tmp_path):
    pytest.importorskip("sphinx", reason="web/requirements.txt is not installed: make book")
    (tmp_path / "README.md").write_text(f"# A\n\n{link}\n\n$a^2$\n")
    command = [sys.executable, "-m", "sphinx", "-qWEc", ROOT / "web" / "book"]
    command += ["-Dinclude_patterns=README.md", tmp_path, tmp_path / "out"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode != 0
    assert "no_such" in built.stderr


# --- in the browser -------------------------------------------------------------------------------
def test_a_folder_that_is_no_full_distribution_is_refused_by_what_it_lacks(tmp_path):
    lite = load("lite/build")
    given = (lite.build, tmp_path, tmp_path / "out")
    refuses(lite.LiteError, r"no pyodide-lock\.json.*PYODIDE=FOLDER", *given)
    packages = {name: {"file_name": f"{name}.whl"} for name in lite.NEEDED}
    (tmp_path / "pyodide-lock.json").write_text(json.dumps({"packages": packages}))
    for name in lite.NEEDED[1:]:
        (tmp_path / f"{name}.whl").touch()
    refuses(lite.LiteError, r"lacks the wheels of numpy: .*core", *given)
    (tmp_path / "numpy.whl").touch()
    lite.check_distribution(tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_the_browser_gets_trains_nothing_and_holds_what_it_reads(tmp_path):
    load("lite/build").stage(tmp_path)
    assert (tmp_path / "data" / "results" / "tiny" / "points.csv").is_file()
    assert not (tmp_path / "data" / "base").exists()
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        assert "import no_models" in sources[0]
        assert any('preset = "recorded"' in source for source in sources)
        assert not any(cell.get("outputs") for cell in notebook.cells)


def test_without_libraries_of_models_recorded_results_are_read_and_models_left_out():
    code = """
import sys; sys.path.insert(0, sys.argv[1])
import no_models
from alignment_tax.pipeline.recorded_only import LeftOut
from alignment_tax.pipeline.study import Study
from alignment_tax.spec import Spec
study = Study("recorded", 0)
print(study.point(Spec("sft"))["skill"], study.scores(Spec("sft")).n_items)
for model in (lambda: study.policy("sft"), lambda: study.policy("base"), study.sweep):
    try:
        print("made", model())
    except LeftOut as left:
        print("left out")
assert all(type(sys.modules[name]).__name__ == "AbsentModule" for name in ("torch", "trl"))
"""
    told = python(code, ROOT / "web" / "lite", capture_output=True, text=True, check=True)
    assert told.stdout.split("\n")[1:-1] == ["left out"] * 3
    assert told.stdout.split()[1] == "2640"


# --- started elsewhere ----------------------------------------------------------------------------
@pytest.mark.parametrize("url", ["git@github.com:me/my.own.git", "https://github.com/me/my.own\n"])
def test_badges_name_the_fork(url, tmp_path):
    web = load("badges")
    (tmp_path / "web").mkdir()
    for name in ("README.md", "web/colab.ipynb"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    for name in ("other/one", web.repository(url)):
        web.fill(tmp_path, name)
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert readme.count("me/my.own") == 2
    assert "other/one" not in readme
    notebook = nbformat.read(tmp_path / "web" / "colab.ipynb", 4)
    assert 'repository = "me/my.own"' in notebook.cells[1].source
    assert (ROOT / web.START).is_file()
    refuses(ValueError, "origin is not set", web.repository, "")


def test_containers_and_binder_install_what_is_required():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    pins = dict(each.split("  #")[0].split("==") for each in lines if re.match(r"[^#]+==", each))
    binder = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text("utf-8"))
    assert f"pytorch-cpu={pins['torch']}" in binder["dependencies"]
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert container["postCreateCommand"] == "make .venv/.ready-to-run"
