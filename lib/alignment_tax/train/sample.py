"""Sample replies, faster for a small model than `model.generate` does: see `skills.decode`."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.models import AnyReply, Reply, autocast, length_sorted, pad_batch, prompt_ids
from alignment_tax.presets import DpoConfig, PpoConfig, RsfConfig
from alignment_tax.skills.decode import continued
from alignment_tax.train.rounds import sub_seed
from alignment_tax.world.base import Prompt


def sample_replies(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], n: int,
    temperature: float, max_new_tokens: int, batch_size: int, seed: int,
) -> list[list[Reply]]:  # fmt: skip
    """Sample `n` replies to every prompt: a list of `n` each, in the order of the prompts.

    Logits are divided by `temperature`; 0 means greedy. A reply without an end token after
    `max_new_tokens` is cut off, and not `finished`. At most `batch_size` replies are generated side
    by side (at least the `n` of one prompt). Same seed, machine and number of threads: same
    replies. The policy is put in eval mode.
    """
    if not prompts or n < 1 or max_new_tokens < 1 or temperature < 0:
        told = f"{len(prompts)} prompts, {n=}, {max_new_tokens=}, {temperature=}: sampling needs at"
        raise ValueError(f"{told} least one prompt, n and max_new_tokens, and temperature >= 0.")
    policy.eval()
    generator = torch.Generator(policy.device).manual_seed(sub_seed(seed))
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    replies: list[list[Reply]] = [[] for _ in prompts]
    end = tokenizer.eos_token_id

    def pick(logits: torch.Tensor) -> torch.Tensor:
        if temperature == 0:
            return logits.argmax(dim=-1)
        probabilities = torch.softmax(logits / temperature, dim=-1)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)

    def ended(unfinished: list[list[int]]) -> list[bool]:
        over = [tokens[-1] == end for tokens in unfinished]
        bar.update(sum(over))
        return over

    with tqdm(total=len(prompts) * n, desc="sampling replies", unit="reply", leave=False) as bar:
        for batch in length_sorted(map(len, ids), max(1, batch_size // n)):
            rows = [ids[i] for i in batch]
            padded = pad_batch(rows, tokenizer.pad_token_id, policy.device, side="left")
            with autocast(policy.device):
                tokens = continued(policy, *padded, n, max_new_tokens, pick, ended)
            for row, generated in enumerate(tokens):
                finished = generated[-1] == end
                drawn = generated[:-1] if finished else generated
                text = str(tokenizer.decode(drawn, skip_special_tokens=True))
                replies[batch[row // n]].append(Reply(text, drawn, finished))
                bar.update(not finished)
    return replies


def sampling(config: RsfConfig | DpoConfig | PpoConfig) -> dict[str, Any]:
    """Return the numbers of sampling in a configuration, as `sample_replies` takes them."""
    numbers = {"temperature": config.temperature, "max_new_tokens": config.max_new_tokens}
    return numbers | {"batch_size": config.sampling_batch}


def reply_columns(replies: Sequence[Reply]) -> dict[str, list[Any]]:
    """Return the columns in which a table keeps replies: reply (the text), ids, finished."""
    names = {"reply": "text", "ids": "token_ids", "finished": "finished"}
    return {name: [getattr(reply, own) for reply in replies] for name, own in names.items()}


def kept_replies(table: pd.DataFrame) -> Sequence[AnyReply]:
    """Return the replies of a table of `reply_columns` (texts, if it is from before the ids)."""
    if "ids" not in table.columns:
        return list(table["reply"])
    rows = zip(table["reply"], table["ids"], table["finished"], strict=True)
    return [Reply(text, [int(i) for i in ids], bool(finished)) for text, ids, finished in rows]
