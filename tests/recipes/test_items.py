"""What is listed for an index, and read again for its pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saat.data.fashion import read_fashion
from saat.errors import DataError
from saat.recipes.items import read_item, read_items


def test_a_changed_file_is_encoded_anew_after_a_stop(tiny: Path, tmp_path: Path) -> None:
    path, fashion = tmp_path / "a.png", read_fashion()
    Image.fromarray(fashion.read(0)).save(path)
    before = read_items([path])
    Image.fromarray(fashion.read(1)).save(path)
    os.utime(path, ns=(0, 0))
    assert read_items([path]).identities != before.identities


def test_pictures_of_a_parquet_file_open_it_once_in_each_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened, real = tmp_path / "set.parquet", [], pq.ParquetFile

    def counted(file: Path) -> pq.ParquetFile:
        opened.append(file)
        return real(file)

    def write(images: list[bytes]) -> None:
        pq.write_table(pa.table({"image": images, "label": [0] * len(images)}), path, row_group_size=2)

    monkeypatch.setattr(pq, "ParquetFile", counted)
    write([b"a", b"b", b"c", b"d", b"e"])
    assert [read_item(f"{path}#{row}") for row in (4, 0, 3, 1, 2)] == [b"e", b"a", b"d", b"b", b"c"]
    assert len(opened) == 1
    write([b"other", b"images"])
    assert read_item(f"{path}#1") == b"images"
    assert len(opened) == 2
    with pytest.raises(DataError, match="no row 4"):
        read_item(f"{path}#4")
    path.unlink()
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_item(f"{path}#1")


def test_lists_name_paths_beside_them_and_the_database_of_a_set(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "images/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "list.txt").write_text("a.png\n\nb.png\na.png\n")
    assert read_items([tmp_path / "list.txt", tmp_path / "b.png"]).paths == [
        str(tmp_path / n) for n in ("a.png", "b.png")
    ]
    for split, name in (("train", "a.png"), ("test", "b.png"), ("database", "c.png")):
        (tmp_path / f"{split}_img.txt").write_text(f"{name}\n")
        (tmp_path / f"{split}_label.txt").write_text("1 1\n")
    items = read_items([tmp_path])
    assert items.columns.to_pylist() == [{"path": str(tmp_path / "images" / "c.png"), "label": "class 0, class 1"}]
