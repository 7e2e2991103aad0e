"""The run of the course: order, parameters, failures, the index page, the command line."""

import html.parser
import json
import re
import sys
import types
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from alignment_tax import course, presets, settings
from alignment_tax.course import Chapter, CourseError, main, run_course

PARAMETERS = 'preset = "tiny"  # the dial\nseed = 7  # another seed, another run'
# one pixel
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "YPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
GOOD = f"""
import os, sys
from alignment_tax.results.values import record
from IPython.display import display
record("seen", [preset, seed])
record("python", sys.executable)
record("folder", os.getcwd())
record("runs", os.environ["ALIGNMENT_TAX_RUNS"])
record("<b>name</b>", 0.123456789)
display({{"image/png": "{PNG}"}}, raw=True, metadata={{"image/png": {{"alt": 'falls "here"'}}}})
"""


def write_notebook(path, *cells, front="# 01 A title", parameters=PARAMETERS):
    nodes = [new_markdown_cell(front)]
    if parameters is not None:
        nodes.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    # the kernelspec of a notebook that was saved elsewhere must not matter
    spec = {"kernelspec": {"name": "elsewhere", "display_name": "x", "language": "python"}}
    nodes += [new_code_cell(cell) for cell in cells]
    nbformat.write(new_notebook(cells=nodes, metadata=spec), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A course of three chapters, of which the first fails."""
    notebooks = tmp_path_factory.mktemp("notebooks")
    write_notebook(
        notebooks / "03_fails.ipynb",
        "from alignment_tax.results.values import record\nrecord('before', 1)",
        "\nbroken = 1 / 0  # here",
        "record('after', 1)",
        front="# 03 It fails",
    )
    write_notebook(
        notebooks / "04_good.ipynb",
        GOOD,
        front=(
            "# 04 The *tax* & more\n\n**Question.** Does it\nfall?\n\n"
            "**By the end** you will have shown that it does.\n\n"
            "**Machine minutes.** smoke 0.5, tiny about 3, small 20"
        ),
    )
    write_notebook(notebooks / "12_dies.ipynb", "import os\nos._exit(9)", front="# 12 It dies")
    (notebooks / "scratch.ipynb").write_text("no chapter, no notebook")
    return notebooks


@pytest.fixture(scope="module")
def ran(folder, tmp_path_factory):
    """Exit code, output folder and printed text of one run of the whole toy course."""
    out = tmp_path_factory.mktemp("out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.RUNS_VARIABLE, str(out))
        said = types.SimpleNamespace(out="", err="")
        for name in ("out", "err"):
            stream = types.SimpleNamespace(
                write=lambda text, name=name: setattr(said, name, getattr(said, name) + text),
                flush=lambda: None,
            )
            patch.setattr(sys, f"std{name}", stream)
        code = main(["run", "--preset", "smoke", "--seed", "3"], folder)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}, "ran in place"
    return types.SimpleNamespace(code=code, out=out / "smoke-seed3", said=said)


def summary(out):
    return {
        entry["number"]: entry for entry in json.loads((out / "run.json").read_text())["chapters"]
    }


def test_a_failure_fails_the_run_and_the_rest_is_still_run(ran):
    assert ran.code == 1
    assert {n: entry["status"] for n, entry in summary(ran.out).items()} == {
        "03": "failed",
        "04": "ok",
        "12": "failed",
    }


def test_the_failure_names_notebook_cell_and_error(ran):
    assert f"FAILED {ran.out / '03_fails.ipynb'}, In [4]: broken = 1 / 0  # here" in ran.said.err
    assert "ZeroDivisionError: division by zero" in ran.said.err
    assert "12_dies.ipynb, the cell that begins: import os" in ran.said.err
    assert "The kernel died; the usual cause is too little memory." in ran.said.err


def test_parameters_python_and_folders_reach_the_notebook(ran, folder):
    records = summary(ran.out)["04"]["records"]
    assert records["seen"] == ["smoke", 3]
    assert records["python"] == sys.executable
    assert Path(records["folder"]) == folder
    assert Path(records["runs"]) == ran.out.parent
    assert records["<b>name</b>"] == 0.123456789


def test_what_was_recorded_before_a_failure_is_kept(ran):
    assert summary(ran.out)["03"]["records"] == {"before": 1}


def test_there_is_one_line_of_progress_a_chapter_and_a_word_on_where_to_look(ran):
    lines = ran.said.out.splitlines()
    assert "smoke, seed 3" in lines[0]
    assert re.fullmatch(
        r"\[1/3\] 03 It fails \.\.\. failed, \d+\.\d min \(\d+\.\d min so far, about .* to go\)",
        lines[1],
    )
    assert lines[2].startswith("[2/3] 04 The *tax* & more ... ok, ")
    assert lines[3].startswith("[3/3] 12 It dies ... failed, ")
    assert lines[4] == f"Open {ran.out / 'index.html'} in a browser."
    assert len(lines) == 5


def test_the_executed_notebooks_are_whole_and_without_widget_state(ran):
    notebook = nbformat.read(ran.out / "04_good.ipynb", 4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    assert [path.name for path in ran.out.glob(".*.ipynb")] == []
    assert (ran.out / "04_good.html").stat().st_size > 1000


class Page(html.parser.HTMLParser):
    """Collects tags, links and images of a page, and that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_index_page_shows_everything_and_needs_nothing_from_elsewhere(ran):
    page = Page((ran.out / "index.html").read_text())
    assert page.all("html") == [{"lang": "en"}]
    for link in page.all("a"):
        assert (ran.out / link["href"]).is_file()
    assert len(page.all("a")) == 6, "page and notebook of each of three chapters"
    assert [image["alt"] for image in page.all("img")] == ['falls "here"']
    assert page.all("img")[0]["src"] == f"data:image/png;base64,{PNG}"
    assert not page.all("script")
    assert not page.all("link")
    for text in ("1 ok, 2 failed", "Does it fall?", "ZeroDivisionError", "<b>name</b>", "0.123457"):
        assert text in page.text, text


def test_a_chapter_run_again_alone_keeps_the_others_on_the_page(ran, folder, capsys):
    path = ran.out / "03_fails.ipynb"
    before = path.read_bytes()
    run = run_course("smoke", 3, ["4"], ran.out, folder)
    assert run.failed == [], "an earlier failure is not this run's"
    assert [(c.number, c.status, c.earlier) for c in run.chapters] == [
        ("03", "failed", True),
        ("04", "ok", False),
        ("12", "failed", True),
    ]
    assert path.read_bytes() == before
    assert "failed (earlier run)" in (ran.out / "index.html").read_text()


def test_a_figure_without_alt_text_gets_one():
    picture = nbformat.v4.new_output("display_data", data={"image/png": "QUJD\n"})
    notebook = new_notebook(cells=[new_code_cell("", outputs=[picture])])
    assert course.find_figures(notebook) == [("QUJD", "")]


# --- refused before anything runs ----------------------------------------------------------------


def refuse(capsys, folder, out, *arguments):
    """Run the command line, which must refuse; return what it says."""
    try:
        code = main(["run", "--out", str(out), *arguments], folder)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert not out.exists(), "something was run"
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "huge"], "no preset 'huge'. Choose one of: smoke, tiny"),
        (["--seed", "1.5"], "'1.5' is not a whole number from 0 up"),
        (["--seed", "-1"], "'-1' is not a whole number from 0 up"),
        (["--seed", "one"], "'one' is not a whole number from 0 up"),
        (["--only", "04", "05"], "no notebook '05'. There are: 03_fails, 04_good, 12_dies"),
        (["--only", "good"], "no notebook 'good'"),
        (["--prest", "tiny"], "unrecognized arguments: --prest tiny"),
        (["-p", "preset", "tiny"], "unrecognized arguments: -p preset tiny"),
    ],
)
def test_wrong_arguments_are_refused(capsys, folder, tmp_path, arguments, said):
    assert said in refuse(capsys, folder, tmp_path / "out", *arguments)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ('preset = "tiny"', "05_new.ipynb does not set seed"),
        ('prest = "tiny"\nseed = 0', "05_new.ipynb does not set preset"),
        ("x = 1", "05_new.ipynb does not set preset and seed"),
        (None, "05_new.ipynb has 0 cells tagged 'parameters' instead of one"),
        ("preset = ", "05_new.ipynb: the parameters cell is no Python"),
    ],
)
def test_a_notebook_that_would_ignore_a_parameter_is_refused(capsys, tmp_path, parameters, said):
    write_notebook(tmp_path / "04_good.ipynb", "1")
    write_notebook(tmp_path / "05_new.ipynb", "1", parameters=parameters)
    assert said in refuse(capsys, tmp_path, tmp_path / "out")


