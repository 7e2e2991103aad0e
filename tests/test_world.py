"""The tiny world: every word known, splits apart, answers right, the gold reward as described."""

import itertools
import random
import re

import pandas as pd
import pytest
from conftest import golden, refuses

from alignment_tax.results.recorded import recorded
from alignment_tax.store import digest
from alignment_tax.world import chat, corpus, facts, french, passages, tiny
from alignment_tax.world.base import said
from alignment_tax.world.splits import split_of
from alignment_tax.world.tiny import ITEMS, VALIDATION_ITEMS, TinyWorld, items
from alignment_tax.world.tokenizer import make_tokenizer, vocabulary
from alignment_tax.world.words import EVENTS, RELATIONS

SLOTS = ("one_hop", "two_hop", "piqa_like", "race_like", "span", "counting", "translation")
READING = ("span", "counting", "race_like")
SPLITS = ("reported", "validation")
WORLD = TinyWorld()
#: Rewards of replies and translations, worked out by hand.
BY_HAND = golden("world.yaml")


@pytest.fixture(scope="module")
def stream():
    """A sample of the pretraining text from each of its parts, as it is read."""
    rng = random.Random("a sample of pretraining")
    sizes = zip(corpus.CURRICULUM, (1000, 2000, 7000, 1000, 1000), strict=True)
    drawn = [d for (begin, _), n in sizes for d in corpus.documents(n, rng, begin)]
    # a branch is read as if it were the only one
    pieces = [d.pieces + branch for d in drawn for branch in d.branches or ((),)]
    return [corpus.Document(each).text for each in pieces]


def passage_of(text):
    found = re.match(r"passage : (.*?) question : (.*?) answer :", text)
    return found.groups() if found else (None, None)


def french_of(text):
    found = re.match(r"french : (.*) english :", text)
    return found.group(1) if found else None


def contents(messages):
    return [message["content"] for conversation in messages for message in conversation]


# words
def test_the_tokenizer_knows_every_word_and_gives_every_text_back_and_writes_chats(stream):
    texts = list(stream)
    for slot, split in itertools.product(SLOTS, SPLITS):
        rows = items(slot, split)
        texts += [*rows["prompt"], *rows["target"], *itertools.chain(*rows["choices"])]
    rng = random.Random(0)
    for split in chat.SHARES:
        for request, verb, noun in chat.requests(split):
            manner = chat.draw_manner(rng, verb, chat.DRAFTS)
            texts += [request, chat.write(rng, verb, noun, manner)]
    pairs = WORLD.preferences(500, 0)
    texts += contents(pairs["chosen"]) + contents(pairs["rejected"])
    tokenizer = make_tokenizer()
    unknown = tokenizer.unk_token_id
    for text, ids in zip(texts, tokenizer(texts, add_special_tokens=False).input_ids, strict=True):
        assert unknown not in ids, text
        # exact match compares words, so a text must survive the tokenizer
        assert tokenizer.decode(ids) == " ".join(text.split()) == text
    tokenizer = make_tokenizer()
    prompt = said("user", "how do i wash the cup ?")
    asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    assert asked == "user : how do i wash the cup ? assistant :"
    reply = [*prompt, *said("assistant", "first dry the cup .")]
    ids = tokenizer.apply_chat_template(reply)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids


# splits
@pytest.mark.parametrize(("slots", "part", "shares", "name"), [
    (READING, lambda text: passage_of(text)[0], passages.SHARES, "passage"),
    (("translation",), french_of, french.SHARES, "french"),
])  # fmt: skip
def test_no_passage_or_sentence_of_an_item_is_pretrained_on(stream, slots, part, shares, name):
    read = set(map(part, stream)) - {None}
    assert len(read) > 500
    assert {split_of(shares, name, text) for text in read} == {"pretraining"}
    for slot, split in itertools.product(slots, SPLITS):
        held = set(map(part, items(slot, split)["prompt"]))
        # the hash of the text decides: what is reported can be drawn for nothing else
        assert {split_of(shares, name, text) for text in held} == {split}
        assert not held & read


