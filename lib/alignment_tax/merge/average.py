"""Average the weights before and after RLHF: theta(alpha) = (1 - alpha) theta_0 + alpha theta.

Paper, section 4.1, after WiSE-FT (Wortsman et al. 2022). `alpha` is ALWAYS the weight of the
aligned model; the paper's released code has it the other way round.
"""

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor, nn

from alignment_tax.merge.layout import FINETUNED, UNWRAPPED, MergeError, check_alpha, kind_of

State = Mapping[str, Tensor]


@torch.no_grad()
def average(
    theta_0: State, theta: State, alpha: float, *, extrapolate: bool = False
) -> dict[str, Tensor]:
    """Return theta(alpha) as new tensors, in float32 or wider, exact to the bit at alpha 0 and 1.

    Outside [0, 1] alpha must be asked for, by `extrapolate`. MergeError: the two differ in names,
    shapes or dtypes, or alpha is not usable.
    """
    check_compatible(theta_0, theta)
    check_alpha(alpha, extrapolate=extrapolate)
    shared = tied_names(theta_0)
    # a head that one file stores and the other leaves out is the embedding under a second name
    second = {n: f for n, f in _tied_to(theta_0).items() if n in shared or n not in theta}
    own = [name for name in theta_0 if name not in second]
    result = {name: mix(theta_0[name], theta[name], alpha) for name in own}
    return {name: result[second.get(name, name)] for name in theta_0}


def mix(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    """Return (1 - alpha) start + alpha end, exact at 0 and 1, in the dtype of `start`."""
    if not start.is_floating_point():  # a buffer, checked to be the same in both
        return start.clone()
    return torch.lerp(wide(start), wide(end), float(alpha)).to(start.dtype)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 or wider: mixing in bfloat16 (8 bits) would round twice."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def tied_names(state: State) -> dict[str, str]:
    """Return the second names of earlier tensors: {second name: first name}."""
    names: dict[object, list[str]] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
        names.setdefault(place, []).append(name)
    return {second: first for first, *others in names.values() for second in others}


def _once(state: State) -> dict[str, Tensor]:
    aliases = tied_names(state)
    return {name: tensor for name, tensor in state.items() if name not in aliases}


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and saved buffers of a model, each tied tensor once."""
    return _once(model.state_dict())


@torch.no_grad()
def write_weights(model: nn.Module, weights: State) -> None:
    """Copy tensors into the model's own of the same names, in place (ValueError: it has none)."""
    targets = own_tensors(model)
    if unknown := weights.keys() - targets.keys():
        lora = "A moving average of a LoRA run must end before LoRA is merged: list it before LoRA."
        raise ValueError(f"The model has no weight {min(unknown)!r}. {lora}")
    for name, tensor in weights.items():
        targets[name].copy_(tensor)


def check_compatible(theta_0: State, theta: State) -> None:
    """Refuse weights that cannot be averaged name by name, or hold NaN (MergeError)."""
    if not theta_0 or not theta:
        raise MergeError("There are no weights to average: one of the two is empty.")
    _check_names(theta_0, theta, "theta_0", "theta")
    _check_names(theta, theta_0, "theta", "theta_0")
    for name, tensor in theta_0.items():
        _check_tensor(name, tensor, theta.get(name, tensor))


def check_fits_model(model: nn.Module, targets: State, state: State) -> None:
    """Refuse weights that are not those of the model that is to take them (MergeError)."""
    aliases = tied_names(model.state_dict())
    for name, target in targets.items():
        if name not in state:
            told = f"The model has a weight {name!r} that theta_0 or theta lacks"
            raise MergeError(f"{told}. (Tied ones need a model with tie_word_embeddings=True.)")
        if state[name].shape != target.shape:
            told = f"{name!r} is {tuple(target.shape)} in the model, {tuple(state[name].shape)} in "
            raise MergeError(f"{told}the weights: make the model from the same configuration.")
    for name in sorted(_once(state).keys() - targets.keys()):
        if name not in aliases:
            raise MergeError(f"There is a weight {name!r} that the model lacks.")
        if not torch.equal(state[name], state[aliases[name]]):
            told = f"{name!r} is tied to {aliases[name]!r} in the model but not in the weights"
            raise MergeError(f"{told}: load them into a model with tie_word_embeddings=False.")


def _check_names(state: State, other: State, who: str, whom: str) -> None:
    tied, other_tied, shared = _tied_to(state), _tied_to(other), tied_names(state)
    for name in state:
        tied_here_only = name in shared and name in other and name not in other_tied
        own_head = kind_of(name, state[name]) == "head" and name not in tied
        if tied_here_only or (name not in other and own_head):
            told = f"{name!r} is tied to the embedding in one model, and not in the other"
            raise MergeError(f"{told}: untie both before training (tie_word_embeddings=False).")
        if name not in other and name not in tied:
            raise MergeError(f"{name!r} is in {who} but not in {whom}. {FINETUNED} {UNWRAPPED}")


def _tied_to(state: State) -> dict[str, str]:
    """Second names by shared memory, and heads that hold the very values of the embedding."""
    tied = tied_names(state)
    kinds = {name: kind_of(name, tensor) for name, tensor in state.items()}
    for head, name in product(kinds, kinds):
        two = (kinds[head], kinds[name]) == ("head", "embedding")
        if two and torch.equal(state[name], state[head]):
            tied.setdefault(head, name)
    return tied


def _check_tensor(name: str, start: Tensor, end: Tensor) -> None:
    if start.shape != end.shape:
        rows = kind_of(name, start) in ("embedding", "head")
        padding = f"vocabularies (or padding: resize_token_embeddings({min(len(start), len(end))}))"
        told = f"{name!r} is {tuple(start.shape)} in theta_0 but {tuple(end.shape)} in theta"
        raise MergeError(f"{told}: the {padding if rows else 'architectures'} differ. {FINETUNED}")
    if start.dtype != end.dtype:
        told = f"{name!r} is {start.dtype} in theta_0 but {end.dtype} in theta"
        raise MergeError(f"{told}: load both alike.")
    if start.is_floating_point() and start.itemsize < 2:
        raise MergeError(f"{name!r} is quantised ({start.dtype}): load both in bfloat16 or wider.")
    if not start.is_floating_point() and not torch.equal(start, end):
        raise MergeError(f"{name!r} holds whole numbers that differ: they have no average.")
    for who, tensor in (("theta_0", start), ("theta", end)):
        if not bool(torch.isfinite(tensor).all()):
            told = f"{name!r} of {who} holds NaN or infinity: that training run diverged"
            raise MergeError(f"{told}. Use an earlier checkpoint or a smaller learning rate.")
