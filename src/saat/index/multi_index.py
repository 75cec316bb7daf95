"""Multi-index hashing: exact search within a radius that looks at few codes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from saat.index.flat import RangeIndex, distances_to, nearest_rows, words_of
from saat.index.loops import Numbers, Words, fill_table, find_spans, keep_near, put_in_order, sift

Found = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Distances and rows (M,), by distance, then by row."""
_KEY, _CANDIDATE = 64, 16  # codes compared one after the other in the time of one key, and of one candidate, measured
_BITS_IN_ORDER = 64  # codes up to here are kept again in the order of each table


@dataclass(frozen=True)
class Probes:
    """The keys that a search looks up.

    Args:
        flips: how many bits may differ in each piece, int64 (m,); -1 for a piece that need not be looked up.
        pieces: the piece of each key, int64 (P,), ascending.
        masks: the bits flipped in it, int64 (P,).
    """

    flips: NDArray[np.int64]
    pieces: NDArray[np.int64]
    masks: NDArray[np.int64]


@dataclass(frozen=True)
class Tables:
    """The rows of N codes by the bits of each of m pieces.

    Args:
        pieces: bits of the code, the wider pieces first.
        bases: where the keys of a piece begin in `starts`: a multiple of their number, so that key and base are or-ed.
        starts: where the rows of a key begin in `rows`; those of the next key follow.
        rows: uint32 (m N,), for each piece all rows, by key, then ascending.
        codes: (m N, W) in the order of `rows`, or, where that would take too much room, (N, W) by row.
        parts: (m, W), the bits of each piece.
    """

    pieces: tuple[slice, ...]
    bases: tuple[int, ...]
    starts: NDArray[np.unsignedinteger]
    rows: NDArray[np.uint32]
    codes: Words
    parts: Words

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of each piece."""
        return tuple(piece.stop - piece.start for piece in self.pieces)

    @property
    def count(self) -> int:
        """N."""
        return len(self.rows) // len(self.pieces)

    @property
    def in_order(self) -> bool:
        """Whether the codes of a key lie side by side."""
        return len(self.codes) == len(self.rows)

    def spans(self, query: NDArray[np.uint8], probed: Probes) -> tuple[NDArray[np.uint64], int]:
        """Return where in `rows` the rows of each key for one code (K/8,) begin and end, (P, 2), and their number."""
        value = int.from_bytes(query.tobytes(), "little")
        parts = zip(self.pieces, self.widths, self.bases, strict=True)
        addresses = [base | (value >> piece.start) & ((1 << width) - 1) for piece, width, base in parts]
        spans = np.empty((len(probed.masks), 2), np.uint64)
        return spans, int(find_spans(self.starts, np.array(addresses), probed.pieces, probed.masks, spans))

    def near(self, query: NDArray[np.uint8], radius: int) -> Found | None:
        """Return what is within `radius` of one code (K/8,); none where comparing all codes costs less."""
        most = (self.count - _KEY * count_probes(self.widths, radius)) // _CANDIDATE
        if most < 0:
            return None
        probed = probes(self.widths, radius)
        spans, candidates = self.spans(query, probed)
        return None if candidates > most else self.sifted(query, radius, probed, spans, candidates)

    def sifted(
        self, query: NDArray[np.uint8], radius: int, probed: Probes, spans: NDArray[np.uint64], candidates: int
    ) -> Found:
        """Return what of the candidates in `spans` is within `radius`."""
        place_bits = len(self.rows).bit_length()
        found = numbers(candidates, place_bits, radius)
        held, probing, asked = (self.codes, self.rows, self.in_order), (spans, probed.pieces), words_of(query)
        kept = keep_near(*held, *probing, asked, self.parts, probed.flips, radius, np.uint64(place_bits), found)
        return ordered(found[:kept], place_bits, radius, first_bit=0)


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
    that candidates of a key lie side by side: several times the room of the codes. They are built at the first search
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


def build_tables(packed: NDArray[np.uint8]) -> Tables:
    """Return the tables of codes (N, K/8), N at least 1, with no more than about 2 N keys a piece."""
    count, code_length = len(packed), 8 * packed.shape[1]
    pieces = math.ceil(code_length / (math.log2(count) + 1))
    width, wider = divmod(code_length, pieces)
    widths = [width + 1] * wider + [width] * (pieces - wider)
    edges = pairwise(accumulate(widths, initial=0))
    *bases, keys_in_all = accumulate((1 << width for width in widths), initial=0)
    starts = np.empty(keys_in_all + 1, np.uint32 if pieces * count < 1 << 32 else np.uint64)
    starts[-1] = pieces * count
    slices = tuple(slice(start, end) for start, end in edges)
    rows = np.empty(pieces * count, np.uint32)
    words = words_of(packed)
    in_order = code_length <= _BITS_IN_ORDER
    codes = np.empty((pieces * count, words.shape[1]), words.dtype) if in_order else words
    for number, (piece, base) in enumerate(zip(slices, bases, strict=True)):
        keys, table = piece_keys(packed, piece), slice(number * count, (number + 1) * count)
        counts = np.bincount(keys, minlength=1 << (piece.stop - piece.start))
        places = np.cumsum(counts) - counts
        starts[base : base + len(counts)] = table.start + places
        fill_table(keys, places, rows[table])
        if in_order:
            words.take(rows[table], axis=0, out=codes[table], mode="clip")  # clipping spares the check of each place
    bits = np.zeros((pieces, code_length), np.uint8)
    for number, piece in enumerate(slices):
        bits[number, piece] = 1
    return Tables(slices, tuple(bases), starts, rows, codes, words_of(np.packbits(bits, axis=1, bitorder="little")))


def near_among_all(query: NDArray[np.uint8], packed: NDArray[np.uint8], radius: int) -> Found:
    """Return what of the codes (N, K/8) is within `radius`, at most K, of one code (K/8,), having compared all.

    >>> near_among_all(np.array([3], np.uint8), np.array([[0], [7], [1], [8]], np.uint8), 2)
    (array([1, 1, 2], dtype=int32), array([1, 2, 0]))
    """
    place_bits = len(packed).bit_length()
    found = numbers(len(packed), place_bits, radius)
    start, end = np.uint64(0), np.uint64(len(packed))
    near = sift(words_of(packed), start, end, words_of(query), radius, np.uint64(place_bits), found, start)
    return ordered(found[:near], place_bits, radius, first_bit=place_bits)


def numbers(count: int, place_bits: int, radius: int) -> Numbers:
    """Return room for so many numbers of `sift`, of distances up to `radius`."""
    return np.empty(count, np.uint32 if place_bits + radius.bit_length() <= 32 else np.uint64)


def ordered(found: Numbers, place_bits: int, radius: int, *, first_bit: int) -> Found:
    """Return distances and rows of numbers of `sift` (M,), which are by the bits below `first_bit` already."""
    distances, rows = np.empty(len(found), np.int32), np.empty(len(found), np.int64)
    end_bit = place_bits + max(1, radius.bit_length())
    put_in_order(found, np.uint64(place_bits), np.uint64(first_bit), np.uint64(end_bit), distances, rows)
    return distances, rows


def flips_of(pieces: int, radius: int) -> list[int]:
    """Return for each piece how many of its bits may differ; -1 for a piece that need not be looked up.

    >>> flips_of(3, 7), flips_of(3, 1)
    ([2, 2, 1], [0, 0, -1])
    """
    each, rest = divmod(radius, pieces)
    return [each if place <= rest else each - 1 for place in range(pieces)]


@lru_cache(32)
def count_probes(widths: tuple[int, ...], radius: int) -> int:
    """Return how many keys a search within `radius` looks up.

    >>> count_probes((3, 2), 2)
    5
    """
    pairs = zip(widths, flips_of(len(widths), radius), strict=True)
    return sum(math.comb(width, flips) for width, most in pairs for flips in range(min(width, most) + 1))


@lru_cache(32)
def probes(widths: tuple[int, ...], radius: int) -> Probes:
    """Return the keys that a search within `radius` looks up.

    >>> found = probes((3, 2), 2)
    >>> found.flips.tolist(), found.pieces.tolist(), found.masks.tolist()
    ([1, 0], [0, 0, 0, 0, 1], [0, 1, 2, 4, 0])
    """
    flips = flips_of(len(widths), radius)
    masks = [flip_masks(width, most) for width, most in zip(widths, flips, strict=True)]
    pieces = np.repeat(np.arange(len(widths)), [len(part) for part in masks])
    return Probes(np.array(flips), pieces, np.concatenate(masks))


def flip_masks(width: int, most: int) -> NDArray[np.int64]:
    """Return every number of `width` bits with at most `most` of them set.

    >>> flip_masks(3, 1).tolist()
    [0, 1, 2, 4]
    """
    return np.flatnonzero(np.bitwise_count(np.arange(1 << width)).astype(np.int8) <= most)


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
