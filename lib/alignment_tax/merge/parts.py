"""Average part by part: another alpha for every block of layers (paper, sections 4.2 and 6).

theta^[k] = theta_0^[k] + alpha_k (theta - theta_0)^[k] for every part k of a `Partition`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignment_tax.merge import average, layout
from alignment_tax.merge.average import State, mix, wide
from alignment_tax.merge.layout import MergeError, Partition, Ratios


def partition(model: nn.Module, blocks: int | Sequence[int] = 3) -> Partition:
    """Cut a model into blocks of layers, embeddings, norms and head: see `layout.cut`."""
    return layout.cut(average.own_tensors(model), blocks)


def one_part(partition: Partition, part: str, alpha: float) -> dict[str, float]:
    """Return ratios that average a part ("linear": all blocks), the rest aligned (Figure 4)."""
    chosen = partition.blocks if part == "linear" else (part,)
    ratios = {**dict.fromkeys(partition.parts, 1.0), **dict.fromkeys(chosen, alpha)}
    layout.check_ratios(partition, ratios)
    return ratios


class Mixture:
    """theta(alpha_1, ..., alpha_K) of one network: written into it, or a function with gradients.

    >>> mixture = Mixture(model, theta_0, theta, partition(model, 3))
    >>> mixture.set(one_part(mixture.partition, "input", 0.4))

    The network's own weights may be one of the ends. All ratios 0 give theta_0 and all 1 theta, to
    the last bit, which theta_0 + alpha (theta - theta_0) would miss by rounding.
    """

    def __init__(self, model: nn.Module, theta_0: State, theta: State, partition: Partition):
        # other depths are told before names are compared one by one
        before, after = (len({*layout.layers(state).values()}) for state in (theta_0, theta))
        if before != after:
            raise MergeError(f"theta_0 has {before} layers and theta {after}. {layout.FINETUNED}")
        average.check_compatible(theta_0, theta)
        self.targets = average.own_tensors(model)
        for state in (theta_0, theta):
            average.check_fits_model(model, self.targets, state)
        self.theta_0, self.theta = (
            {name: _held(state[name], target) for name, target in self.targets.items()}
            for state in (theta_0, theta)
        )
        held = Counter(name for names in partition.parts.values() for name in names)
        every = {name: held[name] for name in (*held, *self.targets)}
        if wrong := [n for n, times in every.items() if times != (n in self.targets)]:
            told = f"{wrong[0]!r} is in {every[wrong[0]]} parts"
            raise MergeError(f"{told}: every tensor of the model, and nothing else, is in one.")
        self.partition = partition

    @torch.no_grad()
    def set(self, ratios: Ratios | float) -> None:
        """Write the mixture into the model, by one ratio or one a part (MergeError: no ratios)."""
        parts = self.partition.parts
        by_part = ratios if isinstance(ratios, Mapping) else dict.fromkeys(parts, ratios)
        layout.check_ratios(self.partition, by_part)
        for part, names in parts.items():
            for name in names:
                self.targets[name].copy_(mix(self.theta_0[name], self.theta[name], by_part[part]))

    def weights(self, ratios: Mapping[str, float | Tensor]) -> dict[str, Tensor]:
        """Return the mixed weights; gradients flow to ratios (float64) that are tensors."""
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
