"""A class's runs, each student another seed, as one table, one figure and one page.

Chapter 09 records points and the aligned model's key, which the teacher's machine works out too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tqdm import tqdm

from alignment_tax import labels, presets
from alignment_tax.figures import alt_text, class_fronts, save
from alignment_tax.notebooks import CourseError, read_notebook
from alignment_tax.pipeline.study import Study
from alignment_tax.results.points import main_line
from alignment_tax.results.recorded import recorded
from alignment_tax.results.values import SUMMARY, read_records, read_run
from alignment_tax.spec import COLUMNS
from alignment_tax.stats import claims
from alignment_tax.stats.claim_list import CLAIMS
from alignment_tax.store import Artifact, Store, artifact_key, write_whole

#: What chapter 09 records, and the claims that a class is asked about.
RECORD = "handed_in"
ASKED = """
    gain.rsf.reward gain.rsf.gold tax.rsf.skill tax.rsf.forgetting average_vs_early.rsf.skill
    average_vs_early.rsf.forgetting average.rsf@0.4.gold
""".split()


class HandedIn(NamedTuple):
    """One run: whose, of which preset and seed, the key of its aligned model, and its points."""

    student: str
    preset: str
    seed: int
    key: str
    points: pd.DataFrame


class Keys(Store):
    """Knows what the key of every stage is, and makes none."""

    def get(self, stage: str, inputs: Any, make: Any, **told: Any) -> Artifact:
        """Return an artifact without files."""
        parents = {name: parent.key for name, parent in (told.get("parents") or {}).items()}
        key = artifact_key(stage, inputs, told.get("version", 1), parents)
        return Artifact(self.folder(stage, key), key, {})


def hand_in(points: pd.DataFrame, aligned: Artifact) -> dict[str, Any]:
    """Return what a chapter records of a study's points (columns COLUMNS) for `pool`."""
    rows = points[COLUMNS].astype(object)
    return {"key": aligned.key, "points": rows.where(rows.notna(), None).to_dict("list")}


def read(path: Path) -> list[HandedIn]:
    """Return the runs in a student's folder, or in one notebook (CourseError: there is none)."""
    files = [path] if path.is_file() else [*path.rglob(SUMMARY), *path.rglob("*.ipynb")]
    found: dict[tuple[int, str], HandedIn] = {}
    for file in sorted(files):
        try:
            if file.name == SUMMARY:
                kept = [chapter["records"] for chapter in read_run(file.parent)["chapters"]]
            else:
                kept = [read_records(read_notebook(file))]
            for given in (records[RECORD] for records in kept if RECORD in records):
                table, key = pd.DataFrame(given["points"], columns=COLUMNS), str(given["key"])
                for seed, own in table.groupby(table["seed"].astype(int)):
                    study = str(own["study"].iloc[0])
                    found[int(seed), key] = HandedIn(path.name, study, int(seed), key, own)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CourseError(f"{path.name}: {file.name} cannot be read ({error}).") from error
    if not found:
        text = "no run.json or notebook with the points of chapter 09 (preset recorded has none)"
        raise CourseError(f"{path.name}: {text}")
    return list(found.values())


def faults(handed: Sequence[HandedIn], preset: presets.Preset, seeds: Sequence[int]) -> list[str]:
    """Return what is wrong with runs, a line each: doubled or foreign seeds, other stages."""
    wrong, owners = [], dict[int, str]()
    for each in tqdm(handed, desc="checking", unit="run", leave=False):
        who = f"{each.student}: seed {each.seed}"
        if each.preset != preset.name:
            wrong.append(f"{who} is of preset {each.preset}, not {preset.name}")
        elif each.seed in owners:
            wrong.append(f"{who} is that of {owners[each.seed]} as well")
        elif seeds and each.seed not in seeds:
            wrong.append(f"{who} was given to nobody")
        elif each.key != Study(preset, each.seed, Keys(Path())).rsf(preset.rsf.rounds).key:
            why = "of another seed, of another version of the course, or with changed settings"
            wrong.append(f"{who} is of a model that these stages do not make: {why}")
        owners.setdefault(each.seed, each.student)
    return wrong


def pool(folder: Path, out: Path, preset: str = "tiny", seeds: Sequence[int] = ()) -> Path:
    """Write the class's table, figure and page into `out`, and return the page.

    `folder` holds a folder (or notebook) a student (CourseError: whose is not of preset and seeds).
    """
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    mine = [p for p in found if p.name[0] != "." and (p.is_dir() or p.suffix == ".ipynb")]
    handed = [run for path in mine for run in read(path)]
    if wrong := faults(handed, presets.get(preset), seeds):
        text = "\n".join(["These cannot be pooled, so nothing was written:", *wrong])
        raise CourseError(f"{text}\nTake them out of {folder}.")
    if len(handed) < 2:
        raise CourseError(f"{folder} needs the folders (or notebooks) of two students at least.")
    handed = sorted(handed, key=lambda each: each.seed)
    points = pd.concat([each.points.dropna(axis=1, how="all") for each in handed])
    points = points.reindex(columns=COLUMNS).reset_index(drop=True)
    theirs, figure = page(points, handed), class_fronts(points, main_line(recorded(preset).points))
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "points.csv", points.to_csv(index=False, float_format="%.6g"))
    save(figure, out / "front.png")
    write_whole(out / "README.md", f"{theirs}\n\n![{alt_text(figure)}](front.png)\n")
    return out / "README.md"


def page(points: pd.DataFrame, handed: Sequence[HandedIn]) -> str:
    """Return the class's claims beside the recorded ones, and whose seeds they come from."""
    preset, asked = handed[0].preset, [CLAIMS[name] for name in ASKED]
    run = recorded(preset)
    both = [claims.table(table, asked) for table in (points, run.points)]
    lines = []
    for name in (each for each in ASKED if all(each in set(found["id"]) for found in both)):
        rows = [claims.one(found, name) for found in both]
        said = [f"{claims.effect(row)}, {row['verdict']}" for row in rows]
        lines.append([str(rows[0]["claim"]), *said])
    owners = ", ".join(f"{each.seed} {each.student}" for each in handed)
    told = {"preset": preset, "count": len(handed), "key": run.key, "owners": owners}
    table = labels.markdown(["claim", "this class", "recorded"], lines)
    return labels.page("pool", **told, seeds=labels.seeds_text(run.seeds), claims=table)
