"""Columns of more than 2 GiB of text, whose chunks share one buffer here, are taken from like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from saat.data.collection import Collection
from saat.recipes.items import Items, _from_collection


@pytest.fixture(scope="module")
def columns() -> pa.Table:
    large, small = pa.array(["x" * 2**26], pa.string()), pa.array(["a", "b"], pa.string())
    return pa.table({"path": pa.chunked_array([small, *[large] * 33, small])})


def test_items_are_taken(columns: pa.Table) -> None:
    count = columns.num_rows
    readers = tuple(lambda row=row: bytes([row]) for row in range(count))
    items = Items(columns, tuple(map(str, range(count))), readers)
    taken = items.take([1, count - 2])
    assert taken.paths == ["b", "a"]
    assert taken.identities == ("1", str(count - 2))
    assert [read() for read in taken.readers] == [bytes([1]), bytes([count - 2])]
    assert len(items.take([])) == items.take([]).columns.num_rows == 0


def test_columns_of_a_parquet_set_are_taken(columns: pa.Table) -> None:
    names = tuple(map(str, range(columns.num_rows)))
    pools = {"database": np.array([0, len(names) - 1])}
    collection = Collection(names, np.zeros((len(names), 0), np.uint8), (), pools, lambda _: b"", 0)
    items = _from_collection(collection, Path("set"), columns.rename_columns(["story"]))
    assert items.columns.column("story").to_pylist() == ["a", "b"]
