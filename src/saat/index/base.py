"""What every index promises, and the one place where it is kept: checks, order by id, ties, padding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
from numpy.typing import NDArray

from saat.bits import check_array
from saat.errors import ArgumentError, check_at_least, check_code_length

_FEW = 16  # items for each missing id, so that 8 bytes for it are at most 1/8 of a code of 32 bits an item


@dataclass(frozen=True)
class SearchResult:
    """The nearest items of Q queries.

    Args:
        distances: int32 (Q, k), ascending in each row; -1 where the index holds fewer than k items.
        ids: int64 (Q, k), ascending among equal distances; -1 where the index holds fewer than k items.
    """

    distances: NDArray[np.int32]
    ids: NDArray[np.int64]


class HammingIndex(Protocol):
    """Items found by the Hamming distance of their codes."""

    @property
    def code_length(self) -> int:
        """K, in bits."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def add(self, packed: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
        """Add items: codes (N, K/8) and their ids (N,), none of which is here already."""
        ...

    def remove(self, ids: NDArray[np.int64]) -> int:
        """Remove the items of `ids` that are here, and return how many they were."""
        ...

    def search(self, packed: NDArray[np.uint8], k: int) -> SearchResult:
        """Return the `k` nearest items of each query code (Q, K/8)."""
        ...


class IdList:
    """Distinct ids in ascending order. While few are missing between the first and the last, only those take room.

    Args:
        ids: int64 (N,), ascending.
    """

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self._count = len(ids)
        self._first = int(ids[0]) if len(ids) else 0
        self._missing = int(ids[-1]) - self._first + 1 - len(ids) if len(ids) else 0
        self._ids: NDArray[np.int64] | None = None
        self._rows_before = np.empty(0, np.int64)  # each missing id
        if self._missing > len(ids) // _FEW:
            self._ids = ids
        elif self._missing:
            self._rows_before = np.repeat(np.arange(1, len(ids)), np.diff(ids) - 1)

    def __len__(self) -> int:
        return self._count

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of `rows`, of any shape; -1 where a row is -1.

        >>> IdList(np.array([3, 5])).of_rows(np.array([1, -1])).tolist()
        [5, -1]
        """
        if not self._first and not self._missing:
            return rows  # which are the ids, and -1 stays
        return np.where(rows < 0, np.int64(-1), self._at(rows))

    def _at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._ids is not None:
            return self._ids.take(rows)
        passed = np.searchsorted(self._rows_before, rows, side="right") if self._missing else 0
        return np.asarray(rows + self._first + passed)

    def all(self) -> NDArray[np.int64]:
        """Return all ids, ascending."""
        return self._at(np.arange(self._count)) if self._ids is None else self._ids

    def has(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of `ids` (M,) are here."""
        if self._ids is not None:
            places = np.searchsorted(self._ids, ids).clip(max=self._count - 1)
            return np.asarray(self._ids[places] == ids)
        missing = self._rows_before + self._first + np.arange(self._missing)
        inside = (ids >= self._first) & (ids < self._first + self._count + self._missing)
        return np.asarray(inside & ~np.isin(ids, missing)) if self._missing else inside

    def precedes(self, ids: NDArray[np.int64]) -> bool:
        """Return whether every id here is below the first of `ids`, so that those can simply follow."""
        if not self._count or not len(ids):
            return True
        return self._first + self._count + self._missing - 1 < int(ids[0])


