"""The pretraining text of the tiny world: an endless, seeded stream of short documents."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from alignment_tax.world import chat, facts, french, passages

#: How much a token counts in the loss when it is context rather than something to be known.
CONTEXT_WEIGHT = 0.1
#: Family -> share of the documents (short documents need a larger share of the documents).
MIXTURE: dict[str, float] = {
    "statement": 0.12,
    "question": 0.24,
    "span": 0.20,
    "counting": 0.13,
    "race_like": 0.06,
    "translation": 0.20,
    "how_to": 0.05,
}
#: The second part of pretraining: mostly what is learnt last, reading and two-hop questions.
READING_MIXTURE: dict[str, float] = {
    "statement": 0.02,
    "question": 0.05,
    "two_hop": 0.10,
    "topic": 0.08,
    "recall": 0.24,
    "many_span": 0.20,
    "many_counting": 0.12,
    "many_feelings": 0.08,
    "translation": 0.08,
    "how_to": 0.03,
}
#: A passage is drawn at random and cannot be known: hardly any weight once its form is learnt.
PASSAGE_WEIGHT = 0.02


@dataclass(frozen=True)
class Document:
    """Pieces of text with their loss weights; an end-of-sequence token closes the document."""

    pieces: tuple[tuple[str, float], ...]

    @property
    def text(self) -> str:
        """The document as plain text."""
        return " ".join(text for text, _ in self.pieces)


def _answered(
    context: str, answer: str, weight: float = CONTEXT_WEIGHT
) -> tuple[tuple[str, float], ...]:
    return ((context, weight), (answer, 1.0))


def _statements(rng: random.Random, progress: float) -> Document:
    return Document(((" ".join(facts.statement(rng) for _ in range(4)), 1.0),))


def _question(rng: random.Random, progress: float) -> Document:
    return Document(_answered(*facts.question(rng)))


def _reading(slot: str) -> Callable[[random.Random, float], Document]:
    def make(rng: random.Random, progress: float) -> Document:
        # Curriculum: short passages first, since finding a word in one sentence is learnt first.
        length = None if progress > 0.2 else 2
        if slot == "race_like":
            length = None if progress > 0.2 else 0
        reading = passages.draw(
            rng, slot, "pretraining", asked=rng.choice((1, 1, 3)), length=length
        )
        (first, answer), *others = reading.questions
        pieces = _answered(passages.ask(reading.passage, first), answer)
        for question, answer in others:
            pieces += _answered(facts.ask(question), answer)
        return Document(pieces)

    return make


def _many(slot: str) -> Callable[[random.Random, float], Document]:
    """Up to five questions a passage; passages grow from one sentence to the full length."""

    def make(rng: random.Random, progress: float) -> Document:
        shortest = 2 if slot == "many_counting" else 1
        length = shortest if progress < 0.1 else 2 if progress < 0.25 else None
        asked = rng.choice((1, 5, 5))
        name = slot.removeprefix("many_")
        reading = passages.draw(rng, name, "pretraining", asked=asked, length=length)
        (first, answer), *others = reading.questions
        pieces = _answered(passages.ask(reading.passage, first), answer, PASSAGE_WEIGHT)
        for question, answer in others:
            pieces += _answered(facts.ask(question), answer, PASSAGE_WEIGHT)
        return Document(pieces)

    return make


def _recall(rng: random.Random, progress: float) -> Document:
    """A passage told again in another order: what follows a name is to be looked up, not guessed.

    Every word of the second telling counts, so it teaches retrieval from far fewer documents than
    questions do, where only the answer counts.
    """
    reading = passages.draw(rng, "span", "pretraining", length=rng.randint(2, 5))
    sentences = [f"{sentence} ." for sentence in reading.passage.removesuffix(" .").split(" . ")]
    again = " ".join(rng.sample(sentences, len(sentences)))
    return Document(((f"passage : {reading.passage} again :", PASSAGE_WEIGHT), (again, 1.0)))


def _two_hop(rng: random.Random, progress: float) -> Document:
    return Document(_answered(*facts.two_hop_question(rng)))


def _topic(rng: random.Random, progress: float) -> Document:
    return Document(((facts.topic(rng), 1.0),))


def _translation(rng: random.Random, progress: float) -> Document:
    pair = french.draw(rng, "pretraining")
    return Document(_answered(french.prompt(pair), pair.en))


def _how_to(rng: random.Random, progress: float) -> Document:
    return Document(_answered(*chat.how_to(rng)))


FAMILIES: dict[str, Callable[[random.Random, float], Document]] = {
    "statement": _statements,
    "question": _question,
    "span": _reading("span"),
    "counting": _reading("counting"),
    "race_like": _reading("race_like"),
    "translation": _translation,
    "how_to": _how_to,
    "recall": _recall,
    "two_hop": _two_hop,
    "topic": _topic,
    "many_span": _many("many_span"),
    "many_counting": _many("many_counting"),
    "many_feelings": _many("many_feelings"),
}


def documents(
    n: int,
    rng: random.Random,
    progress: float = 1.0,
    mixture: Mapping[str, float] = MIXTURE,
) -> list[Document]:
    """Draw `n` documents; `progress` in [0, 1] is how far pretraining is (for the curriculum)."""
    names = rng.choices(list(mixture), list(mixture.values()), k=n)
    return [FAMILIES[name](rng, progress) for name in names]
