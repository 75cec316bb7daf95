"""What adversarial train steps share: the inner search, and logits in the precision of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saat.attacks.base import Attack
from saat.runtime import autocast, derive_seed
from saat.types import CodeObjective


class InnerAttack(nn.Module):
    """An attack whose every call has a random start of its own, also after training has been stopped and resumed.

    Args:
        attack: how to search. It leaves the model's mode and batch statistics as they are.
        seed: of all random starts.
    """

    calls: Tensor

    def __init__(self, attack: Attack, *, seed: int = 0) -> None:
        super().__init__()
        self.attack, self.seed = attack, seed
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, model: nn.Module, images: Tensor, objective: CodeObjective) -> Tensor:
        """Return adversarial images of `images` (B, 3, H, W)."""
        self.calls += 1
        return self.attack(model, images, objective, seed=derive_seed(self.seed, "inner", int(self.calls)))


def train_logits(model: nn.Module, images: Tensor, *, precision: str) -> Tensor:
    """Return the logits of images (B, 3, H, W) with their graph, computed in `precision`, as float32 (B, K)."""
    with autocast(precision, images.device):
        logits: Tensor = model(images)
    return logits.float()