class OrderedIndex(ABC):
    """An index in memory whose rows are ordered by id, so that ties by id are ties by row.

    A subclass writes how codes are kept and which rows are nearest; checks, order and padding are here.

    Args:
        code_length: K, in bits, a positive multiple of 8.

    Raises:
        ArgumentError: `code_length` is not a positive multiple of 8.
    """

    def __init__(self, code_length: int) -> None:
        self._code_length = check_code_length(code_length)
        self._ids = IdList(np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def code_length(self) -> int:
        """K, in bits."""
        return self._code_length

    @abstractmethod
    def _codes(self) -> NDArray[np.uint8]:
        """Return the codes (N, K/8), a row an item."""

    @abstractmethod
    def _set_codes(self, packed: NDArray[np.uint8]) -> None:
        """Hold these codes (N, K/8) and no others."""

    @abstractmethod
    def _append(self, packed: NDArray[np.uint8]) -> None:
        """Hold these codes (M, K/8) after the others."""

    @abstractmethod
    def _nearest(self, packed: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return distances and rows (Q, k) by distance, then row; 1 <= k <= N; -1 for what an inexact index misses."""

    @final
    def add(self, packed: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
        """Add items.

        Args:
            packed: uint8 (N, K/8).
            ids: int64 (N,), distinct, at least 0, none of them in the index.

        Raises:
            TypeError: `packed` is not uint8, or `ids` not int64.
            ArgumentError: a shape is wrong, or an id is negative, twice in `ids` or in the index already.
        """
        check_items(packed, ids, self._code_length)
        if not _ascend(ids):  # those of a stored index do, and are not copied
            order = np.argsort(ids, kind="stable")
            packed, ids = packed[order], ids[order]
        taken = self._ids.has(ids)
        if taken.any():
            raise ArgumentError(f"`ids` are new to the index; {int(ids[taken][0])} is in it")
        if self._ids.precedes(ids):
            self._append(packed)
            self._ids = IdList(np.concatenate([self._ids.all(), ids]))
            return
        together = np.concatenate([self._ids.all(), ids])
        order = np.argsort(together, kind="stable")
        self._set_codes(np.concatenate([self._codes(), packed])[order])
        self._ids = IdList(together[order])

    @final
    def remove(self, ids: NDArray[np.int64]) -> int:
        """Remove the items of `ids` that are here; others are passed over.

        Args:
            ids: int64 (M,), distinct.

        Returns:
            How many were removed.

        Raises:
            TypeError: `ids` is not int64.
            ArgumentError: `ids` is not (M,), or an id is negative or twice in it.
        """
        check_ids(ids)
        ours = self._ids.all()
        keep = ~np.isin(ours, ids)
        removed = len(ours) - int(keep.sum())
        if removed:
            self._set_codes(self._codes()[keep])
            self._ids = IdList(ours[keep])
        return removed

    @final
    def search(self, packed: NDArray[np.uint8], k: int) -> SearchResult:
        """Return the `k` nearest items of each query, by distance, then by id.

        Args:
            packed: uint8 (Q, K/8).
            k: at least 1; where it is above N, the rest of each row is -1.

        Raises:
            TypeError: `packed` is not uint8.
            ArgumentError: `packed` is not (Q, K/8), or `k` is below 1.
        """
        check_packed(packed, self._code_length)
        check_at_least("k", k, 1)
        found = min(k, len(self))
        if found == k and len(packed):  # the usual case needs no room for padding
            distances, rows = self._nearest(np.ascontiguousarray(packed), k)
            return SearchResult(distances, self._ids.of_rows(rows))
        distances = np.full((len(packed), k), -1, dtype=np.int32)
        ids = np.full((len(packed), k), -1, dtype=np.int64)
        if found and len(packed):
            distances[:, :found], rows = self._nearest(np.ascontiguousarray(packed), found)
            ids[:, :found] = self._ids.of_rows(rows)
        return SearchResult(distances, ids)


def check_packed(packed: NDArray[np.uint8], code_length: int) -> None:
    """Raise unless `packed` is uint8 (N, K/8).

    Raises:
        TypeError: it is no array of uint8.
        ArgumentError: it has another shape.
    """
    check_array("packed", packed, np.uint8)
    if packed.ndim != 2 or packed.shape[1] * 8 != code_length:
        wanted = f"(N, {code_length // 8}), a code of {code_length} bits a row"
        raise ArgumentError(f"`packed` has the shape {wanted}; got {packed.shape}")


def check_items(packed: NDArray[np.uint8], ids: NDArray[np.int64], code_length: int) -> None:
    """Raise unless `packed` and `ids` are items that an index of this code length can take.

    Raises:
        TypeError: `packed` is not uint8, or `ids` not int64.
        ArgumentError: a shape is wrong, or an id is negative or twice in `ids`.
    """
    check_packed(packed, code_length)
    check_ids(ids)
    if len(ids) != len(packed):
        raise ArgumentError(f"`ids` is (N,) with N = {len(packed)} as in `packed`; got {ids.shape}")


def check_ids(ids: NDArray[np.int64]) -> None:
    """Raise unless `ids` is int64 (N,), distinct and at least 0, since -1 stands for no item.

    Raises:
        TypeError: it is no array of int64.
        ArgumentError: it has another shape, or an id is negative or twice in it.
    """
    check_array("ids", ids, np.int64)
    if ids.ndim != 1:
        raise ArgumentError(f"`ids` has one dimension; got shape {ids.shape}")
    if len(ids) and int(ids.min()) < 0:
        raise ArgumentError(f"`ids` are at least 0; got {int(ids.min())}")
    if _ascend(ids):
        return
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise ArgumentError(f"`ids` are distinct; got {int(twice[0])} twice")


def _ascend(ids: NDArray[np.int64]) -> bool:
    return bool((ids[1:] > ids[:-1]).all())
