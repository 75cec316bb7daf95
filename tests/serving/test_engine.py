"""The engine in one process: the same answers from many threads, changes under way, and the budget of the lab."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from engines import COUNT, IMAGES, SIZE, make_engine

import saat
from saat.bits import packed_distances
from saat.errors import ArgumentError, DataError
from saat.recipes.search import filled, find
from saat.serving.engine import KEPT, Query, SearchEngine
from saat.serving.hits import Answer, Risk
from saat.serving.lab import Lab, LabTimeout, whole_change


@pytest.fixture
def engine() -> SearchEngine:
    return make_engine(["even" if row % 2 == 0 else "odd" for row in range(COUNT)])


def test_hits_are_those_of_the_oracle(engine: SearchEngine) -> None:
    packed = engine.content.packed
    queries = [Query(engine.prepare(IMAGES[row]), 50) for row in range(5)]
    for row, hits in enumerate(engine.search(queries)):
        distances = packed_distances(packed[row : row + 1], packed)[0].tolist()
        assert [(hit.distance, hit.id) for hit in hits] == sorted(zip(distances, range(COUNT), strict=True))
        for hit in hits:
            differing = np.unpackbits(packed[row] ^ packed[hit.id], bitorder="little")
            assert hit.bits == tuple(np.flatnonzero(differing))
            assert (hit.name, hit.metadata) == (f"{hit.id}.png", {"label": ["even", "odd"][hit.id % 2]})


def test_a_batch_of_unlike_queries(engine: SearchEngine) -> None:
    queries = [
        Query(engine.prepare(IMAGES[3]), 7),
        Query(engine.code(3), 7),
        Query(engine.code(4), 60, "label == 'odd'"),
        Query(engine.prepare(IMAGES[4]), 1),
        Query(engine.code(4), 5, "id < 0"),
    ]
    together = engine.search(queries)
    assert together == [engine.search([query])[0] for query in queries]
    assert [len(hits) for hits in together] == [7, 7, 25, 1, 0]
    assert together[0] == together[1]
    assert engine.search([]) == []
    with pytest.raises(ArgumentError, match="`column` is one of"):
        engine.check_where("color == 1")


def test_a_detector_looks_at_the_images_of_a_batch_and_those_of_items(engine: SearchEngine) -> None:
    def assess(images: Any) -> list[Risk]:
        return [Risk.of(float(image.mean()) / 255, 0.5) for image in images]

    def read(path: str) -> Any:
        if path.endswith("/4.png"):
            raise FileNotFoundError(path)
        return IMAGES[int(path[8:-4])]

    watched = SearchEngine(engine.model, engine.content, image_size=SIZE, read=read, assess=assess)
    queries = [
        Query(watched.code(3), 2),
        Query(watched.prepare(IMAGES[5]), 2),
        Query(watched.code(4), 2, seen=watched.seen(4)),
        Query(watched.code(6), 2, seen=watched.seen(6)),
    ]
    five, six = (Risk.of(float(IMAGES[row].mean()) / 255, 0.5) for row in (5, 6))
    wanted = [Answer(hits, risk) for hits, risk in zip(engine.search(queries), (None, five, None, six), strict=True)]
    assert watched.answer(queries) == wanted
    assert watched.answer([]) == []
    assert engine.seen(6) is None  # without a detector nothing is read
    assert engine.answer(queries[:2]) == [Answer(hits) for hits in engine.search(queries[:2])]
    with pytest.raises(KeyError):
        watched.seen(COUNT)


def test_many_threads_and_conditions_at_once(engine: SearchEngine) -> None:
    queries = [Query(engine.prepare(IMAGES[row % COUNT]), 9, f"id >= {row % (KEPT + 3)}") for row in range(80)]
    wanted = [engine.search([query])[0] for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: engine.search([query])[0], queries)) == wanted


def test_a_change_is_seen_by_conditions_too(engine: SearchEngine) -> None:
    query = Query(engine.code(4), 100, "label == 'even'")
    assert 4 in [hit.id for hit in engine.search([query])[0]]
    engine.replace(engine.content.without(np.array([4])))
    assert 4 not in [hit.id for hit in engine.search([query])[0]]
    for ask in (engine.item, engine.code, engine.picture):
        with pytest.raises(KeyError):
            ask(4)
    assert engine.item(5).name == "5.png"
    assert [item.id for item in engine.sample(99, seed=0)] == [row for row in range(COUNT) if row != 4]


def test_results_cost_their_own_rows_and_not_the_text_of_all(engine: SearchEngine) -> None:
    """Of 50 chunks, one buffer seen 50 times, of 2.5 GB in sum: `take` would join them, and cannot above 2 GiB."""
    content, text = engine.content, pa.array(["x" * 50_000_000])
    path, note = content.metadata.column("path"), pa.chunked_array([text] * COUNT)
    wide = replace(content, metadata=pa.table({"id": content.ids, "path": path, "note": note}))
    wide_engine = SearchEngine(engine.model, wide, image_size=SIZE, read=lambda _: b"")
    (hits,) = wide_engine.search([Query(engine.code(7), 2)])
    assert [hit.id for hit in hits] == [hit.id for hit in engine.search([Query(engine.code(7), 2)])[0]]
    assert [len(item.metadata["note"]) for item in wide_engine.sample(2, seed=0)] == [50_000_000] * 2
    (first, second) = find(wide, filled("flat", wide, threads=1), engine.code(7)[None], k=2)
    assert [first["id"], second["id"]] == [hit.id for hit in hits]


def test_an_image_that_is_gone_is_named_by_id_not_by_path(engine: SearchEngine) -> None:
    def gone(path: str) -> bytes:
        raise FileNotFoundError(path)

    other = SearchEngine(engine.model, engine.content, image_size=SIZE, read=gone)
    with pytest.raises(DataError, match=r"^the image of item 3 cannot be read any more$"):
        other.picture(3)


def test_the_lab_attacks_by_label_or_by_own_code(engine: SearchEngine) -> None:
    lab = Lab({"plain": engine})

    def attack(label: str | None, **options: Any) -> Any:
        settings: dict[str, Any] = {"epsilon": 16 / 255, "steps": 20, "k": 3, "deadline": float("inf")} | options
        return lab.attack(IMAGES[0], label, **settings).sides[0]

    assert [attack(label).goal for label in ("even", "even, odd", "unknown", None)] == [
        "mainstay",
        "mainstay",
        "own-code",
        "own-code",
    ]
    away = attack(None)
    assert away.moved > attack(None, epsilon=2 / 255).moved  # a larger budget goes farther
    assert away.before[0].distance == 0
    assert (away.risk_before, away.risk_after) == (None, None)  # no detector
    assert attack(None, epsilon=0.0).moved == attack(None, epsilon=0.9 / 255).moved == 0  # less than a step of a file
    with pytest.raises(LabTimeout):
        attack(None, deadline=0.0)
    bare = Lab({"plain": make_engine([None] * COUNT)}).attack(
        IMAGES[0], "even", epsilon=0.0, steps=1, k=1, deadline=float("inf")
    )
    assert bare.sides[0].goal == "own-code"


def test_a_change_in_whole_steps_stays_in_its_ball() -> None:
    generator = np.random.default_rng(0)
    clean = generator.integers(0, 256, (3, 9, 9), dtype=np.uint8)
    for epsilon in (0.0, 0.5 / 255, 1 / 255, 1.5 / 255, 8 / 255):
        found = (clean / 255 + generator.uniform(-epsilon, epsilon, clean.shape)).clip(0, 1).astype(np.float32)
        change = whole_change(found, clean, epsilon)
        assert np.abs(change).max() <= epsilon * 255 + 1e-6
        assert ((clean + change) >= 0).all()
        assert ((clean + change) <= 255).all()


def test_the_client_and_the_package_import_no_torch() -> None:
    code = "import sys, saat; assert 'httpx' not in sys.modules; saat.Client; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        saat.__getattr__("Server")
