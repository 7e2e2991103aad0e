"""How the numbers of DPO, RLOO and PPO were chosen: `alignment-tax tune`, on validation prompts.

Every candidate is trained on a seed that is never reported, with all other numbers the preset's
(and so RSF's budget of sampled replies), and judged by the reward it gets on validation prompts; no
skill is looked at. The table is data/results/<preset>/tuning.csv, and what it chose stands in the
preset.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from tqdm import tqdm

from alignment_tax import presets, settings
from alignment_tax.bench_ppo import judge
from alignment_tax.pipeline.study import Study
from alignment_tax.presets import Preset
from alignment_tax.store import say, write_whole

#: A seed that no reported number comes from.
SEED = 100
#: A policy whose replies often do not end is not chosen, whatever its reward.
FINISHED = 0.95

Numbers = Mapping[str, Any]


#: What is tried of each algorithm; all other numbers are the preset's.
CANDIDATES: dict[str, list[Numbers]] = {
    "dpo": [{"learning_rate": rate} for rate in (3e-6, 1e-5, 3e-5, 1e-4, 3e-4)],
    "rloo": [{"learning_rate": rate} for rate in (1e-4, 3e-4, 1e-3)],
    "ppo": [
        {"learning_rate": rate, "critic_learning_rate": rate} for rate in (5e-5, 1e-4, 2e-4, 4e-4)
    ],
}


def try_out(preset: Preset, algorithm: str, numbers: Numbers, seed: int) -> dict[str, Any]:
    """Train one candidate and judge it on validation prompts; a row of the table."""
    config = dataclasses.replace(preset.algorithms[algorithm], **numbers)
    changed: dict[str, Any] = {algorithm: config}
    study = Study(dataclasses.replace(preset, **changed), seed)
    trained = study.aligned(algorithm, config.rounds)
    rounds = [study.aligned(algorithm, r + 1) for r in range(config.rounds)]
    policy, tokenizer = study.policy(algorithm)
    return {
        "algorithm": algorithm,
        "seed": seed,
        "numbers": json.dumps(dict(numbers)),
        **judge(study, policy, tokenizer, seed),
        "seconds": round(sum(each.meta["seconds"] for each in rounds), 1),
        "key": trained.key[:16],
    }


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """Return the best candidate of each algorithm: the highest reward among those that finish."""
    able = table[table["finished"] >= FINISHED]
    best = able.groupby("algorithm")["judged_reward"].idxmax()
    return able.loc[best].reset_index(drop=True)


def in_preset(name: str) -> list[str]:
    """Return the algorithms whose numbers in a preset are those that its tuning.csv chose."""
    path = settings.results_folder() / name / "tuning.csv"
    if not path.is_file():
        return []
    configs = presets.get(name).algorithms
    return [
        str(row["algorithm"])
        for row in chosen(pd.read_csv(path)).to_dict("records")
        if row["algorithm"] in configs
        and json.loads(row["numbers"]).items() <= presets.as_dict(configs[row["algorithm"]]).items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Try all candidates, write tuning.csv after each, and print what was chosen."""
    parser = argparse.ArgumentParser(
        prog="alignment-tax tune",
        description="Choose learning rates of DPO, RLOO and PPO on validation prompts.",
    )
    parser.add_argument("preset", help=f"one of: {', '.join(presets.PRESETS)}")
    parser.add_argument("--algorithms", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args(argv)
    preset = presets.get(given.preset)
    if missing := [name for name in given.algorithms if name not in preset.algorithms]:
        parser.error(f"preset {preset.name} has no {missing[0]}: give it numbers to start from")
    path = settings.results_folder() / preset.name / "tuning.csv"
    old = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["algorithm"])
    rows: list[dict[Any, Any]] = old[~old["algorithm"].isin(given.algorithms)].to_dict("records")
    tasks = [(name, numbers) for name in given.algorithms for numbers in CANDIDATES[name]]
    for name, numbers in tqdm(tasks, desc="candidates", unit="run"):
        rows.append(try_out(preset, name, numbers, given.seed))
        write_whole(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    say(chosen(pd.DataFrame(rows)).to_string())
    say(f"Written to {path}.")
    return 0