def test_a_cut_notebook_is_refused_by_name(capsys, tmp_path):
    (tmp_path / "05_cut.ipynb").write_text('{"cells": [')
    assert "05_cut.ipynb is not a readable notebook" in refuse(capsys, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("seed", ["0", 1.0, True, -1, None])
def test_a_seed_that_is_no_whole_number_is_refused_from_python_too(folder, tmp_path, seed):
    with pytest.raises(CourseError, match="whole number from 0 up"):
        run_course("tiny", seed, out=tmp_path / "out", notebooks=folder)


def test_running_over_the_notebooks_is_refused(folder):
    with pytest.raises(CourseError, match="holds the course's notebooks"):
        run_course(out=folder / "." / "", notebooks=folder)


def test_two_runs_on_one_folder_are_refused(folder, tmp_path):
    with (
        FileLock(tmp_path / ".run.lock"),
        pytest.raises(CourseError, match="Another run is writing"),
    ):
        run_course(only=["04"], out=tmp_path, notebooks=folder)
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]


def test_an_unknown_preset_is_refused_from_python_too(folder, tmp_path):
    with pytest.raises(presets.UnknownPreset):
        run_course("Tiny", out=tmp_path / "out", notebooks=folder)


# --- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typical", "measured", "expected"),
    [
        ([2, 4, 6], [], 12),
        # twice as slow as typical: what is left takes twice as long
        ([2, 4, 6], [4], 20),
        # unknown chapters count as the mean of those that ran
        ([None, None, 6], [3], 3 + 6),
        ([None, 2], [], None),
        ([1, 1], [5, 5], 0),
    ],
)
def test_the_estimate_follows_the_pace_of_the_machine(typical, measured, expected):
    assert course.remaining_minutes(typical, measured) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# 05 · The tax\n\n**Question:** What\nis lost?\n**By the end** you know.",
            ("The tax", "What is lost?", {}),
        ),
        (
            "# Chapter 9: Averaging\n\n**Machine minutes per preset**: tiny under 2; small ~ 15",
            ("Averaging", "", {"tiny": 2.0, "small": 15.0}),
        ),
        ("no heading", ("", "", {})),
    ],
)
def test_front_matter(text, expected):
    assert course.front_matter(text) == expected


