"""PostgreSQL with the extension pgvector: `bit(K)` and its Hamming distance `<~>`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

import numpy as np

from saat.errors import ArgumentError, SaatError, ServerError
from saat.index.address import Address
from saat.index.grammar import Comparison
from saat.index.remote import Found, RemoteIndex
from saat.index.rows import text_of
from saat.index.stored import Nearest, RemoteManifest, Stored, in_order

MANIFESTS = "saat_manifests"  # table of the manifests, a row a table of items
# Options of libpq where the address says nothing. A server that is gone would hold up searches for hours else.
OPTIONS = {
    "connect_timeout": "10",  # seconds
    "keepalives_idle": "30",  # seconds without a word until the server is asked whether it is there
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",  # milliseconds
}
LIMIT = "60s"  # of a statement, where neither the address nor the server says anything
UNLIMITED = ("statement_timeout = 0",)
MOST_EFFORT = 1_000  # pgvector's own bound on `hnsw.ef_search`
SIGNS = {"==": "=", "!=": "<>"}  # others are the same in SQL
CASTS = {"integer": "bigint", "number": "float8", "boolean": "boolean", "text": "text"}


@dataclass(frozen=True)
class Filter:
    """A condition in SQL.

    Args:
        text: with the names of its values in it.
        values: by name.
    """

    text: str
    values: Mapping[str, Any]


class PgvectorIndex(RemoteIndex[Filter]):
    """A table `id, code, digest, metadata` (jsonb), searched by comparing each code: exact, ordered by SQL.

    Args:
        address: of a database, and the table in it.
        approximate: search by the graph that `build_graph` makes, instead of every code. Distances are true; items may
            be missing, and ties at the last distance are those that the walk met. `saat.index.recall` says how much is
            found.

    Raises:
        ArgumentError: psycopg is not installed, or `approximate` is asked of a table without a graph.
        ServerError: the server does not answer.
    """

    def __init__(self, address: Address, *, approximate: bool = False) -> None:
        self._psycopg = _client()
        self.address = address
        self._approximate = approximate
        self._numbers = count()
        self._lock = threading.RLock()  # a transaction is of one thread
        self._within = False  # a transaction of several statements, which a new connection cannot go on with
        self._connection = self._connect()
        try:
            super().__init__(address, self._read_manifest())
            if approximate and not self._has_graph():
                raise ArgumentError(f"`backend` hnsw needs a graph; {address} has none (saat index push --hnsw true)")
        except SaatError:
            self.close()
            raise

    def __len__(self) -> int:
        return int(self._run("SELECT count(*) FROM {table}")[0][0])

    def digests(self, low: int, high: int | None) -> dict[int, str]:
        """Return id and digest of the items with low <= id < high; no `high`, no end."""
        below = "" if high is None else " AND id < %(high)s"
        return dict(self._run("SELECT id, digest FROM {table} WHERE id >= %(low)s" + below, low=low, high=high))

    def probe(self) -> None:
        """Raise unless the server answers. A connection of its own waits for no search."""
        self._connect().close()

    def close(self) -> None:
        """Let go of the server."""
        self._connection.close()

    def build_graph(self) -> None:
        """Make the graph of approximate searches; it follows every change from then on."""
        query = "CREATE INDEX IF NOT EXISTS {graph} ON {table} USING hnsw (code bit_hamming_ops)"
        self._run(query, local=UNLIMITED)

    def _has_graph(self) -> bool:
        return bool(self._run("SELECT 1 FROM pg_indexes WHERE indexname = %(name)s", name=self._graph))

    @property
    def _graph(self) -> str:
        return f"{self.address.name}_hnsw"

    @contextmanager
    def _switched(self) -> Iterator[None]:
        """Make a transaction of the changes. Another push, of whatever machine, waits for its end."""
        try:
            with self._transaction():
                held = f"SELECT 1 FROM {MANIFESTS} WHERE name = %(name)s FOR UPDATE"
                self._run(held, local=UNLIMITED, name=self.address.name)
                yield
        except self._psycopg.Error as error:
            raise self._failed(error) from None

    def _of_one_state(self, read: Callable[[Self], Found]) -> Found:
        def within() -> Found:
            with self._transaction():
                self._run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                return read(self)

        return self._kept_up(within)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._connection.transaction():
            self._within = True
            try:
                yield
            finally:
                self._within = False

    def _create(self, code_length: int, text: str) -> None:
        self._run("CREATE EXTENSION IF NOT EXISTS vector")
        self._run(f"CREATE TABLE IF NOT EXISTS {MANIFESTS} (name text PRIMARY KEY, manifest text NOT NULL)")
        # One transaction, so that there is never a table without its manifest, nor a foreign table with one.
        self._run(
            f"CREATE TABLE {{table}} (id bigint PRIMARY KEY, code bit({code_length}) NOT NULL, digest text NOT NULL, "
            "metadata jsonb NOT NULL)",
            then=lambda: self._write_manifest(text),
        )

    def _write_manifest(self, text: str) -> None:
        self._run(
            f"INSERT INTO {MANIFESTS} VALUES (%(name)s, %(text)s) ON CONFLICT (name) DO UPDATE SET manifest = %(text)s",
            name=self.address.name,
            text=text,
        )

    def _read_manifest(self) -> RemoteManifest | None:
        if self._run("SELECT to_regclass(%(name)s)", name=MANIFESTS)[0][0] is None:
            return None
        found = self._run(f"SELECT manifest FROM {MANIFESTS} WHERE name = %(name)s", name=self.address.name)
        return RemoteManifest.read(found[0][0], self.address) if found else None

    def _put(self, items: Sequence[Stored]) -> None:
        self._run(
            f"INSERT INTO {{table}} SELECT i, c::bit({self.code_length}), d, m::jsonb "
            "FROM unnest(%(ids)s::bigint[], %(codes)s::text[], %(digests)s::text[], %(rows)s::text[]) AS n(i, c, d, m) "
            "ON CONFLICT (id) DO UPDATE SET code = EXCLUDED.code, digest = EXCLUDED.digest, "
            "metadata = EXCLUDED.metadata",
            ids=[item.id for item in items],
            codes=[bits_of(item.code) for item in items],
            digests=[item.digest for item in items],
            rows=[text_of(item.row) for item in items],
            local=UNLIMITED,  # a graph follows, item by item
        )

    def _delete(self, ids: list[int]) -> None:
        self._run("DELETE FROM {table} WHERE id = ANY(%(ids)s)", ids=ids)

    def _fetch(self, ids: list[int]) -> list[Stored]:
        found = self._run("SELECT id, code::text, metadata::text FROM {table} WHERE id = ANY(%(ids)s)", ids=ids)
        return [Stored(id_, bytes_of(bits), json.loads(row)) for id_, bits, row in found]

    def _nearest(self, codes: Sequence[bytes], k: int, term: Filter | None) -> list[Nearest]:
        where, values = ("", {}) if term is None else (f" WHERE {term.text}", dict(term.values))
        distance = f"code <~> %(code)s::bit({self.code_length})"
        # As an integer it is no order of the graph, so that PostgreSQL compares every code.
        query = f"SELECT ({distance})::int4 AS distance, id FROM {{table}}{where} ORDER BY distance, id LIMIT %(k)s"
        local: Sequence[str] = ()
        if self._approximate:
            query = f"SELECT ({distance})::int4, id FROM {{table}}{where} ORDER BY {distance} LIMIT %(k)s"
            local = walk(k)
        found = [self._run(query, local=local, code=bits_of(code), k=k, **values) for code in codes]
        return [in_order([row[0] for row in rows], [row[1] for row in rows]) for rows in found]

    def _term(self, part: Comparison, kind: str) -> Filter | None:
        if isinstance(part.literal, str) and "\0" in part.literal:  # a text of PostgreSQL has none
            return None
        name, value = (f"{letter}{next(self._numbers)}" for letter in "nv")
        values = {name: part.column, value: part.literal}
        column = "id" if part.column == "id" else f"(metadata ->> %({name})s)::{CASTS[kind]}"
        if kind == "text":
            column = f'({column}) COLLATE "C"'  # in the order of bytes, whatever the database's own is
        if part.sign == "contains":
            return Filter(f"strpos({column}, %({value})s) > 0", values)
        text = f"{column} {SIGNS.get(part.sign, part.sign)} %({value})s"
        if kind == "number" and part.sign in (">", ">="):  # for PostgreSQL, NaN is above all numbers
            text = f"({text} AND {column} <> 'NaN')"
        return Filter(text, values)

    def _join(self, word: str, terms: list[Filter]) -> Filter:
        values = {name: value for term in terms for name, value in term.values.items()}
        return Filter(f"({f' {word} '.join(term.text for term in terms)})", values)

    def _connect(self) -> Any:
        address = self.address
        given = {"host": address.host, "user": address.user, "password": address.password, "dbname": address.database}
        chosen = OPTIONS | dict(address.options) | {key: text for key, text in given.items() if text}
        if address.port is not None:
            chosen["port"] = str(address.port)
        try:
            connection = self._psycopg.connect(**chosen, autocommit=True)
            if "statement_timeout" not in chosen.get("options", ""):
                # Not as an option of libpq, which poolers such as PgBouncer refuse.
                unset = "current_setting('statement_timeout') = '0'"
                connection.execute(f"SELECT set_config('statement_timeout', '{LIMIT}', false) WHERE {unset}")
            return connection
        except self._psycopg.Error as error:
            raise self._failed(error) from None

    def _run(self, query: str, *, local: Sequence[str] = (), then: Any = None, **values: Any) -> list[Any]:
        """Run a statement, in which {table} and {graph} are names.

        Args:
            query: the statement.
            local: settings of PostgreSQL for this statement, or until the end of the transaction that it is in.
            then: called in the same transaction, after the statement.
            values: of the statement.
        """
        sql = self._psycopg.sql
        names = {"table": sql.Identifier(self.address.name), "graph": sql.Identifier(self._graph)}
        statement = sql.SQL(query).format(**names)
        return self._kept_up(lambda: self._in_transaction(statement, values, local, then))

    def _kept_up(self, request: Callable[[], Found]) -> Found:
        """Return what `request` does; a connection that was lost is made anew, once, but not in a transaction."""
        with self._lock:
            if self._within:
                return request()
            try:
                return request()
            except self._psycopg.Error as error:
                if not self._connection.closed:
                    raise self._failed(error) from None
            self._connection = self._connect()
            try:
                return request()
            except self._psycopg.Error as error:
                raise self._failed(error) from None

    def _in_transaction(self, statement: Any, values: dict[str, Any], local: Sequence[str], then: Any) -> list[Any]:
        with nullcontext() if self._within else self._connection.transaction():
            for setting in local:
                self._connection.execute(f"SET LOCAL {setting}")
            cursor = self._connection.execute(statement, values)
            found = cursor.fetchall() if cursor.description else []
            if then is not None:
                then()
            return list(found)

    def _failed(self, error: Exception) -> ServerError:
        text = " ".join(str(error).split("\n")[0].split())
        if self.address.password:
            text = text.replace(self.address.password, "***")
        return ServerError(f"{self.address}: {text}")


def walk(k: int) -> tuple[str, ...]:
    """Return the settings of PostgreSQL for a search of `k` items by the graph."""
    effort = min(MOST_EFFORT, max(100, 2 * k))
    return f"hnsw.ef_search = {effort}", "hnsw.iterative_scan = strict_order", "enable_seqscan = off"


def bits_of(code: bytes) -> str:
    """Return a code as PostgreSQL writes bits, the lowest bit of the first byte first.

    >>> bits_of(bytes([3, 128]))
    '1100000000000001'
    """
    bits = np.unpackbits(np.frombuffer(code, np.uint8), bitorder="little")
    return (bits + ord("0")).tobytes().decode()


def bytes_of(bits: str) -> bytes:
    """Return the code of which `bits_of` made `bits`."""
    return np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0"), bitorder="little").tobytes()


def _client() -> Any:
    try:
        import psycopg
    except ImportError:
        raise ArgumentError("an index in PostgreSQL needs psycopg: pip install 'saat[postgres]'") from None
    return psycopg
