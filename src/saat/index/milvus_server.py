"""A connection to Milvus, and the collections of an index on it."""

from __future__ import annotations

import logging
import os
from typing import Any

from saat.errors import ArgumentError, DataError, ServerError
from saat.index.address import Address

PORT = 19_530
TOKEN = "MILVUS_TOKEN"  # environment variable, for an address without user: user:password, or a key
SECONDS = 60.0  # that a request may take
CONNECT_SECONDS = 10.0
FIELDS = ("id", "code", "digest", "metadata")


class MilvusServer:
    """A server, on which a name is that of a collection or an alias of one.

    Args:
        address: of an index on it.

    Raises:
        ArgumentError: pymilvus is not installed.
        ServerError: the server does not answer.
    """

    def __init__(self, address: Address) -> None:
        self._pymilvus = _client()
        self._address = address
        given = connection(address, os.environ.get(TOKEN, ""))
        self._secret = given["token"].partition(":")[2] or given["token"]
        try:
            self._client = self._pymilvus.MilvusClient(**given, timeout=CONNECT_SECONDS)
        except self._pymilvus.MilvusException as error:
            raise self._failed(error) from None

    def ask(self, request: str, *values: Any, seconds: float = SECONDS, **named: Any) -> Any:
        """Return the answer to a request, a method of pymilvus's client.

        Raises:
            ServerError: there is none; its text shows no password.
        """
        try:
            return getattr(self._client, request)(*values, timeout=seconds, **named)
        except self._pymilvus.MilvusException as error:
            raise self._failed(error) from None

    def has(self, name: str) -> bool:
        """Return whether there is a collection of this name or alias."""
        return bool(self.ask("has_collection", name))

    def collection_of(self, alias: str) -> str:
        """Return the name of a collection, given it or its alias."""
        return str(self.ask("describe_collection", alias)["collection_name"])

    def make(self, name: str, code_length: int) -> None:
        """Make a collection, empty and loaded."""
        kinds = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("code", kinds.BINARY_VECTOR, dim=code_length)
        schema.add_field("digest", kinds.VARCHAR, max_length=32)
        schema.add_field("metadata", kinds.JSON)
        self.ask("create_collection", name, schema=schema, consistency_level="Strong")
        self.finish(name)

    def finish(self, name: str) -> None:
        """Load a collection whose making may have been cut off before it had its index.

        Raises:
            DataError: it is not one of saat.
        """
        self._check(name)
        if not self.ask("list_indexes", name):
            flat = self._client.prepare_index_params()
            flat.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
            self.ask("create_index", name, flat)
        self.ask("load_collection", name)

    def load(self, name: str) -> None:
        """Load a collection, for only such a one is searched.

        Raises:
            DataError: it is not one of saat.
        """
        self._check(name)
        self.ask("load_collection", name)

    def _check(self, name: str) -> None:
        described = self.ask("describe_collection", name)
        if described["collection_name"] != name:
            raise DataError(f"{self._address} needs the name {name}, which is an alias of another collection")
        fields = tuple(field["name"] for field in described["fields"])
        if fields != FIELDS:
            found = f"the fields of {name} are {', '.join(fields)}"
            raise DataError(f"{self._address} is a collection that is not of saat: {found}")

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def _failed(self, error: Any) -> ServerError:
        text = " ".join(str(error.message).split())
        if self._secret:
            text = text.replace(self._secret, "***")
        return ServerError(f"{self._address}: {text}")


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


def _client() -> Any:
    try:
        import pymilvus
    except ImportError:
        raise ArgumentError("an index in Milvus needs pymilvus: pip install 'saat[milvus]'") from None
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints a trace of each error that it raises
    return pymilvus
