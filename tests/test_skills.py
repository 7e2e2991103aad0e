"""Scores: as in bare forward passes, as sacrebleu counts, and item by item as lm-eval has them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sacrebleu
import torch
from conftest import refuses
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from test_merge import llama
from test_models import make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from alignment_tax import skills
from alignment_tax.labels import BLEU_COLUMNS, CUT_COLUMNS, FORGIVEN
from alignment_tax.models import load_policy, save_policy
from alignment_tax.settings import base_folder
from alignment_tax.skills import scorer as scorer_module
from alignment_tax.skills.decode import SHARED, greedy_replies, log_likelihoods
from alignment_tax.skills.scorer import first_line
from alignment_tax.stats.compare import paired_bootstrap

SUITE = Path(__file__).parent / "golden" / "suite"
NAMES = ("utils", "choice", "generation")
UTILS, CHOICE, GENERATION = ((SUITE / f"{name}.txt").read_text() for name in NAMES)


def generation(task: str, metric="exact_match", aggregation="mean") -> str:
    return GENERATION.format(task=task, metric=metric, aggregation=aggregation)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "utils.py").write_text(UTILS)
    for slot, (task, *_) in scorer_module.SUITES["tiny"].items():
        if slot in skills.FAMILIES["commonsense"]:
            text = CHOICE.format(task=task)
        else:
            text = generation(task, "bleu", "bleu") if slot == "bleu" else generation(task)
        (folder / f"{task}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(["?", *(f"w{i}" for i in range(40))])


def tiny_llama(seed: int = 0, **changes: float) -> PreTrainedModel:
    sizes = {"vocab_size": 46, "hidden_size": 32, "max_position_embeddings": 32}
    ends = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    return llama(seed, 2, False, **sizes | ends | {"initializer_range": 0.5} | changes)


def only(*slots: str, folder: Path | None, limit: int | None = None, size: int = 8):
    without = tuple(slot for slot in skills.SLOTS if slot not in slots)
    return skills.Scorer("tiny", limit, size, folder=folder, without=without)


@pytest.fixture(scope="module")
def scorer(tasks: Path) -> skills.Scorer:
    return only(*skills.SLOTS, folder=tasks)


@pytest.fixture(scope="module")
def scores(scorer, tokenizer) -> skills.SkillScores:
    return scorer.score(tiny_llama(), tokenizer)


@pytest.fixture(scope="module")
def other(scorer, tokenizer) -> skills.SkillScores:
    return scorer.score(tiny_llama(1), tokenizer)


def documents(tasks: Path, name: str) -> list[dict]:
    space: dict = {}
    exec((tasks / "utils.py").read_text(), space)
    return list(space[name]()["test"])


def test_a_prompt_that_does_not_fit_is_cut_and_reported(tasks, tokenizer) -> None:
    model = tiny_llama()
    model.config.max_position_embeddings = 8
    few = only("span", "one_hop", folder=tasks, limit=4)
    with pytest.warns(UserWarning, match="tiny_span: 4 prompts"):
        found = few.score(model, tokenizer)
    assert found.items.equals(by_lm_eval(few, model, tokenizer))


def test_families_are_means_of_slots_some_left_out_by_name(scores, tasks, tokenizer, capsys):
    m = scores.metrics
    assert set(m) == {*skills.SLOTS, *FORGIVEN, *FORGIVEN.values()}
    assert m["forgetting"] == pytest.approx(np.mean([m[FORGIVEN[f]] for f in skills.FAMILIES]))
    four = (m["one_hop"] + m["two_hop"] + m["piqa_like"] + m["race_like"]) / 4
    assert m["commonsense"] == pytest.approx(four)
    assert m["reading"] == pytest.approx((m["span"] + m["counting"]) / 2)
    assert m["translation"] == m["bleu"]
    assert m["skill"] == pytest.approx((m["commonsense"] + m["reading"] + m["translation"]) / 3)
    asked = ("one_hop", "two_hop", "piqa_like", "span", "bleu")
    scores = only(*asked, folder=tasks, limit=3).score(tiny_llama(), tokenizer)
    found = (scores.items.groupby("slot").size().to_dict(), scores.n_items)
    assert found == (dict.fromkeys(asked, 3), 15)
    assert "race_like" not in scores.metrics
    assert scores.metrics["reading"] == scores.metrics["span"]
    assert "Building contexts" not in capsys.readouterr().err


def test_a_model_gives_the_same_numbers_and_keeps_its_mode(scores, other, scorer, tokenizer):
    model = tiny_llama().train()
    again = scorer.score(model, tokenizer)
    assert again.metrics == scores.metrics != other.metrics
    assert again.items.equals(scores.items)
    assert model.training


def test_what_cannot_be_scored_or_compared_is_refused(tasks, tokenizer, scores, tmp_path) -> None:
    def refused(said, suite="tiny", limit=None, **changes):
        refuses(skills.SkillsError, said, skills.Scorer, suite, limit, 8, folder=tasks, **changes)

    refused("no suite 'big'.*tiny, real", "big")
    refused("limit is 0", limit=0)
    refused("no split 'test'", split="test")
    refused("no slot 'race' to leave out", without=("race",))
    # a task that is missing is never left out silently
    refused("no lm-eval task 'tiny_one_hop_validation'", split="validation")
    shutil.copy(tasks / "utils.py", tmp_path)
    for old, new, message in (
        ("doc_to_target: answer", 'doc_to_target: "{{question[:0]}}"', "a text"),
        ("do_sample: false", "num_beams: 3", "greedy"),
    ):
        (tmp_path / "span.yaml").write_text(generation("tiny_span").replace(old, new))
        with pytest.raises(skills.SkillsError, match=f"tiny_span.*{message}"):
            only("span", folder=tmp_path, limit=2).score(tiny_llama(), tokenizer)
    changed = skills.SkillScores(scores.metrics, scores.items.assign(fingerprint="other"))
    refuses(skills.SkillsError, "different items", skills.pair_scores, [scores], [changed])
    refuses(skills.SkillsError, "no score 'reasoning'", skills.family_percent, "reasoning")
    refuses(skills.SkillsError, "score the model there first", skills.SkillScores.load, tmp_path)


def by_lm_eval(scorer: skills.Scorer, model, tokenizer) -> pd.DataFrame:
    """The items of a scorer, as lm-eval's own evaluation with its own model class finds them."""
    model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=scorer.batch_size)
    rows = []
    for slot, task in scorer.slots.items():
        definition = scorer.tasks[task.name]
        asked = {"tasks": {task.name: definition}}
        found = evaluate(model, asked, limit=scorer.limit, bootstrap_iters=0)
        for sample in found["samples"][task.name]:
            row = {"slot": slot, "item": sample["doc_id"], "fingerprint": sample["doc_hash"][:16]}
            nothing = dict.fromkeys((*BLEU_COLUMNS, *CUT_COLUMNS), np.nan)
            value = forgiven = np.nan if slot == "bleu" else float(sample[task.metric])
            if slot == "bleu":
                reference, reply = sample["bleu"]
                whole = skills.bleu_statistics(reference, reply)
                cut = skills.bleu_statistics(reference, first_line(reply, reference, task.ends))
                nothing = dict(zip(nothing, [*whole, *cut], strict=True))
            elif task.said:
                value = said(model, definition, sample["doc"])
            elif isinstance(reply := sample["resps"][0][0], str):
                reply = first_line(reply, str(definition.doc_to_target(sample["doc"])), task.ends)
                forgiven = definition.process_results(sample["doc"], [reply])[task.metric]
            rows.append(row | {"value": value, "forgiven": float(forgiven)} | nothing)
    return pd.DataFrame(rows)


