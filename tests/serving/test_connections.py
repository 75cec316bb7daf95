"""Connections that send no whole head of a request, or take no answer, to a service as a process of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest

from saat.serving.connections import MOST_CONNECTIONS
from service import Start

SECONDS = 2.0
LATE = b'{"error": "the head of a request takes at most 2 s"}'
ASKED = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def address(served: Any, serve: Start) -> Iterator[tuple[str, int]]:
    with serve(f"--index={served.index}", f"--request_seconds={SECONDS}", "--rate=0") as server:
        host, port = server.url.removeprefix("http://").split(":")
        yield host, int(port)


def answer_of(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def small_room(address: tuple[str, int]) -> socket.socket:
    """Return a connection for whose answers the system keeps little room, here and there: segments are small, too."""
    connection = socket.socket()
    connection.settimeout(10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(address)
    return connection


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: local"])
def test_a_head_that_does_not_come_ends_its_connection(address: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        began = time.monotonic()
        connection.sendall(sent)
        answer = answer_of(connection)
        assert SECONDS - 0.2 < time.monotonic() - began < SECONDS + 3
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(LATE)


def test_a_byte_now_and_then_buys_no_time(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(ASKED)
        while not connection.recv(65536).endswith(b'{"status":"ok"}'):
            pass
        began = time.monotonic()
        for letter in ASKED[:-2]:  # the second request of a connection
            try:
                connection.sendall(bytes([letter]))
            except OSError:
                break
            time.sleep(0.2)
        assert time.monotonic() - began < SECONDS + 3


def test_a_connection_in_use_outlives_the_time_of_a_head(address: tuple[str, int]) -> None:
    connection = HTTPConnection(*address, timeout=10)
    connection.connect()
    connection.auto_open = 0  # a second connection would be none
    for _ in range(4):
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        time.sleep(0.6 * SECONDS)
    connection.close()


@pytest.mark.parametrize(("waits", "cut"), [(SECONDS / 2, False), (SECONDS + 1, True)])
@pytest.mark.parametrize("images", [32, 60])  # of whose answers the system leaves a little, and much
def test_an_answer_that_is_not_taken_in_time_is_cut_off(
    address: tuple[str, int], served: Any, images: int, waits: float, cut: bool
) -> None:
    files = [("images", path.read_bytes()) for path in sorted(served.photos.rglob("*.png"))[:images]]
    url = f"http://{address[0]}:{address[1]}/search/batch"
    request = httpx.Request("POST", url, files=files, data={"k": "60"}, headers={"connection": "close"})
    body = request.read()
    whole = len(httpx.post(url, files=files, data={"k": "60"}).content)
    with small_room(address) as connection:
        head = [b"POST /search/batch HTTP/1.1", *(name + b": " + value for name, value in request.headers.raw)]
        connection.sendall(b"\r\n".join([*head, b"", body]))
        time.sleep(waits)
        _, _, taken = answer_of(connection).partition(b"\r\n\r\n")
    assert (len(taken) < whole) == cut


def test_one_client_has_so_many_connections_and_others_get_theirs(address: tuple[str, int]) -> None:
    def status(source: str) -> int:
        with httpx.Client(transport=httpx.HTTPTransport(local_address=source)) as client:
            return client.get(f"http://{address[0]}:{address[1]}/health").status_code

    with ExitStack() as open_:
        silent = [
            open_.enter_context(socket.create_connection(address, timeout=10, source_address=("127.0.0.9", 0)))
            for _ in range(MOST_CONNECTIONS)
        ]
        with pytest.raises(httpx.TransportError):
            status("127.0.0.9")
        assert status("127.0.0.10") == 200
        assert all(b" 408 " in answer_of(connection) for connection in silent)
    assert status("127.0.0.9") == 200  # the places are given back
