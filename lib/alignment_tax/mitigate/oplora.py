"""OPLoRA: LoRA whose update leaves the largest singular directions of each weight alone.

    W = W_0 + c (1 - U_k U_k^T) B A (1 - V_k V_k^T),    W_0 = U S V^T

After 2510.13003. At equal rank, k = 0 is LoRA (lora.py). Both projections are kept after every step
by projecting the factors themselves: (1 - U U^T) B for B and A (1 - V V^T) for A.
"""

from typing import Any, cast

import torch
from torch import Tensor

from alignment_tax.mitigate.base import Setting
from alignment_tax.mitigate.lora import Lora, target_names
from alignment_tax.models import Model

#: The rank of the update, in the middle of LoRA's own grid.
RANK = 16


class OpLora(Lora):
    """LoRA of rank 16 on attention and MLP, k singular directions of each weight protected."""

    def __init__(self, setting: Setting, k: float) -> None:
        super().__init__(RANK, "all", setting.seed)
        names = target_names(setting.theta_0, self.where)
        most = min(min(setting.theta_0.get_parameter(f"{name}.weight").shape) for name in names) - 1
        if k != k // 1 or not 1 <= k <= most:
            told = f"whole number from 1 to {most}, fewer than the smallest layer has"
            raise ValueError(f"OPLoRA protects {k} singular directions: choose a {told}.")
        self.k = int(k)

    def begin(self, model: Model) -> Model:
        """Find the directions, and start inside their complement."""
        self.spaces: dict[str, tuple[Tensor, Tensor]] = {}
        for name in target_names(model, self.where):
            weight = model.get_parameter(f"{name}.weight").detach()
            u, _, v = torch.linalg.svd(weight, full_matrices=False)
            self.spaces[name] = (u[:, : self.k], v[: self.k].T)
        wrapped = super().begin(model)
        with torch.no_grad():
            self.after_step(wrapped, 0)
        return wrapped

    def after_step(self, model: Model, step: int) -> None:
        """Project both factors of every layer."""
        inner = cast(Any, model).get_base_model()
        for name, (u, v) in self.spaces.items():
            layer = inner.get_submodule(name)
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            a.sub_(a @ v @ v.T)
            b.sub_(u @ (u.T @ b))
