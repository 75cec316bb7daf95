"""A linear model that keeps what it is shown, objectives of a known slope on it, and threat models."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from saat.attacks.threat import ThreatModel
from saat.types import CodeObjective

THREATS = {"linf": ThreatModel("linf", 8 / 255), "l2": ThreatModel("l2", 0.5)}
WIDE = ThreatModel("linf", 0.25)


class Recorder(nn.Module):
    """The pixels of an image as its logits, a linear model; it keeps all that it was shown."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        linear = nn.Linear(pixels, pixels, bias=False)
        linear.weight.data = torch.eye(pixels)
        self.layers = nn.Sequential(nn.Flatten(), linear)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        logits: Tensor = self.layers(images)
        return logits


def sloped(slope: Callable[[Tensor], Tensor]) -> CodeObjective:
    """An objective whose gradient in the first logit is `slope` of that logit, and 0 in all others."""
    return lambda logits: slope(logits[:, 0].detach()) * logits[:, 0]
