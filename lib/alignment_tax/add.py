"""Add the tables of a run that was recorded on another machine: `alignment-tax add tiny FOLDER`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from alignment_tax import presets, settings
from alignment_tax.pipeline import record


def main(arguments: Sequence[str] = ()) -> None:
    """Add rows that `alignment-tax record` wrote elsewhere to the recorded tables of a preset."""
    parser = argparse.ArgumentParser(prog="alignment-tax add", description=main.__doc__)
    parser.add_argument("preset", help=f"one of: {', '.join(presets.PRESETS)}")
    parser.add_argument("folder", type=Path, help="a folder data/results/<preset> from elsewhere")
    given = parser.parse_args(list(arguments))
    preset = presets.get(given.preset).name
    seeds = record.add(given.folder, preset)
    where = settings.results_folder() / preset
    print(f"The rows of seeds {', '.join(map(str, seeds))} are now in {where}.")
    print("Write them into the pages with: alignment-tax report")
