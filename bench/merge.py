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

from alignment_tax import settings, skills
from alignment_tax.merge.checkpoint import Recipe, mergekit_config
from alignment_tax.provenance import provenance
from alignment_tax.weights import open_checkpoint
from bench import UNIT, Numbers, keep, kept, python, timed

WIDTH, INNER, TOKENS = 1024, 2816, 16_384
ALPHA, NAME = 0.6, "bench.json"
#: What both score: tasks by choice and by generation; lm-eval's scores, and whether they are with
#: format forgiven (of choices the likeliest counts).
TINY = Path(skills.__file__).with_name("tiny")
SAME = ["--tasks", "tiny_one_hop,tiny_piqa_like,tiny_span,tiny_counting", "--limit", "200"]
METRICS = {"acc,none": True, "exact_match,none": False}
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


def walked(folder: Path, run: int) -> Numbers:
    """Return the seconds of an alpha of `audit`'s walk, and those of `merge` and lm_eval.

    RuntimeError: their scores differ. The pair is the shipped base, and the base with some noise.
    """
    ends, cli = [settings.base_folder(), folder / "after"], ["-m", "alignment_tax"]
    if not ends[1].exists():
        model = AutoModelForCausalLM.from_pretrained(shutil.copytree(ends[0], ends[1]))
        torch.manual_seed(0)
        for weights in model.parameters():
            weights.data += 0.3 * weights.std().detach() * torch.randn_like(weights)
        model.save_pretrained(ends[1])
    pair, made, page = [*map(str, ends)], folder / f"made{run}", folder / f"page{run}"

    def audit(alphas: str) -> float:
        asked = [*SAME, "--alphas", alphas, "--out", str(page)]
        store = {"ALIGNMENT_TAX_RUNS": str(folder / f"{run} {alphas}")}
        return timed(lambda: python([*cli, "audit", *pair, *asked], [], **store))[0]

    def score() -> None:
        python([*cli, "merge", *pair, "--alpha", str(ALPHA), "--out", str(made)], [])
        asked = ["--model_args", f"pretrained={made},dtype=float32", "--include_path", str(TINY)]
        asked += ["--batch_size", "16", "--output_path", str(made), "--device", "cpu"]
        python(["-m", "lm_eval", "--model", "hf", *SAME, *asked], [])

    alone, four = audit(str(ALPHA)), audit(f"0.2,0.4,{ALPHA},0.8")
    seconds, (file,) = timed(score)[0], made.rglob("results*.json")
    ours = pd.read_csv(page / "audit.csv").query("alpha == @ALPHA")
    values = ours.set_index(["score", "format_forgiven"])["value"]
    for name, scores in json.loads(file.read_text("utf-8"))["results"].items():
        metric = next(each for each in METRICS if each in scores)
        value = values[name.removeprefix("tiny_"), METRICS[metric]]
        if abs(value - 100 * scores[metric]) > 1e-6:
            raise RuntimeError(f"{name}: audit finds {value}, lm_eval {scores}.")
    return {"walk": (four - alone) / 3, "merge_and_score": seconds}


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
    with tempfile.TemporaryDirectory() as scratch:
        walks = found["raw"]["audit"] = [walked(Path(scratch), number) for number in range(runs)]
    spent = pd.DataFrame(walks).median()
    found["audit_times_save_and_score"] = spent["merge_and_score"] / spent["walk"]
    print(found["audit_times_save_and_score"])
    return keep({**kept(NAME, out), "merge": found | {"provenance": provenance()}}, NAME, out)