def test_selection_keeps_the_order_of_the_course():
    chapters = [Chapter(n, n, "", Path(f"{n}_x.ipynb"), {}) for n in ("00", "04", "10")]

    def numbers(only):
        return [chapter.number for chapter in course.select_chapters(chapters, only)]

    assert numbers([]) == ["00", "04", "10"]
    assert numbers(["10", "4", "04_x.ipynb", "notebooks/04_x.ipynb"]) == ["04", "10"]
    assert numbers(["0"]) == ["00"]


def test_list_prints_number_title_and_question(folder, capsys):
    assert main(["list"], folder) == 0
    assert capsys.readouterr().out.splitlines() == [
        "03  It fails",
        "04  The *tax* & more",
        "    Does it fall?",
        "12  It dies",
    ]


def test_list_without_notebooks_says_so(tmp_path, capsys):
    assert main(["list"], tmp_path / "none") == 2
    assert "There is no notebook called NN_name.ipynb in" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["walk"], ["record"], ["list", "all"]])
def test_wrong_commands_return_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: alignment-tax" in capsys.readouterr().err


def test_record_passes_preset_and_seeds_on(monkeypatch, capsys):
    calls = []
    results = types.SimpleNamespace(record=lambda *arguments: calls.append(arguments))
    monkeypatch.setitem(sys.modules, "alignment_tax.results", results)
    assert main(["record", "tiny", "--seeds", "0", "2", "--jobs", "2"]) == 0
    assert main(["record", "small"]) == 0
    assert main(["record", "huge"]) == 2
    assert main(["record", "tiny", "--seeds", "1", "--methods", "l2", "replay"]) == 0
    assert calls == [
        ("tiny", [0, 2], 2, None),
        ("small", [0, 1, 2, 3, 4], 1, None),
        ("tiny", [1], 1, ["l2", "replay"]),
    ]


def test_an_unknown_method_is_named_before_anything_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path))
    assert main(["record", "tiny", "--methods", "l2", "l7"]) == 2
    assert "records no method 'l7'. Choose from: base, rsf, rsf_random" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_record_wants_at_least_one_process(jobs, capsys):
    with pytest.raises(SystemExit):
        main(["record", "tiny", "--jobs", jobs])
    assert "--jobs" in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(course.FORWARDED))
def test_other_commands_get_their_arguments(monkeypatch, command):
    module = types.SimpleNamespace(main=lambda arguments: len(arguments))
    monkeypatch.setitem(sys.modules, course.FORWARDED[command][0], module)
    assert main([command, "--hours", "2", "--help"]) == 3
    monkeypatch.setattr(module, "main", lambda arguments: None)
    assert main([command]) == 0


# --- settings ------------------------------------------------------------------------------------


def test_folders_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "runs"))
    monkeypatch.setenv(settings.DATA_VARIABLE, str(tmp_path))
    assert settings.runs_folder() == tmp_path / "runs"
    assert settings.data_folder() == tmp_path
    monkeypatch.setenv(settings.DATA_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(settings.SettingsError, match="which is not a folder"):
        settings.data_folder()
    monkeypatch.setenv(settings.RUNS_VARIABLE, "")
    monkeypatch.delenv(settings.DATA_VARIABLE)
    assert settings.runs_folder() == settings.repo_root() / "runs"
    assert settings.data_folder() is None


def test_the_checkout_is_found_from_the_package_or_the_current_folder(tmp_path):
    checkout = tmp_path / "checkout"
    (checkout / "lib" / "alignment_tax").mkdir(parents=True)
    (checkout / "notebooks").mkdir()
    (checkout / "pyproject.toml").write_text('[project]\nname = "alignment-tax"\n')
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    elsewhere = tmp_path / "site-packages" / "alignment_tax" / "settings.py"
    package = checkout / "lib" / "alignment_tax" / "settings.py"
    assert settings.repo_root(package, tmp_path) == checkout
    assert settings.repo_root(elsewhere, checkout / "notebooks") == checkout
    with pytest.raises(settings.SettingsError, match="pip install -e"):
        settings.repo_root(elsewhere, tmp_path)
