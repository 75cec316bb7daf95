"""Batches: who shares one, who is told to come again, and what an end or an error does to those who wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest

from saat.errors import SaatError
from saat.serving.batching import Batcher, QueueFull


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))  # type: ignore[arg-type]


async def ask(batcher: Batcher[int, int], number: int, *, after: float = 0.0) -> int:
    """Ask about a number that takes `after` seconds to be made ready."""

    def make() -> int:
        time.sleep(after)
        return number

    (answer,) = await batcher.ask([make])
    return answer


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
        first = asyncio.create_task(ask(batcher, 0))
        while not batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(ask(batcher, number)) for number in range(1, 7)]
        await asyncio.sleep(0.05)
        gate.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10, 12]
        await batcher.stop()

    run(scenario)
    assert batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_batch_waits_for_those_on_the_way_and_for_nobody_else() -> None:
    sizes: list[int] = []

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(list, makers=4, wait=5.0, most=3, seen=sizes.append)
        batcher.start()
        assert await ask(batcher, 0) == 0
        assert await asyncio.gather(ask(batcher, 2, after=0.1), ask(batcher, 1)) == [2, 1]
        many = [ask(batcher, number, after=0.05 * (number - 2)) for number in range(3, 7)]
        assert await asyncio.gather(*many) == [3, 4, 5, 6]  # three make a batch full
        await batcher.stop()

    run(scenario)
    assert sizes == [1, 2, 3, 1]


def test_a_batch_does_not_wait_for_ever() -> None:
    sizes: list[int] = []

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(list, makers=2, wait=0.02, seen=sizes.append)
        batcher.start()
        late = asyncio.create_task(ask(batcher, 2, after=0.5))
        assert await ask(batcher, 1) == 1
        assert not late.done()
        assert await late == 2
        await batcher.stop()

    run(scenario)
    assert sizes == [1, 1]


def test_queries_of_one_caller_take_turns_with_others_and_keep_their_order() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        time.sleep(0.01)
        made.append(number)
        return number

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(lambda asked: [-number for number in asked], most=4, wait=0.0)
        batcher.start()
        many = asyncio.create_task(batcher.ask([partial(make, number) for number in range(10)]))
        await asyncio.sleep(0)
        assert await batcher.ask([partial(make, 99)]) == [-99]
        assert not many.done()
        assert await many == [-number for number in range(10)]
        await batcher.stop()

    run(scenario)
    assert made.index(99) < 5


def test_room_is_taken_and_given_back() -> None:
    gate = threading.Event()

    async def scenario() -> None:
        batcher: Batcher[int, bool] = Batcher(lambda asked: [gate.wait(5) for _ in asked], room=3)
        batcher.start()
        first = asyncio.create_task(batcher.ask([lambda: 1, lambda: 2]))
        await asyncio.sleep(0)
        assert batcher.underway == 2
        with pytest.raises(QueueFull):
            await batcher.ask([lambda: 3, lambda: 4])
        third = asyncio.create_task(batcher.ask([lambda: 5]))
        await asyncio.sleep(0)
        assert batcher.underway == 3
        gate.set()
        assert await first == [True, True]
        assert await third == [True]
        assert batcher.underway == 0
        assert await batcher.ask([lambda: 6] * 4) == [True] * 4  # more than there is room for, alone
        await batcher.stop()

    run(scenario)


def test_the_end_answers_what_waits() -> None:
    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(lambda asked: [number + 1 for number in asked], most=2, wait=5.0)
        batcher.start()
        tasks = [asyncio.create_task(ask(batcher, number, after=0.01)) for number in range(5)]
        several = asyncio.create_task(batcher.ask([lambda: 10, lambda: 20, lambda: 30]))
        await asyncio.sleep(0)
        await batcher.stop()
        assert await asyncio.gather(*tasks) == [1, 2, 3, 4, 5]
        assert await several == [11, 21, 31]

    run(scenario)


def test_an_error_reaches_its_batch_and_no_other() -> None:
    def fail(asked: Sequence[int]) -> list[int]:
        if 13 in asked:
            raise ValueError("thirteen")
        return list(asked)

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(fail, most=1)
        batcher.start()
        answers: list[Any] = await asyncio.gather(*(ask(batcher, n) for n in (12, 13, 14)), return_exceptions=True)
        assert answers[0::2] == [12, 14]
        assert isinstance(answers[1], ValueError)
        await batcher.stop()

    run(scenario)


def test_an_error_in_the_place_of_an_answer_reaches_its_own_caller_only() -> None:
    def answer(asked: Sequence[int]) -> list[int | SaatError]:
        return [number if number % 13 else SaatError("thirteen") for number in asked]

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(answer, most=4, wait=5.0)
        batcher.start()
        several = batcher.ask([lambda: 26, lambda: 1, lambda: 13])
        answers: list[Any] = await asyncio.gather(several, ask(batcher, 12), return_exceptions=True)
        assert str(answers[0]) == "thirteen"
        assert answers[1] == 12
        await batcher.stop()

    run(scenario)


def test_a_query_that_cannot_be_made_harms_its_own_caller_only() -> None:
    sizes: list[int] = []

    def broken() -> int:
        raise ValueError("no image")

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(list, wait=5.0, seen=sizes.append)
        batcher.start()
        both = asyncio.gather(batcher.ask([lambda: 1, broken, lambda: 3]), ask(batcher, 2), return_exceptions=True)
        found: list[Any] = await both
        assert isinstance(found[0], ValueError)
        assert found[1] == 2
        assert batcher.underway == 0
        await batcher.stop()

    run(scenario)
    assert sizes == [1]  # and it did not wait the five seconds


def test_who_has_gone_costs_nothing() -> None:
    asked_for: list[int] = []
    gate = threading.Event()  # not a time: on a slow machine that would pass before the caller has gone

    def made_later() -> int:
        gate.wait(5)
        return 2

    def note(asked: Sequence[int]) -> list[int]:
        asked_for.extend(asked)
        return list(asked)

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(note, makers=2, wait=5.0)
        batcher.start()
        stays = asyncio.create_task(batcher.ask([made_later]))  # first, so that the other always waits for it
        gone = asyncio.create_task(ask(batcher, 1))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.wait([gone])
        gate.set()
        assert await stays == [2]
        assert batcher.underway == 0
        await batcher.stop()

    run(scenario)
    assert asked_for == [2]


def test_who_has_gone_leaves_the_queue_though_the_batch_before_them_never_ends() -> None:
    begun, gate = threading.Event(), threading.Event()

    def stall(asked: Sequence[int]) -> list[int]:
        begun.set()
        gate.wait(5)
        return list(asked)

    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(stall, wait=0.0)
        batcher.start()
        first = asyncio.create_task(ask(batcher, 1))
        await asyncio.to_thread(begun.wait, 5)
        others = [asyncio.create_task(ask(batcher, number)) for number in range(2, 9)]
        while len(batcher._waiting) < len(others):
            await asyncio.sleep(0.001)
        for other in others[1:]:
            other.cancel()
        await asyncio.gather(*others[1:], return_exceptions=True)
        assert [number for _, number in batcher._waiting] == [2]
        gate.set()
        assert await asyncio.gather(first, others[0]) == [1, 2]
        await batcher.stop()

    run(scenario)


def test_a_batch_whose_callers_have_gone_is_not_the_last_one() -> None:
    async def scenario() -> None:
        batcher: Batcher[int, int] = Batcher(list, makers=2, wait=5.0)
        batcher.start()
        slow, gone = asyncio.create_task(ask(batcher, 2, after=0.3)), asyncio.create_task(ask(batcher, 1))
        while not batcher._waiting:
            await asyncio.sleep(0.001)
        gone.cancel()  # the batch is open, and waits for the second
        slow.cancel()
        await asyncio.gather(gone, slow, return_exceptions=True)
        assert await ask(batcher, 3) == 3
        await batcher.stop()

    run(scenario)
