"""The words of the tiny world, read from `tables/words.toml`: add a word there."""

from __future__ import annotations

from typing import Any, NamedTuple

from alignment_tax.world.base import read_table


class Relation(NamedTuple):
    """Its values and its templates; in these {e} is an entity, {v} a value."""

    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


def _relations(table: dict[str, Any]) -> dict[str, Relation]:
    return {name: Relation(tuple(own.pop("values").split()), **own) for name, own in table.items()}


_TABLE = read_table("words")
PEOPLE, ANIMALS, COLOURS, THINGS, PLURALS = (
    tuple(_TABLE[name].split()) for name in ("people", "animals", "colours", "things", "plurals")
)
#: object -> what it is used for: one verb and the nouns that go with it.
USES: dict[str, str] = _TABLE["uses"]
OBJECTS = tuple(USES)
OWNER_STATEMENTS, OWNER_QUESTIONS = _TABLE["owner_statements"], _TABLE["owner_questions"]
GOAL_STATEMENTS, GOAL_QUESTIONS = _TABLE["goal_statements"], _TABLE["goal_questions"]
ANIMAL_RELATIONS = _relations(_TABLE["animal_relations"])
OBJECT_RELATIONS = _relations(_TABLE["object_relations"])
#: Of both kinds; no name is used twice.
RELATIONS = ANIMAL_RELATIONS | OBJECT_RELATIONS
ROOMS = OBJECT_RELATIONS["place"].values
#: what happens to somebody -> how they feel; the passage never says the mood itself.
EVENTS: dict[str, tuple[str, ...]] = _TABLE["events"]
