"""Common sense: one-hop facts (as ARC-Easy), two-hop (ARC-Challenge) and uses (PIQA).

Who has which value is drawn once from a fixed seed: the world is arbitrary, but it never changes.
A fact is stated and asked in pretraining; the question template that is reported is never shown
with that fact. Of the two-hop questions a share is never asked at all in pretraining.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from alignment_tax.world.splits import split_of, unit_hash
from alignment_tax.world.words import (
    ANIMAL_RELATIONS,
    ANIMALS,
    OBJECT_RELATIONS,
    OBJECTS,
    PEOPLE,
    USES,
    Relation,
)

TWO_HOP_SHARES = {"reported": 0.35, "validation": 0.1, "pretraining": 0.55}
GOAL_QUESTIONS = (
    "which would you use to {g} ?",
    "what do you need to {g} ?",
    "with what can you {g} ?",
    "what helps you to {g} ?",
    "which thing is good to {g} ?",
)
GOAL_STATEMENTS = (
    "to {g} you use the {o} .",
    "you {g} with the {o} .",
    "the {o} is good to {g} .",
)
#: What everybody has one of -> the kind of entity it is.
BONDS = {"pet": "animal", "friend": "animal", "tool": "object", "gift": "object"}
OWNER_QUESTIONS = (
    "which is the {k} of {p} ?",
    "what is the {k} of {p} ?",
    "who is the {k} of {p} ?",
)
OWNER_STATEMENTS = (
    "the {k} of {p} is the {e} .",
    "{p} has the {e} as {k} .",
    "the {e} is the {k} of {p} .",
)


@dataclass(frozen=True)
class Fact:
    """Entity `entity` has `value` in `relation`; `kind` is "animal" or "object"."""

    kind: str
    entity: str
    relation: str
    value: str


@dataclass(frozen=True)
class Question:
    """A question with its answer candidates; `answer` is the index of the right one."""

    text: str
    choices: tuple[str, ...]
    answer: int
    identity: str


def relations(kind: str) -> dict[str, Relation]:
    """The relations of animals or objects."""
    return ANIMAL_RELATIONS if kind == "animal" else OBJECT_RELATIONS


@cache
def all_facts() -> tuple[Fact, ...]:
    """Every fact of the world, always the same."""
    rng = random.Random("facts of the tiny world")
    facts = []
    for kind, entities in (("animal", ANIMALS), ("object", OBJECTS)):
        for name, (values, _, _) in relations(kind).items():
            # Shuffled copies of the value list give every value the same share of entities.
            deck: list[str] = []
            while len(deck) < len(entities):
                deck += rng.sample(values, len(values))
            facts += [Fact(kind, e, name, v) for e, v in zip(entities, deck, strict=False)]
    return tuple(facts)


@cache
def _value(entity: str, relation: str) -> str:
    return next(f.value for f in all_facts() if (f.entity, f.relation) == (entity, relation))


@cache
def owners() -> tuple[tuple[str, str, str], ...]:
    """(person, one of `BONDS`, entity): everybody has one of each.

    So most entities have several owners: a model that has read of one can answer about another.
    """
    rng = random.Random("owners of the tiny world")
    rows = []
    for bond, kind in BONDS.items():
        entities = ANIMALS if kind == "animal" else OBJECTS
        deck: list[str] = []
        while len(deck) < len(PEOPLE):
            deck += rng.sample(entities, len(entities))
        rows += [(p, bond, e) for p, e in zip(PEOPLE, deck, strict=False)]
    return tuple(rows)


@cache
def two_hop_pairs() -> tuple[tuple[str, str, Fact], ...]:
    """(person, one of `BONDS`, fact about what the person has)."""
    by_entity: dict[str, list[Fact]] = {}
    for fact in all_facts():
        by_entity.setdefault(fact.entity, []).append(fact)
    return tuple((p, k, fact) for p, k, e in owners() for fact in by_entity[e])


@cache
def goals() -> tuple[tuple[str, str], ...]:
    """(goal such as "cut the bread", object that serves it); ambiguous goals are left out."""
    rows: dict[str, list[str]] = {}
    for name, entry in USES.items():
        verb, *nouns = entry.split()
        for noun in nouns:
            rows.setdefault(f"{verb} the {noun}", []).append(name)
    return tuple((goal, names[0]) for goal, names in rows.items() if len(names) == 1)


def held_out(identity: str, templates: int) -> tuple[int, int]:
    """The template kept for the reported items and the one kept for validation."""
    reported = int(unit_hash("template", identity) * templates)
    return reported, (reported + 1) % templates


def _templates(identity: str, templates: tuple[str, ...], split: str) -> list[str]:
    reported, validation = held_out(identity, len(templates))
    if split == "reported":
        return [templates[reported]]
    if split == "validation":
        return [templates[validation]]
    return [t for i, t in enumerate(templates) if i not in (reported, validation)]


def _choose(value: str, values: tuple[str, ...], n: int, identity: str) -> tuple[tuple, int]:
    rng = random.Random(f"choices {identity}")
    choices = [value, *rng.sample([v for v in values if v != value], n - 1)]
    rng.shuffle(choices)
    return tuple(choices), choices.index(value)


def _ask(fact: Fact, entity: str, template: str, identity: str) -> Question:
    choices, answer = _choose(fact.value, relations(fact.kind)[fact.relation][0], 4, identity)
    return Question(ask(template.format(e=entity)), choices, answer, identity)


def ask(question: str) -> str:
    """The text a model continues with the answer."""
    return f"question : {question} answer :"


def one_hop(split: str) -> list[Question]:
    """Every fact once, asked with the template that `split` keeps for itself."""
    questions = []
    for fact in all_facts():
        identity = f"one_hop {fact.entity} {fact.relation}"
        template = _templates(identity, relations(fact.kind)[fact.relation][2], split)[0]
        questions.append(_ask(fact, fact.entity, template, f"{identity} {split}"))
    return questions


def two_hop(split: str) -> list[Question]:
    """The two-hop questions that `split` keeps for itself; none is asked in pretraining."""
    questions = []
    for person, kind, fact in two_hop_pairs():
        identity = f"two_hop {person} {kind} {fact.relation}"
        if split_of(TWO_HOP_SHARES, identity) == split:
            templates = relations(fact.kind)[fact.relation][2]
            template = templates[int(unit_hash("asked", identity) * len(templates))]
            questions.append(_ask(fact, f"{kind} of {person}", template, identity))
    return questions


def piqa_like(split: str) -> list[Question]:
    """Every goal once with two objects to choose from, in the template `split` keeps for itself."""
    questions = []
    for goal, name in goals():
        identity = f"piqa_like {goal}"
        template = _templates(identity, GOAL_QUESTIONS, split)[0]
        choices, answer = _choose(name, OBJECTS, 2, f"{identity} {split}")
        text = ask(template.format(g=goal))
        questions.append(Question(text, choices, answer, f"{identity} {split}"))
    return questions


def statement(rng: random.Random) -> str:
    """One sentence of pretraining text that states a fact, an owner or a use."""
    kind = rng.random()
    if kind < 0.55:
        fact = rng.choice(all_facts())
        template = rng.choice(relations(fact.kind)[fact.relation][1])
        return template.format(e=fact.entity, v=fact.value)
    if kind < 0.85:
        person, what, entity = rng.choice(owners())
        return rng.choice(OWNER_STATEMENTS).format(p=person, k=what, e=entity)
    goal, name = rng.choice(goals())
    return rng.choice(GOAL_STATEMENTS).format(g=goal, o=name)


def told(rng: random.Random) -> tuple[str, str]:
    """A fact asked in words of pretraining, and the sentence that answers: for dialogues."""
    fact = rng.choice(all_facts())
    _, statements, questions = relations(fact.kind)[fact.relation]
    templates = _templates(f"one_hop {fact.entity} {fact.relation}", questions, "pretraining")
    reply = rng.choice(statements).format(e=fact.entity, v=fact.value)
    return rng.choice(templates).format(e=fact.entity), reply


def owner_question(rng: random.Random) -> tuple[str, str]:
    """The first hop alone, as a question: what somebody has."""
    person, what, entity = rng.choice(owners())
    return ask(rng.choice(OWNER_QUESTIONS).format(k=what, p=person)), entity


def two_hop_question(rng: random.Random) -> tuple[str, str]:
    """A two-hop question of pretraining with its answer; never a pair that is held out."""
    while True:
        person, what, fact = rng.choice(two_hop_pairs())
        identity = f"two_hop {person} {what} {fact.relation}"
        if split_of(TWO_HOP_SHARES, identity) == "pretraining":
            template = rng.choice(relations(fact.kind)[fact.relation][2])
            return ask(template.format(e=f"{what} of {person}")), fact.value


def question(rng: random.Random) -> tuple[str, str]:
    """One question of pretraining with its answer; never a template or pair that is held out."""
    kind = rng.random()
    if kind < 0.35:
        fact = rng.choice(all_facts())
        identity = f"one_hop {fact.entity} {fact.relation}"
        templates = _templates(identity, relations(fact.kind)[fact.relation][2], "pretraining")
        return ask(rng.choice(templates).format(e=fact.entity)), fact.value
    if kind < 0.85:
        return two_hop_question(rng)
    goal, name = rng.choice(goals())
    templates = _templates(f"piqa_like {goal}", GOAL_QUESTIONS, "pretraining")
    return ask(rng.choice(templates).format(g=goal)), name


def vocabulary() -> set[str]:
    """Every word of the facts, their questions and their statements."""
    words = {*"question : answer ? . of the is".split(), *PEOPLE, *ANIMALS, *OBJECTS, *BONDS}
    for kind in ("animal", "object"):
        for values, statements, questions in relations(kind).values():
            words |= set(values) | {w for t in (*statements, *questions) for w in t.split()}
    for template in (*GOAL_QUESTIONS, *GOAL_STATEMENTS, *OWNER_STATEMENTS, *OWNER_QUESTIONS):
        words |= set(template.split())
    words |= {w for goal, _ in goals() for w in goal.split()}
    return {w for w in words if "{" not in w}
