"""Scoring through lm-eval: against bare forward passes, sacrebleu, and lm-eval's own command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment_tax.results.items import SkillsError
from alignment_tax.skills import (
    FAMILIES,
    SLOTS,
    Scorer,
    SkillScores,
    bleu_statistics,
    corpus_bleu,
    family_percent,
    pair_scores,
    suite,
)
from alignment_tax.stats.compare import paired_bootstrap

WORDS = [f"w{i}" for i in range(40)]

UTILS = """
import random
from datasets import Dataset

WORDS = [f"w{i}" for i in range(40)]

def choices(**_):
    draw = random.Random(0)
    rows = [
        {"question": " ".join(draw.sample(WORDS, draw.randint(3, 6))) + " ?",
         "choices": draw.sample(WORDS, 4), "label": draw.randrange(4)}
        for _ in range(20)
    ]
    return {"test": Dataset.from_list(rows)}

def passages(**_):
    draw = random.Random(1)
    rows = [
        {"question": " ".join(draw.sample(WORDS, draw.randint(3, 6))) + " ?",
         "answer": " ".join(draw.choices(WORDS[:6], k=8))}
        for _ in range(20)
    ]
    return {"test": Dataset.from_list(rows)}
"""

CHOICE = """
task: {task}
custom_dataset: !function utils.choices
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""

