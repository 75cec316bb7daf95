"""Small models with a known fault, on images with a known structure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.evaluation.deployment import Deployment
from saat.evaluation.metrics import RetrievalMetrics, evaluate_retrieval
from saat.evaluation.suite import SuiteBatch
from saat.hamming import sign_codes
from saat.models.hash_model import encode_logits

CLASSES, SIDE, BITS = 4, 8, 16
QUERIES = 40


def pictures(noise: float, levels: int) -> tuple[Tensor, Tensor]:
    """Images of 1 + levels grays, float (200, 3, 8, 8): a pattern for each of four classes, with noise; and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % CLASSES
    patterns = 0.5 + 0.12 * torch.randn(CLASSES, 3, SIDE, SIDE, generator=generator)
    images = patterns[labels] + noise * torch.randn(200, 3, SIDE, SIDE, generator=generator)
    return (images.clamp(0, 1) * levels).round() / levels, torch.eye(CLASSES)[labels]


class Linear(nn.Module):
    """Sixteen random directions through mid gray: a sound model, and an easy prey."""

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        weight = torch.randn(BITS, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(1))
        self.weight = nn.Parameter(scale * weight)

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weight.T


class Constant(Linear):
    """The same code for every image."""

    def forward(self, images: Tensor) -> Tensor:
        return 0.0 * super().forward(images) + 1.0


class Masked(Linear):
    """Sees few gray levels, so that its gradient is zero: no defense, but gradients do not know."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images * 12.0).round() / 12.0)


class Randomized(Linear):
    """Adds noise at every look."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 0.02 * torch.randn(images.shape))


@dataclass(frozen=True)
class Scene:
    """A model with all that a suite needs to know of it."""

    batch: SuiteBatch
    database: tuple[Tensor, Tensor]
    logits: Tensor

    def measure(self, images: Tensor) -> RetrievalMetrics:
        """Rank the database for images of the batch."""
        codes = sign_codes(encode_logits(self.batch.model, images, quiet=True))
        return evaluate_retrieval(codes, self.batch.labels, *self.database)


def scene(
    model: nn.Module,
    *,
    epsilon: float = 8 / 255,
    norm: str = "linf",
    steps: int = 10,
    noise: float = 0.1,
    levels: int = 255,
) -> Scene:
    """Return 40 queries against 160 items, which are the train split too."""
    images, labels = pictures(noise, levels)
    torch.manual_seed(0)
    logits = encode_logits(model, images, quiet=True)
    query, rest = slice(0, QUERIES), slice(QUERIES, None)
    database = sign_codes(logits[rest]), labels[rest]
    bank = CodeBank(*database)
    batch = SuiteBatch(
        model=model,
        bank=bank,
        deployment=Deployment(bank),
        images=images[query],
        labels=labels[query],
        logits=logits[query],
        best=images[query],
        threat=ThreatModel(norm, epsilon),
        steps=steps,
    )
    return Scene(batch, database, logits[query])
