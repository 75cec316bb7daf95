"""The service as a process of its own, asked over real connections: every route, and requests meant to harm."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import saat
from saat.data.fashion import read_fashion
from saat.defenses.detection import Detector
from saat.errors import ArgumentError
from saat.models.checkpoint import load_checkpoint
from saat.recipes.search import SearchConfig, search
from saat.recipes.serve import ServeConfig, _listen
from saat.serving.client import ServiceError
from saat.serving.hits import Item, Risk
from saat.serving.service import LAB_ROOM

Start = Callable[..., AbstractContextManager[Any]]
TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def photo(served: Any) -> Path:
    return sorted((served.photos / "Dress").glob("*.png"))[0]


def post(http: httpx.Client, photo: Path, **data: str) -> httpx.Response:
    return http.post("/search", files={"image": photo.read_bytes()}, data=data)


@pytest.mark.parametrize("where", [None, "label == 'Bag' or label contains 'a'"])
def test_results_are_those_of_saat_search(served: Any, url: str, photo: Path, where: str | None) -> None:
    wanted = search(SearchConfig(index=served.index, image=photo, k=25, where=where, quiet=True))
    with saat.Client(url) as client:
        found = client.search(photo, 25, where)
        assert client.search(photo.read_bytes(), 25, where) == found
    assert [(hit.id, hit.distance, hit.metadata["label"]) for hit in found] == [
        (hit["id"], hit["distance"], hit["label"]) for hit in wanted
    ]
    assert [len(hit.bits) for hit in found] == [hit.distance for hit in found]
    assert found[0].name == Path(wanted[0]["path"]).name


def test_an_item_is_found_by_its_id_as_by_its_image(http: httpx.Client, served: Any, photo: Path) -> None:
    answer = post(http, photo, k="60").json()
    number = next(hit["id"] for hit in answer["hits"] if hit["name"] == photo.name)
    assert http.post("/search", data={"item": str(number), "k": "60"}).json() == answer
    assert http.get(f"/items/{number}").json() == {
        "id": number,
        "name": photo.name,
        "metadata": {"label": "Dress"},
    }
    assert str(served.photos) not in http.get(f"/items/{number}").text


def test_a_batch_gives_what_single_searches_give(http: httpx.Client, served: Any) -> None:
    photos = sorted(served.photos.rglob("*.png"))[::6]
    files = [("images", (path.name, path.read_bytes())) for path in photos]
    answer = http.post("/search/batch", files=files, data={"k": "5", "where": "label != 'Bag'"})
    assert answer.json()["answers"] == [post(http, path, k="5", where="label != 'Bag'").json() for path in photos]
    wrong = http.post("/search/batch", files=[*files, ("images", ("x", b"no image"))])
    assert (wrong.status_code, wrong.json()) == (422, {"error": f"image {len(photos)}: not an image"})


def test_the_risk_of_a_query_is_what_its_detector_says(url: str, served: Any) -> None:
    detector = Detector.load(served.detector, load_checkpoint(served.checkpoint)[0])
    photos = sorted(served.photos.rglob("*.png"))[::10]
    images = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in photos]).transpose(0, 3, 1, 2).copy())
    with saat.Client(url) as client:
        found = [client.answer(path, 3) for path in photos]
        assert [answer.hits for answer in found] == [client.search(path, 3) for path in photos]
    threshold = detector.threshold(0.05)
    assert [answer.risk for answer in found] == [Risk.of(score, threshold) for score in detector.score(images).tolist()]


def test_searches_at_the_same_time_share_batches_and_keep_their_answers(http: httpx.Client, served: Any) -> None:
    photos = sorted(served.photos.rglob("*.png"))
    alone = [post(http, path, k="7").json() for path in photos]
    before = measure(http, "saat_batch_size_count")
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda path: post(http, path, k="7").json(), photos))
    assert together == alone
    assert measure(http, "saat_batch_size_count") - before < len(photos)


def test_pictures_are_bounded_and_known_by_id(http: httpx.Client) -> None:
    whole = http.get("/images/0")
    assert whole.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(whole.content)).size == (32, 32)  # never enlarged
    assert Image.open(io.BytesIO(http.get("/images/0?size=16").content)).size == (16, 16)
    assert http.get("/images/0?index=hardened").content == whole.content
    for path in (
        "/images/0?size=5000",
        "/images/-1",
        "/images/99999999999999999999999",
        "/images/..%2f..%2fetc%2fpasswd",
    ):
        assert http.get(path).status_code in (404, 422), path
    assert http.get("/images/9999").json() == {"error": "no item 9999"}


def test_an_approximate_service_says_so_with_what_it_finds(
    serve: Start, served: Any, photo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(f"--index={served.index}", "--backend=hnsw") as server, httpx.Client(base_url=server.url) as http:
        assert http.get("/about").json()["approximate"] is True
        assert post(http, photo).json()["hits"][0]["distance"] == 0
    assert "hnsw is approximate: it found 1.000 of the 10 nearest to 60 of the items" in capfd.readouterr().err
    for index, backend, message in (
        ("index", "fais", "did you mean 'faiss'"),
        ("milvus://host/photos", "ivf", "`backend` is one of faiss, hnsw; got 'ivf'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            ServeConfig(index=index, backend=backend)


def test_what_it_says_of_itself(http: httpx.Client) -> None:
    about = http.get("/about").json()
    assert (about["items"], about["code_length"], about["lab"], about["writable"]) == (60, 32, True, False)
    assert (about["detector"], about["approximate"]) == (True, False)
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready"}
    samples = http.get("/samples?count=7&seed=3").json()["items"]
    assert len({item["id"] for item in samples}) == 7
    assert samples != http.get("/samples?count=7&seed=4").json()["items"]
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/search", "/search/batch", "/items", "/items/{item_id}", "/images/{item_id}", "/metrics"} <= set(paths)


@pytest.mark.parametrize("path", ["/health", "/ready", "/"])
def test_a_probe_without_a_body_is_answered_as_with_one(http: httpx.Client, path: str) -> None:
    probed, whole = http.head(path), http.get(path)
    assert (probed.status_code, probed.content) == (200, b"")
    assert {**probed.headers, "date": ""} == {**whole.headers, "date": ""}


def test_the_page_and_the_headers_of_every_answer(http: httpx.Client) -> None:
    for path, kind in (("/", "text/html"), ("/app.js", "text/javascript"), ("/style.css", "text/css")):
        assert http.get(path).headers["content-type"].startswith(kind)
    for answer in (http.get("/"), http.get("/nothing"), http.post("/search"), http.get("/health")):
        assert "script-src 'self';" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


def measure(http: httpx.Client, name: str) -> float:
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_metrics_count(http: httpx.Client, photo: Path) -> None:
    name = 'saat_requests_total{method="POST",route="/search",status="200"}'
    before = measure(http, name)
    for _ in range(3):
        post(http, photo)
    http.get("/items/3")
    assert measure(http, name) - before == 3
    assert measure(http, 'saat_requests_total{method="GET",route="/items/{item_id}",status="200"}') >= 1
    assert measure(http, "saat_items") == 60
    assert measure(http, "saat_searches_underway") == 0


def test_the_lab_keeps_its_budget_and_moves_the_code(
    http: httpx.Client, served: Any, hardened: Any, tmp_path: Path
) -> None:
    fields = {"item": "12", "epsilon": str(8 / 255), "steps": "20", "k": "5"}
    report = http.post("/lab/attack", data=fields).json()
    assert (report["label"], [side["name"] for side in report["sides"]]) == ("Coat", ["plain", "hardened"])
    for side, own in zip(report["sides"], (served, hardened), strict=True):
        original, adversarial = (pixels(side[name]) for name in ("original", "adversarial"))
        assert side["largest"] == np.abs(adversarial - original).max() <= 8
        assert side["goal"] == "mainstay"
        assert side["moved"] > 0
        for when, image in (("before", original), ("after", adversarial)):  # of the picture that is shown
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / "shown.png")
            wanted = search(SearchConfig(index=own.index, image=tmp_path / "shown.png", k=5, quiet=True))
            assert [(hit["id"], hit["distance"]) for hit in side[when]] == [
                (hit["id"], hit["distance"]) for hit in wanted
            ]
            assert side[f"risk_{when}"] == risk_of(image, own)
    assert report["sides"][0]["before"] != report["sides"][1]["before"]  # two models, or nothing is told apart
    still = http.post("/lab/attack", data=fields | {"epsilon": "0", "steps": "1"}).json()["sides"][0]
    assert (still["moved"], still["largest"], still["after"]) == (0, 0, still["before"])
    for wrong in ({"epsilon": "0.5"}, {"epsilon": "nan"}, {"steps": "101"}, {"k": "101"}, {"item": "777"}):
        assert http.post("/lab/attack", data=fields | wrong).status_code in (404, 422), wrong


def test_an_upload_is_attacked_as_what_most_of_its_first_results_are(http: httpx.Client, photo: Path) -> None:
    report = http.post("/lab/attack", files={"image": photo.read_bytes()}, data={"steps": "3", "k": "10"}).json()
    assert report["label"] is None
    for side in report["sides"]:
        labels = [hit["metadata"]["label"] for hit in side["before"]]
        assert (side["goal"], side["label"]) == ("mainstay", max(labels, key=labels.count))


def risk_of(image: NDArray[Any], model: Any) -> dict[str, Any]:
    detector = Detector.load(model.detector, load_checkpoint(model.checkpoint)[0])
    score = detector.score(torch.from_numpy(image.astype(np.uint8).transpose(2, 0, 1)[None].copy())).item()
    return asdict(Risk.of(score, detector.threshold(0.05)))


def pixels(data_url: str) -> Any:
    content = base64.b64decode(data_url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def bomb() -> bytes:
    """A PNG of 12,000 x 12,000 pixels in a few hundred bytes, as its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (12_000).to_bytes(4, "big")
    pixels = zlib.compress(bytes(100_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + size + b"\x08\x02\0\0\0")
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


HOSTILE: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "truncated": ({"files": {"image": jpeg()[:3000]}}, (422,)),
    "bomb": ({"files": {"image": bomb()}}, (422,)),
    "text": ({"files": {"image": b"#!/bin/sh\nrm -rf /"}}, (422,)),
    "svg": ({"files": {"image": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}}, (422,)),
    "empty": ({"files": {"image": b""}}, (422,)),
    "a name with a path": ({"files": {"image": ("../../etc/passwd", b"x", "image/png")}}, (422,)),
    "no file": ({"data": {"image": "/etc/passwd"}}, (422,)),
    "a URL": ({"data": {"image": "http://127.0.0.1/"}}, (422,)),
    "both": ({"files": {"image": jpeg()}, "data": {"item": "1"}}, (422,)),
    "neither": ({"data": {"k": "3"}}, (422,)),
    "JSON": ({"json": {"image": "x"}}, (422,)),
    "broken multipart": (
        {"content": b"--x\r\nbad", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        (400, 422),
    ),
    "no boundary": ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, (400, 422)),
    "k too large": ({"data": {"item": "1", "k": "1001"}}, (422,)),
    "k zero": ({"data": {"item": "1", "k": "0"}}, (422,)),
    "k no number": ({"data": {"item": "1", "k": "1e9"}}, (422,)),
    "item too large": ({"data": {"item": str(2**70)}}, (422,)),
    "bad where": ({"data": {"item": "1", "where": "label = 'Bag'"}}, (422,)),
    "where that is code": ({"data": {"item": "1", "where": "__import__('os').system('x')"}}, (422,)),
    "where of parentheses": ({"data": {"item": "1", "where": "(" * 900}}, (422,)),
    "where of another kind": ({"data": {"item": "1", "where": "label < 3"}}, (422,)),
    "where too long": ({"data": {"item": "1", "where": "label == '" + "x" * 2000 + "'"}}, (422,)),
    "too large": ({"files": {"image": bytes(11_000_000)}}, (413,)),
    "too large, in chunks": ({"content": (bytes(100_000) for _ in range(150))}, (413, 422)),
    "too many files": ({"files": [("images", bytes(1)) for _ in range(1100)]}, (400, 422)),
}


