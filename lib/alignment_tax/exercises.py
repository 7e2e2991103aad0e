"""Exercises inside a chapter: a reader's function, tried on cases that were worked out by hand.

A case is (arguments, right answer) or (arguments, right answer, what the arguments are in words).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Cases = Sequence[tuple[Any, ...]]
Mistakes = Sequence[tuple[Any, str]]


def use(
    yours: Callable[..., Any],
    librarys: Callable[..., Any],
    cases: Cases,
    mistakes: Mistakes = (),
    *,
    hint: str,
) -> Callable[..., Any]:
    """Return, and name, the function a chapter goes on with: the reader's if `check` says right."""
    right = check(yours, cases, mistakes, hint=hint)
    print(f"The chapter goes on with {'yours' if right else 'the function of the library'}.")
    return yours if right else librarys


def check(yours: Callable[..., Any], cases: Cases, mistakes: Mistakes = (), *, hint: str) -> bool:
    """Return whether a function is right in every case; say so, or what is likely wrong.

    Args:
        yours: What the reader wrote; it may return None or raise.
        cases: The first is the one that the text asks about; others tell a constant from a rule.
        mistakes: Wrong answers to the first case, and what each means.
        hint: Said while there is no answer.
    """
    for place, (arguments, right, *words) in enumerate(cases):
        try:
            answer = yours(*arguments)
        except Exception as error:
            print(f"not yet: it stops with {type(error).__name__}: {error}")
            return False
        if answer is None and right is not None:
            print(f"not solved yet: {hint}")
            return False
        if same(answer, right):
            continue
        known = (said for wrong, said in mistakes if place == 0 and same(answer, wrong))
        given = words[0] if words else ", ".join(map(repr, arguments))
        first = "the first case is right, but " if place else ""
        answer = plain(answer)
        short = round(answer, 4) if isinstance(answer, float) else answer
        print(f"not yet: {next(known, f'{first}{given} gives {right}, not {short}')}")
        return False
    print("right")
    return True


def same(answer: Any, right: Any) -> bool:
    """Return whether two answers are equal; numbers, and lists of them, to a thousandth."""
    answer, right = plain(answer), plain(right)
    try:
        found, wanted = (np.asarray(each, dtype=float) for each in (answer, right))
    except (TypeError, ValueError):
        return bool(answer == right)
    alike = found.shape == wanted.shape
    return alike and np.allclose(found, wanted, rtol=0, atol=1e-3, equal_nan=True)


def plain(answer: Any) -> Any:
    """Return the Python numbers of an array or a tensor; anything else itself."""
    return answer.tolist() if hasattr(answer, "tolist") else answer