GENERATION = """
task: {task}
custom_dataset: !function utils.passages
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{until: ["<eos>"], max_gen_toks: 6, do_sample: false}}
metric_list:
  - {{metric: {metric}, aggregation: {aggregation}, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "utils.py").write_text(UTILS)
    for slot, task in suite("tiny").items():
        if slot in FAMILIES["commonsense"]:
            text = CHOICE.format(task=task)
        elif slot == "bleu":
            text = GENERATION.format(task=task, metric="bleu", aggregation="bleu")
        else:
            text = GENERATION.format(task=task, metric="exact_match", aggregation="mean")
        (folder / f"{task}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", "?", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=44,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def scorer(tasks: Path) -> Scorer:
    return Scorer("tiny", limit=None, batch_size=8, folder=tasks)


@pytest.fixture(scope="module")
def scores(scorer: Scorer, tokenizer: PreTrainedTokenizerFast) -> SkillScores:
    return scorer.score(tiny_llama(), tokenizer)


def greedy_replies(model, tokenizer, prompts: list[str]) -> list[str]:
    replies = []
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"]
        reply: list[int] = []
        while len(reply) < 6:
            token = int(model(torch.tensor([ids + reply])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            reply.append(token)
        replies.append(tokenizer.decode(reply))
    return replies


def documents(tasks: Path, name: str) -> list[dict]:
    space: dict = {}
    exec((tasks / "utils.py").read_text(), space)
    return list(space[name]()["test"])


def test_choices_are_those_of_a_bare_forward_pass(scores, tasks, tokenizer) -> None:
    model, expected = tiny_llama(), []
    for doc in documents(tasks, "choices"):
        prompt = tokenizer(doc["question"], return_tensors="pt")["input_ids"]
        logits = model(prompt).logits[0, -1]
        answers = [tokenizer(choice)["input_ids"][0] for choice in doc["choices"]]
        expected.append(float(logits[answers].argmax() == doc["label"]))
    assert scores.values()["one_hop"].tolist() == expected
    assert scores.metrics["one_hop"] == pytest.approx(100 * np.mean(expected))
    assert 0 < sum(expected) < 20


def test_translations_are_those_of_greedy_decoding(scores, tasks, tokenizer) -> None:
    passages = documents(tasks, "passages")
    replies = greedy_replies(tiny_llama(), tokenizer, [doc["question"] for doc in passages])
    expected = sacrebleu.corpus_bleu(replies, [[doc["answer"] for doc in passages]]).score
    assert scores.metrics["bleu"] == pytest.approx(expected)
    assert expected > 0


def test_exact_match_counts_the_replies_that_are_the_answer(tokenizer, tmp_path) -> None:
    questions = [f"{first} {second} ?" for first in WORDS[:4] for second in WORDS[4:8]]
    answers = greedy_replies(tiny_llama(), tokenizer, questions)
    answers[:5] = [f"{answer} w1" for answer in answers[:5]]
    rows = [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)]
    source = "from datasets import Dataset\ndef passages(**_):\n"
    source += f"    return {{'test': Dataset.from_list({rows!r})}}\n"
    (tmp_path / "utils.py").write_text(source)
    task = GENERATION.format(task="tiny_span", metric="exact_match", aggregation="mean")
    (tmp_path / "span.yaml").write_text(task)
    others = tuple(slot for slot in SLOTS if slot != "span")
    span = Scorer("tiny", None, 8, folder=tmp_path, without=others)
    scores = span.score(tiny_llama(), tokenizer)
    assert scores.values()["span"].tolist() == [0.0] * 5 + [1.0] * 11
    assert scores.metrics == {"span": 100 * 11 / 16, "reading": 100 * 11 / 16}


def test_a_prompt_that_does_not_fit_is_reported(tasks, tokenizer) -> None:
    model = tiny_llama()
    model.config.max_position_embeddings = 8
    others = tuple(slot for slot in SLOTS if slot != "span")
    span = Scorer("tiny", limit=4, batch_size=8, folder=tasks, without=others)
    with pytest.warns(UserWarning, match="tiny_span: Left truncation applied"):
        span.score(model, tokenizer)


def test_numbers_are_those_of_lm_eval_itself(scores, tasks, tokenizer, tmp_path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    tiny_llama().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    public = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tmp_path), "device": "cpu", "dtype": "float32"},
        tasks=["tiny_two_hop", "tiny_translation"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=8,
        bootstrap_iters=0,
    )["results"]
    assert scores.metrics["two_hop"] == pytest.approx(100 * public["tiny_two_hop"]["acc,none"])
    assert scores.metrics["bleu"] == pytest.approx(public["tiny_translation"]["bleu,none"])


def test_families_are_means_of_slots_and_skill_of_families(scores) -> None:
    m = scores.metrics
    assert set(m) == {*SLOTS, *FAMILIES, "skill"}
    four = (m["one_hop"] + m["two_hop"] + m["piqa_like"] + m["race_like"]) / 4
    assert m["commonsense"] == pytest.approx(four)
    assert m["reading"] == pytest.approx((m["span"] + m["counting"]) / 2)
    assert m["translation"] == m["bleu"]
    assert m["skill"] == pytest.approx((m["commonsense"] + m["reading"] + m["translation"]) / 3)


def test_the_same_model_gives_the_same_numbers_and_keeps_its_mode(
    scores, scorer, tokenizer, capsys
) -> None:
    model = tiny_llama().train()
    again = scorer.score(model, tokenizer)
    assert again.metrics == scores.metrics
    assert again.items.equals(scores.items)
    assert model.training
    other = scorer.score(tiny_llama(1), tokenizer)
    assert other.metrics != scores.metrics
    assert "Building contexts" not in capsys.readouterr().err


def test_limit_and_slots_that_are_left_out_by_name(tasks, tokenizer) -> None:
    few = Scorer("tiny", limit=3, batch_size=8, folder=tasks, without=("race_like", "counting"))
    scores = few.score(tiny_llama(), tokenizer)
    assert scores.items.groupby("slot").size().to_dict() == {
        "one_hop": 3,
        "two_hop": 3,
        "piqa_like": 3,
        "span": 3,
        "bleu": 3,
    }
    assert scores.n_items == 15
    assert "race_like" not in scores.metrics
    assert scores.metrics["reading"] == scores.metrics["span"]


def test_a_task_that_is_missing_is_never_left_out_silently(tasks) -> None:
    with pytest.raises(SkillsError, match="no lm-eval task 'tiny_one_hop_validation'"):
        Scorer("tiny", limit=None, batch_size=8, split="validation", folder=tasks)


def test_unusable_settings_are_refused(tasks) -> None:
    with pytest.raises(SkillsError, match=r"no suite 'big'.*tiny, real"):
        Scorer("big", None, 8)
    with pytest.raises(SkillsError, match="limit is 0"):
        Scorer("tiny", 0, 8, folder=tasks)
    with pytest.raises(SkillsError, match="no split 'test'"):
        Scorer("tiny", None, 8, split="test", folder=tasks)  # type: ignore[arg-type]
    with pytest.raises(SkillsError, match="no slot 'race' to leave out"):
        Scorer("tiny", None, 8, without=("race",), folder=tasks)


def test_a_model_that_would_not_stop_is_refused(scorer, tokenizer) -> None:
    model = tiny_llama()
    model.generation_config.eos_token_id = None
    with pytest.raises(SkillsError, match=r"generation_config.eos_token_id = tokenizer"):
        scorer.score(model, tokenizer)


def test_scores_survive_the_disk(scores, tmp_path) -> None:
    scores.save(tmp_path / "scores")
    loaded = SkillScores.load(tmp_path / "scores")
    assert loaded.metrics == scores.metrics
    assert loaded.items.equals(scores.items)
    assert sorted(p.name for p in (tmp_path / "scores").iterdir()) == [
        "items.parquet",
        "skills.json",
    ]
    with pytest.raises(SkillsError, match="score the model there first"):
        SkillScores.load(tmp_path)


def test_bleu_counts_by_hand() -> None:
    # four of five words match; bigrams a-b, b-c; one trigram; no 4-gram of two
    counts = bleu_statistics("a b c d e", "a b c x d")
    assert counts == [4, 2, 1, 0, 5, 4, 3, 2, 5, 5]


def test_bleu_from_counts_is_sacrebleus_for_any_choice_of_items() -> None:
    rng = np.random.default_rng(0)
    references = [" ".join(rng.choice(list("abcdefg"), size=9)) + " ." for _ in range(30)]
    predictions = [r[: 2 * int(rng.integers(1, 9))] for r in references]
    predictions[3] = ""
    counts = np.array([bleu_statistics(r, p) for r, p in zip(references, predictions, strict=True)])
    for _ in range(5):
        chosen = rng.integers(30, size=30)
        expected = sacrebleu.corpus_bleu(
            [predictions[i] for i in chosen], [[references[i] for i in chosen]]
        ).score
        assert corpus_bleu(counts[chosen]) == pytest.approx(expected)
    assert corpus_bleu(counts[[3]]) == 0.0
    perfect = np.array([bleu_statistics("the cat sleeps here", "the cat sleeps here")])
    assert corpus_bleu(perfect) == pytest.approx(100.0)


@pytest.mark.parametrize("score", ["skill", "reading", "bleu"])
def test_scores_feed_the_bootstrap(scores, scorer, tokenizer, score: str) -> None:
    other = scorer.score(tiny_llama(1), tokenizer)
    a, b = pair_scores([scores], [other], score)
    result = paired_bootstrap(
        a, b, rng=np.random.default_rng(0), n_boot=20, statistic=family_percent(score)
    )
    assert result.difference == pytest.approx(scores.metrics[score] - other.metrics[score])
    assert result.low <= result.high


def test_scores_on_other_items_are_not_compared(scores) -> None:
    changed = scores.items.assign(fingerprint="other")
    with pytest.raises(SkillsError, match="different items"):
        pair_scores([scores], [SkillScores(scores.metrics, changed)])
    with pytest.raises(SkillsError, match="no score 'reasoning'"):
        family_percent("reasoning")
