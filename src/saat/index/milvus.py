"""Milvus: `BINARY_VECTOR` with the metric `HAMMING`, for more codes than one machine holds."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from saat.errors import ArgumentError, DataError, ServerError
from saat.index.address import Address
from saat.index.remote import Nearest, RemoteIndex, in_order
from saat.index.rows import NOT_FINITE
from saat.index.stored import RemoteManifest, Stored
from saat.index.where import OPERATORS, Comparison

PORT = 19_530
TOKEN = "MILVUS_TOKEN"  # environment variable, for an address without user: user:password, or a key
SECONDS = 60.0  # that a request may take
CONNECT_SECONDS = 10.0
MOST = 16_384  # results of a search, at most: a rule of Milvus
ROOM = 4 * MOST  # results of the queries of one request
MANIFEST_ID = -1  # of the row that holds the manifest; ids of items are at least 0
FIELDS = ("id", "code", "digest", "metadata")
# What stands in a string as it is. Texts with other signs are not sent: such a condition is sifted here.
_PLAIN = re.compile(r'[^"\\\x00-\x1f\x7f]*')


class MilvusIndex(RemoteIndex[str]):
    """A collection `id, code, digest, metadata` (JSON), searched by comparing each code (`BIN_FLAT`): exact.

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
        self._pymilvus = _client()
        self.address = address
        given = connection(address, os.environ.get(TOKEN, ""))
        self._secret = given["token"].partition(":")[2] or given["token"]
        self._client = self._ask(lambda: self._pymilvus.MilvusClient(**given, timeout=CONNECT_SECONDS))
        try:
            super().__init__(address, self._read_manifest())
        except DataError:
            self.close()
            raise

    def __len__(self) -> int:
        return self._count("id >= 0")

    def digests(self, low: int, high: int | None) -> dict[int, str]:
        """Return id and digest of the items with low <= id < high; no `high`, no end."""
        return {row["id"]: row["digest"] for row in self._query(_between(low, high), ["digest"])}

    def probe(self) -> None:
        """Raise unless the server answers."""
        self._ask(lambda: self._client.has_collection(self.address.name, timeout=CONNECT_SECONDS))

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def _create(self, code_length: int, text: str) -> None:
        kinds = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("code", kinds.BINARY_VECTOR, dim=code_length)
        schema.add_field("digest", kinds.VARCHAR, max_length=32)
        schema.add_field("metadata", kinds.JSON)
        flat = self._client.prepare_index_params()
        flat.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
        name = self.address.name
        if self._ask(lambda: self._client.has_collection(name, timeout=SECONDS)):
            self._drop_empty()  # what a push left that was stopped before its first item
        self._ask(
            lambda: self._client.create_collection(
                name, schema=schema, index_params=flat, consistency_level="Strong", timeout=SECONDS
            )
        )
        self._put_manifest(code_length, text)

    def _drop_empty(self) -> None:
        if self._count(f"id >= {MANIFEST_ID}"):
            raise DataError(f"{self.address} is a collection that is not of saat, or has lost its manifest")
        self._ask(lambda: self._client.drop_collection(self.address.name, timeout=SECONDS))

    def _write_manifest(self, text: str) -> None:
        self._put_manifest(self.code_length, text)

    def _put_manifest(self, code_length: int, text: str) -> None:
        self._put([Stored(MANIFEST_ID, bytes(code_length // 8), {"manifest": text})], [""])

    def _read_manifest(self) -> RemoteManifest | None:
        name = self.address.name
        if not self._ask(lambda: self._client.has_collection(name, timeout=SECONDS)):
            return None
        found = self._ask(lambda: self._client.describe_collection(name, timeout=SECONDS))
        fields = tuple(field["name"] for field in found["fields"])
        if fields != FIELDS:
            raise DataError(f"{self.address} is a collection that is not of saat: its fields are {', '.join(fields)}")
        self._ask(lambda: self._client.load_collection(name, timeout=SECONDS))
        rows = self._query(f"id == {MANIFEST_ID}", ["metadata"])
        return RemoteManifest.read(_row(rows[0])["manifest"], self.address) if rows else None

    def _put(self, items: Sequence[Stored], digests: Sequence[str]) -> None:
        rows = [
            {"id": item.id, "code": item.code, "digest": digest, "metadata": item.row}
            for item, digest in zip(items, digests, strict=True)
        ]
        self._ask(lambda: self._client.upsert(self.address.name, rows, timeout=SECONDS))

    def _delete(self, ids: list[int]) -> None:
        self._ask(lambda: self._client.delete(self.address.name, filter=f"id in {ids}", timeout=SECONDS))

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
        step = max(1, ROOM // limit)
        for start in range(0, len(codes), step):
            part = list(codes[start : start + step])
            answer = self._ask(
                lambda part=part: self._client.search(  # type: ignore[misc]
                    self.address.name,
                    part,
                    filter=within,
                    limit=limit,
                    anns_field="code",
                    search_params={"metric_type": "HAMMING"},
                    timeout=SECONDS,
                )
            )
            found += [in_order([hit["distance"] for hit in hits], [hit["id"] for hit in hits]) for hits in answer]
        return found

    def _term(self, part: Comparison, kind: str) -> str | None:
        column, sign, literal = part.column, part.sign, part.literal
        place = "id" if column == "id" else f'metadata["{column}"]'
        if not column.isascii() or sign == "contains" or (column == "id" and isinstance(literal, float)):
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
        name = self.address.name
        return list(self._ask(lambda: self._client.query(name, filter=within, output_fields=fields, timeout=SECONDS)))

    def _ask(self, request: Callable[[], Any]) -> Any:
        try:
            return request()
        except self._pymilvus.MilvusException as error:
            text = " ".join(str(error.message).split())
            if self._secret:
                text = text.replace(self._secret, "***")
            raise ServerError(f"{self.address}: {text}") from None


def connection(address: Address, token: str) -> dict[str, str]:
    """Return what pymilvus is told of a server.

    Args:
        address: of an index on it; its user and password go before `token`.
        token: user:password, or a key; empty for none.

    >>> from saat.index.address import parse_address
    >>> connection(parse_address("milvus+tls://db/photos"), "me:secret")
    {'uri': 'https://db:19530', 'token': 'me:secret'}
    """
    host = f"[{address.host}]" if ":" in address.host else address.host
    protocol = "https" if address.scheme == "milvus+tls" else "http"
    own = f"{address.user}:{address.password}" if address.user else ""
    return {"uri": f"{protocol}://{host}:{address.port or PORT}", "token": own or token}


def _and(within: str, term: str | None) -> str:
    return within if term is None else f"{within} and {term}"


def _between(low: int, high: int | None) -> str:
    return f"id >= {low}" if high is None else f"id >= {low} and id < {high}"


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a row, which some versions of pymilvus leave as text."""
    found = row["metadata"]
    return dict(json.loads(found) if isinstance(found, str | bytes) else found)


def _client() -> Any:
    try:
        import pymilvus
    except ImportError:
        raise ArgumentError("an index in Milvus needs pymilvus: pip install 'saat[milvus]'") from None
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints a trace of each error that it raises
    return pymilvus
