"""Averaging checkpoints on disk: exact ends, values by hand, refusals, what a kill leaves."""

import json
import shutil
import subprocess
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from conftest import python, refuses
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file
from test_merge import llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment_tax import settings
from alignment_tax.merge import checkpoint as files
from alignment_tax.merge.average import MergeError, average
from alignment_tax.merge.checkpoint import Recipe, merge_checkpoints, mergekit_config
from alignment_tax.weights import CheckpointError, load_state, open_checkpoint

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
W, V = torch.ones(2, 2), torch.zeros(2, 2)
values = st.lists(st.floats(-1e4, 1e4, width=16), min_size=9, max_size=9)


def write(folder, tensors, tokens=None):
    """A checkpoint of named tensors, with a tokenizer that has these tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    apart = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(apart, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 3}))
    if tokens is not None:
        told = {"model": {"vocab": tokens}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(told))
    return folder


def merged(first, second, out, *recipe, **more):
    ends = (open_checkpoint(each) for each in (first, second))
    return merge_checkpoints(*ends, Recipe(*recipe, **more), out)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def two_llamas(folder, tied=True, **how):
    """Two models as transformers writes them, with the shipped base's tokenizer."""
    for seed in ("0", "1"):
        llama(int(seed), tied=tied, vocab_size=512).save_pretrained(folder / seed, **how)
        for file in settings.base_folder().glob("tokenizer*.json"):
            shutil.copy(file, folder / seed)
    return folder / "0", folder / "1"


def test_a_quarter_of_the_way_by_hand_and_bfloat16_rounded_to_the_even_one(tmp_path):
    values = {"a": [0.0, 4.0, -8.0], "b": [8.0, -4.0, 8.0]}
    for name, dtype in DTYPES.items():
        folder = tmp_path / name
        ends = [write(folder / n, {"w": torch.tensor(v, dtype=dtype)}) for n, v in values.items()]
        mixed = load_file(merged(*ends, folder / "out", 0.25) / "model.safetensors")["w"]
        assert (mixed.tolist(), mixed.dtype) == ([2.0, 2.0, -4.0], dtype)
    wide = np.array([1.00390625, 1.01171875, 1.0039063, -1.00390625], np.float32)
    rounded = files.narrow(wide.copy(), wide.copy(), np.empty(4, np.uint16), "BF16")
    assert rounded.tobytes() == bits(torch.tensor(wide).bfloat16())


@given(values, values, st.floats(0, 1), st.sampled_from(sorted(DTYPES)))
def test_numbers_are_float32_averages_rounded_once_and_equal_ones_stay(a, b, alpha, name):
    def mixed(*ends):
        """What is made of two tensors, without files of checkpoints."""
        read = [np.frombuffer(bytearray(bits(end)), np.uint8) for end in ends]
        made = files.mix(files.Chunk("w", (), name, alpha, 0, 0), read, files.Space()).tobytes()
        return torch.frombuffer(bytearray(made), dtype=DTYPES[name])

    ends = [torch.tensor(each, dtype=DTYPES[name]) for each in (a, b)]
    assert torch.equal(mixed(ends[0], ends[0]), ends[0])
    found, wide = mixed(*ends).double(), [end.double() for end in ends]
    exact = (1 - alpha) * wide[0] + alpha * wide[1]
    size = torch.maximum(*(each.abs() for each in wide)) + 1e-4  # of subnormal ones
    # half a unit in the last place of the dtype, and what float32 rounds
    epsilon = torch.finfo(DTYPES[name]).eps / 2 + 4 * torch.finfo(torch.float32).eps
    assert bool(((found - exact).abs() <= epsilon * size).all())


@pytest.mark.parametrize(("tied", "size"), [(True, "50GB"), (False, "50GB"), (False, "2KB")])
def test_a_real_checkpoint_is_averaged_as_in_memory_and_opens(tmp_path, tied, size):
    ends = two_llamas(tmp_path, tied, max_shard_size=size)
    out = merged(*ends, tmp_path / "out", 0.3)
    shards = sorted(file.name for file in out.glob("*.safetensors"))
    assert shards == sorted(file.name for file in ends[1].glob("*.safetensors"))
    assert (size == "2KB") == (len(shards) > 1)
    expected, found = average(*map(load_state, ends), 0.3), load_state(out)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-8)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert len(AutoTokenizer.from_pretrained(out)) > 0
    assert "alpha = 0.3" in (out / "README.md").read_text()
    for alpha, end in ((0.0, ends[0]), (1.0, ends[1])):
        copy = load_state(merged(*ends, tmp_path / f"at{alpha}", alpha))
        assert all(bits(copy[name]) == bits(each) for name, each in load_state(end).items())


