"""The pretraining text of the tiny world: an endless, seeded stream of short documents."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from alignment_tax.world import chat, facts, french, passages

#: How much a token counts in the loss when it is context rather than something to be known.
CONTEXT_WEIGHT = 0.02
#: Most questions to one passage.
QUESTIONS = 4
#: Family -> share of the documents (short documents need a larger share of the documents).
MIXTURE: dict[str, float] = {
    "statement": 0.04,
    "question": 0.25,
    "span": 0.33,
    "counting": 0.14,
    "race_like": 0.08,
    "translation": 0.10,
    "how_to": 0.01,
    "dialogue": 0.05,
}
#: The same for the first part of pretraining: looking a word up is learnt alone, or hardly at all.
READING_FIRST: dict[str, float] = {"span": 0.7, "counting": 0.2, "race_like": 0.1}
#: The same later: the first hop is asked too, so that two hops can be put together instead of
#: learnt by heart.
HOPS: dict[str, float] = {
    "statement": 0.03,
    "question": 0.25,
    "owner": 0.07,
    "span": 0.33,
    "counting": 0.13,
    "race_like": 0.07,
    "translation": 0.08,
    "how_to": 0.01,
    "dialogue": 0.03,
}
#: The same for the end: what is still hard, persons in long passages, and a little of all else.
HARD_LAST: dict[str, float] = {
    "statement": 0.02,
    "question": 0.14,
    "owner": 0.03,
    "span": 0.25,
    "who": 0.25,
    "counting": 0.17,
    "race_like": 0.06,
    "translation": 0.06,
    "dialogue": 0.02,
}
#: The same for a last cycle: several questions to a passage, none of which sees the others.
MANY_QUESTIONS: dict[str, float] = {
    "statement": 0.02,
    "question": 0.16,
    "owner": 0.03,
    "spans": 0.55,
    "counts": 0.10,
    "race_like": 0.06,
    "translation": 0.06,
    "dialogue": 0.02,
}
#: Where in pretraining, from 0 to 1, a mixture begins.
CURRICULUM = (
    (0.0, READING_FIRST),
    (0.07, MIXTURE),
    (0.29, HOPS),
    (0.455, HARD_LAST),
    (0.74, MANY_QUESTIONS),
)


@dataclass(frozen=True)
class Document:
    """Pieces of text with their loss weights; an end-of-sequence token closes the document.

    `branches` are several ways to go on after the pieces, each with an end of its own. A branch is
    read as if it were the only one: no answer can be copied from a question before.
    """

    pieces: tuple[tuple[str, float], ...]
    branches: tuple[tuple[tuple[str, float], ...], ...] = ()

    @property
    def text(self) -> str:
        """The document as plain text."""
        pieces = [*self.pieces, *(piece for branch in self.branches for piece in branch)]
        return " ".join(text for text, _ in pieces)


def _answered(context: str, answer: str) -> tuple[tuple[str, float], ...]:
    return ((context, CONTEXT_WEIGHT), (answer, 1.0))


def _statements(rng: random.Random) -> Document:
    return Document(((" ".join(facts.statement(rng) for _ in range(4)), 1.0),))


def _question(rng: random.Random) -> Document:
    return Document(_answered(*facts.question(rng)))


def _owner(rng: random.Random) -> Document:
    return Document(_answered(*facts.owner_question(rng)))


def _reading(slot: str) -> Callable[[random.Random], Document]:
    def make(rng: random.Random) -> Document:
        # One question a passage: further answers could be copied from the questions before.
        reading = passages.draw(rng, slot, "pretraining")
        question, answer = reading.questions[0]
        return Document(_answered(passages.ask(reading.passage, question), answer))

    return make


def _many_questions(slot: str) -> Callable[[random.Random], Document]:
    def make(rng: random.Random) -> Document:
        reading = passages.draw(rng, slot, "pretraining", asked=QUESTIONS)
        return Document(
            ((passages.told(reading.passage), CONTEXT_WEIGHT),),
            tuple(_answered(passages.asked(q), answer) for q, answer in reading.questions),
        )

    return make


def _who(rng: random.Random) -> Document:
    while True:
        reading = passages.draw(rng, "span", "pretraining", length=4)
        question, answer = reading.questions[0]
        if question.startswith("who"):
            return Document(_answered(passages.ask(reading.passage, question), answer))


def _translation(rng: random.Random) -> Document:
    pair = french.draw(rng, "pretraining")
    return Document(_answered(french.prompt(pair), pair.en))


def _how_to(rng: random.Random) -> Document:
    return Document(_answered(*chat.how_to(rng)))


def _dialogue(rng: random.Random) -> Document:
    request, reply = chat.dialogue(rng) if rng.random() < 0.5 else facts.told(rng)
    return Document(_answered(f"user : {request} assistant :", reply))


FAMILIES: dict[str, Callable[[random.Random], Document]] = {
    "statement": _statements,
    "question": _question,
    "owner": _owner,
    "span": _reading("span"),
    "who": _who,
    "spans": _many_questions("span"),
    "counts": _many_questions("counting"),
    "counting": _reading("counting"),
    "race_like": _reading("race_like"),
    "translation": _translation,
    "how_to": _how_to,
    "dialogue": _dialogue,
}


def documents(n: int, rng: random.Random, progress: float = 1.0) -> list[Document]:
    """Draw `n` documents; `progress` in [0, 1] is how far pretraining is (for the curriculum)."""
    mixture = [mixture for begin, mixture in CURRICULUM if begin <= progress][-1]
    names = rng.choices(list(mixture), list(mixture.values()), k=n)
    return [FAMILIES[name](rng) for name in names]
