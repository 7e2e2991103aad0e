"""Real sets are read from the Hub's and the local layout into one form, and split without overlap.

Every row here is made up for the test; no row of a real set is copied.
"""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from alignment_tax.world import real
from alignment_tax.world.real import DataUnavailable, RealWorld, benchmark, load


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALIGNMENT_TAX_DATA", str(tmp_path))
    return tmp_path


def talk(*turns: str) -> str:
    speakers = ["Human", "Assistant"] * len(turns)
    return "".join(f"\n\n{who}: {what}" for who, what in zip(speakers, turns, strict=False))


def hh_rows(n: int, tag: str = "") -> list[dict[str, str]]:
    # Every third conversation is a longer one with the same opening as the one before it.
    rows = []
    for i in range(n):
        opening = f"How do I bake bread number {i - (i % 3 == 1)}?"
        turns = (opening, "Warm water.", "And then?") if i % 3 == 1 else (opening,)
        rows.append(
            {"chosen": talk(*turns, f"Knead it {tag}{i}."), "rejected": talk(*turns, f"No {i}.")}
        )
    return rows


@pytest.fixture
def hh(folder: Path) -> Path:
    for name in real.PREFERENCE_SETS:
        write(folder, real.SOURCES[name].local, hh_rows(300, tag=name))
    return folder


ARC = {"question": "What is hot?", "choices": ["ice", "fire", "snow"], "gold": 1}
RACE = {
    "passage": "Tom has a cat.\n\nIt is red.",
    "question": "The cat is   _  .",
    "choices": ["red", "big", "B sharp", "old"],
    "gold": 0,
}
SPAN = {"passage": "Ann met Bob.", "question": "Who met Bob?", "answers": ["Ann"]}
LOCAL_RACE = (
    "Read the following passage and questions, then choose.\n\n<passage>:\nTom has a cat.\n\n"
    "It is red.\n\n<question>:\nThe cat is   _  .\n\n<options>:\nA red\nB big\nC B sharp\nD old\n\n"
    "<answer>:\n"
)

