"""A contact sheet: the query and its results in one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from saat.data.collection import Content
from saat.data.decoding import open_image
from saat.errors import DataError
from saat.recipes.items import read_item
from saat.runtime import atomic_write

ACROSS = 6  # tiles in a row
SIDE = 160  # of a picture, in pixels
MARGIN = 12
LINE = 18  # height of a line of text
LINES = 2
INK, FAINT, PAPER, LACK = "#1a1a1a", "#6b6b6b", "#ffffff", "#eeeeee"


def write_sheet(
    path: Path, query: Content, hits: Sequence[Mapping[str, Any]], *, read: Callable[[str], Content] = read_item
) -> None:
    """Write a PNG: the query first, then each result with its distance, label and name.

    Args:
        path: of the PNG.
        query: an image.
        hits: results with `distance` and `path`; one whose image cannot be read any more is an empty tile.
        read: path -> image.
    """
    tiles = [(_picture(query), "query", "")]
    for hit in hits:
        bits = f"{hit['distance']} bit{'s' * (hit['distance'] != 1)}"
        above = " · ".join(str(part) for part in (bits, hit.get("label")) if part is not None)
        tiles.append((_picture_of(str(hit["path"]), read), above, Path(str(hit["path"])).name))
    across = min(ACROSS, len(tiles))
    down = -(-len(tiles) // across)
    height = SIDE + LINES * LINE + MARGIN
    sheet = Image.new("RGB", (MARGIN + across * (SIDE + MARGIN), MARGIN + down * height), PAPER)
    draw, font = ImageDraw.Draw(sheet), _font()
    for place, (picture, above, below) in enumerate(tiles):
        left, top = MARGIN + place % across * (SIDE + MARGIN), MARGIN + place // across * height
        sheet.paste(picture, (left, top))
        for line, (text, color) in enumerate(((above, INK), (below, FAINT))):
            draw.text((left, top + SIDE + 3 + line * LINE), _fitted(draw, font, text), fill=color, font=font)
    with atomic_write(path) as file:
        sheet.save(file, "PNG")


def _font() -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib brings along: Pillow's own font has letters of English alone."""
    import matplotlib  # takes a while, which other searches can do without

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 12)


def _picture(content: Content) -> Image.Image:
    """Return an image as a square tile, whole, on the paper's color."""
    with open_image(content, side=SIDE) as image:
        return ImageOps.pad(image, (SIDE, SIDE), method=Image.Resampling.LANCZOS, color=PAPER)


def _picture_of(path: str, read: Callable[[str], Content]) -> Image.Image:
    try:
        return _picture(read(path))
    except (DataError, OSError):  # moved or damaged since the index was built
        return Image.new("RGB", (SIDE, SIDE), LACK)


def _fitted(draw: ImageDraw.ImageDraw, font: Any, text: str) -> str:
    """Return `text` in one line, its end cut off where it is wider than a tile."""
    text = " ".join(text.split())
    if draw.textlength(text, font=font) <= SIDE:
        return text
    while text and draw.textlength(text + "…", font=font) > SIDE:
        text = text[:-1]
    return text + "…"