def said(model: HFLM, definition, doc) -> float:
    """Whether lm-eval's own greedy reply to a question is the right choice, and nothing else."""
    asked = (definition.doc_to_text(doc), {"until": [], "max_gen_toks": 4, "do_sample": False})
    (reply,) = model.generate_until([Instance("generate_until", doc, asked, 0)], disable_tqdm=True)
    return float(reply.strip() == definition.doc_to_choice(doc)[definition.doc_to_target(doc)])


def damaged_base():
    model, tokenizer = load_policy(base_folder())
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights += 0.15 * weights.std() * torch.randn(weights.shape, generator=draw)
    return model, tokenizer


def test_every_item_of_the_tiny_suite_is_answered_as_by_lm_eval(tmp_path) -> None:
    model, tokenizer = damaged_base()
    few = skills.Scorer("tiny", limit=40, batch_size=16)
    items = few.score(model, tokenizer).items
    assert items.equals(by_lm_eval(few, model, tokenizer))
    # answers that are all right, or all wrong, would test little
    assert 0.1 < items["value"].mean() < 0.95
    assert items["matches_2"].nunique() > 2
    # what a checkpoint or a tokenizer adds by itself moves nothing
    model.generation_config.update(repetition_penalty=1.8, no_repeat_ngram_size=2, eos_token_id=3)
    model.generation_config.update(max_new_tokens=2, min_new_tokens=9, do_sample=True)
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    closing = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    tokenizer.backend_tokenizer.post_processor = closing
    assert tokenizer("the fox").input_ids[-1] == tokenizer.eos_token_id
    assert few.score(model, tokenizer).items.equals(items)