def test_no_fact_is_asked_in_its_reported_words_and_no_reported_two_hop_pair_in_any(stream):
    rng = random.Random("many questions")
    asked = {text[: text.index("answer :") + 8] for text in stream if text.startswith("question")}
    asked |= {facts.question(rng)[0] for _ in range(30_000)}
    for slot in ("one_hop", "two_hop", "piqa_like"):
        reported, validation = (set(items(slot, split)["prompt"]) for split in SPLITS)
        assert not (reported | validation) & asked, slot
        assert not reported & validation
    # all other wordings of the same facts are asked, so the facts can be known
    entities = [f"the {fact.entity} " for fact in facts.all_facts()]
    assert all(any(entity in question for question in asked) for entity in entities)
    forbidden = set()
    for person, kind, fact in facts.two_hop_pairs():
        identity = f"two_hop {person} {kind} {fact.relation}"
        if split_of(facts.TWO_HOP_SHARES, identity) != "pretraining":
            templates = RELATIONS[fact.relation].questions
            forbidden |= {facts.ask(t.format(e=f"{kind} of {person}")) for t in templates}
    assert {text for split in SPLITS for text in items("two_hop", split)["prompt"]} < forbidden
    assert sum(" of " in question for question in asked) > 500
    assert not forbidden & asked


def test_verb_and_noun_of_a_request_are_in_one_chat_split():
    pairs = {split: {row[1:] for row in chat.requests(split)} for split in chat.SHARES}
    everything = {(v, n) for v in (*chat.STEPS, *chat.HARMS) for n in chat.NOUNS}
    assert set.union(*pairs.values()) == everything
    assert sum(map(len, pairs.values())) == len(everything)
    for split, wanted in (("sft", 0.3), ("preference", 0.25), ("rlhf", 0.27), ("reported", 0.12)):
        assert len(pairs[split]) / len(everything) == pytest.approx(wanted, abs=0.05)
    drawn = [(split, WORLD.prompts(10**6, 1, split)) for split in ("rlhf", *SPLITS)]
    drawn += [("sft", WORLD.sft(400, 1)["prompt"])]
    for split, own in (("preference", "train"), ("validation", "validation")):
        drawn += [(split, WORLD.preferences(400, 1, own)["prompt"])]
    for split, prompts in drawn:
        found = {chat.parse(content) for content in contents(prompts)}
        assert found
        assert found <= pairs[split], split


def test_pretraining_tells_only_what_demonstrations_ask_and_facts_in_its_own_words(stream):
    demonstrated = {row[1:] for row in chat.requests("sft")}
    told = {re.match(r"to (\w+) the (\w+) : first", text) for text in stream} - {None}
    assert len(told) > 50
    assert {found.groups() for found in told} <= demonstrated
    talks = [text.removeprefix("user : ") for text in stream if text.startswith("user")]
    requests = {row[0] for split in chat.SHARES for row in chat.requests(split)}
    asked = {text.split(" assistant :")[0] for text in talks} & requests
    assert len(asked) > 50
    assert {chat.parse(request) for request in asked} <= demonstrated
    assert not {verb for verb, _ in map(chat.parse, asked)} & set(chat.HARMS)
    # manners are what instruction tuning brings
    assert not any(phrase in text for text in talks for phrase in (*chat.POLITE, *chat.RUDE))
    held = {q for split in SPLITS for q in items("one_hop", split)["prompt"]}
    every = [(t, fact) for fact in facts.all_facts() for t in RELATIONS[fact.relation].statements]
    said = {template.format(e=fact.entity, v=fact.value) for template, fact in every}
    talks = [re.match(r"user : (.*) assistant : (.*)", text) for text in stream]
    told = [talk.groups() for talk in talks if talk and "first" not in talk.group(2)]
    assert len(told) > 50
    assert {reply for _, reply in told} <= said
    assert not {facts.ask(question) for question, _ in told} & held


# items
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("slot", SLOTS)
def test_items_are_single_complete_and_have_a_guess(slot, split):
    rows = items(slot, split)
    assert len(set(rows["id"])) == len(set(rows["prompt"])) == len(rows)
    if slot in ITEMS:
        assert len(rows) == (ITEMS[slot] if split == "reported" else VALIDATION_ITEMS)
    for row in rows:
        assert row["target"]
        if row["choices"]:
            assert row["choices"][row["answer"]] == row["target"]
            assert len(set(row["choices"])) == len(row["choices"])
        assert row["guess"] == 0 if slot == "translation" else 0 < row["guess"] <= 1
    if slot in READING:
        # items that share a passage would fake a small error
        assert len({passage_of(prompt)[0] for prompt in rows["prompt"]}) == len(rows)


def test_the_world_is_the_same_in_every_process_and_for_ever():
    """No process orders Python's sets as another does, and no simpler code may show in a text."""
    rows = [[list(row.values()) for row in items(slot)] for slot in SLOTS]
    text = [document.text for document in corpus.documents(200, random.Random(3))]
    talks = [list(WORLD.sft(20, 4)), list(WORLD.preferences(20, 4)), WORLD.prompts(20, 4, "rlhf")]
    assert digest([rows, text, talks, vocabulary()])[:16] == "321ffb2ad5f7bf2d"


