"""Pretraining of the base: the loss by hand, resuming to the bit, and what is shipped."""

import dataclasses
import math
import random
import types

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refuses
from hypothesis import given, strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment_tax.models import load_policy
from alignment_tax.settings import base_folder
from alignment_tax.skills import Scorer, slot_percent
from alignment_tax.store import verify_folder
from alignment_tax.train import checkpoint, loop, pretrain as module
from alignment_tax.train.pretrain import Cycle, PretrainConfig, Row, collate, encode, pretrain
from alignment_tax.world.corpus import CURRICULUM, Document, documents
from alignment_tax.world.tiny import items
from alignment_tax.world.tokenizer import make_tokenizer

MINI = PretrainConfig(
    layers=2, hidden=32, intermediate=64, heads=2, cycles=(Cycle(2, 3e-3, length=64, sequences=8),),
    documents_per_chunk=40, warmup_chunks=0.5, probe_items=4, threads=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return pretrain(MINI, tmp_path_factory.mktemp("undisturbed"))


def assert_same(result, other):
    """Same weights to the bit, and the same learning curve but for the seconds."""
    states = [model.state_dict() for model, *_ in (result, other)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    curves = (curve.drop(columns="seconds") for *_, curve in (result, other))
    pd.testing.assert_frame_equal(*curves, check_exact=True)


def plain(ids, weights):
    """A row of a document without branches."""
    return Row(ids, weights, list(range(len(ids))), [0] * len(ids))


# the loss
def test_weighted_loss_by_hand_and_padding_is_no_label(tokenizer):
    # the first prediction gives its label 1/2, the second 3/4; the third label is padding
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0], [5.0, 9.0], [0.0, 0.0]]])
    labels = torch.tensor([[0, 1, 0, loop.IGNORED]])
    weights = torch.tensor([[1.0, 0.1, 1.0, 0.0]])
    loss = module.weighted_loss(logits, module.Batch({}, labels, weights))
    assert loss.item() == pytest.approx((0.1 * math.log(2) + 1.0 * math.log(4 / 3)) / 1.1)
    batch = collate([plain([5, 6, 7], [1.0, 0.1, 1.0]), plain([8], [1.0])], tokenizer.pad_token_id)
    pad = tokenizer.pad_token_id
    assert batch.given["input_ids"].tolist() == [[5, 6, 7], [8, pad, pad]]
    assert batch.labels.tolist() == [[5, 6, 7], [8, loop.IGNORED, loop.IGNORED]]
    assert batch.weights[1].tolist() == [1.0, 0.0, 0.0]


ANSWERS = (("where is anna ?", "the hall"), ("who has a hat ?", "anna"))
BRANCHES = tuple(((asked, 0.1), (said, 1.0)) for asked, said in ANSWERS)
TWO_ANSWERS = Document((("anna has a hat .", 0.1),), BRANCHES)


def test_branches_go_on_from_the_trunk_and_end_on_their_own(tokenizer):
    row = encode(TWO_ANSWERS, tokenizer)
    eos = tokenizer.eos_token
    text = f"anna has a hat . where is anna ? the hall {eos} who has a hat ? anna {eos}"
    assert (row.ids, row.branches) == (tokenizer(text).input_ids, [0] * 5 + [1] * 7 + [2] * 7)
    assert row.positions == [*range(5), *range(5, 12), *range(5, 12)]
    # "who" stands behind the end of the first branch, which it does not follow: no loss
    assert row.weights == [0.1] * 5 + [0.1] * 4 + [1.0] * 3 + [0.0] + [0.1] * 4 + [1.0] * 2


@torch.inference_mode()
def test_a_branch_is_read_as_if_it_were_the_only_one(tokenizer):
    model = module.new_model(MINI, tokenizer).eval()
    row = encode(TWO_ANSWERS, tokenizer)
    logits = module.read(model, collate([row, row + row], tokenizer.pad_token_id))
    for number, branch in enumerate(TWO_ANSWERS.branches, start=1):
        alone = collate([encode(Document(TWO_ANSWERS.pieces + branch), tokenizer)], 0)
        assert alone.given.keys() == {"input_ids"}
        expected = module.read(model, alone)[0]
        at = [i for i, b in enumerate(row.branches) if b in (0, number)]
        for line in logits:
            torch.testing.assert_close(line[at], expected, rtol=1e-4, atol=1e-5)
    # what is packed behind branches does not see them
    both = row + encode(TWO_ANSWERS, tokenizer)
    assert both.branches[19:] == [0] * 5 + [3] * 7 + [4] * 7
    assert both.positions[19:] == [position + 12 for position in both.positions[:19]]
    mask = collate([both], tokenizer.pad_token_id).given["attention_mask"][0, 0]
    second_trunk, second_branch, first_branch, first_trunk = 20, 13, 7, 2
    visible = [(second_trunk, first_trunk), (second_branch, first_trunk), (second_branch + 1, 13)]
    hidden = [(second_trunk, first_branch), (second_branch, first_branch), (second_branch, 14)]
    assert all(mask[place] for place in visible)
    assert not any(mask[place] for place in hidden)


