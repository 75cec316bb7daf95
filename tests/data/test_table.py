from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, picture

from saat.data.table import read_parquet
from saat.errors import DataError

CONTENTS = [encoded(picture(seed)) for seed in range(6)]


def write_table(path: Path, contents: list[bytes | None], labels: list[Any], *, column: str = "label", plain=False):
    images = [content if plain else {"bytes": content, "path": None} for content in contents]
    kind = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"extra": list(range(len(labels))), "image": pa.array(images, kind), column: labels})
    pq.write_table(table, path, row_group_size=2)


@pytest.mark.parametrize("plain", [False, True])
def test_one_file_is_a_single_pool(tmp_path, plain):
    write_table(tmp_path / "a.parquet", CONTENTS[:3], [0, 2, 1], plain=plain)
    for root in (tmp_path, tmp_path / "a.parquet"):
        items = read_parquet(root)
        assert items.labels.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
        assert items.pools["all"].tolist() == [0, 1, 2]
        assert [items.read(row) for row in (2, 0, 1)] == [CONTENTS[2], CONTENTS[0], CONTENTS[1]]
        assert items.item_names[2] == "a.parquet#2"


def test_names_of_files_fix_the_pools(tmp_path):
    write_table(tmp_path / "train-00000-of-00002.parquet", CONTENTS[:3], [0, 1, 0])
    write_table(tmp_path / "train-00001-of-00002.parquet", CONTENTS[3:5], [1, 0])
    write_table(tmp_path / "test-00000-of-00001.parquet", CONTENTS[5:], [1])
    items = read_parquet(tmp_path)
    assert {name: len(rows) for name, rows in items.pools.items()} == {"train": 5, "query": 1}
    by_pool = [items.read(row) for name in ("train", "query") for row in items.pools[name]]
    assert by_pool == CONTENTS


def test_train_comes_from_the_database_where_no_file_is_train(tmp_path):
    write_table(tmp_path / "database.parquet", CONTENTS[:4], [0, 1, 0, 1])
    write_table(tmp_path / "query.parquet", CONTENTS[4:], [0, 1])
    items = read_parquet(tmp_path)
    assert items.pools["train"].tolist() == items.pools["database"].tolist() == [0, 1, 2, 3]


def test_a_set_from_the_hub_has_its_files_in_data(tmp_path):
    (tmp_path / "data").mkdir()
    write_table(tmp_path / "data" / "train-00000-of-00001.parquet", CONTENTS[:4], [0, 1, 0, 1])
    write_table(tmp_path / "data" / "test-00000-of-00001.parquet", CONTENTS[4:], [1, 0])
    items = read_parquet(tmp_path)
    assert {name: len(rows) for name, rows in items.pools.items()} == {"train": 4, "query": 2}
    assert items.item_names[0] == "data/test-00000-of-00001.parquet#0"
    assert items.read(1) == CONTENTS[5]
    (tmp_path / "data" / "class_names.txt").write_text("no\nyes\n")
    assert read_parquet(tmp_path).class_names == ("no", "yes")
    (tmp_path / "cat").mkdir()  # a folder of classes, one of which is called data
    with pytest.raises(DataError, match="found none at"):
        read_parquet(tmp_path)


