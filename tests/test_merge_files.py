"""Averaging checkpoints on disk: exact ends, values by hand, refusals, what a kill leaves."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_parts import llama
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from alignment_tax import settings
from alignment_tax.cli import main
from alignment_tax.merge import checkpoint as files
from alignment_tax.merge.average import average
from alignment_tax.merge.checkpoint import Recipe, merge_checkpoints, mergekit_config
from alignment_tax.merge.layout import MergeError
from alignment_tax.weights import CheckpointError, load_state, open_checkpoint

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def write(folder: Path, tensors: dict[str, Tensor], tokens: dict[str, int] | None = None) -> Path:
    """A checkpoint of named tensors, with a tokenizer that has these tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    apart = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(apart, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 3}))
    if tokens is not None:
        told = {"model": {"vocab": tokens}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(told))
    return folder


def merged(first: Path, second: Path, out: Path, *recipe, **more) -> Path:
    ends = (open_checkpoint(each) for each in (first, second))
    return merge_checkpoints(*ends, Recipe(*recipe, **more), out)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def saved(model: LlamaForCausalLM, folder: Path, **how) -> Path:
    """A model as transformers writes it, with the shipped base's tokenizer."""
    model.save_pretrained(folder, **how)
    for file in settings.base_folder().glob("tokenizer*.json"):
        shutil.copy(file, folder)
    return folder


def test_a_quarter_of_the_way_by_hand_and_bfloat16_rounded_to_the_even_one(tmp_path: Path) -> None:
    for dtype in DTYPES.values():
        first = write(tmp_path / f"a{dtype}", {"w": torch.tensor([0.0, 4.0, -8.0], dtype=dtype)})
        second = write(tmp_path / f"b{dtype}", {"w": torch.tensor([8.0, -4.0, 8.0], dtype=dtype)})
        out = merged(first, second, tmp_path / f"o{dtype}", 0.25)
        mixed = load_file(out / "model.safetensors")["w"]
        assert (mixed.tolist(), mixed.dtype) == ([2.0, 2.0, -4.0], dtype)
    wide = np.array([1.00390625, 1.01171875, 1.0039063, -1.00390625], np.float32)
    torched = torch.tensor(wide).bfloat16()
    assert files.narrow(wide.copy(), "BF16").tobytes() == bits(torched)


values = st.lists(st.floats(-1e4, 1e4, width=16), min_size=9, max_size=9)


@given(values, values, st.floats(0, 1), st.sampled_from(sorted(DTYPES)))
def test_numbers_are_float32_averages_rounded_once_and_ends_exact(a, b, alpha, name) -> None:
    ends = [torch.tensor(each, dtype=DTYPES[name]) for each in (a, b)]
    mixed = {at: mixed_bytes(ends, at, name) for at in (0.0, alpha, 1.0)}
    assert mixed[0.0] == bits(ends[0])
    assert mixed[1.0] == bits(ends[1])
    own = bytearray(mixed_bytes([ends[0]] * 2, alpha, name))
    equal = torch.frombuffer(own, dtype=ends[0].dtype)
    assert torch.equal(equal, ends[0])
    wide = [end.double() for end in ends]
    found = torch.frombuffer(bytearray(mixed[alpha]), dtype=DTYPES[name]).double()
    exact = (1 - alpha) * wide[0] + alpha * wide[1]
    size = torch.maximum(*(each.abs() for each in wide)) + 1e-4  # of subnormal ones
    # half a unit in the last place of the dtype, and what float32 rounds
    epsilon = torch.finfo(DTYPES[name]).eps / 2 + 4 * torch.finfo(torch.float32).eps
    assert bool(((found - exact).abs() <= epsilon * size).all())


def mixed_bytes(ends: list[Tensor], alpha: float, name: str) -> bytes:
    """What is made of two tensors, without files of checkpoints."""
    if alpha in (0.0, 1.0):
        return bits(ends[int(alpha)])
    return files.mix(files.Chunk("w", (), name, alpha, 0, 0), *map(bits, ends)).tobytes()


