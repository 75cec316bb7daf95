"""Flat: exact search in numpy, and the oracle of every other index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saat.errors import check_at_least
from saat.index.base import OrderedIndex, check_packed

_BLOCK_ROWS = 1 << 15  # so that a block of words and its distances stay in the cache
WORDS: tuple[type[np.unsignedinteger], ...] = (np.uint64, np.uint32, np.uint16, np.uint8)


@dataclass(frozen=True)
class RangeResult:
    """All items within a radius of Q queries; those of query q lie at limits[q] to limits[q + 1].

    Args:
        limits: int64 (Q + 1,).
        distances: int32 (M,), ascending for each query.
        ids: int64 (M,), ascending among equal distances of a query.
    """

    limits: NDArray[np.int64]
    distances: NDArray[np.int32]
    ids: NDArray[np.int64]


class RangeIndex(OrderedIndex):
    """An index that also finds all items within a radius."""

    def within(self, packed: NDArray[np.uint8], radius: int) -> RangeResult:
        """Return every item at a distance of at most `radius`, by distance, then by id.

        Args:
            packed: uint8 (Q, K/8).
            radius: in bits, at least 0.

        Raises:
            TypeError: `packed` is not uint8.
            ArgumentError: `packed` is not (Q, K/8), or `radius` is below 0.
        """
        check_packed(packed, self._code_length)
        check_at_least("radius", radius, 0)
        none = (np.empty(0, np.int32), np.empty(0, np.int64))
        found = [self._near(query, radius) if len(self) else none for query in np.ascontiguousarray(packed)]
        counts = np.array([0] + [len(rows) for _, rows in found], dtype=np.int64)
        if len(found) == 1:  # which is not copied
            distances, rows = found[0]
        else:
            distances, rows = (np.concatenate(parts) for parts in zip(none, *found, strict=True))
        return RangeResult(np.cumsum(counts), distances, self._ids.of_rows(rows))

    def _near(self, query: NDArray[np.uint8], radius: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return distances and rows within `radius` of one code (K/8,), by distance, then by row."""
        distances = distances_to(query, self._codes())
        return by_distance(distances, np.flatnonzero(distances <= radius))


class FlatIndex(RangeIndex):
    """Compares each query with every code: `np.bitwise_count` over words, as wide as the code allows.

    Args:
        code_length: K, in bits, a positive multiple of 8.

    >>> index = FlatIndex(8)
    >>> index.add(np.array([[0], [7], [1]], dtype=np.uint8), np.array([4, 2, 9]))
    >>> index.search(np.array([[3]], dtype=np.uint8), 2)
    SearchResult(distances=array([[1, 1]], dtype=int32), ids=array([[2, 9]]))
    """

    def __init__(self, code_length: int) -> None:
        super().__init__(code_length)
        self._packed = np.empty((0, code_length // 8), np.uint8)

    def _codes(self) -> NDArray[np.uint8]:
        return self._packed

    def _set_codes(self, packed: NDArray[np.uint8]) -> None:
        self._packed = np.ascontiguousarray(packed)

    def _append(self, packed: NDArray[np.uint8]) -> None:
        self._packed = np.concatenate([self._packed, packed])

    def _nearest(self, packed: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        found = [nearest_rows(distances_to(query, self._packed), k) for query in packed]
        return np.stack([distances for distances, _ in found]), np.stack([rows for _, rows in found])


def distances_to(query: NDArray[np.uint8], packed: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the Hamming distance of each code to one query.

    Args:
        query: uint8 (K/8,), contiguous.
        packed: uint8 (N, K/8), contiguous.

    Returns:
        int32 (N,).

    >>> distances_to(np.array([129, 0], np.uint8), np.array([[129, 0], [0, 255]], np.uint8)).tolist()
    [0, 10]
    """
    query_words, words = words_of(query), words_of(packed)
    distances = np.empty(len(packed), dtype=np.int32)
    for start in range(0, len(packed), _BLOCK_ROWS):
        block, sums = words[start : start + _BLOCK_ROWS], distances[start : start + _BLOCK_ROWS]
        sums[:] = np.bitwise_count(block[:, 0] ^ query_words[0])
        for place in range(1, len(query_words)):  # a sum over so short an axis would cost ten times as much
            sums += np.bitwise_count(block[:, place] ^ query_words[place])
    return distances


def words_of(packed: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
    """Return contiguous codes (..., K/8) as words, as wide as the code allows.

    >>> words_of(np.array([[1, 1, 0, 0, 2, 0]], np.uint8)).tolist()
    [[257, 0, 2]]
    """
    width = packed.shape[-1]
    return packed.view(next(word for word in WORDS if width % np.dtype(word).itemsize == 0))


def nearest_rows(distances: NDArray[np.int32], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the `k` smallest distances and their rows, by distance, then by row; k is at most N.

    Few distances exist, so counting them gives the largest one that is wanted, and only rows up to it are sorted.
    """
    reached = np.cumsum(np.bincount(distances))
    last = int(np.searchsorted(reached, k))
    nearest, rows = by_distance(distances, np.flatnonzero(distances <= last))
    return nearest[:k], rows[:k]


def by_distance(distances: NDArray[np.int32], rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the distances of some ascending rows, and the rows, by distance, then by row."""
    chosen = distances[rows]
    order = np.argsort(chosen, kind="stable")
    return chosen[order], rows[order]
