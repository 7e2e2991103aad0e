"""Spurious forgetting: how much comes back after a short finetuning on pretraining text.

Skills that a few documents bring back were not erased, only not used (Zheng et al. 2025,
2501.13453). The strength is the number of documents (whole batches of them), none of which is
a reported item; the aligned model reads each `EPOCHS` times.
"""

import torch

from alignment_tax.mitigate.base import Setting, Treatment, check_strength
from alignment_tax.mitigate.replay import check_disjoint, check_texts, text_losses
from alignment_tax.models import Model

EPOCHS, BATCH, LEARNING_RATE = 4, 8, 1e-4


class Relearn(Treatment):
    """Finetunes the outcome of a run on some documents."""

    def __init__(self, setting: Setting, documents: int) -> None:
        self.setting, self.batches = setting, int(check_strength(documents, "relearning") // BATCH)
        check_texts(setting, self.batches * BATCH)
        check_disjoint(setting.replay[: self.batches * BATCH], setting.reported)

    def end(self, model: Model) -> Model:
        """Finetune the policy."""
        parameters = list(model.requires_grad_(True).parameters())
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
        for _ in range(EPOCHS):
            for loss in text_losses(self.setting, model, self.batches, BATCH):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return model
