"""The real counterpart of the tiny world: preferences, demonstrations and benchmark items.

A set comes from the Hugging Face Hub, or as NAME.jsonl.gz (one JSON object a line) from the folder
that the setting ALIGNMENT_TAX_DATA names, and then only from there. Small pure functions turn a row
of either layout into one normal form, whose text alone says to which part it belongs.

Sets as in the paper (section 3): HH-RLHF for preferences and prompts; ARC, RACE, PIQA (common
sense), SQuAD, DROP (reading) and WMT14 French-English (translation) for the tax. Dolly stands in
for ShareGPT as instruction data.
"""

import gzip
import json
import logging
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, load_dataset
from tqdm import tqdm

from alignment_tax.settings import DATA_VARIABLE, SettingsError, data_folder
from alignment_tax.world.base import Prompt, said
from alignment_tax.world.splits import split_of, unit_hash

Row = dict[str, Any]

log = logging.getLogger(__name__)


class DataUnavailable(SettingsError):
    """A set that cannot be had or read; the message names it and the ways to get it."""


# Adapters: a row of either layout in, a row of the normal form out, None = not ours.
# Normal forms: {question, choices, gold}, {passage, question, answers}, {fr, en},
# {chosen, rejected}, {instruction, context, response}, {text}.


def _choice(question: str, choices: Iterable[str], gold: int, **passage: str) -> Row:
    choices = list(choices)
    if not 0 <= int(gold) < len(choices):
        raise ValueError(f"the right one is number {gold} of {len(choices)} choices")
    return {**passage, "question": question, "choices": choices, "gold": int(gold)}


def _reading(passage: str, question: str, answers: Iterable[str]) -> Row:
    different = list(dict.fromkeys(answers))
    return {"passage": passage, "question": question.strip(), "answers": different}


def _match(pattern: str, text: str) -> re.Match[str]:
    found = re.fullmatch(pattern, text, re.DOTALL)
    if found is None:
        raise ValueError(f"the text is not {pattern!r}")
    return found


def _arc(row: Row) -> Row:
    """Read the Hub's columns, a query with choices, or an instruction that holds them in words."""
    if "query" in row:
        question = row["query"].removeprefix("Question: ").strip()
        return _choice(question, row["choices"], row["gold"])
    if "instruction" in row:
        found = _match(
            r"Please choose the correct answer to the question: (.*?)\n\n"
            r"Answer1: (.*?)\n\nAnswer format: .*",
            row["instruction"],
        )
        choices = re.split(r"\s*Answer\d: ?", found[2])
        return _choice(found[1].strip(), choices, int(row["answer"].removeprefix("answer")) - 1)
    gold = list(row["choices"]["label"]).index(row["answerKey"])
    return _choice(row["question"], row["choices"]["text"], gold)


def _piqa(row: Row) -> Row:
    return _choice(row["goal"].strip(), [row["sol1"].strip(), row["sol2"].strip()], row["label"])


def _race(row: Row) -> Row:
    """Read the Hub's columns, or a conversation whose first turn holds them in words."""
    if "conversation" in row:
        turn = row["conversation"][0]
        found = _match(
            r".*?<passage>:\n(.*)\n\n<question>:\n(.*?)\n\n<options>:\n"
            r"A (.*?)\nB (.*?)\nC (.*?)\nD (.*?)\n\n<answer>:.*",
            turn["human"],
        )
        passage, question, *options = found.groups()
        answer = turn["assistant"].strip()
    else:
        passage, question, options = row["article"], row["question"], row["options"]
        answer = row["answer"]
    choices = [option.strip() for option in options]
    return _choice(question.strip(), choices, "ABCD".index(answer), passage=passage.strip())


def _squad(row: Row) -> Row:
    """Read one answer, or answers with a text each: as a list, or (Hub) as columns."""
    answers = row["answers"] if "answers" in row else [{"text": row["answer"]}]
    texts = answers["text"] if isinstance(answers, dict) else [each["text"] for each in answers]
    return _reading(row["context"], row["question"], texts)