def test_the_public_command_line_gives_the_same_number(tmp_path) -> None:
    model, tokenizer = damaged_base()
    save_policy(model, tokenizer, tmp_path / "model")
    folder = Path(scorer_module.__file__).parent / "tiny"
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={tmp_path / 'model'},dtype=float32", "--limit", "40"]
    command += ["--tasks", "tiny_span", "--include_path", str(folder), "--batch_size", "16"]
    subprocess.run([*command, "--output_path", str(tmp_path / "out")], check=True, timeout=300)
    (file,) = (tmp_path / "out").rglob("results*.json")
    public = json.loads(file.read_text())["results"]["tiny_span"]["exact_match,none"]
    span = only("span", folder=None, limit=40, size=16)
    assert span.score(model, tokenizer).metrics["span"] == pytest.approx(100 * public)
    assert 0 < public < 1


def test_choices_of_several_tokens_are_likely_as_in_bare_forward_passes() -> None:
    model, draw = tiny_llama(), np.random.default_rng(0)
    contexts = [draw.integers(4, 44, size=n).tolist() for n in (3, 7, 5)]
    pairs = [(c, draw.integers(4, 44, size=n).tolist()) for c in contexts for n in (1, 4, 2)]
    # a continuation that greedy decoding gives
    pairs.append((contexts[0], greedy_replies(model, [contexts[0]], 3, lambda x: [False], 0, 1)[0]))
    for batch_size in (1, 4, 100):
        found = log_likelihoods(model, pairs, 0, batch_size)
        for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
            logits = model(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
            wanted = torch.tensor(continuation)
            each = logits.log_softmax(-1)[torch.arange(len(wanted)), wanted]
            assert value == pytest.approx(each.sum().item(), abs=1e-4)
            assert greedy == bool((logits.argmax(-1) == wanted).all())
    assert found[-1][1]


def test_what_all_prompts_begin_with_is_read_once_and_changes_no_reply() -> None:
    model, draw = tiny_llama(), np.random.default_rng(1)
    start = draw.integers(4, 44, size=SHARED).tolist()
    ends = [draw.integers(4, 44, size=n).tolist() for n in (1, 6, 3, 2)]
    read = []
    note = lambda module, given, named: read.append(named["input_ids"].numel())  # noqa: E731
    model.register_forward_pre_hook(note, with_kwargs=True)
    alone = [greedy_replies(model, [start + e], 5, lambda x: [False], 0, 1)[0] for e in ends]
    del read[:]
    together = greedy_replies(model, [start + e for e in ends], 5, lambda x: [False] * len(x), 0, 2)
    assert together == alone
    # twice the start, each batch's ends with padding, and four steps of two rows each
    assert sum(read) == 2 * SHARED + 2 * 6 + 2 * 2 + 2 * 4 * 2


def test_behind_the_first_sentence_or_line_all_is_forgiven(scorer, tokenizer, monkeypatch) -> None:
    helpful = "i see a dog . i hope this helps !"
    assert first_line(helpful, "i see a cat .", ".!?") == "i see a dog ."
    assert first_line("the hall . have a nice day !", "the hall", ".!?") == "the hall"
    assert first_line("the hall", "the hall", ".!?") == "the hall"
    assert first_line(". the hall", "the hall", ".!?") == ""
    assert first_line("Paris\nQuestion: next", "Paris", "\n") == "Paris"
    # and it is scored as it is cut
    monkeypatch.setattr(scorer_module, "first_line", lambda *_: "")
    items = scorer.score(tiny_llama(), tokenizer).items.query("slot == 'bleu'")
    assert items["length"].max() > 0
    assert items[CUT_COLUMNS[BLEU_COLUMNS.index("length")]].eq(0).all()


def test_a_continuation_that_must_end_is_greedy_only_if_the_end_follows() -> None:
    model, tokenizer = damaged_base()
    questions = [f"question : where does the {word} live ? answer :" for word in ("fox", "beetle")]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in questions]
    end = tokenizer.eos_token_id
    replies = greedy_replies(model, prompts, 6, lambda all: [r[-1] == end for r in all], 0, 8)
    pairs, expected = [], []
    for prompt, reply in zip(prompts, replies, strict=True):
        pairs += [(prompt, reply[:1]), (prompt, reply[:2]), (prompt, [reply[0] + 1])]
        expected += [reply[1] == end, len(reply) > 2 and reply[2] == end, False]
    free = log_likelihoods(model, pairs, 0, 8)
    ended = log_likelihoods(model, pairs, 0, 8, end)
    assert [greedy for _, greedy in ended] == expected
    assert [value for value, _ in ended] == pytest.approx([value for value, _ in free], abs=1e-5)
    assert [greedy for _, greedy in free] == [True, True, False] * 2


