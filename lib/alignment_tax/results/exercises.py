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
        parts = _parts(attempt())
        found = None if any(each is None for each in parts) else _numbers(parts)
    except Exception as error:
        return f"not yet: {type(error).__name__}: {error}"
    if found is None:
        return "not solved yet"
    if _same(found, right):
        return ""
    known = [hint for hint, wrong in hints.items() if _same(found, wrong)]
    wanted = _numbers(_parts(right))
    return known[0] if known else f"not yet: {_said(found)}, and not {_said(wanted)}"


def _parts(value: Any) -> list[Any]:
    """Return what lists and tuples hold, however deep."""
    if isinstance(value, (list, tuple)):
        return [part for each in value for part in _parts(each)]
    return [value]


def _numbers(parts: list[Any]) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(each, dtype=float)) for each in parts])


def _same(found: np.ndarray, other: ArrayLike) -> bool:
    wanted = _numbers(_parts(other))
    return found.shape == wanted.shape and np.allclose(found, wanted, rtol=1e-3, atol=2e-3)


def _said(numbers: np.ndarray) -> str:
    return ", ".join(f"{each:.4g}" for each in numbers)
