"""How far a policy moved: log-probabilities of replies and the KL divergence they estimate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment_tax.models import autocast, conversation_ids, length_sorted, pad_batch, prompt_ids
from alignment_tax.world.base import Prompt


@torch.inference_mode()
def reply_log_probs(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    replies: Sequence[str],
    batch_size: int,
) -> np.ndarray:
    """Return log pi(reply | prompt) in nats for each reply, summed over its tokens, float64 (n,).

    What the chat template puts after the reply (the end of sequence) counts as part of it.
    """
    heads = [len(prompt_ids(tokenizer, prompt)) for prompt in prompts]
    sequences = [
        conversation_ids(tokenizer, prompt, [{"role": "assistant", "content": reply}])
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    totals = np.zeros(len(sequences))
    with tqdm(total=len(sequences), desc="log-probabilities", unit="reply", leave=False) as bar:
        for batch in length_sorted((len(s) for s in sequences), batch_size):
            ids, mask = pad_batch(
                [sequences[i] for i in batch], tokenizer.pad_token_id, policy.device
            )
            with autocast(policy.device):
                logits = policy(input_ids=ids, attention_mask=mask, use_cache=False).logits
            # row by row: a large vocabulary in float32 for all rows at once fills a GPU
            taken = torch.stack([_taken(*row) for row in zip(logits, ids, strict=True)])
            place = torch.arange(1, ids.shape[1], device=ids.device)
            starts = torch.tensor([heads[i] for i in batch], device=ids.device).unsqueeze(1)
            counted = (place >= starts) & mask[:, 1:].bool()
            totals[batch] = (taken * counted).sum(dim=1).double().cpu().numpy()
            bar.update(len(batch))
    return totals


def _taken(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return log pi of each token of one row after its first, (length - 1,)."""
    log_probs = torch.log_softmax(logits[:-1].float(), dim=-1)
    return log_probs.gather(-1, ids[1:].unsqueeze(-1)).squeeze(-1)


def kl_estimate(policy_log_probs: np.ndarray, reference_log_probs: np.ndarray) -> float:
    """Estimate KL(policy || reference) in nats a reply, from replies sampled from the policy.

    The mean of log pi - log pi_0 over samples of pi (Schulman's k1: unbiased, may be negative).
    """
    return float(np.mean(policy_log_probs - reference_log_probs))
