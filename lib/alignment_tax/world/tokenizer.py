"""The tiny world's tokenizer: one token a word, in the standard transformers format."""

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignment_tax.world import chat, facts, french, words

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' : ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + eos_token }}{% endif %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


def _words(table: Any) -> set[str]:
    """Return all words of a text, or of a table of texts; places to be filled in are none."""
    if isinstance(table, str):
        return {word for word in table.split() if "{" not in word}
    parts = [*table, *table.values()] if isinstance(table, dict) else table
    return set().union(*map(_words, parts))


def vocabulary() -> list[str]:
    """Special tokens, then every word of the world in alphabetical order."""
    tables: list[Any] = [words.PEOPLE, words.ANIMALS, words.USES, words.RELATIONS]
    tables += [facts.GOAL_QUESTIONS, facts.GOAL_STATEMENTS, facts.OWNER_QUESTIONS]
    tables += [facts.OWNER_STATEMENTS, list(facts.BONDS), "question : answer"]
    tables += [words.COLOURS, words.THINGS, words.PLURALS, words.EVENTS, map(str, range(13))]
    tables += ["passage who gave give got an how many people are and feel feels"]
    tables += [french.BEFORE, french.AFTER, french.VERBS, french.PRONOUNS, french.PLACES]
    tables += [[(fr, *rest) for fr, _, *rest in french.NOUNS], french.ADVERBS, french.NUMBERS]
    tables += [french.AVOIR.values(), french.ALLER.values(), "does did not will french english"]
    tables += ["le la l' les un une ce cet cette mon ma mes ces ne n' pas je j' my these this"]
    tables += [chat.REQUESTS, chat.POLITE, chat.RUDE, chat.CLOSINGS, chat.RUDE_CLOSINGS]
    tables += [chat.REFUSALS, chat.HEADS, chat.STEPS, chat.HARMS, "user assistant system"]
    return ["<pad>", "<eos>", "<unk>", *sorted(_words(tables))]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer, with its chat template; padding on the left."""
    index = {word: i for i, word in enumerate(vocabulary())}
    backend = Tokenizer(models.WordLevel(index, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        padding_side="left", clean_up_tokenization_spaces=False, model_max_length=160,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
