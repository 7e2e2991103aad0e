"""What a notebook records is what a run collects."""

import json
import sys

import nbformat
import numpy as np
import pytest
from conftest import refuses
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_notebook, new_output

from alignment_tax.notebooks import CourseError, read_notebook
from alignment_tax.results.values import MIME, read_records, record


@pytest.fixture
def displayed():
    """What a cell displays, as a list of MIME bundles."""
    shell = InteractiveShell.instance()
    before, shell.display_pub = shell.display_pub, CapturingDisplayPublisher(shell=shell)
    yield shell.display_pub.outputs
    shell.display_pub = before
    InteractiveShell.clear_instance()


def test_a_record_goes_through_a_saved_notebook_and_what_is_none_is_refused(displayed, tmp_path):
    record("tax", 1)
    record("tax", -3.25, unit="points", items=400)  # the last record of a name wins
    record("skills", {"bleu": 91.5, "front": [0, None, True, "é"]})
    bundles = [output["data"] for output in displayed]
    assert bundles[1]["text/plain"] == "tax = -3.25"
    assert bundles[1][MIME]["meta"] == {"unit": "points", "items": 400}
    path = tmp_path / "done.ipynb"
    outputs = [new_output("display_data", data=data) for data in bundles]
    cells = [new_code_cell("record(...)", outputs=[each]) for each in outputs]
    nbformat.write(new_notebook(cells=cells), path)
    expected = {"tax": -3.25, "skills": {"bleu": 91.5, "front": [0, None, True, "é"]}}
    assert read_records(read_notebook(path)) == expected
    (tmp_path / "cut.ipynb").write_text('{"cells": [')
    refuses(CourseError, "not a readable notebook", read_notebook, tmp_path / "cut.ipynb")
    refuses(FileNotFoundError, None, read_notebook, tmp_path / "none.ipynb")


def test_numpy_scalars_become_numbers_and_scripts_print(displayed, capsys, monkeypatch):
    record("x", {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.array(2.0)})
    value = displayed[0]["data"][MIME]["value"]
    assert json.dumps(value) == '{"a": 0.5, "b": 3, "c": true, "d": 2.0}'
    monkeypatch.delitem(sys.modules, "IPython")
    record("pairs", 0.8123456789)
    assert capsys.readouterr().out == "pairs = 0.812346\n"


def test_what_json_lacks_and_what_has_no_name_is_refused():
    for name, value, error, said in (
        ("x", [1.0, float("nan")], ValueError, r"x\[1\] is nan.*Use None"),
        ("x", float("inf"), ValueError, "x is inf.*Use None"),
        ("x", {"bleu": [1.0, np.float32("nan")]}, ValueError, r"x\['bleu'\]\[1\] is nan"),
        ("x", np.zeros(3), TypeError, r"is a ndarray.*\.tolist\(\)"),
        ("x", {1: "a"}, TypeError, "has the key 1: keys must be text"),
        ("x", b"bytes", TypeError, "is a bytes"),
        ("x", {"a": {"b": object()}}, TypeError, r"x\['a'\]\['b'\] is a object"),
        (" ", 1, ValueError, "needs a name"),
        (3, 1, TypeError, "name is text, not int"),
    ):
        refuses(error, said, record, name, value)
