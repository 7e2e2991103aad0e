"""Reading: span answers (as SQuAD), counting and adding (DROP), four choices (RACE).

The hash of a passage decides its split, so none of a reported item is ever seen in training.
"""

import random
from typing import NamedTuple

from alignment_tax.world import facts
from alignment_tax.world.splits import SHARES, split_of
from alignment_tax.world.words import COLOURS, EVENTS, PEOPLE, PLURALS, ROOMS, THINGS

#: A sentence, and the questions that it allows, each with the name of what answers it.
TOLD = {
    "{p} is in {place} .": {"where is {p} ?": "place", "who is in {place} ?": "p"},
    "{that} is in {place} .": {"where is {that} ?": "place", "what is in {place} ?": "that"},
    "{p} gave {thing} to {q} .": {
        "who gave {thing} ?": "p",
        "who got {thing} ?": "q",
        "what did {p} give ?": "thing",
    },
    "{p} has {one} .": {"what does {p} have ?": "one", "who has {one} ?": "p"},
}
KINDS = {"p": "person", "q": "person", "place": "room"}  # of answers; all others are things


class Reading(NamedTuple):
    """A passage with questions: each a text and its answer."""

    passage: str
    questions: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...] = ()  # of the answers, for the baseline that guesses by type
    choices: tuple[str, ...] = ()  # only where RACE-like

    @property
    def told(self) -> str:
        """What comes before the questions."""
        return f"passage : {self.passage}"

    @property
    def asked(self) -> tuple[str, str]:
        """The text a model continues with the answer to the first question, and this answer."""
        question, answer = self.questions[0]
        return f"{self.told} {facts.ask(question)}", answer


def _sentences(rng: random.Random, n: int) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Return `n` sentences and the (question, answer, kind of answer) triples they allow."""
    people = rng.sample(PEOPLE, 2 * n)
    rooms, things, colours = rng.sample(ROOMS, n), rng.sample(THINGS, n), rng.sample(COLOURS, n)
    sentences, questions = [], []
    for i, (room, thing, colour) in enumerate(zip(rooms, things, colours, strict=True)):
        p, q = people[2 * i : 2 * i + 2]
        named = {"p": p, "q": q, "place": f"the {room}", "thing": f"the {thing}"}
        named["that"] = f"the {colour} {thing}"
        named["one"] = f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {thing}"
        sentence, asked = rng.choice(list(TOLD.items()))
        sentences.append(sentence.format(**named))
        for question, name in asked.items():
            questions.append((question.format(**named), named[name], KINDS.get(name, "thing")))
    return sentences, questions


def span(rng: random.Random, asked: int, length: int | None) -> Reading:
    """A passage of 2 to 4 sentences; the answer is a span of it."""
    sentences, questions = _sentences(rng, length or rng.randint(2, 4))
    chosen = rng.sample(questions, min(asked, len(questions)))
    return Reading(" ".join(sentences), tuple(c[:2] for c in chosen), tuple(c[2] for c in chosen))


def counting(rng: random.Random, asked: int, length: int | None) -> Reading:
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
        both, total = f"{people[i]} and {people[j]}", str(numbers[i] + numbers[j])
        pool = [(f"how many {thing} do {both} have ?", total)]
        pool += [(f"how many {thing} does {people[i]} have ?", str(numbers[i]))]
    chosen = rng.sample(pool, min(asked, len(pool)))
    return Reading(" ".join(sentences), tuple(chosen), ("number",) * len(chosen))


def race_like(rng: random.Random, asked: int, length: int | None) -> Reading:
    """A longer passage with four candidate answers: who did it, or how somebody feels."""
    people, moods = rng.sample(PEOPLE, 4), rng.sample(list(EVENTS), 3)
    pairs = list(zip(people[:3], moods, strict=True))
    body = [rng.choice(EVENTS[mood]).format(p=person) for person, mood in pairs]
    body += _sentences(rng, 1 if length is None else length)[0]
    rng.shuffle(body)
    person, mood = rng.choice(pairs)
    if rng.random() < 0.5:
        question, answer, choices = f"how does {person} feel ?", mood, list(EVENTS)
    else:
        question, answer, choices = f"who feels {mood} ?", person, people
    choices = rng.sample(choices, len(choices))
    return Reading(" ".join(body), ((question, answer),), ("choice",), tuple(choices))


MAKERS = {"span": span, "counting": counting, "race_like": race_like}


def draw(
    rng: random.Random, slot: str, split: str, asked: int = 1, length: int | None = None
) -> Reading:
    """Draw a passage for a slot of `MAKERS`: at most `asked` questions, `length` sentences."""
    while True:
        reading = MAKERS[slot](rng, asked, length)
        if split_of(SHARES, "passage", reading.passage) == split:
            return reading


def type_guess(reading: Reading) -> float:
    """Chance of the right answer when one picks at random what fits the type of answer.

    Of persons, rooms, things: what the passage names; of numbers: the passage's, or all totals.
    """
    kind, words = reading.kinds[0], reading.passage.split()
    if kind == "choice":
        return 1 / len(reading.choices)
    named = {"person": PEOPLE, "room": ROOMS, "thing": THINGS}
    if kind in named:
        return 1 / max(1, len({*words} & {*named[kind]}))
    question, sentences = reading.questions[0][0].split(), words.count(".")
    if "does" in question:
        return 1 / sentences
    return 1 / 12 if "have" in question else 1 / (1 + sentences)
