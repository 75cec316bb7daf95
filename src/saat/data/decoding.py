"""Decode images of any common format, once, into one tensor; damaged ones are named and left out."""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from saat.data.collection import Collection, Content
from saat.errors import DataError
from saat.runtime import available_cores, progress

# Checked before decoding, so that a decompression bomb costs nothing.
OWN_PIXELS = 178_000_000  # of files that their owner gives: photographs of large cameras are in; Pillow opens few more
UPLOAD_PIXELS = 40_000_000  # of images that anyone sends
_LARGE = Lock()  # larger ones are decoded one at a time: each takes up to ten bytes a pixel
# Pillow knows forty more, most of them rarely tried with hostile bytes, and one of which starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
NO_IMAGE = "not an image in JPEG, PNG, WebP, GIF, BMP, TIFF, PPM or JPEG 2000"
STRIP = 1_000_000  # pixels laid over white at a time
MAX_MEMORY = 2 * 1024**3  # bytes of pixels; more lie in a temporary file


@dataclass(frozen=True)
class Decoded:
    """Images of a collection after decoding.

    Args:
        images: uint8 (N, 3, S, S); those of damaged images mean nothing.
        rows: int64 (N,), ascending: their rows in the collection.
        digests: N content hashes of the decoded pixels, before any cutting or resizing; empty for a damaged image.
        damaged: "name: reason" of each image left out.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    digests: tuple[str, ...]
    damaged: tuple[str, ...]


def allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an array for pixels, its values undefined; above 2 GB it lies in a temporary file that goes with it.

    Raises:
        DataError: the disk of temporary files has no room for it.
    """
    size = math.prod(shape)
    if size <= MAX_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:  # the map keeps the file alive after this
        if hasattr(os, "posix_fallocate"):  # else a full disk would end the process at some pixel, by SIGBUS
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # others: of a disk that reserves nothing
                    rule = f"{size:,} bytes of pixels have room in {tempfile.gettempdir()}; TMPDIR names another folder"
                    raise DataError(f"{rule}: {error.strerror}") from error
        return np.memmap(file, np.uint8, mode="w+", shape=shape)


def check_upload(content: bytes) -> None:
    """Raise if what someone sent is an image of more than `UPLOAD_PIXELS`, by its header alone.

    Raises:
        DataError: it is too large, or no image.
    """
    with _named_damage(content):
        _opened(content, UPLOAD_PIXELS)


@contextmanager
def open_image(content: Content, *, side: int = 0) -> Iterator[Image.Image]:
    """Give an upright RGB image, the first frame of an animated one; large ones to one thread at a time.

    Args:
        content: an image file, or pixels.
        side: if this many pixels a side suffice, a JPEG is decoded to a part of its size, down to twice that many.

    Raises:
        DataError: the content is damaged, larger than `OWN_PIXELS`, or no image.
    """
    if not isinstance(content, bytes):
        yield Image.fromarray(content)
        return
    with _named_damage(content):
        image = _opened(content, OWN_PIXELS)
        if side:
            image.draft("RGB", (2 * side, 2 * side))
    with _LARGE if image.width * image.height > UPLOAD_PIXELS else nullcontext():
        with _named_damage(content):
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # else it copies an upright image too
            if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
                raise DataError("pixels of 32 bits, of which nothing says what is white")
            image = as_rgb(image)
        yield image


def _opened(content: bytes, max_pixels: int) -> Image.Image:
    """Return an image of which only the header has been read."""
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:  # whose text has Pillow's own limit
        raise DataError(f"more than {max_pixels:,} pixels") from None
    if image.width * image.height > max_pixels:
        raise DataError(f"{image.width} x {image.height} pixels, more than {max_pixels:,}")
    return image


@contextmanager
def _named_damage(content: bytes) -> Iterator[None]:
    """Raise whatever goes wrong with `content` inside as a `DataError` that says what."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError:  # its own text holds a memory address, another one in each run
        raise DataError(NO_IMAGE if content else "empty") from None
    except Exception as error:  # decoders of hostile bytes raise OSError, SyntaxError, struct.error, EOFError, ...
        raise DataError(str(error) or type(error).__name__) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Return the image in RGB, itself if it is: what is transparent over white, 16-bit gray by its upper byte."""
    if image.mode.startswith("I"):  # plain conversion would clip all above 255 to white
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Return the image over white, made in strips: as a whole it would be in memory five times over."""
    flat = Image.new("RGB", image.size)
    height = max(1, STRIP // image.width)
    for top in range(0, image.height, height):
        strip = image.crop((0, top, image.width, min(top + height, image.height))).convert("RGBA")
        flat.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
    return flat


def resize_image(image: Image.Image, *, size: int, crop_border: int) -> Image.Image:
    """Cut `crop_border` pixels off each side, then resize to `size` x `size`, aspect ratio given up, nothing cut.

    Raises:
        DataError: nothing is left after cutting.
    """
    if crop_border:
        width, height = image.width - 2 * crop_border, image.height - 2 * crop_border
        if width < 1 or height < 1:
            raise DataError(f"{image.width} x {image.height} pixels, nothing left after crop_border {crop_border}")
        image = image.crop((crop_border, crop_border, crop_border + width, crop_border + height))
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def decode_image(content: Content, *, size: int, crop_border: int) -> NDArray[np.uint8]:
    """Return an image as a model takes it, uint8 (3, size, size); see `resize_image`.

    Raises:
        DataError: the content is damaged, too large, or no image.
    """
    with open_image(content) as image:
        resized = resize_image(image, size=size, crop_border=crop_border)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


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
    images = allocate((len(rows), 3, size, size))

    def decode(place: int) -> tuple[str, str]:
        row = int(rows[place])
        try:
            with open_image(collection.read(row)) as image:
                digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
                digest.update(image.tobytes())
                resized = resize_image(image, size=size, crop_border=crop_border)
            images[place] = np.asarray(resized).transpose(2, 0, 1)
        except FileNotFoundError:
            return "", f"{collection.item_names[row]}: file not found"
        except (DataError, OSError) as error:
            return "", f"{collection.item_names[row]}: {error}"
        return digest.hexdigest()[:32], ""

    with ThreadPoolExecutor(available_cores()) as pool:
        decoded = pool.map(decode, range(len(rows)))
        results = list(progress(decoded, "decode", unit="image", quiet=quiet, total=len(rows)))
    return Decoded(
        images=images,
        rows=rows,
        digests=tuple(digest for digest, _ in results),
        damaged=tuple(reason for _, reason in results if reason),
    )


def through_jpeg(pixels: NDArray[np.uint8], *, quality: int) -> NDArray[np.uint8]:
    """Return images, uint8 (N, H, W, 3), as JPEG files of libjpeg's `quality` give them back."""
    decoded = np.empty_like(pixels, order="C")
    for row, image in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(file, "JPEG", quality=quality)
        decoded[row] = np.asarray(Image.open(file))
    return decoded
