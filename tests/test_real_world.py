"""Real sets are read from the Hub's and the local layout into one form, and split without overlap.

Every row here is made up for the test; no row of a real set is copied.
"""

import gzip
import json
import logging
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

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


@pytest.mark.parametrize("name", ROWS)
def test_both_layouts_give_the_same_row(name: str) -> None:
    row, source = ROWS[name], real.SOURCES[name]
    assert source.read(row["hub"]) == source.read(row["local"]) == row["normal"]


UNANSWERED = {
    "answer": {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": []},
    "validated_answers": {"number": [], "date": [], "spans": []},
}


@pytest.mark.parametrize(
    ("name", "layout", "change"),
    [
        ("newstest2013", "local", {"set": "newstest2009"}),
        ("dolly", "hub", {"response": " "}),
        ("drop_dev", "hub", UNANSWERED),
    ],
)
def test_rows_that_are_not_ours_are_left_out(name: str, layout: str, change: dict) -> None:
    assert real.SOURCES[name].read(ROWS[name][layout] | change) is None


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


def test_faults_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    diverging = {"chosen": talk("Hi", "Yo"), "rejected": talk("Hello", "No")}
    write(folder, "hh_helpful_base_test", [talks("Yo", "No"), talks("Yo", "Yo"), diverging])
    with caplog.at_level(logging.INFO):
        RealWorld(preference_sets=("helpful_base",)).preferences(1, 0, "train")
    assert re.findall(r"\d+", caplog.text.split("helpful_base: ")[1]) == ["1", "1", "0", "1", "0"]


def openings_of(prompts: list[list[dict[str, str]]]) -> set[str]:
    return {prompt[0]["content"].lower() for prompt in prompts}


def test_no_two_parts_share_an_opening(hh: Path) -> None:
    world = RealWorld()
    parts = {
        split: openings_of(world.preferences(10_000, 0, split)["prompt"])
        for split in ("train", "validation", "judge")
    }
    for split in ("rlhf", "validation", "reported"):
        parts[f"{split} prompts"] = openings_of(world.prompts(10_000, 0, split))
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
    (found,) = RealWorld().sft(10, seed=0).to_list()
    assert found["prompt"] == [{"role": "user", "content": "Sum up.\n\nA text."}]
    assert found["completion"] == [{"role": "assistant", "content": "Text."}]


def test_draws_are_seeded_and_ask_the_assistant(hh: Path) -> None:
    world = RealWorld()
    first = world.preferences(20, 1, "train").to_list()
    assert first == RealWorld().preferences(20, 1, "train").to_list()
    assert first != world.preferences(20, 2, "train").to_list()
    assert set(first[0]) == {"prompt", "chosen", "rejected"}
    assert first[0]["chosen"][0]["role"] == "assistant"
    assert first[0]["prompt"][-1]["role"] == "user"
    prompts = world.prompts(10_000, 0, "rlhf")
    assert len({json.dumps(prompt) for prompt in prompts}) == len(prompts)
    assert {prompt[-1]["role"] for prompt in prompts} == {"user"}
    # nobody knows the true reward
    assert world.gold(prompts[:1], ["Yo"]) is None


def test_asking_for_too_much_takes_all_and_says_so(hh, caplog):
    pairs = RealWorld().preferences(100_000, 0, "train")
    assert 0 < len(pairs) < 1200
    assert f"Asked for 100000 train pairs, there are {len(pairs)}" in caplog.text


def test_nothing_to_draw_from_and_unknown_names_are_refused(folder: Path) -> None:
    write(folder, "hh_helpful_base_test", [talks("", "")])
    world = RealWorld(preference_sets=("helpful_base",))
    with pytest.raises(DataUnavailable, match="no train pairs"):
        world.preferences(5, 0, "train")
    with pytest.raises(ValueError, match="at least 1"):
        world.preferences(0, 0, "train")
    with pytest.raises(ValueError, match="no split 'test'"):
        world.preferences(5, 0, "test")
    with pytest.raises(ValueError, match="no split 'test'"):
        world.prompts(5, 0, "test")
    with pytest.raises(KeyError, match="dolly"):
        load("doly")
    with pytest.raises(ValueError, match="arc_easy"):
        benchmark("arc", "reported")
    with pytest.raises(ValueError, match="validation"):
        benchmark("arc_easy", "test")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Mock:
    monkeypatch.delenv("ALIGNMENT_TAX_DATA", raising=False)
    monkeypatch.setattr(real, "load_dataset", Mock(return_value=[talks("Yo", "No")]))
    return real.load_dataset  # type: ignore[return-value]


def test_the_hub_is_asked_for_the_set_by_its_id(hub: Mock) -> None:
    assert len(load("harmless_base")) == 1
    where = {"data_dir": "harmless-base", "split": "train+test"}
    hub.assert_called_once_with("Anthropic/hh-rlhf", None, **where)
    hub.side_effect = ConnectionError("no route to host")
    with pytest.raises(DataUnavailable, match=r"no route to host.*dolly_15k\.jsonl\.gz"):
        load("dolly")


def test_a_cut_off_file_is_refused(folder: Path) -> None:
    rows = [{"goal": f"{i}", "sol1": f"a{i}", "sol2": f"b{i * i}", "label": 0} for i in range(500)]
    write(folder, "piqa_valid", rows)
    path = folder / "piqa_valid.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataUnavailable, match="damaged after line"):
        load("piqa_validation")


def test_one_set_is_split_in_two_by_the_text(folder: Path) -> None:
    rows = [{**CUP, "goal": f"do {i // 2}", "sol1": f"a{i}"} for i in range(400)]
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
    write(folder, "squad_dev_xquad_en", [{**MET, "answers": [{"text": "Ann"}]}])
    other = {"context": "Eve left.", "question": "Who left?", "answer": "Eve"}
    write(folder, "squad_part_heldout", [MET, other])
    assert [row["question"] for row in benchmark("squad", "validation")] == ["Who left?"]
