"""Experience replay: pretraining text beside the alignment data. Paper, section 4.1 and C.1.

    max E[r] + lambda E_pretraining[log pi_theta(x)]

Replay is added to every step, so all remedies see the same alignment data in equally many steps.
"""

import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alignment_tax.mitigate.base import Setting, Treatment, check_strength
from alignment_tax.models import Model
from alignment_tax.skills.decode import greedy_replies
from alignment_tax.train import pretrain
from alignment_tax.train.loop import IGNORED, Batch, Outputs
from alignment_tax.world import real, tiny
from alignment_tax.world.corpus import FAMILIES, MIXTURE, Document

#: Families of pretraining text in the very format of a skill that is scored.
EVALUATED = ("question", "dialogue", "span", "counting", "race_like", "translation")
#: Of an answer that theta_0 gives to a question that is replayed.
ANSWER_TOKENS, ANSWER_BATCH = 40, 128
Seed = int | str
SLOTS = ("one_hop", "two_hop", "piqa_like", *tiny.ITEMS)


class Replay(Treatment):
    """Adds lambda times the pretraining loss on documents, `lambda` tokens for one reply token.

    Documents are taken whole, in a seeded order, over and over; what a step takes too many, later
    steps take fewer. One of more than the config's `max_length` tokens loses its end, one that
    contains a `reported` text is refused (ValueError).
    """

    def __init__(self, setting: Setting, texts: Sequence[Document], strength: float) -> None:
        self.strength = check_strength(strength, "replay")
        if not texts:
            raise ValueError("There are no documents to replay: pass some (tiny_documents()).")
        check_disjoint(texts, setting.reported)
        self.stream = endless(encoded(setting, texts), setting.seed)
        self.pad_id, self.owed = setting.tokenizer.pad_token_id, 0.0

    def take(self, reply_tokens: int) -> list[pretrain.Row]:
        """Return the documents that go with a batch of so many reply tokens."""
        self.owed += self.strength * reply_tokens
        rows: list[pretrain.Row] = []
        while self.owed > 0:
            rows.append(next(self.stream))
            self.owed -= len(rows[-1])
        return rows

    def loss(self, model: Model, batch: Batch, outputs: Outputs) -> Tensor | None:
        """Return the pretraining loss, times replayed tokens per reply token: lambda on average."""
        reply_tokens = int((batch["labels"] != IGNORED).sum())
        if not (rows := self.take(reply_tokens)):
            return None
        texts = pretrain.collate(rows, self.pad_id)
        proportion = sum(len(row) for row in rows) / reply_tokens
        return proportion * pretrain.weighted_loss(pretrain.read(model, texts), texts)


def replay(setting: Setting, strength: float) -> Replay:
    """Return replay of pretraining text, the evaluated formats among it."""
    return Replay(setting, setting.replay, strength)


def replay_other(setting: Setting, strength: float) -> Replay:
    """Return replay without the evaluated formats."""
    return Replay(setting, setting.replay_other, strength)


class SelfReplay(Replay):
    """Replays theta_0's own answers to questions of pretraining text, not those of the text."""

    def __init__(self, setting: Setting, strength: float) -> None:
        self.setting, self.strength = setting, check_strength(strength, "replay")
        check_texts(setting, 1)

    def begin(self, model: Model) -> Model:
        """Make the documents, once."""
        super().__init__(self.setting, self.texts(), self.strength)
        return model

    def texts(self) -> list[Document]:
        """Return what is replayed."""
        return own_answers(self.setting)


