"""Batches of a split: float images in [0, 1], in order or shuffled, with or without augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from saat.data.splits import ImageSplit
from saat.errors import ArgumentError, check_at_least
from saat.types import Batch, CropFlip


def batches(
    split: ImageSplit,
    batch_size: int,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
    augment: bool = False,
) -> Iterator[Batch]:
    """Yield the batches of a split, `count_batches` of them.

    The last may be smaller, and one of a single image joins the one before: a batch norm learns nothing from one value.

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
    parts = list(torch.split(rows, batch_size))
    if len(parts) > count_batches(len(split), batch_size):
        parts[-2:] = [torch.cat(parts[-2:])]
    for part in parts:
        images, augmentation = split.images[part].to(device), None
        if augment and generator is not None:
            augmentation = draw_crop_flip(len(images), images.shape[-1], generator=generator, device=device)
            images = augmentation.apply(images)
        yield Batch(
            images=images.float() / 255.0,
            labels=split.labels[part].to(device).float(),
            indices=part.to(device),
            augmentation=augmentation,
        )


def count_batches(images: int, batch_size: int) -> int:
    """Return how many batches an epoch has.

    >>> count_batches(64, 32), count_batches(65, 32), count_batches(66, 32), count_batches(1, 32)
    (2, 2, 3, 1)
    """
    whole, left = divmod(images, batch_size)
    return whole + (left > 1 or (left == 1 and not whole))


def draw_crop_flip(
    count: int, size: int, *, generator: torch.Generator, device: torch.device | str = "cpu"
) -> CropFlip:
    """Draw for `count` images of S x S pixels: moved by up to S/8 each way and flipped at even odds, each alone."""
    margin = size // 8
    offsets = torch.randint(-margin, margin + 1, (2, count), generator=generator)
    flipped = torch.rand(count, generator=generator) < 0.5
    return CropFlip(offsets.T.to(device), flipped.to(device))
