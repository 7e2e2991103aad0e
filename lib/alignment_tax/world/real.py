"""The real counterpart of the tiny world: preferences, demonstrations and benchmark items.

Every set comes either from the Hugging Face Hub, by its id, or from the folder that the setting
ALIGNMENT_TAX_DATA names, as NAME.jsonl.gz (one JSON object a line). Two small pure functions a set,
the adapters, turn a row of either layout into one normal form; nothing after them knows where a
row came from. Which part a row belongs to depends on its text alone, so parts never overlap.

Sets as in the paper (section 3): HH-RLHF for preferences and prompts; ARC, RACE, PIQA (common
sense), SQuAD, DROP (reading) and WMT14 French-English (translation) for the tax. Dolly stands in
for ShareGPT as instruction data.
"""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset, load_dataset
from tqdm import tqdm

from alignment_tax.settings import DATA_VARIABLE, SettingsError, data_folder
from alignment_tax.world.base import Message, Prompt
from alignment_tax.world.splits import split_of, unit_hash

Row = dict[str, Any]
Adapter = Callable[[Row], Row | None]
T = TypeVar("T")

log = logging.getLogger(__name__)


class DataUnavailable(SettingsError):
    """A set that cannot be had or read; the message names it and the ways to get it."""


# --- Adapters: one row of one layout in, one row of the normal form out, None = not ours ---------
# Normal forms: {question, choices, gold}, {passage, question, answers}, {fr, en},
# {chosen, rejected}, {instruction, context, response}.


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


def arc_from_hub(row: Row) -> Row:
    """Read a row of allenai/ai2_arc."""
    choices = row["choices"]
    gold = list(choices["label"]).index(row["answerKey"])
    return _choice(row["question"], choices["text"], gold)


def arc_from_query(row: Row) -> Row:
    """Read {query, choices, gold} ("Question: ..." before it)."""
    question = row["query"].removeprefix("Question: ").strip()
    return _choice(question, row["choices"], row["gold"])


def arc_from_instruction(row: Row) -> Row:
    """Read the instruction wording (Answer1: ... Answer2: ...)."""
    found = _match(
        r"Please choose the correct answer to the question: (.*?)\n\n"
        r"Answer1: (.*?)\n\nAnswer format: .*",
        row["instruction"],
    )
    choices = re.split(r"\s*Answer\d: ?", found[2])
    return _choice(found[1].strip(), choices, int(row["answer"].removeprefix("answer")) - 1)


def piqa(row: Row) -> Row:
    """Read {goal, sol1, sol2, label} (Hub and local alike)."""
    return _choice(row["goal"].strip(), [row["sol1"].strip(), row["sol2"].strip()], row["label"])


def _race(passage: str, question: str, options: Iterable[str], answer: str) -> Row:
    choices = [option.strip() for option in options]
    return _choice(question.strip(), choices, "ABCD".index(answer), passage=passage.strip())


def race_from_hub(row: Row) -> Row:
    """Read a row of ehovy/race."""
    return _race(row["article"], row["question"], row["options"], row["answer"])


def race_from_chat(row: Row) -> Row:
    """Read the chat wording with <passage>: marks."""
    turn = row["conversation"][0]
    found = _match(
        r".*?<passage>:\n(.*)\n\n<question>:\n(.*?)\n\n<options>:\n"
        r"A (.*?)\nB (.*?)\nC (.*?)\nD (.*?)\n\n<answer>:.*",
        turn["human"],
    )
    return _race(found[1], found[2], found.groups()[2:], turn["assistant"].strip())


def squad_from_hub(row: Row) -> Row:
    """Read a row of rajpurkar/squad or google/xquad."""
    return _reading(row["context"], row["question"], row["answers"]["text"])


def squad_from_spans(row: Row) -> Row:
    """Read {context, question, answers: [{text}, ...]}."""
    texts = [answer["text"] for answer in row["answers"]]
    return _reading(row["context"], row["question"], texts)


def squad_from_answer(row: Row) -> Row:
    """Read {context, question, answer}."""
    return _reading(row["context"], row["question"], [row["answer"]])


def drop_from_hub(row: Row) -> Row | None:
    """Read a row of EleutherAI/drop, None where it has no answer.

    An answer of several spans becomes one string joined by " and ", since a model answers in one
    line.
    """
    validated = row["validated_answers"]
    columns = (validated["number"], validated["date"], validated["spans"])
    candidates = [row["answer"]] + [
        {"number": number, "date": date, "spans": spans}
        for number, date, spans in zip(*columns, strict=True)
    ]
    texts = [text for candidate in candidates if (text := _drop_answer(candidate))]
    return _reading(row["passage"], row["question"], texts) if texts else None


