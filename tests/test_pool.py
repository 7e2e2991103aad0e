"""A class's runs are one table; what does not belong there is refused, and the student named."""

import json

import nbformat
import pandas as pd
import pytest
from nbformat import v4
from points import figure_points

from alignment_tax import pool, presets
from alignment_tax.figures import class_fronts, table
from alignment_tax.labels import SCORES
from alignment_tax.pipeline.study import Study
from alignment_tax.results.values import MIME
from alignment_tax.spec import COLUMNS
from alignment_tax.store import Artifact, Store, artifact_key


def run_of(seed: int, key: str | None = None) -> dict:
    """What chapter 09 records of a seed."""
    points = figure_points(2).query("seed == 0").assign(seed=seed)
    points = points.assign(reward=points["reward"] + seed % 3, gold=points["gold"] + seed % 3)
    key = key or Study("tiny", seed, pool.Keys("x")).rsf(presets.TINY.rsf.rounds).key
    return pool.hand_in(points.reindex(columns=COLUMNS), Artifact(None, key, {}))


def hand_in(folder, student, record) -> None:
    own = folder / student / "tiny-seed"
    own.mkdir(parents=True)
    chapters = [{"number": "00", "records": {}}, {"number": "09", "records": {"handed_in": record}}]
    run = {"preset": "tiny", "seed": 0, "chapters": chapters}
    (own / "run.json").write_text(json.dumps(run, allow_nan=False))


@pytest.fixture(scope="module")
def runs():
    return {seed: run_of(seed) for seed in (10, 11, 12)}


@pytest.fixture
def folder(tmp_path, runs):
    """Three students: two with a run's folder, one with a notebook."""
    for student, seed in (("anna", 10), ("ben", 11)):
        hand_in(tmp_path / "in", student, runs[seed])
    data = {MIME: {"name": "handed_in", "value": runs[12]}, "text/plain": ""}
    cell = v4.new_code_cell("1", outputs=[v4.new_output("display_data", data=data)])
    nbformat.write(v4.new_notebook(cells=[cell]), tmp_path / "in" / "carl.ipynb")
    return tmp_path / "in"


def test_a_class_is_one_table_one_figure_and_one_page(folder, tmp_path, ends):
    out = tmp_path / "in-pooled"
    ends(f"The page is {out / 'README.md'}", "pool", folder, code=0)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "front.png", "points.csv"]
    points, rows = pd.read_csv(out / "points.csv"), len(figure_points(1))
    assert points.groupby("seed").size().to_dict() == {10: rows, 11: rows, 12: rows}
    assert points["forgetting"].tolist() == figure_points(1)["forgetting"].tolist() * 3
    page = (out / "README.md").read_text("utf-8")
    assert "Seeds: 10 anna, 11 ben, 12 carl.ipynb." in page
    # every seed gains 4 units of reward and loses 20 points, by the factory
    assert "| RSF raises reward | +4.00 (+4.00 to +4.00), holds | +" in page
    assert "| RSF costs mean skill | -20.00 (-20.00 to -20.00), holds | -" in page


def test_the_front_of_a_class_stands_beside_the_recorded_one():
    own, theirs = figure_points(2).assign(seed=lambda t: t["seed"] + 5), figure_points(2)
    figure = class_fronts(own, theirs.assign(**dict.fromkeys(SCORES, 50.0)))
    drawn = table(figure)
    class_, recorded = (drawn[drawn["kind"] == kind] for kind in ("your class", "recorded"))
    assert class_["reward"].tolist() == recorded["reward"].tolist()
    assert set(recorded["forgetting"]) == {50}
    left, right = figure.axes[:2]
    assert left.get_title(loc="left") == "your class: seeds 5-6"
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[0] < 50 < 80 < left.get_ylim()[1]


@pytest.mark.parametrize(("seed", "change", "said"), [
    (11, {}, "is that of ben as well"),
    (77, {}, "was given to nobody"),
    (13, {"key": "0" * 64}, "is of a model that these stages do not"),
    (13, {"study": "smoke"}, "is of preset smoke, not tiny"),
    (13, {"seed": 14}, "is of a model that these stages do not"),
])  # fmt: skip
def test_what_does_not_belong_is_refused_by_name(folder, tmp_path, ends, seed, change, said):
    record = run_of(seed, change.get("key"))
    for column in change.keys() & record["points"]:
        record["points"][column] = [change[column]] * len(record["points"]["seed"])
    hand_in(folder, "dora", record)
    out = tmp_path / "out"
    told = f"dora: seed {change.get('seed', seed)} {said}"
    ends(told, "pool", folder, "--out", out, "--seeds", "10", "11-19")
    assert not out.exists()


def test_a_folder_without_a_run_is_named(folder, tmp_path, ends):
    (folder / "emil").mkdir()
    ends("emil: no run.json or notebook with the points of chapter 09", "pool", folder)
    (folder / "emil" / "run.json").write_text('{"chapters": [')
    ends("emil: run.json cannot be read", "pool", folder)
    (tmp_path / "none").mkdir()
    for empty in ("none", "nowhere"):
        ends("folder", "pool", tmp_path / empty)


def test_keys_are_those_of_a_store_that_makes(tmp_path):
    def make(folder):
        (folder / "x").write_text("1")

    store, keys = Store(tmp_path), pool.Keys(tmp_path)
    made = store.get("a", {"n": 1}, make, version=2)
    assert keys.get("a", {"n": 1}, None, version=2).key == made.key
    key = store.get("b", {}, make, parents={"a": made}).key
    assert keys.get("b", {}, None, parents={"a": made}).key == key
    assert key == artifact_key("b", {}, 1, {"a": made.key})
