"""Who may do what with a service, how much at a time, and how it ends."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import saat
from saat.data.fashion import read_fashion
from saat.recipes.search import SearchConfig, search
from saat.recipes.serve import _listen
from saat.serving.client import ServiceError
from saat.serving.hits import Item
from saat.serving.service import LAB_ROOM
from service import Start

TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def guarded(served: Any, serve: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A service with a token, over an index of its own, and its folder."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copytree(served.index, folder / "index")
    (folder / "token").write_text(TOKEN + "\n")
    with serve(f"--index={folder / 'index'}", f"--token_file={folder / 'token'}") as server:
        yield server.url, folder / "index"


def test_uploads_of_too_many_pixels_are_refused_wherever_they_go(served: Any, serve: Start, tmp_path: Path) -> None:
    shutil.copytree(served.index, tmp_path / "index")
    (tmp_path / "token").write_text(TOKEN)
    buffer = io.BytesIO()
    Image.new("1", (8000, 5001)).save(buffer, "PNG")  # a whole image, which an owner's file may well be
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with serve(f"--index={tmp_path / 'index'}", f"--token_file={tmp_path / 'token'}", "--lab=true") as server:
        for path, name in {
            "search": "image",
            "search/batch": "images",
            "items": "image",
            "lab/attack": "image",
        }.items():
            answer = httpx.post(f"{server.url}/{path}", files={name: buffer.getvalue()}, headers=headers, timeout=60)
            assert (answer.status_code, "more than 40,000,000" in answer.text) == (422, True), (path, answer.text)


def test_a_token_opens_everything_but_health(guarded: tuple[str, Path]) -> None:
    url, _ = guarded
    asked = [
        ("GET", "/items/1"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("POST", "/search"),
        ("DELETE", "/items/1"),
    ]
    for shown in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer é"},
    ):
        headers = {name: value.encode() for name, value in shown.items()}
        for method, path in asked:
            answer = httpx.request(method, url + path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), (method, path)
    assert httpx.get(url + "/health").status_code == 200
    for scheme in ("Bearer", "bearer"):
        assert httpx.get(url + "/items/1", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200
    assert (
        httpx.post(url + "/lab/attack", data={"item": "1"}, headers={"Authorization": f"Bearer {TOKEN}"}).status_code
        == 404
    )


def test_items_are_added_and_removed_for_good(guarded: tuple[str, Path]) -> None:
    url, folder = guarded
    buffer = io.BytesIO()
    Image.fromarray(read_fashion().read(500)).save(buffer, "PNG")
    with saat.Client(url, TOKEN) as client:
        assert client.answer(buffer.getvalue()).risk is None  # no detector
        added = client.add(buffer.getvalue(), label="Bag")
        assert (added.id, added.metadata) == (60, {"label": "Bag"})
        assert client.add(buffer.getvalue(), label="Bag") == added  # the same image is the same item
        assert added in [Item(hit.id, hit.name, hit.metadata) for hit in client.search(buffer.getvalue())]
        assert [path.name for path in (folder / "uploads").iterdir()] == [added.name]
        wanted = search(SearchConfig(index=folder, image=folder / "uploads" / added.name, k=61, quiet=True))
        assert [hit["id"] for hit in wanted] == [hit.id for hit in client.search(buffer.getvalue(), 61)]
        client.remove(added.id)
        client.remove(59)
        for gone in (added.id, 59):
            with pytest.raises(ServiceError, match=f"404: no item {gone}") as refused:
                client.item(gone)
            assert refused.value.status == 404
        with pytest.raises(ServiceError, match="404"):
            client.remove(added.id)
        with pytest.raises(ServiceError, match="422: not an image"):
            client.add(b"no image")
        assert len(client.search(buffer.getvalue(), 100)) == 59
    assert not list((folder / "uploads").iterdir())
    assert json.loads((folder / "manifest.json").read_text())["count"] == 59


@pytest.mark.parametrize(
    "headers",
    [{"host": "elsewhere.org"}, {"host": "elsewhere.org:80"}, {"host": ""}, {"origin": "https://elsewhere.org"}],
)
def test_no_page_of_another_site_gets_at_a_service_without_a_token(http: httpx.Client, headers: Any) -> None:
    answer = http.post("/search", data={"item": "1"}, headers=headers)
    assert answer.status_code == 403
    assert http.post("/search", data={"item": "1"}, headers={"origin": str(http.base_url).rstrip("/")}).is_success


def test_without_a_token_nothing_changes(http: httpx.Client, photo: Path) -> None:
    assert http.post("/items", files={"image": photo.read_bytes()}).status_code == 403
    assert http.delete("/items/1").status_code == 403


def test_a_full_queue_says_come_again_and_slow_requests_end(served: Any, serve: Start, photo: Path) -> None:
    options = ("--room=2", "--request_seconds=4", "--rate=0", "--lab=true")
    with serve(f"--index={served.index}", *options) as server:

        def ask(_: int) -> httpx.Response:
            return httpx.post(server.url + "/search", files={"image": photo.read_bytes()}, timeout=60)

        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(ask, range(72)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 503}, codes
        refused = [answer for answer in answers if answer.status_code == 503]
        assert {"1"} <= {answer.headers.get("retry-after") for answer in refused} <= {"1", "5"}
        assert ask(0).status_code == 200  # the room is given back
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(
                b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            )
            slow.sendall(b"Content-Length: 1000\r\n\r\n--x\r\n")
            assert b" 408 " in slow.recv(65536).split(b"\r\n")[0]


def test_the_rate_of_a_client_is_limited(served: Any, serve: Start) -> None:
    with serve(f"--index={served.index}", "--rate=0.5") as server:
        hasty = httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.7"), base_url=server.url)
        calm = httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.8"), base_url=server.url)
        with hasty, calm:
            forged = [{"X-Forwarded-For": f"10.0.0.{turn}"} for turn in range(8)]  # no way around it
            answers = [hasty.get("/items/1", headers=headers) for headers in forged]
            assert answers[0].status_code == 200
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused
            assert refused[0].headers["retry-after"] in ("1", "2", "3")
            assert calm.get("/items/1").status_code == 200
            assert hasty.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("path", "options"),
    [("/lab/attack", ["--lab=true"]), ("/search", ["--room=4"])],
)
def test_work_ends_when_its_client_goes(path: str, options: list[str], served: Any, serve: Start) -> None:
    """Else those who come next are told that too much is underway, by the work of those who left."""
    with serve(f"--index={served.index}", "--rate=0", "--threads=1", *options) as server:
        fields: dict[str, Any] = {"data": {"item": "1", "steps": "100"}}
        if path == "/search":
            generator = np.random.default_rng(0)
            large = Image.fromarray(generator.integers(0, 256, (1200, 1200, 3), dtype=np.uint8))
            content = io.BytesIO()
            large.save(content, "PNG")
            fields = {"files": {"image": content.getvalue()}}
        for _ in range(2 * LAB_ROOM):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(server.url + path, timeout=httpx.Timeout(60, read=0.01), **fields)
        deadline = time.monotonic() + 20
        while (answer := httpx.post(server.url + path, data={"item": "1", "steps": "1"}, timeout=60)).is_error:
            assert answer.status_code == 503
            assert time.monotonic() < deadline
        counts = httpx.get(server.url + "/metrics").text
        gone = re.search(rf'saat_requests_total{{method="POST",route="{path}",status="499"}} (\d+)', counts)
        assert gone is not None
        assert int(gone[1]) >= LAB_ROOM


def test_sigterm_finishes_what_is_underway(served: Any, serve: Start) -> None:
    with serve(f"--index={served.index}", "--lab=true", "--rate=0") as server, ThreadPoolExecutor(8) as pool:
        fields = {"item": "1", "steps": "100", "k": "3"}
        post = partial(httpx.post, server.url + "/lab/attack", data=fields, timeout=60)
        answers = [pool.submit(post) for _ in range(LAB_ROOM)]
        next(as_completed(answers))  # so that all have arrived: they were sent together, and take turns
        assert not all(answer.done() for answer in answers)
        assert server.terminate() == 0
        for answer in answers:
            assert answer.result().status_code == 200
            assert len(answer.result().json()["sides"][0]["after"]) == 3
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url + "/health")
        with saat.Client(server.url) as client, pytest.raises(ServiceError, match="no answer from"):
            client.item(1)


def test_an_answer_does_not_wait_for_acknowledgements() -> None:
    with _listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address), listener.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
