"""Batches: who shares one, who is told to come again, and what an end or an error does to those who wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from saat.serving.batching import Batcher, QueueFull


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))  # type: ignore[arg-type]


def test_while_a_batch_runs_the_next_one_gathers() -> None:
    batches: list[list[int]] = []
    gate = threading.Event()

    def double(asked: Sequence[int]) -> list[int]:
        batches.append(list(asked))
        gate.wait(5)
        return [2 * number for number in asked]

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(double, most=4, wait=0.0)
        batcher.start()
        first = asyncio.create_task(batcher.ask(0))
        while not batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.ask(number)) for number in range(1, 7)]
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10, 12]
        await batcher.stop()

    run(scenario)
    assert batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_batch_waits_for_those_on_the_way_and_for_nobody_else() -> None:
    sizes: list[int] = []

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(list, wait=5.0, most=3, seen=sizes.append)
        batcher.start()

        async def come(number: int, *, after: float) -> int:
            batcher.enter()
            try:
                await asyncio.sleep(after)
                return await batcher.ask(number)
            finally:
                batcher.leave()

        assert await come(0, after=0.0) == 0
        assert await asyncio.gather(come(1, after=0.0), come(2, after=0.05)) == [1, 2]
        many = [come(number, after=0.01 * number) for number in range(3, 7)]
        assert await asyncio.gather(*many) == [3, 4, 5, 6]  # three make a batch full
        gone = asyncio.create_task(come(7, after=9.0))
        stays = asyncio.create_task(come(8, after=0.0))
        await asyncio.sleep(0.05)
        assert not stays.done()
        gone.cancel()
        assert await stays == 8
        await batcher.stop()

    run(scenario)
    assert sizes == [1, 2, 3, 1, 1]


def test_a_batch_does_not_wait_for_ever() -> None:
    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(list, wait=0.02)
        batcher.start()
        batcher.enter(2)  # the second never comes
        assert await batcher.ask(1) == 1
        await batcher.stop()

    run(scenario)


def test_room_is_taken_and_given_back() -> None:
    batcher: Batcher[int, int] = Batcher(list, room=3)
    batcher.enter(2)
    with pytest.raises(QueueFull):
        batcher.enter(2)
    batcher.enter()
    assert batcher.underway == 3
    batcher.leave(3)
    batcher.enter(3)


def test_the_end_answers_what_waits() -> None:
    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(lambda asked: [number + 1 for number in asked], most=2, wait=5.0)
        batcher.start()
        tasks = [asyncio.create_task(batcher.ask(number)) for number in range(5)]
        await asyncio.sleep(0)
        await batcher.stop()
        assert [task.result() for task in tasks] == [1, 2, 3, 4, 5]

    run(scenario)


def test_an_error_reaches_its_batch_and_no_other() -> None:
    def fail(asked: Sequence[int]) -> list[int]:
        if 13 in asked:
            raise ValueError("thirteen")
        return list(asked)

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(fail, most=1)
        batcher.start()
        answers: list[Any] = await asyncio.gather(*(batcher.ask(n) for n in (12, 13, 14)), return_exceptions=True)
        assert answers[0::2] == [12, 14]
        assert isinstance(answers[1], ValueError)
        await batcher.stop()

    run(scenario)


def test_who_has_gone_costs_nothing() -> None:
    asked_for: list[int] = []

    def note(asked: Sequence[int]) -> list[int]:
        asked_for.extend(asked)
        return list(asked)

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(note, wait=0.05)
        batcher.start()
        gone = asyncio.create_task(batcher.ask(1))
        stays = asyncio.create_task(batcher.ask(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == 2
        await batcher.stop()

    run(scenario)
    assert asked_for == [2]