class LostReplay(SelfReplay):
    """Replays the quarter of the documents whose loss the plain run raised most."""

    def texts(self) -> list[Document]:
        """Read all documents before and after the plain run, and return that quarter."""
        ends, count = (self.setting.theta_0, self.setting.run(0)), len(self.setting.replay)
        with torch.no_grad():
            before, after = (list(text_losses(self.setting, end, count, 1)) for end in ends)
        lost = torch.stack(after) - torch.stack(before)
        return [self.setting.replay[i] for i in lost.topk(max(1, count // 4)).indices.tolist()]


def own_answers(setting: Setting) -> list[Document]:
    """Return the questions among the replayed documents with theta_0's most likely answers."""
    asked = [d for d in setting.replay if len(d.pieces) == 2 and not d.branches]
    tokenizer, end = setting.tokenizer, setting.tokenizer.eos_token_id
    prompts = [tokenizer(d.pieces[0][0], add_special_tokens=False)["input_ids"] for d in asked]

    def ended(replies: list[list[int]]) -> list[bool]:
        return [reply[-1] == end for reply in replies]

    sizes = (ANSWER_TOKENS, ended, tokenizer.pad_token_id, ANSWER_BATCH)
    answers = greedy_replies(setting.theta_0, prompts, *sizes)
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    pairs = [(d.pieces[0], (text, 1.0)) for d, text in zip(asked, texts, strict=True) if text]
    return [Document(pair) for pair in pairs]


def encoded(setting: Setting, texts: Sequence[Document]) -> list[pretrain.Row]:
    """Return the tokens of documents, without what is beyond the config's `max_length`."""
    limit = setting.config.max_length
    return [pretrain.encode(text, setting.tokenizer).cut(limit) for text in texts]


def text_losses(setting: Setting, model: Model, batches: int, size: int) -> Iterator[Tensor]:
    """Yield the model's loss on batches of pretraining text, so many at most."""
    rows = encoded(setting, setting.replay[: batches * size])
    for start in tqdm(range(0, len(rows), size), desc="gradients on pretraining text", leave=False):
        batch = pretrain.collate(rows[start : start + size], setting.tokenizer.pad_token_id)
        yield pretrain.weighted_loss(pretrain.read(model, batch), batch)


def check_texts(setting: Setting, documents: int) -> None:
    """Refuse a setting with less pretraining text than is needed (ValueError)."""
    if (there := len(setting.replay)) < documents:
        raise ValueError(f"{there} documents of {documents} are there: raise `replay_documents`.")


def endless(rows: Sequence[pretrain.Row], seed: int) -> Iterator[pretrain.Row]:
    """Yield rows in random order, each once before any comes again."""
    rng = np.random.default_rng(seed)
    while True:
        for index in rng.permutation(len(rows)):
            yield rows[index]


def tiny_documents(n: int, seed: Seed, evaluated_formats: bool = True) -> list[Document]:
    """Draw `n` documents from the pretraining text of the tiny world.

    A long passage that begins with all of a short, reported one is drawn anew. Without
    `evaluated_formats` only statements and how-tos are drawn.
    """
    rng = random.Random(f"replay {seed}")
    names = tiny_families(n, rng, evaluated_formats)
    documents = [FAMILIES[name](rng) for name in names]
    reported, again = tiny_reported(), list(range(n))
    while again:
        texts = [documents[place].text for place in again]
        again = [again[found] for found, _ in overlaps(texts, reported)]
        for place in again:
            documents[place] = FAMILIES[names[place]](rng)
    return documents


def tiny_families(n: int, seed: Seed | random.Random, evaluated_formats: bool = True) -> list[str]:
    """Return the family of each document that `tiny_documents` draws (a key of `FAMILIES`)."""
    rng = seed if isinstance(seed, random.Random) else random.Random(f"replay {seed}")
    shares = {k: v for k, v in MIXTURE.items() if evaluated_formats or k not in EVALUATED}
    return rng.choices(list(shares), list(shares.values()), k=n)


def tiny_reported() -> list[str]:
    """Return what replay may not contain in the tiny world: prompts, and passages by themselves."""
    prompts = [text for slot in SLOTS for text in tiny.items(slot)["prompt"]]
    passages = [text.split(" question :")[0] for text in prompts if text.startswith("passage :")]
    return prompts + passages


def real_documents(n: int, seed: int) -> list[Document]:
    """Draw up to `n` pages of web text (C4), for the real model's pretraining, none reported."""
    texts = [row["text"] for row in real.load("c4")]
    spoilt = {place for place, _ in overlaps(texts, real_reported())}
    kept = [text for place, text in enumerate(texts) if place not in spoilt]
    return [Document(((text, 1.0),)) for text in real.draw(kept, n, seed, "documents to replay")]


def real_reported() -> list[str]:
    """Return what replay may not contain of the real benchmarks: passages, questions, English.

    Whole ones of eight words or more: shorter ones are phrases that any page may have.
    """
    names = [name for name in real.BENCHMARKS if name != "race"]  # its data are not to be had
    rows = [row for name in names for row in real.benchmark(name, "reported")]
    texts = [str(row.get("passage") or row.get("en") or row["question"]) for row in rows]
    return [text for text in texts if len(text.split()) >= 8]


def overlaps(texts: Iterable[str], reported: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the place of each text that contains a reported one (whole words, any case), and it."""
    wanted = [words for words in (text.lower().split() for text in reported) if words]
    width = min(map(len, wanted), default=1)
    # reported texts by their first words: a document is then read once, not once per item
    by_start: dict[tuple[str, ...], list[list[str]]] = {}
    for words in wanted:
        by_start.setdefault(tuple(words[:width]), []).append(words)
    for number, text in enumerate(texts):
        words = text.lower().split()
        found = (
            item
            for place in range(len(words) - width + 1)
            for item in by_start.get(tuple(words[place : place + width]), ())
            if words[place : place + len(item)] == item
        )
        if (first := next(found, None)) is not None:
            yield number, " ".join(first)


def check_disjoint(texts: Sequence[Document], reported: Sequence[str]) -> None:
    """Refuse documents that contain a reported text (ValueError)."""
    if not reported:
        raise ValueError("Replay needs the reported items, so as not to train on them: `reported`.")
    for place, item in overlaps((document.text for document in texts), reported):
        told = f"A document to replay contains the reported text {item!r}: {texts[place].text!r}"
        raise ValueError(f"{told}. Draw replay from another split.")
