"""The loops over all pairs of queries and database items: exact, some bits an item, compiled.

Codes lie in *planes*: plane k has bit k of every item, 64 items a word. A query's distances come out as planes too,
their binary digits, added up from four bits of the code at a time for 64 items in each operation. The items at one
distance are then a mask, and counting them is counting bits.

Numba compiles the loops when they first run, and keeps the result. They let go of the interpreter's lock, so that
threads share the queries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saat.compiled import compiled, count_bits

Mask = NDArray[np.uint64]
"""(W,) for up to 64 W items: item n is bit n % 64, from the lowest, of word n // 64."""
Planes = NDArray[np.uint64]
"""(P, W), a mask a plane."""
Flags = NDArray[np.bool_]
PLANES_AT_ONCE = 4  # K is padded to a multiple, with planes of zeros
_ZERO, _ONE = np.uint64(0), np.uint64(1)


@compiled
def count_pairs(
    codes: Planes, labels: Planes, items: Mask, query_codes: Flags, query_labels: Flags, counts: NDArray[np.int64]
) -> None:
    """Count the items at each distance from each query.

    Args:
        codes: of the database, K planes.
        labels: of the database, C planes.
        items: the mask of all items.
        query_codes: (Q, K).
        query_labels: (Q, C).
        counts: where to write, (Q, 2, K + 1): irrelevant items, then relevant ones.
    """
    digits, masks, relevant, carry = _room(codes, items)
    for query in range(counts.shape[0]):
        _add_distances(codes, query_codes[query], digits, carry)
        _find_relevant(labels, query_labels[query], relevant)
        for distance in range(counts.shape[2]):
            _find_at(distance, digits, masks)
            number, hits = _count(masks[0], relevant)
            counts[query, 0, distance] = number - hits
            counts[query, 1, distance] = hits


@compiled
def average_precisions(
    codes: Planes,
    labels: Planes,
    items: Mask,
    query_codes: Flags,
    query_labels: Flags,
    scores: NDArray[np.float64],
    k: int,
) -> None:
    """Average the precisions at the hits among the first k items of each query's ranking, ties by item.

    Args:
        codes, labels, items, query_codes, query_labels: see `count_pairs`.
        scores: where to write, (Q,).
        k: how many items of the ranking count, at most N.
    """
    digits, masks, relevant, carry = _room(codes, items)
    for query in range(scores.shape[0]):
        _add_distances(codes, query_codes[query], digits, carry)
        _find_relevant(labels, query_labels[query], relevant)
        distance, before, found, total = 0, 0, 0, 0.0
        while before < k:
            _find_at(distance, digits, masks)
            number, hits = _count(masks[0], relevant)
            if hits:
                total, found = _add_precisions(masks[0], relevant, before, k, total, found)
            before += number
            distance += 1
        scores[query] = total / found if found else 0.0


@compiled
def _room(codes: Planes, items: Mask) -> tuple[Planes, Planes, Mask, Mask]:
    """Return room for a query's digits of distances, masks of `_find_at`, relevant items, and carries."""
    digits = 0
    while codes.shape[0] >> digits:
        digits += 1
    masks = np.empty((digits + 1, len(items)), np.uint64)
    masks[digits] = items
    return np.empty((digits, len(items)), np.uint64), masks, np.empty_like(items), np.empty_like(items)


@compiled
def _add_distances(codes: Planes, query: Flags, digits: Planes, carry: Mask) -> None:
    """Write the binary digits of every item's Hamming distance from a query, the lowest first."""
    digits[:] = 0
    for plane in range(0, codes.shape[0], PLANES_AT_ONCE):
        flips = np.where(query[plane : plane + PLANES_AT_ONCE], ~_ZERO, _ZERO)
        flip_a, flip_b, flip_c, flip_d = flips[0], flips[1], flips[2], flips[3]
        for word in range(len(carry)):
            a, b = codes[plane, word] ^ flip_a, codes[plane + 1, word] ^ flip_b
            c, d = codes[plane + 2, word] ^ flip_c, codes[plane + 3, word] ^ flip_d
            two, three = a ^ b, a ^ b ^ c
            pair, other_pair = (a & b) | (two & c), three & d  # ones that meet carry a two; twos that meet, a four
            ones, twos, fours = three ^ d, pair ^ other_pair, pair & other_pair

            up = digits[0, word] & ones
            digits[0, word] ^= ones
            half = digits[1, word] ^ twos
            up, digits[1, word] = (digits[1, word] & twos) | (half & up), half ^ up
            half = digits[2, word] ^ fours
            carry[word], digits[2, word] = (digits[2, word] & fours) | (half & up), half ^ up
        for digit in range(3, digits.shape[0]):
            if not (plane + PLANES_AT_ONCE) >> digit:
                break  # no distance is that large yet
            for word in range(len(carry)):
                up = digits[digit, word] & carry[word]
                digits[digit, word] ^= carry[word]
                carry[word] = up


@compiled
def _find_relevant(labels: Planes, query: Flags, relevant: Mask) -> None:
    """Write the mask of the items that share a label with a query."""
    relevant[:] = 0
    for label in range(labels.shape[0]):
        if query[label]:
            for word in range(len(relevant)):
                relevant[word] |= labels[label, word]


@compiled
def _find_at(distance: int, digits: Planes, masks: Planes) -> None:
    """Write the mask of the items at a distance to `masks[0]`; call it for 0, 1, 2 and so on.

    `masks[d]` has the items whose digits from the d-th on are those of the distance: from one distance to the next,
    only those up to its lowest 1 change.
    """
    digit = digits.shape[0] - 1
    if distance:
        digit = 0
        while not (distance >> digit) & 1:
            digit += 1
    while digit >= 0:
        flip = _ZERO if (distance >> digit) & 1 else ~_ZERO
        for word in range(masks.shape[1]):
            masks[digit, word] = masks[digit + 1, word] & (digits[digit, word] ^ flip)
        digit -= 1


@compiled
def _count(mask: Mask, relevant: Mask) -> tuple[int, int]:
    """Return how many items a mask has, and how many of them are relevant."""
    items, hits = 0, 0
    for word in range(len(mask)):
        items += count_bits(mask[word])
        hits += count_bits(mask[word] & relevant[word])
    return items, hits


@compiled
def _add_precisions(mask: Mask, relevant: Mask, before: int, k: int, total: float, found: int) -> tuple[float, int]:
    """Add the precisions at the hits of a mask, whose items follow `before` others, up to rank k; return both sums."""
    for word in range(len(mask)):
        hits = mask[word] & relevant[word]
        while hits:
            after = hits & (hits - _ONE)  # without its lowest
            through = (hits ^ after) | ((hits ^ after) - _ONE)
            rank = before + count_bits(mask[word] & through)
            if rank > k:
                return total, found
            found += 1
            total += found / rank
            hits = after
        before += count_bits(mask[word])
    return total, found
