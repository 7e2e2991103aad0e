"""What lm-eval asks of a model, answered fast: how likely a text is, and the most likely reply.

The answers are those of lm-eval's own `HFLM`; the work is less. A prompt runs once for all its
choices, the head sees only the positions that are asked for, and replies that have ended leave
the batch. Decoding is greedy, whatever else a checkpoint's generation_config.json asks for.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel as Model

from alignment_tax.models import Ids, growing_cache, length_sorted, pad_batch, run

Tokens = list[int]
Pair = tuple[Tokens, Tokens]  # a context and its continuation, neither empty
Pick = Callable[[Tensor], Tensor]  # tokens (rows,) by their logits (rows, vocabulary)
Ended = Callable[[list[Tokens]], list[bool]]  # whether unfinished replies end with their last token
SHARED = 64  # tokens with which all prompts begin that are worth a pass of their own
KEEP_ROWS = 0.75  # ended rows are thrown out once no more than this share is still running


@torch.inference_mode()
def log_likelihoods(
    model: Model, pairs: Sequence[Pair], pad_id: int, batch_size: int, end: int | None = None
) -> list[tuple[float, bool]]:
    """Return the log-probability in nats of each continuation, and whether greedy decoding says it.

    `pad_id` is any token; `end` has to follow in greedy decoding, but does not count.
    """
    asked: dict[tuple[int, ...], list[int]] = {}
    for number, (context, _) in enumerate(pairs):
        asked.setdefault(tuple(context), []).append(number)
    prompts, where = list(asked), model.device
    # contexts whose continuations are single tokens need one row, however many there are
    single = all(len(continuation) == 1 for _, continuation in pairs)
    width = 1 if single else max(map(len, asked.values()))
    behind = [] if end is None else [end]
    found: dict[int, tuple[float, bool]] = {}
    for batch in length_sorted(map(len, prompts), max(1, batch_size // width)):
        numbers = [number for i in batch for number in asked[prompts[i]]]
        rows = torch.tensor([r for r, i in enumerate(batch) for _ in asked[prompts[i]]]).to(where)
        lengths = torch.tensor([len(pairs[number][1]) for number in numbers], device=where)
        wanted, real = pad_batch([[*pairs[n][1], *behind] for n in numbers], pad_id, where)
        cache = None if single and end is None else growing_cache(model)
        ids, mask = pad_batch([list(prompts[i]) for i in batch], pad_id, where, "left")
        first = _next(model, ids, mask, cache, last=1)[rows]
        each, greedy = torch.zeros(wanted.shape, device=where), torch.zeros_like(real).bool()
        each[:, :1], greedy[:, :1] = _found(first, wanted[:, :1])
        # the rest of a text is read where it counts: of a last token only if it is the likeliest
        more = ((lengths > 1) | greedy[:, 0]).nonzero()[:, 0]
        if cache is not None and wanted.shape[1] > 1 and len(more):
            cache.batch_select_indices(rows[more])
            mask = torch.cat([mask[rows[more]], real[more, :-1]], dim=1)
            rest = _next(model, wanted[more, :-1], mask, cache, last=wanted.shape[1] - 1)
            each[more, 1:], greedy[more, 1:] = _found(rest, wanted[more, 1:])
        counted = torch.arange(wanted.shape[1], device=where) < lengths[:, None]
        sums = (each * counted).sum(dim=1).tolist()
        same = (greedy | (real == 0)).all(dim=1).tolist()
        found |= zip(numbers, zip(sums, same, strict=True), strict=True)
    return [found[number] for number in range(len(pairs))]


@torch.inference_mode()
def greedy_replies(
    model: Model, prompts: Ids, max_new_tokens: int, ended: Ended, pad_id: int, batch_size: int
) -> list[Tokens]:
    """Return the likeliest tokens after each prompt (none empty), with the one that ended it."""
    likeliest = partial(torch.argmax, dim=-1)
    replies: list[Tokens] = [[] for _ in prompts]
    shared = _shared(prompts)
    for batch in length_sorted(map(len, prompts), batch_size):
        rows = [prompts[i][len(shared) :] for i in batch]
        ids, mask = pad_batch(rows, pad_id, model.device, "left")
        said = continued(model, ids, mask, 1, max_new_tokens, likeliest, ended, shared)
        for i, tokens in zip(batch, said, strict=True):
            replies[i] = tokens
    return replies


def _shared(prompts: Ids) -> Tokens:
    """Return the tokens with which all prompts begin, as few-shot examples, if they are many."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    start = [column[0] for column in same][: min(map(len, prompts), default=1) - 1]
    return start if len(start) >= SHARED else []


@torch.inference_mode()
def continued(
    model: Model, ids: Tensor, mask: Tensor, n: int, max_new_tokens: int, pick: Pick, ended: Ended,
    shared: Sequence[int] = (),
) -> list[Tokens]:  # fmt: skip
    """Continue left-padded rows n times behind tokens `shared`; row i's replies: i*n .. i*n+n-1."""
    replies: list[Tokens] = [[] for _ in range(len(ids) * n)]
    running = list(range(len(replies)))  # which reply each row of the cache belongs to
    alive = list(running)  # rows whose reply goes on
    cache = growing_cache(model)
    if shared:
        read = torch.tensor([list(shared)], device=model.device)
        _next(model, read, torch.ones_like(read), cache, last=1)
        cache.batch_repeat_interleave(len(ids))
        mask = torch.cat([mask.new_ones(len(mask), len(shared)), mask], dim=1)
    for step in range(max_new_tokens):
        logits = _next(model, ids, mask, cache, last=1)[:, -1]
        if step == 0 and n > 1:  # one pass over the prompt serves all n replies
            cache.batch_repeat_interleave(n)
            logits, mask = logits.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)
        token = pick(logits)
        drawn = token.tolist()
        for row in alive:
            replies[running[row]].append(drawn[row])
        ends = ended([replies[running[row]] for row in alive])
        alive = [row for row, end in zip(alive, ends, strict=True) if not end]
        if not alive:
            break
        if len(alive) <= KEEP_ROWS * len(running):
            kept = torch.tensor(alive, device=model.device)
            cache.batch_select_indices(kept)
            token, mask = token[kept], mask[kept]
            running, alive = [running[row] for row in alive], list(range(len(alive)))
        ids, mask = token.unsqueeze(-1), torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return replies


def _found(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each wanted token, and whether it is the likeliest."""
    likely = logits.log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    return likely, logits.argmax(-1) == wanted


def _next(model: Model, ids: Tensor, mask: Tensor, cache: DynamicCache | None, last: int) -> Tensor:
    """Return float32 logits (rows, last, vocabulary) of new `ids`; `mask` also covers the cache."""
    kept = {"past_key_values": cache, "use_cache": cache is not None, "logits_to_keep": last}
    return run(model, ids, mask, **kept).logits.float()
