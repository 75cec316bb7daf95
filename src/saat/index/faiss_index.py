"""FAISS (Douze et al., *The Faiss library*, arXiv 2401.08281, 2024): the default index, and two approximate ones."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from saat.errors import check_at_least, check_fraction
from saat.index.base import OrderedIndex

_MOST_AT_ONCE = 32  # queries in one pass over the codes, the number that FAISS takes by itself
_ROOM = 1 << 24  # bytes for the rows that a pass keeps at each distance; memory above 32 MB is new, and slow, each time


class FaissIndex(OrderedIndex):
    """`IndexBinaryFlat`: exact, and the fastest of the exact ones at large k.

    Its counting search (`use_heap = False`) passes over the rows in order and keeps the first ones of the last
    distance; rows here are ordered by id, so its ties are by id without a second pass. `tests/contracts` hold it to
    `FlatIndex`. `IndexBinaryIDMap2` is not used: its hash map would take several times the room of the codes.

    At large k fewer queries share a pass than FAISS would take, so that what a pass keeps is in memory already held.

    Args:
        code_length: K, in bits, a positive multiple of 8.
        threads: of a search, at least 1. Set before each search, since OpenMP keeps the number for each calling thread,
            and threads that wait for a busy core make a query slow.
    """

    def __init__(self, code_length: int, *, threads: int = 1) -> None:
        super().__init__(code_length)
        check_at_least("threads", threads, 1)
        self._threads = threads
        self._index = self._empty()

    def _empty(self) -> Any:
        index: Any = faiss.IndexBinaryFlat(self._code_length)
        index.use_heap = False
        return index

    def _codes(self) -> NDArray[np.uint8]:
        return codes_of(self._index)

    def _set_codes(self, packed: NDArray[np.uint8]) -> None:
        self._index = self._empty()
        self._append(packed)

    def _append(self, packed: NDArray[np.uint8]) -> None:
        self._index.add(np.ascontiguousarray(packed))

    def _nearest(self, packed: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        faiss.omp_set_num_threads(self._threads)
        if len(packed) > 1:
            self._index.query_batch_size = queries_at_once(self._code_length, k, threads=self._threads)
        distances, rows = np.empty((len(packed), k), np.int32), np.empty((len(packed), k), np.int64)
        # What `IndexBinaryFlat.search` calls after checks that were made already: on 100,000 codes they cost 2 %.
        pointer = faiss.swig_ptr
        self._index.search_c(len(packed), pointer(packed), k, pointer(distances), pointer(rows))
        return distances, rows


class _ApproximateIndex(FaissIndex):
    """What approximate indexes share: what they find is put in our order, and what they miss is padded."""

    @abstractmethod
    def _search(self, packed: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return distances and rows (Q, k) in any order; -1 where a row is missing."""

    def _nearest(self, packed: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        faiss.omp_set_num_threads(self._threads)
        distances, rows = self._search(packed, k)
        missing = rows < 0
        order = np.lexsort((rows, np.where(missing, np.iinfo(np.int32).max, distances)), axis=1)
        rows, distances = np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1)
        return np.where(rows < 0, np.int32(-1), distances), rows


class HnswIndex(_ApproximateIndex):
    """`IndexBinaryHNSW`: a graph of near neighbors (Malkov, Yashunin, TPAMI 2020). Approximate, grows in place.

    Distances are true; items may be missing, and ties at the last distance are those that the walk met;
    `recall_at` says how much is found. Removal builds the graph anew.

    Args:
        code_length: K, in bits, a positive multiple of 8.
        threads: of a search, at least 1.
        neighbors: links of an item in the graph.
        effort: candidates kept during a walk; never fewer than k. May be set anew between searches.
    """

    def __init__(self, code_length: int, *, threads: int = 1, neighbors: int = 32, effort: int = 128) -> None:
        check_at_least("neighbors", neighbors, 2)
        self.effort = effort
        self._neighbors = neighbors
        super().__init__(code_length, threads=threads)

    @property
    def effort(self) -> int:
        """Candidates kept during a walk."""
        return self._effort

    @effort.setter
    def effort(self, effort: int) -> None:
        check_at_least("effort", effort, 1)
        self._effort = effort

    def _empty(self) -> Any:
        return faiss.IndexBinaryHNSW(self._code_length, self._neighbors)

    def _codes(self) -> NDArray[np.uint8]:
        return codes_of(faiss.downcast_IndexBinary(self._index.storage))

    def _append(self, packed: NDArray[np.uint8]) -> None:
        faiss.omp_set_num_threads(self._threads)
        super()._append(packed)

    def _search(self, packed: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        self._index.hnsw.efSearch = max(self._effort, k)
        distances, rows = self._index.search(packed, k)
        return distances, rows


class IvfIndex(_ApproximateIndex):
    """`IndexBinaryIVF`: codes in lists around centers, of which the nearest are searched. Approximate.

    Distances are true; items of other lists are missing, the more the larger k is: at k = 5,000 prefer the exact index.
    The centers are learned at the first search after a change.

    Args:
        code_length: K, in bits, a positive multiple of 8.
        threads: of a search, at least 1.
        share: of the lists that a query looks at, in [0, 1]; at least one list. May be set anew between searches.
    """

    def __init__(self, code_length: int, *, threads: int = 1, share: float = 0.2) -> None:
        self.share = share
        self._lists: Any = None
        super().__init__(code_length, threads=threads)

    @property
    def share(self) -> float:
        """Of the lists that a query looks at."""
        return self._share

    @share.setter
    def share(self, share: float) -> None:
        check_fraction("share", share)
        self._share = share

    def _append(self, packed: NDArray[np.uint8]) -> None:
        super()._append(packed)
        self._lists = None

    def _search(self, packed: NDArray[np.uint8], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if self._lists is None:
            self._build()
        self._lists.nprobe = max(1, math.ceil(self._share * self._lists.nlist))
        distances, rows = self._lists.search(packed, k)
        return distances, rows

    def _build(self) -> None:
        codes = self._codes()
        count = max(1, min(math.isqrt(len(codes)), len(codes) // 39))  # k-means asks for 39 codes a center
        self._lists = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(self._code_length), self._code_length, count)
        self._lists.train(codes)
        self._lists.add(codes)


def queries_at_once(code_length: int, k: int, *, threads: int) -> int:
    """Return how many queries share a pass over the codes: a multiple of `threads`, and few enough to fit in the room.

    Each query keeps up to `k` rows of 8 bytes at each of K + 1 distances.

    >>> queries_at_once(64, 10, threads=1), queries_at_once(64, 5000, threads=4), queries_at_once(64, 5000, threads=8)
    (32, 4, 8)
    """
    fitting = min(_MOST_AT_ONCE, _ROOM // ((code_length + 1) * k * 8))
    return threads * max(1, fitting // threads)


def codes_of(index: Any) -> NDArray[np.uint8]:
    """Return a copy of the codes (N, K/8) of an `IndexBinaryFlat`."""
    return np.asarray(faiss.vector_to_array(index.xb), np.uint8).reshape(-1, index.code_size)
