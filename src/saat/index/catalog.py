"""Indexes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from saat.errors import ArgumentError, check_choice
from saat.index.address import parse_address
from saat.index.base import HammingIndex
from saat.index.faiss_index import FaissIndex, HnswIndex, IvfIndex
from saat.index.flat import FlatIndex
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


def make_index(name: str, code_length: int, *, threads: int = 1) -> HammingIndex:
    """Return an empty index of the kind `name`.

    Raises:
        ArgumentError: there is no such kind, or `code_length` is not a positive multiple of 8.
    """
    check_choice("backend", name, INDEXES)
    return INDEXES[name].make(code_length, threads)


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
