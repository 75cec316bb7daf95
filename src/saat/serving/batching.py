"""Queries that arrive together are answered together: one encoding for many requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class QueueFull(Exception):
    """As many queries wait as may wait."""


class Batcher(Generic[Asked, Answer]):
    """Collects what is asked at the same time, and runs it in one thread, batch after batch.

    A batch begins with the first query that waits. It closes when it is full, when nobody else is on the way, who has
    entered and not asked yet, or after `wait` seconds. So one query by itself does not wait, and under load, when many
    are being made ready, few small batches run: each costs what the model costs beside its arithmetic.

    Args:
        run: answers a batch, in order; called in one thread of its own.
        most: queries in a batch.
        wait: seconds for which a batch stays open for those on the way.
        room: queries that may be underway, on the way, waiting or running.
        seen: told the size of each batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Asked]], Sequence[Answer]],
        *,
        most: int = 32,
        wait: float = 0.05,
        room: int = 256,
        seen: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._run, self._most, self._wait, self._room, self._seen = run, most, wait, room, seen
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._news = asyncio.Event()  # someone asked or left, or the end has come
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saat-batch")
        self._task: asyncio.Task[None] | None = None
        self._underway = 0
        self._ending = False

    @property
    def underway(self) -> int:
        """Queries that were let in and have no answer yet."""
        return self._underway

    def start(self) -> None:
        """Begin to answer; call it in the event loop."""
        self._task = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """Answer what waits, then end."""
        self._ending = True
        self._news.set()
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
        self._news.set()

    async def ask(self, asked: Asked) -> Answer:
        """Return the answer; one whose caller has gone before its batch began is not worked out."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        self._news.set()
        return await future

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while await self._gather():
            taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            batch = [(asked, future) for asked, future in taken if not future.done()]
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

    async def _gather(self) -> bool:
        """Return when a batch is to run: True, or False when the end has come and nobody waits."""
        while not self._waiting and not self._ending:
            await self._hear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait):
                while not self._ending and len(self._waiting) < min(self._most, self._underway):
                    await self._hear()
        return bool(self._waiting)

    async def _hear(self) -> None:
        self._news.clear()
        await self._news.wait()
