"""Reading: span answers (as SQuAD), counting and adding (DROP), four choices (RACE).

Each passage says who is where, who has, gave or put what. The hash of the passage decides its
split, so no passage of a reported item is ever seen in training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from alignment_tax.world.splits import split_of
from alignment_tax.world.words import COLOURS, EVENTS, PEOPLE, PLURALS, ROOMS, THINGS

SHARES = {"reported": 0.15, "validation": 0.05, "pretraining": 0.8}


@dataclass(frozen=True)
class Reading:
    """A passage with questions: each a text and its answer; `choices` only where RACE-like.

    `kinds` names the type of each answer, for the baseline that guesses by type.
    """

    passage: str
    questions: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


def ask(passage: str, question: str) -> str:
    """The text a model continues with the answer."""
    return f"{told(passage)} {asked(question)}"


def told(passage: str) -> str:
    """The first part of `ask`."""
    return f"passage : {passage}"


def asked(question: str) -> str:
    """The second part of `ask`."""
    return f"question : {question} answer :"


def _article(colour: str) -> str:
    return "an" if colour[0] in "aeiou" else "a"


def _sentences(rng: random.Random, n: int) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Return `n` sentences and the (question, answer, kind of answer) triples they allow."""
    people = rng.sample(PEOPLE, 2 * n)
    rooms, things, colours = rng.sample(ROOMS, n), rng.sample(THINGS, n), rng.sample(COLOURS, n)
    sentences, questions = [], []
    for i in range(n):
        p, q, room, thing, colour = (
            people[2 * i],
            people[2 * i + 1],
            rooms[i],
            things[i],
            colours[i],
        )
        kind = rng.randrange(4)
        if kind == 0:
            sentences.append(f"{p} is in the {room} .")
            questions.append((f"where is {p} ?", f"the {room}", "room"))
            questions.append((f"who is in the {room} ?", p, "person"))
        elif kind == 1:
            sentences.append(f"the {colour} {thing} is in the {room} .")
            questions.append((f"where is the {colour} {thing} ?", f"the {room}", "room"))
            questions.append((f"what is in the {room} ?", f"the {colour} {thing}", "thing"))
        elif kind == 2:
            sentences.append(f"{p} gave the {thing} to {q} .")
            questions.append((f"who gave the {thing} ?", p, "person"))
            questions.append((f"who got the {thing} ?", q, "person"))
            questions.append((f"what did {p} give ?", f"the {thing}", "thing"))
        else:
            article = _article(colour)
            sentences.append(f"{p} has {article} {colour} {thing} .")
            questions.append((f"what does {p} have ?", f"{article} {colour} {thing}", "thing"))
            questions.append((f"who has {article} {colour} {thing} ?", p, "person"))
    return sentences, questions


def span(rng: random.Random, asked: int = 1, length: int | None = None) -> Reading:
    """A passage of 2 to 4 sentences (or `length`) with up to `asked` span questions."""
    sentences, questions = _sentences(rng, length or rng.randint(2, 4))
    chosen = rng.sample(questions, min(asked, len(questions)))
    return Reading(
        " ".join(sentences), tuple((q, a) for q, a, _ in chosen), tuple(k for _, _, k in chosen)
    )


def counting(rng: random.Random, asked: int = 1, length: int | None = None) -> Reading:
    """A passage with numbers; the question counts who, or adds two numbers (answer 0 to 12)."""
    n = length or rng.randint(2, 4)
    people, room, thing = rng.sample(PEOPLE, n), rng.choice(ROOMS), rng.choice(PLURALS)
    if rng.random() < 0.5:
        other = rng.choice([r for r in ROOMS if r != room])
        where = [rng.choice((room, other)) for _ in people]
        sentences = [f"{p} is in the {r} ." for p, r in zip(people, where, strict=True)]
        pool = [(f"how many people are in the {r} ?", str(where.count(r))) for r in (room, other)]
    else:
        numbers = [rng.randint(1, 6) for _ in people]
        sentences = [f"{p} has {k} {thing} ." for p, k in zip(people, numbers, strict=True)]
        i, j = rng.sample(range(n), 2)
        total = numbers[i] + numbers[j]
        pool = [(f"how many {thing} do {people[i]} and {people[j]} have ?", str(total))]
        pool += [(f"how many {thing} does {people[i]} have ?", str(numbers[i]))]
    chosen = rng.sample(pool, min(asked, len(pool)))
    return Reading(" ".join(sentences), tuple(chosen), ("number",) * len(chosen))


def race_like(rng: random.Random, asked: int = 1, length: int | None = None) -> Reading:
    """A longer passage with four candidate answers: who did it, or how somebody feels."""
    people = rng.sample(PEOPLE, 4)
    moods = rng.sample(list(EVENTS), 3)
    lines = [
        (p, m, rng.choice(EVENTS[m]).format(p=p)) for p, m in zip(people[:3], moods, strict=True)
    ]
    sentences, _ = _sentences(rng, 1 if length is None else length)
    body = [line for _, _, line in lines] + sentences
    rng.shuffle(body)
    person, mood, _ = rng.choice(lines)
    if rng.random() < 0.5:
        question, answer, choices = f"how does {person} feel ?", mood, list(EVENTS)
    else:
        question, answer, choices = f"who feels {mood} ?", person, people
    choices = rng.sample(choices, len(choices))
    return Reading(" ".join(body), ((question, answer),), ("choice",), tuple(choices))


MAKERS: dict[str, Callable[..., Reading]] = {
    "span": span,
    "counting": counting,
    "race_like": race_like,
}


def draw(rng: random.Random, slot: str, split: str, **options: int | None) -> Reading:
    """Draw a passage of `split` for the slot span | counting | race_like."""
    while True:
        reading = MAKERS[slot](rng, **options)
        if split_of(SHARES, "passage", reading.passage) == split:
            return reading


def passage_length(passage: str) -> int:
    """Number of sentences."""
    return passage.split().count(".")


def type_guess(reading: Reading) -> float:
    """Chance of the right answer when one picks at random what fits the type of answer.

    Persons and rooms: one of those the passage names; a thing: one of its noun phrases; a number:
    one of the passage's numbers, or one of the totals that are possible; four choices: a quarter.
    """
    kind, words = reading.kinds[0], reading.passage.split()
    if kind == "choice":
        return 1 / len(reading.choices)
    if kind == "person":
        return 1 / max(1, len({w for w in words if w in PEOPLE}))
    if kind == "room":
        return 1 / max(1, len({w for w in words if w in ROOMS}))
    if kind == "thing":
        return 1 / max(1, len({w for w in words if w in THINGS}))
    question, sentences = reading.questions[0][0].split(), passage_length(reading.passage)
    if "does" in question:
        return 1 / sentences
    return 1 / 12 if "have" in question else 1 / (1 + sentences)


def vocabulary() -> set[str]:
    """Every word of the passages and their questions."""
    words = set(
        """
    passage : question answer . ? is in the gave to has a an where who what did give does
    have got how many people are do and feel feels
""".split()
    )
    words |= {*PEOPLE, *ROOMS, *THINGS, *COLOURS, *PLURALS, *EVENTS, *map(str, range(13))}
    for sentences in EVENTS.values():
        words |= {w for s in sentences for w in s.split() if "{" not in w}
    return words
