"""theta_0 as a frozen teacher: its next-token log-probabilities, computed once per example."""

import torch
from torch import Tensor

from alignment_tax.models import Model
from alignment_tax.train.loop import IGNORED, Batch

ROOM = 2**30  # bytes of remembered log-probabilities: a tiny pool fits, that of a large model not


class Teacher:
    """A frozen policy that remembers what it said to every example of a pool, up to `room` bytes.

    Strengths and epochs share one forward pass per example; further ones are computed anew. The
    model is put in eval mode and float32, and never trained.
    """

    def __init__(self, model: Model, room: int = ROOM) -> None:
        self.model = model.float().eval()
        self.room = room
        self.known: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def log_probs(self, batch: Batch) -> Tensor:
        """Return log-probabilities (reply tokens of the batch, vocabulary), row after row."""
        # what each row is known by: how many tokens are the prompt, and all without padding
        labels, real = batch["labels"], batch["attention_mask"].bool()
        keys = [
            (labels[i, real[i]].tolist().count(IGNORED), *batch["input_ids"][i, real[i]].tolist())
            for i in range(len(labels))
        ]
        if set(keys) <= self.known.keys():
            return torch.cat([self.known[key] for key in keys])
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = self.model(**given).logits
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
