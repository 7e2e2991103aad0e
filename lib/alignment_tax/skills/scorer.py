"""The one function that scores a model: lm-eval's tasks, in memory, with every item kept.

lm-eval's task files say what is asked, of which choices or up to which stop, and what is right.
How a model is asked is in `decode`: lm-eval's own `HFLM` gives the same answers with more work.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import itertools
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.labels import BLEU_COLUMNS, CUT_COLUMNS
from alignment_tax.results.items import SkillScores, SkillsError, bleu_statistics
from alignment_tax.skills.decode import Tokens, greedy_replies, log_likelihoods

Split = Literal["reported", "validation"]
#: Metrics of lm-eval's own tasks that score one item in 0..1, and what such a task may ask for.
COUNTED, OUTPUTS = ("acc", "exact_match", "f1", "em"), ("multiple_choice", "generate_until")


@dataclass(frozen=True)
class Task:
    """One slot of a suite: the lm-eval task that fills it, and which of its metrics counts.

    With format forgiven a reply is cut behind the first of the marks in `ends`. With `said` a
    choice counts as written only if it is the model's greedy reply, and nothing behind it; if
    not, as the benchmark does, by likelihood alone.
    """

    name: str
    metric: str
    ends: str = "\n"
    said: bool = False


def _spoken(slot: str, metric: str) -> Task:
    """Return a task of the tiny world, whose models say their answers in a sentence of words."""
    return Task(f"tiny_{slot}", metric, ends=".!?", said=metric == "acc")


# Both suites fill the same slots, so that one table and one figure serve both: where the tiny world
# asks for one hop, the real suite has ARC-Easy, and so on.
SUITES: dict[str, dict[str, Task]] = {
    "tiny": {
        **{slot: _spoken(slot, "acc") for slot in ("one_hop", "two_hop", "piqa_like", "race_like")},
        "span": _spoken("span", "exact_match"),
        "counting": _spoken("counting", "exact_match"),
        "bleu": _spoken("translation", "bleu"),
    },
    "real": {
        "one_hop": Task("real_arc_easy", "acc"),
        "two_hop": Task("real_arc_challenge", "acc"),
        "piqa_like": Task("real_piqa", "acc"),
        "race_like": Task("real_race", "acc"),
        "span": Task("real_squad", "f1"),
        "counting": Task("real_drop", "f1"),
        "bleu": Task("real_wmt14", "bleu"),
    },
}


def suite(name: str) -> dict[str, str]:
    """Return the lm-eval task of every slot of a suite: {slot: task name}.

    Raises:
        SkillsError: no such suite; the message lists those that exist.
    """
    return {slot: task.name for slot, task in _suite(name).items()}


class Scorer:
    """Score many models on one suite: tasks are built once, the model is passed as an object.

    Each task is run by itself, so that its numbers don't depend on which others run beside it.
    Decoding is greedy and the batch size fixed: the same model gives the same numbers.

    Args:
        suite: "tiny" or "real", or tasks by slot (see `named_tasks`).
        limit: number of items per task, from the first; None for all.
        batch_size: sequences per forward pass. In bfloat16 numbers move a little with it: compare
            only equal ones.
        split: "reported", or "validation" (for choosing strengths and for stopping early).
        without: slots that are left out, say since their data cannot be had here. Their family is
            then the mean of the rest. A slot whose task does not exist is never left out silently.
        folder: where the task files are; default: the suite's folder in this package.

    Raises:
        SkillsError: unknown suite, split or slot, or a task that the folder does not have.
    """

    def __init__(
        self,
        suite: str | Mapping[str, Task],
        limit: int | None,
        batch_size: int,
        split: Split = "reported",
        *,
        without: Sequence[str] = (),
        folder: Path | None = None,
    ) -> None:
        if split not in ("reported", "validation"):
            raise SkillsError(f"There is no split {split!r}: choose 'reported' or 'validation'.")
        if limit is not None and limit < 1:
            raise SkillsError(f"limit is {limit}: it must be None (all items) or at least 1.")
        slots = _suite(suite) if isinstance(suite, str) else suite
        if unknown := set(without) - set(slots):
            raise SkillsError(f"There is no slot {sorted(unknown)[0]!r} to leave out of {suite!r}.")
        self.limit, self.batch_size = limit, batch_size
        suffix = "" if split == "reported" else "_validation"
        self.slots = {
            slot: replace(task, name=task.name + suffix)
            for slot, task in slots.items()
            if slot not in without
        }
        own = [suite] if isinstance(suite, str) else list(SUITES)
        folders = [folder] if folder else [Path(__file__).parent / each for each in own]
        names = [task.name for task in self.slots.values()]
        self.tasks = _build_tasks(names, folders, registered=not isinstance(suite, str))
        self._requests = {
            slot: _requests(self.tasks[task.name], limit) for slot, task in self.slots.items()
        }
        self._fingerprints = {
            slot: [_fingerprint(asked[0].doc) for _, asked in _by_item(requests)]
            for slot, requests in self._requests.items()
        }

    def score(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SkillScores:
        """Score one model on a suite: see `items`."""
        return SkillScores.of(self.items(model, tokenizer))

    def items(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
        """Return the scored items of one model (see `results.items`).

        The model is left in the mode (training or evaluation) it came in.

        A reply ends at the tokenizer's end of sequence or at the task's stop strings. Nothing that
        generation_config.json says, and no token that the tokenizer adds by itself, has a part.

        Raises:
            SkillsError: a task does not report what its slot needs, or asks for what is not done
                here: other decoding than greedy.
        """
        tables = []
        for slot, task in tqdm(self.slots.items(), desc="scoring skills", leave=False):
            requests = self._requests[slot]
            self._ask(model, tokenizer, task, requests)
            table = _items(slot, task, self.tasks[task.name], requests)
            table.insert(2, "fingerprint", self._fingerprints[slot])
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def answers(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        chosen: Mapping[str, Sequence[int]],
    ) -> dict[tuple[str, int], str]:
        """Return what a model says to some items of each slot: {(slot, item): answer}.

        Of choices, the most likely one is said.
        """
        said: dict[tuple[str, int], str] = {}
        for slot, numbers in chosen.items():
            task = self.tasks[self.slots[slot].name]
            requests = [r for r in self._requests[slot] if r.doc_id in set(numbers)]
            if not requests:
                continue
            self._ask(model, tokenizer, self.slots[slot], requests)
            for number, asked in _by_item(requests):
                reply = asked[0].resps[0]
                if not isinstance(reply, str):
                    best = int(np.argmax([request.resps[0][0] for request in asked]))
                    reply = task.doc_to_choice(asked[0].doc)[best]
                said[slot, number] = reply.strip()
        return said

    def _ask(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        requests: Sequence[Any],
    ) -> None:
        """Put a model's response into each of lm-eval's requests."""
        ask: dict[str, Callable[..., tuple[list[Any], int]]] = {
            "loglikelihood": partial(_likelihoods, said=task.said),
            "generate_until": _replies,
        }
        kind = requests[0].request_type
        if kind not in ask:
            raise SkillsError(f"Task {task.name!r} asks for {kind!r}: only choices and replies do.")
        training = model.training
        model.eval()
        try:
            responses, cut = ask[kind](model, tokenizer, task.name, requests, self.batch_size)
        finally:
            model.train(training)
        if cut:
            warnings.warn(
                f"{task.name}: {cut} prompts are longer than the model can read, and lost their "
                "beginning.",
                stacklevel=3,
            )
        for request, response in zip(requests, responses, strict=True):
            request.resps, request.filtered_resps = [response], {}


def _suite(name: str) -> dict[str, Task]:
    """Look a suite up."""
    if name not in SUITES:
        raise SkillsError(f"There is no suite {name!r}. Choose one of: {', '.join(SUITES)}.")
    return SUITES[name]


def named_tasks(names: Sequence[str]) -> dict[str, Task]:
    """Return tasks by slot, from the names of suites, of their tasks or of lm-eval's own tasks.

    Raises:
        SkillsError: an unknown name, or a task that reports nothing that counts here.
    """
    every = {task.name: (slot, task) for tasks in SUITES.values() for slot, task in tasks.items()}
    found: dict[str, Task] = {}
    for name in dict.fromkeys(names):
        slot, task = every.get(name) or (name, None)
        own = SUITES.get(name) or {slot: task or _registered(name)}
        if twice := found.keys() & own.keys():
            raise SkillsError(f"Two tasks fill {min(twice)!r}: name one suite, or its tasks.")
        found |= own
    if not found:
        raise SkillsError("No task is named: for instance --tasks arc_easy,piqa")
    return found


def _registered(name: str) -> Task:
    """Return the task of lm-eval's own that has this name, and which of its metrics counts."""
    from lm_eval.tasks._yaml_loader import load_yaml

    known = _registry()
    if name not in known.all_subtasks:
        near = difflib.get_close_matches(name, known.all_subtasks, 3)
        told = f" Did you mean {' or '.join(near)}?" if near else ""
        group = " It is a group: name its tasks." if name in known.all_tasks else ""
        raise SkillsError(
            f"There is no task {name!r}, neither lm-eval's nor a suite ({', '.join(SUITES)})."
            f"{group or told}"
        )
    told = load_yaml(known.task_index[name].yaml_path)
    reported = [str(each["metric"]) for each in told.get("metric_list") or [{"metric": "acc"}]]
    counted = [metric for metric in COUNTED if metric in reported]
    if told.get("output_type") not in OUTPUTS or not counted:
        raise SkillsError(
            f"Task {name!r} cannot be compared item by item: it is {told.get('output_type')} and "
            f"reports {', '.join(reported)}. Choices and replies can, by {', '.join(COUNTED)}."
        )
    return Task(name, counted[0])


