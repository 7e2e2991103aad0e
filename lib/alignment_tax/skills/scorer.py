"""The one function that scores a model: lm-eval's tasks, in memory, with every item kept.

lm-eval's task files say what is asked, of which choices or up to which stop, and what is right.
How a model is asked is in `decode`: lm-eval's own `HFLM` gives the same answers with more work.
"""

import contextlib
import io
import itertools
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax
from tqdm import tqdm
from transformers import PreTrainedModel as Model, PreTrainedTokenizerBase as Tokenizer

from alignment_tax.labels import BLEU_COLUMNS, CUT_COLUMNS
from alignment_tax.models import autocast
from alignment_tax.results.items import SkillScores, SkillsError, bleu_statistics
from alignment_tax.skills.decode import Tokens, greedy_replies, log_likelihoods

Split = Literal["reported", "validation"]
Chosen = Mapping[str, Sequence[int]]  # the numbers of items, by slot
#: Metrics of lm-eval's own tasks that score one item in 0..1, and what such a task may ask for.
COUNTED, OUTPUTS = ("acc", "exact_match", "f1", "em"), ("multiple_choice", "generate_until")


class Task(NamedTuple):
    """One slot of a suite: the lm-eval task that fills it, and which of its metrics counts."""

    name: str
    metric: str
    ends: str = "\n"  # marks: with format forgiven a reply is cut behind the first
    said: bool = False  # as written the greedy reply must be the choice alone, not just likeliest


# Both suites fill the same slots, so that one table and one figure serve both: where the tiny world
# asks for one hop, the real suite has ARC-Easy. The tiny world's models answer in sentences.
_SLOTS = (
    ("one_hop", "one_hop", "acc", "arc_easy", "acc"),
    ("two_hop", "two_hop", "acc", "arc_challenge", "acc"),
    ("piqa_like", "piqa_like", "acc", "piqa", "acc"),
    ("race_like", "race_like", "acc", "race", "acc"),
    ("span", "span", "exact_match", "squad", "f1"),
    ("counting", "counting", "exact_match", "drop", "f1"),
    ("bleu", "translation", "bleu", "wmt14", "bleu"),
)
SUITES: dict[str, dict[str, Task]] = {
    "tiny": {s: Task(f"tiny_{name}", m, ".!?", m == "acc") for s, name, m, _, _ in _SLOTS},
    "real": {s: Task(f"real_{name}", metric) for s, _, _, name, metric in _SLOTS},
}


def named_tasks(names: Sequence[str]) -> dict[str, Task]:
    """Return tasks by slot: of suites, their tasks or lm-eval's own (SkillsError: none to use)."""
    every = {task.name: {slot: task} for own in SUITES.values() for slot, task in own.items()}
    found: dict[str, Task] = {}
    for name in dict.fromkeys(names):
        own = SUITES.get(name) or every.get(name) or {name: _registered(name)}
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
        near = " or ".join(get_close_matches(name, known.all_subtasks, 3))
        hint = f" Did you mean {near}?" if near else ""
        hint = " It is a group: name its tasks." if name in known.all_tasks else hint
        suites = ", ".join(SUITES)
        raise SkillsError(f"There is no task {name!r}, lm-eval's or a suite ({suites}).{hint}")
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


