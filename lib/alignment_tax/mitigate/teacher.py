"""theta_0 as a frozen teacher: its next-token log-probabilities, computed once per example."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignment_tax.train.loop import IGNORED, Batch

ROOM = 2**30  # bytes of remembered log-probabilities: a tiny pool fits, that of a large model not


class Teacher:
    """A frozen policy that remembers what it said to every example of a pool, up to `room` bytes.

    Strengths and epochs share one forward pass per example; further ones are computed anew. The
    model is put in eval mode and float32, and never trained.
    """

    def __init__(self, model: PreTrainedModel, room: int = ROOM) -> None:
        self.model = model.float().eval()
        self.room = room
        self.known: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def log_probs(self, batch: Batch) -> Tensor:
        """Return log-probabilities (reply tokens of the batch, vocabulary), row after row."""
        keys = _keys(batch)
        rows = [self.known[key] for key in keys if key in self.known]
        if len(rows) < len(keys):
            logits = self.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
            labels = batch["labels"]
            rows = [reply_log_probs(logits[[i]], labels[[i]]) for i in range(len(keys))]
            for key, row in zip(keys, rows, strict=True):
                if key not in self.known and row.nbytes <= self.room:
                    self.known[key] = row
                    self.room -= row.nbytes
        return torch.cat(rows)


def reply_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Return float32 log-probabilities (reply tokens, vocabulary) where a reply token is predicted.

    `logits` (batch, length, vocabulary) at place t predict `labels` (batch, length) at t + 1.
    """
    return torch.log_softmax(logits[:, :-1][labels[:, 1:] != IGNORED].float(), dim=-1)


def _keys(batch: Batch) -> list[tuple[int, ...]]:
    """Return what each row is known by: how many tokens are the prompt, and all without padding."""
    columns = (batch[name].tolist() for name in ("input_ids", "labels", "attention_mask"))
    return [
        (labels[: sum(mask)].count(IGNORED), *ids[: sum(mask)])
        for ids, labels, mask in zip(*columns, strict=True)
    ]
