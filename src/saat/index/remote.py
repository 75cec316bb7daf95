"""An index on a server: what all servers share. An adapter says how rows are kept and which are nearest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, Self, TypeVar, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from saat.errors import ArgumentError, DataError, check_at_least
from saat.index.address import Address
from saat.index.base import SearchResult, check_ids, check_items, check_packed
from saat.index.content import IndexContent
from saat.index.grammar import Comparison, narrowed, parse
from saat.index.rows import comparable_kind, rows_of, table_of
from saat.index.stored import Excerpt, Nearest, RemoteManifest, Stored
from saat.index.where import select, select_ids

FETCHED = 4_096  # items of one request
WIDER = 4  # times as many candidates, where those of before did not hold enough
Term = TypeVar("Term")
Found = TypeVar("Found")


class RemoteIndex(ABC, Generic[Term]):
    """An index on a server; `HammingIndex`, with conditions and metadata.

    Args:
        address: of the index.
        manifest: what the server says of it; none where there is no index yet.
    """

    def __init__(self, address: Address, manifest: RemoteManifest | None) -> None:
        self.address = address
        self._manifest = manifest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items."""

    @abstractmethod
    def digests(self, low: int, high: int | None) -> dict[int, str]:
        """Return id and digest of the items with low <= id < high; no `high`, no end."""

    @abstractmethod
    def probe(self) -> None:
        """Raise `ServerError` unless the server answers, at little cost and whatever else is underway."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the server."""

    @abstractmethod
    def _switched(self) -> AbstractContextManager[None]:
        """Let readers have all changes within it at its end, at once; after an exception or a kill, none of them."""

    @abstractmethod
    def _of_one_state(self, read: Callable[[Self], Found]) -> Found:
        """Return what `read` finds, whose requests all see the same state of the index."""

    @abstractmethod
    def _create(self, code_length: int, text: str) -> None:
        """Make room for items, and keep a first manifest."""

    @abstractmethod
    def _write_manifest(self, text: str) -> None:
        """Keep a manifest in the place of the one before."""

    @abstractmethod
    def _put(self, items: Sequence[Stored]) -> None:
        """Keep items, in the place of those that have their ids."""

    @abstractmethod
    def _delete(self, ids: list[int]) -> None:
        """Remove items; ids that are not there are passed over."""

    @abstractmethod
    def _fetch(self, ids: list[int]) -> list[Stored]:
        """Return the items of `ids` that are there, in any order."""

    @abstractmethod
    def _nearest(self, codes: Sequence[bytes], k: int, term: Term | None) -> list[Nearest]:
        """Return for each code the `k` nearest items that satisfy `term`, or all there are, by distance, then by id."""

    @abstractmethod
    def _term(self, part: Comparison, kind: str) -> Term | None:
        """Return a comparison in the server's language, a null satisfying nothing; none where it cannot say it."""

    @abstractmethod
    def _join(self, word: str, terms: list[Term]) -> Term:
        """Return terms joined by `word`."""

    def build_graph(self) -> None:
        """Make a graph for approximate searches.

        Raises:
            ArgumentError: the server has none that is of use here.
        """
        raise ArgumentError(f"`hnsw` is for PostgreSQL; {self.address} is searched exactly")

    @property
    def exists(self) -> bool:
        """Whether there is an index at the address."""
        return self._manifest is not None

    @property
    def manifest(self) -> RemoteManifest:
        """What the index says of itself.

        Raises:
            DataError: there is none at the address.
        """
        if self._manifest is None:
            raise DataError(f"{self.address} holds no index; `saat index push DIR --to ADDRESS` puts one there")
        return self._manifest

    @property
    def code_length(self) -> int:
        """K, in bits."""
        return self.manifest.model.code_length

    @final
    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change an index: a whole one at once, at the end; where there is none yet or a part, in place, step by step.

        Raises:
            ServerError: the server does not answer; an index that was whole is as it was.
        """
        before = self._manifest
        if before is None or not before.complete:
            yield
            return
        try:
            with self._switched():
                yield
        except BaseException:
            self._manifest = before
            raise

    @final
    def write(self, manifest: RemoteManifest) -> None:
        """Keep `manifest`; room is made for an index that is new."""
        if self._manifest is None:
            self._create(manifest.model.code_length, manifest.text())
        else:
            self._write_manifest(manifest.text())
        self._manifest = manifest

    @final
    def check_complete(self) -> None:
        """Raise unless the last push came to its end.

        Raises:
            DataError: it did not, or there is no index.
        """
        if not self.manifest.complete:
            raise DataError(f"{self.address} holds a part of an index; give the same `saat index push` again")

    @final
    def add(self, packed: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
        """Add items without metadata; see `OrderedIndex.add`."""
        check_items(packed, ids, self.code_length)
        taken = [item.id for item in self._stored(ids)]
        if taken:
            raise ArgumentError(f"`ids` are new to the index; {min(taken)} is in it")
        self.put(self.prepared(packed, pa.table({"id": ids})))

    @final
    def prepared(self, packed: NDArray[np.uint8], metadata: pa.Table) -> list[Stored]:
        """Return items as they are kept here.

        Args:
            packed: uint8 (N, K/8).
            metadata: a row an item, with its `id`.

        Raises:
            ArgumentError: these are no items of this index, or a column has values that JSON cannot hold.
        """
        check_items(packed, metadata.column("id").to_numpy(), self.code_length)
        coded = zip(metadata.column("id").to_pylist(), packed, rows_of(metadata), strict=True)
        return [Stored(id_, code.tobytes(), row) for id_, code, row in coded]

    @final
    def put(self, items: Sequence[Stored]) -> None:
        """Keep items that were `prepared`, in the place of those that have their ids."""
        for start in range(0, len(items), FETCHED):
            self._put(items[start : start + FETCHED])

    @final
    def remove(self, ids: NDArray[np.int64]) -> int:
        """Remove the items of `ids` that are here, and return how many they were; see `OrderedIndex.remove`."""
        check_ids(ids)
        here = [item.id for item in self._stored(ids)]
        for start in range(0, len(here), FETCHED):
            self._delete(here[start : start + FETCHED])
        return len(here)

    @final
    def items(self, ids: NDArray[np.int64]) -> IndexContent:
        """Return the items of `ids` that are here, by id, with their metadata."""
        return self._of_one_state(lambda state: state._items(ids))

    def _items(self, ids: NDArray[np.int64]) -> IndexContent:
        found = sorted(self._stored(ids), key=lambda item: item.id)
        here = np.array([item.id for item in found], np.int64)
        packed = np.frombuffer(b"".join(item.code for item in found), np.uint8).reshape(-1, self.code_length // 8)
        metadata = table_of(here, [item.row for item in found], self.manifest.schema)
        above = max(self.manifest.next_id, int(here[-1]) + 1 if len(here) else 0)
        return IndexContent(packed, here, metadata, next_id=above, model=self.manifest.model)

    @final
    def excerpt(self, count: int) -> Excerpt:
        """Return about `count` items drawn at random, the same ones each time, or all where there are not as many."""
        above = self.manifest.next_id
        drawn = np.arange(above) if above <= count else np.random.default_rng(0).integers(0, above, count)
        found = self.items(np.unique(drawn))
        return Excerpt(found.packed, found.ids, found.metadata, found.next_id, found.model, total=len(self))

    @final
    def check_where(self, where: str) -> None:
        """Raise `ArgumentError` unless `where` is a condition on the columns of the index."""
        select(self.manifest.schema.empty_table(), where)

    @final
    def search(self, packed: NDArray[np.uint8], k: int, *, where: str | None = None) -> SearchResult:
        """Return the `k` nearest items of each query, by distance, then by id.

        Args:
            packed: uint8 (Q, K/8).
            k: at least 1; where there are fewer items, the rest of each row is -1.
            where: only items of this condition. What the server can say of it, it sifts by; the rest is sifted here.

        Raises:
            TypeError: `packed` is not uint8.
            ArgumentError: `packed` is not (Q, K/8), `k` is below 1, or `where` is no condition.
            ServerError: the server does not answer.
        """
        return self._of_one_state(lambda state: state._search(packed, k, where))

    def _search(self, packed: NDArray[np.uint8], k: int, where: str | None) -> SearchResult:
        check_packed(packed, self.code_length)
        check_at_least("k", k, 1)
        distances = np.full((len(packed), k), -1, dtype=np.int32)
        ids = np.full((len(packed), k), -1, dtype=np.int64)
        term, exact = (None, True) if where is None else self._translated(where)
        codes = [code.tobytes() for code in packed]
        if exact or where is None:
            found = self._nearest(codes, k, term)
        else:
            found = [self._sifted(code, k, term, where) for code in codes]
        for row, (far, named) in enumerate(found):
            distances[row, : len(far)], ids[row, : len(named)] = far, named
        return SearchResult(distances, ids)

    @final
    def find(self, packed: NDArray[np.uint8], k: int, *, where: str | None = None) -> tuple[SearchResult, IndexContent]:
        """Return what `search` does, and the items found; those that `remove` took meanwhile are -1."""

        def found(state: Self) -> tuple[SearchResult, IndexContent]:
            result = state._search(packed, k, where)
            return result, state._items(np.unique(result.ids[result.ids >= 0]))

        result, content = self._of_one_state(found)
        here = np.isin(result.ids, content.ids)
        return SearchResult(np.where(here, result.distances, -1), np.where(here, result.ids, -1)), content

    def _translated(self, where: str) -> tuple[Term | None, bool]:
        self.check_where(where)
        schema = self.manifest.schema

        def term(part: Comparison) -> Term | None:
            kind = comparable_kind(part, schema)
            return None if kind is None else self._term(part, kind)

        return narrowed(parse(where, schema.names), term, self._join)

    def _sifted(self, code: bytes, k: int, term: Term | None, where: str) -> Nearest:
        """Return the nearest items of a condition of which the server knows a part: look at more until k are found."""
        wanted = WIDER * k
        while True:
            ((distances, ids),) = self._nearest([code], wanted, term)
            kept = np.isin(ids, select_ids(self._items(ids).metadata, where))
            if kept.sum() >= k or len(ids) < wanted:
                return distances[kept][:k], ids[kept][:k]
            wanted *= WIDER

    def _stored(self, ids: NDArray[np.int64]) -> list[Stored]:
        parts = (ids[start : start + FETCHED].tolist() for start in range(0, len(ids), FETCHED))
        return [item for part in parts for item in self._fetch(part)]
