"""A reader's answer is told right from wrong, from missing and from broken."""

import numpy as np
import pytest

from alignment_tax.results.exercises import checked


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: np.array([1, 2.0]), "right: the chapter goes on with yours."),
        (lambda: [True, 2], "right: the chapter goes on with yours."),
        (lambda: [2, 1], "swapped. The library's is used."),
        (lambda: (1, np.array([2])), "right: the chapter goes on with yours."),
        (lambda: [3, 4], "not yet: 3, 4, and not 1, 2. The library's is used."),
        (lambda: 1.0, "not yet: 1, and not 1, 2. The library's is used."),
        (lambda: None, "not solved yet. The library's is used."),
        (lambda: [1, None], "not solved yet. The library's is used."),
        (lambda: 1 / 0, "not yet: ZeroDivisionError: division by zero. The library's is used."),
        (lambda: [[1], [1, 2]], "not yet: 1, 1, 2, and not 1, 2. The library's is used."),
    ],
)
def test_an_answer_is_told_what_it_is(answer, said, capsys):
    assert checked(answer, [1, 2], {"swapped": [2, 1]}) is said.startswith("right")
    assert capsys.readouterr().out.startswith(said)
