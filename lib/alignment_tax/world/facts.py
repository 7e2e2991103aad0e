"""Common sense: one-hop facts (as ARC-Easy), two-hop (ARC-Challenge) and uses (PIQA).

Who has which value is drawn once from a fixed seed. A fact is stated and asked in pretraining, but
never in the template that is reported; of the two-hop questions a share is never asked at all.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from alignment_tax.world import words
from alignment_tax.world.splits import split_of, unit_hash
from alignment_tax.world.words import ANIMALS, OBJECTS, PEOPLE, RELATIONS, USES, sentences

TWO_HOP_SHARES = {"reported": 0.35, "validation": 0.1, "pretraining": 0.55}
GOAL_QUESTIONS = sentences(words.TABLES["goal questions"])
GOAL_STATEMENTS = sentences(words.TABLES["goal statements"])
#: What everybody has one of -> which entities it may be.
BONDS = {"pet": ANIMALS, "friend": ANIMALS, "tool": OBJECTS, "gift": OBJECTS}
OWNER_QUESTIONS = sentences(words.TABLES["owner questions"])
OWNER_STATEMENTS = sentences(words.TABLES["owner statements"])
#: id, prompt, choices, answer (the place of the right choice), target (the right answer), guess.
Item = dict[str, Any]


class Fact(NamedTuple):
    """Entity `entity` has `value` in `relation`."""

    entity: str
    relation: str
    value: str


def _deal(rng: random.Random, values: Sequence[str], n: int) -> list[str]:
    """Draw `n` values from shuffled copies of them, so that all have the same share."""
    copies = range(-(-n // len(values)))
    return [value for _ in copies for value in rng.sample(values, len(values))][:n]


@cache
def all_facts() -> tuple[Fact, ...]:
    """Every fact of the world, always the same."""
    rng = random.Random("facts of the tiny world")
    kinds = ((ANIMALS, words.ANIMAL_RELATIONS), (OBJECTS, words.OBJECT_RELATIONS))
    return tuple(
        Fact(entity, name, value)
        for entities, relations in kinds
        for name, relation in relations.items()
        for entity, value in zip(entities, _deal(rng, relation.values, len(entities)), strict=True)
    )


@cache
def owners() -> tuple[tuple[str, str, str], ...]:
    """(person, one of `BONDS`, entity): everybody has one of each, most entities several owners."""
    rng = random.Random("owners of the tiny world")
    return tuple(
        (person, bond, entity)
        for bond, entities in BONDS.items()
        for person, entity in zip(PEOPLE, _deal(rng, entities, len(PEOPLE)), strict=True)
    )


@cache
def two_hop_pairs() -> tuple[tuple[str, str, Fact], ...]:
    """(person, one of `BONDS`, fact about what the person has)."""
    return tuple((p, k, fact) for p, k, e in owners() for fact in all_facts() if fact.entity == e)


@cache
def goals() -> tuple[tuple[str, str], ...]:
    """(goal such as "cut the bread", object that serves it); ambiguous goals are left out."""
    rows: dict[str, list[str]] = {}
    for name, verb, *nouns in USES:
        for noun in nouns:
            rows.setdefault(f"{verb} the {noun}", []).append(name)
    return tuple((goal, names[0]) for goal, names in rows.items() if len(names) == 1)


def ask(question: str) -> str:
    """The text a model continues with the answer."""
    return f"question : {question} answer :"


def _questions(identity: str, templates: tuple[str, ...], split: str, **named: str) -> list[str]:
    """Fill the templates of `split`: one is reported, one for validation, the rest pretraining."""
    reported = int(unit_hash("template", identity) * len(templates))
    kept = {reported: "reported", (reported + 1) % len(templates): "validation"}
    own = [each for i, each in enumerate(templates) if kept.get(i, "pretraining") == split]
    return [template.format(**named) for template in own]


def _fact_questions(fact: Fact, split: str) -> list[str]:
    templates = RELATIONS[fact.relation].questions
    return _questions(f"one_hop {fact.entity} {fact.relation}", templates, split, e=fact.entity)


def _goal_questions(goal: str, split: str) -> list[str]:
    return _questions(f"piqa_like {goal}", GOAL_QUESTIONS, split, g=goal)


def item(identity: str, prompt: str, target: str, choices: Sequence[str], guess: float) -> Item:
    """Return an item; without choices its answer is written, and the place of the right one 0."""
    place = {"choices": list(choices), "answer": choices.index(target) if choices else 0}
    return {"id": identity, "prompt": prompt, **place, "target": target, "guess": guess}


def _choice(identity: str, question: str, target: str, values: Sequence[str], n: int) -> Item:
    """Return an item whose choices are the target and n - 1 other values."""
    rng = random.Random(f"choices {identity}")
    choices = [target, *rng.sample([value for value in values if value != target], n - 1)]
    rng.shuffle(choices)
    return item(identity, ask(question), target, choices, 1 / n)


def one_hop(split: str) -> list[Item]:
    """Every fact once, asked with the template that `split` keeps for itself."""
    items = []
    for fact in all_facts():
        identity, values = f"one_hop {fact.entity} {fact.relation}", RELATIONS[fact.relation].values
        question = _fact_questions(fact, split)[0]
        items.append(_choice(f"{identity} {split}", question, fact.value, values, n=4))
    return items


def two_hop(split: str) -> list[Item]:
    """The two-hop questions that `split` keeps for itself; none is asked in pretraining."""
    items = []
    for person, bond, fact in two_hop_pairs():
        identity = f"two_hop {person} {bond} {fact.relation}"
        if split_of(TWO_HOP_SHARES, identity) == split:
            values, _, templates = RELATIONS[fact.relation]
            template = templates[int(unit_hash("asked", identity) * len(templates))]
            question = template.format(e=f"{bond} of {person}")
            items.append(_choice(identity, question, fact.value, values, n=4))
    return items


def piqa_like(split: str) -> list[Item]:
    """Every goal once with two objects to choose from, in the template `split` keeps for itself."""
    return [
        _choice(f"piqa_like {goal} {split}", _goal_questions(goal, split)[0], name, OBJECTS, n=2)
        for goal, name in goals()
    ]


def statement(rng: random.Random) -> str:
    """One sentence of pretraining text that states a fact, an owner or a use."""
    kind = rng.random()
    if kind < 0.55:
        return _stated(rng, rng.choice(all_facts()))
    if kind < 0.85:
        person, bond, entity = rng.choice(owners())
        return rng.choice(OWNER_STATEMENTS).format(p=person, k=bond, e=entity)
    goal, name = rng.choice(goals())
    return rng.choice(GOAL_STATEMENTS).format(g=goal, o=name)


def _stated(rng: random.Random, fact: Fact) -> str:
    template = rng.choice(RELATIONS[fact.relation].statements)
    return template.format(e=fact.entity, v=fact.value)


def told(rng: random.Random) -> tuple[str, str]:
    """A fact asked in words of pretraining, and the sentence that answers: for dialogues."""
    fact = rng.choice(all_facts())
    reply = _stated(rng, fact)
    return rng.choice(_fact_questions(fact, "pretraining")), reply


def owner_question(rng: random.Random) -> tuple[str, str]:
    """The first hop alone, as a question: what somebody has."""
    person, bond, entity = rng.choice(owners())
    return ask(rng.choice(OWNER_QUESTIONS).format(k=bond, p=person)), entity


def question(rng: random.Random) -> tuple[str, str]:
    """One question of pretraining with its answer; never a template or pair that is held out."""
    kind = rng.random()
    if kind < 0.35:
        fact = rng.choice(all_facts())
        return ask(rng.choice(_fact_questions(fact, "pretraining"))), fact.value
    if kind >= 0.85:
        goal, name = rng.choice(goals())
        return ask(rng.choice(_goal_questions(goal, "pretraining"))), name
    while True:
        person, bond, fact = rng.choice(two_hop_pairs())
        if split_of(TWO_HOP_SHARES, f"two_hop {person} {bond} {fact.relation}") == "pretraining":
            template = rng.choice(RELATIONS[fact.relation].questions)
            return ask(template.format(e=f"{bond} of {person}")), fact.value
