"""Executed notebooks go back into notebooks/ with their figures and without their debris.

A page on the web then shows the figures. What stays out: progress bars (standard error), execution
times, papermill's marks, widgets and their state. `alignment-tax outputs` does it after a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from alignment_tax import settings
from alignment_tax.store import write_whole

WIDGET = "application/vnd.jupyter.widget"


def is_debris(output: Any) -> bool:
    """Whether an output is a progress bar, or a widget, which is dead without its kernel."""
    is_widget = any(kind.startswith(WIDGET) for kind in output.get("data", {}))
    return is_widget or output.get("name") == "stderr"


def clean(executed: Any, source: Any) -> Any:
    """Return `source` with the outputs of `executed`, and nothing else of the run.

    Raises:
        ValueError: the two have other code cells, or the run ended in an error.
    """
    ran = [
        cell
        for cell in executed.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    if [cell.source for cell in ran] != [cell.source for cell in code]:
        raise ValueError("The notebook has changed since it was executed: run it again.")
    for number, (cell, done) in enumerate(zip(code, ran, strict=True), start=1):
        if any(output.output_type == "error" for output in done.outputs):
            raise ValueError("The run ended in an error: its outputs are not kept.")
        cell.outputs = [o for o in done.outputs if not is_debris(o)]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
        cell.execution_count = number
    source.metadata.pop("widgets", None)
    return source


def store(executed: Path, notebooks: Path) -> list[Path]:
    """Put the outputs of every executed notebook in `executed` into its source in `notebooks`."""
    stored = []
    for path in sorted(executed.glob("[0-9][0-9]_*.ipynb")):
        target = notebooks / path.name
        if not target.is_file():
            raise ValueError(f"{path.name} was executed, but there is no such notebook any more.")
        cleaned = clean(nbformat.read(path, 4), nbformat.read(target, 4))
        write_whole(target, nbformat.writes(cleaned) + "\n")
        stored.append(target)
    return stored


def main(arguments: Sequence[str] = ()) -> None:
    """Store the outputs of a run: what `alignment-tax outputs [FOLDER]` does."""
    parser = argparse.ArgumentParser(prog="alignment-tax outputs", description=store.__doc__)
    default = settings.runs_folder() / "tiny-seed0"
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="a finished run")
    folder = parser.parse_args(list(arguments)).folder
    for path in store(folder, settings.notebooks_folder()):
        print(f"kept the outputs of {path.name}")
