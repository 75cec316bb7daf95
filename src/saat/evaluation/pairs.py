"""All pairs of queries and database items, packed for the compiled loops, which threads share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saat.errors import ArgumentError
from saat.evaluation.loops import PLANES_AT_ONCE, Flags, Planes
from saat.hamming import check_codes


class Pairs:
    """The pairs of Q queries and N database items. Two items are relevant to each other when they share a label.

    Args:
        query_codes: int8 (Q, K) in {-1, +1}.
        query_labels: (Q, C) multi-hot.
        database_codes: int8 (N, K) in {-1, +1}.
        database_labels: (N, C) multi-hot.

    Raises:
        TypeError: codes are not int8.
        ArgumentError: the shapes do not fit each other.

    >>> from saat.evaluation.loops import count_pairs
    >>> codes = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    >>> counts = np.empty((2, 2, 3), np.int64)
    >>> Pairs(codes, torch.eye(2), codes, torch.eye(2)).run(count_pairs, counts)
    >>> counts.tolist()
    [[[0, 1, 0], [1, 0, 0]], [[0, 1, 0], [1, 0, 0]]]
    """

    def __init__(
        self, query_codes: Tensor, query_labels: Tensor, database_codes: Tensor, database_labels: Tensor
    ) -> None:
        check_pairs(query_codes, query_labels, database_codes, database_labels)
        self.queries = len(query_codes)
        self._database = (
            _planes(_padded(_positive(database_codes))),
            _planes(_positive(database_labels)),
            _planes(np.ones((len(database_codes), 1), np.bool_))[0],
        )
        self._queries = _padded(_positive(query_codes)), np.ascontiguousarray(_positive(query_labels))

    def run(self, loop: Callable[..., None], results: NDArray[Any], *arguments: int) -> None:
        """Run a loop of `loops` over all queries, on as many threads as torch has.

        Args:
            loop: takes the packed database, packed queries, their results and `arguments`.
            results: where to write, a row a query.
            arguments: of the loop.
        """
        parts = min(torch.get_num_threads(), self.queries) or 1
        bounds = [self.queries * part // parts for part in range(parts + 1)]
        with ThreadPoolExecutor(parts) as pool:
            jobs = [
                pool.submit(
                    loop, *self._database, *(side[start:end] for side in self._queries), results[start:end], *arguments
                )
                for start, end in itertools.pairwise(bounds)
            ]
        for job in jobs:
            job.result()


def _positive(matrix: Tensor) -> Flags:
    flags: Flags = matrix.cpu().numpy() > 0
    return flags


def _padded(flags: Flags) -> Flags:
    """Return (N, K) with columns of False up to a multiple of `PLANES_AT_ONCE`, in which no two codes differ."""
    return np.pad(flags, ((0, 0), (0, -flags.shape[1] % PLANES_AT_ONCE)))


def _planes(flags: Flags) -> Planes:
    """Pack the columns of (N, P) into planes, 64 rows a word; bits beyond N are 0."""
    packed = np.packbits(np.ascontiguousarray(flags.T), axis=1, bitorder="little")
    padded = np.zeros((flags.shape[1], -(-len(flags) // 64) * 8), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint64)


def check_pairs(query_codes: Tensor, query_labels: Tensor, database_codes: Tensor, database_labels: Tensor) -> None:
    """Raise unless codes and labels of both splits fit each other, as `Pairs` has them.

    Raises:
        TypeError: codes are not int8.
        ArgumentError: a shape is wrong, or K or C differ.
    """
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
