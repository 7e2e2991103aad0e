"""What a notebook records is what a run collects."""

import json
import sys

import nbformat
import numpy as np
import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_notebook, new_output

from alignment_tax.results.values import MIME, read_records, record


@pytest.fixture
def displayed():
    """What a cell displays, as a list of MIME bundles."""
    shell = InteractiveShell.instance()
    before, shell.display_pub = shell.display_pub, CapturingDisplayPublisher(shell=shell)
    yield shell.display_pub.outputs
    shell.display_pub = before
    InteractiveShell.clear_instance()


def notebook_of(outputs):
    cells = [
        new_code_cell("record(...)", outputs=[new_output("display_data", data=data)])
        for data in outputs
    ]
    return new_notebook(cells=cells)


def test_a_record_goes_through_a_saved_notebook(displayed, tmp_path):
    record("tax", -3.25, unit="points", items=400)
    record("skills", {"bleu": 91.5, "front": [0, None, True, "é"]})
    bundles = [output["data"] for output in displayed]
    assert bundles[0]["text/plain"] == "tax = -3.25"
    assert bundles[0][MIME]["meta"] == {"unit": "points", "items": 400}
    path = tmp_path / "done.ipynb"
    nbformat.write(notebook_of(bundles), path)
    expected = {"tax": -3.25, "skills": {"bleu": 91.5, "front": [0, None, True, "é"]}}
    assert read_records(path) == expected
    assert read_records(str(path)) == expected
    assert read_records(nbformat.read(path, 4)) == expected


def test_numpy_scalars_become_numbers_and_the_last_record_of_a_name_wins(displayed):
    record("x", {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.array(2.0)})
    value = displayed[0]["data"][MIME]["value"]
    assert json.dumps(value) == '{"a": 0.5, "b": 3, "c": true, "d": 2.0}'
    record("x", 2)
    assert read_records(notebook_of([output["data"] for output in displayed])) == {"x": 2}


def test_outside_a_notebook_it_prints(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython")
    record("pairs", 0.8123456789)
    assert capsys.readouterr().out == "pairs = 0.812346\n"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"bleu": [1.0, np.float32("nan")]}, r"x\['bleu'\]\[1\] is nan.*Use None"),
        ({"bleu": [1.0, float("inf")]}, r"x\['bleu'\]\[1\] is inf.*Use None"),
        (np.zeros(3), r"is a ndarray.*\.tolist\(\)"),
        ({1: "a"}, "has the key 1: keys must be text"),
        (b"bytes", "is a bytes"),
        ({"a": {"b": object()}}, r"x\['a'\]\['b'\] is a object"),
    ],
)
def test_values_that_json_lacks_are_refused(value, said):
    with pytest.raises((TypeError, ValueError), match=said):
        record("x", value)


def test_a_record_needs_a_name():
    with pytest.raises(ValueError, match="needs a name"):
        record(" ", 1)
    with pytest.raises(TypeError, match="name is text, not int"):
        record(3, 1)


def test_what_is_no_notebook_is_refused(tmp_path):
    (tmp_path / "cut.ipynb").write_text('{"cells": [')
    with pytest.raises(ValueError, match="not a readable notebook"):
        read_records(tmp_path / "cut.ipynb")
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "none.ipynb")
