"""Queries that arrive together are answered together: one encoding for many requests."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from saat.errors import SaatError

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class QueueFull(Exception):
    """As many queries wait as may wait."""


@dataclass(eq=False)
class _Request(Generic[Asked, Answer]):
    """Queries of one caller, with what has come of them so far."""

    makes: Sequence[Callable[[], Asked]]
    future: asyncio.Future[list[Answer]]
    ready: list[Asked] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


class Batcher(Generic[Asked, Answer]):
    """Makes queries ready in some threads, and answers those that are ready at the same time in one thread.

    A batch begins with the first query that is ready. It closes when it is full, when no other is being made ready, or
    after `wait` seconds. So one query by itself does not wait, and under load few small batches run: each costs what
    the model costs beside its arithmetic. The event loop takes part when a query comes and when its answer goes, and
    not in between: a hand-over from thread to thread through the loop costs nearly as much as HTTP.

    Args:
        run: answers a batch, in order; an error in the place of an answer is that of one caller.
        makers: threads that make queries ready, so that few are being made at a time, however many wait.
        most: queries in a batch.
        wait: seconds for which a batch stays open.
        room: queries that may be underway.
        seen: told the size of each batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Asked]], Sequence[Answer | SaatError]],
        *,
        makers: int = 1,
        most: int = 32,
        wait: float = 0.05,
        room: int = 256,
        seen: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._run, self._most, self._wait, self._room, self._seen = run, most, wait, room, seen
        self._makers = ThreadPoolExecutor(makers, thread_name_prefix="saat-decode")
        self._thread = threading.Thread(target=self._serve, name="saat-batch", daemon=True)
        self._underway = 0  # changed in the event loop only
        self._news = threading.Condition()  # guards the three below; told when a batch may begin or close
        self._coming = 0
        self._waiting: deque[tuple[_Request[Asked, Answer], Asked]] = deque()
        self._ending = False

    @property
    def underway(self) -> int:
        """Queries that were let in and have no answer yet."""
        return self._underway

    def start(self) -> None:
        """Begin to answer; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Answer what is underway, then end."""
        await self._loop.run_in_executor(None, self._end)

    async def ask(self, makes: Sequence[Callable[[], Asked]]) -> list[Answer]:
        """Return the answer to each query. A query that was not begun when its caller goes is not worked out.

        Args:
            makes: return the queries; called in a thread one after another, in turns with those of other callers.

        Raises:
            QueueFull: too many are underway; nothing was spent on these. More than there is room for are let in alone.
        """
        count = len(makes)
        if self._underway and self._underway + count > self._room:
            raise QueueFull
        self._underway += count
        request: _Request[Asked, Answer] = _Request(makes, self._loop.create_future())
        try:
            with self._news:
                self._coming += count
            self._makers.submit(self._make, request)
            return await request.future
        finally:
            self._underway -= count
            if request.future.cancelled():  # else they would wait for as long as a batch before them takes
                with self._news:
                    self._waiting = deque(pair for pair in self._waiting if pair[0] is not request)

    def _make(self, request: _Request[Asked, Answer]) -> None:
        """Make a query of a request ready; with the last one, all of them wait for their batch."""
        try:
            while len(request.ready) < len(request.makes) and not request.future.cancelled():
                request.ready.append(request.makes[len(request.ready)]())
                if len(request.ready) < len(request.makes):
                    with suppress(RuntimeError):  # at the end, when nobody else can come, there are no turns
                        self._makers.submit(self._make, request)
                        return
        except Exception as error:  # whatever went wrong, the one who waits must hear of it
            self._tell([(request, error)])
            request.ready.clear()
        with self._news:
            self._coming -= len(request.makes)
            if not request.future.cancelled():
                self._waiting.extend((request, asked) for asked in request.ready)
            if self._closed() or len(self._waiting) == len(request.ready):
                self._news.notify()

    def _closed(self) -> bool:
        return self._ending or not self._coming or len(self._waiting) >= self._most

    def _serve(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._ending)
                self._news.wait_for(self._closed, self._wait)
                if not self._waiting:  # those for whom it was opened have gone, or it is the end
                    if self._ending:
                        return
                    continue
                taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            batch = [(request, asked) for request, asked in taken if not request.future.done()]
            if batch:
                self._answer(batch)

    def _answer(self, batch: Sequence[tuple[_Request[Asked, Answer], Asked]]) -> None:
        self._seen(len(batch))
        done: list[tuple[_Request[Asked, Answer], Exception | None]] = []
        try:
            answers = self._run([asked for _, asked in batch])
        except Exception as error:  # as in `_make`
            done = [(request, error) for request, _ in batch]
        else:
            for (request, _), answer in zip(batch, answers, strict=True):
                if isinstance(answer, SaatError):
                    done.append((request, answer))
                    continue
                request.answers.append(answer)
                if len(request.answers) == len(request.makes):
                    done.append((request, None))
        self._tell(done)

    def _tell(self, done: Sequence[tuple[_Request[Asked, Answer], Exception | None]]) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody listens
            self._loop.call_soon_threadsafe(_deliver, done)

    def _end(self) -> None:
        self._makers.shutdown()
        with self._news:
            self._ending = True
            self._news.notify()
        self._thread.join()


def _deliver(done: Sequence[tuple[_Request[Asked, Answer], Exception | None]]) -> None:
    for request, error in done:
        if request.future.done():
            continue
        if error is None:
            request.future.set_result(request.answers)
        else:
            request.future.set_exception(error)
