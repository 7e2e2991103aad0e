"""The one training function that RSF and every remedy (an `Extra`) plug into."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel as Model, PreTrainedTokenizerBase as Tokenizer
from transformers.modeling_outputs import CausalLMOutputWithPast as Outputs

from alignment_tax.models import AnyReply, as_reply, autocast, pad_batch, prompt_ids
from alignment_tax.world.base import Prompt

IGNORED = -100
MAX_GRAD_NORM = 1.0

Batch = dict[str, Tensor]
Example = tuple[list[int], list[int]]  # input ids, labels
Log = list[dict[str, float]]


class TrainingDiverged(RuntimeError):
    """Raised when a loss or gradient is no finite number; the message says where and why."""


class Extra:
    """What a remedy may do during training. Override what it needs."""

    def loss(self, model: Model, batch: Batch, outputs: Outputs) -> Tensor | None:
        """Return a scalar to add to the loss of this batch, or None; gradients are on.

        The batch has input_ids, attention_mask and labels, each (batch, length); labels are -100
        except on reply tokens. `outputs.logits[:, t]` predict `labels[:, t + 1]`.
        """
        return None

    def after_step(self, model: Model, step: int) -> None:
        """Act on the weights after optimiser step `step` (the first is 1); no gradients."""


def finetune(
    model: Model, tokenizer: Tokenizer, examples: Sequence[tuple[Prompt, AnyReply]], *,
    learning_rate: float, epochs: int, batch_size: int, seed: int, max_length: int,
    extras: Sequence[Extra] = (), describe: str = "finetuning",
) -> Log:  # fmt: skip
    """Maximise the likelihood of replies, in place: AdamW, no dropout, gradients clipped at 1.

    The loss is the mean over the reply tokens of a batch, end token included; prompts lose their
    beginning at `max_length` tokens. `model` may be a peft model around a policy. Weights become
    float32, where small updates do not vanish; forward passes may be in bfloat16 (`autocast`). The
    learning rate is constant; the seed orders the examples.

    Returns one row per step: step, loss (replies only), extra (what remedies added), grad_norm
    (before clipping). ValueError: nothing to train on, or a reply longer than max_length;
    TrainingDiverged: a loss or gradient that is no finite number.
    """
    if not examples:
        raise ValueError("There are no examples to train on.")
    model.float().eval()  # eval: dropout off, gradients on
    encoded = [encode(tokenizer, prompt, reply, max_length) for prompt, reply in examples]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
    batches = minibatches(len(encoded), batch_size, epochs, np.random.default_rng(seed))
    log: Log = []
    for step, indices in enumerate(tqdm(batches, desc=describe, unit="step", leave=False), start=1):
        batch = collate([encoded[i] for i in indices], tokenizer.pad_token_id, model.device)
        with autocast(model.device):
            outputs = model(**batch)
            terms = [extra.loss(model, batch, outputs) for extra in extras]
        added = torch.stack([outputs.loss.new_zeros(()), *[t for t in terms if t is not None]])
        loss = outputs.loss + added.sum()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        check_finite({"loss": loss.item(), "gradient norm": norm.item()}, step, learning_rate)
        optimizer.step()
        with torch.no_grad():
            for extra in extras:
                extra.after_step(model, step)
        row = {"loss": outputs.loss, "extra": added.sum(), "grad_norm": norm}
        log.append({"step": step, **{name: value.item() for name, value in row.items()}})
    return log


def minibatches(count: int, size: int, epochs: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the rows of each optimiser step: every row once an epoch, in random order."""
    orders = [rng.permutation(count) for _ in range(epochs)]
    return [order[i : i + size] for order in orders for i in range(0, count, size)]


def encode(tokenizer: Tokenizer, prompt: Prompt, reply: AnyReply, max_length: int) -> Example:
    """Return (input ids, labels) of one example: what sampling saw and drew; -100 on the prompt.

    A prompt that does not fit loses its beginning (ValueError: the reply alone does not).
    """
    answer = as_reply(tokenizer, reply).drawn(tokenizer.eos_token_id)
    room = max_length - len(answer)
    if room < 1:
        raise ValueError(f"A reply has {len(answer)} tokens: raise max_length ({max_length}).")
    context = prompt_ids(tokenizer, prompt)[-room:]
    return context + answer, [IGNORED] * len(context) + answer


def encode_text(tokenizer: Tokenizer, context: str, answer: str) -> Example:
    """Return (input ids, labels) of plain text with an answer; labels are -100 on the context."""
    before = tokenizer(context, add_special_tokens=False)["input_ids"]
    after = as_reply(tokenizer, answer).drawn(tokenizer.eos_token_id)
    return before + after, [IGNORED] * len(before) + after


def collate(examples: Sequence[Example], pad_id: int, where: torch.device) -> Batch:
    """Return a right-padded batch of input_ids, attention_mask, labels, each (batch, longest)."""
    ids, mask = pad_batch([ids for ids, _ in examples], pad_id, where)
    labels, _ = pad_batch([labels for _, labels in examples], IGNORED, where)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def check_finite(values: dict[str, float], step: int, learning_rate: float) -> None:
    """Raise TrainingDiverged if one of the named values of this step is no finite number."""
    cause = f"a learning rate that is too high ({learning_rate:g}): try a third of it"
    if step == 1:
        cause = "examples without a reply token, or NaN in the data or the starting weights"
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingDiverged(f"The {name} is {value} at step {step}. Likely cause: {cause}.")
