"""An audit of a pair: numbers by hand, the page, what it refuses, what it keeps."""

import json
import re
from dataclasses import replace
from functools import cache
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refuses
from test_merge import llama
from transformers import LlamaForSequenceClassification, MixtralConfig

from alignment_tax import audit as audits, settings
from alignment_tax.audit import Asked, Audit, AuditError, Measured, measure, page, read_prompts
from alignment_tax.cli import main
from alignment_tax.merge.average import average, own_tensors
from alignment_tax.models import RewardModel, load_policy, save_policy
from alignment_tax.results.items import SkillScores, SkillsError
from alignment_tax.skills.scorer import SUITES, named_tasks
from alignment_tax.store import Store


def measured(right, forgiven, of=100, rewards=()):
    """A model that was asked one task: of so many items it has so many right, and forgiven."""
    value, lenient = ([1] * n + [0] * (of - n) for n in (right, forgiven))
    items = {"slot": "span", "item": range(of), "value": value, "forgiven": lenient}
    replies = {"reward": np.array(rewards)} if len(rewards) else {}
    return Measured(SkillScores({}, pd.DataFrame(items)), replies)


def made_up(rewards=True):
    """100 of 100 before, 60 after with format forgiven and 40 as written; half-way 90."""
    numbers = {0.0: (100, 100, 0.0), 0.5: (90, 95, 0.8), 1.0: (40, 60, 1.0)}
    models = {a: measured(n, f, rewards=[r] * 100 * rewards) for a, (n, f, r) in numbers.items()}
    return Audit(Asked("before", "after", ("tiny_span",), (0.5,)), models, draws=200)


