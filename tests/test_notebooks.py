"""Every notebook of the course, executed on `smoke`: it succeeds, and what it recorded holds."""

import ast
import json
import os
import re
import subprocess
import sys
from functools import reduce
from operator import getitem

import pytest
from conftest import golden

from alignment_tax import notebooks, presets, settings
from alignment_tax.report import SHORT
from alignment_tax.results.recorded import recorded, recording_key
from alignment_tax.results.values import read_records
from alignment_tax.skills import FAMILIES
from alignment_tax.stats import claims

CHAPTERS = sorted(settings.notebooks_folder().glob("[0-9][0-9]_*.ipynb"))
NAMES = [path.stem for path in CHAPTERS]
each_notebook = pytest.mark.parametrize("path", CHAPTERS, ids=NAMES)
BY_HAND = golden("by_hand.yaml")
VERDICTS = "holds|opposite|negligible|inconclusive|not enough seeds|not comparable".split("|")


# what is committed
def test_the_course_has_its_chapters():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(16)]
    notebooks.check_parameters(notebooks.find_chapters(settings.notebooks_folder()))


@each_notebook
def test_parameters_are_literals_with_a_comment_and_the_front_says_what_to_expect(path):
    (cell,) = notebooks.tagged(notebooks.read_notebook(path), "parameters")
    values = {}
    for node in ast.parse(cell.source).body:
        assert isinstance(node, ast.Assign | ast.AnnAssign), ast.unparse(node)
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        values[target.id] = ast.literal_eval(node.value)
        assert "#" in cell.source.splitlines()[node.lineno - 1]
    assert values == {"preset": "tiny", "seed": 0}
    front = notebooks.read_notebook(path).cells[0].source
    assert re.match(rf"# (?:Chapter )?{path.stem[:2]}\b", front), "heading with the number"
    chapter = notebooks.read_chapter(path)
    assert chapter.question.endswith("?")
    assert {"smoke", "tiny"} <= set(chapter.minutes)
    assert re.search(r"by the end", front, re.IGNORECASE)
    assert re.search(r"\bneeds\b", front, re.IGNORECASE)


@each_notebook
def test_code_and_what_is_kept_of_its_outputs_are_clean(path):
    notebook = notebooks.read_notebook(path)
    assert "widgets" not in notebook.metadata
    for cell in notebooks.code_cells(notebook):
        assert "execution" not in cell.metadata, "execution times"
        assert not re.search(r"^\s*[!%].*\b(pip|conda|apt)\b", cell.source, re.MULTILINE)
        if not cell.source.lstrip().startswith("%"):
            compile(cell.source, path.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for output in cell.outputs:
            data = output.get("data", {})
            assert output.output_type != "error", cell.source
            assert not any(kind.startswith(notebooks.WIDGET) for kind in data)
            # a bar leaves carriage returns and its blocks behind
            assert not re.search(r"\r|\d+%\||it/s\]", output.get("text", "")), "progress bar"
            assert "/home/" not in str(output), "a folder of somebody's machine"
    assert all(alt for _, alt in notebooks.find_figures(notebook)), "a figure without alt text"


@each_notebook
def test_what_is_kept_of_its_outputs_is_of_the_recording_that_the_readme_tells_of(path):
    stale = "run it again and keep its outputs: make publish"
    verdicts = claims.read("tiny").set_index("id")["verdict"]
    notebook = notebooks.read_notebook(path)
    for value in read_records(notebook).values():
        if isinstance(value, dict) and set(value) <= set(verdicts.index):
            assert value == verdicts[list(value)].to_dict(), stale
    assert notebook.metadata.get(notebooks.STAMP) == recording_key(), stale


@each_notebook
def test_a_chapter_is_short_enough_to_be_finished(path):
    core = path.stem[:2] in SHORT
    notebook = notebooks.read_notebook(path)
    code = [cell.source.splitlines() for cell in notebooks.code_cells(notebook)]
    assert max(map(len, code)) <= 25
    assert sum(map(len, code)) <= 250
    assert len(notebooks.find_figures(notebook)) <= 6
    assert notebooks.reading_minutes(path) <= (30 if core else 40)
    assert notebooks.words_to_read(path) <= (1800 if core else 2200)
    assert path.stat().st_size < 1_000_000


@each_notebook
def test_exercises_come_last_three_to_five_of_them_with_solutions_folded_away(path):
    cells = notebooks.read_notebook(path).cells
    told = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    tasks = {a or b for a, b in re.findall(r"Exercise (\d)\b|\*\*(\d)\. ", told)}
    # the playground, 13, is to be played with
    assert 3 <= len(tasks) <= 5 or path.stem.startswith("13"), sorted(tasks)
    heads = re.findall(r"^##\s+(.*)", told, re.MULTILINE)
    assert any(re.search("exercise|your turn", head, re.IGNORECASE) for head in heads[-3:]), heads
    assert "<details" in told


# the run on smoke
#: Makes every Python that is started refuse and note what leaves this machine.
NO_NETWORK = """
import pathlib, socket
def guarded(call):
    def guard(*given, **named):
        place = given[-1] if call is connect else given
        if isinstance(place, tuple) and place[0] not in ("127.0.0.1", "::1", "localhost", None):
            with pathlib.Path(__file__).with_name("asked").open("a") as log:
                print(place, file=log)
            raise OSError("no network here")
        return call(*given, **named)
    return guard
connect = socket.socket.connect
socket.socket.connect, socket.getaddrinfo = guarded(connect), guarded(socket.getaddrinfo)
"""


@pytest.fixture(scope="session")
def fence(tmp_path_factory):
    """A folder that fences off every Python with it on its path; `asked` holds what was tried."""
    folder = tmp_path_factory.mktemp("fence")
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    return folder


@pytest.fixture(scope="session")
def course(tmp_path_factory, fence):
    """One run of the whole course, side by side, with artifacts of its own: stem -> its run.

    All tests of this file go to one worker (`--dist loadfile`), so it is run once.
    """
    folder = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(fence), prepend=os.pathsep)
        patch.setenv(settings.RUNS_VARIABLE, str(folder / "runs"))
        ran = notebooks.run_course("smoke", 0, out=folder / "out")
    return dict(zip(NAMES, ran.chapters, strict=True))


