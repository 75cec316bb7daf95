import asyncio

import httpx
import pytest
from fastapi import FastAPI

from saat.errors import ArgumentError, ServerError
from saat.serving.app import HANDLERS
from saat.serving.batching import QueueFull


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ServerError("postgresql://index.internal/items: connection refused"), 503, "the index does not answer"),
        (ArgumentError("`k` is at least 1; got 0"), 422, "`k` is at least 1; got 0"),
        (QueueFull(), 503, "too many requests"),
    ],
)
def test_errors_have_their_status_and_name_no_server(error, status, text):
    app = FastAPI()
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)

    @app.get("/")
    async def fail() -> None:
        raise error

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://saat") as client:
            return await client.get("/")

    answer = asyncio.run(ask())
    assert answer.status_code == status
    assert answer.json()["error"].startswith(text)
    assert "internal" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)
