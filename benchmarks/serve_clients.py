"""Clients of a service as cheap as sockets allow, so that what is measured is the service."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from hostile_requests import Hostile

Address = tuple[str, int]
PATIENCE = 60.0


@dataclass(frozen=True)
class Answers:
    """What clients got.

    Args:
        rate: good answers a second.
        seconds: of each answer.
        failed: requests without a good answer.
        different: good answers that are not those of a client alone.
    """

    rate: float
    seconds: tuple[float, ...]
    failed: int
    different: int

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Return all answers as one; the rate is their mean."""
        seconds = tuple(value for part in parts for value in part.seconds)
        rate = sum(part.rate for part in parts) / len(parts)
        return cls(rate, seconds, sum(part.failed for part in parts), sum(part.different for part in parts))

    def figures(self) -> dict[str, Any]:
        """Return what a result file says of them; times in milliseconds."""
        p50, p99 = (1000 * float(np.quantile(self.seconds, share)) for share in (0.5, 0.99))
        counts = {"requests": len(self.seconds), "failed": self.failed, "different": self.different}
        return {"requests_per_second": self.rate, "p50_ms": p50, "p99_ms": p99} | counts


class Connection:
    """A connection that is kept, and opened again where the server has closed it because it was idle."""

    def __init__(self, address: Address, *, patience: float = PATIENCE) -> None:
        self._address, self._patience = address, patience
        self._open()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body."""
        try:
            self._socket.sendall(request)
            whole = self._until_head()
        except ConnectionError:  # closed while the request was on its way, as HTTP allows
            self._socket.close()
            self._open()
            self._socket.sendall(request)
            whole = self._until_head()
        head, _, body = whole.partition(b"\r\n\r\n")
        fields = head.lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in fields if line.startswith(b"content-length:"))
        while len(body) < length:
            body += self._more()
        return int(head[9:12]), body

    def send(self, part: bytes) -> None:
        """Send some bytes."""
        self._socket.sendall(part)

    def status(self) -> str:
        """Return the status of the answer that comes, as text."""
        return self._until_head()[9:12].decode("ascii", "replace")

    def _open(self) -> None:
        self._socket = socket.create_connection(self._address, timeout=self._patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _until_head(self) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._more()
        return head

    def _more(self) -> bytes:
        more = self._socket.recv(65536)
        if not more:
            raise ConnectionError("closed")
        return more


def ask_for(address: Address, requests: Sequence[bytes]) -> list[bytes]:
    """Return the answer to each request, asked one after another."""
    with Connection(address) as connection:
        answers = [connection.ask(request) for request in requests]
    assert all(status == 200 for status, _ in answers), answers[0]
    return [body for _, body in answers]


def closed_loop(
    address: Address,
    requests: Sequence[bytes],
    known: Sequence[bytes],
    clients: int,
    seconds: float | None,
    ended: threading.Event | None = None,
) -> Answers:
    """Let each client ask again as soon as it has its answer, for some seconds or until an event.

    Args:
        address: of the service.
        requests: whole requests, asked in turns.
        known: the answer to each.
        clients: how many ask at a time.
        seconds: how long; none is until `ended` is set.
        ended: ends it early.
    """
    ended, began = ended or threading.Event(), time.perf_counter()
    until = float("inf") if seconds is None else began + seconds

    def run(client: int) -> tuple[list[float], int, int]:
        times, failed, different, turn = [], 0, 0, client
        with Connection(address) as connection:
            while time.perf_counter() < until and not ended.is_set():
                asked = time.perf_counter()
                status, body = connection.ask(requests[turn % len(requests)])
                times.append(time.perf_counter() - asked)
                failed += status != 200
                different += status == 200 and body != known[turn % len(known)]
                turn += 1
        return times, failed, different

    with ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(run, range(clients)))
    spent = time.perf_counter() - began
    times = tuple(value for part in parts for value in part[0])
    failed = sum(part[1] for part in parts)
    return Answers((len(times) - failed) / spent, times, failed, sum(part[2] for part in parts))


def attack(address: Address, hostile: Hostile, patience: float) -> str:
    """Send a hostile request; return the status of its answer, or what became of the connection."""
    try:
        with Connection(address, patience=patience) as connection:
            for number, part in enumerate(hostile.parts):
                if number and hostile.pause:
                    time.sleep(hostile.pause)
                try:
                    connection.send(part)
                except OSError:  # refused before all was sent; the answer may have come
                    break
            return "left" if hostile.hangs_up else connection.status()
    except TimeoutError:
        return "no answer"
    except OSError:
        return "closed"
