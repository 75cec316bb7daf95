"""Queries that arrive together are answered together: one encoding for many requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class QueueFull(Exception):
    """As many queries wait as may wait."""


class Batcher(Generic[Asked, Answer]):
    """Collects what is asked at the same time, and runs it in one thread, batch after batch.

    A batch begins with the first query that waits, and closes when it is full or after `wait` seconds. While one batch
    runs, the next one gathers, so that under load the wait costs nothing.

    Args:
        run: answers a batch, in order; called in one thread of its own.
        most: queries in a batch.
        wait: seconds for which a batch stays open.
        room: queries that may be underway, waiting or running.
        seen: told the size of each batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Asked]], Sequence[Answer]],
        *,
        most: int = 32,
        wait: float = 0.002,
        room: int = 256,
        seen: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._run, self._most, self._wait, self._room, self._seen = run, most, wait, room, seen
        self._queue: asyncio.Queue[tuple[Asked, asyncio.Future[Answer]] | None] = asyncio.Queue()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saat-batch")
        self._task: asyncio.Task[None] | None = None
        self._underway = 0

    @property
    def underway(self) -> int:
        """Queries that were let in and have no answer yet."""
        return self._underway

    def start(self) -> None:
        """Begin to answer; call it in the event loop."""
        self._task = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """Answer what waits, then end."""
        self._queue.put_nowait(None)
        if self._task is not None:
            await self._task
        self._pool.shutdown()

    def enter(self, count: int = 1) -> None:
        """Take room for `count` queries, before anything is spent on them; give it back with `leave`.

        Raises:
            QueueFull: there is not as much.
        """
        if self._underway + count > self._room:
            raise QueueFull
        self._underway += count

    def leave(self, count: int = 1) -> None:
        """Give back the room that `enter` took."""
        self._underway -= count

    async def ask(self, asked: Asked) -> Answer:
        """Return the answer; one whose caller has gone before its batch began is not worked out."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((asked, future))
        return await future

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        ending = False
        while not ending:
            batch, ending = await self._gather()
            batch = [(asked, future) for asked, future in batch if not future.done()]
            if not batch:
                continue
            self._seen(len(batch))
            try:
                answers = await loop.run_in_executor(self._pool, self._run, [asked for asked, _ in batch])
            except Exception as error:  # whatever went wrong, those who wait must hear of it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _gather(self) -> tuple[list[tuple[Asked, asyncio.Future[Answer]]], bool]:
        """Return the next batch, and whether it is the last one."""
        first = await self._queue.get()
        if first is None:
            return [], True
        batch = [first]
        closes = asyncio.get_running_loop().time() + self._wait
        while len(batch) < self._most:
            left = closes - asyncio.get_running_loop().time()
            try:
                following = await asyncio.wait_for(self._queue.get(), left) if left > 0 else self._queue.get_nowait()
            except (TimeoutError, asyncio.QueueEmpty):
                break
            if following is None:
                return batch, True
            batch.append(following)
        return batch, False
