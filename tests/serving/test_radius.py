"""Searches within a radius, asked of the service: those of `saat search`, and refused where the backend has none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

import saat
from saat.recipes.search import SearchConfig, search
from saat.serving.client import ServiceError
from service import Start


@pytest.mark.parametrize("backend", ["flat", "multi-index"])
def test_items_within_a_radius_are_those_of_saat_search(backend: str, served: Any, serve: Start) -> None:
    photos = sorted(served.photos.rglob("*.png"))[::20]
    with serve(f"--index={served.index}", f"--backend={backend}") as server, saat.Client(server.url) as client:
        for radius, where in ((0, None), (2, None), (2, "label != 'Bag'"), (32, None)):
            answers = client.answers(photos, 5, where, radius)
            assert answers == [client.answer(photo, 5, where, radius) for photo in photos]
            for photo, answer in zip(photos, answers, strict=True):
                words = SearchConfig(index=served.index, image=photo, k=60, radius=radius, where=where, quiet=True)
                wanted = [(hit["id"], hit["distance"]) for hit in search(words)]
                assert answer.within == len(wanted)  # however few are shown
                assert [(hit.id, hit.distance) for hit in answer.hits] == wanted[:5]
        assert client.answer(photos[0], 5).within is None
        number = client.search(photos[0], 1, radius=0)[0].id
        fields = {"item": str(number), "radius": "2", "k": "5"}
        assert (
            httpx.post(f"{server.url}/search", data=fields).json()["within"]
            == client.answer(photos[0], 5, None, 2).within
        )
        for wrong in ("-1", "1025", "two", "1.5"):
            assert httpx.post(f"{server.url}/search", data=fields | {"radius": wrong}).status_code == 422, wrong


def test_a_radius_that_the_backend_has_not_is_refused_and_harms_nobody(served: Any, url: str) -> None:
    photo = next(served.photos.rglob("*.png"))
    refused = "422: `radius` is for `backend` flat or multi-index; got 'faiss'"

    def ask(radius: int | None) -> Any:
        with saat.Client(url) as client:
            for call in (lambda: client.answer(photo, radius=radius), lambda: client.answers([photo], radius=radius)):
                try:
                    yield call()
                except ServiceError as error:
                    yield str(error)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda radius: list(ask(radius)), [None, 3] * 8))
    assert found[1::2] == [[refused, refused]] * 8
    assert all(answers == found[0] for answers in found[::2])
    assert len(found[0][0].hits) == 10
