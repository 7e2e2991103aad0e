"""Numbers of RLHF algorithms are chosen on validation prompts, with RSF's budget."""

import dataclasses
import json

import pandas as pd
from conftest import miniature

from alignment_tax import presets
from alignment_tax.cli import main
from alignment_tax.pipeline.study import Study
from bench import ppo_against_trl as bench_ppo
from bench import tune


def test_the_highest_reward_is_chosen_among_policies_whose_replies_end():
    table = pd.DataFrame(
        {
            "algorithm": ["ppo", "ppo", "ppo", "dpo"],
            "numbers": ["a", "b", "c", "d"],
            "judged_reward": [1.0, 3.0, 2.0, 0.5],
            "finished": [1.0, 0.5, 0.96, 1.0],
        }
    )
    assert set(tune.chosen(table)["numbers"]) == {"c", "d"}


def test_a_candidate_is_trained_judged_and_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMENT_TAX_RUNS", str(tmp_path))
    monkeypatch.setattr(bench_ppo, "JUDGED", 8)
    small = dict.fromkeys(("rounds", "prompts_per_round", "n"), 2)
    dpo = dataclasses.replace(presets.get("smoke").dpo, **small, batch_size=2)
    preset = dataclasses.replace(miniature(), dpo=dpo)
    row = tune.try_out(preset, "dpo", {"learning_rate": 2e-4}, 0)
    assert json.loads(row["numbers"]) == {"learning_rate": 2e-4}
    assert 0 <= row["finished"] <= 1
    config = dataclasses.replace(dpo, learning_rate=2e-4)
    study = Study(dataclasses.replace(preset, dpo=config), 0)
    assert study.aligned("dpo", config.rounds).key.startswith(row["key"])


def test_a_preset_without_the_algorithm_is_refused(capsys):
    assert main(["bench", "tune", "small", "--algorithms", "ppo"]) == 2
    assert "small has no ppo" in capsys.readouterr().err
    assert main(["bench", "tune", "tiny", "--algorithms", "grpo"]) == 2
    assert "no candidates for 'grpo'" in capsys.readouterr().err
