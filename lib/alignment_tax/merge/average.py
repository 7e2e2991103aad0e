"""Average the weights before and after RLHF: theta(alpha) = (1 - alpha) theta_0 + alpha theta.

The best-trading remedy of the paper (section 4.1, after WiSE-FT, Wortsman et al. 2022). `alpha` is
ALWAYS the weight of the aligned model; the paper's released code has it the other way round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from alignment_tax.merge.layout import Kind, MergeError, check_alpha, kind_of

State = Mapping[str, Tensor]
What = Literal["all"] | Kind | Collection[Kind]


@torch.no_grad()
def average(
    theta_0: State, theta: State, alpha: float, what: What = "all", *, extrapolate: bool = False
) -> dict[str, Tensor]:
    """Return theta(alpha) = (1 - alpha) theta_0 + alpha theta as new tensors.

    Arithmetic is in float32 or wider, and exact to the last bit at alpha 0 and 1.

    Args:
        theta_0, theta: weights before and after RLHF: same names, shapes and dtypes.
        alpha: weight of theta, in [0, 1].
        what: which weights are averaged; all others stay those of theta_0. "all" (default), or
            one or several kinds of `kind_of`; the paper averages only "linear".
        extrapolate: allow alpha outside [0, 1].

    Raises:
        MergeError: the two do not fit together, or alpha is not usable.
    """
    check_compatible(theta_0, theta)
    check_alpha(alpha, extrapolate=extrapolate)
    averaged = averaged_names(theta_0, what)
    shared = tied_names(theta_0)
    # a head that one file stores and the other leaves out is the embedding under a second name
    second = {n: f for n, f in _tied_to(theta_0).items() if n in shared or n not in theta}
    result: dict[str, Tensor] = {}
    for name, start in theta_0.items():
        if name not in second:
            result[name] = mix(start, theta[name], alpha) if name in averaged else start.clone()
    return {name: result[second.get(name, name)] for name in theta_0}


class Ends:
    """Both ends of the way, held once, to be mixed straight into one model's parameters.

    theta_0 + alpha (theta - theta_0) would miss theta by rounding at alpha 1, unlike torch.lerp.
    """

    def __init__(self, model: nn.Module, theta_0: State, theta: State, what: What = "all") -> None:
        check_compatible(theta_0, theta)
        self.targets = own_tensors(model)
        for state in (theta_0, theta):
            check_fits_model(self.targets, tied_names(model.state_dict()), state)
        averaged = averaged_names(theta_0, what)
        self.theta_0 = {n: _held(theta_0[n], target) for n, target in self.targets.items()}
        self.theta = {
            n: _held(theta[n], target) if n in averaged else self.theta_0[n]
            for n, target in self.targets.items()
        }

    @torch.no_grad()
    def write(self, alphas: Mapping[str, float]) -> None:
        """Write each tensor's mixture, by an alpha of its own, into the model in place."""
        for name, target in self.targets.items():
            start, end = self.theta_0[name], self.theta[name]
            target.copy_(start if end is start else mix(start, end, alphas[name]))


class Sweep(Ends):
    """Walk along alpha inside one model: no reload, no disk, no second copy of the model.

    Args:
        model: the model to write into; its own weights are overwritten by `set`.
        theta_0, theta, what: see `average`; either end may be `model.state_dict()`.
    """

    def set(self, alpha: float, *, extrapolate: bool = False) -> None:
        """Write theta(alpha) into the model's parameters, in place (MergeError: a bad alpha)."""
        check_alpha(alpha, extrapolate=extrapolate)
        self.write(dict.fromkeys(self.targets, alpha))


