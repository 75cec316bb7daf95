"""Batches of a split: float images in [0, 1], in order or shuffled, with or without augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from saat.data.splits import ImageSplit
from saat.errors import ArgumentError, check_at_least
from saat.types import Batch


def batches(
    split: ImageSplit,
    batch_size: int,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
    augment: bool = False,
) -> Iterator[Batch]:
    """Yield the batches of a split; the last may be smaller.

    Args:
        split: decoded images.
        batch_size: images a batch.
        device: where the batches go.
        generator: on the CPU; shuffles and augments. Without it, images come in order.
        augment: random crop after padding by an eighth, and horizontal flip, for each image; needs `generator`.

    Raises:
        ArgumentError: `batch_size` is below 1, or `augment` comes without a generator; when the first batch is asked.
    """
    check_at_least("batch_size", batch_size, 1)
    if augment and generator is None:
        raise ArgumentError("`augment` needs a generator to draw from; got generator None")
    rows = torch.arange(len(split)) if generator is None else torch.randperm(len(split), generator=generator)
    for part in torch.split(rows, batch_size):
        images = split.images[part]
        if augment and generator is not None:
            images = crop_and_flip(images, generator=generator)
        yield Batch(
            images=images.to(device).float() / 255.0,
            labels=split.labels[part].to(device).float(),
            indices=part.to(device),
        )


def crop_and_flip(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return images (B, 3, S, S) moved by up to S/8 each way (edges repeated) and flipped at even odds, each alone."""
    count, _, size, _ = images.shape
    margin = size // 8
    padded = F.pad(images.float(), (margin,) * 4, mode="replicate").to(images.dtype)
    across = torch.arange(size)
    top, left = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator)
    flipped = torch.rand(count, 1, generator=generator) < 0.5
    columns = left + torch.where(flipped, size - 1 - across, across)
    rows = top + across
    image = torch.arange(count).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
