"""The tables of multi-index hashing: the rows of codes by the bits of each piece, and the rows that share a code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from saat.index.flat import words_of
from saat.index.loops import Numbers, Words, fill_table, find_spans, keep_near
from saat.index.ordering import count_rows, split_by_distance, write_rows

Found = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Distances and rows (M,), by distance, then by row."""
_KEY, _CANDIDATE = 64, 16  # codes compared one after the other in the time of one key, and of one candidate, measured
_BITS_IN_ORDER = 64  # codes up to here are kept again in the order of each table
_SAMPLE, _DISTINCT = 100_000, 0.9  # rows looked at, and the share of distinct codes among them, up to which these pay


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
class Groups:
    """The rows of each of D distinct codes.

    Args:
        starts: where the rows of a code begin in `rows`, uint32 (D + 1,).
        rows: uint32 (N,), by code, then ascending.
    """

    starts: NDArray[np.uint32]
    rows: NDArray[np.uint32]


@dataclass(frozen=True)
class Tables:
    """The numbers of D codes by the bits of each of m pieces.

    Args:
        pieces: bits of the code, the wider pieces first.
        bases: where the keys of a piece begin in `starts`: a multiple of their number, so that key and base are or-ed.
        starts: where the codes of a key begin in `numbers`; those of the next key follow.
        numbers: uint32 (m D,), for each piece all codes, by key, then ascending.
        codes: (m D, W) in the order of `numbers`, or, where that would take too much room, (D, W) in their own.
        parts: (m, W), the bits of each piece.
        groups: the rows of each code; none where a code's number is its row.
    """

    pieces: tuple[slice, ...]
    bases: tuple[int, ...]
    starts: NDArray[np.unsignedinteger]
    numbers: NDArray[np.uint32]
    codes: Words
    parts: Words
    groups: Groups | None

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of each piece."""
        return tuple(piece.stop - piece.start for piece in self.pieces)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.numbers) // len(self.pieces) if self.groups is None else len(self.groups.rows)

    @property
    def in_order(self) -> bool:
        """Whether the codes of a key lie side by side."""
        return len(self.codes) == len(self.numbers)

    def spans(self, query: NDArray[np.uint8], probed: Probes) -> tuple[NDArray[np.uint64], int]:
        """Return where in `numbers` those of each key for one code (K/8,) begin and end, (P, 2), and their count."""
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
        place_bits = max(len(self.numbers), self.count).bit_length()
        found, bits = empty_numbers(candidates, place_bits, radius), np.uint64(place_bits)
        held, probing, asked = (self.codes, self.numbers, self.in_order), (spans, probed.pieces), words_of(query)
        found = found[: keep_near(*held, *probing, asked, self.parts, probed.flips, radius, bits, found)]
        codes = np.empty(len(found), np.uint32)
        limits, no_rows = split_by_distance(found, bits, radius, codes), np.empty(0, np.uint32)
        starts, rows = (no_rows, no_rows) if self.groups is None else (self.groups.starts, self.groups.rows)
        count = len(codes) if self.groups is None else int(count_rows(codes, starts))
        distances, ordered = np.empty(count, np.int32), np.empty(count, np.int64)
        row_bits, scratch = (self.count - 1).bit_length(), np.empty((2, count), np.uint32)
        write_rows(codes, limits, starts, rows, row_bits, scratch, distances, ordered)
        return distances, ordered


def empty_numbers(count: int, place_bits: int, radius: int) -> Numbers:
    """Return room for so many numbers of `sift`, of distances up to `radius`."""
    return np.empty(count, np.uint32 if place_bits + radius.bit_length() <= 32 else np.uint64)


def build_tables(packed: NDArray[np.uint8]) -> Tables:
    """Return the tables of codes (N, K/8), N at least 1, with no more than about 2 D keys a piece."""
    packed, groups = grouped(packed)
    count, code_length = len(packed), 8 * packed.shape[1]
    pieces = math.ceil(code_length / (math.log2(count) + 1))
    width, wider = divmod(code_length, pieces)
    widths = [width + 1] * wider + [width] * (pieces - wider)
    edges = pairwise(accumulate(widths, initial=0))
    *bases, keys_in_all = accumulate((1 << width for width in widths), initial=0)
    starts = np.empty(keys_in_all + 1, np.uint32 if pieces * count < 1 << 32 else np.uint64)
    starts[-1] = pieces * count
    slices = tuple(slice(start, end) for start, end in edges)
    numbers = np.empty(pieces * count, np.uint32)
    words = words_of(packed)
    in_order = code_length <= _BITS_IN_ORDER
    codes = np.empty((pieces * count, words.shape[1]), words.dtype) if in_order else words
    for place, (piece, base) in enumerate(zip(slices, bases, strict=True)):
        keys, table = piece_keys(packed, piece), slice(place * count, (place + 1) * count)
        counts = np.bincount(keys, minlength=1 << (piece.stop - piece.start))
        places = np.cumsum(counts) - counts
        starts[base : base + len(counts)] = table.start + places
        fill_table(keys, places, numbers[table])
        if in_order:
            words.take(numbers[table], axis=0, out=codes[table], mode="clip")  # clipping spares a check of each place
    bits = np.zeros((pieces, code_length), np.uint8)
    for place, piece in enumerate(slices):
        bits[place, piece] = 1
    parts = words_of(np.packbits(bits, axis=1, bitorder="little"))
    return Tables(slices, tuple(bases), starts, numbers, codes, parts, groups)


def grouped(packed: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Groups | None]:
    """Return the distinct codes (D, K/8), with the rows of each, or, where hardly any repeat, the codes as they are.

    Those of a trained model repeat, near a query most of all.

    >>> codes, groups = grouped(np.array([[5], [3], [5]], np.uint8))
    >>> codes.tolist(), groups.starts.tolist(), groups.rows.tolist()
    ([[3], [5]], [0, 1, 3], [1, 0, 2])
    """
    words = words_of(packed)
    sample = words[:: max(1, len(words) // _SAMPLE), 0]
    if words.shape[1] > 1 or len(np.unique(sample)) > _DISTINCT * len(sample):
        return packed, None
    order = np.argsort(words[:, 0], kind="stable")
    by_code = words[order, 0]
    firsts = np.flatnonzero(np.concatenate([[True], by_code[1:] != by_code[:-1]]))
    starts = np.append(firsts, len(words)).astype(np.uint32)
    return packed[order[firsts]], Groups(starts, order.astype(np.uint32))


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