def _drop_answer(answer: Row) -> str:
    if answer["number"]:
        return str(answer["number"])
    if answer["spans"]:
        return " and ".join(answer["spans"])
    date = answer["date"]
    return " ".join(date[part] for part in ("day", "month", "year") if date[part])


def drop_from_prompt(row: Row) -> Row:
    """Read {context: "Passage: ...", ref_text: "a|b"}."""
    found = _match(r"Passage: (.*)\nQuestion: (.*)\nAnswer:", row["context"])
    answers = [answer.strip() for answer in row["ref_text"].split("|")]
    return {"passage": found[1], "question": found[2].strip(), "answers": answers}


def translation_from_hub(row: Row) -> Row:
    """Read a row of wmt/wmt14."""
    return translation(row["translation"])


def translation(row: Row) -> Row:
    """Read {fr, en}."""
    return {"fr": row["fr"].strip(), "en": row["en"].strip()}


def translation_2013(row: Row) -> Row | None:
    """Read a row of newstest2013, None for the other news sets of the file."""
    # The Hub's validation split of WMT14 is newstest2013: the same items either way.
    return translation(row) if row["set"] == "newstest2013" else None


def pair(row: Row) -> Row:
    r"""Read {chosen, rejected}: two texts "\n\nHuman: ...\n\nAssistant: ..." (both layouts)."""
    return {"chosen": row["chosen"], "rejected": row["rejected"]}


def demonstration(row: Row) -> Row | None:
    """Read a Dolly row, None where one side is empty."""
    texts = {name: row[name].strip() for name in ("instruction", "context", "response")}
    return texts if texts["instruction"] and texts["response"] else None


