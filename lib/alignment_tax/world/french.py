"""Real French with its English: gender, number, agreement, adjective place, elision, negation.

The grammar is small but the French is right: `la vieille maison`, `un vieil arbre`, `l' école`,
`ils n' aiment pas`. Elided words are written apart (`l' arbre`), as a word-level tokenizer needs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from alignment_tax.world.splits import split_of

SHARES = {"reported": 0.15, "validation": 0.05, "pretraining": 0.8}


@dataclass(frozen=True)
class Noun:
    """A French noun with its gender (m | f), plural and English words."""

    fr: str
    gender: str
    plural: str
    en: str
    en_plural: str


def _nouns(table: str) -> tuple[Noun, ...]:
    return tuple(Noun(*line.split()) for line in table.strip().splitlines())


NOUNS = _nouns("""
chien m chiens dog dogs
chat m chats cat cats
oiseau m oiseaux bird birds
cheval m chevaux horse horses
mouton m moutons sheep sheep
vache f vaches cow cows
poule f poules hen hens
souris f souris mouse mice
ours m ours bear bears
âne m ânes donkey donkeys
homme m hommes man men
femme f femmes woman women
garçon m garçons boy boys
fille f filles girl girls
enfant m enfants child children
ami m amis friend friends
voisin m voisins neighbour neighbours
reine f reines queen queens
roi m rois king kings
médecin m médecins doctor doctors
livre m livres book books
lettre f lettres letter letters
table f tables table tables
chaise f chaises chair chairs
maison f maisons house houses
arbre m arbres tree trees
fleur f fleurs flower flowers
pomme f pommes apple apples
orange f oranges orange oranges
œuf m œufs egg eggs
gâteau m gâteaux cake cakes
voiture f voitures car cars
bateau m bateaux boat boats
clé f clés key keys
lampe f lampes lamp lamps
chapeau m chapeaux hat hats
robe f robes dress dresses
bague f bagues ring rings
échelle f échelles ladder ladders
panier m paniers basket baskets
""")

#: masculine, masculine before a vowel, feminine, masculine plural, feminine plural, English
BEFORE = tuple(
    tuple(line.split())
    for line in """
petit petit petite petits petites small
grand grand grande grands grandes big
vieux vieil vieille vieux vieilles old
beau bel belle beaux belles beautiful
nouveau nouvel nouvelle nouveaux nouvelles new
mauvais mauvais mauvaise mauvais mauvaises bad
joli joli jolie jolis jolies pretty
""".strip().splitlines()
)
AFTER = tuple(
    tuple(line.split())
    for line in """
rouge rouge rouge rouges rouges red
bleu bleu bleue bleus bleues blue
vert vert verte verts vertes green
noir noir noire noirs noires black
blanc blanc blanche blancs blanches white
triste triste triste tristes tristes sad
heureux heureux heureuse heureux heureuses happy
étrange étrange étrange étranges étranges strange
propre propre propre propres propres clean
lourd lourd lourde lourds lourdes heavy
""".strip().splitlines()
)

#: je, il, nous, ils, participle, infinitive, English base, third person, past ("_" is a space)
VERBS = tuple(
    tuple(word.replace("_", " ") for word in line.split())
    for line in """
mange mange mangeons mangent mangé manger eat eats ate
vois voit voyons voient vu voir see sees saw
aime aime aimons aiment aimé aimer love loves loved
cherche cherche cherchons cherchent cherché chercher look_for looks_for looked_for
prends prend prenons prennent pris prendre take takes took
porte porte portons portent porté porter carry carries carried
trouve trouve trouvons trouvent trouvé trouver find finds found
garde garde gardons gardent gardé garder keep keeps kept
lave lave lavons lavent lavé laver wash washes washed
achète achète achetons achètent acheté acheter buy buys bought
vends vend vendons vendent vendu vendre sell sells sold
dessine dessine dessinons dessinent dessiné dessiner draw draws drew
suis suit suivons suivent suivi suivre follow follows followed
attends attend attendons attendent attendu attendre wait_for waits_for waited_for
écoute écoute écoutons écoutent écouté écouter listen_to listens_to listened_to
oublie oublie oublions oublient oublié oublier forget forgets forgot
""".strip().splitlines()
)
AVOIR = {"je": "ai", "il": "a", "nous": "avons", "ils": "ont"}
ALLER = {"je": "vais", "il": "va", "nous": "allons", "ils": "vont"}
PRONOUNS: tuple[tuple[str, str, str], ...] = (
    ("je", "i", "je"),
    ("il", "he", "il"),
    ("elle", "she", "il"),
    ("nous", "we", "nous"),
    ("ils", "they", "ils"),
    ("elles", "they", "ils"),
)
PLACES = tuple(
    tuple(line.split(" = "))
    for line in """
