"""What the routes work with: the engine behind its queue, and the threads that do the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import TypeVar

from fastapi import FastAPI

from saat.serving.batching import Batcher, QueueFull
from saat.serving.engine import SearchEngine
from saat.serving.hits import Answer
from saat.serving.lab import Lab
from saat.serving.limits import Limits
from saat.serving.measures import Measures
from saat.serving.query import Query
from saat.serving.readiness import Readiness
from saat.serving.store import Store

Result = TypeVar("Result")
# Threads that decode queries, and as many for pictures, at most: few decoded images are in memory at a time.
DECODERS = 4
LAB_ROOM = 4  # attacks that may wait or run


@dataclass
class Service:
    """What the routes work with.

    Args:
        engine: that searches.
        limits: of a request.
        store: that adds and removes items; none where that is off.
        lab: that attacks queries; none where that is off.
        hardened: the engine of the hardened model, if there is one.
    """

    engine: SearchEngine
    limits: Limits = field(default_factory=Limits)
    store: Store | None = None
    lab: Lab | None = None
    hardened: SearchEngine | None = None

    def __post_init__(self) -> None:
        self.measures = Measures(items=lambda: len(self.engine.content), underway=lambda: self.batcher.underway)
        decoders = min(DECODERS, self.engine.threads)
        self.batcher: Batcher[Query, Answer] = Batcher(
            self.engine.answer, makers=decoders, room=self.limits.room, seen=self.measures.batch
        )
        self.painters = ThreadPoolExecutor(decoders, thread_name_prefix="saat-paint")
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="saat-write")
        self.attacker = ThreadPoolExecutor(1, thread_name_prefix="saat-lab")
        self.attacks = 0
        self.readiness = Readiness(self._probe)
        self.started = False

    async def ready(self) -> bool:
        """Return whether searches are answered."""
        return self.started and await self.readiness.answers()

    def _probe(self) -> None:
        for engine in filter(None, (self.engine, self.hardened)):
            engine.probe()

    async def within(self, pool: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, done in a thread of `pool`."""
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def search(self, queries: Sequence[Callable[[], Query]]) -> list[Answer]:
        """Return the answer to each query, which is made ready in a thread first.

        Raises:
            QueueFull: too many searches are underway.
            SaatError: a query is at fault.
        """
        return await self.batcher.ask(queries)

    async def in_lab(self, work: Callable[[Event], Result]) -> Result:
        """Return what an attack returns; attacks run one at a time.

        Args:
            work: is given an event, and ends where that is set: its client has gone, or its time is over.

        Raises:
            QueueFull: too many wait.
        """
        if self.attacks >= LAB_ROOM:
            raise QueueFull
        ended = Event()
        self.attacks += 1
        try:
            return await self.within(self.attacker, partial(work, ended))
        finally:
            ended.set()
            self.attacks -= 1

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Serve inside the block; at its end, answer what waits."""
        self.batcher.start()
        self.started = True
        yield
        self.started = False
        self.readiness.stop()
        await self.batcher.stop()
        for pool in (self.painters, self.writer, self.attacker):
            pool.shutdown(cancel_futures=True)
