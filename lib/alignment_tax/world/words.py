"""The word tables of the tiny world, from words.txt, which says how they are written."""

import re
from pathlib import Path
from typing import NamedTuple

_TEXT = re.sub(r"(?m)^#.*\n", "", Path(__file__).with_name("words.txt").read_text(encoding="utf-8"))
#: The text of each table, by its name.
TABLES = dict(re.findall(r"\[(.+)\]\n((?:.+\n)+)", _TEXT))


def listed(table: str) -> tuple[str, ...]:
    """Return the words of a table."""
    return tuple(TABLES[table].split())


def lines(table: str) -> tuple[str, ...]:
    """Return the lines of a table."""
    return tuple(TABLES[table].splitlines())


def rows(table: str) -> tuple[tuple[str, ...], ...]:
    """Return the words of each entry; entries end at commas and lines, "_" is a space in a word."""
    entries = (entry.split() for entry in re.split(r"[,\n]", TABLES[table].strip()))
    return tuple(tuple(word.replace("_", " ") for word in entry) for entry in entries)


def sentences(text: str) -> tuple[str, ...]:
    """Split a text behind each . and ? that ends a sentence."""
    return tuple(re.findall(r"\S[^.?]*[.?]", text))


def by_name(table: str) -> dict[str, tuple[str, ...]]:
    """Return the sentences of each line, by the name before its colon."""
    named = (line.split(": ") for line in lines(table))
    return {name: sentences(text) for name, text in named}


class Relation(NamedTuple):
    """Its values and its templates; in these {e} is an entity, {v} a value."""

    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


def _relations(table: str) -> dict[str, Relation]:
    relations = {}
    for block in re.split(r"\n(?=\w)", TABLES[table].strip()):
        name, values, text = re.split(": |\n", block, maxsplit=2)
        told = sentences(text)
        parts = (tuple(each for each in told if each.endswith(end)) for end in ".?")
        relations[name] = Relation(tuple(values.split()), *parts)
    return relations


PEOPLE, ANIMALS, COLOURS = listed("people"), listed("animals"), listed("colours")
THINGS, PLURALS = listed("things"), listed("plurals")
USES, EVENTS = rows("uses"), by_name("events")
OBJECTS = tuple(name for name, *_ in USES)
ANIMAL_RELATIONS, OBJECT_RELATIONS = _relations("animal relations"), _relations("object relations")
#: Of both kinds; no name is used twice.
RELATIONS = ANIMAL_RELATIONS | OBJECT_RELATIONS
ROOMS = OBJECT_RELATIONS["place"].values
