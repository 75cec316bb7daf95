"""The routes in one process, over an engine that takes its time: who waits for it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from engines import COUNT, make_engine

from saat.serving.app import make_app
from saat.serving.lab import Lab
from saat.serving.service import DECODERS, Service


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [("GET", "/items/1", None), ("POST", "/lab/attack", {"item": "1", "steps": "1"})],
)
def test_an_item_that_a_server_takes_long_to_find_holds_up_nobody_else(
    method: str, path: str, fields: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(["even"] * COUNT)
    find, begun, over, in_time = engine.item, threading.Event(), threading.Event(), []

    def slow(number: int) -> Any:
        begun.set()
        in_time.append(over.wait(5))
        return find(number)

    monkeypatch.setattr(engine, "item", slow)
    app = make_app(Service(engine, lab=Lab({"plain": engine})))

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://saat") as client:
            asked = asyncio.create_task(client.request(method, path, data=fields))
            await asyncio.to_thread(begun.wait, 5)
            assert (await client.get("/health")).status_code == 200
            over.set()
            assert (await asked).status_code == 200

    asyncio.run(ask())
    assert in_time == [True]


@pytest.mark.parametrize(("threads", "decoders"), [(1, 1), (3, 3), (64, DECODERS)])
def test_as_many_threads_decode_as_are_configured(threads: int, decoders: int) -> None:
    service = Service(make_engine(["even"] * COUNT, threads=threads))
    assert [pool._max_workers for pool in (service.painters, service.batcher._makers)] == [decoders] * 2