def test_the_tax_by_hand_and_what_it_is_made_of():
    found = made_up()
    tax, forgotten = found.change(1.0), found.change(1.0, forgiven=True)
    assert (tax.difference, forgotten.difference) == (-60.0, -40.0)
    assert tax.low < -60 < tax.high < -45
    assert found.change(1.0, audits.REWARD).difference == pytest.approx(1.0)
    # shares: 0.8 of the reward, 10 of 60 points lost
    assert found.chosen == 0.5
    table = audits.table(found).set_index(["alpha", "score", "format_forgiven"])
    assert table.loc[(0.5, "mean", False), ["value", "change"]].tolist() == [90.0, -10.0]
    text = page(found)
    told = ("| mean | -60.00 (", "| -20.00 |", "Take alpha = 0.5", "surely gives skill back")
    assert [each for each in told if each not in text] == []  # -20 is format
    bare = made_up(rewards=False)
    assert (bare.chosen, "of reward" in page(bare)) == (0.5, False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The shipped base, and the same with noise in its weights."""
    folder = tmp_path_factory.mktemp("pair")
    model, tokenizer = load_policy(settings.base_folder())
    save_policy(model, tokenizer, folder / "before")
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in own_tensors(model).values():
            tensor += 0.1 * tensor.std() * torch.randn_like(tensor)
    save_policy(model, tokenizer, folder / "after")
    return folder / "before", folder / "after"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    turns = [{"role": "user", "content": "where is the cat ?"}]
    file.write_text("how do i hide the cart ?\n" + json.dumps({"prompt": turns}) + "\n")
    return file


def test_a_pair_is_audited_once_and_its_page_is_whole(pair, prompts, tmp_path, capsys):
    model, tokenizer = load_policy(pair[0])
    critic = RewardModel.from_policy(model, tokenizer)
    with torch.no_grad():
        critic.head.weight.normal_()
    save_policy(critic, tokenizer, tmp_path / "reward")
    asked = Asked(
        *map(str, pair), ("tiny_span", "tiny_one_hop"), (0.5,), str(tmp_path / "reward"), prompts,
        limit=6, max_new_tokens=4, judge=str(tmp_path / "reward"),
    )  # fmt: skip
    store = Store(tmp_path / "runs")
    found = replace(measure(asked, store), draws=20)
    for each in found.models.values():
        named = {name: len(values) for name, values in each.replies.items()}
        assert named == dict.fromkeys(audits.OF_REPLIES, 2)
        # the judge is the same model here; a reply has four tokens, or ends before
        assert each.replies["judge"].tolist() == each.replies["reward"].tolist()
        assert [*each.replies["ended"]] == [100.0 * (n < 4) for n in each.replies["tokens"]]
    assert 0 < found.seconds < 1e4
    written = audits.write_page(found, tmp_path / "out")
    names = sorted(file.name for file in written.parent.iterdir())
    assert names == ["audit.csv", "audit.md", "front.png"]
    assert {"| one_hop |", "| reward |"} <= set(re.findall(r"\| \w+ \|", written.read_text()))
    capsys.readouterr()
    again = replace(measure(asked, store), draws=20)
    assert "Making" not in capsys.readouterr().err
    assert audits.table(again).equals(audits.table(found))


@pytest.mark.parametrize("experts", [False, True])
def test_the_weights_of_the_average_are_those_of_the_library(pair, tmp_path, experts):
    if experts:  # which lie one by one in the files, and in a stack in memory
        (_, tokenizer), pair = load_policy(pair[0]), (tmp_path / "0", tmp_path / "1")
        sizes = {"vocab_size": len(tokenizer), "num_key_value_heads": 1}
        for seed, folder in enumerate(pair):
            save_policy(llama(seed, 1, False, MixtralConfig, **sizes), tokenizer, folder)
    models = [load_policy(each)[0] for each in pair]
    expected = average(*(own_tensors(each) for each in models), 0.3)
    audits.write_average(models[0], tuple(audits.open_checkpoint(each) for each in pair), 0.3)
    assert all(torch.equal(expected[n], t) for n, t in own_tensors(models[0]).items())


class Planned:
    """A stand-in for the scorer: what is right of 100 items is planned, by alpha in their order."""

    def __init__(self, shares):
        self.numbers = {"span": list(range(100))}
        self.shares, self.alpha = dict(zip((0.0, 0.5, 1.0), shares, strict=True)), 0.0
        self.asked, self.rows = {}, []

    def score(self, model, tokenizer, chosen):
        self.asked.setdefault(self.alpha, []).append(chosen["span"])
        self.rows.append(model.get_input_embeddings().weight.detach().clone())
        share = [self.shares[self.alpha]] * len(chosen["span"])
        items = {"item": chosen["span"], "value": share, "forgiven": share}
        return SkillScores({}, pd.DataFrame({"slot": "span"} | items))


@pytest.mark.parametrize(("shares", "bar", "looks", "chosen", "measured"), [
    ([1, 1, 0], 0.0, 1, 0.5, {0.0, 0.5, 1.0}),  # all is lost, and half-way all given back
    ([1, 1, 1], 0.0, 4, 1.0, {0.0, 0.5, 1.0}),  # an interval of 0 to 0 decides nothing
    ([1, 1, 1], 50.0, 1, 1.0, {0.0, 0.5, 1.0}),  # but that 50 points are not lost
    ([0, 0, 1], 0.0, 1, 1.0, {0.0, 1.0}),  # nothing is lost: no average is needed
])  # fmt: skip
def test_an_audit_stops_at_the_look_that_decides(
    pair, tmp_path, monkeypatch, shares, bar, looks, chosen, measured
):
    scorer = Planned(shares)
    monkeypatch.setattr(audits, "Scorer", lambda *_: scorer)
    note = lambda model, ends, alpha: setattr(scorer, "alpha", alpha)  # noqa: E731
    monkeypatch.setattr(audits, "write_average", note)  # none is written
    asked = Asked(*map(str, pair), ("tiny_span",), (0.5,), stop_early=True, bar=bar)
    found = replace(measure(asked, Store(tmp_path)), draws=20)
    counts = {alpha: len(parts) for alpha, parts in scorer.asked.items()}
    assert (counts, found.chosen) == (dict.fromkeys(measured, looks), chosen)
    items = [item for part in scorer.asked[1.0] for item in part]
    assert len(items) == len({*items}) == 25 * looks
    assert items != sorted(items)
    table = audits.table(found)
    counts = table.groupby("alpha")["n"].unique().to_dict()
    assert counts == {each: [25 * looks if each in measured else 0] for each in (0.0, 0.5, 1.0)}
    assert ({*table["n_of"]}, {*table["level"]}) == ({100}, {0.9875})
    text = page(found)
    assert f"{25 * looks} of\n100 items were measured" in text
    assert ("no average was measured at alpha 0.5" in text) == (0.5 not in measured)
    audits.front(table)


def test_several_looks_ask_more_of_each_interval():
    """A draw of 25 holds none of 4 lost items with chance 0.84 ** 25 = 0.0128."""
    models = {0.0: measured(25, 25, 25), 1.0: measured(21, 25, 25)}
    once = Audit(Asked("a", "b", ("tiny_span",)), models)
    several = replace(once, asked=replace(once.asked, stop_early=True))
    assert once.change(1.0).high < 0  # 0.025 of the draws lie beyond
    assert several.change(1.0).high == 0  # 0.05 / 4 / 2 = 0.00625 do
    items = {"bleu": range(100), "span": range(99)}
    refuses(AuditError, "'span' has 99 items, and --stop-early needs 100", audits.cut_items, items)


def test_four_looks_find_a_tax_that_is_not_there_in_no_more_than_one_audit_of_twenty():
    """200 audits of 100 items, of which one in 16 changes, as often for the better."""

    @cache
    def says_so(items, few, many, stop_early):
        """Whether so few items won and so many lost are said to be a tax."""
        if many < few + 4:  # a draw of n holds none of 3 lost items with chance (1 - 3 / n) ** n
            return False  # which is 0.04 or more
        ends = measured(many, many, items), measured(0, 0, items)
        ends[1].scores.items["value"] = [0] * (items - few) + [1] * few
        asked = Asked("a", "b", ("tiny_span",), stop_early=stop_early)
        return Audit(asked, dict(zip((0.0, 1.0), ends, strict=True))).change(1.0).high < 0

    drawn = np.random.default_rng(0).choice([-1, 0, 1], (200, 100), p=[1 / 32, 15 / 16, 1 / 32])
    found = {False: 0, True: 0}
    for audit, early in product(drawn, found):
        seen = (audit[:size] for size in (25, 50, 75, 100))
        looks = ((len(own), *sorted([(own > 0).sum(), (own < 0).sum()])) for own in seen)
        found[early] += any(says_so(*look, early) for look in looks)
    assert found[True] <= 10 < found[False]


def test_rows_of_one_model_are_listed_and_taken_as_they_are(pair, prompts, tmp_path, monkeypatch):
    model, tokenizer = load_policy(pair[1])
    rows = len(model.get_input_embeddings().weight)
    tokenizer.add_tokens(["<added>"])
    model.resize_token_embeddings(rows + 3)
    save_policy(model, tokenizer, tmp_path / "longer")
    both = [load_policy(each)[0] for each in (pair[0], tmp_path / "longer")]
    few, many = (each.get_input_embeddings().weight.detach() for each in both)
    middle = torch.cat([(few + many[:rows]) / 2, many[rows:]])
    ends = [torch.cat([few, many[rows:]]), many]
    for flip in (False, True):
        names = [pair[0], tmp_path / "longer"][:: -1 if flip else 1]
        scorer = Planned([1, 1, 1])
        monkeypatch.setattr(audits, "Scorer", lambda *_, own=scorer: own)
        asked = Asked(*map(str, names), ("tiny_span",), (0.5,))
        said = r"rows in BEFORE .* '<added>'\. With --pad"
        refuses(AuditError, said, measure, asked, Store(tmp_path / "runs"))
        found = measure(replace(asked, pad=True), Store(tmp_path / "runs"))
        for own, wanted in zip(scorer.rows, [ends[flip], middle, ends[not flip]], strict=True):
            assert torch.allclose(own, wanted, atol=1e-7)
        assert any(str(rows + 3) in each for each in found.added)
        assert "tokens that only one has: '<added>'" in page(found)
        opened = tuple(map(audits.open_checkpoint, names))
        refuses(AuditError, "With --pad", audits.find_ratios, opened, 0.4, prompts)
        ratios = audits.find_ratios(opened, 0.4, prompts, pad=True).blocks
        assert sum(ratios) == pytest.approx(1.2)


def test_the_command_fails_if_the_tax_lies_beyond(pair, tmp_path, monkeypatch, ends):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "runs"))
    monkeypatch.setattr(audits, "measure", lambda asked: made_up())
    line = ["audit", *map(str, pair), "--tasks", "tiny_span", "--out", str(tmp_path / "out")]
    assert main(line) == main([*line, "--fail-if-tax", "70"]) == 0
    ends("points: beyond 20", *line, "--fail-if-tax", "20", code=1)


def test_bad_input_is_refused_before_any_measuring(pair, prompts, tmp_path, monkeypatch, ends):
    monkeypatch.setenv(settings.RUNS_VARIABLE, str(tmp_path / "runs"))
    model, tokenizer = load_policy(pair[0])
    two = LlamaForSequenceClassification(llama(0, vocab_size=512, num_labels=2).config)
    save_policy(two, tokenizer, tmp_path / "two")
    save_policy(llama(0, vocab_size=600), tokenizer, tmp_path / "other")
    tokenizer.chat_template = None
    save_policy(model, tokenizer, tmp_path / "silent")
    (tmp_path / "empty").write_text("\n")
    few, reward = ("--tasks", "tiny_span", "--limit", 2), ("--reward", tmp_path / "two")
    asks = (*few, "--prompts", prompts)
    ends("Only in BEFORE", "audit", pair[0], tmp_path / "other", *few)
    ends("A reward needs --reward or --judge", "audit", *pair, *asks)
    ends("it has 2 labels instead of one", "audit", *pair, *asks, *reward)
    ends("has 0 prompts", "audit", *pair, *few, "--prompts", tmp_path / "empty", *reward)
    ends("no chat template", "audit", *[tmp_path / "silent"] * 2, *asks, *reward)
    assert not (tmp_path / "runs").exists()


def test_tasks_are_those_of_the_suites_and_of_lm_eval(tmp_path, monkeypatch):
    kinds = {"arc_easy": ("multiple_choice", "acc"), "perplexity": ("loglikelihood_rolling", "b")}
    index = {name: SimpleNamespace(yaml_path=tmp_path / name) for name in kinds}
    for name, (kind, metric) in kinds.items():
        told = f"task: {name}\noutput_type: {kind}\nmetric_list: [{{metric: {metric}}}]\n"
        (tmp_path / name).write_text(told)
    # in the place of lm-eval's index, which takes long to read
    lists = {"all_subtasks": (*kinds,), "all_tasks": (*kinds, "mmlu")}
    registry = SimpleNamespace(**lists, task_index=index)
    monkeypatch.setattr("alignment_tax.skills.scorer._registry", lambda: registry)
    assert named_tasks(["tiny"]) == SUITES["tiny"]
    found = named_tasks(["tiny_translation", "arc_easy"])
    assert {s: task.metric for s, task in found.items()} == {"bleu": "bleu", "arc_easy": "acc"}
    refuses(SkillsError, "Did you mean arc_easy", named_tasks, ["arc_esy"])
    refuses(SkillsError, "It is a group", named_tasks, ["mmlu"])
    refuses(SkillsError, "cannot be compared item by item", named_tasks, ["perplexity"])
    refuses(SkillsError, "Two tasks fill 'one_hop'", named_tasks, ["tiny", "real_arc_easy"])


def test_ratios_are_found_on_the_later_models_own_replies(pair, prompts, tmp_path, ends):
    found = audits.find_ratios(tuple(map(audits.open_checkpoint, pair)), 0.4, prompts)
    assert sum(found.blocks) == pytest.approx(1.2)
    (tmp_path / "p").write_text('one\n{"text": "two"}\n')
    refuses(AuditError, "line 2 is no prompt", read_prompts, tmp_path / "p")
    line = ["merge", *pair, "--hma", "--out", tmp_path / "out"]
    ends("--hma needs --prompts", *line)
    ends("name one of the two", *line, "--ratios", "0.5,0.1")
    ends("strictly between 0 and 1", *line, "--prompts", prompts, "--alpha", 1)
    ends("exists: name a folder", *line, "--prompts", prompts, "--out", pair[0])