def test_a_ratio_a_block(tmp_path):
    ends = two_llamas(tmp_path)
    found = load_state(merged(*ends, tmp_path / "out", 0.5, (1.0, 0.0, 0.5)))
    before, after = map(load_state, ends)
    first, second, third = (f"model.layers.{i}.self_attn.q_proj.weight" for i in range(3))
    assert torch.equal(found[first], after[first])
    assert torch.equal(found[second], before[second])
    half = average(before, after, 0.5)
    for name in (third, EMBEDDING, "model.layers.0.input_layernorm.weight"):
        torch.testing.assert_close(found[name], half[name])


def test_ratios_are_told_to_mergekit_as_by_hand(tmp_path):
    """mergekit 0.1.5 made of such a file what `merge` makes, up to rounding."""
    ends = two_llamas(tmp_path)
    own = Recipe(0.5, (0.75, 0.25, 0.5))
    words = ["embed_tokens", "embed_in", "wte", "wpe", "embeddings", "lm_head", "embed_out"]
    means = [{"filter": word, "value": 0.5} for word in [*words, "score", "norm", "ln_"]]
    slices = [
        {"sources": [
            {"model": str(end), "layer_range": [layer, layer + 1],
             "parameters": {"weight": [*means, {"value": weight}]}}
            for end, weight in zip(ends, weights, strict=True)
        ]}
        for layer, weights in enumerate([(0.25, 0.75), (0.75, 0.25), (0.5, 0.5)])
    ]  # fmt: skip
    hand = {"merge_method": "linear", "parameters": {"normalize": False}, "slices": slices}
    hand |= {"dtype": "float32", "out_dtype": "float32"}
    assert yaml.safe_load(mergekit_config(*map(open_checkpoint, ends), own)) == hand


@pytest.mark.parametrize(("first", "second", "said"), [
    ({"a": W, "b": W, "c": W}, {"a": W}, r"Only in BEFORE .*: 'b', 'c'\. "),
    ({"a": W}, {"a": W, "lora.A": W}, r"Only in AFTER .*: 'lora.A'.*merge_and_unload"),
    ({"a": W}, {"a": torch.ones(2, 3)}, r"'a' is \[2, 2\] in BEFORE but \[2, 3\] in AFTER"),
    ({"a": W}, {"a": W.bfloat16()}, r"'a' is F32 in BEFORE but BF16 in AFTER"),
    ({"a": W.long()}, {"a": V.long()}, r"'a' holds whole numbers or quantised ones \(I64\)"),
    ({"a": W, HEAD: W, EMBEDDING: V}, {"a": W, EMBEDDING: V}, rf"Only in BEFORE .*: '{HEAD}'"),
    ({"a": W}, {"a": W * float("nan")}, r"'a' holds NaN or infinity"),
])  # fmt: skip
def test_a_pair_that_does_not_fit_is_refused_with_its_first_offender(tmp_path, first, second, said):
    ends = write(tmp_path / "a", first), write(tmp_path / "b", second)
    refuses(MergeError, said, merged, *ends, tmp_path / "out", 0.5)
    assert not (tmp_path / "out").exists()


def test_a_head_that_one_side_stores_twice_is_the_embedding(tmp_path):
    first = write(tmp_path / "a", {EMBEDDING: W, HEAD: W.clone()})
    out = merged(first, write(tmp_path / "b", {EMBEDDING: V}), tmp_path / "out", 0.25)
    found = {name: tensor.tolist() for name, tensor in load_state(out).items()}
    assert found == {EMBEDDING: [[0.75, 0.75], [0.75, 0.75]]}
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True