def test_hostile_requests_are_refused_and_harm_nobody(http: httpx.Client, url: str, photo: Path) -> None:
    wanted, ended = post(http, photo).json(), threading.Event()
    others: list[Any] = []

    def good() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not ended.is_set():
                others.append(post(client, photo).json())

    honest = threading.Thread(target=good)
    honest.start()
    try:
        for name, (request, statuses) in HOSTILE.items():
            answer = http.post("/search", **request)
            assert answer.status_code in statuses, (name, answer.status_code, answer.text)
            assert set(answer.json()) == {"error"}, name
            assert "Traceback" not in answer.text
    finally:
        ended.set()
        honest.join()
    assert others
    assert all(other == wanted for other in others)
    assert measure(http, "saat_searches_underway") == 0


def test_a_body_without_a_length_is_counted_as_it_streams(http: httpx.Client) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

    def parts() -> Iterator[bytes]:
        yield head
        for _ in range(200):
            yield bytes(100_000)

    answer = http.post("/search", content=parts(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()) == (413, {"error": "a request has at most 10,000,000 bytes"})


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/static/app.js", "/%2e%2e/app.py", "/app.js/../app.py", "//etc/passwd", "/docs"]
)
def test_no_path_reaches_the_disk(url: str, path: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:  # httpx would tidy the path up
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b" 404 " in answer.split(b"\r\n")[0]


@pytest.fixture(scope="module")
def guarded(served: Any, serve: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A service with a token, over an index of its own, and its folder."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copytree(served.index, folder / "index")
    (folder / "token").write_text(TOKEN + "\n")
    with serve(f"--index={folder / 'index'}", f"--token_file={folder / 'token'}") as server:
        yield server.url, folder / "index"


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
    assert httpx.get(url + "/items/1", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
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
