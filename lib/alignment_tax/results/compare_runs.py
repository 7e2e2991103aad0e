"""Compare the values that two runs of the course recorded: `alignment-tax compare FIRST SECOND`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment_tax.results.values import SUMMARY

MISSING = "no value"


class CompareError(ValueError):
    """Raised for folders that hold no run, or runs that cannot be compared."""


@dataclass(frozen=True)
class Difference:
    """A recorded value that two runs do not share: `place` is chapter and name of the value."""

    place: str
    first: Any
    second: Any


def read_run(folder: Path) -> dict[str, Any]:
    """Return what `alignment-tax run` wrote of itself into a folder; else a CompareError."""
    path = folder / SUMMARY
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        return {name: run[name] for name in ("preset", "seed", "chapters")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompareError(
            f"{path} is not there or is no summary of a run. Give a folder that `alignment-tax "
            "run` wrote."
        ) from error


def differences(
    first: dict[str, Any], second: dict[str, Any], tolerance: float = 0.0
) -> list[Difference]:
    """Return the recorded values that differ, in the order of the chapters.

    Numbers are alike if they differ by no more than `tolerance`, or `tolerance` times the larger.
    Runs of another preset or seed, and runs without a value in both, are a CompareError.
    """
    for name in ("preset", "seed"):
        if first[name] != second[name]:
            raise CompareError(
                f"The first run has the {name} {first[name]}, the second {second[name]}: only runs "
                "of one preset and seed can be compared."
            )
    one, other = (dict(_values(run)) for run in (first, second))
    if not one and not other:
        raise CompareError("Neither run holds a recorded value: was any chapter executed?")
    places = dict.fromkeys([*one, *other])
    both = [(place, one.get(place, MISSING), other.get(place, MISSING)) for place in places]
    return [
        Difference(place, left, right)
        for place, left, right in both
        if not _alike(left, right, tolerance)
    ]


def _values(run: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for chapter in run["chapters"]:
        for name, value in chapter["records"].items():
            yield from leaves(f"{chapter['number']} {name}", value)


def leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Take a recorded dict or list apart."""
    if isinstance(value, (dict, list)) and value:
        parts = value.items() if isinstance(value, dict) else enumerate(value, start=1)
        for key, each in parts:
            yield from leaves(f"{place}: {key}", each)
    else:
        yield place, value


def _alike(left: Any, right: Any, tolerance: float) -> bool:
    if _is_number(left) and _is_number(right):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
    return type(left) is type(right) and left == right


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
