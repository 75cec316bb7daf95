"""Distances and relevance of one query to a whole database, on packed words: exact, and a few bytes an item."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saat.errors import ArgumentError
from saat.hamming import check_codes

Integers = NDArray[np.unsignedinteger[Any]]


class Pairs:
    """The pairs of Q queries and N database items. Two items are relevant to each other when they share a label.

    One query at a time keeps everything in the processor's cache. Its arrays are overwritten by the next query.

    Args:
        query_codes: int8 (Q, K) in {-1, +1}.
        query_labels: (Q, C) multi-hot.
        database_codes: int8 (N, K) in {-1, +1}.
        database_labels: (N, C) multi-hot.

    Raises:
        TypeError: codes are not int8.
        ArgumentError: the shapes do not fit each other.

    >>> import torch
    >>> codes = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    >>> pairs = Pairs(codes, torch.eye(2), codes, torch.eye(2))
    >>> pairs.distances(1).tolist(), pairs.relevant(1).tolist()
    ([1, 0], [False, True])
    """

    def __init__(
        self, query_codes: Tensor, query_labels: Tensor, database_codes: Tensor, database_labels: Tensor
    ) -> None:
        check_pairs(query_codes, query_labels, database_codes, database_labels)
        self.queries, self.code_length = query_codes.shape
        # Wide words for counting bits; narrow ones for labels, whose cost is the traffic of bytes.
        self._query_codes, self._codes = (_words(codes, widest=64) for codes in (query_codes, database_codes))
        self._query_labels, self._labels = (_words(labels, widest=32) for labels in (query_labels, database_labels))
        self._distances: Integers = np.zeros(len(database_codes), np.uint8 if self.code_length < 256 else np.uint16)
        self._relevant = np.zeros(len(database_codes), np.bool_)
        self._bits = np.empty(len(database_codes), np.uint8)
        # Fresh memory of this size costs more than the arithmetic in it.
        self._differing, self._shared, self._more = (
            np.empty_like(words[0]) for words in (self._codes, self._labels, self._labels)
        )

    def distances(self, query: int) -> Integers:
        """Return the Hamming distance of each item, uint8 (N,), or uint16 for codes of 256 bits and more."""
        for number, (words, column) in enumerate(zip(self._query_codes, self._codes, strict=True)):
            np.bitwise_xor(column, words[query], out=self._differing)
            if number == 0:
                np.bitwise_count(self._differing, out=self._distances)
            else:
                np.add(self._distances, np.bitwise_count(self._differing, out=self._bits), out=self._distances)
        return self._distances

    def relevant(self, query: int) -> NDArray[np.bool_]:
        """Return for each item whether it shares a label with the query, bool (N,)."""
        for number, (words, column) in enumerate(zip(self._query_labels, self._labels, strict=True)):
            if number == 0:
                np.bitwise_and(column, words[query], out=self._shared)
            else:
                self._shared |= np.bitwise_and(column, words[query], out=self._more)
        return np.not_equal(self._shared, 0, out=self._relevant)

    def relevant_among(self, query: int, items: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return for each of some items whether it shares a label with the query."""
        relevant = np.zeros(len(items), np.bool_)
        for words, column in zip(self._query_labels, self._labels, strict=True):
            if words[query]:
                relevant |= (column[items] & words[query]) != 0
        return relevant


def _words(matrix: Tensor, *, widest: int) -> list[Integers]:
    """Pack the signs of (N, D) into columns of words: the narrowest that holds D bits, else as many of the widest."""
    bits = np.packbits(matrix.cpu().numpy() > 0, axis=1)
    width = next((width for width in (8, 16, 32) if width <= widest and matrix.shape[1] <= width), widest) // 8
    padded = np.zeros((len(bits), max(1, -(-bits.shape[1] // width)) * width), np.uint8)
    padded[:, : bits.shape[1]] = bits
    columns = padded.view(f"u{width}").T
    return [np.ascontiguousarray(column) for column in columns]


def check_pairs(query_codes: Tensor, query_labels: Tensor, database_codes: Tensor, database_labels: Tensor) -> None:
    """Raise unless codes and labels of both splits fit each other."""
    for split, codes, labels in (
        ("query", query_codes, query_labels),
        ("database", database_codes, database_labels),
    ):
        check_codes(f"{split}_codes", codes)
        if labels.ndim != 2 or len(labels) != len(codes):
            raise ArgumentError(
                f"`{split}_labels` has shape ({len(codes)}, C), a row a code; got {tuple(labels.shape)}"
            )
    for argument, rule, query, database in (
        ("codes", "the same code length", query_codes, database_codes),
        ("labels", "the same classes", query_labels, database_labels),
    ):
        if query.shape[1] != database.shape[1]:
            raise ArgumentError(
                f"`query_{argument}` and `database_{argument}` have {rule}; "
                f"got {query.shape[1]} and {database.shape[1]}"
            )