def _drop(row: Row) -> Row | None:
    """Read the Hub's columns, or a prompt with its answers."""
    if "context" in row:
        found = _match(r"Passage: (.*)\nQuestion: (.*)\nAnswer:", row["context"])
        answers = [answer.strip() for answer in row["ref_text"].split("|")]
        return {"passage": found[1], "question": found[2].strip(), "answers": answers}
    parts, validated = ("number", "date", "spans"), row["validated_answers"]
    own, others = (row["answer"][part] for part in parts), (validated[part] for part in parts)
    texts = [_drop_answer(*candidate) for candidate in (own, *zip(*others, strict=True))]
    return _reading(row["passage"], row["question"], filter(None, texts)) if any(texts) else None


def _drop_answer(number: str, date: Mapping[str, str], spans: Sequence[str]) -> str:
    """Return one string, since a model answers in one line: several spans are joined by "and"."""
    days = (date[part] for part in ("day", "month", "year"))
    return str(number) if number else " and ".join(spans) or " ".join(filter(None, days))


def _wmt(row: Row) -> Row:
    texts = row.get("translation", row)
    return {"fr": texts["fr"].strip(), "en": texts["en"].strip()}


def _wmt_2013(row: Row) -> Row | None:
    # the Hub's validation split of WMT14 is newstest2013 alone, a local file names the set
    return _wmt(row) if row.get("set", "newstest2013") == "newstest2013" else None


def _pair(row: Row) -> Row:
    return {"chosen": row["chosen"], "rejected": row["rejected"]}


def _text(row: Row) -> Row | None:
    return {"text": row["text"].strip()} if row["text"].strip() else None


def _dolly(row: Row) -> Row | None:
    texts = {name: row[name].strip() for name in ("instruction", "context", "response")}
    return texts if texts["instruction"] and texts["response"] else None


class Source(NamedTuple):
    """Where one set comes from, and how a row of either layout is read."""

    hub: str
    config: str | None
    split: str
    local: str  # file in the local folder, less ".jsonl.gz"
    read: Callable[[Row], Row | None]
    directory: str | None = None  # the Hub's data_dir, where a repository has several sets


ARC, DROP, WMT, HH = "allenai/ai2_arc", "EleutherAI/drop", "wmt/wmt14", "Anthropic/hh-rlhf"
PREFERENCE_SETS = ("helpful_base", "helpful_online", "helpful_rejection_sampled", "harmless_base")
SOURCES: dict[str, Source] = {
    # MIT; parts are made by hash of the prompt, the Hub's own split into train and test is not used
    **{
        name: Source(HH, None, "train+test", f"hh_{name}_test", _pair, name.replace("_", "-"))
        for name in PREFERENCE_SETS
    },
    # CC BY-SA 3.0
    "dolly": Source("databricks/databricks-dolly-15k", None, "train", "dolly_15k", _dolly),
    # ODC-BY; web text, in the place of what the model was pretrained on
    "c4": Source("allenai/c4", "en", "validation", "c4_demo", _text),
    # CC BY-SA 4.0
    "arc_easy_test": Source(ARC, "ARC-Easy", "test", "arc_easy_test", _arc),
    "arc_easy_train": Source(ARC, "ARC-Easy", "train", "arc_easy_train", _arc),
    "arc_challenge_test": Source(ARC, "ARC-Challenge", "test", "arc_challenge_test", _arc),
    "arc_challenge_train": Source(ARC, "ARC-Challenge", "train", "arc_challenge_train", _arc),
    # AFL 3.0
    "piqa_validation": Source("baber/piqa", None, "validation", "piqa_valid", _piqa),
    # non-commercial research only, no redistribution
    "race_middle_test": Source("ehovy/race", "middle", "test", "race_middle_test", _race),
    # CC BY-SA 4.0; XQuAD's English half is 1,190 questions of the SQuAD v1.1 development set
    "squad_dev": Source("google/xquad", "xquad.en", "validation", "squad_dev_xquad_en", _squad),
    "squad_train": Source("rajpurkar/squad", None, "train", "squad_part_heldout", _squad),
    # CC BY-SA 4.0
    "drop_dev": Source(DROP, None, "validation", "drop_dev_eval", _drop),
    "drop_train": Source(DROP, None, "train", "drop_dev_rest", _drop),
    # research use, with citation
    "newstest2014": Source(WMT, "fr-en", "test", "wmt14_fr_en_newstest2014", _wmt),
    "newstest2013": Source(WMT, "fr-en", "validation", "wmt_fr_en_newstest2009_2013", _wmt_2013),
}


