"""Blocks of a folder: its items in order, of the state when it was opened, and no more in memory than a block or so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from saat.errors import DataError
from saat.index.blocks import Blocks, open_blocks
from saat.index.content import IndexContent, ModelKey
from saat.index.storage import create_index, read_index, update_index

MODEL = ModelKey("d" * 32, 24)


def content(count: int) -> IndexContent:
    columns = {
        "path": pa.array([f"{row}.png" for row in range(count)], pa.string()),
        "kind": pa.array([["x", "y"][row % 2] for row in range(count)], pa.string()).dictionary_encode(),
        "price": pa.array([[1.5, None][row % 2] for row in range(count)], pa.float32()),
    }
    packed = np.random.default_rng(0).integers(0, 256, (count, 3), dtype=np.uint8)
    return IndexContent.empty(MODEL).added(packed, pa.table(columns), model=MODEL).without(np.arange(0, count, 7))


def check_same(blocks: Blocks, items: IndexContent, size: int) -> None:
    parts = list(blocks.blocks(size))
    assert all(0 < len(part) <= size for part in parts)
    assert (blocks.model, blocks.next_id, len(blocks)) == (items.model, items.next_id, len(items))
    assert blocks.schema.equals(items.schema)
    packed = np.concatenate([np.empty((0, 3), np.uint8), *(part.packed for part in parts)])
    assert (packed == items.packed).all()
    assert [id_ for part in parts for id_ in part.ids.tolist()] == items.ids.tolist()
    assert [row for part in parts for row in part.metadata.to_pylist()] == items.metadata.to_pylist()


@pytest.mark.parametrize("count", [0, 100])
@pytest.mark.parametrize("size", [1, 30, 1000])
def test_blocks_are_the_items_in_order(count: int, size: int, tmp_path: Path) -> None:
    items = content(count)
    create_index(tmp_path / "index", items)
    check_same(items, items, size)
    check_same(open_blocks(tmp_path / "index"), items, size)


def test_a_change_of_the_folder_is_not_seen(tmp_path: Path) -> None:
    create_index(tmp_path, content(100))
    blocks = open_blocks(tmp_path)
    update_index(tmp_path, lambda items: items.without(np.arange(50)))
    check_same(blocks, content(100), 30)
    check_same(open_blocks(tmp_path), read_index(tmp_path), 30)


def test_damage_is_named(tmp_path: Path) -> None:
    manifest = create_index(tmp_path, content(100))
    name = manifest.files["metadata"].name
    damaged = bytearray((tmp_path / name).read_bytes())
    damaged[100] ^= 1
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(DataError, match=f"{name} is damaged"):
        open_blocks(tmp_path)


def test_little_is_in_memory(tmp_path: Path) -> None:
    """One group of rows of 40 MB is read by the buffer, not as a whole."""
    count = 100_000
    paths = [row.tobytes().hex() for row in np.random.default_rng(0).integers(0, 256, (count, 200), dtype=np.uint8)]
    packed = np.zeros((count, 3), np.uint8)
    create_index(tmp_path, IndexContent.empty(MODEL).added(packed, pa.table({"path": paths}), model=MODEL))
    del paths
    before, most = pa.total_allocated_bytes(), 0
    blocks = open_blocks(tmp_path)
    assert blocks.metadata.num_row_groups == 1
    for part in blocks.blocks(1000):
        assert isinstance(part.packed, np.memmap)
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 10e6