def _build_tasks(names: Sequence[str], folders: list[Path], registered: bool) -> dict[str, Any]:
    """Build lm-eval tasks from the YAML files of folders, and if `registered` lm-eval's own."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    doing, tasks = str(folders[0]), dict[str, Any]()
    try:
        own = TaskManager(include_path=list(map(str, folders)), include_defaults=False)
        missing = [name for name in names if name not in own.all_subtasks]
        if missing and not registered:
            for file in sorted(folders[0].glob("*.yaml")):  # lm-eval leaves out what it cannot read
                doing = str(file)
                load_yaml(file, resolve_func=False, recursive=False)
            raise SkillsError(
                f"{folders[0]} has no lm-eval task {missing[0]!r}. Add its YAML file, or name the "
                "slot in `without`."
            )
        for name in names:
            doing = f"{'lm-eval' if name in missing else folders[0]}, task {name!r}"
            tasks |= (_registry() if name in missing else own).load([name])["tasks"]
    except SkillsError:
        raise
    except Exception as error:  # whatever the functions raise that a YAML file names
        said, way = " ".join(str(error).split()).rstrip("."), "Correct its YAML file."
        if registered:
            way = "Get its data (HF_HOME names a cache), or name other tasks."
        raise SkillsError(f"{doing}: {said}. {way}") from error
    return tasks


class Scorer:
    """Score many models on one suite: tasks are built once, the model is passed as an object.

    Each task is run by itself, and decoding is greedy: the same model gives the same numbers.
    `suite` is its name, or tasks by slot (see `named_tasks`), whose files are in `folder` or this
    package. Of each task the first `limit` items count, None: all. In bfloat16 numbers move a
    little with `batch_size`. The `split` "validation" is for choosing strengths and early stops.
    Slots `without` data are left out, and a family is the mean of the rest. SkillsError: unknown
    suite, split or slot, or a task that the folder does not have.
    """

    def __init__(
        self, suite: str | Mapping[str, Task], limit: int | None, batch_size: int,
        split: Split = "reported", *, without: Sequence[str] = (), folder: Path | None = None,
    ) -> None:  # fmt: skip
        if split not in ("reported", "validation"):
            raise SkillsError(f"There is no split {split!r}: choose 'reported' or 'validation'.")
        if limit is not None and limit < 1:
            raise SkillsError(f"limit is {limit}: it must be None (all items) or at least 1.")
        if isinstance(suite, str) and suite not in SUITES:
            raise SkillsError(f"There is no suite {suite!r}. Choose one of: {', '.join(SUITES)}.")
        slots = SUITES[suite] if isinstance(suite, str) else suite
        if unknown := set(without) - set(slots):
            raise SkillsError(f"There is no slot {sorted(unknown)[0]!r} to leave out of {suite!r}.")
        self.limit, self.batch_size = limit, batch_size
        end = "" if split == "reported" else "_validation"
        used = {slot: task for slot, task in slots.items() if slot not in without}
        self.slots = {s: task._replace(name=task.name + end) for s, task in used.items()}
        names = [task.name for task in self.slots.values()]
        suites = [suite] if isinstance(suite, str) else list(SUITES)
        folders = [folder] if folder else [Path(__file__).parent / each for each in suites]
        logger = logging.getLogger("lm_eval")
        with contextlib.ExitStack() as afterwards:
            # lm-eval's notes are for users of a command line
            afterwards.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
            self.tasks = _build_tasks(names, folders, registered=not isinstance(suite, str))
            # its progress bar stays out of the notebook
            afterwards.enter_context(contextlib.redirect_stderr(io.StringIO()))
            for definition in self.tasks.values():
                definition.build_all_requests(limit=limit)
        self._requests = {s: list(self.tasks[t.name].instances) for s, t in self.slots.items()}
        each = [(slot, request) for slot, asked in self._requests.items() for request in asked]
        self._fingerprints = {(slot, r.doc_id): _fingerprint(r.doc) for slot, r in each}

    @property
    def numbers(self) -> dict[str, list[int]]:
        """The numbers of all items, by slot."""
        return {s: [n for n, _ in _by_item(asked)] for s, asked in self._requests.items()}

    def score(
        self, model: Model, tokenizer: Tokenizer, chosen: Chosen | None = None
    ) -> SkillScores:
        """Score one model; it is left in the mode (training or evaluation) it came in.

        `chosen` are the numbers of the items by slot, at least one each; None: all. A reply ends at
        the tokenizer's end of sequence or at the task's stop strings. Nothing that
        generation_config.json says, and no token that the tokenizer adds by itself, has a part.
        SkillsError: a task does not report what its slot needs, or is not decoded greedily.
        """
        rows, wanted = [], chosen or self.numbers
        for slot, task in tqdm(self.slots.items(), desc="scoring skills", leave=False):
            definition = self.tasks[task.name]
            definition._instances = self._ask(model, tokenizer, slot, wanted[slot])
            definition.apply_filters()
            for number, asked in _by_item(definition._instances):
                named = {"item": number, "fingerprint": self._fingerprints[slot, number]}
                rows.append({"slot": slot, **named, **_both_ways(task, definition, asked)})
        return SkillScores.of(pd.DataFrame(rows))

    def answers(
        self, model: Model, tokenizer: Tokenizer, chosen: Chosen
    ) -> dict[tuple[str, int], str]:
        """Return what a model says, of choices the likeliest, to items: {(slot, item): answer}."""
        said: dict[tuple[str, int], str] = {}
        for slot in filter(chosen.get, chosen):
            definition = self.tasks[self.slots[slot].name]
            for number, asked in _by_item(self._ask(model, tokenizer, slot, chosen[slot])):
                reply = asked[0].resps[0]
                if not isinstance(reply, str):
                    best = int(np.argmax([request.resps[0][0] for request in asked]))
                    reply = definition.doc_to_choice(asked[0].doc)[best]
                said[slot, number] = reply.strip()
        return said

    def confidences(self, model: Model, tokenizer: Tokenizer) -> pd.DataFrame:
        """Return of items with choices slot, item, confidence (0..1, the likeliest's), right."""
        rows = []
        for slot, numbers in self.numbers.items():
            definition = self.tasks[self.slots[slot].name]
            if definition.OUTPUT_TYPE == "multiple_choice":
                for item, asked in _by_item(self._ask(model, tokenizer, slot, numbers)):
                    share = softmax([request.resps[0][0] for request in asked])
                    right = share.argmax() == definition.doc_to_target(asked[0].doc)
                    rows.append((slot, item, float(share.max()), bool(right)))
        return pd.DataFrame(rows, columns=["slot", "item", "confidence", "right"])

    def _ask(
        self, model: Model, tokenizer: Tokenizer, slot: str, numbers: Sequence[int]
    ) -> list[Any]:
        """Return lm-eval's requests of some items, with a model's response in each."""
        task, wanted = self.slots[slot], set(numbers)
        requests = [request for request in self._requests[slot] if request.doc_id in wanted]
        ask = {"loglikelihood": _likelihoods, "generate_until": _replies}
        kind = requests[0].request_type
        if kind not in ask:
            raise SkillsError(f"Task {task.name!r} asks for {kind!r}: only choices and replies do.")
        training = model.training
        try:
            with autocast(model.device):
                responses, cut = ask[kind](model.eval(), tokenizer, task, requests, self.batch_size)
        finally:
            model.train(training)
        if cut:
            why = "prompts are longer than the model can read, and lost their beginning."
            warnings.warn(f"{task.name}: {cut} {why}", stacklevel=3)
        for request, response in zip(requests, responses, strict=True):
            request.resps, request.filtered_resps = [response], {}
        return requests


def _likelihoods(
    model: Model, tokenizer: Tokenizer, task: Task, asked: list[Any], batch_size: int
) -> tuple[list[Any], int]:
    """Return how likely each continuation is and if it is greedy, and how many had to be cut."""
    from lm_eval.models.utils import resolve_max_length

    # lm-eval moves space at the end of a context to the continuation, and splits their tokens there
    contexts = _encode(tokenizer, [request.args[0].rstrip() for request in asked])
    wholes = _encode(tokenizer, ["".join(request.args) for request in asked])
    pairs, cut, readable = [], 0, resolve_max_length(model.config, tokenizer)
    for context, whole in zip(contexts, wholes, strict=True):
        continuation = whole[len(context) :]
        if not continuation:
            raise SkillsError(f"Task {task.name!r} has a choice that is no token of its own.")
        # the last token is never read, only predicted
        room = readable + 1 - len(continuation)
        cut += len(context) > room
        pairs.append((_fitted(context, tokenizer, room), continuation))
    # behind what is said nothing may follow
    end = tokenizer.eos_token_id if task.said else None
    return log_likelihoods(model, pairs, tokenizer.pad_token_id or 0, batch_size, end), cut


def _replies(
    model: Model, tokenizer: Tokenizer, task: Task, asked: list[Any], batch_size: int
) -> tuple[list[Any], int]:
    """Return the greedy reply to each prompt, and how many prompts had to be cut."""
    from lm_eval.models import utils

    wanted, who = asked[0].args[1], f"Task {task.name!r}"
    settings = utils.normalize_gen_kwargs(wanted)
    until, most = settings.pop("until"), settings.pop("max_gen_toks")
    if settings.pop("do_sample") or settings.pop("temperature", 0) or settings:
        raise SkillsError(f"{who} must ask for greedy decoding: {wanted}.")
    if not until:
        lacks = "does not say where a reply ends: give its generation_kwargs an until."
        raise SkillsError(f"{who} {lacks}")
    room = utils.resolve_max_length(model.config, tokenizer) - most
    if room < 1:
        raise SkillsError(f"{who}: replies of {most} tokens leave no room for a prompt.")
    prompts = _encode(tokenizer, [request.args[0] for request in asked])
    end = tokenizer.eos_token_id
    end_text = str(tokenizer.decode(end))
    stops = [stop for stop in until if stop and stop != end_text]

    def ended(replies: list[Tokens]) -> list[bool]:
        over = [reply[-1] == end for reply in replies]
        if not stops:
            return over
        texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
        return [o or any(s in text for s in stops) for o, text in zip(over, texts, strict=True)]

    read = [_fitted(prompt, tokenizer, room) for prompt in prompts]
    replies = greedy_replies(model, read, most, ended, tokenizer.pad_token_id or 0, batch_size)
    texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
    said = [utils.postprocess_generated_text(text, [*stops, end_text], None) for text in texts]
    return said, sum(len(prompt) > room for prompt in prompts)


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Tokens]:
    """Return the tokens of each text, as in training: none that the tokenizer adds by itself."""
    different = list(dict.fromkeys(texts))
    tokens = tokenizer(different, add_special_tokens=False)["input_ids"]
    known = dict(zip(different, tokens, strict=True))
    return [known[text] for text in texts]


