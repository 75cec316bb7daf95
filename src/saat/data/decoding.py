"""Decode images of any common format, once, into one tensor; damaged ones are named and left out."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from saat.data.collection import Collection, Content
from saat.runtime import available_cores, progress

MAX_PIXELS = 40_000_000  # checked before decoding, so that a decompression bomb costs nothing


@dataclass(frozen=True)
class Decoded:
    """Decoded images of a collection.

    Args:
        images: uint8 (N, 3, S, S).
        rows: int64 (N,), ascending: their rows in the collection.
        digests: N content hashes of the decoded pixels, before any resizing.
        damaged: "name: reason" of each image left out.
    """

    images: Tensor
    rows: NDArray[np.int64]
    digests: tuple[str, ...]
    damaged: tuple[str, ...]


def open_image(content: Content) -> Image.Image:
    """Return an upright RGB image.

    Raises:
        OSError, ValueError, SyntaxError: the content is damaged, too large, or no image.
    """
    if not isinstance(content, bytes):
        return Image.fromarray(content)
    image: Image.Image = Image.open(io.BytesIO(content))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("P", "LA", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def resize_image(image: Image.Image, *, size: int, crop_border: int) -> Image.Image:
    """Cut `crop_border` pixels off each side, then resize to `size` x `size`, aspect ratio given up, nothing cut.

    Raises:
        ValueError: nothing is left after cutting.
    """
    if crop_border:
        width, height = image.width - 2 * crop_border, image.height - 2 * crop_border
        if width < 1 or height < 1:
            raise ValueError(f"{image.width} x {image.height} pixels, nothing left after crop_border {crop_border}")
        image = image.crop((crop_border, crop_border, crop_border + width, crop_border + height))
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def decode_rows(
    collection: Collection, rows: Sequence[int] | NDArray[np.int64], *, size: int, crop_border: int, quiet: bool
) -> Decoded:
    """Decode the items `rows` of a collection in threads.

    Args:
        collection: names and reads the images.
        rows: distinct rows, in any order.
        size: height and width of the result.
        crop_border: pixels cut off each side before resizing.
        quiet: show no bar.
    """
    rows = np.sort(np.asarray(rows, dtype=np.int64))
    images = np.empty((len(rows), 3, size, size), dtype=np.uint8)

    def decode(place: int) -> tuple[str, str]:
        row = int(rows[place])
        try:
            image = open_image(collection.read(row))
            digest = hashlib.sha256(f"{image.width}x{image.height}".encode() + image.tobytes()).hexdigest()[:32]
            images[place] = np.asarray(resize_image(image, size=size, crop_border=crop_border)).transpose(2, 0, 1)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return "", f"{collection.item_names[row]}: {error}"
        return digest, ""

    with ThreadPoolExecutor(available_cores()) as pool:
        decoded = pool.map(decode, range(len(rows)))
        results = list(progress(decoded, "decode", unit="image", quiet=quiet, total=len(rows)))
    kept = np.array([not reason for _, reason in results], dtype=bool)
    return Decoded(
        images=torch.from_numpy(images if kept.all() else images[kept]),
        rows=rows[kept],
        digests=tuple(digest for digest, reason in results if not reason),
        damaged=tuple(reason for _, reason in results if reason),
    )