def of(course, number):
    """What a chapter recorded."""
    return next(run.records for name, run in course.items() if name.startswith(number))


@pytest.mark.notebooks
def test_recorded_results_alone_run_every_chapter_and_make_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path))
    ran = notebooks.run_course(presets.RECORDED, 0, out=tmp_path / "out")
    assert {run.title: run.error for run in ran.failed} == {}
    assert not (tmp_path / "artifacts").exists()
    drawn = {run.number: notebooks.read_notebook(ran.out / run.notebook) for run in ran.chapters}
    # chapter 14 is about files of models, of which there are none here
    assert [name for name, each in drawn.items() if not notebooks.find_figures(each)] == ["14"]
    (tax,) = (run.records["tax_skill"] for run in ran.chapters if run.number == "05")
    rows = recorded().points.query("seed == 0 and method == 'none'")
    skill = rows.set_index(["algorithm", "rounds"])["skill"]
    assert tax == pytest.approx(skill["rsf", 8] - skill["sft", 0], abs=1e-3)


@pytest.mark.notebooks
@each_notebook
def test_every_chapter_runs_on_smoke_and_records_shares_and_verdicts_that_are_some(course, path):
    run = course[path.stem]
    assert run.status == "ok", f"{run.cell}\n{run.error}"
    assert run.records, "a chapter leaves its results through record()"
    json.dumps(run.records, allow_nan=False)
    for name, value in run.records.items():
        if any(word in name for word in ("share", "accuracy")) and isinstance(value, float):
            assert 0 <= value <= 1, name
        if "verdict" in name:
            said = value.values() if isinstance(value, dict) else [value]
            assert all(v.startswith(tuple(VERDICTS)) for v in said), (name, value)


@pytest.mark.notebooks
def test_no_chapter_opens_a_connection(course, fence):
    assert not (fence / "asked").exists()
    code = "import socket; socket.create_connection(('192.0.2.1', 9), 1)"
    environment = {**os.environ, "PYTHONPATH": str(fence)}
    tried = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert b"no network here" in tried.stderr, "the fence holds"


@pytest.mark.notebooks
def test_what_is_worked_out_by_hand_is_the_librarys_and_numbers_lie_where_they_must(course):
    for chapter, by_hand, library, tolerance in BY_HAND["equal"]:
        records = of(course, chapter)
        assert records[by_hand] == pytest.approx(records[library], abs=tolerance), by_hand
    for chapter, name, tolerance in BY_HAND["next_to_nothing"]:
        assert abs(of(course, chapter)[name]) < tolerance, name
    for chapter, name in BY_HAND["true"]:
        assert of(course, chapter)[name] is True, name
    for chapter, name, low, high in BY_HAND["between"]:
        found = reduce(getitem, name.split("."), of(course, chapter))
        numbers = found.values() if isinstance(found, dict) else [found]
        assert all(low <= each <= high for each in numbers), (chapter, name, found)


