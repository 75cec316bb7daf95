"""Pictures: thumbnails for the page, images of the lab as data URLs, queries as files."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saat.data.collection import Content
from saat.data.decoding import open_image

LOSSLESS = 160  # pixels a side up to which a thumbnail is a PNG, small and exact


def thumbnail(content: Content, *, side: int) -> tuple[bytes, str]:
    """Return an image within `side` x `side` pixels, never enlarged, and its media type.

    Raises:
        DataError: the content is damaged, too large, or no image.
    """
    with open_image(content, side=side) as image:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    small = max(image.size) <= LOSSLESS
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if small else "JPEG", quality=88)
    return buffer.getvalue(), "image/png" if small else "image/jpeg"


def data_url(pixels: NDArray[np.uint8]) -> str:
    """Return an image, uint8 (3, H, W), as a PNG in a data URL."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an image, uint8 (3, H, W), as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()


def magnified(change: NDArray[np.int16], factor: int) -> NDArray[np.uint8]:
    """Return a change of pixels (3, H, W), times `factor`, around mid-gray.

    >>> magnified(np.array([[[-2, 0, 99]]], dtype=np.int16), 10).tolist()
    [[[108, 128, 255]]]
    """
    return (128 + change.astype(np.int64) * factor).clip(0, 255).astype(np.uint8)
