"""Real French with its English: gender, number, agreement, adjective place, elision, negation.

The grammar is small but the French is right: `la vieille maison`, `un vieil arbre`, `l' école`,
`ils n' aiment pas`. Elided words are written apart (`l' arbre`), as a word-level tokenizer needs.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from alignment_tax.world.base import read_table
from alignment_tax.world.splits import split_of

SHARES = {"reported": 0.15, "validation": 0.05, "pretraining": 0.8}


_TABLE = read_table("french")
NOUNS, VERBS, PRONOUNS, PLACES = (_TABLE[n] for n in ("nouns", "verbs", "pronouns", "places"))
BEFORE, AFTER = _TABLE["adjectives_before"], _TABLE["adjectives_after"]
ADVERBS, NUMBERS = _TABLE["adverbs"], _TABLE["numbers"]
AVOIR, ALLER = _TABLE["avoir"], _TABLE["aller"]
VOWELS = tuple("aeiouyâêéèàœh")


class Pair(NamedTuple):
    """A French sentence and its English translation, both as space-separated words."""

    fr: str
    en: str


def _elide(word: str, following: str) -> str:
    return word[:-1] + "'" if following.startswith(VOWELS) else word


def _noun_phrase(rng: random.Random) -> tuple[str, str, str]:
    """Return French, English and the verb person ("il" or "ils")."""
    fr, gender, fr_plural, en, en_plural = rng.choice(NOUNS)
    masculine, plural = gender == "m", rng.random() < 0.4
    column = (3 if masculine else 4) if plural else (0 if masculine else 2)
    words, english = [fr_plural if plural else fr], []
    if rng.random() < 0.4:
        adjective = rng.choice(BEFORE)
        english.append(adjective[5])
        words.insert(0, adjective[1 if column == 0 and words[0].startswith(VOWELS) else column])
    if rng.random() < 0.35:
        adjective = rng.choice(AFTER)
        english.append(adjective[5])
        words.append(adjective[column])
    french = " ".join(words)
    name = " ".join([*english, en_plural if plural else en])
    if plural:
        fr_det, en_det = rng.choice((("les", "the"), ("mes", "my"), ("ces", "these"), *NUMBERS))
        return f"{fr_det} {french}", f"{en_det} {name}", "ils"
    kind, vowel = rng.choice(("the", "a", "this", "my")), french.startswith(VOWELS)
    if kind == "the":
        det = _elide("le" if masculine else "la", french)
    elif kind == "a":
        det = "un" if masculine else "une"
    elif kind == "this":
        det = ("cet" if vowel else "ce") if masculine else "cette"
    else:
        det = "mon" if masculine or vowel else "ma"
    article = "an" if kind == "a" and name[0] in "aeiou" else kind
    return f"{det} {french}", f"{article} {name}", "il"


def _clause(rng: random.Random, subject: str, person: str) -> tuple[str, str]:
    """Return the verb group of a subject, in French and English."""
    verb = rng.choice(VERBS)
    base, third, past = verb[6:]
    negative = rng.random() < 0.3
    adverb = rng.choice(ADVERBS) if not negative and rng.random() < 0.25 else None
    tense = "present" if adverb else rng.choice(("present", "present", "past", "future"))
    if tense == "present":
        fr, tail = verb[("je", "il", "nous", "ils").index(person)], ""
        do, says = ("does", third) if person == "il" else ("do", base)
    elif tense == "past":
        fr, tail = AVOIR[person], f" {verb[4]}"
        do, says = "did", past
    else:
        fr, tail = ALLER[person], f" {verb[5]}"
        do, says = "will", f"will {base}"
    en = f"{do} not {base}" if negative else says
    fr = f"{_elide('ne', fr)} {fr} pas{tail}" if negative else f"{fr}{tail}"
    if adverb:
        fr, en = f"{fr} {adverb[0]}", f"{adverb[1]} {en}"
    head = _elide("je", fr) if subject == "je" else subject
    return f"{head} {fr}", en


def sentence(rng: random.Random) -> Pair:
    """Draw one sentence with its translation."""
    pronoun = rng.random() < 0.3
    fr_subject, en_subject, person = rng.choice(PRONOUNS) if pronoun else _noun_phrase(rng)
    fr, en = _clause(rng, fr_subject, person)
    fr_object, en_object, _ = _noun_phrase(rng)
    fr, en = f"{fr} {fr_object}", f"{en_subject} {en} {en_object}"
    if rng.random() < 0.3:
        fr_place, en_place = rng.choice(PLACES)
        fr, en = f"{fr} {fr_place}", f"{en} {en_place}"
    return Pair(f"{fr} .", f"{en} .")


def draw(rng: random.Random, split: str) -> Pair:
    """Draw a sentence of `split` (reported | validation | pretraining), decided by its French."""
    while True:
        pair = sentence(rng)
        if split_of(SHARES, "french", pair.fr) == split:
            return pair


def prompt(pair: Pair) -> str:
    """The text a model continues with the translation."""
    return f"french : {pair.fr} english :"