def load(name: str) -> list[Row]:
    """Return all rows of a set in their normal form, from the local folder or from the Hub."""
    if name not in SOURCES:
        raise KeyError(f"There is no set {name!r}. Choose one of: {', '.join(SOURCES)}.")
    source, folder = SOURCES[name], data_folder()
    if folder:
        path = folder / f"{source.local}.jsonl.gz"
        rows, origin = _read_local(name, path), str(path)
    else:
        rows, origin = _read_hub(name), _hub_address(source)
    adapted = []
    for number, row in enumerate(tqdm(rows, desc=f"reading {name}", delay=3, leave=False), start=1):
        try:
            adapted.append(source.read(row))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataUnavailable(
                f"Row {number} of the set {name!r} ({origin}) is not in the expected layout: "
                f"{type(error).__name__}: {error}. Its fields are {', '.join(map(str, row))}; "
                f"see {source.read.__name__} of world/real.py, and correct the file."
            ) from error
    if kept := [row for row in adapted if row is not None]:
        return kept
    raise _unavailable(name, f"The set {name!r} is empty ({origin}).")


def _hub_address(source: Source) -> str:
    return " / ".join(filter(None, (source.hub, source.config or source.directory, source.split)))


def _unavailable(name: str, why: str) -> DataUnavailable:
    source = SOURCES[name]
    return DataUnavailable(
        f"{why} There are two ways to get {name!r}: with a network connection, from the Hugging "
        f"Face Hub ({_hub_address(source)}; leave {DATA_VARIABLE} unset); or from a local folder: "
        f"set {DATA_VARIABLE} to a folder that holds {source.local}.jsonl.gz."
    )


def _read_local(name: str, path: Path) -> Iterable[Row]:
    if not path.is_file():
        raise _unavailable(name, f"The set {name!r} has no file {path}.")
    read = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in filter(str.strip, lines):
                yield json.loads(line)
                read += 1
    except (OSError, EOFError, ValueError) as error:
        said = f"The file {path} is damaged after line {read} ({error})."
        raise _unavailable(name, said) from error


def _read_hub(name: str) -> Iterable[Row]:
    hub, config, split, _, _, folder = SOURCES[name]
    try:
        return load_dataset(hub, config, data_dir=folder, split=split)
    # The Hub fails in many ways (no network, no such file, a gated set); the remedy is one.
    except Exception as error:
        said = f"The set {name!r} could not be loaded from the Hub ({error})."
        raise _unavailable(name, said) from error


class Benchmark(NamedTuple):
    """Which sets a benchmark's reported and validation items come from."""

    reported: str
    validation: str
    group: str  # the field whose text decides the part, where both come from one set
    example_words: range = range(0)  # of `group`, in the three examples kept out of validation