def test_answers_are_what_the_model_says(scorer, tasks, tokenizer) -> None:
    model, end = tiny_llama(), tokenizer.eos_token_id
    said = scorer.answers(model, tokenizer, {"span": [3, 1], "one_hop": [2], "bleu": []})
    prompts = [tokenizer(documents(tasks, "passages")[i]["question"])["input_ids"] for i in (1, 3)]
    replies = greedy_replies(model, prompts, 6, lambda all: [r[-1] == end for r in all], 0, 8)
    texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
    assert [said["span", 1], said["span", 3]] == texts
    assert said["one_hop", 2] in documents(tasks, "choices")[2]["choices"]
    assert set(said) == {("span", 1), ("span", 3), ("one_hop", 2)}


def test_scores_survive_the_disk(scores, tmp_path) -> None:
    scores.save(tmp_path / "scores")
    loaded = skills.SkillScores.load(tmp_path / "scores")
    assert loaded.metrics == scores.metrics
    assert loaded.items.equals(scores.items)
    names = {path.name for path in (tmp_path / "scores").iterdir()}
    assert names == {"items.parquet", "skills.json"}


def test_bleu_from_counts_is_sacrebleus_for_any_choice_of_items() -> None:
    rng = np.random.default_rng(0)
    references = [" ".join(rng.choice(list("abcdefg"), size=9)) + " ." for _ in range(30)]
    predictions = [r[: 2 * int(rng.integers(1, 9))] for r in references]
    predictions[3] = ""
    both = zip(references, predictions, strict=True)
    counts = np.array([skills.bleu_statistics(*each) for each in both])
    for _ in range(5):
        chosen = rng.integers(30, size=30)
        said, wanted = ([texts[i] for i in chosen] for texts in (predictions, references))
        expected = sacrebleu.corpus_bleu(said, [wanted]).score
        assert skills.corpus_bleu(counts[chosen]) == pytest.approx(expected)
    assert skills.corpus_bleu(counts[[3]]) == 0.0
    perfect = np.array([skills.bleu_statistics("the cat sleeps here", "the cat sleeps here")])
    assert skills.corpus_bleu(perfect) == pytest.approx(100.0)
    # four of five words match; bigrams a-b, b-c; one trigram; no 4-gram of two
    counts = skills.bleu_statistics("a b c d e", "a b c x d")
    assert counts == [4, 2, 1, 0, 5, 4, 3, 2, 5, 5]


@pytest.mark.parametrize("score", ["skill", "reading", "bleu"])
def test_scores_feed_the_bootstrap(scores, other, score: str) -> None:
    a, b = skills.pair_scores([scores], [other], score)
    options = {"n_boot": 20, "statistic": skills.family_percent(score)}
    result = paired_bootstrap(a, b, rng=np.random.default_rng(0), **options)
    assert result.difference == pytest.approx(scores.metrics[score] - other.metrics[score])
    assert result.low <= result.high
