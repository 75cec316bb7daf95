"""Real images for these tests, encoded by real encoders."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saat.data.collection import Collection


def picture(seed: int, *, width: int = 24, height: int = 16) -> Image.Image:
    """Return a color image of soft noise that only `seed` gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_picture(path: Path, seed: int, **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, **size).save(path)
    return path


def collection_of(contents: list[bytes], labels: NDArray[np.uint8] | None = None) -> Collection:
    """Return a collection of one pool over encoded images."""
    if labels is None:
        labels = np.ones((len(contents), 1), np.uint8)
    return Collection(
        item_names=tuple(f"item {row}" for row in range(len(contents))),
        labels=labels,
        class_names=tuple(f"class {number}" for number in range(labels.shape[1])),
        pools={"all": np.arange(len(contents))},
        read=lambda row: contents[row],
        image_size=8,
    )