def test_added_tokens_are_listed_and_taken_as_they_are_when_asked(tmp_path):
    rows = torch.arange(6.0).reshape(3, 2)
    first = write(tmp_path / "a", {EMBEDDING: W, "a": W}, {"x": 0, "y": 1})
    second = write(tmp_path / "b", {EMBEDDING: rows, "a": V}, {"x": 0, "y": 1, "<end>": 2})
    said = r"has 2 rows in BEFORE and 3 in AFTER; tokens that only one has: '<end>'. With --pad"
    refuses(MergeError, said, merged, first, second, tmp_path / "out", 0.5)
    padded = *map(open_checkpoint, (first, second)), Recipe(0.5, pad=True)
    refuses(MergeError, "mergekit refuses such a pair", mergekit_config, *padded)
    for one, two in ((first, second), (second, first)):
        out = merged(one, two, tmp_path / one.name / "out", 0.5, pad=True)
        assert load_state(out)[EMBEDDING].tolist() == [[0.5, 1.0], [1.5, 2.0], [4.0, 5.0]]
        assert "<end>" in (out / "tokenizer.json").read_text()
    third = write(tmp_path / "c", {EMBEDDING: W, "a": V}, {"x": 1, "y": 0})
    said = "token 'x' is number 0 in the first and 1 in the second"
    refuses(CheckpointError, said, merged, first, third, tmp_path / "out", 0.5, pad=True)


def test_what_a_killed_merge_finished_is_checked_and_kept(tmp_path, monkeypatch, capsys):
    ends = two_llamas(tmp_path, tied=False, max_shard_size="8KB")
    write_shard, written = files.write_shard, []

    def killed(path, shard, handles):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.name)
        write_shard(path, shard, handles)

    monkeypatch.setattr(files, "write_shard", killed)
    refuses(KeyboardInterrupt, None, merged, *ends, tmp_path / "out", 0.3)
    assert not (tmp_path / "out").exists()
    # one of the two finished files lost its end meanwhile
    broken = tmp_path / ".out.part" / written[1]
    broken.write_bytes(broken.read_bytes()[:-4] + bytes(4))
    capsys.readouterr()
    written.clear()
    monkeypatch.setattr(files, "write_shard", lambda *all_: (written.append(1), write_shard(*all_)))
    out = merged(*ends, tmp_path / "out", 0.3)
    assert capsys.readouterr().err.count("is finished") == 1
    assert len(written) == len(list(out.glob("*.safetensors"))) - 1
    whole = load_state(merged(*ends, tmp_path / "whole", 0.3))
    assert all(torch.equal(whole[name], each) for name, each in load_state(out).items())
    assert not list(tmp_path.glob(".*.part"))


def test_two_merges_do_not_write_one_folder(tmp_path):
    ends = write(tmp_path / "a", {"w": W}), write(tmp_path / "b", {"w": V})
    hold = "import sys; from alignment_tax.store import lock_of; from pathlib import Path\n"
    hold += "with lock_of(Path(sys.argv[1])): print('held', flush=True); input()"
    pipes = {"start": subprocess.Popen, "stdin": -1, "stdout": -1, "text": True}
    with python(hold, tmp_path / "out", **pipes) as other:
        assert other.stdout.readline() == "held\n"
        refuses(MergeError, "Another merge is writing", merged, *ends, tmp_path / "out", 0.5)
        other.communicate("\n")
    merged(*ends, tmp_path / "out", 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


def test_bad_input_is_one_message_before_any_work(tmp_path, monkeypatch, ends):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    first, pickled, short = (write(tmp_path / name, {"w": W}) for name in "aps")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (short / "model.safetensors").write_bytes((short / "model.safetensors").read_bytes()[:-4])
    line = ("merge", "--out", tmp_path / "out", first)
    ends("There is no folder", *line, tmp_path / "none")
    ends("alpha = 1.5 lies outside", *line, first, "--alpha", "1.5")
    ends("exists: name a folder that does not", *line, first, "--out", first)
    ends("2 blocks cannot be cut|no blocks", *line, first, "--ratios", "0.5,0.1")
    ends("only pytorch_model.bin", *line, pickled)
    ends("model.safetensors is damaged", *line, short)
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: full)
    ends("GB free: free some, or name an --out", *line, first)
    assert not (tmp_path / "out").exists()


def test_a_hub_id_that_cannot_be_had_says_what_to_set(tmp_path, monkeypatch):
    unreachable = Mock(side_effect=OSError("no network"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    refuses(CheckpointError, "set HF_HOME to a cache", open_checkpoint, "owner/model")


def test_the_command_merges_without_loading_torch(tmp_path):
    first, second = write(tmp_path / "a", {"w": W}), write(tmp_path / "b", {"w": V})
    code = "import sys; from alignment_tax.cli import main; main(sys.argv[1:])\n"
    code += "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert python(code, "merge", first, second, "--out", tmp_path / "out").returncode == 0
    assert load_state(tmp_path / "out")["w"].tolist() == [[0.6000000238418579] * 2] * 2
