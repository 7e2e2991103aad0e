"""Means over the tokens of replies, of one process or of several: what stands behind them is 0."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

AddUp = Callable[[Tensor], Tensor]


def alone(total: Tensor) -> Tensor:
    """Add up a tensor over the processes when there is only one."""
    return total


def masked_mean(values: Tensor, mask: Tensor, add_up: AddUp = alone) -> Tensor:
    """Return the mean over the tokens of all replies, and of all processes if `add_up` sums."""
    return add_up(values.masked_fill(mask == 0, 0.0).sum()) / add_up(mask.sum())


def masked_variance(values: Tensor, mask: Tensor, add_up: AddUp = alone) -> Tensor:
    """Return the mean squared distance from the mean, over the same tokens."""
    return masked_mean((values - masked_mean(values, mask, add_up)) ** 2, mask, add_up)


def whiten(values: Tensor, mask: Tensor, add_up: AddUp = alone) -> Tensor:
    """Return values with mean 0 and variance 1 over the tokens of replies, 0 behind their end."""
    deviation = (masked_variance(values, mask, add_up) + 1e-8).sqrt()
    return (values - masked_mean(values, mask, add_up)) / deviation * mask


def explained_variance(
    values: Tensor, returns: Tensor, mask: Tensor, add_up: AddUp = alone
) -> Tensor:
    """Return 1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 a useless one."""
    residual = masked_variance(returns - values, mask, add_up)
    return 1 - residual / masked_variance(returns, mask, add_up)
