"""A preset's numbers; the plan of one of the paper's size: counts, memory, FLOPs by hand."""

import dataclasses
import math
import shlex
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from conftest import refuses
from trl.scripts import dpo, reward, sft

from alignment_tax import cli, plan, presets
from alignment_tax.models import load_base, prompt_ids
from alignment_tax.pipeline.stages import run
from alignment_tax.pipeline.study import Study
from alignment_tax.settings import base_folder
from alignment_tax.store import Store

SCRIPTS = {"trl.scripts.sft": sft, "trl.scripts.reward": reward, "trl.scripts.dpo": dpo}
#: Round numbers: 1000 weights, of which two layers have 300 each.
SIZE = plan.Size(1000, 300, layers=2, saved=50, boundary=4, logits=20, cache=8)


def named(preset):
    return {stage.name.partition(":")[0]: stage for stage in plan.stages(preset)}


def test_parameters_are_those_of_the_architecture():
    for preset, layers, wide, keys, inner, billions in (
        (presets.PAPER_3B, 26, 3200, 3200, 8640, 3.43),
        (presets.PAPER_7B, 32, 4096, 1024, 14_336, 7.24),
    ):
        # queries and output, keys and values, three matrices of the MLP, two norms
        block = 2 * wide * wide + 2 * wide * keys + 3 * wide * inner + 2 * wide
        size = plan.size_of(preset.model)
        assert (size.block, size.layers) == (block, layers)
        assert size.parameters == 2 * 32_000 * wide + layers * block + wide
        assert round(size.parameters / 1e9, 2) == billions
        assert size.cache == 2 * 2 * keys * layers  # keys and values, two bytes each


def test_flops_hours_and_memory_of_a_stage_and_the_stages_of_the_paper_by_hand():
    stage = plan.Stage("x", read=5, sampled=7, row=10, batch=2, frozen=3, reference=1).on(2.0)
    assert (stage.trained, stage.flops(SIZE)) == (20, 6 * 1000 * 20 + 2 * 1000 * (5 + 7))
    # sampling at a quarter of the rate takes four times as long: 120 + 10 + 4 * 14 kFLOP
    assert stage.hours(SIZE, 1e-9) == pytest.approx(186_000 / 1000 / 3600)
    # weights of four models, 14 bytes of states a weight, 20 tokens of 2 * 50 + 20 bytes
    assert stage.alone(SIZE) * 1e9 == pytest.approx(4 * 4000 + 14_000 + 20 * 120)
    # 20 bytes over 4 GPUs; 400 weights outside the layers and both layers; 10 tokens of 2*4+50+20
    assert stage.sharded(SIZE, 4) * 1e9 == pytest.approx(20_000 / 4 + 4 * 1000 + 10 * 78)
    asked = plan.Stage("x", sampled=1, cached=100, frozen=1)
    assert asked.alone(SIZE) * 1e9 == pytest.approx(2 * 4000 + 100 * 8)
    assert asked.sharded(SIZE, 4) is None
    found = named(presets.PAPER_3B)
    assert found["SFT"].trained == 100_000 * 2048
    assert found["reward model"].trained == 106_000 * 2 * 512
    rounds = [stage for stage in plan.stages(presets.PAPER_3B) if stage.name.startswith("RSF")]
    assert rounds[0].sampled == 10 * 2048 * 32 * 128
    assert rounds[0].read == 10 * 2048 * (256 + 32 * 384)
    assert (rounds[1].trained, rounds[1].kept) == (10 * 2048 * 2 * 384, 10)
    assert found["DPO"].trained == 106_000 * 2 * 512
    # nine averages inside a sweep of eleven; theta_0, ten rounds, two of DPO, 17 remedies
    assert found["scoring"].read * 9 == found["alpha walk"].read * 30
    shorter = dataclasses.replace(presets.PAPER_3B, eval=presets.SMALL.eval)
    assert named(shorter)["scoring"].read < found["scoring"].read / 5


