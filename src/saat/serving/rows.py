"""Rows of an index as a search tells of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from saat.index.content import IndexContent
from saat.serving.hits import Hit


def hits_of(
    content: IndexContent, code: NDArray[np.uint8], ids: NDArray[np.int64], distances: NDArray[np.int32]
) -> list[Hit]:
    """Return the items of `ids` (k,) as hits, at `distances` (k,) from a packed code (K/8,)."""
    places = np.searchsorted(content.ids, ids)
    rows = content.rows(places)
    differing = np.unpackbits(content.packed[places] ^ code, axis=1, bitorder="little")
    return [
        Hit(int(row["id"]), int(distance), tuple(np.flatnonzero(bits).tolist()), name_of(row), shown(row))
        for row, distance, bits in zip(rows, distances.tolist(), differing, strict=False)
    ]


def place_of(content: IndexContent, number: int) -> int:
    """Return the place of an item among those of an index.

    Raises:
        KeyError: there is none of this id.
    """
    place = int(np.searchsorted(content.ids, number))
    if place == len(content) or int(content.ids[place]) != number:
        raise KeyError(number)
    return place


def row_of(content: IndexContent, number: int) -> dict[str, Any]:
    """Return all columns of an item.

    Raises:
        KeyError: there is none of this id.
    """
    return content.rows(np.array([place_of(content, number)]))[0]


def name_of(row: Mapping[str, Any]) -> str:
    """Return the name of an item's file, without its folder."""
    return PurePath(str(row.get("path", ""))).name


def without_folders(metadata: pa.Table) -> pa.Table:
    """Return the metadata with the names of files for `path`, so that no condition finds out folders piece by piece."""
    place = metadata.column_names.index("path")
    return metadata.set_column(place, "path", pc.replace_substring_regex(metadata.column("path"), r"(?s).*[/\\]", ""))


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that leaves the machine; paths of its disk stay."""
    return {name: plain(value) for name, value in row.items() if name not in ("id", "path")}


def plain(value: Any) -> Any:
    """Return a value that JSON has: none for a number that is not finite, and other kinds, such as dates, as text.

    >>> plain({"price": [1.5, math.inf]})
    {'price': [1.5, None]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return str(value)
