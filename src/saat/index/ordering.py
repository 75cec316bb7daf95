"""Putting in order what a search within a radius found: by distance, then by row. Compiled.

A number has few digits of some bits, so that sorts by counting take a fraction of the time of `numpy.sort` here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saat.compiled import compiled, prefetch
from saat.index.loops import Numbers

_ZERO, _ONE, _ALL = np.uint64(0), np.uint64(1), ~np.uint64(0)
_DIGIT_BITS = 8  # as many counters as the nearest cache holds, and a line of it for each
_DIGIT = np.uint64((1 << _DIGIT_BITS) - 1)
_CODES_AHEAD = np.uint64(16)  # whose rows are asked for meanwhile


@compiled
def split_by_distance(found: Numbers, place_bits: np.uint64, radius: int, places: NDArray[Any]) -> NDArray[np.int64]:
    """Write the places of what was found by distance, and where equally far in the order that they have.

    Args:
        found: numbers of `sift`, (M,).
        place_bits: see `sift`.
        radius: in bits.
        places: where to write, of integers, (M,).

    Returns:
        Limits, (radius + 2,): places at distance d lie at limits[d] to limits[d + 1].
    """
    return _sort_by_digit(found, place_bits, _ALL, radius + 1, (_ONE << place_bits) - _ONE, places)


@compiled
def count_rows(codes: NDArray[np.uint32], starts: NDArray[np.uint32]) -> np.uint64:
    """Return how many rows codes (M,) have; see `Groups`."""
    rows = _ZERO
    for each in range(np.uint64(len(codes))):
        rows += np.uint64(starts[np.uint64(codes[each]) + _ONE] - starts[codes[each]])
    return rows


@compiled
def write_rows(
    codes: NDArray[np.uint32],
    limits: NDArray[np.int64],
    starts: NDArray[np.uint32],
    rows: NDArray[np.uint32],
    row_bits: int,
    scratch: NDArray[np.uint32],
    distances: NDArray[np.int32],
    ordered: NDArray[np.int64],
) -> None:
    """Write the rows of codes by distance, then ascending.

    Args:
        codes: by distance, (M,).
        limits: codes at distance d lie at limits[d] to limits[d + 1].
        starts: see `Groups`; empty where the number of a code is its row.
        rows: see `Groups`.
        row_bits: of a number that any row fits in.
        scratch: room for the rows, twice, (2, C).
        distances: where to write, (C,).
        ordered: where to write, (C,).
    """
    first = _ZERO
    for distance in range(len(limits) - 1):
        last = first + _expand(codes[limits[distance] : limits[distance + 1]], starts, rows, scratch[0])
        distances[first:last] = distance
        _sort(scratch[0, : last - first], scratch[1, : last - first], row_bits, ordered[first:last])
        first = last


@compiled
def _expand(
    codes: NDArray[np.uint32], starts: NDArray[np.uint32], rows: NDArray[np.uint32], expanded: NDArray[np.uint32]
) -> np.uint64:
    """Write the rows of each code; return how many there are."""
    count, written = np.uint64(len(codes)), _ZERO
    if not len(starts):
        expanded[:count] = codes
        return count
    for each in range(count):
        prefetch(starts, np.uint64(codes[min(each + _CODES_AHEAD + _CODES_AHEAD, count - _ONE)]))
        prefetch(rows, np.uint64(starts[codes[min(each + _CODES_AHEAD, count - _ONE)]]))
        code = np.uint64(codes[each])
        for place in range(np.uint64(starts[code]), np.uint64(starts[code + _ONE])):
            expanded[written] = rows[place]
            written += _ONE
    return written


@compiled
def _sort(numbers: NDArray[np.uint32], other: NDArray[np.uint32], bits: int, ordered: NDArray[np.int64]) -> None:
    """Write numbers of so many bits in ascending order; both arrays of them are changed."""
    shift = 0
    while len(numbers) and shift + _DIGIT_BITS < bits:
        _sort_by_digit(numbers, np.uint64(shift), _DIGIT, 1 << _DIGIT_BITS, _ALL, other)
        numbers, other = other, numbers
        shift += _DIGIT_BITS
    _sort_by_digit(numbers, np.uint64(shift), _DIGIT, 1 << _DIGIT_BITS, _ALL, ordered)


@compiled
def _sort_by_digit(
    numbers: Numbers, shift: np.uint64, mask: np.uint64, digits: int, kept: np.uint64, ordered: NDArray[Any]
) -> NDArray[np.int64]:
    """Write what a mask keeps of numbers by a digit of theirs, and where that is equal in the order that they have.

    Args:
        numbers: (M,).
        shift: where the digit begins.
        mask: of the digit, after the shift.
        digits: how many there are.
        kept: mask of what is written.
        ordered: where to write, of integers, (M,).

    Returns:
        Limits, (digits + 1,): those of digit d lie at limits[d] to limits[d + 1].
    """
    limits = np.zeros(digits + 1, np.int64)
    for each in range(np.uint64(len(numbers))):
        limits[((np.uint64(numbers[each]) >> shift) & mask) + _ONE] += 1
    for digit in range(1, len(limits)):
        limits[digit] += limits[digit - 1]
    next_places = limits.astype(np.uint64)
    for each in range(np.uint64(len(numbers))):
        own = (np.uint64(numbers[each]) >> shift) & mask
        ordered[next_places[own]] = numbers[each] & kept
        next_places[own] += _ONE
    return limits
