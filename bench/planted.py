"""Which faults `alignment-tax regress` finds: `alignment-tax bench planted`.

Ten faults are planted in a copy of the checkout, one at a time. The chapter that teaches the faulty
code runs on smoke with seed 0, and is held against four seeds of the code as it is: by the rules of
`regress`, and by the spread over seeds alone, as on another machine. What is finished is kept.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from alignment_tax import settings
from alignment_tax.regress import TABLE, read_runs
from alignment_tax.stats import drift
from alignment_tax.stats.drift import Change, Held
from alignment_tax.store import say, write_whole
from bench import python
from bench.speed import NOT_COPIED

PRESET, SEEDS, OUT = "smoke", (0, 1, 2, 3), "planted_faults.csv"
PACKAGE = Path("lib/alignment_tax")


class Fault(NamedTuple):
    """A fault: in a file of the package some text stands for another; `chapter` teaches it."""

    name: str
    chapter: str
    file: str
    old: str
    new: str


#: A fault a paragraph: its name, chapter and file, the text there (-) and what stands for it (+).
TOLD = Path(__file__).with_name("faults.txt").read_text(encoding="utf-8").strip().split("\n\n")
FAULTS = [
    Fault(name, place[:2], place[3:], old.removeprefix("- "), new.removeprefix("+ "))
    for name, place, old, new in map(str.splitlines, TOLD)
]


@contextmanager
def planted(fault: Fault, checkout: Path) -> Iterator[None]:
    """Plant a fault in a checkout meanwhile (ValueError: its text is not there just once)."""
    path = checkout / PACKAGE / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.file} holds {fault.old!r} {text.count(fault.old)} times, not 1.")
    write_whole(path, text.replace(fault.old, fault.new))
    try:
        yield
    finally:
        write_whole(path, text)


def regress(checkout: Path, out: Path, *words: str) -> list[Change]:
    """Run regress in a checkout; return its changes. What it returns says whether any moved."""
    code = "import sys; from alignment_tax.cli import main; print(main(sys.argv[1:]))"
    line = ["regress", "--preset", PRESET, "--out", str(out), *words]
    said = python(["-c", code, *line], [checkout / "lib"], checkout)
    if said.split()[-1] not in ("0", "1"):
        raise RuntimeError(f"{' '.join(line)} ended with {said}")
    text = dict.fromkeys(("chapter", "was", "verdict"), str)
    rows = pd.read_csv(out / TABLE, dtype=text).fillna({"was": "", "verdict": ""})
    return [Change(**{str(k): v for k, v in row.items()}) for row in rows.to_dict("records")]


def over_seeds(out: Path, baseline: Path) -> list[Change]:
    """Hold the values of a run against the seeds of another as if no theta_0 were the same."""
    then = drift.by_place(read_runs(baseline, PRESET, SEEDS))
    now = drift.by_place(read_runs(out, PRESET, SEEDS[:1]))
    return drift.settled(drift.judge(p, then.get(p, Held({})), each, ()) for p, each in now.items())


def told(
    fault: Fault, changes: list[Change], spread: list[Change], failed: str
) -> dict[str, object]:
    """Return a row of the table: what moved most, in standard errors of the recorded spread."""
    moved = [each for each in changes if each.moved]
    own = [each for each in moved if each.chapter == fault.chapter] or moved
    finite = [each for each in own if np.isfinite(each.errors)]
    most = max(finite, key=lambda e: abs(e.errors)) if finite else next(iter(own), None)
    worst = Change(fault.chapter, failed, "", "") if most is None else most
    return {
        "fault": fault.name, "caught": bool(moved or failed), "chapter": worst.chapter,
        "value": worst.name, "standard_errors": round(worst.errors, 1),
        "how": "chapter failed" if failed else worst.how, "moved": len(moved),
        "caught_over_seeds": bool(failed) or any(each.moved for each in spread),
    }  # fmt: skip


def run() -> int:
    """Plant every fault, and write planted_faults.csv."""
    top = settings.runs_folder() / "planted"
    copy, baseline = top / "checkout", top / "baseline"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(settings.repo_root(), copy, ignore=shutil.ignore_patterns(*NOT_COPIED, ".git"))
    chapters = sorted({fault.chapter for fault in FAULTS})
    regress(copy, baseline, "--seeds", *map(str, SEEDS), "--only", *chapters)
    rows = []
    for number, fault in enumerate(FAULTS):
        say(f"[{number + 1}/{len(FAULTS)}] {fault.name} ...")
        out = top / str(number)
        with planted(fault, copy):
            changes = regress(copy, out, "--only", fault.chapter, "--baseline", str(baseline))
        every = {each["number"]: each for each in read_runs(out, PRESET, [0])[0]["chapters"]}
        ran = every[fault.chapter]
        failed = "" if ran["status"] == "ok" else f"{ran['cell']}: {ran['error']}"[:100]
        rows.append(told(fault, changes, over_seeds(out, baseline), failed))
        say(f"    {rows[-1]}")
    table = pd.DataFrame(rows)
    write_whole(settings.results_folder() / OUT, table.to_csv(index=False, lineterminator="\n"))
    print(table.to_string(index=False))
    return 0
