"""What every index promises, over the catalog, against a naive oracle. A new index is one more row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saat.errors import ArgumentError
from saat.index.base import HammingIndex
from saat.index.catalog import INDEXES, RADIUS_BACKENDS, make_index, nearest_within
from saat.index.faiss_index import FaissIndex, HnswIndex, IvfIndex
from saat.index.flat import FlatIndex, RangeIndex
from saat.index.multi_index import MultiIndex
from saat.index.recall import recall_at
from saat.index.tables import probes

EXACT = [name for name, kind in INDEXES.items() if kind.exact]
APPROXIMATE = [name for name, kind in INDEXES.items() if not kind.exact]
SERVERS = ("milvus", "postgresql")
EVERY = [*INDEXES, *(pytest.param(name, marks=pytest.mark.servers) for name in SERVERS)]
Hits = list[list[tuple[int, int]]]
Make = Callable[[str, int], HammingIndex]


@pytest.fixture
def make(remote: Callable[[str, int], Any]) -> Make:
    """Return a way to make an empty index of a name and a code length, in memory or on a server."""
    return lambda name, code_length: (remote if name in SERVERS else make_index)(name, code_length)


def naive(packed: NDArray[np.uint8], ids: NDArray[np.int64], queries: NDArray[np.uint8], k: int) -> Hits:
    """Every pair compared bit by bit, then sorted by distance and id."""
    everything = []
    for query in queries:
        pairs = [
            (sum(bin(a ^ b).count("1") for a, b in zip(query.tolist(), row.tolist(), strict=True)), int(item))
            for row, item in zip(packed, ids, strict=True)
        ]
        everything.append(sorted(pairs)[:k])
    return everything


def hits_of(index: HammingIndex, queries: NDArray[np.uint8], k: int) -> Hits:
    result = index.search(queries, k)
    assert (result.distances.dtype, result.ids.dtype) == (np.int32, np.int64)
    assert result.distances.shape == result.ids.shape == (len(queries), k)
    assert ((result.ids == -1) == (result.distances == -1)).all()
    return [
        [(d, i) for d, i in zip(distances, ids, strict=True) if i >= 0]
        for distances, ids in zip(result.distances.tolist(), result.ids.tolist(), strict=True)
    ]


def random_items(seed: int, *, count: int, width: int, distinct: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Codes of which few differ, so that nearly all distances are ties, under ids with gaps, in no order."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 256, (distinct, width), dtype=np.uint8)
    return codes[generator.integers(0, distinct, count)], generator.permutation(3 * count + 1)[:count].astype(np.int64)


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 90),
    width=st.sampled_from([1, 2, 3, 4, 6, 8, 12]),
    distinct=st.sampled_from([1, 2, 7, 40]),
    k=st.integers(1, 120),
)
def test_exact_to_the_last_tie(name: str, seed: int, count: int, width: int, distinct: int, k: int) -> None:
    packed, ids = random_items(seed, count=count, width=width, distinct=distinct)
    index = make_index(name, 8 * width)
    half = count // 2
    index.add(packed[:half], ids[:half])
    index.add(packed[half:], ids[half:])  # ids below those already there
    queries = np.concatenate([packed[:2], ~packed[:1]])
    assert len(index) == count
    assert hits_of(index, queries, k) == naive(packed, ids, queries, k)
    gone = np.append(ids[::3], 10**9)  # the last one is not there
    assert index.remove(gone) == len(ids[::3])
    kept = ~np.isin(ids, gone)
    assert len(index) == kept.sum()
    assert hits_of(index, queries, k) == naive(packed[kept], ids[kept], queries, k)


@pytest.mark.parametrize(("width", "distinct"), [(3, 1), (8, 40)])
def test_servers_are_exact_to_the_last_tie(scheme: str, width: int, distinct: int, make: Make) -> None:
    packed, ids = random_items(7, count=300, width=width, distinct=distinct)
    flat, index = FlatIndex(8 * width), make(scheme, 8 * width)
    queries = np.concatenate([packed[:2], ~packed[:1]])
    for each in (flat, index):
        each.add(packed[150:], ids[150:])
        each.add(packed[:150], ids[:150])
        assert each.remove(np.append(ids[::3], 10**9)) == 100
        assert len(each) == 200
    for k in (1, 7, 199, 250):
        assert hits_of(index, queries, k) == hits_of(flat, queries, k)


@pytest.mark.parametrize("name", [name for name in EXACT if name != "flat"])
@pytest.mark.parametrize("distinct", [3, 1000])
def test_exact_among_many(name: str, distinct: int) -> None:
    """More rows than FAISS takes at a time (65,536), in two threads."""
    packed, ids = random_items(0, count=70_000, width=4, distinct=distinct)
    flat, index = FlatIndex(32), INDEXES[name].make(32, 2)
    queries = packed[:5] ^ np.uint8(1)
    for each in (flat, index):
        each.add(packed, ids)
    for k in (1, 100, 5000):
        assert hits_of(index, queries, k) == hits_of(flat, queries, k)


@pytest.mark.parametrize("name", EVERY)
def test_empty_then_filled_then_empty(name: str, make: Make) -> None:
    index = make(name, 16)
    queries = np.zeros((2, 2), np.uint8)
    none = index.search(queries, 3)
    assert (none.ids == -1).all()
    assert (none.distances == -1).all()
    assert index.search(queries[:0], 3).ids.shape == (0, 3)
    index.add(queries[:0], np.empty(0, np.int64))
    assert len(index) == 0
    index.add(np.array([[1, 0], [255, 255], [0, 0]], np.uint8), np.array([5, 2, 9]))
    assert index.search(queries[:1], 4).ids.tolist() == [[9, 5, 2, -1]]
    assert index.search(queries[:1], 4).distances.tolist() == [[0, 1, 16, -1]]
    assert index.remove(np.array([2, 5, 9])) == 3
    assert (index.search(queries, 3).ids == -1).all()


@pytest.mark.parametrize("name", EVERY)
def test_mistakes_are_named(name: str, make: Make) -> None:
    index = make(name, 16)
    packed, ids = np.zeros((2, 2), np.uint8), np.array([0, 7])
    index.add(packed, ids)
    with pytest.raises(TypeError, match="`packed` is uint8; got float32"):
        index.add(packed.astype(np.float32), ids)
    with pytest.raises(TypeError, match="`packed` is a numpy array of uint8; got list"):
        index.search([[0, 0]], 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`ids` is int64; got int32"):
        index.add(packed, ids.astype(np.int32))
    for wrong, message in [
        (lambda: index.add(packed[:, :1], ids), r"`packed` has the shape \(N, 2\).*got \(2, 1\)"),
        (lambda: index.add(packed, ids[:1] + 1), r"`ids` is \(N,\) with N = 2"),
        (lambda: index.add(packed, np.array([3, 7])), "`ids` are new to the index; 7 is in it"),
        (lambda: index.add(packed, np.array([3, 3])), "`ids` are distinct; got 3 twice"),
        (lambda: index.add(packed, np.array([3, -1])), "`ids` are at least 0; got -1"),
        (lambda: index.remove(np.array([3, 3])), "`ids` are distinct; got 3 twice"),
        (lambda: index.search(packed[:, :1], 1), r"got \(2, 1\)"),
        (lambda: index.search(packed, 0), "`k` is at least 1; got 0"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            wrong()
    assert index.search(packed[:1], 3).ids.tolist() == [[0, 7, -1]]  # nothing has changed


@pytest.mark.parametrize("kind", [FlatIndex, MultiIndex])
@settings(max_examples=40, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 90),
    width=st.sampled_from([1, 3, 8]),
    distinct=st.sampled_from([1, 40]),
    radius=st.integers(0, 70),
)
def test_within_finds_all(
    kind: type[RangeIndex], seed: int, count: int, width: int, distinct: int, radius: int
) -> None:
    packed, ids = random_items(seed, count=count, width=width, distinct=distinct)
    index = kind(8 * width)
    index.add(packed, ids)
    queries = np.random.default_rng(seed).integers(0, 256, (3, width), dtype=np.uint8)
    result = index.within(queries, radius)
    wanted = [[hit for hit in hits if hit[0] <= radius] for hits in naive(packed, ids, queries, count)]
    pairs = list(zip(result.distances.tolist(), result.ids.tolist(), strict=True))
    limits = result.limits.tolist()
    assert [pairs[start:end] for start, end in pairwise(limits)] == wanted
    with pytest.raises(ArgumentError, match="`radius` is at least 0"):
        index.within(queries, -1)


@pytest.mark.parametrize("name", INDEXES)
def test_a_radius_is_for_the_indexes_that_the_catalog_names(name: str) -> None:
    index, query = make_index(name, 8), np.array([[1]], np.uint8)
    index.add(np.array([[0], [255], [1]], np.uint8), np.array([4, 5, 9]))
    if name not in RADIUS_BACKENDS:
        with pytest.raises(ArgumentError, match=f"`radius` is for flat or multi-index; got {type(index).__name__}"):
            nearest_within(index, query, 1, k=1)
        return
    for k, ids in ((1, [[9]]), (5, [[9, 4]])):
        result, count = nearest_within(index, query, 1, k=k)
        assert (result.ids.tolist(), count) == (ids, 2)
    with pytest.raises(ArgumentError, match=r"`packed` is one query, \(1, 1\); got \(2, 1\)"):
        nearest_within(index, np.repeat(query, 2, axis=0), 1, k=1)


@pytest.mark.parametrize("code_length", [24, 64, 128])
@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 8])
def test_multi_index_looks_at_few_codes_and_misses_none(code_length: int, radius: int) -> None:
    generator = np.random.default_rng(radius)
    packed = generator.integers(0, 256, (20_000, code_length // 8), dtype=np.uint8)
    query = packed[7]
    flips = [generator.choice(code_length, count, replace=False) for count in range(radius + 2) for _ in range(30)]
    bits = np.unpackbits(np.tile(query, (len(flips), 1)), axis=1, bitorder="little")
    for row, places in enumerate(flips):
        bits[row, places] ^= 1
    packed[100 : 100 + len(flips)] = np.packbits(bits, axis=1, bitorder="little")  # near the query, every distance
    flat, index = FlatIndex(code_length), MultiIndex(code_length)
    for each in (flat, index):
        each.add(packed, np.arange(len(packed)))
    wanted, found = (each.within(query[None], radius) for each in (flat, index))
    assert len(wanted.ids) >= 30 * (radius + 1)
    assert (found.ids.tolist(), found.distances.tolist()) == (wanted.ids.tolist(), wanted.distances.tolist())
    if radius <= 3:
        tables = index._built()
        assert tables.near(query, radius) is not None
        _, candidates = tables.spans(query, probes(tables.widths, radius))
        assert candidates < len(packed) / 4
    nearest = index.search(query[None], 40)
    assert nearest.ids.tolist() == flat.search(query[None], 40).ids.tolist()


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximate_indexes_give_true_distances_in_order_and_say_their_recall(name: str) -> None:
    generator = np.random.default_rng(1)
    centers = generator.integers(0, 256, (50, 8), dtype=np.uint8)
    noise = np.packbits(generator.random((4000, 64)) < 0.1, axis=1, bitorder="little")
    packed, ids = centers[generator.integers(0, 50, 4000)] ^ noise, np.arange(4000) * 2
    exact, index = FaissIndex(64), make_index(name, 64)
    for each in (exact, index):
        each.add(packed, ids)
        assert each.remove(ids[:100]) == 100
    queries = packed[100:160]
    assert recall_at(index, exact, queries, k=10) > 0.95
    assert recall_at(exact, exact, queries, k=10) == 1.0
    for query, hits in zip(queries, hits_of(index, queries, 20), strict=True):
        assert hits == sorted(hits)
        assert all(np.bitwise_count(packed[item // 2] ^ query).sum() == distance for distance, item in hits)


def test_approximate_indexes_find_more_for_more_work() -> None:
    generator = np.random.default_rng(2)
    packed, ids = generator.integers(0, 256, (4000, 8), dtype=np.uint8), np.arange(4000)
    exact = FaissIndex(64)
    pairs = [
        (IvfIndex(64, share=0.0), IvfIndex(64, share=1.0)),
        (HnswIndex(64, effort=1, neighbors=4), HnswIndex(64, effort=2000)),
    ]
    exact.add(packed, ids)
    for little, much in pairs:
        for each in (little, much):
            each.add(packed, ids)
        assert recall_at(little, exact, packed[:50], k=10) < 0.9
        assert recall_at(much, exact, packed[:50], k=10) > 0.99
    with pytest.raises(ArgumentError, match="`threads` is at least 1"):
        FaissIndex(64, threads=0)


def test_recall_counts_what_is_missing() -> None:
    """Of the 2 nearest of 0, at distances 0 and 1, an index without the first item finds one: recall 1/2."""
    packed, ids = np.array([[0], [1], [255]], np.uint8), np.arange(3)
    exact, index = FlatIndex(8), FlatIndex(8)
    exact.add(packed, ids)
    index.add(packed[1:], ids[1:])
    assert recall_at(index, exact, packed[:1], k=2) == 0.5
    with pytest.raises(ArgumentError, match="got 0 and 3"):
        recall_at(index, exact, packed[:0], k=2)


def test_ids_without_gaps_need_no_room() -> None:
    index = FaissIndex(64)
    index.add(np.zeros((5, 8), np.uint8), np.arange(4, 9))
    index.add(np.zeros((2, 8), np.uint8), np.arange(9, 11))
    assert index._ids._ids is None
    assert index.search(np.zeros((1, 8), np.uint8), 7).ids.tolist() == [[4, 5, 6, 7, 8, 9, 10]]
    index.remove(np.array([6]))
    assert index.search(np.zeros((1, 8), np.uint8), 7).ids.tolist() == [[4, 5, 7, 8, 9, 10, -1]]


def test_unknown_names_list_near_ones() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'faiss'"):
        make_index("fais", 16)


def test_the_index_needs_no_torch() -> None:
    modules = ("catalog", "storage", "where", "recall", "push")
    lines = [f"import saat.index.{name}" for name in modules]
    code = "; ".join([*lines, "import sys", "assert 'torch' not in sys.modules"])
    subprocess.run([sys.executable, "-c", code], check=True)
