"""How far a policy moved: log-probabilities of replies and the KL divergence they estimate."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.models import AnyReply, as_reply, autocast, padded_batches, prompt_ids
from alignment_tax.world.base import Prompt


@torch.inference_mode()
def reply_log_probs(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt],
    replies: Sequence[AnyReply], batch_size: int,
) -> np.ndarray:  # fmt: skip
    """Return log pi(reply | prompt) in nats of each reply, float64 (n,).

    The sum is over the tokens that were drawn: with the end token in a finished reply (a written
    text counts as one), without it where the reply was cut off before.
    """
    heads = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    tails = [as_reply(tokenizer, reply).drawn(tokenizer.eos_token_id) for reply in replies]
    sequences = [head + tail for head, tail in zip(heads, tails, strict=True)]
    totals = np.zeros(len(sequences))
    padding = (tokenizer.pad_token_id, policy.device, "log-probabilities")
    for batch, ids, mask in padded_batches(sequences, batch_size, *padding):
        # a large vocabulary is dear: logits from the first reply on, and of a row its reply alone
        starts = [max(len(heads[i]), 1) - 1 for i in batch]
        first = min(starts)
        asked = {"use_cache": False, "logits_to_keep": ids.shape[1] - first}
        with autocast(policy.device):
            logits = policy(input_ids=ids, attention_mask=mask, **asked).logits
        for row, (i, start) in enumerate(zip(batch, starts, strict=True)):
            end = len(sequences[i])
            own = logits[row, start - first : end - first], ids[row, start:end]
            totals[i] = next_log_probs(*own)[0].double().sum().item()
    return totals


def next_log_probs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return log pi of each token after the first, and of all that could have stood there."""
    every = torch.log_softmax(logits[..., :-1, :].float() / temperature, dim=-1)
    return every.gather(-1, ids[..., 1:].unsqueeze(-1)).squeeze(-1), every


def kl_estimate(policy_log_probs: np.ndarray, reference_log_probs: np.ndarray) -> float:
    """Estimate KL(policy || reference) in nats a reply from the policy's replies: the mean k1."""
    return float(np.mean(policy_log_probs - reference_log_probs))


def kl_estimators(log_probs: Tensor, other_log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three estimates of KL(policy || other) per token, from tokens that the policy drew.

    With d = log pi - log other (Schulman 2020): k1 = d, unbiased, may be negative; k2 = d^2 / 2,
    biased; k3 = exp(-d) - 1 + d, unbiased, never negative; in float64, since in k3 numbers cancel.
    """
    d = log_probs.double() - other_log_probs.double()
    return d, d**2 / 2, torch.expm1(-d) + d


def adapted(coef: float, kl: float, replies: int, target: float | None, horizon: int) -> float:
    """Return the KL penalty's weight after so many replies of mean `kl` (Ziegler et al. 2019, 2.2).

    It is steered to the target, if there is one.
    """
    if target is None:
        return coef
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * replies / horizon)
