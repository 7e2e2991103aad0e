"""The recorded results as they are read from data/results: tables, and where they came from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alignment_tax import settings
from alignment_tax.results.points import curve_rows
from alignment_tax.spec import NAMED

#: What names a model in the table of points: a row with the same values is the same model.
IDENTITY = NAMED
#: The tables in CSV, and what names a row of each.
TABLES = {
    "points": IDENTITY,
    "rounds": ["seed", "algorithm", "rounds"],
    "costs": IDENTITY,
    "kl": IDENTITY,
}


def read_table(path: Path) -> pd.DataFrame:
    """Return a stored table, an empty one if there is none."""
    return pd.read_csv(path, dtype={"key": str}) if path.is_file() else pd.DataFrame()


def read_calls(folder: Path) -> list[dict[str, Any]]:
    """Return one entry for each call that made the tables; none without tables."""
    path = folder / "provenance.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, list) else [found]


@dataclass(frozen=True)
class Recorded:
    """The recorded run of a preset: tables that figures are drawn from, and where they came from.

    `points` has one row per evaluated model, `rounds` one per RSF round, `pairs` one per held-out
    preference pair (seed, kind, margin). `costs` has one row per model trained under a remedy
    (what names it, steps, seconds, peak_memory_mb), `kl` one per model with a forward KL (what
    names it, forward_kl in nats a reply). `provenance` tells of the call that made the
    tables, `calls` of that and of all that added to them.
    """

    points: pd.DataFrame
    rounds: pd.DataFrame
    pairs: pd.DataFrame
    provenance: dict[str, Any]
    calls: list[dict[str, Any]] = field(default_factory=list)
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)
    kl: pd.DataFrame = field(default_factory=pd.DataFrame)

    def curve(self, method: str, seed: int, reward: str = "reward") -> np.ndarray:
        """(reward, skill) of every point of a method for one seed, from theta_0 on, shape (n, 2).

        `method` is average, early_stopping (the RSF rounds as trained) or a remedy: see
        `curve_rows`.
        """
        return curve_rows(self.points, method, seed)[[reward, "skill"]].to_numpy(dtype=float)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the course's main line: those with RSF (all, if there is no RSF at all).

        Further seeds may hold theta_0 and other algorithms alone.
        """
        rsf = self.points.loc[self.points["algorithm"] == "rsf", "seed"]
        return sorted({int(seed) for seed in (rsf if len(rsf) else self.points["seed"])})


def recorded(preset: str = "tiny") -> Recorded:
    """Read the recorded run of a preset from data/results.

    Raises:
        FileNotFoundError: there is none; names the command that makes it.
    """
    folder = settings.results_folder() / preset
    if not all((folder / name).is_file() for name in ("points.csv", "provenance.json")):
        raise FileNotFoundError(
            f"There is no recorded run of {preset!r} in {folder}. Make it with: "
            f"alignment-tax record {preset}"
        )
    calls = read_calls(folder)
    return Recorded(
        read_table(folder / "points.csv"),
        pd.read_csv(folder / "rounds.csv"),
        pd.read_parquet(folder / "pairs.parquet"),
        calls[0],
        calls,
        read_table(folder / "costs.csv"),
        read_table(folder / "kl.csv"),
    )


def recorded_items(preset: str = "tiny") -> pd.DataFrame:
    """Read the items behind the recorded run of a preset: one row per model, slot and item.

    Raises:
        FileNotFoundError: there are none; names the command that makes them.
    """
    path = settings.results_folder() / preset / "items.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Make it with: alignment-tax record {preset}")
    return pd.read_parquet(path)