@cache
def _registry() -> Any:
    """Return lm-eval's index of its own tasks, which takes seconds to make."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _build_tasks(
    names: Sequence[str], folders: Sequence[Path], registered: bool = False
) -> dict[str, Any]:
    """Build lm-eval tasks from the YAML files of folders, and if asked lm-eval's own."""
    from lm_eval.tasks import TaskManager

    with _log_level("lm_eval", logging.ERROR):
        manager = TaskManager(include_path=list(folders), include_defaults=False)
        if registered:
            own = [name for name in names if name in manager.all_subtasks]
            others = [name for name in names if name not in own]
            built = dict(manager.load(own)["tasks"])
            return built | (dict(_registry().load(others)["tasks"]) if others else {})
        if missing := [name for name in names if name not in manager.all_subtasks]:
            raise SkillsError(
                f"{folders[0]} has no lm-eval task {missing[0]!r}. Add its YAML file, or name the "
                "slot in `without`."
            )
        return dict(manager.load(list(names))["tasks"])


def _requests(task: Any, limit: int | None) -> list[Any]:
    """Return lm-eval's requests of a task; its progress bar stays out of the notebook."""
    with contextlib.redirect_stderr(io.StringIO()), _log_level("lm_eval", logging.ERROR):
        task.build_all_requests(limit=limit)
    return list(task.instances)


