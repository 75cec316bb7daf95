"""What a search finds, for the engine, the service and the client alike. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hit:
    """One result.

    Args:
        id: of the item.
        distance: in bits.
        bits: which bits differ from the query's code, ascending, `distance` of them.
        name: of the item's file, without its folder.
        metadata: the item's columns, without `id` and `path`.
    """

    id: int
    distance: int
    bits: tuple[int, ...]
    name: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One item of an index.

    Args:
        id: given by the index, never used again.
        name: of its file, without its folder.
        metadata: its columns, without `id` and `path`.
    """

    id: int
    name: str
    metadata: dict[str, Any]
