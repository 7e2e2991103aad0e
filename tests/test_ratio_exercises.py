"""The checks of exercises in chapter 11: a message for every wrong answer."""

import re

import numpy as np
import pytest
import torch

from alignment_tax import settings
from alignment_tax.notebooks import read_notebook

CHAPTERS = {
    "11": "11_a_ratio_per_block",
}


def cells(chapter, kind="code"):
    notebook = read_notebook(settings.notebooks_folder() / f"{CHAPTERS[chapter]}.ipynb")
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def exercises(chapter):
    """The stub and the check of every exercise."""
    sources = cells(chapter)
    return [(sources[i - 1], each) for i, each in enumerate(sources) if "not solved yet" in each]


def told(chapter, marker, answer):
    """What the check that holds `marker` says of an answer."""
    names = {"np": np, "torch": torch}
    if chapter == "11":  # `near` is defined in the first of its checks
        exec("\n".join(exercises(chapter)[0]), names)
    (check,) = [each for each in cells(chapter) if marker in each]
    exec(f"{answer}\n{check}", names)
    return names["message"]


@pytest.mark.parametrize("chapter", ["11"])
def test_the_solutions_are_right_and_the_stubs_are_not(chapter):
    folded = [text for text in cells(chapter, "markdown") if "<details>" in text]
    solutions = [c for text in folded for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    assert len(solutions) > 1
    for solution, (stub, check) in zip(solutions, exercises(chapter), strict=False):
        assert told(chapter, check, stub).startswith("not solved yet")
        assert told(chapter, check, solution).startswith("right")


WRONG = ["None", "np.array([1.0, 0.2])", "1.0", "'later'", "np.full(len(raw), alpha)"]
FOR_THE_FIRST_ALONE = """
def project_by_hand(raw, alpha):
    return np.array([1.0, 0.1, 0.1]) if raw[0] == 0.9 else {}
"""


@pytest.mark.parametrize("answer", WRONG)
def test_a_wrong_ratio_gets_a_message(answer):
    (_, first), (_, second) = exercises("11")[:2]
    # everywhere, and only where the first example is right
    everywhere = f"def project_by_hand(raw, alpha):\n    return {answer}"
    for code in (everywhere, FOR_THE_FIRST_ALONE.format(answer)):
        said = told("11", first, code)
        assert said
        assert not said.startswith("right:")
        assert said != "right"
    code = f"def repaired_ratios(raw, alpha, eps):\n    return {answer}"
    assert not told("11", second, code).startswith("right:")


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
def test_ratios_that_are_right_for_easy_numbers_are_told_so(answer, message):
    assert told("11", exercises("11")[0][1], answer).startswith(message)
