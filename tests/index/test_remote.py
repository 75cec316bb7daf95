"""An index on real servers: the same as the folder, the same results as `FlatIndex`, whatever the condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pushing import COUNT, MODEL, content, pushed_steps
from servers import Addresses

from saat.errors import ArgumentError, DataError
from saat.index import milvus
from saat.index.address import parse_address
from saat.index.catalog import open_remote
from saat.index.content import IndexContent, ModelKey
from saat.index.flat import FlatIndex
from saat.index.pgvector import walk
from saat.index.push import Step, push
from saat.index.recall import recall_at
from saat.index.remote import RemoteIndex
from saat.index.stored import RemoteManifest
from saat.index.where import select

CONDITIONS = [
    "label == 'cat' and id > 100",
    "label != 'cat'",
    r"label == 'it\'s' or label == 'do\"g'",
    r"label == 'a\\b'",
    "label == 'é%_x' or label < 'cb'",
    "label > 'Z' and label <= 'dog'",
    "label contains 'a'",
    "label contains 'a' and sold == true",
    "label contains 'g' or sold == true",
    "tags has 'cat'",
    "tags has 'cat' and price > 1 or tags has 'do\"g'",
    'label == \'" or id >= 0 or metadata["label"] == "\'',
    "label == ') OR true; DROP TABLE saat_manifests; --'",
    "price > 1",
    "price >= 1.5 or price < -1e3",
    "price != 1.5",
    "price == 0.1 or price <= -2",
    "narrow == 0.1 or narrow > 0.1",
    "number > 1.5",
    "number != 1 and number < 9007199254740994",
    "sold != true",
    "sold > false",
    "id > 1.5 and id != 20",
    "größe == 2",
    "`camera model` == 'X 100'",
    "`camera model` contains '100' and id < 90",
    '`x"] == 1 or id >= 0 or metadata["` == 3',
    "`%s and 'a\\` == 3",
    "`a][b` == 2",
    "hash > 1",
    "taken >= '2024-01-07'",
    "half > 1.6 or half == 0.1",
    "id == 5 or label == 'dog' and price > 0",
    "kind == 'x' and id < 90",
    "label == 'none'",
]


def check_same(remote: RemoteIndex[Any], items: IndexContent) -> None:
    remote.check_complete()
    found = remote.items(np.arange(2 * COUNT))
    assert len(remote) == len(items)
    assert (found.ids == items.ids).all()
    assert (found.packed == items.packed).all()
    assert found.metadata.schema.equals(items.metadata.schema)
    assert repr(found.metadata.to_pylist()) == repr(items.metadata.to_pylist())  # as text, NaN is NaN


def check_exact(remote: RemoteIndex[Any], items: IndexContent, k: int, where: str | None = None) -> None:
    among = items if where is None else items.only(select(items.metadata, where).column("id").to_numpy())
    flat = FlatIndex(24)
    flat.add(among.packed, among.ids)
    queries = items.packed[:2] ^ np.uint8(1)
    wanted, found = flat.search(queries, k), remote.search(queries, k, where=where)
    assert found.ids.tolist() == wanted.ids.tolist()
    assert found.distances.tolist() == wanted.distances.tolist()


@pytest.fixture(scope="module")
def pushed(address: Addresses) -> Iterator[Callable[[str], RemoteIndex[Any]]]:
    """Return a way to get `content()` on a server; it is pushed once a server."""
    made: dict[str, RemoteIndex[Any]] = {}

    def get(scheme: str) -> RemoteIndex[Any]:
        if scheme not in made:
            made[scheme] = open_remote(address(scheme))
            pushed_steps(content(), made[scheme])
        return made[scheme]

    yield get
    for remote in made.values():
        remote.close()


def test_a_push_makes_the_server_the_same_and_writes_what_differs(scheme: str, address: Addresses) -> None:
    place, items = address(scheme), content()
    remote = open_remote(place)
    assert not remote.exists
    with pytest.raises(DataError, match="holds no index; `saat index push"):
        remote.check_complete()
    assert pushed_steps(items, remote) == (len(items), len(items), 0)
    remote.close()
    remote = open_remote(place)
    check_same(remote, items)
    assert pushed_steps(items, remote) == (len(items), 0, 0)
    more = pa.table({"path": ["/photos/new.png"], "height": [7]})
    changed = items.without(np.array([1, 150, 399])).added(np.full((1, 3), 9, np.uint8), more, model=MODEL)
    # In Milvus the change is made in a collection of its own, which is empty the first time.
    assert pushed_steps(changed, remote) == (len(changed), *((len(changed), 0) if scheme == "milvus" else (1, 3)))
    check_same(remote, changed)
    for other, identity, message in [
        (items, "another", "the index of one folder"),  # of the same second and the same model
        (IndexContent.empty(ModelKey("b" * 32, 24)), "ours", "codes of one model"),
        (IndexContent.empty(ModelKey("a" * 32, 32)), "ours", "here 24 bits; got 32"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            pushed_steps(other, remote, identity)
    check_same(remote, changed)
    remote.close()


def test_a_push_cut_off_is_refused_then_goes_on(scheme: str, address: Addresses) -> None:
    place, items = address(scheme), content()
    remote = open_remote(place)
    steps = push(items, remote, identity="ours", created="now", batch_size=100)
    assert next(steps) == Step("push", 100, 100, 0)
    remote.close()
    remote = open_remote(place)
    with pytest.raises(DataError, match="holds a part of an index; give the same `saat index push` again"):
        remote.check_complete()
    assert pushed_steps(items, remote) == (len(items), len(items) - 100, 0)
    check_same(remote, items)
    remote.close()


def test_a_manifest_is_read_as_it_was_written() -> None:
    address = parse_address("postgresql:///photos")
    written = RemoteManifest(
        MODEL, "0123abcd", "2025-01-01T00:00:00+00:00", 7, content().metadata.schema, complete=True
    )
    assert RemoteManifest.read(written.text(), address) == written


@pytest.mark.parametrize("where", CONDITIONS)
def test_conditions_select_as_in_a_folder(scheme: str, where: str, pushed: Callable[[str], RemoteIndex[Any]]) -> None:
    for k in (5, 300):
        check_exact(pushed(scheme), content(), k, where)


def test_the_conditions_have_answers() -> None:
    """All but the two that inject and the one without items find some, none finds all."""
    counts = [len(select(content().metadata, where)) for where in CONDITIONS]
    assert sum(count == 0 for count in counts) == 3
    assert max(counts) < len(content())


def test_what_is_no_condition_is_refused(scheme: str, pushed: Callable[[str], RemoteIndex[Any]]) -> None:
    remote = pushed(scheme)
    for where in ("lable == 'cat'", "label == 3", "sold == 1", f"number == {10**30}", "label == 'cat"):
        with pytest.raises(ArgumentError):
            remote.search(content().packed[:1], 1, where=where)


def test_an_excerpt_has_the_length_of_the_whole(scheme: str, pushed: Callable[[str], RemoteIndex[Any]]) -> None:
    remote, items = pushed(scheme), content()
    part = remote.excerpt(50)
    assert len(part) == len(items)
    assert 20 < len(part.ids) <= 50
    assert (part.packed == items.only(part.ids).packed).all()
    assert remote.excerpt(50).ids.tolist() == part.ids.tolist()
    assert remote.excerpt(COUNT).ids.tolist() == items.ids.tolist()


@pytest.mark.servers
@pytest.mark.parametrize("k", [90, 100, 250])
def test_ties_beyond_what_milvus_returns(
    k: int, pushed: Callable[[str], RemoteIndex[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With at most 100 results a search, ties of 50 and more are put together from ranges of ids."""
    remote = pushed("milvus")
    monkeypatch.setattr(milvus, "MOST", 100)
    monkeypatch.setattr(milvus, "ROOM", 100)
    check_exact(remote, content(), k, "sold != true" if k == 90 else None)


