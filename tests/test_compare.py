"""Two runs of the course side by side: what differs is named, and the exit status says so."""

import json

from conftest import refuses

from alignment_tax.cli import main
from alignment_tax.results.values import CompareError, Difference, differences, read_run


def run_with(records, preset="tiny", seed=0):
    chapters = [{"number": "05", "records": records}, {"number": "09", "records": {}}]
    return {"preset": preset, "seed": seed, "chapters": chapters}


def test_what_differs_is_named_down_to_the_number():
    first = run_with({"tax": 14.0, "by": {"bleu": [1.0, 2.0]}, "verdict": "holds", "gone": 1})
    second = run_with({"tax": 14.0, "by": {"bleu": [1.0, 2.5]}, "verdict": "inconclusive"})
    assert differences(first, second) == [
        Difference("05 by: bleu: 2", 2.0, 2.5),
        Difference("05 verdict", "holds", "inconclusive"),
        Difference("05 gone", 1, "no value"),
    ]
    assert differences(first, first) == []


def test_the_tolerance_is_absolute_and_a_share_of_the_larger_number():
    nan = float("nan")
    # what should be 0 is 1e-9 elsewhere; a number that becomes a truth value is another value
    for first, second, tolerance, differ in (
        (100.0, 101.0, 0.009, True), (100.0, 101.0, 0.01, False), (0.0, 0.0, 0.01, False),
        (0.0, 1e-9, 1e-6, False), (0.0, 1e-9, 0.0, True), (nan, nan, 0.0, False),
        (1, True, 0.0, True),
    ):  # fmt: skip
        found = differences(run_with({"x": first}), run_with({"x": second}), tolerance)
        assert [each.place for each in found] == ["05 x"] * differ


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    one = run_with({"x": 1})
    for first, second, said in (
        (one, run_with({"x": 1}, seed=1), "seed 0, the second 1"),
        (one, run_with({"x": 1}, preset="smoke"), "preset tiny, the second smoke"),
        (run_with({}), run_with({}), "Neither run"),
    ):
        refuses(CompareError, said, differences, first, second)
    (tmp_path / "run.json").write_text("{}")
    refuses(CompareError, "no summary", read_run, tmp_path)


def test_the_command_prints_and_returns_what_it_found(tmp_path, capsys):
    for name, tax in (("first", 14.0), ("second", 13.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(run_with({"tax": tax})))
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert main(["compare", first, first]) == 0
    assert "All are the same." in capsys.readouterr().out
    assert main(["compare", first, second]) == 1
    assert "05 tax\n    14.0 -> 13.0\nRecorded values that differ: 1." in capsys.readouterr().out
    assert main(["compare", first, second, "--tolerance", "0.1"]) == 0