# --- The table of sets ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where one set comes from, and how a row of each layout is read.

    `local` is the file name in the local folder, less ".jsonl.gz"; `directory` is the Hub's
    data_dir, for repositories that keep several sets in folders.
    """

    hub: str
    config: str | None
    split: str
    local: str
    from_hub: Adapter
    from_local: Adapter
    directory: str | None = None


def _hh(name: str) -> Source:
    # Parts are made by hash of the prompt, so the Hub's own split into train and test is not used.
    local = f"hh_{name.replace('-', '_')}_test"
    return Source("Anthropic/hh-rlhf", None, "train+test", local, pair, pair, directory=name)


def _arc(config: str, split: str, from_local: Adapter) -> Source:
    local = f"{config.lower().replace('-', '_')}_{split}"
    return Source("allenai/ai2_arc", config, split, local, arc_from_hub, from_local)


def _drop(split: str, local: str) -> Source:
    return Source("EleutherAI/drop", None, split, local, drop_from_hub, drop_from_prompt)


def _wmt(split: str, local: str, from_local: Adapter) -> Source:
    return Source("wmt/wmt14", "fr-en", split, local, translation_from_hub, from_local)


SQUAD = "rajpurkar/squad"
DOLLY = "databricks/databricks-dolly-15k"
SOURCES: dict[str, Source] = {
    # MIT
    "helpful_base": _hh("helpful-base"),
    "helpful_online": _hh("helpful-online"),
    "helpful_rejection_sampled": _hh("helpful-rejection-sampled"),
    "harmless_base": _hh("harmless-base"),
    # CC BY-SA 3.0
    "dolly": Source(DOLLY, None, "train", "dolly_15k", demonstration, demonstration),
    # CC BY-SA 4.0
    "arc_easy_test": _arc("ARC-Easy", "test", arc_from_query),
    "arc_easy_train": _arc("ARC-Easy", "train", arc_from_instruction),
    "arc_challenge_test": _arc("ARC-Challenge", "test", arc_from_query),
    "arc_challenge_train": _arc("ARC-Challenge", "train", arc_from_instruction),
    # AFL 3.0
    "piqa_validation": Source("baber/piqa", None, "validation", "piqa_valid", piqa, piqa),
    # non-commercial research only, no redistribution
    "race_middle_test": Source(
        "ehovy/race", "middle", "test", "race_middle_test", race_from_hub, race_from_chat
    ),
    # CC BY-SA 4.0; XQuAD's English half is 1,190 questions of the SQuAD v1.1 development set
    "squad_dev": Source(
        "google/xquad",
        "xquad.en",
        "validation",
        "squad_dev_xquad_en",
        squad_from_hub,
        squad_from_spans,
    ),
    "squad_train": Source(
        SQUAD, None, "train", "squad_part_heldout", squad_from_hub, squad_from_answer
    ),
    # CC BY-SA 4.0
    "drop_dev": _drop("validation", "drop_dev_eval"),
    "drop_train": _drop("train", "drop_dev_rest"),
    # research use, with citation
    "newstest2014": _wmt("test", "wmt14_fr_en_newstest2014", translation),
    "newstest2013": _wmt("validation", "wmt_fr_en_newstest2009_2013", translation_2013),
}

PREFERENCE_SETS = ("helpful_base", "helpful_online", "helpful_rejection_sampled", "harmless_base")


# --- Reading a set -------------------------------------------------------------------------------


def load(name: str) -> list[Row]:
    """Return all rows of set `name` in their normal form, from the local folder or from the Hub.

    The folder is used if the setting ALIGNMENT_TAX_DATA names one, and then only the folder.
    """
    if name not in SOURCES:
        raise KeyError(f"There is no set {name!r}. Choose one of: {', '.join(SOURCES)}.")
    source, folder = SOURCES[name], data_folder()
    if folder:
        path = folder / f"{source.local}.jsonl.gz"
        rows, adapter, origin = _read_local(name, path), source.from_local, str(path)
    else:
        rows, adapter, origin = _read_hub(name), source.from_hub, _hub_address(source)
    adapted = list(_adapt(rows, adapter, name, origin))
    if not adapted:
        raise DataUnavailable(f"The set {name!r} is empty ({origin}). {_ways(name)}")
    return adapted


def _hub_address(source: Source) -> str:
    return " / ".join(filter(None, (source.hub, source.config or source.directory, source.split)))


def _ways(name: str) -> str:
    source = SOURCES[name]
    return (
        f"There are two ways to get {name!r}: with a network connection, from the Hugging Face Hub "
        f"({_hub_address(source)}; leave {DATA_VARIABLE} unset); or from a local folder: set "
        f"{DATA_VARIABLE} to a folder that holds {source.local}.jsonl.gz."
    )


def _read_local(name: str, path: Path) -> Iterable[Row]:
    if not path.is_file():
        raise DataUnavailable(f"The set {name!r} has no file {path}. {_ways(name)}")
    read = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in filter(str.strip, lines):
                yield json.loads(line)
                read += 1
    except (OSError, EOFError, ValueError) as error:
        raise DataUnavailable(
            f"The file {path} is damaged after line {read} ({error}). {_ways(name)}"
        ) from error


def _read_hub(name: str) -> Iterable[Row]:
    source = SOURCES[name]
    try:
        return load_dataset(
            source.hub, source.config, data_dir=source.directory, split=source.split
        )
    # The Hub fails in many ways (no network, no such file, a gated set); the remedy is one.
    except Exception as error:
        raise DataUnavailable(
            f"The set {name!r} could not be loaded from the Hub ({error}). {_ways(name)}"
        ) from error


def _adapt(rows: Iterable[Row], adapter: Adapter, name: str, origin: str) -> Iterator[Row]:
    for number, row in enumerate(tqdm(rows, desc=f"reading {name}", delay=3, leave=False), start=1):
        try:
            adapted = adapter(row)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataUnavailable(
                f"Row {number} of the set {name!r} ({origin}) is not in the expected layout: "
                f"{type(error).__name__}: {error}. Its fields are {', '.join(map(str, row))}; see "
                f"what is read in {adapter.__name__} of world/real.py, and correct the file."
            ) from error
        if adapted is not None:
            yield adapted


# --- Benchmarks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Benchmark:
    """Which sets a benchmark's reported and validation items come from.

    Where both come from one set, `group` is the field whose text decides which part a row is in.
    `examples` is the number of rows kept out of validation as fixed few-shot examples: the first
    whose `group` text has a number of words in `example_words` (not below, below).
    """

    reported: str
    validation: str
    group: str
    examples: int = 0
    example_words: tuple[int, int] = (0, 0)


BENCHMARKS: dict[str, Benchmark] = {
    "arc_easy": Benchmark("arc_easy_test", "arc_easy_train", group="question"),
    "arc_challenge": Benchmark("arc_challenge_test", "arc_challenge_train", group="question"),
    "piqa": Benchmark("piqa_validation", "piqa_validation", group="question"),
    "race": Benchmark("race_middle_test", "race_middle_test", group="passage"),
    # Short passages, since every item pays for its examples; no headlines, which teach no format.
    "squad": Benchmark("squad_dev", "squad_train", "passage", examples=3, example_words=(20, 60)),
    "drop": Benchmark("drop_dev", "drop_train", "passage", examples=3, example_words=(20, 60)),
    "wmt14": Benchmark("newstest2014", "newstest2013", "fr", examples=3, example_words=(8, 26)),
}

VALIDATION_SHARE = 0.2


def benchmark(name: str, split: str) -> list[Row]:
    """Return the items of a benchmark in a fixed shuffled order.

    The order depends on the text of the items alone, so the first k items are a random sample of
    the set, the same on every machine. Splits: "reported"; "validation" (for choosing strengths and
    for early stopping); "examples" (few-shot examples, in neither of the two).

    Raises:
        ValueError: no such benchmark or split.
        DataUnavailable: a set cannot be had.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}. Choose one of: {', '.join(BENCHMARKS)}.")
    if split not in ("reported", "validation", "examples"):
        raise ValueError(f"There is no split {split!r}: reported, validation or examples.")
    made_of = BENCHMARKS[name]
    rows = load(made_of.reported if split == "reported" else made_of.validation)
    rows.sort(key=lambda row: unit_hash(name, json.dumps(row, ensure_ascii=False, sort_keys=True)))
    if made_of.reported == made_of.validation:
        shares = {"validation": VALIDATION_SHARE, "reported": 1 - VALIDATION_SHARE}
        rows = [row for row in rows if split_of(shares, name, row[made_of.group]) == split]
    if split == "reported":
        return rows
    if made_of.reported != made_of.validation:
        # ARC's own train and test files share a dozen questions.
        seen = {_level(row[made_of.group]) for row in load(made_of.reported)}
        rows = [row for row in rows if _level(row[made_of.group]) not in seen]
    lengths = range(*made_of.example_words)
    suitable = (row for row in rows if len(row[made_of.group].split()) in lengths)
    examples = list(itertools.islice(suitable, made_of.examples))
    return examples if split == "examples" else [row for row in rows if row not in examples]


