"""Purification: a model behind a purifier, and what an attacker who knows of it sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saat.defenses.comdefend import fit_comdefend
from saat.defenses.purifiers import BitDepth, Jpeg, Purifier, ResizePad, TotalVariation
from saat.models.hash_model import HashModel
from saat.runtime import device_of


class PurifiedModel(HashModel):
    """A model whose images are purified first, queries and database alike.

    Args:
        model: purified images -> logits (B, K).
        purifier: images -> purified images.
    """

    def __init__(self, model: HashModel, purifier: Purifier) -> None:
        # `model` normalizes by itself.
        super().__init__(model, nn.Identity(), code_length=model.code_length, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.purifier = purifier
        self.to(device_of(model))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to the logits (B, K) of the purified images."""
        return super().forward(self.purifier(images))

    def attack_view(self) -> nn.Module:
        """Return what an adaptive attacker searches in place of this model.

        Its forward pass is that of this model, or, where the purifier draws at random, the mean over draws of the
        attacker's own; its gradient gets through purifiers that have none.
        """
        return self.purifier.attack_view(self.backbone)


@dataclass(frozen=True, kw_only=True)
class PurifierOptions:
    """What a purifier is told; each takes what it knows.

    Args:
        images: uint8 (N, 3, H, W), clean, of the train split.
        seed: of all that is drawn.
        device: where the model is.
        quiet: show no bars.
    """

    images: Tensor
    seed: int
    device: torch.device
    quiet: bool


def _comdefend(options: PurifierOptions) -> Purifier:
    return fit_comdefend(options.images, seed=options.seed, device=options.device, quiet=options.quiet)


PURIFIERS: Mapping[str, Callable[[PurifierOptions], Purifier]] = {
    "jpeg": lambda _: Jpeg(75),
    "bit-depth": lambda _: BitDepth(4),
    "resize-pad": lambda options: ResizePad(seed=options.seed),
    "total-variation": lambda _: TotalVariation(),
    "comdefend": _comdefend,
}
"""Purifiers by name, with fixed settings."""
