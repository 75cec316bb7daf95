"""The tables of `MultiIndex`; that it is exact, also where it compares all codes, is in `tests/contracts`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saat.bits import packed_distances
from saat.index.flat import FlatIndex, RangeIndex, words_of
from saat.index.multi_index import MultiIndex, near_among_all
from saat.index.tables import build_tables, count_probes, flips_of, grouped, probes


def few_distinct(seed: int, count: int, width: int, *, noise: float = 0.1) -> NDArray[np.uint8]:
    """Codes among which many are equal or near."""
    generator = np.random.default_rng(seed)
    centers = generator.integers(0, 256, (3, width), dtype=np.uint8)
    flips = np.packbits(generator.random((count, 8 * width)) < noise, axis=1)
    return centers[generator.integers(0, 3, count)] ^ flips


@settings(max_examples=100, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 60),
    width=st.sampled_from([1, 2, 3, 5, 8, 16]),
    radius=st.integers(0, 130),
)
def test_tables_and_comparing_all_find_each_once(seed: int, count: int, width: int, radius: int) -> None:
    """On so few codes the index itself would compare them all, so the tables are asked directly."""
    packed = few_distinct(seed, count + 1, width)
    query, packed = packed[0].copy(), packed[1:].copy()
    tables, radius = build_tables(packed), min(radius, 8 * width)
    assert sum(tables.widths) == 8 * width
    assert [piece.start for piece in tables.pieces] == [0, *np.cumsum(tables.widths)[:-1].tolist()]
    assert tables.in_order == (width <= 8)
    true_distances = packed_distances(query[None], packed)[0]
    order = np.argsort(true_distances, kind="stable")
    wanted = order[true_distances[order] <= radius]
    probed = probes(tables.widths, radius)
    spans, candidates = tables.spans(query, probed)
    assert candidates == (spans[:, 1] - spans[:, 0]).sum()
    for distances, rows in (
        tables.sifted(query, radius, probed, spans, candidates),
        near_among_all(query, packed, radius),
    ):
        assert (distances.dtype, rows.dtype) == (np.int32, np.int64)
        assert rows.tolist() == wanted.tolist()
        assert distances.tolist() == true_distances[wanted].tolist()


@pytest.mark.parametrize("width", [3, 4, 8, 16])
def test_many_are_found_in_order(width: int) -> None:
    """Spans of many codes, each of many rows where the codes repeat."""
    packed = few_distinct(width, 70_000, width, noise=0.02)  # rows of three digits
    query, radius, tables = packed[9].copy(), 2 * width, build_tables(packed)
    distances, rows = near_among_all(query, packed, radius)
    assert len(rows) > 10_000
    true_distances = packed_distances(query[None], packed)[0]
    order = np.argsort(true_distances, kind="stable")[: len(rows)]
    assert rows.tolist() == order.tolist()
    assert distances.tolist() == true_distances[order].tolist()
    assert len(rows) == (true_distances <= radius).sum()
    probed = probes(tables.widths, radius)
    found = tables.sifted(query, radius, probed, *tables.spans(query, probed))
    assert found[0].tolist() == distances.tolist()
    assert found[1].tolist() == rows.tolist()


@pytest.mark.parametrize(("count", "width"), [(1, 1), (1, 4), (2, 3), (100, 3), (5000, 8), (70_000, 4)])
def test_a_table_has_each_row_once_under_its_key(count: int, width: int) -> None:
    packed = few_distinct(count, count, width)
    tables = build_tables(packed)
    packed, _ = grouped(packed)
    assert (len(packed) < count) == (tables.groups is not None) == ((count, width) == (70_000, 4))
    bits, count = np.unpackbits(packed, axis=1, bitorder="little").astype(np.int64), len(packed)
    assert int(tables.starts[-1]) == len(tables.numbers) == count * len(tables.pieces)
    for number, (piece, base) in enumerate(zip(tables.pieces, tables.bases, strict=True)):
        keys = bits[:, piece] @ (1 << np.arange(piece.stop - piece.start))
        rows = tables.numbers[number * count : (number + 1) * count]
        assert np.array_equal(rows, np.argsort(keys, kind="stable"))
        for row in {0, count // 2, count - 1}:
            start, end = tables.starts[base + keys[row] : base + keys[row] + 2].tolist()
            assert np.array_equal(tables.numbers[start:end], np.flatnonzero(keys == keys[row]))
        if tables.in_order:
            assert np.array_equal(tables.codes[number * count : (number + 1) * count], words_of(packed)[rows])


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_codes_that_repeat_are_kept_once_with_their_rows(width: int) -> None:
    packed = few_distinct(width, 3000, width, noise=0.02)
    codes, groups = grouped(packed)
    assert groups is not None
    wanted, rows = np.unique(words_of(packed)[:, 0], return_inverse=True)
    assert words_of(codes)[:, 0].tolist() == wanted.tolist()
    assert groups.rows.tolist() == np.argsort(rows, kind="stable").tolist()
    assert np.diff(groups.starts).tolist() == np.bincount(rows).tolist()


def test_codes_that_hardly_repeat_stay_as_they_are() -> None:
    packed = np.random.default_rng(0).integers(0, 256, (3000, 4), dtype=np.uint8)
    packed[:200] = packed[200:400]
    assert grouped(packed)[1] is None
    assert grouped(few_distinct(0, 3000, 16))[1] is None  # of more than one word


@pytest.mark.parametrize("widths", [(3,), (2, 2), (3, 2), (2, 2, 1)])
def test_every_code_within_the_radius_shares_a_piece(widths: tuple[int, ...]) -> None:
    """All differences of five bits or fewer: whatever has at most r set bits has few in some piece."""
    edges = np.cumsum([0, *widths]).tolist()
    for radius in range(sum(widths) + 2):
        allowed = flips_of(len(widths), radius)
        keys = probes(widths, radius)
        assert keys.flips.tolist() == allowed
        assert len(keys.pieces) == len(keys.masks) == count_probes(widths, radius)
        assert keys.pieces.tolist() == sorted(keys.pieces.tolist())  # so that a code is passed over in later ones
        probed = set(zip(keys.pieces.tolist(), keys.masks.tolist(), strict=True))
        for difference in product((0, 1), repeat=sum(widths)):
            parts = [difference[start:end] for start, end in pairwise(edges)]
            keys = [sum(bit << place for place, bit in enumerate(part)) for part in parts]
            found = any(pair in probed for pair in enumerate(keys))
            assert found == any(sum(part) <= most for part, most in zip(parts, allowed, strict=True))
            assert found or sum(difference) > radius


@pytest.mark.parametrize("clustered", [False, True])
def test_tables_follow_additions_and_removals(clustered: bool) -> None:
    generator = np.random.default_rng(7)
    packed = generator.integers(0, 256, (30_000, 8), dtype=np.uint8)
    if clustered:
        packed = few_distinct(7, 30_000, 8, noise=0.02)
    packed[20_000:20_050] = packed[:50]
    flat, index = FlatIndex(64), MultiIndex(64)
    queries, ids = packed[:10] ^ np.uint8(1), np.arange(30_000) * 3
    changes: tuple[Callable[[RangeIndex], object], ...] = (
        lambda each: each.add(packed[:15_000], ids[:15_000]),
        lambda each: each.add(packed[15_000:], ids[15_000:]),
        lambda each: each.remove(ids[5:25_000:7]),
    )
    for change in changes:
        for each in (flat, index):
            change(each)
        for radius in (0, 3, 9):
            wanted, found = (each.within(queries, radius) for each in (flat, index))
            assert found.limits.tolist() == wanted.limits.tolist()
            assert found.ids.tolist() == wanted.ids.tolist()
            assert found.distances.tolist() == wanted.distances.tolist()
        for k in (1, 200):
            assert index.search(queries, k).ids.tolist() == flat.search(queries, k).ids.tolist()
    assert (index._built().near(queries[0], 9) is None) == clustered


@pytest.mark.parametrize("width", [1, 2, 3, 4, 6, 12, 16, 40, 64])
def test_distances_of_long_codes_do_not_wrap(width: int) -> None:
    packed = np.stack([np.zeros(width, np.uint8), np.full(width, 255, np.uint8), np.full(width, 16, np.uint8)])
    indexes: tuple[RangeIndex, ...] = (FlatIndex(8 * width), MultiIndex(8 * width))
    for index in indexes:
        index.add(packed, np.arange(3))
        assert index.search(packed[:1], 3).distances.tolist() == [[0, width, 8 * width]]
        assert index.within(packed[1:2], 8 * width).distances.tolist() == [0, 7 * width, 8 * width]
