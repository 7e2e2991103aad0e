"""The checks of chapter 11's exercises: a message for every wrong answer, none of them an error."""

from __future__ import annotations

import re

import numpy as np
import pytest

from alignment_tax import settings
from alignment_tax.notebooks import read_notebook

NOTEBOOK = settings.notebooks_folder() / "11_a_ratio_per_block.ipynb"
# answer of exercise 1 for the first example, and the right one's ratios for the others
WRONG = ["None", "np.array([1.0, 0.2])", "1.0", "'later'", "np.full(len(raw), alpha)"]
FOR_THE_FIRST_ALONE = """
def project_by_hand(raw, alpha):
    return np.array([1.0, 0.1, 0.1]) if raw[0] == 0.9 else {}
"""


def checks() -> list[tuple[str, str]]:
    """Return the stub and the check of every exercise."""
    sources = [c.source for c in read_notebook(NOTEBOOK).cells if c.cell_type == "code"]
    return [(sources[i - 1], each) for i, each in enumerate(sources) if "not solved yet" in each]


def said(code: str, check: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a check prints of an answer; `near` is defined in the first of them."""
    names: dict[str, object] = {"np": np}
    exec(checks()[0][0] + "\n" + checks()[0][1], names)
    capsys.readouterr()
    exec(code, names)
    exec(check, names)
    return capsys.readouterr().out.strip()


def test_stubs_and_solutions(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [c.source for c in read_notebook(NOTEBOOK).cells if c.cell_type == "markdown"]
    folded = [text for text in cells if "<details>" in text]
    solutions = [c for text in folded for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    for solution, (stub, check) in zip(solutions, checks(), strict=False):
        assert said(stub, check, capsys).startswith("not solved yet")
        assert said(solution, check, capsys).startswith("right")


@pytest.mark.parametrize("answer", WRONG)
def test_a_wrong_answer_gets_a_message(answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = checks()[:2]
    # everywhere, and only where the first example is right
    for code in (f"def project_by_hand(raw, alpha):\n    return {answer}",
                 FOR_THE_FIRST_ALONE.format(answer)):  # fmt: skip
        assert not said(code, first[1], capsys).startswith("right:")
        assert said(code, first[1], capsys) not in ("", "right")
    code = f"def repaired_ratios(raw, alpha, eps):\n    return {answer}"
    assert not said(code, second[1], capsys).startswith("right:")


NEVER_SCALED = """
def project_by_hand(raw, alpha):
    ratios = len(raw) * alpha * raw
    while (ratios > 1 + 1e-12).any():
        full = ratios >= 1
        over = (ratios[full] - 1).sum()
        ratios[full] = 1
        if not full.all():
            ratios[~full] *= 1 + over / ratios[~full].sum()
    return ratios
"""
THREE_PASSES = """
def project_by_hand(raw, alpha):
    full = np.zeros(len(raw), dtype=bool)
    for _ in range(3):
        ratios = np.where(full, 1.0, raw * (len(raw) * alpha - full.sum()) / raw[~full].sum())
        full |= ratios > 1
    return ratios
"""


@pytest.mark.parametrize(
    ("answer", "message"),
    [(NEVER_SCALED, "right where raw sums to 1"), (THREE_PASSES, "stops too early")],
)
def test_answers_that_are_right_for_easy_numbers_are_told_so(
    answer: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(answer, checks()[0][1], capsys).startswith(message)