def _level(text: str) -> str:
    """Return `text` with letter case and spacing levelled."""
    return " ".join(text.lower().split())


# --- Preferences ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """One comparison: a conversation that ends with a user turn, and two replies to it."""

    prompt: Prompt
    chosen: str
    rejected: str

    @property
    def opening(self) -> str:
        """The first user turn, letter case and spacing levelled: what decides the part."""
        return _level(self.prompt[0]["content"])


PAIR_FAULTS = {
    "diverging": "differ before the last assistant turn",
    "empty": "with an empty reply",
    "same": "with chosen = rejected",
    "malformed": "where user and assistant do not take turns",
}

ROLES = {"Human": "user", "Assistant": "assistant"}
SPEAKERS = tuple(ROLES.values())

# Shares of the conversations: 0.7 for reward models (pairs), 0.3 for RLHF (prompts alone).
PARTS = {
    "train": 0.40,
    "validation": 0.06,
    "judge": 0.24,
    "rlhf": 0.20,
    "validation prompts": 0.05,
    "reported prompts": 0.05,
}


def parse_conversation(text: str) -> list[Message]:
    r"""Return the turns of a text "\n\nHuman: ...\n\nAssistant: ...", as they come."""
    pieces = re.split(r"\n\n(Human|Assistant):", text)
    if pieces[0].strip() or len(pieces) < 3 or pieces[1] != "Human":
        raise ValueError("a conversation starts with '\\n\\nHuman:'")
    turns = zip(pieces[1::2], pieces[2::2], strict=True)
    return [{"role": ROLES[speaker], "content": content.strip()} for speaker, content in turns]


def parse_pair(row: Row) -> Pair | str:
    """Return the comparison in a row {chosen, rejected}, or the fault (a key of PAIR_FAULTS)."""
    try:
        chosen, rejected = (parse_conversation(row[side]) for side in ("chosen", "rejected"))
    except ValueError:
        return "malformed"
    if any(turns[-1]["role"] != "assistant" for turns in (chosen, rejected)):
        return "empty"
    prompt, replies = chosen[:-1], (chosen[-1]["content"], rejected[-1]["content"])
    if prompt != rejected[:-1]:
        return "diverging"
    if not all(replies):
        return "empty"
    if replies[0] == replies[1]:
        return "same"
    taking_turns = all(t["role"] == who for t, who in zip(prompt, itertools.cycle(SPEAKERS)))
    complete = all(turn["content"] for turn in prompt) and len(prompt) % 2 == 1
    return Pair(prompt, *replies) if taking_turns and complete else "malformed"


