"""Checks of exercises: what a reader wrote against numbers worked out by hand, and what went wrong.

A chapter goes on with the reader's function where it is right, and with the library's where not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

NO_HINTS: Mapping[str, ArrayLike] = {}


def checked(
    attempt: Callable[[], Any], right: ArrayLike, hints: Mapping[str, ArrayLike] = NO_HINTS
) -> bool:
    """Say what is wrong with an answer, in one line; return whether it is right.

    Args:
        attempt: Calls what the reader wrote, on inputs for which the answer is known.
        right: That answer, worked out by hand; a number or arrays of them.
        hints: What to say -> the wrong answer of whoever needs to hear it.
    """
    told = _told(attempt, right, hints)
    print(f"{told}. The library's is used." if told else "right: the chapter goes on with yours.")
    return not told


def _told(attempt: Callable[[], Any], right: ArrayLike, hints: Mapping[str, ArrayLike]) -> str:
    try:
        got = attempt()
        missing = got is None or any(each is None for each in np.ravel(np.array(got, dtype=object)))
        found = None if missing else np.asarray(got, dtype=float)
    except Exception as error:
        return f"not yet: {type(error).__name__}: {error}"
    if found is None:
        return "not solved yet"
    if _same(found, right):
        return ""
    known = [hint for hint, wrong in hints.items() if _same(found, wrong)]
    return known[0] if known else f"not yet: {found.tolist()}, and not {np.asarray(right).tolist()}"


def _same(found: np.ndarray, other: ArrayLike) -> bool:
    wanted = np.asarray(other, dtype=float)
    return found.shape == wanted.shape and np.allclose(found, wanted, rtol=1e-3, atol=2e-3)
