"""Whether the servers of indexes answer, asked rarely and waited for briefly."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from saat.errors import ServerError

EVERY = 1.0  # seconds from one probe to the next, however often clients ask
SECONDS = 2.0  # that an answer is waited for
log = logging.getLogger(__name__)


class Readiness:
    """Asks in a thread of its own, one probe at a time. Used in one event loop.

    Args:
        probe: raises `ServerError` where a server does not answer.
    """

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saat-probe")
        self._last: asyncio.Future[bool] | None = None
        self._began = 0.0

    async def answers(self) -> bool:
        """Return whether the last probe was answered; it is made now, if the one before has ended and is old."""
        if self._last is None or (self._last.done() and time.monotonic() >= self._began + EVERY):
            self._began = time.monotonic()
            self._last = asyncio.get_running_loop().run_in_executor(self._pool, self._ask)
        await asyncio.wait([self._last], timeout=SECONDS)
        return self._last.done() and self._last.result()

    def stop(self) -> None:
        """Begin no probe any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> bool:
        try:
            self._probe()
        except ServerError as error:
            log.error("%s", error)  # names the address, which is no client's business
            return False
        return True