def test_labels_are_needed_only_where_they_are_asked_for(tmp_path):
    pq.write_table(pa.table({"image": CONTENTS[:3]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet has columns image and label, .*; found \['image'\]"):
        read_parquet(tmp_path)
    items = read_parquet(tmp_path, labeled=False)
    assert items.labels.sum() == 0
    assert [items.read(row) for row in range(3)] == CONTENTS[:3]


def test_lists_of_labels_and_rows_without(tmp_path):
    write_table(tmp_path / "a.parquet", CONTENTS[:4], [[0, 2], [], None, [1]], column="labels")
    assert read_parquet(tmp_path).labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    write_table(tmp_path / "a.parquet", CONTENTS[:3], [1, -1, None])
    assert read_parquet(tmp_path).labels.tolist() == [[0, 1], [0, 0], [0, 0]]


def test_class_names_fix_the_number_of_classes(tmp_path):
    write_table(tmp_path / "a.parquet", CONTENTS[:2], [0, 1])
    assert read_parquet(tmp_path).class_names == ("class 0", "class 1")
    (tmp_path / "class_names.txt").write_text("cat\ndog\nbird\n")
    items = read_parquet(tmp_path)
    assert items.class_names == ("cat", "dog", "bird")
    assert items.labels.shape == (2, 3)
    (tmp_path / "class_names.txt").write_text("cat\n")
    with pytest.raises(DataError, match="names every class; found 1 for label 1"):
        read_parquet(tmp_path)


def test_only_the_row_groups_wanted_are_read(tmp_path, monkeypatch):
    write_table(tmp_path / "a.parquet", CONTENTS, [0] * 6)
    items = read_parquet(tmp_path)
    read: list[int] = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **rest: (read.append(group), original(self, group, **rest))[1],
    )
    assert [items.read(row) for row in (2, 3, 2)] == [CONTENTS[2], CONTENTS[3], CONTENTS[2]]
    assert read == [1]


def test_a_row_without_bytes_is_named(tmp_path):
    write_table(tmp_path / "a.parquet", [CONTENTS[0], None], [0, 1])
    with pytest.raises(DataError, match="no bytes in this row"):
        read_parquet(tmp_path).read(1)


def test_a_damaged_row_group_is_named(tmp_path):
    write_table(tmp_path / "a.parquet", CONTENTS[:2], [0, 1])
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    start = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(1).data_page_offset
    content[start : start + 60] = b"\xff" * 60
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match="row group 0 is damaged"):
        read_parquet(tmp_path).read(0)


def test_errors(tmp_path):
    with pytest.raises(DataError, match="a Parquet file or a folder of such files; found none at"):
        read_parquet(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"hello")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_parquet(tmp_path)
    pq.write_table(pa.table({"image": CONTENTS[:1], "name": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"has columns image and label, .* found \['image', 'name'\]"):
        read_parquet(tmp_path)
    pq.write_table(pa.table({"image": ["a.jpg"], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column image of a.parquet holds bytes, .* found string"):
        read_parquet(tmp_path)
    pq.write_table(pa.table({"image": [{"path": "a.jpg"}], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column image of a.parquet holds bytes, .* found struct"):
        read_parquet(tmp_path)
    pq.write_table(pa.table({"image": CONTENTS[:1], "label": [0.5]}), tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"column label of a.parquet holds class numbers from 0, or names; found double"
    ):
        read_parquet(tmp_path)
    write_table(tmp_path / "a.parquet", [], pa.array([], pa.int64()))
    with pytest.raises(DataError, match="holds rows; found none"):
        read_parquet(tmp_path)


def test_names_that_do_not_fit_together(tmp_path):
    for name in ("train.parquet", "other.parquet"):
        write_table(tmp_path / name, CONTENTS[:2], [0, 1])
    with pytest.raises(DataError, match=r"or none is; found other.parquet, train.parquet"):
        read_parquet(tmp_path)


def test_labels_may_be_names(tmp_path):
    write_table(tmp_path / "a.parquet", CONTENTS[:4], ["dog", None, "cat", ""])
    items = read_parquet(tmp_path)
    assert (items.class_names, items.labels.tolist()) == (("cat", "dog"), [[0, 1], [0, 0], [1, 0], [0, 0]])
    write_table(tmp_path / "b.parquet", CONTENTS[:1], [3])
    with pytest.raises(DataError, match="are numbers of classes in all files, or names in all; found both"):
        read_parquet(tmp_path)


def test_numbers_that_are_no_classes_do_not_fill_the_memory(tmp_path):
    write_table(tmp_path / "a.parquet", CONTENTS[:3], [5, 10**9, -1])
    items = read_parquet(tmp_path, labeled=False)
    assert (items.class_names, items.labels.tolist()) == (("class 5", "class 1000000000"), [[1, 0], [0, 1], [0, 0]])
    with pytest.raises(DataError, match="are class numbers from 0 to 99999; found 1000000000"):
        read_parquet(tmp_path)
