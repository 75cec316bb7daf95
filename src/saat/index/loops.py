"""The loops of searches within a radius, over candidates and over all codes, compiled.

Places are unsigned: of a signed one the compiled code would look each time whether it counts from the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saat.compiled import compiled, count_bits, prefetch

Words = NDArray[np.unsignedinteger]
"""(N, W), or of one code (W,): see `words_of`."""
Numbers = NDArray[np.unsignedinteger]
"""(M,), what was found, see `sift`; uint32 where that suffices, for half the room."""
Place = int | np.uint64
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_KEYS_AHEAD, _CODES_AHEAD = 2, np.uint64(16)  # whose codes are asked for meanwhile
_LINE_BYTES = 64  # of the cache
_BLOCK = np.uint64(64)  # codes compared before any is written down, a bit each


@compiled
def fill_table(keys: NDArray[np.uint32], next_places: NDArray[np.int64], rows: NDArray[np.uint32]) -> None:
    """Write the rows of keys (N,) by key, then ascending.

    Args:
        keys: (N,).
        next_places: where the rows of each key begin; changed.
        rows: where to write, (N,).
    """
    for row in range(np.uint64(len(keys))):
        rows[np.uint64(next_places[keys[row]])] = row
        next_places[keys[row]] += 1


@compiled
def find_spans(
    starts: NDArray[np.unsignedinteger],
    addresses: NDArray[np.int64],
    pieces: NDArray[np.int64],
    masks: NDArray[np.int64],
    spans: NDArray[np.uint64],
) -> np.int64:
    """Write where the codes of each key begin and end.

    Args:
        starts: of all keys, see `Tables`.
        addresses: of the query's own key in each piece, (m,).
        pieces: the piece of each key, (P,).
        masks: the bits flipped in it, (P,).
        spans: where to write, (P, 2).

    Returns:
        How many codes lie in the spans.
    """
    candidates = np.int64(0)
    for key in range(len(masks)):
        address = addresses[pieces[key]] ^ masks[key]
        spans[key, 0], spans[key, 1] = starts[address], starts[address + 1]
        candidates += np.int64(spans[key, 1] - spans[key, 0])
    return candidates


@compiled
def keep_near(
    codes: Words,
    numbers: NDArray[np.uint32],
    in_order: bool,
    spans: NDArray[np.uint64],
    pieces: NDArray[np.int64],
    query: Words,
    parts: Words,
    flips: NDArray[np.int64],
    radius: int,
    place_bits: np.uint64,
    found: Numbers,
) -> np.uint64:
    """Write which candidates lie within a radius, each once, in no order.

    A code is found in the first piece that differs in no more bits than are flipped there, and passed over in others.

    Args:
        codes: (m D, W) in the order of `numbers`, or (D, W) in their own.
        numbers: the number of each candidate, (m D,), see `Tables`.
        in_order: whether `codes` lie in the order of `numbers`.
        spans: places in `numbers` where the candidates of each key begin and end, (P, 2).
        pieces: the piece of each key, (P,), ascending.
        query: (W,).
        parts: masks of the pieces, (m, W).
        flips: how many bits are flipped in each piece, (m,).
        radius: in bits.
        place_bits: of a number that any place in `numbers` fits in.
        found: where to write distance and number, see `sift`, (M,) for up to M candidates.

    Returns:
        How many there are.
    """
    kept, place_of = _ZERO, (_ONE << place_bits) - _ONE
    line = np.uint64(max(1, _LINE_BYTES // (codes.itemsize * len(query))))
    for key in range(len(pieces)):
        start, end = spans[key, 0], spans[key, 1]
        near = kept
        if in_order:
            ahead = min(key + _KEYS_AHEAD, len(pieces) - 1)
            for place in range(spans[ahead, 0], spans[ahead, 1], line):
                prefetch(codes, place)
            near = sift(codes, start, end, query, radius, place_bits, found, kept)
        else:
            for place in range(start, end):
                prefetch(codes, np.uint64(numbers[min(place + _CODES_AHEAD, end - _ONE)]))
                code = np.uint64(numbers[place])
                distance = _distance(codes, code, query)
                found[near] = (np.uint64(distance) << place_bits) | code
                near += np.uint64(distance <= radius)  # a branch would be guessed wrong now and then
        if pieces[key]:
            for each in range(kept, near):
                found[kept] = found[each]
                kept += _is_new(codes, found[each] & place_of, query, parts, flips, pieces[key])
        else:
            kept = near
    if in_order:
        for each in range(kept):
            found[each] = (found[each] & ~place_of) | np.uint64(numbers[found[each] & place_of])
    return kept


@compiled
def sift(
    codes: Words,
    start: np.uint64,
    end: np.uint64,
    query: Words,
    radius: int,
    place_bits: np.uint64,
    found: Numbers,
    near: np.uint64,
) -> np.uint64:
    """Write which codes from `start` to `end` lie within a radius, after what is there.

    Args:
        codes: (N, W).
        start: of the first one.
        end: after the last one.
        query: (W,).
        radius: in bits.
        place_bits: of a number that any place fits in.
        found: where to write: a distance above the bits of the place of the code, in one number.
        near: how many are there.

    Returns:
        How many are there then.
    """
    for first in range(start, end, _BLOCK):
        bits = _ZERO
        for place in range(first, min(first + _BLOCK, end)):
            bits |= np.uint64(_distance(codes, place, query) <= radius) << (place - first)
        while bits:
            after = bits & (bits - _ONE)  # without its lowest
            lowest = first + np.uint64(count_bits((bits ^ after) - _ONE))
            found[near] = (np.uint64(_distance(codes, lowest, query)) << place_bits) | lowest
            near += _ONE
            bits = after
    return near


@compiled
def _distance(codes: Words, code: Place, query: Words) -> Any:
    distance = count_bits(np.uint64(codes[code, 0] ^ query[0]))
    if len(query) > 1:  # apart from the loop, which costs as much as half the codes of two words
        distance += count_bits(np.uint64(codes[code, 1] ^ query[1]))
    for word in range(2, len(query)):
        distance += count_bits(np.uint64(codes[code, word] ^ query[word]))
    return distance


@compiled
def _is_new(codes: Words, code: Place, query: Words, parts: Words, flips: NDArray[np.int64], piece: int) -> np.uint64:
    """Return 1 where a code lies in no span of a piece before this one, else 0."""
    new = _ONE
    for earlier in range(piece):
        flipped = 0
        for word in range(len(query)):
            flipped += count_bits(np.uint64((codes[code, word] ^ query[word]) & parts[earlier, word]))
        new &= np.uint64(flipped > flips[earlier])
    return new
