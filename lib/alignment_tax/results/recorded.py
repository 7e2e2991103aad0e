"""The recorded results in data/results: tables, how rows are added, where they came from."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from alignment_tax import settings
from alignment_tax.results.points import curve_rows, with_rsf
from alignment_tax.spec import COLUMNS, NAMED, block_count
from alignment_tax.store import ArtifactError, digest, file_digest, write_whole

T = TypeVar("T")
#: The tables in CSV, and what names a row of each.
TABLES = {
    "points": NAMED,
    "rounds": ["seed", "algorithm", "rounds"],
    "costs": NAMED,
    "kl": NAMED,
    "replies": ["seed", "algorithm", "method", "alpha", "slot"],
}


class RecordError(ArtifactError):
    """What is recorded already does not fit what is to be added; the message says what to do."""


@dataclass(frozen=True)
class Recorded:
    """The recorded run of a preset: tables that figures are drawn from, and where they came from.

    One row per: evaluated model (points), round of RLHF, held-out preference pair, model trained
    under a remedy (costs), reply of a few models. `points` have the columns of kl.csv, too, of the
    main line: forward_kl, entropy (nats a reply), ece, probe (points; `scores.calibration`).
    `provenance` is of the call that made the tables, `calls` are all; `key` see `recording_key`.
    """

    points: pd.DataFrame
    rounds: pd.DataFrame
    pairs: pd.DataFrame
    provenance: dict[str, Any]
    calls: list[dict[str, Any]] = field(default_factory=list)
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)
    replies: pd.DataFrame = field(default_factory=pd.DataFrame)
    key: str = ""

    def curve(self, method: str, seed: int, reward: str = "reward") -> np.ndarray:
        """(reward, skill) of a method's `curve_rows` for one seed, from theta_0 on, (n, 2)."""
        return curve_rows(self.points, method, seed)[[reward, "skill"]].to_numpy(dtype=float)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the course's main line: those with RSF (all, if there is no RSF at all)."""
        return sorted(with_rsf(self.points)["seed"].unique().tolist())


def recorded(preset: str = "tiny") -> Recorded:
    """Read the recorded run of a preset; FileNotFoundError names the command that makes it."""
    folder = settings.results_folder() / preset
    if not all((folder / name).is_file() for name in ("points.csv", "provenance.json")):
        told = f"There is no recorded run in {folder}."
        raise FileNotFoundError(f"{told} Make it with: alignment-tax record {preset}")
    tables = {name: read_table(folder / f"{name}.csv") for name in TABLES}
    if len(kl := tables.pop("kl")):
        tables["points"] = tables["points"].merge(kl.astype({"part": object}), "left", NAMED)
    pairs, calls = _intact(folder / "pairs.parquet", pd.read_parquet), read_calls(folder)
    key = recording_key(preset)
    return Recorded(**tables, pairs=pairs, provenance=calls[0], calls=calls, key=key)


def recording_key(preset: str = "tiny") -> str:
    """Return the stamp (8 hex digits) of a recording, which pages, figures and notebooks bear."""
    folder = settings.results_folder() / preset
    return digest([file_digest(folder / name) for name in ("points.csv", "provenance.json")])[:8]


def recorded_items(preset: str = "tiny") -> pd.DataFrame:
    """Read the items of a preset's run, a row per model, slot and item (or FileNotFoundError)."""
    path = settings.results_folder() / preset / "items.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Make it with: alignment-tax record {preset}")
    return _intact(path, pd.read_parquet)


def read_table(path: Path) -> pd.DataFrame:
    """Return a stored table (RecordError: it is damaged), an empty one if there is none."""
    if not path.is_file():
        return pd.DataFrame()
    return _intact(path, lambda path: pd.read_csv(path, dtype={"key": str}))


def _intact(path: Path, read: Callable[[Path], T]) -> T:
    """Return what `read` makes of a file (RecordError: it is damaged)."""
    try:
        return read(path)
    except (ValueError, OSError) as error:  # those of pandas and pyarrow are ValueErrors
        why = " ".join(str(error).split())
        told = f"{path} is damaged ({why}): get it back (git checkout), or record it again."
        raise RecordError(told) from error


def read_calls(folder: Path) -> list[dict[str, Any]]:
    """Return one entry for each call that made the tables; none without tables."""
    path = folder / "provenance.json"
    found = _intact(path, lambda p: json.loads(p.read_text("utf-8"))) if path.is_file() else []
    return found if isinstance(found, list) else [found]


def write_calls(folder: Path, calls: Sequence[Mapping[str, Any]]) -> None:
    """Write what `read_calls` reads, whole or not at all."""
    write_whole(folder / "provenance.json", json.dumps(list(calls), indent=2) + "\n")


