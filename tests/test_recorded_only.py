"""The preset `recorded`: what is recorded is handed out, all else ends a cell with one line."""

import pytest
from conftest import refuses
from IPython.core.interactiveshell import InteractiveShell

from alignment_tax.pipeline.recorded_only import LeaveOut, LeftOut
from alignment_tax.pipeline.study import Study
from alignment_tax.results.recorded import recorded
from alignment_tax.spec import Spec


def test_points_and_items_are_those_recorded_and_no_model_is_made():
    study, rows = Study("recorded", 1), recorded().points
    (row,) = rows[(rows["seed"] == 1) & (rows["algorithm"] == "sft")].to_dict("records")
    assert study.point(Spec("sft"))["skill"] == row["skill"]
    scores = study.scores(Spec("sft"))
    assert scores.n_items == row["n_items"]
    assert scores.metrics["forgetting"] == pytest.approx(row["forgetting"], abs=1e-3)
    assert study.policy("base")
    refuses(LeftOut, "theta_0", study.policy, "sft")
    refuses(LeftOut, "rsf round 99", study.point, Spec("rsf", 99))
    refuses(ValueError, r"Seed 77 is not recorded: choose from \[0, 1", Study, "recorded", 77)


@pytest.fixture
def shell():
    shell = InteractiveShell()
    shell.push({"LeftOut": LeftOut})
    shell.ast_transformers.append(LeaveOut(shell.user_ns))
    return shell


def test_a_cell_ends_where_something_is_left_out(shell, capsys):
    made = shell.run_cell("""
def fails():
    raise LeftOut("theta_0")

first = stale = 1
second = fails()
stale = 2
""")
    assert made.success
    assert "Left out: this needs theta_0, which is not recorded." in capsys.readouterr().out
    assert shell.user_ns["first"] == 1
    # what an earlier cell had set would be shown as this cell's
    assert {"second", "stale"}.isdisjoint(shell.user_ns)
    assert shell.run_cell("third = stale + 1").success
    assert "Left out: this needs `stale`, left out above." in capsys.readouterr().out
    assert "third" not in shell.user_ns


def test_any_other_cell_is_what_it_was(shell):
    assert [shell.run_cell(code).result for code in ("", "x = 20\nx + 1")] == [None, 21]
    assert isinstance(shell.run_cell("1 / 0").error_in_exec, ZeroDivisionError)
    assert isinstance(shell.run_cell("nowhere").error_in_exec, NameError)