@pytest.mark.parametrize(("tied", "size"), [(True, "50GB"), (False, "50GB"), (False, "2KB")])
def test_a_real_checkpoint_is_averaged_as_in_memory_and_opens(tmp_path, tied, size) -> None:
    ends = [
        saved(llama(seed, tied=tied, vocab_size=512), tmp_path / str(seed), max_shard_size=size)
        for seed in (0, 1)
    ]
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


def test_a_ratio_a_block(tmp_path) -> None:
    ends = [saved(llama(seed, vocab_size=512), tmp_path / str(seed)) for seed in (0, 1)]
    found = load_state(merged(*ends, tmp_path / "out", 0.5, (1.0, 0.0, 0.5)))
    before, after = map(load_state, ends)
    query = "model.layers.{}.self_attn.q_proj.weight"
    assert torch.equal(found[query.format(0)], after[query.format(0)])
    assert torch.equal(found[query.format(1)], before[query.format(1)])
    half = average(before, after, 0.5)
    for name in (query.format(2), EMBEDDING, "model.layers.0.input_layernorm.weight"):
        torch.testing.assert_close(found[name], half[name])
    told = json.loads(mergekit_config(*map(open_checkpoint, ends), Recipe(0.5, (1.0, 0.0, 0.5))))
    layers = [each["sources"][1]["layer_range"] for each in told["slices"]]
    assert layers == [[0, 1], [1, 2], [2, 3]]
    assert told["slices"][0]["sources"][0]["parameters"]["weight"][-1] == {"value": 0.0}