@pytest.mark.servers
def test_a_graph_in_postgresql_is_a_choice(address: Addresses) -> None:
    place = address("postgresql")
    remote = open_remote(place)
    generator = np.random.default_rng(3)
    packed = generator.integers(0, 256, (2000, 3), dtype=np.uint8)
    items = IndexContent.empty(MODEL).added(
        packed, pa.table({"even": [row % 2 == 0 for row in range(2000)]}), model=MODEL
    )
    pushed_steps(items, remote)
    with pytest.raises(ArgumentError, match="needs a graph"):
        open_remote(place, approximate=True)
    remote.build_graph()
    graph = open_remote(place, approximate=True)
    for k in (1, 10, 1000):
        check_exact(remote, items, k, "even == true")  # by every code, although there is a graph
        recall = recall_at(graph, remote, packed[:20], k=k)
        assert 0.9 < recall <= 1.0
    plan = graph._run(
        "EXPLAIN SELECT id FROM {table} ORDER BY code <~> %(code)s::bit(24) LIMIT 5", local=walk(5), code="1" * 24
    )
    assert "Index Scan using" in plan[1][0]
    result = graph.search(packed[:5], 50)
    for code, distances, ids in zip(packed, result.distances, result.ids, strict=False):
        assert np.bitwise_count(packed[ids] ^ code).sum(axis=1).tolist() == distances.tolist()
        assert all(a <= b for a, b in pairwise(zip(distances.tolist(), ids.tolist(), strict=True)))
    for each in (remote, graph):
        each.close()
