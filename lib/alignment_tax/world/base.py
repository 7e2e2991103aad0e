"""What a world offers to the pipeline, whether it is made up (tiny) or real (corpora)."""

from typing import Protocol, TypedDict

import numpy as np
from datasets import Dataset


class Message(TypedDict):
    """One turn of a conversation, in the form chat templates take."""

    role: str
    content: str


Prompt = list[Message]


def said(role: str, content: str) -> Prompt:
    """Return a conversation of one turn."""
    return [{"role": role, "content": content}]


class World(Protocol):
    """The data of a run. Splits never share a prompt; every draw is seeded."""

    def sft(self, n: int, seed: int) -> Dataset:
        """Return up to `n` demonstrations: columns prompt, completion (lists of messages)."""

    def preferences(self, n: int, seed: int, split: str) -> Dataset:
        """Return up to `n` pairs: prompt, chosen, rejected; split train | validation | judge."""

    def prompts(self, n: int, seed: int, split: str) -> list[Prompt]:
        """Return up to `n` different prompts of split rlhf | validation | reported."""

    def gold(self, prompts: list[Prompt], replies: list[str]) -> np.ndarray | None:
        """Return the true reward of each reply, shape (n,), or None where no truth is known."""
