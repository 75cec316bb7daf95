"""How `FaissIndex` hands arrays to FAISS; what it promises is in `tests/contracts`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saat.bits import packed_distances
from saat.errors import ArgumentError
from saat.index.faiss_index import FaissIndex, HnswIndex, IvfIndex, queries_at_once
from saat.index.recall import recall_at


def by_sorting(
    packed: NDArray[np.uint8], queries: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    distances = packed_distances(queries, packed)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("code_length", "distinct"), [(32, 50), (128, 9000)])
def test_many_queries_in_several_passes(code_length: int, distinct: int, threads: int) -> None:
    """At k = 5,000 a pass takes fewer queries than there are; the last pass is not a whole one."""
    generator = np.random.default_rng(code_length)
    codes = generator.integers(0, 256, (distinct, code_length // 8), dtype=np.uint8)
    packed, queries = codes[generator.integers(0, distinct, 9000)], codes[:37] ^ np.uint8(3)
    index = FaissIndex(code_length, threads=threads)
    index.add(packed, np.arange(len(packed)))
    assert queries_at_once(code_length, 5000, threads=threads) < len(queries)
    for k in (5000, 10, 5000):
        result = index.search(queries, k)
        distances, ids = by_sorting(packed, queries, k)
        assert np.array_equal(result.distances, distances)
        assert np.array_equal(result.ids, ids)
        alone = index.search(queries[5:6], k)
        assert np.array_equal(alone.ids, ids[5:6])


def test_queries_may_lie_in_memory_in_any_way() -> None:
    generator = np.random.default_rng(0)
    packed, queries = (generator.integers(0, 256, (count, 8), dtype=np.uint8) for count in (500, 20))
    index = FaissIndex(64)
    index.add(np.asfortranarray(packed), np.arange(500))
    wanted = by_sorting(packed, queries, 30)[1]
    assert np.array_equal(index.search(np.asfortranarray(queries), 30).ids, wanted)
    assert np.array_equal(index.search(queries[::-2], 30).ids, wanted[::-2])
    wide = np.concatenate([queries, queries], axis=1)
    assert np.array_equal(index.search(wide[:, 8:], 30).ids, wanted)


def test_effort_and_share_of_an_index_that_is_built() -> None:
    packed = np.random.default_rng(0).integers(0, 256, (3000, 8), dtype=np.uint8)
    exact, graph, lists = FaissIndex(64), HnswIndex(64, effort=1), IvfIndex(64, share=0.0)
    for index in (exact, graph, lists):
        index.add(packed, np.arange(len(packed)))
    queries = packed[:100] ^ np.uint8(17)
    low = [recall_at(index, exact, queries, k=10) for index in (graph, lists)]
    graph.effort, lists.share = 3000, 1.0
    high = [recall_at(index, exact, queries, k=10) for index in (graph, lists)]
    assert max(low) < 0.9 < 0.99 < min(high)
    assert high[1] == 1.0  # all lists hold all codes
    with pytest.raises(ArgumentError, match="effort"):
        graph.effort = 0
    with pytest.raises(ArgumentError, match="share"):
        lists.share = 1.5
    assert (graph.effort, lists.share) == (3000, 1.0)


@settings(max_examples=100, derandomize=True)
@given(width=st.integers(1, 64), k=st.integers(1, 10**7), threads=st.integers(1, 200))
def test_a_pass_is_never_empty_and_shared_by_all_threads(width: int, k: int, threads: int) -> None:
    queries = queries_at_once(8 * width, k, threads=threads)
    assert queries >= threads
    assert queries % threads == 0
    assert queries == threads or (queries <= 32 and queries * (8 * width + 1) * k * 8 <= 2**24)
