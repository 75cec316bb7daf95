"""Milvus: `BINARY_VECTOR` with the metric `HAMMING`, for more codes than one machine holds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, Self

import numpy as np

from saat.errors import DataError, ServerError
from saat.index.address import Address
from saat.index.grammar import Comparison
from saat.index.milvus_server import CONNECT_SECONDS, MilvusServer
from saat.index.remote import Found, RemoteIndex
from saat.index.rows import NOT_FINITE
from saat.index.stored import Nearest, RemoteManifest, Stored, in_order
from saat.index.where import OPERATORS

MOST = 16_384  # results of a search, at most: a rule of Milvus
ROOM = 4 * MOST  # results of the queries of one request
MANIFEST_ID = -1  # of the row that holds the manifest; ids of items are at least 0
ENDS = ("_saat_0", "_saat_1")  # of the names of the two collections, after that of the alias
_NAME = re.compile(r"[\w -]+", re.ASCII)  # of a column that its filters find; some others break them
# What stands in a string as it is. Texts with other signs are not sent: such a condition is sifted here.
_PLAIN = re.compile(r'[^"\\\x00-\x1f\x7f]*')


class MilvusIndex(RemoteIndex[str]):
    """A collection `id, code, digest, metadata` (JSON), searched by comparing each code (`BIN_FLAT`): exact.

    The name in the address is an alias of one of two collections. A change is made in the other one, which has the
    state before the last change; then the alias is turned to it.

    Milvus orders ties as it likes and returns at most 16,384 results. So more than `k` are asked for, until the last
    distance of interest is followed by a larger one; items beyond that bound are searched in ranges of ids, none of
    which holds more.

    Args:
        address: of a server, and the collection on it.

    Raises:
        ArgumentError: pymilvus is not installed.
        ServerError: the server does not answer.
        DataError: the collection is not one of saat.
    """

    def __init__(self, address: Address) -> None:
        self._server = MilvusServer(address)
        self.address = address
        self._collection: str | None = None  # of all requests; else the one of the alias, asked each time
        try:
            super().__init__(address, self._read_manifest())
        except DataError:
            self.close()
            raise

    @property
    def _name(self) -> str:
        # Not the alias: for a moment after it was turned, the server may take it for the collection before.
        return self._collection or self._server.collection_of(self.address.name)

    def __len__(self) -> int:
        return self._of_one_state(lambda state: state._count("id >= 0"))

    def digests(self, low: int, high: int | None) -> dict[int, str]:
        """Return id and digest of the items with low <= id < high; no `high`, no end."""
        return {row["id"]: row["digest"] for row in self._query(_between(low, high), ["digest"])}

    def probe(self) -> None:
        """Raise unless the server answers."""
        self._server.ask("has_collection", self.address.name, seconds=CONNECT_SECONDS)

    def close(self) -> None:
        """Let go of the server."""
        self._server.close()

    @contextmanager
    def _switched(self) -> Iterator[None]:
        before, alias = self._name, self.address.name
        if before == alias:
            raise DataError(f"{self.address} is a collection and no alias of one; push to another name")
        (after,) = {alias + end for end in ENDS} - {before}
        if self._server.has(after):
            self._server.finish(after)
        else:
            self._server.make(after, self.code_length)
        self._collection = after
        try:
            yield
            self._server.ask("alter_alias", after, alias)
            self._server.ask("release_collection", before)
        finally:
            self._collection = None

    def _of_one_state(self, read: Callable[[Self], Found]) -> Found:
        while True:
            state = copy(self)
            state._collection = name = self._name
            try:
                found = read(state)
            except ServerError:
                if self._name == name:
                    raise
            else:
                if self._name == name:
                    return found
            # A push has turned the alias meanwhile, and the next one may write to this collection: read the other.

    def _create(self, code_length: int, text: str) -> None:
        alias = self.address.name
        self._collection = alias + ENDS[0]
        try:
            if self._server.has(self._collection):  # what a push left that was stopped before it made the alias
                self._drop_empty()
            self._server.make(self._collection, code_length)
            self._put_manifest(code_length, text)
            self._server.ask("create_alias", self._collection, alias)
        finally:
            self._collection = None

    def _drop_empty(self) -> None:
        self._server.finish(self._name)
        if self._count("id >= 0"):
            raise DataError(f"{self.address} needs the name {self._name}, of a collection that has items and no alias")
        self._server.ask("drop_collection", self._name)

    def _write_manifest(self, text: str) -> None:
        self._put_manifest(self.code_length, text)

    def _put_manifest(self, code_length: int, text: str) -> None:
        self._put([Stored(MANIFEST_ID, bytes(code_length // 8), {"manifest": text})])

    def _read_manifest(self) -> RemoteManifest | None:
        if not self._server.has(self.address.name):
            return None
        return self._of_one_state(lambda state: state._read_manifest_here())

    def _read_manifest_here(self) -> RemoteManifest | None:
        self._server.load(self._name)
        rows = self._query(f"id == {MANIFEST_ID}", ["metadata"])
        return RemoteManifest.read(_row(rows[0])["manifest"], self.address) if rows else None

    def _put(self, items: Sequence[Stored]) -> None:
        rows = [{"id": item.id, "code": item.code, "digest": item.digest, "metadata": item.row} for item in items]
        self._server.ask("upsert", self._name, rows)

    def _delete(self, ids: list[int]) -> None:
        self._server.ask("delete", self._name, filter=f"id in {ids}")

    def _fetch(self, ids: list[int]) -> list[Stored]:
        rows = self._query(f"id in {ids}", ["code", "metadata"]) if ids else []
        return [Stored(row["id"], bytes(row["code"][0]), _row(row)) for row in rows]

    def _nearest(self, codes: Sequence[bytes], k: int, term: str | None) -> list[Nearest]:
        limit = min(MOST, 2 * k + 64)
        found = self._hits(codes, limit, _and("id >= 0", term))
        return [self._completed(code, k, term, hits, limit) for code, hits in zip(codes, found, strict=True)]

    def _completed(self, code: bytes, k: int, term: str | None, hits: Nearest, limit: int) -> Nearest:
        """Return the `k` nearest items, given the `limit` nearest; some of the last distance may be missing."""
        distances, ids = hits
        if len(ids) < limit or (k < limit and distances[k - 1] < distances[-1]):
            return distances[:k], ids[:k]
        if limit < MOST:
            (hits,) = self._hits([code], MOST, _and("id >= 0", term))
            return self._completed(code, k, term, hits, MOST)
        # With k results in reach, only ties at the last distance are open, and the first ones by id are enough.
        bounded, last = k <= limit, distances[-1]
        nearer = distances < last if bounded else np.zeros(len(ids), np.bool_)
        best = distances[nearer], ids[nearer]
        for within in self._windows(term):
            ((far, named),) = self._hits([code], MOST, within)
            kept = far == last if bounded else np.ones(len(far), np.bool_)
            far, named = in_order(np.append(best[0], far[kept]), np.append(best[1], named[kept]))
            best = far[:k], named[:k]
            if bounded and len(best[1]) == k:
                break
        return best

    def _windows(self, term: str | None) -> Iterator[str]:
        """Yield conditions that part the items of `term` by ascending ids; no part has more than a search returns."""
        high = MOST
        while self._count(f"id >= {high}"):
            high *= 2
        spans = [(0, high)]
        while spans:
            low, high = spans.pop()
            within = _and(_between(low, high), term)
            count = self._count(within)
            if count > MOST:
                middle = (low + high) // 2
                spans += [(middle, high), (low, middle)]
            elif count:
                yield within

    def _hits(self, codes: Sequence[bytes], limit: int, within: str) -> list[Nearest]:
        """Return for each code at most `limit` nearest items; of the last distance, any."""
        found: list[Nearest] = []
        name = self._name
        step = max(1, ROOM // limit)
        for start in range(0, len(codes), step):
            part = list(codes[start : start + step])
            answer = self._server.ask(
                "search",
                name,
                part,
                filter=within,
                limit=limit,
                anns_field="code",
                search_params={"metric_type": "HAMMING"},
            )
            found += [in_order([hit["distance"] for hit in hits], [hit["id"] for hit in hits]) for hits in answer]
        return found

    def _term(self, part: Comparison, kind: str) -> str | None:
        column, sign, literal = part.column, part.sign, part.literal
        place = "id" if column == "id" else f'metadata["{column}"]'
        if not _NAME.fullmatch(column):
            return None
        if sign == "contains" or (column == "id" and isinstance(literal, float)):
            return None
        if isinstance(literal, bool):
            value = literal if sign == "==" else not literal
            return f"{place} == {str(value).lower()}" if sign in ("==", "!=") else None
        if isinstance(literal, str) and not _PLAIN.fullmatch(literal):
            return None
        if isinstance(literal, float) and not math.isfinite(literal):
            return None
        text = f'"{literal}"' if isinstance(literal, str) else repr(literal)
        # A field that is missing differs from everything for Milvus, and from nothing for saat.
        said = [f"{place} {each} {text}" for each in (("<", ">") if sign == "!=" else (sign,))]
        if kind == "number":
            said += [f'{place} == "{far}"' for far in NOT_FINITE if OPERATORS[sign](float(far), literal)]
        return self._join("or", said)

    def _join(self, word: str, terms: list[str]) -> str:
        return terms[0] if len(terms) == 1 else f"({f' {word} '.join(terms)})"

    def _count(self, within: str) -> int:
        return int(self._query(within, ["count(*)"])[0]["count(*)"])

    def _query(self, within: str, fields: list[str]) -> list[dict[str, Any]]:
        return list(self._server.ask("query", self._name, filter=within, output_fields=fields))


def _and(within: str, term: str | None) -> str:
    return within if term is None else f"{within} and {term}"


def _between(low: int, high: int | None) -> str:
    return f"id >= {low}" if high is None else f"id >= {low} and id < {high}"


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a row, which some versions of pymilvus leave as text."""
    found = row["metadata"]
    return dict(json.loads(found) if isinstance(found, str | bytes) else found)
