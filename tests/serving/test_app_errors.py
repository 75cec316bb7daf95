import asyncio
import io
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from engines import COUNT, IMAGES, make_engine
from fastapi import FastAPI
from PIL import Image

from saat.errors import ArgumentError, ServerError
from saat.index.content import ModelKey
from saat.index.storage import MANIFEST, create_index, read_state, update_index
from saat.serving.app import HANDLERS, make_app
from saat.serving.batching import QueueFull
from saat.serving.service import Service
from saat.serving.store import Store


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


def damage(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"x")


def exchange(folder: Path) -> None:
    key = ModelKey("other weights", 16, "/secret/model")
    update_index(folder, lambda old: replace(old, model=key))


@pytest.mark.parametrize(("harm", "why"), [(damage, "is damaged"), (exchange, "another model")])
def test_a_fault_of_the_index_on_the_disk_is_logged_and_told_without_its_path(harm, why, tmp_path, caplog):
    engine = make_engine(["even"] * COUNT)
    create_index(tmp_path, engine.content)
    store = Store(
        tmp_path,
        engine,
        encode=lambda content: engine.encode(engine.prepare(content)[None]),
        known=read_state(tmp_path),
    )
    app = make_app(Service(engine, store=store))
    harm(tmp_path)
    image = io.BytesIO()
    Image.fromarray(IMAGES[3]).save(image, "PNG")

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://saat") as client:
            added = await client.post("/items", files={"image": image.getvalue()})
            return [added, await client.delete("/items/3")]

    for answer in asyncio.run(ask()):
        assert (answer.status_code, answer.json()) == (500, {"error": "the service failed; its log says why"})
    assert caplog.text.count(why) >= 2
    assert str(tmp_path) in caplog.text


@pytest.mark.parametrize(
    ("path", "fields", "text"),
    [
        ("/search", {"item": "1", "k": "abc"}, r"k: .* integer, .*; got 'abc'"),
        ("/search", {"item": "1", "k": "1001"}, r"k: .* 1000; got '1001'"),
        ("/search", {"item": "1", "where": "x" * 2_000}, r"where: .* 1000 characters; got 'x{50}'"),
        ("/search", {"image": "a.jpg"}, "image: Input should be a file"),
        ("/search/batch", {"images": "a.jpg"}, r"images(\.0)?: Input should be a file"),
        ("/search/batch", {"k": "3"}, "images: Field required"),
    ],
)
def test_a_field_that_is_wrong_is_told_with_what_was_found(path, fields, text):
    app = make_app(Service(make_engine(["even"] * COUNT)))

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://saat") as client:
            return await client.post(path, data=fields)

    answer = asyncio.run(ask())
    assert (answer.status_code, bool(re.fullmatch(text, answer.json()["error"]))) == (422, True), answer.text
