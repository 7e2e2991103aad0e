"""`alignment-tax merge` beside mergekit's `linear` and `cp`, on checkpoints made up from a seed.

mergekit has an environment of its own (`pip install torch==2.13.0 mergekit==0.1.5`). Processes
are timed whole and in turn, on files just read; on a busy machine look at processor seconds.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from alignment_tax import settings
from alignment_tax.merge.checkpoint import Recipe, mergekit_config
from alignment_tax.provenance import provenance
from alignment_tax.store import write_whole
from alignment_tax.weights import WEIGHTS, open_checkpoint
from bench import Numbers, python

WIDTH, INNER, TOKENS = 1024, 2816, 16_384
ALPHA, CPU = 0.6, "cpu_seconds"
#: A process of its own that starts a command: memory of this one would count as the command's.
LAUNCH = """import json, os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, used = os.wait4(child.pid, 0)
seconds, cpu = time.perf_counter() - start, used.ru_utime + used.ru_stime
print(json.dumps([seconds, status, cpu, used.ru_maxrss]))"""
SIZES = {"BF16": 2, "F32": 4}  # bytes a number


def make_pair(folder: Path, gigabytes: float, dtype: str, seed: int = 0) -> list[Path]:
    """Write two Llama checkpoints of about this size, of random numbers, with a tokenizer."""
    layer: dict[str, tuple[int, ...]] = {
        f"self_attn.{each}_proj": (WIDTH, WIDTH) for each in "qkvo"
    }
    layer |= {f"mlp.{each}_proj": (INNER, WIDTH) for each in ("gate", "up")}
    layer |= {"mlp.down_proj": (WIDTH, INNER), "input_layernorm": (WIDTH,)}
    layer |= {"post_attention_layernorm": (WIDTH,)}
    each = SIZES[dtype] * sum(int(np.prod(shape)) for shape in layer.values())
    layers = max(1, round((gigabytes * 1e9 - SIZES[dtype] * TOKENS * WIDTH) / each))
    shapes = {"embed_tokens": (TOKENS, WIDTH), "norm": (WIDTH,)}
    shapes |= {f"layers.{i}.{name}": shape for i in range(layers) for name, shape in layer.items()}
    sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": TOKENS}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **sizes}
    rng, ends = np.random.default_rng(seed), [folder / name for name in ("before", "after")]
    for end in ends:
        shutil.copytree(
            settings.base_folder(), end, ignore=shutil.ignore_patterns("*.safetensors", "m*")
        )
        (end / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
        header, last = {}, 0
        for name, shape in shapes.items():
            size = SIZES[dtype] * int(np.prod(shape))
            header[f"model.{name}.weight"] = {"dtype": dtype, "shape": shape}
            header[f"model.{name}.weight"]["data_offsets"] = [last, last + size]
            last += size
        text = json.dumps(header).encode()
        with (end / WEIGHTS).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for shape in shapes.values():
                values = rng.standard_normal(int(np.prod(shape)), np.float32) * np.float32(0.02)
                kept = values.view(np.uint16)[1::2] if dtype == "BF16" else values
                file.write(kept.tobytes())
    return ends


def watched(command: list[str]) -> Numbers:
    """Run a command; return its wall seconds, processor seconds and peak memory in MB."""
    seconds, status, cpu, peak = json.loads(python(["-S", "-c", LAUNCH, *command], []))
    if status:
        raise RuntimeError(f"{' '.join(command)[:300]} failed ({status}).")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak * unit / 1e6}


def run(mergekit: Path, runs: int = 5, large: float = 2.0, out: Path | None = None) -> int:
    """Measure, and write what came out into bench.json under `merge`."""
    out = out or settings.results_folder() / "bench.json"
    ours = [sys.executable, "-m", "alignment_tax", "merge"]
    found: Numbers = {"runs": runs, "raw": {}}
    for name, size, dtype in (("large", large, "BF16"), ("bf16", 0.5, "BF16"), ("f32", 0.5, "F32")):
        with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
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

        def middle(program: str, number: str) -> float:
            return statistics.median(each[number] for each in raw[program])  # noqa: B023

        seconds = middle("ours", "seconds")
        own = found[name] = {"peak_mb": middle("ours", "peak_mb")}
        if name == "large":
            own["over_cp"] = (seconds - middle("start", "seconds")) / middle("cp", "seconds")
        else:
            own["times_mergekit_linear"] = middle("mergekit", "seconds") / seconds
            own["times_mergekit_linear_cpu"] = middle("mergekit", CPU) / middle("ours", CPU)
            own["peak_over_mergekit"] = own["peak_mb"] / middle("mergekit", "peak_mb")
        print(name, own)
        numbers = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        found["provenance"] = provenance()
        write_whole(out, json.dumps({**numbers, "merge": found}, indent=2) + "\n")
    return 0
