"""The checks of exercises in chapters 10 and 11: a message for every wrong answer."""

import re

import numpy as np
import pytest
import torch

from alignment_tax import settings
from alignment_tax.merge import theory
from alignment_tax.notebooks import read_notebook

CHAPTERS = {
    "10": "10_why_averaging_works",
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
    names = {"np": np, "torch": torch, "theory": theory, "FeatureModel": theory.FeatureModel}
    (check,) = [each for each in cells(chapter) if marker in each]
    exec(f"{answer}\n{check}", names)
    return names["message"]


@pytest.mark.parametrize("chapter", ["10", "11"])
def test_the_solutions_are_right_and_the_stubs_are_not(chapter):
    folded = [text for text in cells(chapter, "markdown") if "<details>" in text]
    solutions = [c for text in folded for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    assert len(solutions) == len(exercises(chapter))
    for solution, (stub, check) in zip(solutions, exercises(chapter), strict=False):
        assert told(chapter, check, stub).startswith("not solved yet")
        assert told(chapter, check, solution).startswith("right")


WRONG = ["None", "np.array([1.0, 0.2])", "1.0", "np.full(len(raw), alpha)", "raw", "0 * raw"]
FOR_THE_FIRST_ALONE = """
def project_by_hand(raw, alpha):
    return np.array([1.0, 0.1, 0.1]) if raw[0] == 0.9 else {}
"""


@pytest.mark.parametrize("answer", WRONG)
def test_a_wrong_projection_gets_a_message(answer):
    # everywhere, and only where the first example is right
    everywhere = f"def project_by_hand(raw, alpha):\n    return {answer}"
    for code in (everywhere, FOR_THE_FIRST_ALONE.format(answer)):
        said = told("11", "project_by_hand returns None", code)
        assert said
        assert said != "right"


SOFTMAX = "torch.softmax(scores, dim=0)"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"alpha * {SOFTMAX}", "these SUM to alpha"),
        (f"alpha * {SOFTMAX} / {SOFTMAX}.max()", "now the largest ratio is alpha"),
        (SOFTMAX, "their mean is 0.333"),
        (f"3 * alpha * {SOFTMAX}", "right for three blocks, wrong for two"),
        ("torch.full((len(scores),), alpha)", "now the largest ratio is alpha"),
        ("torch.tensor([0.3, 0.2, 0.1])", "the mean is right; the proportions"),
        (
            "len(scores) * alpha * torch.softmax(scores.detach(), dim=0)",
            "the numbers are right, but",
        ),
        ("np.array([0.48, 0.06, 0.06])", "a tensor of three"),
        ("0.2", "a tensor of three"),
    ],
)
def test_wrong_ratios_are_told_apart(body, message):
    answer = f"def my_ratios(scores, alpha):\n    return {body}"
    said = told("11", "my_ratios returns None", answer)
    assert said.startswith(message), said


LINE = "np.interp(alphas, [alphas[0], alphas[-1]], [values[0], values[-1]])"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"(values - {LINE}).mean()", "at the ends curve and line agree"),
        (f"({LINE} - values)[1:-1].mean()", "above the line is positive"),
        ("(values - np.linspace(values[0], values[-1], len(values)))[1:-1].mean()", "right where"),
        ("3", "right for the first curve"),
        (f"values - {LINE}", "one number is asked for"),
        ("values.mean()", "6.0 is not it"),
    ],
)
def test_wrong_bends_are_told_apart(body, message):
    said = told("10", "my_bend returns None", f"def my_bend(alphas, values):\n    return {body}")
    assert said.startswith(message), said


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 - alpha, 1, alpha", "these are averaged outputs"),
        ("alpha**2, 1, (1 - alpha) ** 2", "alpha is the wrong way round"),
        ("(1 - alpha) ** 2, (1 - alpha) ** 2 + alpha**2, alpha**2", "a shared feature has crossed"),
        ("0.64, 1, 0.04", "at alpha 0.2 that is it, but not at 0.6"),
        ("1, 4, 1", "(1, 4, 1) is not it"),
        ("0.5", "three numbers are asked for"),
    ],
)
def test_wrong_counts_are_told_apart(body, message):
    said = told("10", "my_counts returns None", f"def my_counts(alpha):\n    return {body}")
    assert said.startswith(message), said


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
    [(NEVER_SCALED, "wrong where nothing exceeds 1"), (THREE_PASSES, "stops too early")],
)
def test_ratios_that_are_right_for_easy_numbers_are_told_so(answer, message):
    assert told("11", "project_by_hand returns None", answer).startswith(message)
