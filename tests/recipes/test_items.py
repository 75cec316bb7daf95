"""What is listed for an index, and read again for its pictures."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saat.data.fashion import read_fashion
from saat.errors import DataError
from saat.index.content import IndexContent, ModelKey
from saat.index.storage import create_index, read_index, update_index
from saat.recipes.index import BuildConfig, RemoveConfig, build, remove
from saat.recipes.items import read_item, read_items
from saat.recipes.search import SearchConfig, search


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


def test_texts_that_are_views_are_searched_by_conditions_and_removed(tiny: Path, tmp_path: Path) -> None:
    """pyarrow, which reads them as they were written, can filter no table that has one."""
    image = io.BytesIO()
    Image.fromarray(read_fashion().read(0)).save(image, "PNG")
    texts, several = pa.array(["new", "old", None], pa.string_view()), pa.list_(pa.string_view())
    columns = {"note": texts, "tags": pa.array([["a"], [], None], several), "raw": texts.cast(pa.binary_view())}
    pq.write_table(pa.table({"image": [image.getvalue()] * 3, "price": [1, 2, 3]} | columns), tmp_path / "set.parquet")
    build(BuildConfig(checkpoint=tiny, images=[tmp_path / "set.parquet"], out=tmp_path / "index", quiet=True))
    (query := tmp_path / "query.png").write_bytes(image.getvalue())
    for where, ids in (("price < 3", [0, 1]), ("note has 'old'", [1])):
        hits = search(SearchConfig(index=tmp_path / "index", image=query, where=where, quiet=True))
        assert [hit["id"] for hit in hits] == ids
    remove(RemoveConfig(index=tmp_path / "index", where="note == 'new'", quiet=True))
    rows = read_index(tmp_path / "index").metadata.select(["note", "tags", "raw"]).to_pylist()
    assert rows == [{"note": "old", "tags": [], "raw": b"old"}, {"note": None, "tags": None, "raw": None}]


def test_an_index_that_was_written_with_views_is_filtered(tmp_path: Path) -> None:
    model = ModelKey("weights", 8)
    metadata = pa.table({"id": [0, 1], "path": pa.array(["a.png", "b.png"], pa.string_view())})
    create_index(tmp_path, IndexContent(np.zeros((2, 1), np.uint8), np.arange(2), metadata, 2, model))
    more = pa.table({"path": pa.array(["c.png"], pa.string_view())})
    update_index(tmp_path, lambda old: old.added(np.zeros((1, 1), np.uint8), more, model=model))
    remove(RemoveConfig(index=tmp_path, where="path contains 'b'", quiet=True))
    assert read_index(tmp_path).metadata.column("path").to_pylist() == ["a.png", "c.png"]


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


def test_a_path_with_dots_is_that_of_the_same_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "list.txt").write_text("../photos/a.png\n")
    monkeypatch.chdir(tmp_path / "photos")
    sources = [Path("../photos"), Path("../photos/list.txt"), Path("a.png")]
    assert read_items(sources).paths == [str(tmp_path / "photos" / "a.png")]


def test_a_parquet_set_needs_no_column_but_the_images(tiny: Path, tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.fromarray(read_fashion().read(0)).save(image, "PNG")
    for labels, found in (({}, [{}, {}]), ({"label": ["cat", None]}, [{"label": "cat"}, {"label": None}])):
        pq.write_table(pa.table({"image": [image.getvalue()] * 2} | labels), tmp_path / "set.parquet")
        assert read_items([tmp_path / "set.parquet"]).columns.drop_columns(["path"]).to_pylist() == found
    build(BuildConfig(checkpoint=tiny, images=[tmp_path / "set.parquet"], out=tmp_path / "index", quiet=True))
    assert len(read_index(tmp_path / "index")) == 2


def test_what_a_folder_has_beside_its_images_is_told(tmp_path: Path) -> None:
    Image.fromarray(read_fashion().read(0)).save(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert [Path(path).name for path in read_items([tmp_path]).paths] == ["a.png", "gone.png"]  # which is named later
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), tmp_path / "set.parquet")
    with pytest.raises(DataError, match=r"one kind of them by name; found both in .*, such as a.png"):
        read_items([tmp_path])


def test_columns_that_python_has_no_values_for_are_shown_as_text(tiny: Path, tmp_path: Path) -> None:
    Image.fromarray(read_fashion().read(0)).save(tmp_path / "a.png")
    columns = {
        "image": [(tmp_path / "a.png").read_bytes()],
        "found": pa.array([10**7], pa.date32()),
        "here": pa.array([0], pa.timestamp("us", "Nowhere/Else")),
        "seen": pa.array([[{"at": 0}]], pa.list_(pa.struct([("at", pa.timestamp("us", "Nowhere/Else"))]))),
        "days": pa.array([{"a": 10**7}], pa.struct([("a", pa.date32())])),
        "notes": pa.array([["x"]], pa.large_list(pa.string_view())),
    }
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    build(BuildConfig(checkpoint=tiny, images=[tmp_path / "set.parquet"], out=tmp_path / "index", quiet=True))
    (hit,) = search(SearchConfig(index=tmp_path / "index", image=tmp_path / "a.png", quiet=True))
    assert (hit["found"], hit["here"], hit["notes"]) == ("29349-01-26", "1970-01-01 00:00:00.000000", ["x"])
    assert (hit["seen"], hit["days"]) == ([{"at": "1970-01-01 00:00:00.000000"}], {"a": "29349-01-26"})


def test_two_columns_of_one_name_are_told(tmp_path: Path) -> None:
    table = pa.table([pa.array([b"x"]), pa.array([1]), pa.array([2])], names=["image", "price", "price"])
    pq.write_table(table, tmp_path / "set.parquet")
    with pytest.raises(DataError, match=r"have a name each; .* has 'price' twice"):
        read_items([tmp_path / "set.parquet"])


def test_columns_of_results_keep_their_places(tiny: Path, tmp_path: Path) -> None:
    images = [(tmp_path / name).with_suffix(".png") for name in ("a\nb", "c")]
    for row, image in enumerate(images):
        Image.fromarray(read_fashion().read(row)).save(image)
    contents = [image.read_bytes() for image in images]
    pq.write_table(pa.table({"image": contents, "label": [0, 1], "distance": [999, 998]}), tmp_path / "set.parquet")
    build(BuildConfig(checkpoint=tiny, images=[tmp_path / "set.parquet"], out=tmp_path / "index", quiet=True))
    hits = search(SearchConfig(index=tmp_path / "index", image=images[0], quiet=True))
    assert (hits[0]["distance"], hits[0]["user_distance"]) == (0, 999)
    build(BuildConfig(checkpoint=tiny, images=images, out=tmp_path / "named", quiet=True))
    sheet = tmp_path / "sheet.png"  # where a name of two lines is one of one
    search(SearchConfig(index=tmp_path / "named", image=images[0], format="sheet", out=sheet, quiet=True))
    assert sheet.exists()


def test_a_list_in_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("a.png".encode("utf-16-le"))
    with pytest.raises(DataError, match="is text in UTF-8; found NUL"):
        read_items([tmp_path / "list.txt"])