W, V = torch.ones(2, 2), torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"a": W, "b": W, "c": W}, {"a": W}, r"Only in BEFORE .*: 'b', 'c'\. "),
        ({"a": W}, {"a": W, "lora.A": W}, r"Only in AFTER .*: 'lora.A'.*merge_and_unload"),
        ({"a": W}, {"a": torch.ones(2, 3)}, r"'a' is \[2, 2\] in BEFORE but \[2, 3\] in AFTER"),
        ({"a": W}, {"a": W.bfloat16()}, r"'a' is F32 in BEFORE but BF16 in AFTER"),
        ({"a": W.long()}, {"a": V.long()}, r"'a' holds whole numbers or quantised ones \(I64\)"),
        ({"a": W, HEAD: W, EMBEDDING: V}, {"a": W, EMBEDDING: V}, rf"Only in BEFORE .*: '{HEAD}'"),
        ({"a": W}, {"a": W * float("nan")}, r"'a' holds NaN or infinity"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_with_its_first_offender(tmp_path, first, second, said):
    ends = write(tmp_path / "a", first), write(tmp_path / "b", second)
    with pytest.raises(MergeError, match=said):
        merged(*ends, tmp_path / "out", 0.5)
    assert not (tmp_path / "out").exists()


def test_a_head_that_one_side_stores_twice_is_the_embedding(tmp_path) -> None:
    first = write(tmp_path / "a", {EMBEDDING: W, HEAD: W.clone()})
    second = write(tmp_path / "b", {EMBEDDING: V})
    out = merged(first, second, tmp_path / "out", 0.25)
    assert load_state(out)[EMBEDDING].tolist() == [[0.75, 0.75], [0.75, 0.75]]
    assert load_state(out).keys() == {EMBEDDING}
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True


def test_added_tokens_are_listed_and_taken_as_they_are_when_asked(tmp_path) -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    first = write(tmp_path / "a", {EMBEDDING: W, "a": W}, {"x": 0, "y": 1})
    second = write(tmp_path / "b", {EMBEDDING: rows, "a": V}, {"x": 0, "y": 1, "<end>": 2})
    said = r"has 2 rows in BEFORE and 3 in AFTER; tokens that only one has: '<end>'. With --pad"
    with pytest.raises(MergeError, match=said):
        merged(first, second, tmp_path / "out", 0.5)
    for one, two in ((first, second), (second, first)):
        out = merged(one, two, tmp_path / one.name / "out", 0.5, pad=True)
        assert load_state(out)[EMBEDDING].tolist() == [[0.5, 1.0], [1.5, 2.0], [4.0, 5.0]]
        assert "<end>" in (out / "tokenizer.json").read_text()
    third = write(tmp_path / "c", {EMBEDDING: W, "a": V}, {"x": 1, "y": 0})
    with pytest.raises(
        CheckpointError, match="token 'x' is number 0 in the first and 1 in the second"
    ):
        merged(first, third, tmp_path / "out", 0.5, pad=True)


def test_what_a_killed_merge_finished_is_checked_and_kept(tmp_path, monkeypatch, capsys) -> None:
    ends = [
        saved(llama(seed, tied=False, vocab_size=512), tmp_path / str(seed), max_shard_size="8KB")
        for seed in (0, 1)
    ]
    write_shard, written = files.write_shard, []

    def killed(path, shard, handles):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.name)
        write_shard(path, shard, handles)

    monkeypatch.setattr(files, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        merged(*ends, tmp_path / "out", 0.3)
    assert not (tmp_path / "out").exists()
    # one of the two finished files lost its end meanwhile
    broken = tmp_path / ".out.part" / written[1]
    content = broken.read_bytes()
    broken.write_bytes(content[:-4] + bytes(4))
    capsys.readouterr()
    written.clear()
    monkeypatch.setattr(files, "write_shard", lambda *all_: (written.append(1), write_shard(*all_)))
    out = merged(*ends, tmp_path / "out", 0.3)
    assert capsys.readouterr().err.count("is finished") == 1
    assert len(written) == len(list(out.glob("*.safetensors"))) - 1
    whole = load_state(merged(*ends, tmp_path / "whole", 0.3))
    assert all(torch.equal(whole[name], each) for name, each in load_state(out).items())
    assert not list(tmp_path.glob(".*.part"))


def test_two_merges_do_not_write_one_folder(tmp_path) -> None:
    ends = write(tmp_path / "a", {"w": W}), write(tmp_path / "b", {"w": V})
    hold = "from alignment_tax.store import lock_of; from pathlib import Path\n"
    hold += f"with lock_of(Path({str(tmp_path / 'out')!r})): print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(MergeError, match="Another merge is writing"):
            merged(*ends, tmp_path / "out", 0.5)
        other.communicate("\n")
    merged(*ends, tmp_path / "out", 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


def test_bad_input_is_one_message_before_any_work(tmp_path, monkeypatch, capsys) -> None:
    first = str(write(tmp_path / "a", {"w": W}))
    out = ["--out", str(tmp_path / "out")]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cases = [
        (["merge", first, str(tmp_path / "none"), *out], "There is no folder"),
        (["merge", first, first, *out, "--alpha", "1.5"], "alpha = 1.5 lies outside"),
        (["merge", first, first, "--out", first], "exists: name a folder that does not"),
        (["merge", first, first, *out, "--ratios", "0.5,0.1"], "2 blocks cannot be cut|no blocks"),
    ]
    pickled = write(tmp_path / "p", {"w": W})
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cases.append((["merge", first, str(pickled), *out], "only pytorch_model.bin"))
    short = write(tmp_path / "s", {"w": W})
    (short / "model.safetensors").write_bytes((short / "model.safetensors").read_bytes()[:-4])
    cases.append((["merge", first, str(short), *out], "model.safetensors is damaged"))
    for line, said in cases:
        assert main(line) == 2
        told = capsys.readouterr().err
        assert any(each in told for each in said.split("|")), told
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: full)
    assert main(["merge", first, first, *out]) == 2
    assert "GB free: free some, or name an --out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_hub_id_that_cannot_be_had_says_what_to_set(tmp_path, monkeypatch) -> None:
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match=r"set HF_HOME to a cache that holds it"):
        open_checkpoint("owner/model")


def test_the_command_merges_without_loading_torch(tmp_path) -> None:
    first, second = write(tmp_path / "a", {"w": W}), write(tmp_path / "b", {"w": V})
    code = (
        "import sys; from alignment_tax.cli import main\n"
        f"main(['merge', {str(first)!r}, {str(second)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert load_state(tmp_path / "out")["w"].tolist() == [[0.6000000238418579] * 2] * 2
