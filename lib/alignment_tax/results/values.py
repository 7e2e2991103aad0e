"""Results leave a notebook through `record(name, value)` and are read back by `read_records`.

A record is an output of its own MIME type beside a text that a reader sees, so it survives
papermill and saving; nothing but nbformat is needed to read it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from alignment_tax.store import plain_json

SUMMARY = "run.json"  # of the folder of a run: every recorded value
MIME = "application/vnd.alignment-tax.record+json"


def value_text(value: Any) -> str:
    """Return a JSON value as one short line: floats with six significant digits."""
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def record(name: str, value: Any, **meta: Any) -> None:
    """Record a result: shown as "name = value", and kept where a run collects it.

    Outside a notebook it is printed.

    Args:
        name: what the value is called; recording a name again replaces it.
        value: plain JSON (numpy scalars are converted); no NaN, no infinity.
        meta: anything to keep beside it, for instance unit="points".

    Raises:
        TypeError: the name is no text, or the value is not plain JSON.
        ValueError: the name is empty, or a number is not finite.
    """
    if not isinstance(name, str):
        raise TypeError(f"A record's name is text, not {type(name).__name__}.")
    if not name.strip():
        raise ValueError("A record needs a name.")
    kept = {"name": name, "value": plain_json(value, name), "meta": plain_json(meta, name)}
    text = f"{name} = {value_text(kept['value'])}"
    # IPython is loaded in every notebook; importing it elsewhere would only cost time
    if "IPython" in sys.modules:
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is not None:
            display({MIME: kept, "text/plain": text}, raw=True)
            return
    print(text)


def read_records(notebook: Any) -> dict[str, Any]:
    """Return what an executed notebook (or its path) recorded, in order; of one name the last."""
    if isinstance(notebook, (str, Path)):
        import nbformat

        try:
            notebook = nbformat.read(notebook, as_version=4)
        except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError) as error:
            raise ValueError(f"{notebook} is not a readable notebook: {error}") from error
    records: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            kept = output.get("data", {}).get(MIME)
            if kept is not None:
                records[kept["name"]] = kept["value"]
    return records