def _fitted(tokens: Tokens, tokenizer: Tokenizer, room: int) -> Tokens:
    """Return the last tokens of a context; an empty one is a single token, as lm-eval has it."""
    start = tokenizer.bos_token_id
    return (tokens or [int(tokenizer.eos_token_id if start is None else start)])[-room:]


def _by_item(requests: list[Any]) -> list[tuple[int, list[Any]]]:
    """Return each item's number and its requests, which follow one another in their order."""
    return [(n, list(own)) for n, own in itertools.groupby(requests, lambda each: each.doc_id)]


def _both_ways(task: Task, definition: Any, asked: list[Any]) -> dict[str, float]:
    """Return the score of an answered item as written, and with format forgiven."""
    answers = [next(iter(request.filtered_resps.values())) for request in asked]
    document = asked[0].doc
    target = definition.doc_to_target(document)
    wanted = "the number of one of its choices" if len(answers) > 1 else "a text"
    is_some = 0 <= target < len(answers) if isinstance(target, int) else str(target or "").strip()
    if isinstance(target, int) != (len(answers) > 1) or not is_some:
        where = f"Task {task.name!r}, item {asked[0].doc_id}"
        raise SkillsError(f"{where}: its answer is {target!r}, and must be {wanted}.")
    value, counts = _counted(task, definition.process_results(document, answers))
    forgiven, cut_counts = value, counts
    if isinstance(answers[0], str):
        cut = [first_line(answer, str(target), task.ends) for answer in answers]
        if cut != answers:  # else the score is the same
            forgiven, cut_counts = _counted(task, definition.process_results(document, cut))
    named = zip((*BLEU_COLUMNS, *CUT_COLUMNS), (*counts, *cut_counts), strict=True)
    # of what a model says, the likeliest of four choices is not enough
    value = float(answers[target][1]) if task.said else value
    return {"value": value, "forgiven": forgiven, **dict(named)}


def _counted(task: Task, found: Mapping[str, Any]) -> tuple[float, Sequence[float]]:
    """Return what a task reports of an item: a value and the counts of BLEU, NaN where neither."""
    if task.metric not in found:
        lacks = f"reports {', '.join(found)}, not {task.metric!r}: name it in its metric_list."
        raise SkillsError(f"Task {task.name!r} {lacks}")
    if task.metric == "bleu":
        return np.nan, bleu_statistics(*found["bleu"])
    value = float(found[task.metric])
    if not 0 <= value <= 1:
        raise SkillsError(f"Task {task.name!r}: {task.metric} = {value} is not in 0..1.")
    return value, [np.nan] * len(BLEU_COLUMNS)


def first_line(reply: str, target: str, ends: str) -> str:
    """Return a reply up to the first mark of `ends`, which stays if the target has one itself."""
    places = [place for place in map(reply.find, ends) if place >= 0]
    return reply[: min(places) + target.endswith(tuple(ends))].rstrip() if places else reply


def _fingerprint(document: Mapping[str, Any]) -> str:
    """Return sixteen digits of lm-eval's hash of an item."""
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(document, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return hash_string(text)[:16]