def _likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    requests: Sequence[Any],
    batch_size: int,
    said: bool,
) -> tuple[list[tuple[float, bool]], int]:
    """Return how likely each continuation is, and how many sequences had to be cut.

    With each comes whether it is the greedy reply: if `said`, with nothing behind it.
    """
    # lm-eval moves space at the end of a context to the continuation, and splits their tokens there
    contexts = [request.args[0].rstrip() for request in requests]
    tokens = _encode(tokenizer, contexts)
    wholes = _encode(tokenizer, [request.args[0] + request.args[1] for request in requests])
    readable, pairs, cut = _max_length(model, tokenizer), [], 0
    for context, whole in zip(tokens, wholes, strict=True):
        continuation = whole[len(context) :]
        if not continuation:
            raise SkillsError(f"Task {name!r} has a choice that is no token of its own.")
        # the last token is never read, only predicted
        room = readable + 1 - len(continuation)
        cut += len(context) > room
        pairs.append(((context or [_start(tokenizer)])[-room:], continuation))
    end = tokenizer.eos_token_id if said else None
    return log_likelihoods(model, pairs, tokenizer.pad_token_id or 0, batch_size, end), cut


def _replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    requests: Sequence[Any],
    batch_size: int,
) -> tuple[list[str], int]:
    """Return the greedy reply to each prompt, and how many prompts had to be cut."""
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

    settings = normalize_gen_kwargs(requests[0].args[1])
    until, most = settings.pop("until", []), settings.pop("max_gen_toks")
    if settings.pop("do_sample") or settings.pop("temperature", 0) or settings:
        raise SkillsError(f"Task {name!r} must ask for greedy decoding: {requests[0].args[1]}.")
    if not until:
        raise SkillsError(
            f"Task {name!r} does not say where a reply ends: give its generation_kwargs an `until`."
        )
    room = _max_length(model, tokenizer) - most
    if room < 1:
        raise SkillsError(f"Task {name!r}: replies of {most} tokens leave no room for a prompt.")
    prompts = _encode(tokenizer, [request.args[0] for request in requests])
    end = tokenizer.eos_token_id
    end_text = str(tokenizer.decode(end))
    until = [until] if isinstance(until, str) else until
    stops = [stop for stop in until if stop and stop != end_text]

    def ended(replies: list[Tokens]) -> list[bool]:
        over = [reply[-1] == end for reply in replies]
        if not stops:
            return over
        texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
        return [o or any(s in text for s in stops) for o, text in zip(over, texts, strict=True)]

    replies = greedy_replies(
        model,
        [(prompt or [_start(tokenizer)])[-room:] for prompt in prompts],
        most,
        ended,
        tokenizer.pad_token_id or 0,
        batch_size,
    )
    texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
    said = [postprocess_generated_text(text, [*stops, end_text], None) for text in texts]
    return said, sum(len(prompt) > room for prompt in prompts)


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Tokens]:
    """Return the tokens of each text, as in training: none that the tokenizer adds by itself."""
    different = list(dict.fromkeys(texts))
    alone = {"return_attention_mask": False, "return_token_type_ids": False}
    tokens = tokenizer(different, add_special_tokens=False, **alone)["input_ids"]
    known = dict(zip(different, tokens, strict=True))
    return [known[text] for text in texts]


