"""Change the weights only where pretraining text does not feel it: two projections of the change.

    OGPSA       theta - theta_0 is orthogonal to k gradients of the loss on pretraining text
    null space  x (W - W_0)^T = 0 for the leading directions of the inputs x that the text gives W

After OGPSA (2602.07892) and null-space policy optimisation (2512.11391), which project the
gradient. AdamW would leave the subspace again, so here the change is projected, after every step.
Gradients and inputs are those of theta_0, and are not renewed.
"""

import copy
from functools import partial

import torch
from torch import Tensor, nn

from alignment_tax.mitigate.base import Setting, Treatment, check_strength, snapshot, trained
from alignment_tax.mitigate.replay import check_texts, text_losses
from alignment_tax.models import Model

#: Documents behind one gradient, and behind the inputs of a layer.
DOCUMENTS, INPUT_BATCHES = 16, 64


class Orthogonal(Treatment):
    """Keeps the change orthogonal to the gradients of k batches of pretraining text."""

    def __init__(self, setting: Setting, k: int) -> None:
        self.setting, self.k = setting, int(check_strength(k, "OGPSA"))
        check_texts(setting, self.k * DOCUMENTS)

    def begin(self, model: Model) -> Model:
        """Take the gradients at theta_0, and an orthonormal basis of them."""
        start = copy.deepcopy(self.setting.theta_0).requires_grad_(True)
        self.start = snapshot(start)
        if self.k == 0:
            return model
        losses = text_losses(self.setting, start, self.k, DOCUMENTS)
        gradients = [torch.autograd.grad(loss, list(trained(start).values())) for loss in losses]
        rows = torch.stack([torch.cat([each.flatten() for each in row]) for row in gradients])
        self.basis = torch.linalg.qr(rows.T).Q  # (parameters, k)
        return model

    def after_step(self, model: Model, step: int) -> None:
        """Take the part along the gradients out of the change."""
        if self.k == 0:
            return
        weights = trained(model)
        change = torch.cat([(p - self.start[n]).flatten() for n, p in weights.items()])
        along = self.basis @ (self.basis.T @ change)
        sizes = [p.numel() for p in weights.values()]
        for p, part in zip(weights.values(), along.split(sizes), strict=True):
            p.sub_(part.view_as(p))


class NullSpace(Treatment):
    """Keeps what linear layers make of pretraining text; embeddings and norms are not trained.

    `share` is how much of the inputs' power (their uncentred variance) is protected in each layer.
    """

    def __init__(self, setting: Setting, share: float) -> None:
        if not 0 < share < 1:
            raise ValueError(f"The protected share of the inputs is {share}: it must be in (0, 1).")
        check_texts(setting, DOCUMENTS)
        self.setting, self.share = setting, share

    def begin(self, model: Model) -> Model:
        """Find the protected directions of each layer, and freeze all but these layers."""
        self.found, self.start = protected(self.setting, self.share), snapshot(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.found)
        return model

    def after_step(self, model: Model, step: int) -> None:
        """Take the protected directions out of the change."""
        for name, p in trained(model).items():
            basis = self.found[name]
            p.sub_((p - self.start[name]) @ basis @ basis.T)

    def end(self, model: Model) -> Model:
        """Unfreeze the rest."""
        return model.requires_grad_(True)


def protected(setting: Setting, share: float) -> dict[str, Tensor]:
    """Return, for each linear layer's weight, the fewest leading directions of that share of power.

    Each is (in, directions), orthonormal: eigenvectors of the sum of x^T x over the text.
    """
    model = copy.deepcopy(setting.theta_0)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    powers: dict[str, Tensor] = {}

    def add(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2).double()
        powers[name] = powers.get(name, 0) + x.T @ x

    for name, layer in layers.items():
        layer.register_forward_pre_hook(partial(add, name))
    with torch.no_grad():
        for _ in text_losses(setting, model, INPUT_BATCHES, DOCUMENTS):
            pass
    leading = {}
    for name, power in powers.items():
        values, vectors = torch.linalg.eigh(power)  # ascending
        held = values.flip(0).cumsum(0) / values.sum()
        count = int((held < share).sum()) + 1
        leading[f"{name}.weight"] = vectors[:, -count:].float()
    return leading
