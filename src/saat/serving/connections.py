"""Bounds on connections, where no request is guarded: how many one client has, how long a head may take to come, and an
answer to be taken.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

# Above `limits.MOST_OPEN`, for a proxy has one address, and half of the 1,024 files that a process usually may open.
MOST_CONNECTIONS = 512


def bounded_protocol(seconds: float, *, most: int = MOST_CONNECTIONS) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol with bounds on its connections.

    uvicorn itself ends a connection that idles between two requests, but not one before its first, nor within a head;
    and where an answer waits to be taken, it waits too, even with a connection that it has closed.

    Args:
        seconds: in which the whole head of a request must come, else the answer is 408 and the connection ends; and in
            which a client must take what is sent, else the connection is cut off.
        most: open connections of one client address; one more is closed at once.
    """
    opened = Counter[str]()
    body = json.dumps({"error": f"the head of a request takes at most {seconds:g} s"}).encode()
    head = f"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    late = head.encode() + b"connection: close\r\n\r\n" + body

    class BoundedProtocol(H11Protocol):
        _due: asyncio.TimerHandle | None = None
        _untaken: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            opened[self._address] += 1
            if opened[self._address] > most:
                transport.abort()
            else:
                transport.set_write_buffer_limits(high=0)  # so it pauses as soon as the system takes no more
                self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            self._wait_for_head()
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._forget()  # the request is under way, which `Guard` gives its time

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            self._taken()
            opened[self._address] -= 1
            if not opened[self._address]:
                del opened[self._address]
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._untaken = self.loop.call_later(seconds, self.transport.abort)  # `close` would wait for the client

        def resume_writing(self) -> None:
            super().resume_writing()
            self._taken()

        def _taken(self) -> None:
            if self._untaken is not None:
                self._untaken.cancel()
                self._untaken = None

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