def mix(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    """Return (1 - alpha) start + alpha end, exact at 0 and 1, in the dtype of `start`."""
    if not start.is_floating_point():  # a buffer, checked to be the same in both
        return start.clone()
    return torch.lerp(wide(start), wide(end), float(alpha)).to(start.dtype)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 or wider: mixing in bfloat16 (8 bits) would round twice."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def averaged_names(state: State, what: What = "all") -> set[str]:
    """Return the names that `what` selects (MergeError: unknown kind, or none of that kind)."""
    if what == "all":
        return set(state)
    wanted: set[str] = {what} if isinstance(what, str) else set(what)
    if unknown := wanted - set(get_args(Kind)):
        known = ", ".join(("all", *get_args(Kind)))
        raise MergeError(f"There is no kind of weight {min(unknown)!r}. Choose from: {known}.")
    aliases = tied_names(state)
    kinds = {name: kind_of(name, state[name]) for name in state if name not in aliases}
    if missing := wanted - set(kinds.values()):
        raise MergeError(
            f"No weight is of kind {min(missing)!r}, so there is nothing to average. (A head that "
            "is tied to the embedding counts as 'embedding'.)"
        )
    return {name for name, kind in kinds.items() if kind in wanted}


def tied_names(state: State) -> dict[str, str]:
    """Return the second names of earlier tensors: {second name: first name}."""
    first: dict[object, str] = {}
    places = {
        name: (tensor.data_ptr(), tensor.shape, tensor.stride())
        for name, tensor in state.items()
        if tensor.numel()
    }
    firsts = {name: first.setdefault(place, name) for name, place in places.items()}
    return {name: original for name, original in firsts.items() if original != name}


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and saved buffers of a model, each tied tensor once."""
    state = model.state_dict()
    aliases = tied_names(state)
    return {name: tensor for name, tensor in state.items() if name not in aliases}


@torch.no_grad()
def write_weights(model: nn.Module, weights: State) -> None:
    """Copy tensors into the model's own of the same names, in place (ValueError: it has none)."""
    targets = own_tensors(model)
    if unknown := weights.keys() - targets.keys():
        raise ValueError(
            f"The model has no weight {min(unknown)!r}. A moving average of a LoRA run must end "
            "before LoRA is merged: list it before LoRA."
        )
    for name, tensor in weights.items():
        targets[name].copy_(tensor)


def check_compatible(theta_0: State, theta: State) -> None:
    """Refuse weights that cannot be averaged name by name, or hold NaN (MergeError)."""
    if not theta_0 or not theta:
        raise MergeError("There are no weights to average: one of the two is empty.")
    _check_names(theta_0, theta, "theta_0", "theta")
    _check_names(theta, theta_0, "theta", "theta_0")
    for name in theta_0:
        if name in theta:
            _check_tensor(name, theta_0[name], theta[name])


def check_fits_model(targets: State, model_aliases: Mapping[str, str], state: State) -> None:
    """Refuse weights that are not those of the model that is to take them (MergeError)."""
    for name, target in targets.items():
        if name not in state:
            raise MergeError(
                f"The model has a weight {name!r} that theta_0 or theta lacks. (Tied weights need "
                "a model with tie_word_embeddings=True.)"
            )
        if state[name].shape != target.shape:
            raise MergeError(
                f"{name!r} is {tuple(target.shape)} in the model but {tuple(state[name].shape)} in "
                "the weights: make the model from the same configuration."
            )
    aliases = tied_names(state)
    for name in state:
        if name in targets or name in aliases:
            continue
        if name not in model_aliases:
            raise MergeError(f"There is a weight {name!r} that the model lacks.")
        if not torch.equal(state[name], state[model_aliases[name]]):
            raise MergeError(
                f"{name!r} is tied to {model_aliases[name]!r} in the model but not in the weights: "
                "load the weights into a model with tie_word_embeddings=False."
            )


def _check_names(state: State, other: State, who: str, other_who: str) -> None:
    tied, other_tied, shared = _tied_to(state), _tied_to(other), tied_names(state)
    for name in state:
        tied_here_only = name in shared and name in other and name not in other_tied
        own_head = kind_of(name, state[name]) == "head" and name not in tied
        if tied_here_only or (name not in other and own_head):
            raise MergeError(
                f"{name!r} is tied to the embedding in one model and a tensor of its own in the "
                "other. Untie both before training (tie_word_embeddings=False) or neither."
            )
        if name not in other and name not in tied:
            raise MergeError(
                f"{name!r} is in {who} but not in {other_who}. Average only a model and what it "
                "was finetuned into; merge a LoRA adapter first (merge_and_unload), and save the "
                "model inside a wrapper ('_orig_mod' is torch.compile's, 'module' that of DDP)."
            )


def _tied_to(state: State) -> dict[str, str]:
    """Second names by shared memory, and heads that hold the very values of the embedding."""
    tied = tied_names(state)
    kinds = {name: kind_of(name, tensor) for name, tensor in state.items()}
    embeddings = [name for name, kind in kinds.items() if kind == "embedding"]
    for head in (name for name, kind in kinds.items() if kind == "head"):
        for name in embeddings:
            if state[name].shape == state[head].shape and torch.equal(state[name], state[head]):
                tied.setdefault(head, name)
    return tied


def _check_tensor(name: str, start: Tensor, end: Tensor) -> None:
    if start.shape != end.shape:
        rows = kind_of(name, start) in ("embedding", "head")
        padding = f"vocabularies (or padding: resize_token_embeddings({min(len(start), len(end))}))"
        raise MergeError(
            f"{name!r} is {tuple(start.shape)} in theta_0 but {tuple(end.shape)} in theta: the "
            f"{padding if rows else 'architectures'} differ. Average only a model and what it was "
            "finetuned into."
        )
    if start.dtype != end.dtype:
        raise MergeError(
            f"{name!r} is {start.dtype} in theta_0 but {end.dtype} in theta: load both alike."
        )
    if start.is_floating_point() and start.itemsize < 2:
        raise MergeError(
            f"{name!r} is quantised ({start.dtype}): load both in bfloat16 or wider to average."
        )
    if not start.is_floating_point() and not torch.equal(start, end):
        raise MergeError(f"{name!r} holds whole numbers that differ: they have no average.")
    for who, tensor in (("theta_0", start), ("theta", end)):
        if not bool(torch.isfinite(tensor).all()):
            raise MergeError(
                f"{name!r} of {who} holds NaN or infinity: that training run diverged. Use an "
                "earlier checkpoint or a smaller learning rate."
            )


def _held(tensor: Tensor, target: Tensor) -> Tensor:
    """Return a tensor on the model's device that later writes into the model cannot change."""
    moved = tensor.detach().to(target.device)
    shares = moved.untyped_storage().data_ptr() == target.untyped_storage().data_ptr()
    return moved.clone() if shares else moved