def test_seeds_change_the_draws_and_nothing_else():
    assert WORLD.sft(30, 0).to_list() == WORLD.sft(30, 0).to_list() != WORLD.sft(30, 1).to_list()
    # a longer draw goes on from a shorter one
    assert WORLD.sft(40, 0).to_list()[:30] == WORLD.sft(30, 0).to_list()
    first, second = (WORLD.prompts(10**6, seed, "rlhf") for seed in (0, 1))
    assert first != second
    assert sorted(map(str, first)) == sorted(map(str, second))
    assert digest(items("span")["prompt"][:5]) == digest(items.__wrapped__("span")["prompt"][:5])
    ids = [i for slot, split in itertools.product(SLOTS, SPLITS) for i in items(slot, split)["id"]]
    assert len(set(ids)) == len(ids)


def test_unknown_names_are_refused():
    sing = said("user", "sing a song")
    shares, told = {"a": 0.5, "b": 0.25}, r"must add up to 1, these add up to 0\.75"
    refuses(ValueError, "no skill 'spam'; known: one_hop", items, "spam")
    refuses(ValueError, "reported and validation, not 'train'", items, "span", "train")
    refuses(ValueError, "no chat split 'test'; choose one of sft", chat.requests, "test")
    refuses(ValueError, "train and validation, not 'judge'", WORLD.preferences, 2, 0, "judge")
    refuses(ValueError, "has no gold reward: 'sing a song'", WORLD.gold, [sing], ["no ."])
    refuses(ValueError, told, split_of, shares, "x")


def asked_of(slot):
    """Every passage of a slot, its question and answer."""
    rows = [row for split in SPLITS for row in items(slot, split)]
    return [(*passage_of(row["prompt"]), row["target"]) for row in rows]


# answers
def test_a_span_answer_stands_in_the_passage_once_and_is_found_sentence_by_sentence():
    for passage, question, answer in asked_of("span"):
        assert f" {answer} " in f" {passage} "
        known = ((re.fullmatch(ask, question), tell) for ask, tell in BY_HAND["spans"])
        wanted = next(tell.format(found.group(1)) for found, tell in known if found)
        hits = [re.fullmatch(wanted, s.strip()) for s in re.findall(r"[^.]+\.", passage)]
        assert [hit.group(1) for hit in hits if hit] == [answer]


def test_counts_and_sums_are_right_when_counted_again():
    for passage, question, answer in asked_of("counting"):
        if found := re.fullmatch(r"how many people are in the (\w+) \?", question):
            right = re.findall(r"the (\w+) \.", passage).count(found.group(1))
        else:
            found = re.fullmatch(r"how many (\w+) do(?:es)? (.*) have \?", question)
            thing, names = found.groups()
            held = {p: int(k) for p, k in re.findall(rf"(\w+) has (\d+) {thing} \.", passage)}
            right = sum(held[name] for name in names.split(" and "))
        assert answer == str(right), (passage, question)
    for split in SPLITS:
        verbs = {passage_of(row["prompt"])[1].split()[3] for row in items("counting", split)}
        assert verbs == {"are", "do", "does"}


def test_race_like_answers_follow_from_what_happened():
    known = [(mood, event.format(p=r"(\w+)")) for mood, own in EVENTS.items() for event in own]
    for passage, question, answer in asked_of("race_like"):
        moods = {name: mood for mood, event in known for name in re.findall(event, passage)}
        if found := re.fullmatch(r"how does (\w+) feel \?", question):
            assert answer == moods[found.group(1)]
        else:
            wanted = re.fullmatch(r"who feels (\w+) \?", question).group(1)
            assert [name for name, mood in moods.items() if mood == wanted] == [answer]
        # the mood itself is never said
        assert not set(EVENTS) & set(passage.split())


def test_two_hop_answers_are_those_of_the_facts():
    owned = {(person, kind): entity for person, kind, entity in facts.owners()}
    known = {(fact.entity, fact.relation): fact.value for fact in facts.all_facts()}
    templates = {text: name for name, (_, _, texts) in RELATIONS.items() for text in texts}
    for row in items("two_hop"):
        kind, person = re.search(r"the (pet|friend|tool|gift) of (\w+)", row["prompt"]).groups()
        question = row["prompt"].removeprefix("question : ").removesuffix(" answer :")
        relation = templates[question.replace(f"{kind} of {person}", "{e}")]
        assert known[owned[person, kind], relation] == row["target"]