dans le jardin = in the garden
dans la rue = in the street
dans la cuisine = in the kitchen
dans la forêt = in the forest
à l' école = at the school
au marché = at the market
près de la rivière = near the river
devant l' église = in front of the church
derrière le mur = behind the wall
""".strip().splitlines()
)
ADVERBS = (("souvent", "often"), ("toujours", "always"), ("parfois", "sometimes"))
NUMBERS = (("deux", "two"), ("trois", "three"), ("quatre", "four"), ("cinq", "five"))
VOWELS = tuple("aeiouyâêéèàœh")


@dataclass(frozen=True)
class Pair:
    """A French sentence and its English translation, both as space-separated words."""

    fr: str
    en: str


def _elide(word: str, following: str) -> str:
    return word[:-1] + "'" if following.startswith(VOWELS) else word


def _noun_phrase(rng: random.Random) -> tuple[str, str, str]:
    """Return French, English and the verb person ("il" or "ils")."""
    noun = rng.choice(NOUNS)
    plural = rng.random() < 0.4
    column = (3 if noun.gender == "m" else 4) if plural else (0 if noun.gender == "m" else 2)
    head = noun.plural if plural else noun.fr
    before, after, english = [], [], []
    if rng.random() < 0.4:
        adjective = rng.choice(BEFORE)
        vowel = column == 0 and head.startswith(VOWELS)
        before.append(adjective[1 if vowel else column])
        english.append(adjective[5])
    if rng.random() < 0.35:
        adjective = rng.choice(AFTER)
        after.append(adjective[column])
        english.append(adjective[5])
    words = [*before, head, *after]
    name = " ".join([*english, noun.en_plural if plural else noun.en])
    if plural:
        fr_det, en_det = rng.choice((("les", "the"), ("mes", "my"), ("ces", "these"), *NUMBERS))
        return f"{fr_det} {' '.join(words)}", f"{en_det} {name}", "ils"
    masculine = noun.gender == "m"
    kind = rng.choice(("the", "a", "this", "my"))
    vowel = words[0].startswith(VOWELS)
    if kind == "the":
        det = _elide("le" if masculine else "la", words[0])
    elif kind == "a":
        det = "un" if masculine else "une"
    elif kind == "this":
        det = ("cet" if vowel else "ce") if masculine else "cette"
    else:
        det = "mon" if masculine or vowel else "ma"
    article = "an" if kind == "a" and name[0] in "aeiou" else kind
    return f"{det} {' '.join(words)}", f"{article} {name}", "il"


def _clause(rng: random.Random, subject: str, person: str, en_person: str) -> tuple[str, str]:
    """Return the verb group of a subject, in French and English."""
    verb = rng.choice(VERBS)
    column = {"je": 0, "il": 1, "nous": 2, "ils": 3}[person]
    third = en_person == "il"
    negative = rng.random() < 0.3
    adverb = rng.choice(ADVERBS) if not negative and rng.random() < 0.25 else None
    tense = "present" if adverb else rng.choice(("present", "present", "past", "future"))
    if tense == "present":
        fr = verb[column]
        tail = ""
        do = "does" if third else "do"
        en = f"{do} not {verb[6]}" if negative else (verb[7] if third else verb[6])
    elif tense == "past":
        fr, tail = AVOIR[person], " " + verb[4]
        en = f"did not {verb[6]}" if negative else verb[8]
    else:
        fr, tail = ALLER[person], " " + verb[5]
        en = f"will not {verb[6]}" if negative else f"will {verb[6]}"
    fr = f"{_elide('ne', fr)} {fr} pas{tail}" if negative else f"{fr}{tail}"
    if adverb:
        fr, en = f"{fr} {adverb[0]}", f"{adverb[1]} {en}"
    head = _elide("je", fr) if subject == "je" else subject
    return f"{head} {fr}", en


def sentence(rng: random.Random) -> Pair:
    """Draw one sentence with its translation."""
    if rng.random() < 0.3:
        fr_subject, en_subject, person = rng.choice(PRONOUNS)
    else:
        fr_subject, en_subject, person = _noun_phrase(rng)
    fr, en = _clause(rng, fr_subject, person, person)
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


def vocabulary() -> set[str]:
    """Every word the grammar can produce."""
    words = set("le la l' les un une ce cet cette mon ma mes ces the a an this my these".split())
    words |= set("ne n' pas je j' do does did not will french : english .".split())
    for noun in NOUNS:
        words |= {noun.fr, noun.plural, noun.en, noun.en_plural}
    for table in (BEFORE, AFTER, VERBS, PLACES, ADVERBS, NUMBERS, PRONOUNS):
        words |= {word for row in table for cell in row for word in cell.split()}
    return words | set(AVOIR.values()) | set(ALLER.values())
