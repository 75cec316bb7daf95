"""The contracts: the few values that flow between the floors of the package.

Shape letters everywhere: B batch, N database, Q queries, K code length, C classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

CodeObjective = Callable[[Tensor], Tensor]
"""Logits (B, K) -> (B,): what an attacker minimizes; lower is nearer to the attacker's aim."""


@dataclass(frozen=True)
class CropFlip:
    """Which square of its stored image each image of a batch shows, as large as that image, and whether it is flipped.

    Args:
        offsets: int64 (B, 2), the row and the column of the stored image where the square begins; the square reaches
            into padding where one is not 0.
        flipped: bool (B,), left and right exchanged in the square.
    """

    offsets: Tensor
    flipped: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """Return the squares of stored images (B, 3, S, S); in the padding, the nearest pixel is repeated."""
        return _pixels(images, *self._stored_places(images.shape[-1]))

    def follow(self, changes: Tensor) -> Tensor:
        """Return the changes of stored images (B, 3, S, S) where the squares show them; the padding has none, 0.

        >>> drawn = CropFlip(torch.tensor([[0, 1]]), torch.tensor([True]))  # of 1 2 / 3 4: the right column, flipped
        >>> drawn.follow(torch.tensor([[[[1, 2], [3, 4]]]]))
        tensor([[[[0, 2],
                  [0, 4]]]])
        """
        places = self._stored_places(changes.shape[-1])
        return torch.where(_inside(*places, changes.shape[-1]), _pixels(changes, *places), 0)

    def undo(self, changes: Tensor, kept: Tensor) -> Tensor:
        """Return the changes of squares (B, 3, S, S) in the stored images; what a square does not show is as in `kept`.

        >>> drawn = CropFlip(torch.tensor([[0, 1]]), torch.tensor([True]))
        >>> drawn.undo(torch.tensor([[[[5, 6], [7, 8]]]]), torch.tensor([[[[1, 2], [3, 4]]]]))
        tensor([[[[1, 6],
                  [3, 8]]]])
        """
        size = changes.shape[-1]
        places = torch.arange(size, device=self.offsets.device) - self.offsets[:, :, None]
        rows, columns = places.unbind(1)
        columns = torch.where(self.flipped[:, None], size - 1 - columns, columns)
        return torch.where(_inside(rows, columns, size), _pixels(changes, rows, columns), kept)

    def _stored_places(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the rows and the columns (B, S) of the stored images that the squares show."""
        across = torch.arange(size, device=self.offsets.device)
        rows, columns = self.offsets[:, :1], self.offsets[:, 1:]
        return rows + across, columns + torch.where(self.flipped[:, None], size - 1 - across, across)


def _pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the pixels of images (B, 3, S, S) at rows and columns (B, S), or those nearest to there."""
    image = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    rows, columns = (places.clamp(0, images.shape[-1] - 1) for places in (rows, columns))
    return images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _inside(rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """Return whether rows and columns (B, S) are those of a pixel, bool (B, 1, S, S)."""
    rows, columns = ((places >= 0) & (places < size) for places in (rows, columns))
    return (rows[:, :, None] & columns[:, None, :])[:, None]


@dataclass(frozen=True)
class Batch:
    """One batch of labeled images.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        labels: float (B, C), multi-hot.
        indices: int64 (B,), the rows of these images in their split.
        augmentation: what was drawn for these images; none without augmentation.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    augmentation: CropFlip | None = None

    def select(self, chosen: Tensor) -> Batch:
        """Return the images where `chosen`, bool (B,), is true."""
        drawn = self.augmentation
        if drawn is not None:
            drawn = CropFlip(drawn.offsets[chosen], drawn.flipped[chosen])
        return Batch(self.images[chosen], self.labels[chosen], self.indices[chosen], drawn)


@dataclass(frozen=True)
class StepOutput:
    """What one train step gives back.

    Args:
        loss: scalar, to differentiate.
        parts: the terms of the loss by name, to log.
    """

    loss: Tensor
    parts: Mapping[str, float] = field(default_factory=dict)


class HashingLoss(Protocol):
    """A hashing objective. It knows no network: it sees logits (B, K), labels (B, C) and indices (B,)."""

    def __call__(self, logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Return the scalar loss of one batch."""
        ...


class Goal(Protocol):
    """Where an attack sends the code: away from something (untargeted) or toward something (targeted)."""

    @property
    def targeted(self) -> bool:
        """Whether the goal is to come near to something."""
        ...

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:
        """Return the objective of this batch: images (B, 3, H, W) in [0, 1], labels (B, C)."""
        ...


class TrainStep(Protocol):
    """One step of training, usually an `nn.Module` with this forward. `fit` serves clean and adversarial training."""

    def __call__(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`, with its graph."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that the step remembers between batches, so that training can resume."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take back what `state_dict` gave."""
        ...


def has_label(labels: Tensor) -> Tensor:
    """Return which rows of `labels` (B, C) have a label at all, bool (B,)."""
    return (labels > 0).any(dim=1)
