"""The service as a process of its own, asked over real connections: every route."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from asking import measure, post
from numpy.typing import NDArray
from PIL import Image

import saat
from saat.data.decoding import NO_IMAGE
from saat.defenses.detection import Detector
from saat.errors import ArgumentError
from saat.models.checkpoint import load_checkpoint
from saat.recipes.search import SearchConfig, search
from saat.recipes.serve import ServeConfig
from saat.serving.hits import Risk
from service import Start


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
    assert (wrong.status_code, wrong.json()) == (422, {"error": f"image {len(photos)}: {NO_IMAGE}"})


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


@pytest.mark.parametrize("path", ["/images/0", "/app.js"])
def test_what_a_browser_has_is_not_sent_again(http: httpx.Client, path: str) -> None:
    first = http.get(path)
    again = http.get(path, headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert http.get(path, headers={"if-none-match": '"other"'}).content == first.content
    assert http.get("/images/1").headers["etag"] != first.headers["etag"]


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
    for path, kind in (
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/drawing.js", "text/javascript"),
        ("/service.js", "text/javascript"),
        ("/style.css", "text/css"),
    ):
        assert http.get(path).headers["content-type"].startswith(kind)
    for answer in (http.get("/"), http.get("/nothing"), http.post("/search"), http.get("/health")):
        assert "script-src 'self';" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


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
