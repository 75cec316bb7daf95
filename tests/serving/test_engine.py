"""The engine in one process: the same answers from many threads, changes under way, and the budget of the lab."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier, Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from engines import COUNT, IMAGES, SIZE, Stretched, make_engine

import saat
from saat.bits import packed_distances
from saat.errors import ArgumentError, DataError
from saat.index.catalog import INDEXES, RADIUS_BACKENDS, make_index
from saat.index.multi_index import MultiIndex
from saat.index.recall import recall_at
from saat.models.hash_model import NO_CODE
from saat.recipes.search import filled, find
from saat.serving import engine as engine_module
from saat.serving.engine import KEPT, SearchEngine
from saat.serving.hits import Answer, Risk
from saat.serving.lab import AttackEnded, Lab, whole_change
from saat.serving.query import Query

LABELS = ["even" if row % 2 == 0 else "odd" for row in range(COUNT)]


@pytest.fixture
def engine() -> SearchEngine:
    return make_engine(LABELS)


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


@pytest.mark.parametrize("backend", INDEXES)
def test_each_backend_answers_as_the_exact_one_or_says_that_it_may_not(backend: str, engine: SearchEngine) -> None:
    other = make_engine(LABELS, backend=backend)
    assert other.approximate == (not INDEXES[backend].exact)
    queries = [Query(engine.code(row), 5) for row in range(COUNT)]
    wanted, found = engine.search(queries), other.search(queries)
    if other.approximate:
        assert recall_at(other.index, engine.index, engine.content.packed, k=5) > 0.9
    else:
        assert found == wanted
    for where in ("label == 'odd'", "id < 0"):  # the items of a condition are searched exactly by all
        among = [Query(engine.code(row), 50, engine.among(where)) for row in range(9)]
        assert other.search([replace(query, among=other.among(where)) for query in among]) == engine.search(among)
    many = [Query(other.prepare(IMAGES[row]), 3) for row in range(COUNT)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: other.search([query])[0], many)) == [other.search([q])[0] for q in many]


def test_what_a_backend_builds_is_there_before_the_first_search() -> None:
    index = make_engine(LABELS, backend="multi-index").index
    assert isinstance(index, MultiIndex)
    assert index._tables is not None
    with pytest.raises(ArgumentError, match="did you mean 'faiss'"):
        make_engine(LABELS, backend="fais")


@pytest.mark.parametrize("backend", INDEXES)
def test_a_radius_bounds_the_results_and_its_items_are_counted(backend: str, engine: SearchEngine) -> None:
    other = make_engine(LABELS, backend=backend)
    query = Query(other.prepare(IMAGES[3]), 4)
    other.check_radius(None)
    if backend not in RADIUS_BACKENDS:
        with pytest.raises(ArgumentError, match=f"`radius` is for `backend` flat or multi-index; got '{backend}'"):
            other.check_radius(7)
        with pytest.raises(ArgumentError, match="`radius` is for flat or multi-index"):
            other.search([replace(query, radius=7)])
        return
    other.check_radius(7)
    for where in (None, "label == 'even'", "id < 0"):
        (everything,) = engine.search([Query(query.aim, COUNT, engine.among(where) if where else None)])
        for radius in (0, 5, 7, 16, 99):
            wanted = [hit for hit in everything if hit.distance <= radius]
            asked = replace(query, among=other.among(where) if where else None, radius=radius)
            plain = replace(asked, k=3, radius=None)
            together = other.answer([plain, asked, plain])  # unlike queries of one batch
            assert together[1] == Answer(wanted[:4], within=len(wanted))
            assert together[0] == together[2] == Answer(everything[:3])
            assert other.search([asked]) == [wanted[:4]]
    with pytest.raises(ArgumentError, match="`radius` is at least 0"):
        other.search([replace(query, radius=-1)])


def test_a_batch_of_unlike_queries(engine: SearchEngine) -> None:
    queries = [
        Query(engine.prepare(IMAGES[3]), 7),
        Query(engine.code(3), 7),
        Query(engine.code(4), 60, engine.among("label == 'odd'")),
        Query(engine.prepare(IMAGES[4]), 1),
        Query(engine.code(4), 5, engine.among("id < 0")),
    ]
    together = engine.search(queries)
    assert together == [engine.search([query])[0] for query in queries]
    assert [len(hits) for hits in together] == [7, 7, 25, 1, 0]
    assert together[0] == together[1]
    assert engine.search([]) == []
    with pytest.raises(ArgumentError, match="`where` compares columns"):
        engine.among("color == 1")


def test_a_query_without_a_code_is_refused_and_those_beside_it_are_answered(engine: SearchEngine) -> None:
    queries = [Query(engine.prepare(IMAGES[row]), 2) for row in range(2)]
    wanted = engine.search(queries)
    engine.model.backbone, black = Stretched(engine.model.backbone), np.zeros_like(queries[0].aim)
    answers = engine.answer([queries[0], Query(black, 2), queries[1]])
    assert [getattr(answer, "hits", str(answer)) for answer in answers] == [wanted[0], NO_CODE, wanted[1]]
    with pytest.raises(DataError, match=NO_CODE):
        engine.search([Query(black, 2)])


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
    def found(row: int) -> Any:
        return engine.search([Query(engine.prepare(IMAGES[row % COUNT]), 9, engine.among(f"id >= {row % (KEPT + 3)}"))])

    wanted = [found(row) for row in range(80)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found, range(80))) == wanted


def test_threads_that_ask_for_one_condition_have_it_found_once_and_a_batch_finds_none(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, together, threads = [], Barrier(KEPT), KEPT

    def counted(*words: Any, **options: Any) -> Any:
        made.append(words)
        time.sleep(0.05)  # so that the others ask meanwhile
        return make_index(*words, **options)

    def ask(_: int) -> Any:
        together.wait(10)
        return engine.among("id > 1")

    monkeypatch.setattr(engine_module, "make_index", counted)
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(ask, range(threads)))
    assert len(made) == 1
    assert all(among is found[0] for among in found)
    queries = [Query(engine.code(3), 9, engine.among(f"id >= {row}")) for row in range(KEPT + 3)]
    made.clear()
    assert [min(hit.id for hit in hits) >= row for row, hits in enumerate(engine.search(queries))] == [True] * 7
    assert not made
    for _ in range(2):
        with pytest.raises(ArgumentError, match="`where` compares a column with its own kind"):
            engine.among("label > 3")


def test_a_condition_holds_no_metadata_of_its_own(engine: SearchEngine) -> None:
    path = engine.content.metadata.column("path")
    table = pa.table({"id": engine.content.ids, "path": path, "note": ["x" * 200_000] * COUNT})
    wide = SearchEngine(
        engine.model, replace(engine.content, metadata=table), image_size=SIZE, read=lambda _: IMAGES[0]
    )
    before = pa.total_allocated_bytes()
    kept = [wide.among(f"id >= {row} or path == 'none'") for row in range(KEPT)]
    assert pa.total_allocated_bytes() - before < 200_000  # of ten million
    assert [len(among.index) for among in kept] == [COUNT - row for row in range(KEPT)]


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("path contains 'secret'", 0),
        ("path contains '/'", 0),
        ("path < '0'", 0),  # a slash, or a letter of a folder's, would be below
        ("path == '7.png' or path == '/secret/8.png'", 1),
        ("path contains '7.p' and label == 'odd'", 5),
    ],
)
def test_a_condition_sees_names_of_files_and_no_folder(engine: SearchEngine, where: str, count: int) -> None:
    assert len(engine.among(where).index) == count


def test_a_change_is_seen_by_conditions_too(engine: SearchEngine) -> None:
    def found() -> list[int]:
        return [hit.id for hit in engine.search([Query(engine.code(5), 100, engine.among("label == 'even'"))])[0]]

    assert 4 in found()
    begun = Query(engine.code(5), 100, engine.among("label == 'even'"))
    engine.replace(engine.content.without(np.array([4])))
    assert 4 not in found()
    assert 4 in [hit.id for hit in engine.search([begun])[0]]  # what has begun ends in the old items
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


def test_the_lab_attacks_by_label_or_by_what_most_results_are(engine: SearchEngine) -> None:
    lab = Lab({"plain": engine})

    def attack(label: str | None, **options: Any) -> Any:
        settings: dict[str, Any] = {"epsilon": 16 / 255, "steps": 20, "k": 3, "ended": Event()} | options
        return lab.attack(IMAGES[0], label, **settings).sides[0]

    assert [attack(label).label for label in ("even", "even, odd")] == ["even", "even, odd"]
    guessed = attack(None, k=10)
    labels = [hit.metadata["label"] for hit in guessed.before if hit.metadata["label"]]
    assert attack("unknown").label == guessed.label == max(labels, key=labels.count)
    assert guessed.goal == "mainstay"
    away = attack(None)
    assert away.moved > attack(None, epsilon=2 / 255).moved  # a larger budget goes farther
    assert away.before[0].distance == 0
    assert (away.risk_before, away.risk_after) == (None, None)  # no detector
    assert attack(None, epsilon=0.0).moved == attack(None, epsilon=0.9 / 255).moved == 0  # less than a step of a file
    ended = Event()
    ended.set()
    with pytest.raises(AttackEnded):
        attack(None, ended=ended)
    bare = Lab({"plain": make_engine([None] * COUNT)}).attack(
        IMAGES[0], "even", epsilon=0.0, steps=1, k=1, ended=Event()
    )
    assert (bare.sides[0].goal, bare.sides[0].label) == ("own-code", None)


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
