"""Real French with its English: gender, number, agreement, adjective place, elision, negation.

The grammar is small but the French is right: `la vieille maison`, `un vieil arbre`, `l' école`,
`ils n' aiment pas`. Elided words are written apart (`l' arbre`), as a word-level tokenizer needs.
"""

import random
from typing import NamedTuple

from alignment_tax.world.splits import SHARES, split_of
from alignment_tax.world.words import rows


def _noun(fr: str, gender: str, *rest: str) -> tuple[str, ...]:
    """Read all words of a noun, or of a regular one (plurals in s) the singular ones."""
    return fr, gender, *(rest if len(rest) > 1 else (f"{fr}s", rest[0], f"{rest[0]}s"))


def _adjective(masculine: str, *rest: str) -> tuple[str, ...]:
    """Read all forms of an adjective, or of a regular one the first; the English word is last."""
    if len(rest) > 1:
        return masculine, *rest
    feminine = masculine if masculine.endswith("e") else f"{masculine}e"
    return masculine, masculine, feminine, f"{masculine}s", f"{feminine}s", *rest


#: French, gender (m | f), plural, English, plural
NOUNS = tuple(_noun(*row) for row in rows("nouns"))
#: masculine, masculine before a vowel, feminine, masculine plural, feminine plural, English
BEFORE, AFTER = (tuple(_adjective(*row) for row in rows(each)) for each in ("before", "after"))
VERBS, PRONOUNS, PLACES = rows("verbs"), rows("pronouns"), rows("places")
ADVERBS, NUMBERS = rows("adverbs"), rows("numbers")
AVOIR = {"je": "ai", "il": "a", "nous": "avons", "ils": "ont"}
ALLER = {"je": "vais", "il": "va", "nous": "allons", "ils": "vont"}
VOWELS = tuple("aeiouyâêéèàœh")


class Pair(NamedTuple):
    """A French sentence and its English translation, both as space-separated words."""

    fr: str
    en: str

    @property
    def asked(self) -> tuple[str, str]:
        """The text a model continues with the translation, and this translation."""
        return f"french : {self.fr} english :", self.en


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
    vowel = french.startswith(VOWELS)
    determiners = {
        "the": _elide("le" if masculine else "la", french),
        "a": "un" if masculine else "une",
        "this": ("cet" if vowel else "ce") if masculine else "cette",
        "my": "mon" if masculine or vowel else "ma",
    }
    kind, det = rng.choice(list(determiners.items()))
    article = "an" if kind == "a" and name[0] in "aeiou" else kind
    return f"{det} {french}", f"{article} {name}", "il"


def _clause(rng: random.Random, subject: str, person: str) -> tuple[str, str]:
    """Return the verb group of a subject, in French and English."""
    verb = rng.choice(VERBS)
    base, third, past = verb[6:]
    negative = rng.random() < 0.3
    adverb = rng.choice(ADVERBS) if not negative and rng.random() < 0.25 else None
    tense = "present" if adverb else rng.choice(("present", "present", "past", "future"))
    now = ("does", third) if person == "il" else ("do", base)
    fr, tail, do, says = {
        "present": (verb[("je", "il", "nous", "ils").index(person)], "", *now),
        "past": (AVOIR[person], f" {verb[4]}", "did", past),
        "future": (ALLER[person], f" {verb[5]}", "will", f"will {base}"),
    }[tense]
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