# --- adding rows ----------------------------------------------------------------------------------
def merge_results(source: Path, preset: str) -> list[int]:
    """Merge tables of another `alignment-tax record` into those of the preset; return their seeds.

    RecordError, and nothing is written: another preset, or another theta_0 of a seed.
    """
    folder = settings.results_folder() / preset
    fresh = {name: read_table(source / f"{name}.csv") for name in TABLES}
    points, calls = fresh["points"], read_calls(source)
    pairs, items = source / "pairs.parquet", source / "items.parquet"
    if points.empty or not calls or not (pairs.is_file() and items.is_file()):
        needs = "it needs points.csv, items.parquet, pairs.parquet and provenance.json"
        raise RecordError(f"{source} holds no recorded run: {needs}.")
    if lacking := [name for name in COLUMNS if name not in points]:
        raise RecordError(
            f"{source / 'points.csv'} lacks the column {lacking[0]!r} ({len(lacking)} such). "
            "Record these seeds again with this version."
        )
    if (studies := ", ".join(sorted(set(points["study"])))) != preset:
        raise RecordError(f"{source} was recorded with preset {studies}, not {preset}: name it.")
    stored = read_table(folder / "points.csv")
    seeds = sorted(int(seed) for seed in set(points["seed"]))
    for seed in seeds:
        theirs = points[(points["seed"] == seed) & (points["algorithm"] == "sft")]
        if theirs.empty:
            raise RecordError(f"{source} has no theta_0 (algorithm sft) of seed {seed}.")
        if changed := other_start(stored, theirs.iloc[0].to_dict()):
            told = f"Seed {seed} is stored here with another theta_0 ({changed}) than in {source}"
            raise RecordError(f"{told}. Nothing was added: record a seed without rows here.")
    folder.mkdir(parents=True, exist_ok=True)
    read = [_intact(path, pd.read_parquet) for path in (pairs, items)]
    write_tables(folder, fresh, read[0], read[1])
    own = read_calls(folder)
    write_calls(folder, own + [call for call in calls if call not in own])
    return seeds


def other_start(stored: pd.DataFrame, theta_0: Mapping[Any, Any]) -> str:
    """Say in which columns the stored theta_0 of a seed is another one; "" if none is stored."""
    if not stored.empty:
        stored = stored[(stored["seed"] == theta_0["seed"]) & (stored["algorithm"] == "sft")]
    if stored.empty:
        return ""
    both = [(n, written(stored.iloc[0].get(n)), written(theta_0[n])) for n in COLUMNS]
    return ", ".join([f"{n} {then} -> {now}" for n, then, now in both if then != now][:3])


def written(value: Any) -> str:
    """Return a value as it stands in a table: nothing for a missing one, six digits of a number."""
    if pd.isna(value):
        return ""
    return f"{float(value):.6g}" if isinstance(value, (int, float, np.number)) else str(value)


def merge_rows(
    stored: pd.DataFrame, fresh: pd.DataFrame, identity: Sequence[str] = tuple(NAMED)
) -> pd.DataFrame:
    """Return stored rows and fresh ones, by seed; a fresh one takes the place of its like."""
    if stored.empty:
        return fresh
    every = [*stored.to_dict("records"), *fresh.to_dict("records")]
    rows = {identified(row, identity): row for row in every}  # a replaced row keeps its place
    # a column that only one of the two has is not lost: rounds of PPO say other things than RSF's
    columns = list(dict.fromkeys([*stored.columns, *fresh.columns]))
    table = pd.DataFrame(list(rows.values()), columns=columns)
    return table.sort_values("seed", kind="stable", ignore_index=True)


def identified(row: Mapping[Any, Any], identity: Sequence[str]) -> tuple[str, ...]:
    """Return what names the model of a row among those of a table."""
    # other ratios of as many blocks, of the same mean to two decimals (`hma_released` holds it no
    # better), are the same model found anew
    names = {column: written(row[column]) for column in identity}
    if blocks := block_count(row.get("part")):
        names |= {"part": f"K={blocks}", "alpha": f"{row['alpha']:.2f}"}
    return tuple(names[column] for column in identity)


def write_tables(
    folder: Path, tables: Mapping[str, pd.DataFrame], pairs: pd.DataFrame, items: pd.DataFrame,
    fresh: bool = False,
) -> None:  # fmt: skip
    """Write rows into the tables (of `TABLES`) of a folder, beside those there unless `fresh`.

    Pairs of the same seeds are replaced, and items of models without a point dropped.
    """
    merged: dict[str, pd.DataFrame] = {}
    for name, rows in tables.items():
        path = folder / f"{name}.csv"
        if rows.empty and fresh:
            path.unlink(missing_ok=True)
        elif not rows.empty:
            merged[name] = rows if fresh else merge_rows(read_table(path), rows, TABLES[name])
    if not fresh:
        seeds = set(pairs["seed"])
        pairs = _beside(folder / "pairs.parquet", pairs, lambda old: ~old["seed"].isin(seeds))
        kept = _models(merged.get("points", tables["points"])).difference(_models(items))
        items = _beside(folder / "items.parquet", items, lambda old: _models(old).isin(kept))
    # points last: a call that is killed in between leaves items without a point, never the reverse
    for name, rows in (("items", items), ("pairs", pairs)):
        rows.to_parquet(temporary := folder / f".{name}.parquet.tmp", index=False)
        temporary.replace(folder / f"{name}.parquet")
    for name in sorted(merged, key=lambda name: name == "points"):
        write_whole(folder / f"{name}.csv", merged[name].to_csv(index=False, float_format="%.6g"))


def _models(table: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(table[["seed", "key"]].astype({"key": str}))


def _beside(path: Path, rows: pd.DataFrame, keep: Callable[[pd.DataFrame], Any]) -> pd.DataFrame:
    """Return the rows of a stored parquet table that are kept, and the new ones behind them."""
    if not path.is_file():
        return rows
    stored = _intact(path, pd.read_parquet)
    text = dict.fromkeys(stored.select_dtypes("category").columns, "object")
    both = [stored[keep(stored)].astype(text), rows.astype(text)]
    return pd.concat(both, ignore_index=True).astype(dict.fromkeys(text, "category"))