@pytest.mark.parametrize("name", ["paper-3b", "paper-7b"])
def test_every_printed_command_is_one_that_trl_takes(name, capsys):
    assert cli.main(["plan", name]) == 0
    text = capsys.readouterr().out
    lines = [line for line in text.replace("\\\n", " ").splitlines() if "accelerate launch" in line]
    assert len(lines) == 4
    batches = []
    for line in lines:
        words = shlex.split(line)
        config = load_config_from_file(words[words.index("--config_file") + 1])
        assert config.distributed_type == "FSDP"
        assert config.fsdp_config["fsdp_activation_checkpointing"]
        script, *given = words[words.index("-m") + 1 :]
        parser = SCRIPTS[script].make_parser()
        _, training, model, *_ = parser.parse_args_and_config([*given, "--use_cpu", "true"])
        assert not training.activation_checkpointing  # FSDP's own does it
        assert model.dtype == "float32"
        batches.append(8 * training.gradient_accumulation_steps)
    assert batches == [128, 16, 32, 32]  # Tables 2 and 3


def test_what_cannot_be_planned_or_run_is_refused_before_work(tmp_path, monkeypatch, ends):
    for words in (["plan", "tiny"], ["plan", "paper-3b", "--gpus", "3"]):
        assert cli.main(words) == cli.WRONG_USE
    monkeypatch.setenv("ALIGNMENT_TAX_RUNS", str(tmp_path / "runs"))
    ends("none here", "run", "--preset", "paper-3b")
    store, check = Store(tmp_path / "runs"), partial(plan.check_machine, presets.PAPER_3B)
    refuses(plan.PlanError, "needs one GPU with 131 GB", Study, "paper-3b", 0, store)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = SimpleNamespace(total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
    refuses(plan.PlanError, "this one has 80 GB", check, tmp_path)
    gpu.total_memory = 150e9
    disk = SimpleNamespace(free=438e9)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda folder: disk)
    refuses(plan.PlanError, "still writes 439 GB", check, tmp_path / "not" / "yet")
    disk.free = 439e9  # 32 checkpoints of 13.7 GB
    check(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_base_without_a_chat_template_writes_chats_as_the_paper(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((base_folder() / name).read_bytes())
    _, tokenizer = load_base(tmp_path)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    assert whole == f"###Human: a ###Assistant: b{tokenizer.eos_token}"
    asked = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(asked)
    assert prompt_ids(tokenizer, chat[:1])


def test_a_run_without_bfloat16_says_so_and_has_other_keys(tmp_path, caplog, monkeypatch):
    keys = set()
    for has_it in (True, False):
        monkeypatch.setattr(run, "use_bf16", lambda where, it=has_it: it)
        caplog.clear()
        store = Mock(Store)
        Study("small", 0, store).get("stage", {}, lambda folder: None, {}, "a stage")
        keys.add(str(store.get.call_args.args[1]))
        assert ("float32" in caplog.text) == (not has_it)
    assert len(keys) == 2
    caplog.clear()
    Study("smoke", 0, Store(tmp_path))
    assert not caplog.text


@pytest.mark.parametrize("preset", [presets.TINY, presets.SMOKE], ids=lambda preset: preset.name)
def test_all_algorithms_sample_as_many_replies_as_rsf(preset):
    ppo, others = preset.ppo, (preset.rsf, preset.dpo, preset.rloo)
    (budget,) = {config.rounds * config.prompts_per_round * config.n for config in others}
    assert ppo.rounds * ppo.iterations * ppo.prompts_per_iteration == budget
    assert len({each.max_new_tokens for each in preset.algorithms.values()}) == 1


def test_numbers_that_no_run_can_use_are_named():
    for preset in presets.PRESETS.values():
        presets.check(preset)
    numbers = {"grid_step": 0.0, "learning_rate": math.nan, "kept_texts": -1, "kept_weight": -1.0}
    for name, value in numbers.items():
        ratios = dataclasses.replace(presets.TINY_RATIOS, **{name: value})
        wrong = dataclasses.replace(presets.TINY, ratios=ratios)
        refuses(ValueError, rf"ratios\.{name} is {value}", presets.check, wrong)
