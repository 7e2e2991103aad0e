"""How far a policy moved: log-probabilities of replies and the KL divergence they estimate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.models import (
    AnyReply,
    as_reply,
    autocast,
    length_sorted,
    pad_batch,
    prompt_ids,
)
from alignment_tax.world.base import Prompt


@torch.inference_mode()
def reply_log_probs(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    replies: Sequence[AnyReply],
    batch_size: int,
) -> np.ndarray:
    """Return log pi(reply | prompt) in nats of each reply, float64 (n,).

    The sum is over the tokens that were drawn: with the end token in a finished reply (a written
    text counts as one), without it where the reply was cut off before.
    """
    heads = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    tails = [as_reply(tokenizer, reply).drawn(tokenizer.eos_token_id) for reply in replies]
    sequences = [head + tail for head, tail in zip(heads, tails, strict=True)]
    totals = np.zeros(len(sequences))
    with tqdm(total=len(sequences), desc="log-probabilities", unit="reply", leave=False) as bar:
        for batch in length_sorted((len(s) for s in sequences), batch_size):
            ids, mask = pad_batch(
                [sequences[i] for i in batch], tokenizer.pad_token_id, policy.device
            )
            with autocast(policy.device):
                logits = policy(input_ids=ids, attention_mask=mask, use_cache=False).logits
            # row by row: a large vocabulary in float32 for all rows at once fills a GPU
            rows = zip(logits, ids, strict=True)
            taken = torch.stack([next_log_probs(*row)[0] for row in rows])
            place = torch.arange(1, ids.shape[1], device=ids.device)
            starts = torch.tensor([len(heads[i]) for i in batch], device=ids.device).unsqueeze(1)
            counted = (place >= starts) & mask[:, 1:].bool()
            totals[batch] = (taken * counted).sum(dim=1).double().cpu().numpy()
            bar.update(len(batch))
    return totals


def next_log_probs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return log pi of each token after the first, and of all that could have stood there.

    `logits` are (..., length, vocabulary); those at a token predict the next of `ids`
    (..., length). Shapes of what is returned: (..., length - 1) and (..., length - 1, vocabulary).
    """
    every = torch.log_softmax(logits[..., :-1, :].float() / temperature, dim=-1)
    return every.gather(-1, ids[..., 1:].unsqueeze(-1)).squeeze(-1), every


def kl_estimate(policy_log_probs: np.ndarray, reference_log_probs: np.ndarray) -> float:
    """Estimate KL(policy || reference) in nats a reply, from replies sampled from the policy.

    The mean of log pi - log pi_0 over samples of pi (Schulman's k1: unbiased, may be negative).
    """
    return float(np.mean(policy_log_probs - reference_log_probs))


def kl_estimators(log_probs: Tensor, other_log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three estimates of KL(policy || other) per token, from tokens that the policy drew.

    With d = log pi - log other (Schulman 2020): k1 = d, unbiased, may be negative; k2 = d^2 / 2,
    biased; k3 = exp(-d) - 1 + d, unbiased and never negative. In float64, since in k3 nearly equal
    numbers cancel when the policies are close.
    """
    d = log_probs.double() - other_log_probs.double()
    return d, d**2 / 2, torch.expm1(-d) + d


@dataclass(frozen=True)
class AdaptiveKl:
    """The weight of the KL penalty: fixed without a target, else steered towards it.

    Ziegler et al. 2019, section 2.2: the weight grows while the KL (nats a reply) is above the
    target, and shrinks while it is below; an error counts as 20 % at most.
    """

    coef: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, replies: int) -> AdaptiveKl:
        """Return the controller after `replies` replies whose mean KL was `kl`."""
        if self.target is None:
            return self
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return dataclasses.replace(self, coef=self.coef * (1 + error * replies / self.horizon))
