"""Graft: keep the change of few weights, undo that of all others. Panigrahi et al. 2023.

    theta = theta_0 + gamma * (theta_aligned - theta_0),    gamma a 0/1 mask

The density is the share of the CHANGED weights that keep their change. 1 is the aligned model.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from alignment_tax.merge.average import State, check_compatible, tied_names
from alignment_tax.mitigate.average import Average
from alignment_tax.mitigate.base import Setting, check_share
from alignment_tax.train.loop import Batch, collate, encode
from alignment_tax.train.rounds import sub_seed

#: How sure the learnt mask is of its start: sigmoid(1) = 0.73 kept, sigmoid(-1) = 0.27 dropped.
START = 1.0
#: Adam's, of the scores: some tens of steps that agree are enough to turn a weight over.
LEARNING_RATE = 0.05

Mask = dict[str, Tensor]


def graft(theta_0: State, theta: State, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return theta where the mask is true, theta_0 elsewhere, as new tensors, exact to the bit."""
    aliases = tied_names(theta_0)
    result = {name: start.clone() for name, start in theta_0.items() if name not in aliases}
    result |= {name: torch.where(kept, theta[name], result[name]) for name, kept in mask.items()}
    return {name: result[aliases.get(name, name)] for name in theta_0}


def largest_mask(theta_0: State, theta: State, density: float) -> Mask:
    """Return the mask of the largest changes in all weights (ValueError: density not in (0, 1])."""
    sizes = _sizes(theta_0, theta)
    return top_mask(sizes, count_kept(sizes, density))


def random_mask(theta_0: State, theta: State, density: float, seed: int) -> Mask:
    """Return a mask of changed weights drawn at random, a control."""
    generator, sizes = torch.Generator().manual_seed(sub_seed(seed)), _sizes(theta_0, theta)
    # a uniform number in (0, 1] for a changed weight, 0 for one that must not be drawn
    scores = {
        name: (1 - torch.rand(size.shape, generator=generator).to(size.device)) * (size > 0)
        for name, size in sizes.items()
    }
    return top_mask(scores, count_kept(sizes, density))


def learnt_mask(
    theta_0: State, theta: State, density: float, model: nn.Module, batches: Iterable[Batch]
) -> Mask:
    """Return a mask learnt on the alignment data, from the largest changes, as Panigrahi et al. do.

    S = +-START by size of the change; Adam lowers the loss of theta_0 + sigmoid(S) * change on the
    batches; the changes with the highest S are kept. `model` only runs the weights.
    """
    start = largest_mask(theta_0, theta, density)
    changes = {name: theta[name] - theta_0[name] for name in start}
    scores = {n: torch.where(kept, START, -START).requires_grad_() for n, kept in start.items()}
    optimizer = torch.optim.Adam(scores.values(), lr=LEARNING_RATE)
    for batch in batches:
        mixed = {n: theta_0[n] + torch.sigmoid(s) * changes[n] for n, s in scores.items()}
        loss = functional_call(model, mixed, args=(), kwargs=dict(batch)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # sigmoid is above 0: a weight that did not change scores 0, and is never kept for one that did
    ranked = {n: torch.sigmoid(s.detach()) * (changes[n] != 0) for n, s in scores.items()}
    return top_mask(ranked, sum(int(kept.sum()) for kept in start.values()))


def count_kept(sizes: Mapping[str, Tensor], density: float) -> int:
    """Return how many weights a density keeps, given |changes|: at least one, if any changed."""
    share = check_share(density, "density of the graft")
    changed = sum(int((size > 0).sum()) for size in sizes.values())
    return min(changed, max(1, round(share * changed)))


def top_mask(scores: Mapping[str, Tensor], count: int) -> Mask:
    """Return the mask of exactly `count` highest scores in all tensors together."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(count, sorted=False).indices] = True
    parts = chosen.split([score.numel() for score in scores.values()])
    return {n: part.view_as(scores[n]) for n, part in zip(scores, parts, strict=True)}


class Graft(Average):
    """Grafts the outcome of training onto theta_0; `choose` makes the mask of both weights."""

    def __init__(self, setting: Setting, density: float, choose: Callable[..., Mask]) -> None:
        def grafted(theta_0: State, theta: State, density: float) -> State:
            return graft(theta_0, theta, choose(theta_0, theta, density))

        super().__init__(setting, check_share(density, "density of the graft"), grafted)


largest = partial(Graft, choose=largest_mask)


def at_random(setting: Setting, density: float) -> Graft:
    """Return the graft of changes drawn at random."""
    return Graft(setting, density, partial(random_mask, seed=setting.seed))


def learnt(setting: Setting, density: float) -> Graft:
    """Return the graft whose mask is learnt in one pass over the pool."""
    batches = pool_batches(setting)  # of one pass: a treatment ends once
    return Graft(setting, density, partial(learnt_mask, model=setting.theta_0, batches=batches))


def pool_batches(setting: Setting) -> Iterable[Batch]:
    """Yield the batches of one pass over the pool, in its order."""
    size, limit = setting.config.batch_size, setting.config.max_length
    rows = [encode(setting.tokenizer, prompt, reply, limit) for prompt, reply in setting.pool]
    padding = (setting.tokenizer.pad_token_id, setting.theta_0.device)
    for i in range(0, len(rows), size):
        yield collate(rows[i : i + size], *padding)


def _sizes(theta_0: State, theta: State) -> dict[str, Tensor]:
    """Return |theta - theta_0| in float32, each tied tensor once, checked."""
    check_compatible(theta_0, theta)
    aliases = tied_names(theta_0)
    floats = [n for n, t in theta_0.items() if n not in aliases and t.is_floating_point()]
    return {name: (theta[name].float() - theta_0[name].float()).abs() for name in floats}