BENCHMARKS: dict[str, Benchmark] = {
    "arc_easy": Benchmark("arc_easy_test", "arc_easy_train", "question"),
    "arc_challenge": Benchmark("arc_challenge_test", "arc_challenge_train", "question"),
    "piqa": Benchmark("piqa_validation", "piqa_validation", "question"),
    "race": Benchmark("race_middle_test", "race_middle_test", "passage"),
    # Short passages, since every item pays for its examples; no headlines, which teach no format.
    "squad": Benchmark("squad_dev", "squad_train", "passage", range(20, 60)),
    "drop": Benchmark("drop_dev", "drop_train", "passage", range(20, 60)),
    "wmt14": Benchmark("newstest2014", "newstest2013", "fr", range(8, 26)),
}
SHARES = {"validation": 0.2, "reported": 0.8}


def benchmark(name: str, split: str) -> list[Row]:
    """Return the items of a benchmark in a fixed shuffled order.

    The order depends on the text of the items alone, so the first k are a random sample, the same
    on every machine. Splits: "reported"; "validation" (for choosing strengths and early stopping);
    "examples" (few-shot examples, in neither of the two). ValueError: no such benchmark or split;
    DataUnavailable: a set cannot be had.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}. Choose one of: {', '.join(BENCHMARKS)}.")
    if split not in ("reported", "validation", "examples"):
        raise ValueError(f"There is no split {split!r}: reported, validation or examples.")
    reported, validation, group, words = BENCHMARKS[name]
    rows = load(reported if split == "reported" else validation)
    rows.sort(key=lambda row: unit_hash(name, json.dumps(row, ensure_ascii=False, sort_keys=True)))
    if reported == validation:
        rows = [row for row in rows if split_of(SHARES, name, row[group]) == split]
    if split == "reported":
        return rows
    if reported != validation:
        # ARC's own train and test files share a dozen questions.
        seen = {_level(row[group]) for row in load(reported)}
        rows = [row for row in rows if _level(row[group]) not in seen]
    examples = [row for row in rows if len(row[group].split()) in words][:3]
    return examples if split == "examples" else [row for row in rows if row not in examples]


def _level(text: str) -> str:
    return " ".join(text.lower().split())


class Pair(NamedTuple):
    """One comparison: a conversation that ends with a user turn, and two replies to it."""

    prompt: Prompt
    chosen: str
    rejected: str

    @property
    def opening(self) -> str:
        """The first user turn, letter case and spacing levelled: what decides the part."""
        return _level(self.prompt[0]["content"])


FAULTS = {
    "diverging": "differ before the last assistant turn",
    "empty": "with an empty reply",
    "same": "with chosen = rejected",
    "malformed": "where user and assistant do not take turns",
}
ROLES = {"Human": "user", "Assistant": "assistant"}
# Shares of the conversations, and which part gives the prompts of RLHF: those of the pairs that the
# reward model learns from, as in the paper. What is reported is in neither it nor the judge.
PARTS = {"train": 0.585, "validation": 0.18, "judge": 0.235}
PROMPTS = {"rlhf": "train", "validation": "judge", "reported": "validation"}


def parse_conversation(text: str) -> Prompt:
    r"""Return the turns of a text "\n\nHuman: ...\n\nAssistant: ...", as they come."""
    pieces = re.split(r"\n\n(Human|Assistant):", text)
    if pieces[0].strip() or len(pieces) < 3 or pieces[1] != "Human":
        raise ValueError("a conversation starts with '\\n\\nHuman:'")
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return [{"role": ROLES[speaker], "content": content.strip()} for speaker, content in turns]


def parse_pair(row: Row) -> Pair | str:
    """Return the comparison in a row {chosen, rejected}, or the fault (a key of FAULTS)."""
    try:
        chosen, rejected = (parse_conversation(row[side]) for side in ("chosen", "rejected"))
    except ValueError:
        return "malformed"
    prompt, replies = chosen[:-1], (chosen[-1]["content"], rejected[-1]["content"])
    if any(turns[-1]["role"] != "assistant" for turns in (chosen, rejected)):
        return "empty"
    if prompt != rejected[:-1]:
        return "diverging"
    if not all(replies):
        return "empty"
    if replies[0] == replies[1]:
        return "same"
    in_turn = ["user", *["assistant", "user"] * (len(prompt) // 2)]
    said = all(turn["content"] for turn in prompt)
    in_order = [turn["role"] for turn in prompt] == in_turn
    return Pair(prompt, *replies) if said and in_order else "malformed"


def draw(items: list[Any], n: int, seed: int, what: str) -> list[Any]:
    """Return `n` of `items` in a seeded order; all of them, with a warning, if there are fewer."""
    if n < 1:
        raise ValueError(f"Asked for {n} {what}: ask for at least 1.")
    if not items:
        told = f"There are no {what} in the sets that were read: check the files in {DATA_VARIABLE}"
        raise DataUnavailable(f"{told}. Rows that cannot be used are left out (the log says why).")
    if n > len(items):
        log.warning("Asked for %d %s, there are %d: taking all.", n, what, len(items))
    return random.Random(seed).sample(items, min(n, len(items)))


@dataclass(frozen=True)
class RealWorld:
    """HH-RLHF preferences and prompts (split by first user turn, see `PARTS`), Dolly for SFT."""

    preference_sets: tuple[str, ...] = PREFERENCE_SETS

    @cached_property
    def _parts(self) -> dict[str, list[Pair]]:
        parts: dict[str, list[Pair]] = {name: [] for name in PARTS}
        for name in self.preference_sets:
            parsed = list(map(parse_pair, load(name)))
            kept = [each for each in parsed if isinstance(each, Pair)]
            for pair in kept:
                parts[split_of(PARTS, "hh", pair.opening)].append(pair)
            dropped = ", ".join(f"{parsed.count(fault)} {why}" for fault, why in FAULTS.items())
            log.info("%s: %d pairs kept; dropped: %s", name, len(kept), dropped)
        return parts

    def sft(self, n: int, seed: int) -> Dataset:
        """Return up to `n` demonstrations: columns prompt, completion (lists of messages)."""
        openings = {pair.opening for pairs in self._parts.values() for pair in pairs}
        # A dozen Dolly instructions also open an HH-RLHF conversation: those stay out.
        rows = [row for row in load("dolly") if _level(row["instruction"]) not in openings]
        rows = draw(rows, n, seed, "demonstrations")
        asked = ("\n\n".join(filter(None, (row["instruction"], row["context"]))) for row in rows)
        prompts = [said("user", text) for text in asked]
        replies = [said("assistant", row["response"]) for row in rows]
        return Dataset.from_dict({"prompt": prompts, "completion": replies})

    def preferences(self, n: int, seed: int, split: str) -> Dataset:
        """Return up to `n` pairs (prompt, chosen, rejected) of train, validation or judge."""
        if split not in ("train", "validation", "judge"):
            raise ValueError(f"There is no split {split!r}: train, validation or judge.")
        pairs = draw(self._parts[split], n, seed, f"{split} pairs")
        columns = {"prompt": [pair.prompt for pair in pairs]}
        columns["chosen"] = [said("assistant", pair.chosen) for pair in pairs]
        columns["rejected"] = [said("assistant", pair.rejected) for pair in pairs]
        return Dataset.from_dict(columns)

    def prompts(self, n: int, seed: int, split: str) -> list[Prompt]:
        """Return up to `n` different prompts of split rlhf, validation or reported."""
        if split not in PROMPTS:
            raise ValueError(f"There is no split {split!r}: rlhf, validation or reported.")
        pairs = self._parts[PROMPTS[split]]
        different = {json.dumps(pair.prompt): pair.prompt for pair in pairs}
        return draw(list(different.values()), n, seed, f"{split} prompts")

    def gold(self, prompts: list[Prompt], replies: list[str]) -> np.ndarray | None:
        """Return None: nobody knows the true reward of a real reply (a judge model stands in)."""
        return None
