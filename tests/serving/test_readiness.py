"""`/ready` says whether the server of an index answers; asked often, the server is asked rarely."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import servers
from engines import COUNT, SIZE, make_engine
from running import running_postgresql

from saat.errors import ServerError
from saat.index.catalog import open_remote
from saat.index.push import push
from saat.serving import readiness
from saat.serving.app import make_app
from saat.serving.engine import SearchEngine
from saat.serving.readiness import Readiness
from saat.serving.service import Service


@pytest.mark.servers
def test_a_server_that_stops_makes_the_service_not_ready(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    servers.check_wanted("postgresql")
    monkeypatch.setattr(readiness, "EVERY", 0.0)
    plain = make_engine([None] * COUNT)
    with ExitStack() as running, ExitStack() as opened:
        place = running.enter_context(running_postgresql())
        remote = opened.enter_context(open_remote(f"{place}table=ready&application_name=geheim"))
        for _ in push(plain.content, remote, identity="ours", created="now", batch_size=COUNT):
            pass
        engine = SearchEngine(
            plain.model, remote.excerpt(COUNT), image_size=SIZE, threads=1, read=lambda _: b"", remote=remote
        )
        service = Service(engine)
        app = make_app(service)

        async def ask() -> None:
            transport = httpx.ASGITransport(app)
            async with service.running(app), httpx.AsyncClient(transport=transport, base_url="http://saat") as client:
                assert (await client.get("/ready")).json() == {"status": "ready"}
                running.close()
                answer = await client.get("/ready")
                assert (answer.status_code, answer.json()) == (503, {"error": "not ready"})
                assert answer.headers["retry-after"] == "1"
                assert (await client.get("/health")).status_code == 200

        asyncio.run(ask())
    assert "table=ready" in caplog.text
    assert "geheim" not in caplog.text


def test_a_probe_that_hangs_is_not_waited_for_and_not_joined_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "SECONDS", 0.05)
    monkeypatch.setattr(readiness, "EVERY", 0.0)
    go_on, asked = threading.Event(), []

    def hang() -> None:
        asked.append(1)
        go_on.wait()

    async def ask() -> None:
        ready = Readiness(hang)
        assert not await ready.answers()
        assert not await ready.answers()
        assert len(asked) == 1
        go_on.set()
        monkeypatch.setattr(readiness, "SECONDS", 10.0)
        assert await ready.answers()
        ready.stop()

    try:
        asyncio.run(ask())
    finally:
        go_on.set()


def test_a_server_is_asked_rarely_and_both_answers_stay_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def alternate() -> None:
        asked.append(1)
        if len(asked) % 2:
            raise ServerError("gone")

    async def ask() -> None:
        ready = Readiness(alternate)
        monkeypatch.setattr(readiness, "EVERY", 3600.0)
        assert [await ready.answers() for _ in range(3)] == [False] * 3
        monkeypatch.setattr(readiness, "EVERY", 0.0)
        assert await ready.answers()
        monkeypatch.setattr(readiness, "EVERY", 3600.0)
        assert [await ready.answers() for _ in range(3)] == [True] * 3
        assert len(asked) == 2
        ready.stop()

    asyncio.run(ask())
