from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import collection_of, encoded, picture

from saat.data.collection import Collection
from saat.data.decoding import decode_rows
from saat.data.splits import ImageSplit, Splits, gather_split, select_rows
from saat.errors import ArgumentError

ALL = {"train_size": 0, "query_size": 0, "database_size": 0, "train_in_database": True, "split_seed": 0}


def collection(**pools: range) -> Collection:
    return replace(collection_of([b""] * 100), pools={name: np.array(rows) for name, rows in pools.items()})


def split_of(labels: list[list[int]], digests: list[str] | None = None, name: str = "query") -> ImageSplit:
    count = len(labels)
    digests = digests or [f"{name} {row}" for row in range(count)]
    images = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    return ImageSplit(
        name, images, torch.tensor(labels, dtype=torch.uint8), tuple(map(str, range(count))), tuple(digests)
    )


@given(
    size=st.integers(1, 100),
    query=st.integers(0, 20),
    train=st.integers(0, 40),
    seed=st.none() | st.integers(0, 2**31),
    inside=st.booleans(),
)
def test_a_single_pool_gives_disjoint_queries(size, query, train, seed, inside):
    options = {"train_size": train, "query_size": query, "database_size": 0}
    try:
        rows = select_rows(collection(all=range(size)), **options, train_in_database=inside, split_seed=seed)
    except ArgumentError:
        queries = query or max(1, size // 10)
        trained = train or max(1, (size - queries) // 2)
        assert queries + trained + (not inside) > size  # refused only where there is too little
        return
    assert not set(rows["query"]) & (set(rows["train"]) | set(rows["database"]))
    assert len(set(rows["train"]) & set(rows["database"])) == (len(rows["train"]) if inside else 0)
    assert len(rows["query"]) == (query or max(1, size // 10))
    assert all(len(set(chosen)) == len(chosen) for chosen in rows.values())


def test_the_cifar_protocol():
    options = {"train_size": 10, "query_size": 5, "database_size": 30, "train_in_database": False, "split_seed": None}
    rows = select_rows(collection(train=range(80), query=range(80, 100)), **options)
    assert {name: (chosen[0], chosen[-1], len(chosen)) for name, chosen in rows.items()} == {
        "query": (80, 84, 5),
        "train": (0, 9, 10),
        "database": (10, 39, 30),
    }


def test_fixed_pools_are_kept():
    fixed = collection(train=range(40), database=range(80), query=range(80, 100))
    rows = select_rows(fixed, **ALL)
    assert {name: sorted(chosen) for name, chosen in rows.items()} == {
        name: sorted(chosen) for name, chosen in fixed.pools.items()
    }


def test_the_seed_draws_and_a_smaller_choice_is_part_of_a_larger():
    fixed = collection(train=range(40), database=range(80), query=range(80, 100))
    first, again, other = (select_rows(fixed, **ALL | {"split_seed": seed, "query_size": 8}) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert set(first["query"]) != set(other["query"])
    assert set(select_rows(fixed, **ALL | {"split_seed": 1, "query_size": 4})["query"]) < set(first["query"])


def test_tiny_sets_still_have_a_query():
    rows = select_rows(collection(all=range(3)), **ALL)
    assert [len(rows[name]) for name in ("query", "train", "database")] == [1, 1, 2]


def test_sizes_beyond_what_there_is():
    fixed = collection(train=range(40), query=range(80, 100))
    with pytest.raises(ArgumentError, match=r"`data.query_size` is 0 \(all\) to 20, what there is for query; got 21"):
        select_rows(fixed, **ALL | {"query_size": 21})
    with pytest.raises(ArgumentError, match="the others leave none for database"):
        select_rows(fixed, **ALL | {"train_in_database": False})


def test_a_damaged_image_leaves_every_split_it_is_in():
    contents = [encoded(picture(seed)) for seed in range(5)]
    contents[2] = contents[2][:50]
    items = collection_of(contents, np.eye(5, dtype=np.uint8))
    decoded = decode_rows(items, range(5), size=8, crop_border=0, quiet=True)
    split = gather_split("train", items, np.array([4, 2, 0]), decoded)
    assert split.item_names == ("item 4", "item 0")
    assert split.labels.argmax(1).tolist() == [4, 0]
    assert torch.equal(split.images, torch.from_numpy(decoded.images[[4, 0]]))
    assert len(split) == len(split.digests) == 2


def test_checksums_know_content_labels_and_order():
    base = split_of([[1, 0], [0, 1]], ["a", "b"])
    same = replace(base, name="other", item_names=("x", "y"))
    assert base.checksum() == same.checksum()
    different = [
        split_of([[1, 0], [1, 1]], ["a", "b"]),
        split_of([[1, 0], [0, 1]], ["b", "a"]),
        split_of([[1, 0]], ["a"]),
    ]
    assert base.checksum() not in {split.checksum() for split in different}


def test_overlap_is_by_content_not_by_name():
    query, database = split_of([[1]] * 3, ["a", "b", "c"]), split_of([[1]] * 4, ["b", "x", "y", "b"])
    assert Splits(database, query, database, ("only",), ()).overlap() == 1


@given(st.data())
def test_the_relevant_share_equals_the_naive_one(data):
    rows = st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=1, max_size=12)
    query, database = split_of(data.draw(rows)), split_of(data.draw(rows))
    shares = [
        sum(any(a and b for a, b in zip(q, d, strict=True)) for d in database.labels.tolist()) / len(database)
        for q in query.labels.tolist()
        if any(q)
    ]
    splits = Splits(database, query, database, ("a", "b", "c"), ())
    assert splits.relevant_share == pytest.approx(sum(shares) / max(1, len(shares)))


def test_the_manifest_is_json_and_counts():
    train, database = split_of([[1, 0], [0, 0]], name="train"), split_of([[1, 1], [0, 1], [0, 0]], name="database")
    manifest = Splits(train, split_of([[0, 1]]), database, ("cat", "dog"), ("a.jpg: empty",)).manifest()
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["sizes"] == {"train": 2, "query": 1, "database": 3}
    assert manifest["unlabeled"] == {"train": 1, "query": 0, "database": 1}
    assert manifest["labels_per_image"] == {"train": 0.5, "query": 1.0, "database": 1.0}
    assert manifest["class_counts"] == {"cat": 1, "dog": 2}
    assert manifest["relevant_share"] == pytest.approx(2 / 3)
    assert manifest["damaged"] == ["a.jpg: empty"]
