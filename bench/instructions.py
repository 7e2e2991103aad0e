"""What a processor's instructions change: `alignment-tax bench instructions`.

The same small pipeline (preset smoke, seed 0: theta_0, the reward model, a round of RSF) is trained
twice with AVX2, as the library asks for, and twice with AVX-512, each in a process of its own. What
was measured on other processors stays.
"""

import json
import tempfile
from pathlib import Path

from alignment_tax import settings
from alignment_tax.pipeline.study import Study
from alignment_tax.provenance import git_commit, processor
from alignment_tax.store import Store, read_json, say
from bench import Numbers, keep, kept, python

NAME, TIMES, WEIGHTS = "instruction_sets.json", 2, "model/model.safetensors"
#: What a library is told to use; the package sets what is not set yet.
INSTRUCTIONS = {
    name: {"ATEN_CPU_CAPABILITY": name, "ONEDNN_MAX_CPU_ISA": isa}
    | dict.fromkeys(("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"), name.upper())
    for name, isa in (("avx2", "AVX2"), ("avx512", "AVX512_CORE"))
}


def trained() -> Numbers:
    """Train in an empty store: rewards of theta_0's replies, and the sha256 of all weights."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study("smoke", 0, Store(Path(folder)))
        rsf = study.rsf(1)
        stages = {"theta_0": study.sft, "reward model": study.reward, "rsf": rsf}
        sums = {name: each.meta["files"][WEIGHTS]["sha256"] for name, each in stages.items()}
        more = {"processor": processor(), "commit": git_commit(settings.repo_root())}
        return {**read_json(rsf.path / "stats.json"), "sha256": sums, **more}


def run() -> int:
    """Train with each set of instructions, and write instruction_sets.json."""
    root, runs = settings.repo_root(), dict[str, list[Numbers]]()
    for name in [*INSTRUCTIONS] * TIMES:
        say(f"Training with {name} ...")
        said = python(["-m", "bench.instructions"], [root / "lib", root], **INSTRUCTIONS[name])
        runs.setdefault(name, []).append(json.loads(said.splitlines()[-1]))
    for name, earlier in kept(NAME).get("runs", {}).items():
        here = {each["processor"] for each in runs[name]}
        runs[name] = [each for each in earlier if each["processor"] not in here] + runs[name]
    return keep({"settings": INSTRUCTIONS, "runs": runs}, NAME)


if __name__ == "__main__":
    print(json.dumps(trained()))
