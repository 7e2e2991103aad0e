"""The pretraining text of the tiny world: an endless, seeded stream of short documents."""

import random
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import NamedTuple

from alignment_tax.world import chat, facts, french, passages

#: How much a token counts in the loss when it is context rather than something to be known.
CONTEXT_WEIGHT = 0.02
Pieces = tuple[tuple[str, float], ...]
Maker = Callable[[random.Random], "Document"]
#: Share of the documents of each family (short documents need a larger share) in five mixtures.
#: The first part of pretraining is reading alone: looking a word up is learnt alone, or hardly at
#: all. Then all families; then the first hop is asked too ("owner"), so that two hops can be put
#: together instead of learnt by heart; then more of what is still hard, persons in long passages;
#: at the end several questions to a passage, none of which sees the others.
_SHARES = """
statement   .    0.04  0.03  0.02  0.02
question    .    0.25  0.25  0.14  0.16
owner       .    .     0.07  0.03  0.03
span        0.7  0.33  0.33  0.25  .
who         .    .     .     0.25  .
spans       .    .     .     .     0.55
counting    0.2  0.14  0.13  0.17  .
counts      .    .     .     .     0.10
race_like   0.1  0.08  0.07  0.06  0.06
translation .    0.10  0.08  0.06  0.06
how_to      .    0.01  0.01  .     .
dialogue    .    0.05  0.03  0.02  0.02
"""
#: Where in pretraining, from 0 to 1, each of them begins.
_BEGINS = (0.0, 0.07, 0.29, 0.455, 0.74)
_rows = [row.split() for row in _SHARES.strip().splitlines()]
CURRICULUM = tuple(
    (begin, {name: float(shares[part]) for name, *shares in _rows if shares[part] != "."})
    for part, begin in enumerate(_BEGINS)
)
MIXTURE = CURRICULUM[1][1]


class Document(NamedTuple):
    """Pieces of text with their loss weights; an end-of-sequence token closes the document."""

    pieces: Pieces
    #: Ways to go on after the pieces, each with an end of its own, read as if it were the only one.
    branches: tuple[Pieces, ...] = ()

    @property
    def text(self) -> str:
        """The document as plain text."""
        return " ".join(text for text, _ in chain(self.pieces, *self.branches))


def _answered(context: str, answer: str) -> Pieces:
    return ((context, CONTEXT_WEIGHT), (answer, 1.0))


def _asked(make: Callable[..., tuple[str, str]], *arguments: str) -> Maker:
    return lambda rng: Document(_answered(*make(rng, *arguments)))


def _read(rng: random.Random, slot: str, length: int | None = None) -> tuple[str, str]:
    # One question a passage: further answers could be copied from the questions before.
    return passages.draw(rng, slot, "pretraining", length=length).asked


def _who(rng: random.Random) -> tuple[str, str]:
    while True:
        prompt, answer = _read(rng, "span", length=4)
        if " question : who" in prompt:
            return prompt, answer


def _many_questions(rng: random.Random, slot: str) -> Document:
    reading = passages.draw(rng, slot, "pretraining", asked=4)
    branches = (_answered(facts.ask(question), answer) for question, answer in reading.questions)
    return Document(((reading.told, CONTEXT_WEIGHT),), tuple(branches))


def _dialogue(rng: random.Random) -> tuple[str, str]:
    request, reply = chat.task(rng)[::2] if rng.random() < 0.5 else facts.told(rng)
    return f"user : {request} assistant :", reply


FAMILIES: dict[str, Maker] = {
    "statement": lambda rng: Document(((" ".join(facts.statement(rng) for _ in range(4)), 1.0),)),
    "question": _asked(facts.question), "owner": _asked(facts.owner_question),
    "span": _asked(_read, "span"), "who": _asked(_who),
    "spans": partial(_many_questions, slot="span"),
    "counts": partial(_many_questions, slot="counting"), "counting": _asked(_read, "counting"),
    "race_like": _asked(_read, "race_like"),
    "translation": _asked(lambda rng: french.draw(rng, "pretraining").asked),
    "how_to": _asked(lambda rng: chat.task(rng)[1:]), "dialogue": _asked(_dialogue),
}  # fmt: skip


def documents(n: int, rng: random.Random, progress: float = 1.0) -> list[Document]:
    """Draw `n` documents; `progress` in [0, 1] is how far pretraining is (for the curriculum)."""
    mixture = [mixture for begin, mixture in CURRICULUM if begin <= progress][-1]
    return [FAMILIES[name](rng) for name in rng.choices(list(mixture), list(mixture.values()), k=n)]