@pytest.mark.notebooks
def test_00_to_05_skills_rewards_and_losses_make_sense(course):
    records = of(course, "00")
    skill = records["live_skill_by_alpha"]
    assert list(skill) == list(records["live_reward_by_alpha"])
    assert [float(alpha) for alpha in skill][:: len(skill) - 1] == [0.0, 1.0]
    assert records["live_tax_points"] == pytest.approx(skill["1"] - skill["0"])
    assert records["recorded_seeds"] == recorded().seeds
    scores, guessing = (of(course, "01")[name] for name in ("scores", "guessing"))
    assert len(guessing) == 7
    assert set(guessing) < set(scores)
    taxes = {name: of(course, "05")[f"tax_{name}"] for name in (*FAMILIES, "skill")}
    for each in (scores, taxes):
        assert each["skill"] == pytest.approx(sum(each[name] for name in FAMILIES) / 3)
    assert of(course, "02")["sft_loss_last"] < of(course, "02")["sft_loss_first"]
    assert {"reward_gain", "gold_gain", "control_gain"} <= set(of(course, "04"))
    records = of(course, "05")
    assert records["tax_low"] <= records["tax_high"]
    assert records["items_forgotten"] <= records["items_lost"]


@pytest.mark.notebooks
def test_06_to_08_budgets_penalties_and_remedies_are_those_of_the_library(course):
    records = of(course, "06")
    # 2 rounds of 16 prompts with 4 replies; PPO: 2 rounds of 2 iterations of 32
    assert records["replies_in_all"] == dict.fromkeys(("RSF", "DPO", "RLOO", "PPO"), 128)
    assert "rsf" in records["recorded_algorithms"]
    assert "tax.rsf.forgetting.shared" in records["verdict_tax"]
    # a weak and a strong strength of five remedies, and of six
    for number, remedies in (("07", 5), ("08", 6)):
        records = of(course, number)
        assert [len(each) for each in records["live_reward"].values()].count(2) == remedies
        assert len(records["verdict_by_claim"]) <= 10
    records = of(course, "07")
    by_hand = records["output_penalties_by_hand"]
    assert records["output_penalties_of_library"] == pytest.approx(by_hand, rel=1e-4)
    # r (128 + 128) for four matrices of attention and r (128 + 256) for three of the MLP, 9 layers
    assert records["lora_numbers"] == [4 * 9 * (4 * 256 + 3 * 384)] * 2
    assert records["lora_forward"]["gap"] < 1e-3 * records["lora_forward"]["effect"]
    assert records["live_reward"].keys() == records["live_forgetting"].keys()


@pytest.mark.notebooks
def test_09_to_11_the_way_between_its_ends_and_ratios_are_those_of_the_library(course):
    records = of(course, "09")
    assert records["live_alphas"] == sorted(records["live_alphas"])
    assert len(records["live_alphas"]) == len(records["live_skill"]) == len(records["live_reward"])
    # the same study, seen from two chapters
    ends = of(course, "00")["live_skill_by_alpha"]
    both = [records["live_skill"][place] for place in (0, -1)]
    assert both == pytest.approx([ends["0"], ends["1"]])
    records = of(course, "10")
    # the library's bend of the recorded run, over the seeds that have RSF
    found = claims.read("tiny").set_index("id")["difference"]
    for score, value in records["bends"].items():
        if f"bend.rsf.{score}" in found:
            assert value == pytest.approx(found[f"bend.rsf.{score}"], abs=1e-9)
    # a theorem for averaged outputs: a loss is convex in the logits
    assert all(sag > -1e-6 for way, sag in records["loss_sags"].items() if "outputs" in way)
    right = records["right_half_way"]
    assert right["renumbered"] < right["weights"]
    assert records["counts_half_way"] == pytest.approx([1, 4, 1])
    outputs, weights = records["gain_of_outputs_by_overlap"], records["gain_of_weights_by_overlap"]
    assert outputs["0"] == weights["0"] > 10
    assert outputs["20"] == weights["20"] == 0
    records = of(course, "11")
    assert sum(records["ratios_found"]) == pytest.approx(3 * 0.4)
    before, after = records["objective_before_and_after"]
    found = records["objective_by_search"]
    assert before == pytest.approx(found["equal"], abs=1e-5)
    assert after < before
    assert found["grid"] <= found["equal"] + 1e-6  # which is a point of the grid
    assert set(records["parts_minus_aligned"]) == {"input", "middle", "output"}
    assert len(records["verdict_of_the_table"]) <= 10