def test_batches_hold_every_document_once(tokenizer):
    chunks = (module.batches(MINI, number, tokenizer) for number in (0, 0, 1))
    drawn, again, other = ([batch.given["input_ids"] for batch in own] for own in chunks)
    ends = sum(int((ids == tokenizer.eos_token_id).sum()) for ids in drawn)
    answers = documents(MINI.documents_per_chunk, random.Random("pretraining 0 0"), 0.0)
    assert ends == sum(max(1, len(document.branches)) for document in answers)
    rows, columns = MINI.cycles[0].sequences, MINI.cycles[0].length
    assert all(len(ids) <= rows and ids.shape[1] <= columns for ids in drawn)
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert not torch.equal(drawn[0], other[0])


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), max_size=30))
def test_packing_keeps_every_document_whole_and_wastes_little(documents):
    rows = [plain([*ids, 0], [*[0.5] * len(ids), 1.0]) for ids in documents]  # 0 ends a document
    packed = module.pack(rows, 10)
    assert all(len(row.ids) == len(row.weights) <= 10 for row in packed)
    out = [part.split() for row in packed for part in " ".join(map(str, row.ids)).split("0")]
    assert sorted(d for d in out if d) == sorted([str(i) for i in d] for d in documents)
    for row in packed:
        assert all((i == 0) == (w == 1.0) for i, w in zip(row.ids, row.weights, strict=True))
        assert row.positions == list(range(len(row)))
    # first fit: no two sequences could be one
    lengths = sorted(len(row) for row in packed)
    assert len(lengths) < 2 or lengths[0] + lengths[1] > 10
    refuses(ValueError, r"12 tokens.*length \(10\)", module.pack, [plain([1] * 12, [1.0] * 12)], 10)


class Parrot:
    """A stand-in for a model that has learnt some sequences by heart, and says <unk> elsewhere."""

    def __init__(self, known, size, unknown):
        self.known, self.size, self.unknown = known, size, unknown

    def __call__(self, input_ids, use_cache):
        logits = torch.zeros(*input_ids.shape, self.size)
        for i, row in enumerate(input_ids.tolist()):
            for t in range(len(row)):
                follow = [k[t + 1] for k in self.known if k[: t + 1] == row[: t + 1] and k[t + 1 :]]
                logits[i, t, follow[0] if follow else self.unknown] = 1.0
        return types.SimpleNamespace(logits=logits)


def test_exact_match_wants_every_word_and_the_end(tokenizer):
    people = (("anna", "hall"), ("ben", "attic"), ("clara", "barn"))
    items = [(f"where is {name} ?", f"the {place}") for name, place in people] + [("who ?", "dan")]
    said = ["where is anna ? the hall", "where is ben ? the barn", "where is clara ? the barn ."]
    ids = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in [*said, "who ? dan"]]
    parrot = Parrot(ids, len(tokenizer), tokenizer.unk_token_id)
    # the second has a wrong word, the third goes on where it should end
    parts = [module.exact_match(parrot, tokenizer, each) for each in (items, items[:1], items[1:3])]
    assert parts == [50.0, 100.0, 0.0]
    assert {len(rows) for rows in module.probe_items(5).values()} == {5}


# the schedule
def test_the_learning_rate_and_mixtures_follow_their_schedule():
    config = PretrainConfig(cycles=(Cycle(41, 2e-3), Cycle(11, 1e-3)), warmup_chunks=1.0)
    first = {0: 0.0, 0.5: 1e-3, 1: 2e-3, 21: 2e-3 * (0.02 + 0.98 / 2), 41: 2e-3 * 0.02}
    second = {41.5: 0.5e-3, 42: 1e-3, 47: 1e-3 * (0.02 + 0.98 / 2), 52: 1e-3 * 0.02}
    for place, expected in (first | second).items():
        assert module.learning_rate(config, place) == pytest.approx(expected, abs=1e-12), place
    falling = [module.learning_rate(config, place / 10) for place in range(10, 411)]
    assert falling == sorted(falling, reverse=True)
    for _, mixture in CURRICULUM:
        assert sum(mixture.values()) == pytest.approx(1.0)
        assert all(share > 0 for share in mixture.values())
    rng = random.Random(0)
    first = {document.text.split()[0] for document in documents(300, rng, 0.0)}
    later = {document.text.split()[0] for document in documents(300, rng, 0.5)}
    assert first == {"passage"}
    assert {"passage", "question", "french", "user"} < later