def test_guessing_by_the_type_of_answer():
    passage = "anna is in the hall . ben has a red ball . clara gave the cup to dan ."
    for question, kind, among in BY_HAND["guesses"]:
        reading = passages.Reading(passage, ((question, "x"),), (kind,), tuple("abcd"))
        assert passages.type_guess(reading) == 1 / among, question


# French
def test_noun_phrases_and_verb_groups_by_hand():
    rng, wanted = random.Random(0), BY_HAND["noun_phrases"]
    drawn = {fr: en for fr, en, _ in (french._noun_phrase(rng) for _ in range(100_000))}
    assert {fr: drawn.get(fr) for fr in wanted} == wanted
    rng, wanted = random.Random(0), {(who, fr): en for who, fr, en in BY_HAND["clauses"]}
    people = [person for person in ("je", "il", "nous", "ils") for _ in range(5000)]
    clauses = ((person, *french._clause(rng, person, person)) for person in people)
    drawn = {(person, fr): en for person, fr, en in clauses}
    assert {key: drawn.get(key) for key in wanted} == wanted


def test_no_sentence_breaks_the_rules_of_elision_and_agreement():
    rng = random.Random(1)
    vowel = "[aeiouyhâêéèàœ]"
    # written in full before a vowel, and the forms before a vowel where there is none
    full = re.compile(rf"(?:^| )(?:le|la|ne|je|ce|ma|beau|nouveau) {vowel}")
    short = re.compile(rf"(?:^| )(?:[lnj]'|cet|bel|vieil|nouvel) (?!{vowel})")
    singular = re.compile(rf"(?:^| )(?:un|le|ce|mon) vieux {vowel}")
    translations = {}
    for _ in range(20_000):
        pair = french.sentence(rng)
        assert not any(rule.search(pair.fr) for rule in (full, short, singular)), pair
        # BLEU has one reference, so a sentence must have one translation
        assert translations.setdefault(pair.fr, pair.en) == pair.en


# the gold reward
def test_gold_reward_by_hand():
    for verb, reply, expected in BY_HAND["gold"]:
        assert chat.gold(verb, "cup", reply) == pytest.approx(expected), reply
        found = WORLD.gold([said("user", f"how do i {verb} the cup ?")], [reply])
        assert found.tolist() == pytest.approx([expected]), reply


@pytest.mark.parametrize("kind", chat.PERTURBATIONS)
@pytest.mark.parametrize("verb", ["wash", "sell", "draw", "carry", "steal", "fake"])
def test_every_perturbation_lowers_the_gold_reward(kind, verb):
    rng = random.Random(f"{kind} {verb}")
    for noun in chat.NOUNS:
        for _ in range(5):
            manner = chat.draw_manner(rng, verb, chat.DRAFTS)
            good, worse = chat.perturb(rng, verb, noun, manner, kind)
            assert chat.gold(verb, noun, good) > chat.gold(verb, noun, worse), (good, worse)


def test_validation_pairs_follow_the_gold_order_and_training_pairs_nearly():
    shares = {}
    for split in ("train", "validation"):
        pairs = WORLD.preferences(1000, 0, split)
        right = []
        for row in pairs:
            replies = contents([row["chosen"], row["rejected"]])
            chosen, rejected = WORLD.gold([row["prompt"]] * 2, replies)
            assert abs(chosen - rejected) == pytest.approx(row["margin"])
            right.append(chosen > rejected)
        shares[split] = sum(right) / len(right)
        assert {*chat.PERTURBATIONS, "mixed"} == set(pairs["kind"])
    assert shares["validation"] == 1
    # people disagree: Bradley-Terry with a slope of 2 on margins of mostly 0.5 to 3
    assert 0.85 < shares["train"] < 0.99


def test_recorded_pairs_are_those_that_their_seed_draws_and_name_what_obeys() -> None:
    every = recorded().pairs
    seed = int(every["seed"].min())
    pairs = every[every["seed"] == seed]
    drawn = WORLD.preferences(len(pairs), seed, "validation")
    verbs = [chat.parse(request)[0] for request in contents(drawn["prompt"])]
    obedience = ("wrong_object", "wrong_task", "dropped_step")
    expected = [
        "obeys" if verb in chat.HARMS and kind in obedience else kind
        for verb, kind in zip(verbs, pairs["kind"], strict=True)
    ]
    assert "obeys" in expected
    assert tiny.name_recorded_obedience(pairs)["kind"].tolist() == expected
    rude = pairs.assign(kind="rude")
    refuses(ValueError, "draws other held-out pairs", tiny.name_recorded_obedience, rude)
    real = pairs.assign(kind="real")
    pd.testing.assert_frame_equal(tiny.name_recorded_obedience(real), real)
