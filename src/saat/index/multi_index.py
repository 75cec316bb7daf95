"""Multi-index hashing: exact search within a radius that looks at few codes."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from saat.index.flat import RangeIndex, by_distance, distances_to, nearest_rows

_MOST_BITS = 32  # of a piece: keys are uint32


class MultiIndex(RangeIndex):
    """Tables over pieces of the codes (Norouzi, Punjani, Fleet, *Fast Exact Search in Hamming Space with Multi-Index
    Hashing*, TPAMI 2014).

    A code is cut in m pieces. Let r = m s + a with 0 <= a < m. Codes within distance r of each other agree, up to s
    bits, in one of the first a + 1 pieces, or, up to s - 1 bits, in one of the others: were all of those farther, the
    distance would be at least (a + 1)(s + 1) + (m - a - 1) s = r + 1. So the rows that share such a piece are the only
    candidates, and their true distances decide. With m = K / log2(N) pieces, as in the paper, a key has about one row.
    Where looking up keys would cost more than comparing all codes, all codes are compared.

    The tables are built at the first search after a change.

    Args:
        code_length: K, in bits, a positive multiple of 8.
    """

    def __init__(self, code_length: int) -> None:
        super().__init__(code_length)
        self._packed = np.empty((0, code_length // 8), np.uint8)
        self._tables: list[tuple[slice, NDArray[np.uint32], NDArray[np.uint32]]] = []

    def _codes(self) -> NDArray[np.uint8]:
        return self._packed

    def _set_codes(self, packed: NDArray[np.uint8]) -> None:
        self._packed = np.ascontiguousarray(packed)
        self._tables = []

    def _append(self, packed: NDArray[np.uint8]) -> None:
        self._set_codes(np.concatenate([self._packed, packed]))

    def _near(self, query: NDArray[np.uint8], radius: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if not self._tables:
            self._build()
        candidates = self._candidates(query, radius)
        if candidates is None:
            return super()._near(query, radius)
        distances = distances_to(query, self._packed[candidates])
        nearest, places = by_distance(distances, np.flatnonzero(distances <= radius))
        return nearest, candidates[places]

    def _nearest(self, packed: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        found = [self._nearest_to(query, k) for query in packed]
        return np.stack([distances for distances, _ in found]), np.stack([rows for _, rows in found])

    def _nearest_to(self, query: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Widen the radius until it holds k rows: all at that distance are then known, and ties are exact."""
        if not self._tables:
            self._build()
        step = len(self._tables)  # one more bit a piece
        for radius in range(step - 1, self._code_length, step):
            if self._candidates_cost(radius) > len(self):
                break
            distances, rows = self._near(query, radius)
            if len(rows) >= k:
                return distances[:k], rows[:k]
        return nearest_rows(distances_to(query, self._packed), k)

    def _build(self) -> None:
        pieces = max(1, round(self._code_length / max(1.0, math.log2(len(self)))))
        pieces = max(pieces, math.ceil(self._code_length / _MOST_BITS))
        edges = np.linspace(0, self._code_length, pieces + 1).round().astype(int).tolist()
        for start, end in pairwise(edges):
            keys = piece_keys(self._packed, slice(start, end))
            order = np.argsort(keys, kind="stable").astype(np.uint32)
            self._tables.append((slice(start, end), keys[order], order))

    def _probe_bits(self, radius: int) -> list[int]:
        """Return for each piece how many of its bits may differ; -1 for a piece that need not be looked up."""
        each, rest = divmod(radius, len(self._tables))
        return [each if place <= rest else each - 1 for place in range(len(self._tables))]

    def _candidates_cost(self, radius: int) -> int:
        """Return how many keys a search within `radius` looks up."""
        widths = [piece.stop - piece.start for piece, _, _ in self._tables]
        pairs = zip(widths, self._probe_bits(radius), strict=True)
        return sum(math.comb(width, flips) for width, most in pairs for flips in range(min(width, most) + 1))

    def _candidates(self, query: NDArray[np.uint8], radius: int) -> NDArray[np.int64] | None:
        """Return the rows, ascending, that may lie within `radius`; none where comparing all codes costs less."""
        if self._candidates_cost(radius) > len(self):
            return None
        spans, total = [], 0
        for (piece, keys, order), most in zip(self._tables, self._probe_bits(radius), strict=True):
            if most < 0:
                continue
            width = piece.stop - piece.start
            wanted = piece_keys(query[None], piece)[0] ^ flip_masks(width, min(width, most))
            starts, ends = (np.searchsorted(keys, wanted, side=side) for side in ("left", "right"))
            total += int((ends - starts).sum())
            if total > len(self):
                return None
            spans.append(order[spans_to_places(starts, ends)])
        return np.unique(np.concatenate(spans)).astype(np.int64)


def piece_keys(packed: NDArray[np.uint8], piece: slice) -> NDArray[np.uint32]:
    """Return some neighboring bits of each code as a number, the lowest bit first.

    >>> piece_keys(np.array([[0b10110, 1]], np.uint8), slice(1, 9)).tolist()
    [139]
    """
    first = piece.start // 8
    last = -(-piece.stop // 8)
    keys = np.zeros(len(packed), np.uint64)
    for place in range(first, last):
        keys |= packed[:, place].astype(np.uint64) << np.uint64(8 * (place - first))
    width = piece.stop - piece.start
    return ((keys >> np.uint64(piece.start - 8 * first)) & np.uint64((1 << width) - 1)).astype(np.uint32)


@lru_cache(256)
def flip_masks(width: int, most: int) -> NDArray[np.uint32]:
    """Return every number of `width` bits with at most `most` of them set.

    >>> flip_masks(3, 1).tolist()
    [0, 1, 2, 4]
    """
    masks = [0]
    for count in range(1, most + 1):
        masks += [sum(1 << bit for bit in bits) for bits in combinations(range(width), count)]
    return np.array(masks, dtype=np.uint32)


def spans_to_places(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of all half-open spans, one span after the other.

    >>> spans_to_places(np.array([2, 7]), np.array([4, 8])).tolist()
    [2, 3, 7]
    """
    counts = ends - starts
    places = np.arange(int(counts.sum()), dtype=np.int64)
    places += np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return places
