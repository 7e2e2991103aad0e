"""`alignment-tax merge` beside mergekit's `linear` and `cp`, on checkpoints made up from a seed.

mergekit has an environment of its own (`pip install torch==2.13.0 mergekit==0.1.5`). Processes
are timed whole and in turn, on files just read; on a busy machine look at processor seconds.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from alignment_tax import settings
from alignment_tax.merge.checkpoint import Recipe, mergekit_config
from alignment_tax.provenance import provenance
from alignment_tax.weights import open_checkpoint
from bench import UNIT, Numbers, keep, kept, python

WIDTH, INNER, TOKENS = 1024, 2816, 16_384
ALPHA, NAME = 0.6, "bench.json"
#: A process of its own that starts a command: memory of this one would count as the command's.
LAUNCH = """import json, os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, used = os.wait4(child.pid, 0)
seconds, cpu = time.perf_counter() - start, used.ru_utime + used.ru_stime
print(json.dumps([seconds, status, cpu, used.ru_maxrss]))"""


def make_pair(folder: Path, gigabytes: float, dtype: str) -> list[Path]:
    """Write two Llama checkpoints of about this size, of random numbers, with a tokenizer."""
    layer, kind = WIDTH * (4 * WIDTH + 3 * INNER + 2), {"BF16": torch.bfloat16, "F32": None}[dtype]
    count = gigabytes * 1e9 / (4 if kind is None else 2) - TOKENS * WIDTH
    sizes: Numbers = {"hidden_size": WIDTH, "intermediate_size": INNER, "vocab_size": TOKENS}
    sizes |= {"num_attention_heads": 16, "num_hidden_layers": max(1, round(count / layer))}
    config = LlamaConfig(**sizes, tie_word_embeddings=True)
    ends = [folder / name for name in ("before", "after")]
    for seed, end in enumerate(ends):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=kind or torch.float32)
        model.save_pretrained(end, max_shard_size="50GB")
        for file in settings.base_folder().glob("tokenizer*.json"):
            shutil.copy(file, end)
    return ends


def watched(command: list[str]) -> Numbers:
    """Run a command; return its wall seconds, processor seconds and peak memory in MB."""
    seconds, status, cpu, peak = json.loads(python(["-S", "-c", LAUNCH, *command], []))
    if status:
        raise RuntimeError(f"{' '.join(command)[:300]} failed ({status}).")
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak * UNIT / 1e6}


def run(mergekit: Path, runs: int = 5, large: float = 2.0, out: Path | None = None) -> int:
    """Measure, and write what came out into bench.json under `merge`."""
    ours = [sys.executable, "-m", "alignment_tax", "merge"]
    found: Numbers = {"runs": runs, "raw": {}}
    for name, size, dtype in (("large", large, "BF16"), ("bf16", 0.5, "BF16"), ("f32", 0.5, "F32")):
        with tempfile.TemporaryDirectory(dir=settings.results_folder()) as scratch:
            ends, made = make_pair(Path(scratch), size, dtype), Path(scratch) / "made"
            config = Path(scratch) / "mergekit.yaml"
            one, two = map(open_checkpoint, ends)
            config.write_text(mergekit_config(one, two, Recipe(ALPHA)))
            merge = [*ours, *map(str, ends), "--alpha", str(ALPHA), "--out"]
            commands = {"ours": merge, "start": [*ours, "--help"]}
            cp, other = ["cp", "-r", str(ends[1])], [str(mergekit), str(config)]
            commands |= {"cp": cp} if name == "large" else {"mergekit": other}
            raw: dict[str, list[Numbers]] = {each: [] for each in commands}
            for _ in range(runs):
                for each, command in commands.items():
                    raw[each].append(watched(command if each == "start" else [*command, str(made)]))
                    shutil.rmtree(made, ignore_errors=True)
            found["raw"][name] = raw

        middle = pd.DataFrame({each: pd.DataFrame(rows).median() for each, rows in raw.items()})
        seconds, cpu, peaks = (middle.loc[each] for each in ("seconds", "cpu_seconds", "peak_mb"))
        own = found[name] = {"peak_mb": peaks["ours"]}
        if name == "large":
            own["over_cp"] = (seconds["ours"] - seconds["start"]) / seconds["cp"]
        else:
            own["times_mergekit_linear"] = seconds["mergekit"] / seconds["ours"]
            own["times_mergekit_linear_cpu"] = cpu["mergekit"] / cpu["ours"]
            own["peak_over_mergekit"] = peaks["ours"] / peaks["mergekit"]
        print(name, json.dumps(own))
        keep({**kept(NAME, out), "merge": found | {"provenance": provenance()}}, NAME, out)
    return 0
