"""Which tensor is what, by name and shape alone (torch is not loaded): kinds, layers, blocks."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from numbers import Real
from typing import Any, Literal, NamedTuple, Protocol

Kind = Literal["linear", "embedding", "head", "norm", "other"]
Ratios = Mapping[str, float]

EMBEDDING_WORDS = ("embed_tokens", "embed_in", "wte", "wpe", "embeddings")
HEAD_WORDS = ("lm_head", "embed_out", "score")
NORM_WORDS = ("norm", "ln_")
FINETUNED = "Average only a model and what it was finetuned into."
UNWRAPPED = (
    "Merge a LoRA adapter first (merge_and_unload), and save the model inside a wrapper "
    "('_orig_mod' is torch.compile's, 'module' that of DDP)."
)
THIRDS = ("input", "middle", "output")
OTHER_PARTS = {"embedding": "embeddings", "norm": "norms", "head": "head"}
TOLERANCE = 1e-9  # of a mean that is held exactly, up to the rounding of float64


class MergeError(ValueError):
    """Two sets of weights cannot be averaged; the message names the first offender."""


class Shaped(Protocol):
    """A tensor, or what is known of one that is still on disk."""

    @property
    def shape(self) -> Sequence[int]:
        """Return the sizes along its axes."""


def kind_of(name: str, tensor: Shaped) -> Kind:
    """Return what a weight is; the paper averages `linear`. A tied head counts as `embedding`."""
    if any(word in name for word in EMBEDDING_WORDS):
        return "embedding"
    if set(name.split(".")) & set(HEAD_WORDS):
        return "head"
    if any(word in name for word in NORM_WORDS):
        return "norm"
    # the experts of a mixture are matrices in one stack
    return "linear" if len(tensor.shape) >= 2 else "other"


class Partition(NamedTuple):
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


def cut(tensors: Mapping[str, Shaped], blocks: int | Sequence[int] = 3) -> Partition:
    """Cut tensors into blocks of layers, embeddings, norms and head (MergeError: no such cut).

    `blocks` is K, or the sizes of the blocks in layers. K blocks are as equal as layers allow:
    26 layers in three are the paper's 1-8, 9-17, 18-26.
    """
    layer_of = layers(tensors)
    numbers = sorted({*layer_of.values()})
    sizes = block_sizes(len(numbers), blocks) if isinstance(blocks, int) else tuple(blocks)
    if min(sizes, default=0) < 1 or sum(sizes) != len(numbers):
        told = f"The blocks have {', '.join(map(str, sizes))} layers: they must have"
        raise MergeError(f"{told} at least 1 each and {len(numbers)} in all, as the model has.")
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
    found = {name: re.search(r"(?:^|\.)(\d+)(?:\.|$)", name) for name in names}
    return {name: int(number[1]) for name, number in found.items() if number}


def block_sizes(layers: int, blocks: int) -> tuple[int, ...]:
    """Return the layers in each of K blocks, k ending at floor(k L / K) (MergeError: a bad K)."""
    if not layers:
        raise MergeError("No tensor's name holds the number of a layer (layers.0.mlp): no blocks.")
    if not 1 <= blocks <= layers:
        told = f"{blocks} blocks cannot be cut from {layers} layers"
        raise MergeError(f"{told}: choose K from 1 to {layers}.")
    return tuple(b - a for a, b in pairwise(k * layers // blocks for k in range(blocks + 1)))


def block_names(sizes: Sequence[int]) -> tuple[str, ...]:
    """Return the names of blocks of these sizes; layers are counted from 1, as in the paper."""
    if len(sizes) == len(THIRDS):
        return THIRDS
    return tuple(
        f"layer {end}" if size == 1 else f"layers {end - size + 1}-{end}"
        for size, end in zip(sizes, accumulate(sizes), strict=True)
    )


def ratios_of_blocks(
    partition: Partition, values: Sequence[float], alpha: float, *, fixed: Ratios | None = None
) -> dict[str, float]:
    """Return the ratio of every part from K ratios of blocks whose mean is alpha (MergeError).

    Parts that are no blocks have the ratio alpha, or what is `fixed`, as {"norms": 0.0}.
    """
    check_alpha(alpha)
    fixed = fixed or {}
    if len(values) != len(partition.blocks):
        blocks = f"{len(partition.blocks)} blocks ({', '.join(partition.blocks)})"
        raise MergeError(f"There are {len(values)} ratios for {blocks}: give one for each.")
    if wrong := [name for name in fixed if name not in partition.others]:
        others = ", ".join(partition.others)
        raise MergeError(f"{wrong[0]!r} has no ratio to fix: choose from {others}.")
    ratios = {**partition.ratios(map(float, values), float(alpha)), **fixed}
    check_ratios(partition, ratios)
    mean = math.fsum(value / len(values) for value in values)
    if abs(mean - alpha) > TOLERANCE:
        told = ", ".join(f"{v:g}" for v in values)
        raise MergeError(f"The ratios {told} have the mean {mean:g}: the mean must be {alpha:g}.")
    return ratios


def check_alpha(alpha: float, *, extrapolate: bool = False) -> None:
    """Refuse an alpha that is not a finite number, or that extrapolates unasked (MergeError)."""
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not math.isfinite(alpha):
        raise MergeError(f"alpha is {alpha!r}: it must be a finite number (use float(alpha)).")
    if not extrapolate and not 0 <= alpha <= 1:
        told = f"alpha = {alpha} lies outside [0, 1], beyond one of the two models"
        raise MergeError(f"{told}. If you mean to extrapolate, pass extrapolate=True.")


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
