"""The pretraining text of the tiny world: an endless, seeded stream of short documents."""

from __future__ import annotations

import random
from collections.abc import Callable
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


@dataclass(frozen=True)
class Document:
    """Pieces of text with their loss weights; an end-of-sequence token closes the document."""

    pieces: tuple[tuple[str, float], ...]

    @property
    def text(self) -> str:
        """The document as plain text."""
        return " ".join(text for text, _ in self.pieces)


def _answered(context: str, answer: str) -> tuple[tuple[str, float], ...]:
    return ((context, CONTEXT_WEIGHT), (answer, 1.0))


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
}


def documents(n: int, rng: random.Random, progress: float = 1.0) -> list[Document]:
    """Draw `n` documents; `progress` in [0, 1] is how far pretraining is (for the curriculum)."""
    names = rng.choices(list(MIXTURE), list(MIXTURE.values()), k=n)
    return [FAMILIES[name](rng, progress) for name in names]
