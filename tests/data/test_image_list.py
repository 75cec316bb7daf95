from __future__ import annotations

from pathlib import Path

import pytest
from pictures import write_picture

from saat.data.image_list import read_image_list
from saat.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write four images, two of them in train and the database both, one of them under `images`."""
    lists = {"train": ("a.png", "b.png"), "test": ("sub/q.png",), "database": ("b.png", "c.png", "a.png")}
    rows = {"a.png": "1 0 1", "b.png": "0 1 0", "c.png": "0 0 0", "sub/q.png": "0 1 1"}
    for seed, name in enumerate(rows):
        write_picture(tmp_path / ("images" if name == "c.png" else "") / name, seed)
    for pool, names in lists.items():
        (tmp_path / f"{pool}_img.txt").write_text("".join(f"{name}\n" for name in names))
        (tmp_path / f"{pool}_label.txt").write_text("".join(f"{rows[name]}\n" for name in names))
    return tmp_path


def test_an_image_in_two_lists_is_one_item(root):
    items = read_image_list(root)
    assert items.item_names == ("a.png", "b.png", "sub/q.png", "c.png")
    assert items.labels.tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert {name: rows.tolist() for name, rows in items.pools.items()} == {
        "train": [0, 1],
        "query": [2],
        "database": [1, 3, 0],
    }
    assert items.class_names == ("class 0", "class 1", "class 2")


def test_paths_may_be_relative_to_images(root):
    items = read_image_list(root)
    assert items.read(3) == (root / "images" / "c.png").read_bytes()
    assert items.read(0) == (root / "a.png").read_bytes()


def test_class_names_windows_line_ends_and_byte_order_marks(root):
    (root / "class_names.txt").write_bytes("\ufeffsky\r\nsea side\r\ntree\r\n\r\n".encode())
    (root / "test_img.txt").write_bytes("\ufeffsub/q.png\r\n".encode())
    items = read_image_list(root)
    assert items.class_names == ("sky", "sea side", "tree")
    assert "sub/q.png" in items.item_names


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train_label.txt", "1 0 1\n0 2 0\n", "train_label.txt holds a row of 0 and 1 .* found '0 2 0' in line 2"),
        ("train_label.txt", "1 0 1\n10 0\n", "found '10 0' in line 2"),
        ("train_label.txt", "1 0 1\n1 0\n", "one width, 3; found 2 in train_label.txt, line 2"),
        ("database_label.txt", "1 0\n1 0\n1 0\n", "one width, 3; found 2 in database_label.txt, line 1"),
        ("train_label.txt", "1 0 1\n", "train_img.txt and train_label.txt .* found 2 images and 1 rows"),
        ("database_label.txt", "0 1 1\n0 0 0\n1 0 1\n", "same labels in each list; b.png in database_label.txt"),
        ("train_img.txt", "a.png\n../b.png\n", "train_img.txt holds a path inside .* found '../b.png' in line 2"),
        ("train_img.txt", "/etc/a.png\nb.png\n", "found '/etc/a.png' in line 1"),
        ("train_img.txt", "a.png\n\nb.png\n", "found '' in line 2"),
        ("train_img.txt", "\n", "train_img.txt holds a line an image; found none"),
        ("class_names.txt", "one\ntwo\n", "a name a class, 3 lines; found 2"),
        ("class_names.txt", "one\ntwo\none\n", "another name for each class; found 'one' twice"),
        ("test_img.txt", "a\0.png\n", "test_img.txt is text in UTF-8; found NUL, as in UTF-16"),
    ],
)
def test_errors_name_file_and_line(root, file, text, message):
    (root / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_image_list(root)


def test_missing_and_undecodable_lists(root):
    (root / "test_img.txt").write_bytes(b"sub/\xff.png\n")
    with pytest.raises(DataError, match=r"test_img.txt is text in UTF-8; found invalid start byte at byte 4"):
        read_image_list(root)
    (root / "test_img.txt").unlink()
    with pytest.raises(DataError, match=r"an image-list folder has test_img.txt; found none in"):
        read_image_list(root)
