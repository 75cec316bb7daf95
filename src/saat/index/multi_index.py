"""Multi-index hashing: exact search within a radius that looks at few codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saat.index.flat import RangeIndex, distances_to, nearest_rows, words_of
from saat.index.loops import sift
from saat.index.ordering import split_by_distance
from saat.index.tables import Found, Tables, build_tables, empty_numbers


class MultiIndex(RangeIndex):
    """Tables over pieces of the codes (Norouzi, Punjani, Fleet, *Fast Exact Search in Hamming Space with Multi-Index
    Hashing*, TPAMI 2014).

    A code is cut in m pieces. Let r = m s + a with 0 <= a < m. Codes within distance r of each other agree, up to s
    bits, in one of the first a + 1 pieces, or, up to s - 1 bits, in one of the others: were all of those farther, the
    distance would be at least (a + 1)(s + 1) + (m - a - 1) s = r + 1. So the rows that share such a piece are the only
    candidates, and their true distances decide. With pieces of about log2(N) bits, as in the paper, a key has a few
    rows. Where keys and candidates would cost more than comparing all codes, all codes are compared.

    A key is an address in a table, and the tables of all pieces lie in one array, so that a query is a few calls. They
    take 4 bytes an item and piece, up to 8 more for the keys, and, for codes of up to 64 bits, the code once more, so
    that candidates of a key lie side by side: several times the room of the codes. Where codes repeat, as those of a
    trained model do, all this is of the distinct ones, and 4 bytes an item more. Tables are built at the first search
    after a change. A search has one thread.

    Args:
        code_length: K, in bits, a positive multiple of 8.
    """

    def __init__(self, code_length: int) -> None:
        super().__init__(code_length)
        self._packed = np.empty((0, code_length // 8), np.uint8)
        self._tables: Tables | None = None

    def _codes(self) -> NDArray[np.uint8]:
        return self._packed

    def _set_codes(self, packed: NDArray[np.uint8]) -> None:
        self._packed = np.ascontiguousarray(packed)
        self._tables = None

    def _append(self, packed: NDArray[np.uint8]) -> None:
        self._set_codes(np.concatenate([self._packed, packed]))

    def _near(self, query: NDArray[np.uint8], radius: int) -> Found:
        query, radius = query.copy(), min(radius, self._code_length)  # a copy is aligned, as words must be
        found = self._built().near(query, radius)
        return near_among_all(query, self._packed, radius) if found is None else found

    def _nearest(self, packed: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        found = [self._nearest_to(query.copy(), k) for query in packed]
        return np.stack([distances for distances, _ in found]), np.stack([rows for _, rows in found])

    def _nearest_to(self, query: NDArray[np.uint8], k: int) -> Found:
        """Widen the radius until it holds k rows: all at that distance are then known, and ties are exact."""
        tables = self._built()
        step = len(tables.pieces)  # one more bit a piece
        for radius in range(step - 1, self._code_length, step):
            found = tables.near(query, radius)
            if found is None:
                break
            distances, rows = found
            if len(rows) >= k:
                return distances[:k], rows[:k]
        return nearest_rows(distances_to(query, self._packed), k)

    def _built(self) -> Tables:
        if self._tables is None:
            self._tables = build_tables(self._packed)
        return self._tables


def near_among_all(query: NDArray[np.uint8], packed: NDArray[np.uint8], radius: int) -> Found:
    """Return what of the codes (N, K/8) is within `radius`, at most K, of one code (K/8,), having compared all.

    >>> near_among_all(np.array([3], np.uint8), np.array([[0], [7], [1], [8]], np.uint8), 2)
    (array([1, 1, 2], dtype=int32), array([1, 2, 0]))
    """
    place_bits = np.uint64(len(packed).bit_length())
    found = empty_numbers(len(packed), int(place_bits), radius)
    start, end = np.uint64(0), np.uint64(len(packed))
    near = sift(words_of(packed), start, end, words_of(query), radius, place_bits, found, start)
    rows = np.empty(near, np.int64)
    limits = split_by_distance(found[:near], place_bits, radius, rows)  # which are ascending already
    return np.repeat(np.arange(radius + 1, dtype=np.int32), np.diff(limits)), rows
