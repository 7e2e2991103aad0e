"""The tiny world's tokenizer: one token a word, in the standard transformers format."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignment_tax.world import chat, facts, french, passages

SPECIAL = ("<pad>", "<eos>", "<unk>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] + ' : ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + eos_token }}{% endif %}{{ ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """Special tokens, then every word of the world in alphabetical order."""
    words = set().union(*(m.vocabulary() for m in (facts, passages, french, chat)))
    return [*SPECIAL, *sorted(words)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer, with its chat template; padding on the left."""
    index = {word: i for i, word in enumerate(vocabulary())}
    backend = Tokenizer(models.WordLevel(index, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=160,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
