"""How the numbers of DPO, RLOO and PPO were chosen: `bench tune`, on validation prompts.

Every candidate is trained on a seed that is never reported, with all other numbers the preset's,
and judged by its reward; no skill is looked at. The table is data/results/<preset>/tuning.csv.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pandas as pd
from tqdm import tqdm

from alignment_tax import presets, settings
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import Preset
from alignment_tax.store import say, write_whole
from bench import Numbers
from bench.ppo_against_trl import judge

#: A seed that no reported number comes from.
SEED = 100

#: What is tried of each algorithm; all other numbers are the preset's.
CANDIDATES: dict[str, list[Numbers]] = {
    "dpo": [{"learning_rate": rate} for rate in (3e-6, 1e-5, 3e-5)],
    "rloo": [{"learning_rate": rate} for rate in (1e-4, 3e-4, 1e-3)],
    "ppo": [{"learning_rate": r, "critic_learning_rate": r} for r in (1e-4, 2e-4, 4e-4)],
}


def try_out(preset: Preset, algorithm: str, numbers: Numbers, seed: int) -> Numbers:
    """Train one candidate and judge it on validation prompts; a row of the table."""
    changed: Numbers = {algorithm: dataclasses.replace(preset.algorithms[algorithm], **numbers)}
    study = Study(dataclasses.replace(preset, **changed), seed)
    rounds = [study.artifact(study.end(algorithm, n + 1)) for n in range(changed[algorithm].rounds)]
    found = {"algorithm": algorithm, "seed": seed, "numbers": json.dumps(numbers)}
    found |= judge(study, *study.policy(algorithm), seed)
    seconds = round(sum(each.meta["seconds"] for each in rounds), 1)
    return {**found, "seconds": seconds, "key": rounds[-1].key[:16]}


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """Return the best candidate of each algorithm: the highest reward where replies end."""
    able = table[table["finished"] >= 0.95].sort_values("judged_reward")
    return able.groupby("algorithm").tail(1).sort_values("algorithm", ignore_index=True)


def run(name: str, algorithms: Sequence[str] | None = None, seed: int | None = None) -> int:
    """Try all candidates, write tuning.csv after each, and print what was chosen."""
    preset = presets.get(name)
    algorithms = list(CANDIDATES) if algorithms is None else algorithms
    if missing := [each for each in algorithms if not {each} <= CANDIDATES.keys()]:
        raise settings.SettingsError(f"There are no candidates for {missing[0]!r}.")
    if missing := [each for each in algorithms if each not in preset.algorithms]:
        raise settings.SettingsError(f"Preset {name} has no {missing[0]}: give it numbers first.")
    path = settings.results_folder() / name / "tuning.csv"
    old = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["algorithm"])
    rows: list[dict[Any, Any]] = old[~old["algorithm"].isin(algorithms)].to_dict("records")
    tasks = [(each, numbers) for each in algorithms for numbers in CANDIDATES[each]]
    for algorithm, numbers in tqdm(tasks, desc="candidates", unit="run"):
        rows.append(try_out(preset, algorithm, numbers, SEED if seed is None else seed))
        write_whole(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    say(f"{chosen(pd.DataFrame(rows)).to_string()}\nWritten to {path}.")
    return 0