def draw(items: list[T], n: int, seed: int, what: str) -> list[T]:
    """Return `n` of `items` in a seeded order; all of them, with a warning, if there are fewer."""
    if n < 1:
        raise ValueError(f"Asked for {n} {what}: ask for at least 1.")
    if not items:
        raise DataUnavailable(
            f"There are no {what} in the sets that were read. Rows that cannot be used are left "
            f"out (RealWorld.counts says why): check the files in {DATA_VARIABLE}."
        )
    if n > len(items):
        log.warning("Asked for %d %s, there are %d: taking all.", n, what, len(items))
    return random.Random(seed).sample(items, min(n, len(items)))


def _reply(content: str) -> list[Message]:
    return [{"role": "assistant", "content": content}]


@dataclass(frozen=True)
class RealWorld:
    """Real data behind the `World` interface: HH-RLHF preferences and prompts, Dolly for SFT.

    A conversation's first user turn decides its part (train, validation, judge, rlhf prompts,
    ...), so that two conversations that begin alike are never on two sides of a split. Sets are
    read on first use.
    """

    preference_sets: tuple[str, ...] = PREFERENCE_SETS

    @cached_property
    def _read(self) -> tuple[dict[str, list[Pair]], dict[str, Counter[str]]]:
        parts: dict[str, list[Pair]] = {name: [] for name in PARTS}
        counts: dict[str, Counter[str]] = {}
        for name in self.preference_sets:
            counts[name] = Counter(dict.fromkeys(("kept", *PAIR_FAULTS), 0))
            for parsed in map(parse_pair, load(name)):
                counts[name][parsed if isinstance(parsed, str) else "kept"] += 1
                if isinstance(parsed, Pair):
                    parts[split_of(PARTS, "hh", parsed.opening)].append(parsed)
            dropped = ", ".join(f"{counts[name][f]} {why}" for f, why in PAIR_FAULTS.items())
            log.info("%s: %d pairs kept; dropped: %s", name, counts[name]["kept"], dropped)
        return parts, counts

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """Rows kept and dropped (by fault) of each preference set."""
        return self._read[1]

    def sft(self, n: int, seed: int) -> Dataset:
        """Return up to `n` demonstrations: columns prompt, completion (lists of messages)."""
        openings = {pair_.opening for pairs in self._read[0].values() for pair_ in pairs}
        # A dozen Dolly instructions also open an HH-RLHF conversation: those stay out.
        rows = [row for row in load("dolly") if _level(row["instruction"]) not in openings]
        rows = draw(rows, n, seed, "demonstrations")
        prompts = ["\n\n".join(filter(None, (row["instruction"], row["context"]))) for row in rows]
        return Dataset.from_dict(
            {
                "prompt": [[{"role": "user", "content": prompt}] for prompt in prompts],
                "completion": [_reply(row["response"]) for row in rows],
            }
        )

    def preferences(self, n: int, seed: int, split: str) -> Dataset:
        """Return up to `n` pairs (prompt, chosen, rejected) of train, validation or judge."""
        if split not in ("train", "validation", "judge"):
            raise ValueError(f"There is no split {split!r}: train, validation or judge.")
        pairs = draw(self._read[0][split], n, seed, f"{split} pairs")
        return Dataset.from_dict(
            {
                "prompt": [pair_.prompt for pair_ in pairs],
                "chosen": [_reply(pair_.chosen) for pair_ in pairs],
                "rejected": [_reply(pair_.rejected) for pair_ in pairs],
            }
        )

    def prompts(self, n: int, seed: int, split: str) -> list[Prompt]:
        """Return up to `n` different prompts of split rlhf, validation or reported."""
        if split not in ("rlhf", "validation", "reported"):
            raise ValueError(f"There is no split {split!r}: rlhf, validation or reported.")
        pairs = self._read[0]["rlhf" if split == "rlhf" else f"{split} prompts"]
        different = {json.dumps(pair_.prompt): pair_.prompt for pair_ in pairs}
        return draw(list(different.values()), n, seed, f"{split} prompts")

    def gold(self, prompts: list[Prompt], replies: list[str]) -> np.ndarray | None:
        """Return None: nobody knows the true reward of a real reply (a judge model stands in)."""
        return None
