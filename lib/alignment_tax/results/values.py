"""Results leave a notebook through `record(name, value)`; two runs' can be compared.

A record is an output of its own MIME type beside a text that a reader sees, so it survives
papermill and saving; nothing but nbformat is needed to read it.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from alignment_tax.labels import value_text
from alignment_tax.store import plain_json

SUMMARY = "run.json"  # of the folder of a run: every recorded value
MIME = "application/vnd.alignment-tax.record+json"
LONGEST = 1000  # letters of a value that are shown; all of it is kept


def record(name: str, value: Any, **meta: Any) -> None:
    """Record a result: shown as "name = value", and kept where a run collects it.

    `value` and `meta` (anything beside it, for instance unit="points") are plain JSON; a name that
    is recorded again is replaced. TypeError, ValueError: no name, not plain JSON, or not finite.
    """
    if not isinstance(name, str):
        raise TypeError(f"A record's name is text, not {type(name).__name__}.")
    if not name.strip():
        raise ValueError("A record needs a name.")
    kept = {"name": name, "value": plain_json(value, name), "meta": plain_json(meta, name)}
    text = f"{name} = {value_text(kept['value'])}"
    text = text[:LONGEST] + " ..." * (len(text) > LONGEST)
    # IPython is loaded in every notebook; importing it elsewhere would only cost time
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from IPython.display import display

        display({MIME: kept, "text/plain": text}, raw=True)
    else:
        print(text)


def read_records(notebook: Any) -> dict[str, Any]:
    """Return what an executed notebook recorded, in order; of one name the last."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kept = [each["data"][MIME] for each in outputs if MIME in each.get("data", {})]
    return {each["name"]: each["value"] for each in kept}


# --- two runs side by side: `alignment-tax compare FIRST SECOND` ----------------------------------
MISSING = "no value"


class CompareError(ValueError):
    """Raised for folders that hold no run, or runs that cannot be compared."""


class Difference(NamedTuple):
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
        needed = "give a folder that `alignment-tax run` wrote"
        raise CompareError(f"{path} is not there or no summary of a run: {needed}.") from error


def differences(
    first: dict[str, Any], second: dict[str, Any], tolerance: float = 0.0
) -> list[Difference]:
    """Return the recorded values that differ, in the order of the chapters.

    Numbers are alike if they differ by no more than `tolerance`, or `tolerance` times the larger.
    Runs of another preset or seed, and runs without a value in both, are a CompareError.
    """
    for name in ("preset", "seed"):
        if first[name] != second[name]:
            raise CompareError(f"The first has {name} {first[name]}, the second {second[name]}.")
    one, other = (dict(values(run)) for run in (first, second))
    if not one and not other:
        raise CompareError("Neither run holds a recorded value: was any chapter executed?")
    both = [Difference(at, one.get(at, MISSING), other.get(at, MISSING)) for at in one | other]
    return [each for each in both if not _alike(each.first, each.second, tolerance)]


def values(run: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every recorded value of a run: chapter and name, and a number, a text, ..."""
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
    if {type(left), type(right)} <= {int, float}:
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
    return type(left) is type(right) and left == right