# resuming and faults
def test_a_new_model_depends_on_the_seed_alone_and_learns(tokenizer, undisturbed):
    seeds = [dataclasses.replace(MINI, seed=seed) for seed in (0, 0, 1)]
    one, same, other = (module.new_model(each, tokenizer).lm_head.weight for each in seeds)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    _, _, curve = undisturbed
    assert curve["tokens"].is_monotonic_increasing
    assert curve["loss"].iloc[1] < curve["loss"].iloc[0] < math.log(1100)


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        steps, whole = iter(range(10**6)), module.weighted_loss
        first_chunk = len(list(module.batches(MINI, 0, make_tokenizer())))

        def dies(*arguments):
            if next(steps) == first_chunk + 1:
                raise KeyboardInterrupt
            return whole(*arguments)

        patch.setattr(module, "weighted_loss", dies)
        refuses(KeyboardInterrupt, None, pretrain, MINI, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["state-000001.safetensors", "state.json"]
    assert_same(pretrain(MINI, tmp_path), undisturbed)
    assert checkpoint.saved_run(tmp_path)["tensors"] == "state-000002.safetensors"
    monkeypatch.setattr(module, "weighted_loss", None)  # a finished run is not trained again
    assert_same(pretrain(MINI, tmp_path), undisturbed)


def test_a_cycle_that_forgets_starts_like_a_new_run_from_the_same_weights(tmp_path):
    once = (Cycle(1, 3e-3, length=64, sequences=8),)
    forgets = (*once, dataclasses.replace(once[0], forget=True))
    first, anew, goes_on = (
        pretrain(dataclasses.replace(MINI, cycles=cycles), tmp_path / str(i))[0]
        for i, cycles in enumerate((once, forgets, once * 2))
    )
    config = dataclasses.replace(MINI, cycles=forgets)
    module._train_chunk(config, 1, first, module._new_optimizer(MINI, first), make_tokenizer())
    assert torch.equal(anew.lm_head.weight, first.lm_head.weight)
    assert not torch.equal(anew.lm_head.weight, goes_on.lm_head.weight)


def test_a_full_disk_leaves_the_last_whole_checkpoint(undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        whole = checkpoint.save_file

        def fills_the_disk(tensors, path):
            if checkpoint.saved_run(tmp_path) is not None:
                path.write_bytes(b"half of it")
                raise OSError(28, "No space left on device")
            whole(tensors, path)

        patch.setattr(checkpoint, "save_file", fills_the_disk)
        refuses(OSError, "No space left", pretrain, MINI, tmp_path)
    assert (tmp_path / checkpoint.saved_run(tmp_path)["tensors"]).is_file()
    assert_same(pretrain(MINI, tmp_path), undisturbed)


def test_a_loss_that_is_no_number_stops_with_step_and_cause(tmp_path):
    wild = dataclasses.replace(MINI, cycles=(Cycle(2, 1e30, length=64, sequences=8),))
    with pytest.raises(loop.TrainingDiverged, match=r"loss of chunk 0 .* step \d.*learning rate"):
        pretrain(wild, tmp_path)
    assert list(tmp_path.iterdir()) == []


# the shipped folder
def test_what_is_shipped_is_a_standard_checkpoint_with_a_seal(undisturbed, tmp_path):
    model, tokenizer, curve = undisturbed
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "README.md").write_text("the card")
    module.ship(model, tokenizer, curve, MINI, folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(each, loaded[name]) for name, each in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(folder).chat_template == tokenizer.chat_template
    meta = verify_folder(folder, "the base model").meta
    assert meta["parameters"] == sum(p.numel() for p in model.parameters())
    assert meta["tokens"] == int(curve["tokens"].iloc[-1])
    assert ((folder / "README.md").read_text(), [*tmp_path.iterdir()]) == ("the card", [folder])


def test_the_base_is_small_standard_untied_and_has_its_skills(tokenizer):
    folder = base_folder()
    meta = verify_folder(folder, "the base model").meta
    assert (folder / "model.safetensors").stat().st_size < 12e6
    model, shipped = load_policy(folder)
    assert model.config.num_hidden_layers in (9, 12)
    assert not model.config.tie_word_embeddings
    # whoever adds a word to the world has to train the base again
    assert shipped.get_vocab() == tokenizer.get_vocab()
    curve = pd.read_csv(folder / "learning_curve.csv")
    assert int(curve["tokens"].iloc[-1]) == pytest.approx(meta["tokens"], rel=1e-4)
    assert {*module.probe_items(1)} <= {*curve}
    scores = Scorer("tiny", limit=None, batch_size=128).score(model, shipped)
    values = scores.values(forgiven=True)  # choices by likelihood
    for slot, bar in {"one_hop": 92, "two_hop": 65, "span": 85, "counting": 70, "bleu": 90}.items():
        assert slot_percent(slot, values[slot]) >= bar, slot
    for slot in ("one_hop", "two_hop", "piqa_like", "race_like", "span", "counting"):
        gain = values[slot] - np.array(items(slot)["guess"])
        assert gain.mean() > 1.96 * gain.std(ddof=1) / np.sqrt(len(gain)), slot
