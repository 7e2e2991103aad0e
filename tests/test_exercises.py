"""Checks of exercises tell right from constant, nothing, a known mistake and an error."""

from __future__ import annotations

import numpy as np
import pytest

from alignment_tax import exercises

CASES = [((2, 3), 6), ((4, 5), 20, "four times five")]
MISTAKES = [(5, "that is the sum")]


def librarys(a, b):
    return a * b


def divide(a, b):
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize(
    ("yours", "said"),
    [
        (lambda a, b: a * b, "right"),
        (lambda a, b: np.float64(a * b), "right"),
        (lambda a, b: None, "not solved yet: multiply"),
        (lambda a, b: 6, "not yet: the first case is right, but four times five gives 20, not 6"),
        (lambda a, b: a + b, "not yet: that is the sum"),
        (lambda a, b: "six", "not yet: 2, 3 gives 6, not six"),
        (lambda a, b: [6], "not yet: 2, 3 gives 6, not [6]"),
        (divide, "not yet: it stops with ZeroDivisionError: by zero"),
    ],
)
def test_an_answer_is_diagnosed_and_used_only_if_it_is_right(capsys, yours, said):
    chosen = exercises.use(yours, librarys, CASES, MISTAKES, hint="multiply")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == said
    assert (chosen is yours) == (said == "right")
    assert lines[1].endswith("yours." if said == "right" else "the function of the library.")


def test_nothing_may_be_the_right_answer(capsys):
    none = [((0,), 0), ((1,), None)]
    assert exercises.check(lambda n: 0 if n == 0 else None, none, hint="")
    assert not exercises.check(lambda n: None, none, hint="")
    assert "not solved yet" in capsys.readouterr().out


def test_lists_with_holes_and_words_are_compared():
    assert exercises.same([1, None], [1.0001, None])
    assert not exercises.same([1, None], [None, 1])
    assert exercises.same("a b", "a b")
    assert not exercises.same([[1.0], [2.0, 3.0]], [[1.0], [2.0, 4.0]])
