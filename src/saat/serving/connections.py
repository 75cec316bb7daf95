"""Bounds on connections, before there is a request to guard: how long its head may take, how many one client has."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

# Above `limits.MOST_OPEN`, for a proxy has one address, and half of the 1,024 files that a process usually may open.
MOST_CONNECTIONS = 512


def bounded_protocol(seconds: float, *, most: int = MOST_CONNECTIONS) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol with bounds on its connections.

    uvicorn itself ends a connection that idles between two requests, but not one before its first, nor within a head.

    Args:
        seconds: in which the whole head of a request must come; then the answer is 408, and the connection ends.
        most: open connections of one client address; one more is closed at once.
    """
    opened = Counter[str]()
    body = json.dumps({"error": f"the head of a request takes at most {seconds:g} s"}).encode()
    head = f"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    late = head.encode() + b"connection: close\r\n\r\n" + body

    class BoundedProtocol(H11Protocol):
        _due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            opened[self._address] += 1
            if opened[self._address] > most:
                transport.abort()
            else:
                self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            self._wait_for_head()
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._forget()  # the request is under way, which `Guard` gives its time

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            opened[self._address] -= 1
            if not opened[self._address]:
                del opened[self._address]
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            """Count from the first byte only: one that comes now and then must not buy more time."""
            if self._due is None:
                self._due = self.loop.call_later(seconds, self._end)

        def _forget(self) -> None:
            if self._due is not None:
                self._due.cancel()
                self._due = None

        def _end(self) -> None:
            self.transport.write(late)
            self.transport.close()

    return BoundedProtocol