def _start(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that stands for an empty context, as lm-eval chooses it."""
    start = tokenizer.bos_token_id
    return int(tokenizer.eos_token_id if start is None else start)


def _max_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens the model can read, as lm-eval finds it."""
    from lm_eval.models.utils import resolve_max_length

    return resolve_max_length(model.config, tokenizer)


def _by_item(requests: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Return each item's number and its requests, which follow one another in their order."""
    for number, group in itertools.groupby(requests, key=lambda request: request.doc_id):
        yield number, list(group)


def _items(slot: str, task: Task, definition: Any, requests: list[Any]) -> pd.DataFrame:
    """Return one row per item of a task whose requests are answered."""
    definition._instances = requests
    definition.apply_filters()
    rows = []
    for number, asked in _by_item(requests):
        answers = [next(iter(request.filtered_resps.values())) for request in asked]
        rows.append({"slot": slot, "item": number} | _both_ways(task, definition, asked, answers))
    return pd.DataFrame(rows)


def _both_ways(
    task: Task, definition: Any, asked: list[Any], answers: list[Any]
) -> dict[str, float]:
    """Return the score of an item as written, and with format forgiven."""
    document = asked[0].doc
    target = definition.doc_to_target(document)
    wanted = "the number of one of its choices" if len(answers) > 1 else "a text"
    is_some = 0 <= target < len(answers) if isinstance(target, int) else str(target or "").strip()
    if isinstance(target, int) != (len(answers) > 1) or not is_some:
        raise SkillsError(
            f"Task {task.name!r}, item {asked[0].doc_id}: its answer is {target!r}, and must be "
            f"{wanted}."
        )
    if isinstance(answers[0], str):
        cut = [first_line(answer, str(target), task.ends) for answer in answers]
    else:
        cut = answers
    ways = [_counted(task, definition.process_results(document, way)) for way in (answers, cut)]
    (value, counts), (forgiven, cut_counts) = ways
    named = zip((*BLEU_COLUMNS, *CUT_COLUMNS), (*counts, *cut_counts), strict=True)
    # of what a model says, the likeliest of four choices is not enough
    value = float(answers[target][1]) if task.said else value
    return {"value": value, "forgiven": forgiven, **dict(named)}


def _counted(task: Task, found: Mapping[str, Any]) -> tuple[float, Sequence[float]]:
    """Return what a task reports of an item: a value and the counts of BLEU, NaN where neither."""
    if task.metric not in found:
        raise SkillsError(
            f"Task {task.name!r} reports {', '.join(found)}, but its slot needs {task.metric!r}: "
            "name it in the task's metric_list."
        )
    if task.metric == "bleu":
        return np.nan, bleu_statistics(*found["bleu"])
    value = float(found[task.metric])
    if not 0 <= value <= 1:
        raise SkillsError(f"Task {task.name!r}: {task.metric} = {value} is not in 0..1.")
    return value, [np.nan] * len(BLEU_COLUMNS)


def first_line(reply: str, target: str, ends: str) -> str:
    """Return a reply up to the first of the marks in `ends`: what stands behind it is forgiven.

    The mark itself stays where the answer that is asked for has one.
    """
    places = [place for place in map(reply.find, ends) if place >= 0]
    if not places:
        return reply
    place = min(places)
    return reply[: place + target.endswith(tuple(ends))].rstrip()


def _fingerprint(document: Mapping[str, Any]) -> str:
    """Return sixteen digits of lm-eval's hash of an item."""
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(document, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return hash_string(text)[:16]


@contextlib.contextmanager
def _log_level(name: str, level: int) -> Iterator[None]:
    """Set the level of a logger for a while: its notes are for users of a command line."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
