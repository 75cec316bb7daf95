"""Indexes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saat.errors import ArgumentError, check_at_least, check_choice
from saat.index.address import is_address, parse_address
from saat.index.base import HammingIndex, SearchResult
from saat.index.faiss_index import FaissIndex, HnswIndex, IvfIndex
from saat.index.flat import FlatIndex, RangeIndex
from saat.index.milvus import MilvusIndex
from saat.index.multi_index import MultiIndex
from saat.index.pgvector import PgvectorIndex
from saat.index.remote import RemoteIndex


@dataclass(frozen=True)
class IndexKind:
    """An entry of the catalog.

    Args:
        about: one line for people.
        exact: whether its results are those of `FlatIndex`, to the last tie.
        make: (code length, threads) -> an empty index.
    """

    about: str
    exact: bool
    make: Callable[[int, int], HammingIndex]


INDEXES: Mapping[str, IndexKind] = {
    "faiss": IndexKind("exact, fastest at large k", True, lambda bits, threads: FaissIndex(bits, threads=threads)),
    "flat": IndexKind("exact, plain numpy", True, lambda bits, _: FlatIndex(bits)),
    "multi-index": IndexKind("exact, fastest for near items among many", True, lambda bits, _: MultiIndex(bits)),
    "hnsw": IndexKind("approximate, a graph", False, lambda bits, threads: HnswIndex(bits, threads=threads)),
    "ivf": IndexKind("approximate, lists", False, lambda bits, threads: IvfIndex(bits, threads=threads)),
}

RADIUS_BACKENDS = ("flat", "multi-index")  # that find all items within a radius
BACKEND = "faiss"  # where none is asked for; of an address, its server's own search


def make_index(name: str, code_length: int, *, threads: int = 1) -> HammingIndex:
    """Return an empty index of the kind `name`.

    Raises:
        ArgumentError: there is no such kind, or `code_length` is not a positive multiple of 8.
    """
    check_choice("backend", name, INDEXES)
    return INDEXES[name].make(code_length, threads)


def check_backend(name: str, index: str | Path) -> None:
    """Raise unless a folder or an address can be searched by the backend `name`.

    Raises:
        ArgumentError: it cannot. Whether an address has a graph for hnsw is known when it is opened.
    """
    check_choice("backend", name, (BACKEND, "hnsw") if is_address(index) else INDEXES)


def check_radius(backend: str, *, remote: bool) -> None:
    """Raise unless all items within a radius can be found.

    Args:
        backend: of a folder's index.
        remote: whether the index is on a server instead.

    Raises:
        ArgumentError: they cannot.
    """
    if remote:
        raise ArgumentError("`radius` is for the folder of an index; a server finds the `k` nearest alone")
    if backend not in RADIUS_BACKENDS:
        raise ArgumentError(f"`radius` is for `backend` {' or '.join(RADIUS_BACKENDS)}; got {backend!r}")


def nearest_within(index: HammingIndex, packed: NDArray[np.uint8], radius: int, *, k: int) -> tuple[SearchResult, int]:
    """Return the `k` nearest of all items within a radius of one query, and how many there are.

    Args:
        index: of `RADIUS_BACKENDS`.
        packed: uint8 (1, K/8).
        radius: in bits, at least 0.
        k: at least 1; where there are fewer items, the result is as short, without padding.

    Raises:
        ArgumentError: `index` is of another kind, `packed` is not (1, K/8), `radius` is below 0, or `k` below 1.

    >>> index = make_index("flat", 8)
    >>> index.add(np.array([[7], [1], [255], [0]], np.uint8), np.arange(4))
    >>> result, count = nearest_within(index, np.array([[0]], np.uint8), 3, k=2)
    >>> result.ids.tolist(), result.distances.tolist(), count
    ([[3, 1]], [[0, 1]], 3)
    """
    check_at_least("k", k, 1)
    if not isinstance(index, RangeIndex):
        raise ArgumentError(f"`radius` is for {' or '.join(RADIUS_BACKENDS)}; got {type(index).__name__}")
    if len(packed) != 1:
        raise ArgumentError(f"`packed` is one query, (1, {index.code_length // 8}); got {packed.shape}")
    found = index.within(packed, radius)
    return SearchResult(found.distances[None, :k], found.ids[None, :k]), len(found.ids)


def open_remote(text: str, *, approximate: bool = False) -> RemoteIndex[Any]:
    """Return the index at an address, or the place for one.

    Args:
        text: the address.
        approximate: search by the graph, which PostgreSQL alone may have.

    Raises:
        ArgumentError: `text` is no address, its client is not installed, or there is no such graph.
        DataError: the server does not answer.
    """
    address = parse_address(text)
    if address.in_postgresql:
        return PgvectorIndex(address, approximate=approximate)
    if approximate:
        raise ArgumentError(f"`backend` hnsw is for PostgreSQL and folders; {address} is searched exactly")
    return MilvusIndex(address)
