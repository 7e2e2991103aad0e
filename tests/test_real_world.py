"""Real sets are read from the Hub's and the local layout into one form, and split without overlap.

Every row here is made up for the test; no row of a real set is copied.
"""

import gzip
import json
import logging
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import refuses

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
ROWS = json.loads((Path(__file__).parent / "golden" / "real_rows.json").read_text("utf-8"))
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
    for call, given, error, said in (
        (world.preferences, (5, 0, "train"), DataUnavailable, "no train pairs"),
        (world.preferences, (0, 0, "train"), ValueError, "at least 1"),
        (world.preferences, (5, 0, "test"), ValueError, "no split 'test'"),
        (world.prompts, (5, 0, "test"), ValueError, "no split 'test'"),
        (load, ("doly",), KeyError, "dolly"),
        (benchmark, ("arc", "reported"), ValueError, "arc_easy"),
        (benchmark, ("arc_easy", "test"), ValueError, "validation"),
    ):
        refuses(error, said, call, *given)


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
