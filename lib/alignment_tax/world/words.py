"""The word tables of the tiny world. Add a word to a table and every family uses it.

Adding or removing a word changes the vocabulary and the facts, so the shipped base model has to be
made again with `make base`; the artifacts that depend on it are then rebuilt by themselves.
"""

import re
from typing import NamedTuple


def listed(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(text.split())


def rows(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the words of each entry; entries end at commas and lines, "_" is a space in a word."""
    entries = (entry.split() for entry in re.split(r"[,\n]", text.strip()))
    return tuple(tuple(word.replace("_", " ") for word in entry) for entry in entries)


def sentences(text: str) -> tuple[str, ...]:
    """Split a text behind each . and ? that ends a sentence."""
    return tuple(re.findall(r"\S[^.?]*[.?]", text))


class Relation(NamedTuple):
    """Its values and its templates; in these {e} is an entity, {v} a value."""

    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


def _relations(table: str) -> dict[str, Relation]:
    """Read blocks of lines: a name with its values, below it statements and questions."""
    relations = {}
    for block in re.split(r"\n(?=\w)", table.strip()):
        name, values, *lines = re.split(": |\n", block)
        told = sentences(" ".join(lines))
        parts = (tuple(each for each in told if each.endswith(end)) for end in ".?")
        relations[name] = Relation(listed(values), *parts)
    return relations


PEOPLE = listed("""
anna ben clara dan emma finn gina hugo iris jack kate leo mona nick olga paul rosa sam tina uma vera
will yara zoe adam bella carl dora eric fiona greg hanna igor julia kevin lucy mark nora oscar petra
ralph sara tom ursula victor wanda xena yuri zara alan beth colin diana edgar flora gustav hilda
ivan jana
""")
ANIMALS = listed("""
fox bear owl frog wolf duck goat lion tiger rabbit horse cow pig sheep hen snake whale seal crab bee
ant spider bat deer mouse rat cat dog camel monkey parrot eagle swan turtle otter beaver squirrel
hedgehog penguin zebra gorilla giraffe hippo panda koala lizard falcon pigeon raven crane heron
salmon shark dolphin octopus lobster snail beetle moth wasp
""")
#: an object, what it is used for (a verb), and the nouns that go with it
USES = rows("""
knife cut bread cheese meat onion cake apple, saw cut wood branch plank log board trunk
spoon eat soup honey cream rice jam porridge, pot cook soup rice meat egg potato bean
kettle heat water milk tea coffee broth cider, lamp light room cellar attic hall stage desk
candle light cave tunnel altar shelf cabin barn, broom sweep floor yard porch stairs street hall
brush paint wall door fence picture sign gate, ladder reach roof branch attic window shelf loft
rope tie horse boat goat log sail tent, string tie parcel shoe bundle ribbon kite plant
basket carry bread egg apple flower laundry nut, bucket carry water sand milk coal clay gravel
cart carry stone hay wood brick barrel trunk, bottle keep water oil wine juice cider vinegar
jar keep honey jam spice salt sugar bean, box keep letter toy coin photo stamp tool
blanket warm baby guest child patient puppy bed, key open door gate safe chest cupboard shop
hammer hit nail peg post stake wedge rivet, needle sew shirt dress button sail curtain patch
pen write letter poem song book note list, mirror check face hair teeth tie makeup beard
umbrella cover head camera picnic guest statue stall, towel dry hand hair face plate cup glass
bell call servant student guard flock crowd waiter
chair seat guest patient student waiter judge king, clock time race exam match lesson egg speech
comb tidy hair beard wool mane fur wig, net catch fish butterfly crab shrimp bird ball
shovel dig hole garden trench well grave sand, spade plant tree flower potato onion bean rose
drum play march dance song rhythm parade solo, boat cross river lake bay sea canal harbour
bridge cross road stream valley gorge railway ditch
tent shelter camper soldier nomad scout stall horse, tray serve coffee tea cake juice wine cheese
scale weigh gold flour meat sugar baby parcel, soap wash hand shirt plate floor face dog
""")
OBJECTS = tuple(name for name, *_ in USES)

ANIMAL_RELATIONS = _relations("""
home: forest river desert cave farm mountain lake jungle swamp field
  the {e} lives in the {v} . you find the {e} in the {v} . the home of the {e} is the {v} .
  where does the {e} live ? what is the home of the {e} ? where do you find the {e} ?
  in which place does the {e} live ? which place is home to the {e} ?
food: fish grass seeds berries insects roots leaves honey worms nuts
  the {e} eats {v} . {v} is the food of the {e} . the {e} likes to eat {v} .
  what does the {e} eat ? what is the food of the {e} ? what does the {e} like to eat ?
  which food does the {e} like ? on what does the {e} live ?
colour: red blue green black white yellow brown grey
  the {e} is {v} . the colour of the {e} is {v} . the {e} has a {v} colour .
  what colour is the {e} ? what is the colour of the {e} ? which colour does the {e} have ?
  how is the {e} coloured ? in what colour do you see the {e} ?
sound: growl whistle hum bark squeak roar chirp hiss
  the {e} makes a {v} . you hear the {v} of the {e} . the {v} comes from the {e} .
  what sound does the {e} make ? what do you hear from the {e} ? which sound comes from the {e} ?
  how does the {e} sound ? what is the sound of the {e} ?
season: spring summer autumn winter
  the {e} is born in {v} . in {v} the {e} is born . {v} is the season of the {e} .
  when is the {e} born ? in which season is the {e} born ? what is the season of the {e} ?
  which season brings the {e} ? when does the {e} come ?
fear: thunder fire wind snow noise darkness smoke rain
  the {e} is afraid of {v} . {v} scares the {e} . the fear of the {e} is {v} .
  what is the {e} afraid of ? what scares the {e} ? what is the fear of the {e} ?
  from what does the {e} run ? which thing does the {e} fear ?
""")
OBJECT_RELATIONS = _relations("""
material: wood iron glass clay silver cotton leather bronze
  the {e} is made of {v} . they make the {e} of {v} . {v} is the material of the {e} .
  what is the {e} made of ? what is the material of the {e} ? of what do they make the {e} ?
  which material is in the {e} ? from what is the {e} made ?
place: kitchen garden cellar attic garage hall office barn porch library
  the {e} is kept in the {v} . people keep the {e} in the {v} . the place of the {e} is the {v} .
  where is the {e} kept ? where do people keep the {e} ? what is the place of the {e} ?
  in which room is the {e} ? which room has the {e} ?
tint: pink orange purple golden beige cream scarlet turquoise
  the {e} is {v} . the tint of the {e} is {v} . the {e} has a {v} tint .
  what tint is the {e} ? what is the tint of the {e} ? which tint does the {e} have ?
  how is the {e} tinted ? in what tint do you buy the {e} ?
shape: round square long flat thin curved wide narrow
  the {e} is {v} . the shape of the {e} is {v} . the {e} has a {v} shape .
  what shape is the {e} ? what is the shape of the {e} ? which shape does the {e} have ?
  how is the {e} shaped ? in what shape do you buy the {e} ?
maker: smith potter tailor carpenter weaver mason printer baker
  the {v} makes the {e} . the {e} comes from the {v} . the maker of the {e} is the {v} .
  who makes the {e} ? who is the maker of the {e} ? from whom does the {e} come ?
  which maker makes the {e} ? whose work is the {e} ?
town: paris london rome berlin madrid vienna prague oslo
  the {e} is sold in {v} . they sell the {e} in {v} . the market of the {e} is {v} .
  where is the {e} sold ? where do they sell the {e} ? what is the market of the {e} ?
  in which town is the {e} sold ? which town sells the {e} ?
""")
#: Of both kinds; no name is used twice.
RELATIONS = ANIMAL_RELATIONS | OBJECT_RELATIONS
ROOMS = OBJECT_RELATIONS["place"].values
COLOURS = listed("red blue green black white yellow brown grey pink orange")
THINGS = listed(
    "ball hat cup book coin ring scarf apple flower map pen key box lamp bag shoe cake letter"
)
PLURALS = listed("apples coins books cups pens keys balls hats rings cakes letters shoes")
#: what happens to somebody -> how they feel; the passage never says the mood itself.
EVENTS: dict[str, tuple[str, ...]] = {
    "happy": ("{p} won a prize .", "{p} got a present .", "{p} passed the exam ."),
    "sad": ("{p} lost a friend .", "{p} broke a toy .", "{p} missed the party ."),
    "angry": ("a thief robbed {p} .", "a boy hit {p} .", "a neighbour cheated {p} ."),
    "tired": ("{p} worked all night .", "{p} ran a long race .", "{p} carried stones all day ."),
}
