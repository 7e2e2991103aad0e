"""Average part by part: another alpha for every block of layers (paper, sections 4.2 and 6).

A `Partition` cuts a model into blocks of layers, counted from the input, and what is no layer:
embeddings, norms, head. theta^[k] = theta_0^[k] + alpha_k (theta - theta_0)^[k] for every part.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from alignment_tax.merge.average import (
    FINETUNED,
    MergeError,
    State,
    check_alpha,
    check_compatible,
    check_fits_model,
    kind_of,
    mix,
    own_tensors,
    wide,
)

Ratios = Mapping[str, float]

THIRDS = ("input", "middle", "output")
#: All blocks of layers together: what the paper says is averaged.
LINEAR = "linear"
OTHER_PARTS = {"embedding": "embeddings", "norm": "norms", "head": "head"}
LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
TOLERANCE = 1e-9  # of a mean that is held exactly, up to the rounding of float64


@dataclass(frozen=True)
class Partition:
    """A model's tensors, each in exactly one part.

    `blocks` of layers, in order from the input, hold matrices and biases of attention and MLP;
    `others` are embeddings, norms (those inside layers too), head (if it is not tied) and "rest".
    """

    blocks: Mapping[str, tuple[str, ...]]
    others: Mapping[str, tuple[str, ...]]

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """All parts, blocks first."""
        return {**self.blocks, **self.others}

    def ratios(self, blocks: Iterable[Any], others: float) -> dict[str, Any]:
        """Return a ratio for every part, from one for each block and one for all other parts."""
        return {**dict(zip(self.blocks, blocks, strict=True)), **dict.fromkeys(self.others, others)}


def partition(model: nn.Module, blocks: int | Sequence[int] = 3) -> Partition:
    """Cut a model into blocks of layers, embeddings, norms and head (MergeError: it cannot be cut).

    `blocks` is K, or the sizes of the blocks in layers. K blocks are as equal as layers allow:
    26 layers in three are the paper's 1-8, 9-17, 18-26.
    """
    tensors = own_tensors(model)
    layer_of = layers(tensors)
    numbers = sorted({*layer_of.values()})
    sizes = block_sizes(len(numbers), blocks) if isinstance(blocks, int) else tuple(blocks)
    if min(sizes, default=0) < 1 or sum(sizes) != len(numbers):
        raise MergeError(
            f"The blocks have {', '.join(map(str, sizes))} layers, which must be at least 1 each "
            f"and {len(numbers)} in all: that is how many layers the model has."
        )
    names = block_names(sizes)
    in_order = [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]
    block_of: dict[int | None, str] = dict(zip(numbers, in_order, strict=True))
    held: dict[str, tuple[str, ...]] = {}
    for name, tensor in tensors.items():
        part = OTHER_PARTS.get(kind_of(name, tensor)) or block_of.get(layer_of.get(name), "rest")
        held[part] = (*held.get(part, ()), name)
    if empty := [name for name in names if name not in held]:
        raise MergeError(f"Block {empty[0]!r} has no matrix: take fewer or larger blocks.")
    others = sorted(held.keys() - set(names))
    return Partition({name: held[name] for name in names}, {name: held[name] for name in others})


def layers(names: Iterable[str]) -> dict[str, int]:
    """Return the layer of each tensor that is in one: the number in its name."""
    return {name: int(found.group(1)) for name in names if (found := LAYER.search(name))}


def block_sizes(layers: int, blocks: int) -> tuple[int, ...]:
    """Return the layers in each of K blocks, k ending at floor(k L / K) (MergeError: a bad K)."""
    if not 1 <= blocks <= layers:
        raise MergeError(
            f"{blocks} blocks cannot be cut from {layers} layers: choose K from 1 to {layers}."
            if layers
            else "No tensor's name holds the number of a layer (as in 'model.layers.0.mlp.up'), so "
            "there are no blocks to cut."
        )
    return tuple(b - a for a, b in pairwise(k * layers // blocks for k in range(blocks + 1)))


def block_names(sizes: Sequence[int]) -> tuple[str, ...]:
    """Return the names of blocks of these sizes; layers are counted from 1, as in the paper."""
    if len(sizes) == len(THIRDS):
        return THIRDS
    return tuple(
        f"layer {end}" if size == 1 else f"layers {end - size + 1}-{end}"
        for size, end in zip(sizes, accumulate(sizes), strict=True)
    )


def one_part(partition: Partition, part: str, alpha: float) -> dict[str, float]:
    """Return the ratios that average one part and leave all others aligned (paper, Figure 4)."""
    chosen = partition.blocks if part == LINEAR else (part,)
    ratios = {**dict.fromkeys(partition.parts, 1.0), **dict.fromkeys(chosen, alpha)}
    check_ratios(partition, ratios)
    return ratios


def ratios_of_blocks(
    partition: Partition, values: Sequence[float], alpha: float, *, fixed: Ratios | None = None
) -> dict[str, float]:
    """Return the ratio of every part from K ratios of blocks whose mean is alpha (MergeError).

    Parts that are no blocks have the ratio alpha, or what is `fixed`, as {"norms": 0.0}.
    """
    check_alpha(alpha)
    if len(values) != len(partition.blocks):
        raise MergeError(
            f"There are {len(values)} ratios for {len(partition.blocks)} blocks "
            f"({', '.join(partition.blocks)}): give one for each."
        )
    if wrong := [name for name in fixed or {} if name not in partition.others]:
        raise MergeError(
            f"{wrong[0]!r} has no ratio to fix: choose from {', '.join(partition.others)}."
        )
    ratios = {**partition.ratios(map(float, values), float(alpha)), **(fixed or {})}
    check_ratios(partition, ratios)
    mean = math.fsum(value / len(values) for value in values)
    if abs(mean - alpha) > TOLERANCE:
        told = ", ".join(f"{v:g}" for v in values)
        raise MergeError(f"The ratios {told} have the mean {mean:g}: the mean must be {alpha:g}.")
    return ratios


class Mixture:
    """theta(alpha_1, ..., alpha_K) of one network: written into it, or a function with gradients.

    >>> mixture = Mixture(model, theta_0, theta, partition(model, 3))
    >>> mixture.set(one_part(mixture.partition, "input", 0.4))

    No reload, no disk; the network's own weights may be one of the ends. All ratios 0 give theta_0,
    and all 1 theta, to the last bit. (theta_0 + alpha (theta - theta_0) would miss it by rounding.)
    """

    def __init__(
        self, model: nn.Module, theta_0: State, theta: State, partition: Partition
    ) -> None:
        # other depths are told before names are compared one by one
        before, after = (len({*layers(state).values()}) for state in (theta_0, theta))
        if before != after:
            raise MergeError(f"theta_0 has {before} layers and theta {after}. {FINETUNED}")
        check_compatible(theta_0, theta)
        self.targets = own_tensors(model)
        for state in (theta_0, theta):
            check_fits_model(model, self.targets, state)
        self.theta_0, self.theta = (
            {name: _held(state[name], target) for name, target in self.targets.items()}
            for state in (theta_0, theta)
        )
        held = Counter(name for names in partition.parts.values() for name in names)
        every = {name: held[name] for name in (*held, *self.targets)}
        if wrong := [n for n, times in every.items() if times != (n in self.targets)]:
            raise MergeError(
                f"{wrong[0]!r} is in {every[wrong[0]]} parts: every tensor of the model belongs to "
                "one part, and nothing else does."
            )
        self.partition = partition

    @torch.no_grad()
    def set(self, ratios: Ratios | float) -> None:
        """Write the mixture into the model in place, by one ratio or one for each part.

        Raises:
            MergeError: see `check_ratios`.
        """
        parts = self.partition.parts
        by_part = ratios if isinstance(ratios, Mapping) else dict.fromkeys(parts, ratios)
        check_ratios(self.partition, by_part)
        for part, names in parts.items():
            for name in names:
                self.targets[name].copy_(mix(self.theta_0[name], self.theta[name], by_part[part]))

    def weights(self, ratios: Mapping[str, float | Tensor]) -> dict[str, Tensor]:
        """Return the mixed weights; gradients flow to ratios (one a part) that are tensors.

        A ratio is a float64 scalar, which need not lie in [0, 1].
        """
        mixed: dict[str, Tensor] = {}
        for part, names in self.partition.parts.items():
            ratio = torch.as_tensor(ratios[part], dtype=torch.float64)
            mixed |= {n: _Mix.apply(ratio, self.theta_0[n], self.theta[n]) for n in names}
        return mixed


def _held(tensor: Tensor, target: Tensor) -> Tensor:
    """Return a tensor on the model's device that later writes into the model cannot change."""
    moved = tensor.detach().to(target.device)
    shares = moved.untyped_storage().data_ptr() == target.untyped_storage().data_ptr()
    return moved.clone() if shares else moved


class _Mix(torch.autograd.Function):
    """`average.mix` to the bit, with a gradient for alpha; only the two ends are kept for it."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, start: Tensor, end: Tensor) -> Tensor:
        ctx.save_for_backward(alpha, start, end)
        return mix(start, end, alpha.item())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        alpha, start, end = ctx.saved_tensors
        slope = (wide(gradients[0]) * (wide(end) - wide(start))).sum()
        return slope.to(alpha), None, None


def check_ratios(partition: Partition, ratios: Ratios) -> None:
    """Refuse ratios that are not one number in [0, 1] for each part (MergeError)."""
    parts = partition.parts
    if unknown := [name for name in ratios if name not in parts]:
        raise MergeError(f"There is no part {unknown[0]!r}. The parts are {', '.join(parts)}.")
    for name in parts:
        ratio = ratios.get(name)
        # NaN lies in no interval
        if not isinstance(ratio, Real) or not 0 <= ratio <= 1:
            raise MergeError(f"The ratio of part {name!r} is {ratio}: it must be in [0, 1].")