SAME_ROW_IN_BOTH_LAYOUTS = {
    "arc_easy_test": (
        {
            "id": "x1",
            "question": "What is hot?",
            "choices": {"text": ["ice", "fire", "snow"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
        {"query": "Question: What is hot?", "choices": ["ice", "fire", "snow"], "gold": 1},
        ARC,
    ),
    "arc_challenge_train": (
        {
            "question": "What is hot?",
            "choices": {"text": ["ice", "fire", "snow"], "label": ["A", "B", "C"]},
            "answerKey": "B",
        },
        {
            "instruction": "Please choose the correct answer to the question: What is hot?\n\n"
            "Answer1: ice Answer2: fire Answer3: snow\n\nAnswer format: answer1/answer2/answer3",
            "input": "",
            "output": "the correct answer is answer2",
            "answer": "answer2",
        },
        ARC,
    ),
    "piqa_validation": (
        {"goal": "dry a cup", "sol1": "use a towel ", "sol2": "use a lamp", "label": 0},
        {"goal": "dry a cup", "sol1": "use a towel ", "sol2": "use a lamp", "label": 0},
        {"question": "dry a cup", "choices": ["use a towel", "use a lamp"], "gold": 0},
    ),
    "race_middle_test": (
        {
            "example_id": "m1",
            "article": "Tom has a cat.\n\nIt is red.",
            "question": "The cat is   _  .",
            "options": ["red", "big", "B sharp", "old"],
            "answer": "A",
        },
        {"conversation_id": 1, "conversation": [{"human": LOCAL_RACE, "assistant": "A"}]},
        RACE,
    ),
    "squad_dev": (
        {
            "id": "1",
            "context": "Ann met Bob.",
            "question": " Who met Bob?",
            "answers": {"text": ["Ann", "Ann"], "answer_start": [0, 0]},
        },
        {
            "id": "1",
            "context": "Ann met Bob.",
            "question": "Who met Bob?",
            "answers": [{"answer_start": 0, "text": "Ann"}],
        },
        SPAN,
    ),
    "squad_train": (
        {
            "context": "Ann met Bob.",
            "question": "Who met Bob?",
            "answers": {"text": ["Ann"], "answer_start": [0]},
        },
        {"context": "Ann met Bob.", "question": "Who met Bob?", "answer": "Ann"},
        SPAN,
    ),
    "drop_dev": (
        {
            "query_id": "q",
            "passage": "Two teams won.",
            "question": "Which teams won?",
            "answer": {
                "number": "",
                "date": {"day": "", "month": "", "year": ""},
                "spans": ["Bears", "Lions"],
            },
            "validated_answers": {
                "number": ["2", "", ""],
                "date": [
                    {"day": "", "month": "", "year": ""},
                    {"day": "3", "month": "May", "year": ""},
                    {"day": "", "month": "", "year": ""},
                ],
                "spans": [[], [], ["Bears", "Lions"]],
            },
        },
        {
            "context": "Passage: Two teams won.\nQuestion: Which teams won?\nAnswer:",
            "completion": " Bears and Lions",
            "ref_text": "Bears and Lions|2|3 May",
        },
        {
            "passage": "Two teams won.",
            "question": "Which teams won?",
            "answers": ["Bears and Lions", "2", "3 May"],
        },
    ),
    "newstest2014": (
        {"translation": {"fr": "Bonjour.", "en": "Hello."}},
        {"fr": "Bonjour.", "en": "Hello."},
        {"fr": "Bonjour.", "en": "Hello."},
    ),
    "newstest2013": (
        {"translation": {"fr": "Bonjour.", "en": "Hello."}},
        {"set": "newstest2013", "fr": "Bonjour.", "en": "Hello."},
        {"fr": "Bonjour.", "en": "Hello."},
    ),
    "dolly": (
        {"instruction": "Add. ", "context": "", "response": "3", "category": "open_qa"},
        {"instruction": "Add.", "context": "", "response": "3"},
        {"instruction": "Add.", "context": "", "response": "3"},
    ),
    "harmless_base": (
        {"chosen": talk("Hi", "Yo"), "rejected": talk("Hi", "No")},
        {"chosen": talk("Hi", "Yo"), "rejected": talk("Hi", "No")},
        {"chosen": talk("Hi", "Yo"), "rejected": talk("Hi", "No")},
    ),
}


@pytest.mark.parametrize("name", SAME_ROW_IN_BOTH_LAYOUTS)
def test_both_layouts_give_the_same_row(name: str) -> None:
    on_hub, on_disk, normal = SAME_ROW_IN_BOTH_LAYOUTS[name]
    source = real.SOURCES[name]
    assert source.from_hub(on_hub) == normal
    assert source.from_local(on_disk) == normal


def test_rows_that_are_not_ours_are_left_out() -> None:
    older = {"set": "newstest2009", "fr": "Bonjour.", "en": "Hello."}
    assert real.translation_2013(older) is None
    assert real.demonstration({"instruction": "Add.", "context": "", "response": " "}) is None
    nobody = {
        "number": "",
        "date": {"day": "", "month": "", "year": ""},
        "spans": [],
    }
    unanswered = {
        "passage": "P.",
        "question": "Q?",
        "answer": nobody,
        "validated_answers": {"number": [], "date": [], "spans": []},
    }
    assert real.drop_from_hub(unanswered) is None


def test_conversations_become_messages() -> None:
    text = talk("Hello", "Hi.\n\nHow are you?", "Fine")
    assert real.parse_conversation(text) == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi.\n\nHow are you?"},
        {"role": "user", "content": "Fine"},
    ]


@pytest.mark.parametrize(
    ("chosen", "rejected", "fault"),
    [
        (talk("Hi", "Yo"), talk("Hi", " Yo "), "same"),
        (talk("Hi", "Yo"), talk("Hi there", "No"), "diverging"),
        (talk("Hi", "A", "B", "Yo"), talk("Hi", "Yo"), "diverging"),
        (talk("Hi", "Yo"), talk("Hi", ""), "empty"),
        (talk("Hi"), talk("Hi", "Yo"), "empty"),
        ("Hi, no marks", talk("Hi", "Yo"), "malformed"),
        (talk("Hi", "", "More", "Yo"), talk("Hi", "", "More", "No"), "malformed"),
    ],
)
def test_unusable_pairs_are_named(chosen: str, rejected: str, fault: str) -> None:
    assert real.parse_pair({"chosen": chosen, "rejected": rejected}) == fault


def test_faults_are_counted(folder: Path) -> None:
    rows = [
        {"chosen": talk("Hi", "Yo"), "rejected": talk("Hi", "No")},
        {"chosen": talk("Hi", "Yo"), "rejected": talk("Hi", "Yo")},
        {"chosen": talk("Hi", "Yo"), "rejected": talk("Hello", "No")},
    ]
    write(folder, "hh_helpful_base_test", rows)
    counts = RealWorld(preference_sets=("helpful_base",)).counts["helpful_base"]
    assert counts == {"kept": 1, "same": 1, "diverging": 1, "empty": 0, "malformed": 0}


def openings_of(prompts: list[list[dict[str, str]]]) -> set[str]:
    return {prompt[0]["content"].lower() for prompt in prompts}


def test_no_two_parts_share_an_opening(hh: Path) -> None:
    world = RealWorld()
    parts = {
        split: openings_of(world.preferences(10_000, 0, split)["prompt"])
        for split in ("train", "validation", "judge")
    } | {
        f"{split} prompts": openings_of(world.prompts(10_000, 0, split))  # type: ignore[arg-type]
        for split in ("rlhf", "validation", "reported")
    }
    # 300 conversations a set, the same in each set, of which 100 repeat an opening.
    assert sum(len(openings) for openings in parts.values()) == 200
    assert set().union(*parts.values()) == openings_of(
        [real.parse_conversation(row["chosen"]) for row in hh_rows(300)]  # type: ignore[misc]
    )
    shares = [len(parts["train"]) / 200, len(parts["judge"]) / 200]
    assert shares == pytest.approx([0.40, 0.24], abs=0.1)


def test_demonstrations_share_no_opening_with_preferences(hh: Path) -> None:
    rows = [
        {"instruction": "how do I bake  bread number 0?", "context": "", "response": "Knead."},
        {"instruction": "Sum up.", "context": "A text.", "response": "Text."},
    ]
    write(hh, "dolly_15k", rows)
    demonstrations = RealWorld().sft(10, seed=0)
    assert demonstrations.to_list() == [
        {
            "prompt": [{"role": "user", "content": "Sum up.\n\nA text."}],
            "completion": [{"role": "assistant", "content": "Text."}],
        }
    ]


def test_draws_are_seeded(hh: Path) -> None:
    first = RealWorld().preferences(20, 1, "train").to_list()
    assert first == RealWorld().preferences(20, 1, "train").to_list()
    assert first != RealWorld().preferences(20, 2, "train").to_list()
    assert set(first[0]) == {"prompt", "chosen", "rejected"}
    assert first[0]["chosen"][0]["role"] == "assistant"
    assert first[0]["prompt"][-1]["role"] == "user"


def test_prompts_are_different_and_end_with_the_user(hh: Path) -> None:
    prompts = RealWorld().prompts(10_000, 0, "rlhf")
    assert len({json.dumps(prompt) for prompt in prompts}) == len(prompts)
    assert {prompt[-1]["role"] for prompt in prompts} == {"user"}


def test_asking_for_too_much_takes_all_and_says_so(
    hh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pairs = RealWorld().preferences(100_000, 0, "train")
    assert 0 < len(pairs) < 1200
    assert f"Asked for 100000 train pairs, there are {len(pairs)}" in caplog.text


def test_nothing_to_draw_from_is_an_error(folder: Path) -> None:
    write(folder, "hh_helpful_base_test", [{"chosen": talk("Hi", ""), "rejected": talk("Hi", "")}])
    world = RealWorld(preference_sets=("helpful_base",))
    with pytest.raises(DataUnavailable, match="no train pairs"):
        world.preferences(5, 0, "train")
    with pytest.raises(ValueError, match="at least 1"):
        world.preferences(0, 0, "train")
    with pytest.raises(ValueError, match="no split 'test'"):
        world.preferences(5, 0, "test")
    with pytest.raises(ValueError, match="no split 'test'"):
        world.prompts(5, 0, "test")


def test_nobody_knows_the_true_reward() -> None:
    assert RealWorld().gold([[{"role": "user", "content": "Hi"}]], ["Yo"]) is None


def test_no_network_names_the_set_and_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.delenv("ALIGNMENT_TAX_DATA", raising=False)
    monkeypatch.setattr(real, "load_dataset", unreachable)
    with pytest.raises(DataUnavailable, match=r"no route to host.*dolly_15k\.jsonl\.gz"):
        load("dolly")


def test_the_hub_is_asked_for_the_set_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def hub(*args: object, **kwargs: object) -> list[dict[str, str]]:
        asked.append((args, kwargs))
        return [{"chosen": talk("Hi", "Yo"), "rejected": talk("Hi", "No")}]

    monkeypatch.delenv("ALIGNMENT_TAX_DATA", raising=False)
    monkeypatch.setattr(real, "load_dataset", hub)
    assert len(load("harmless_base")) == 1
    where = {"data_dir": "harmless-base", "split": "train+test"}
    assert asked == [(("Anthropic/hh-rlhf", None), where)]


def test_a_cut_off_file_is_refused(folder: Path) -> None:
    rows = [{"goal": f"{i}", "sol1": f"a{i}", "sol2": f"b{i * i}", "label": 0} for i in range(500)]
    write(folder, "piqa_valid", rows)
    path = folder / "piqa_valid.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataUnavailable, match="damaged after line"):
        load("piqa_validation")


def test_an_unknown_set_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="dolly"):
        load("doly")
    with pytest.raises(ValueError, match="arc_easy"):
        benchmark("arc", "reported")
    with pytest.raises(ValueError, match="validation"):
        benchmark("arc_easy", "test")


def test_one_set_is_split_in_two_by_the_text(folder: Path) -> None:
    rows = [
        {"goal": f"do {i // 2}", "sol1": f"a{i}", "sol2": f"b{i}", "label": i % 2}
        for i in range(400)
    ]
    write(folder, "piqa_valid", rows)
    reported, validation = benchmark("piqa", "reported"), benchmark("piqa", "validation")
    assert len(reported) + len(validation) == 400
    assert 0.1 < len(validation) / 400 < 0.3
    assert not {row["question"] for row in reported} & {row["question"] for row in validation}


def test_items_come_shuffled_whatever_the_order_of_the_file(folder: Path) -> None:
    rows = [{"query": f"Q{i}", "choices": ["a", "b"], "gold": 0} for i in range(50)]
    write(folder, "arc_easy_test", rows)
    first = benchmark("arc_easy", "reported")
    write(folder, "arc_easy_test", rows[::-1])
    assert benchmark("arc_easy", "reported") == first
    assert [row["question"] for row in first] != [f"Q{i}" for i in range(50)]


def test_a_question_that_is_reported_is_not_validated_on(folder: Path) -> None:
    write(folder, "squad_dev_xquad_en", [{**SQUAD_ROW, "answers": [{"text": "Ann"}]}])
    other = {"context": "Eve left.", "question": "Who left?", "answer": "Eve"}
    write(folder, "squad_part_heldout", [{**SQUAD_ROW, "answer": "Ann"}, other])
    assert [row["question"] for row in benchmark("squad", "validation")] == ["Who left?"]


SQUAD_ROW = {"context": "Ann met Bob.", "question": "Who met Bob?"}
