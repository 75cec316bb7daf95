"""The image-list layout of the deep-hashing papers: `{train,test,database}_img.txt` and `_label.txt`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saat.data.collection import Collection
from saat.errors import DataError, check_folder

POOLS = {"train": "train", "test": "query", "database": "database"}
IMAGE_SIZE = 224


def read_image_list(root: Path) -> Collection:
    """Read the three lists in `root`: one path a line, relative to `root` or `root/images`; one row of 0 and 1 a line.

    An image in two lists, as train images in the database, is one item. `class_names.txt`, a name a line, is optional.

    Raises:
        DataError: a file is missing, or a line breaks the layout; it names the file and the line.
    """
    check_folder("data.root", root)
    row_of: dict[str, int] = {}
    labels: list[str] = []
    pools: dict[str, NDArray[np.int64]] = {}
    for prefix, pool in POOLS.items():
        names = _read_names(root, f"{prefix}_img.txt")
        rows = _read_labels(root / f"{prefix}_label.txt", len(labels[0]) if labels else 0)
        if len(names) != len(rows):
            found = f"{len(names)} images and {len(rows)} rows of labels"
            raise DataError(f"{prefix}_img.txt and {prefix}_label.txt have as many lines; found {found} in {root}")
        for name, row in zip(names, rows, strict=True):
            if name not in row_of:
                row_of[name] = len(labels)
                labels.append(row)
            elif labels[row_of[name]] != row:
                raise DataError(f"an image has the same labels in each list; {name} in {prefix}_label.txt has not")
        pools[pool] = np.array([row_of[name] for name in names], dtype=np.int64)
    item_names, count = tuple(row_of), len(labels[0])
    class_names = read_class_names(root) or tuple(map(numbered_class, range(count)))
    if len(class_names) != count:
        raise DataError(f"class_names.txt has a name a class, {count} lines; found {len(class_names)} in {root}")

    def read(row: int) -> bytes:
        path = root / item_names[row]
        return (path if path.is_file() else root / "images" / item_names[row]).read_bytes()

    return Collection(
        item_names=item_names,
        labels=np.frombuffer("".join(labels).encode(), dtype=np.uint8).reshape(-1, count) - ord("0"),
        class_names=class_names,
        pools=pools,
        read=read,
        image_size=IMAGE_SIZE,
    )


def read_class_names(root: Path) -> tuple[str, ...]:
    """Return the lines of `class_names.txt`, none where there is no such file.

    Raises:
        DataError: it is no text in UTF-8, or two classes have one name.
    """
    if not (root / "class_names.txt").is_file():
        return ()
    names = tuple(line.strip() for line in _read_lines(root / "class_names.txt") if line.strip())
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"class_names.txt has another name for each class; found {twice!r} twice in {root}")
    return names


def numbered_class(number: int) -> str:
    """Return the name of a class that nobody named."""
    return f"class {number}"


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text file, without those that end it.

    Raises:
        DataError: it is no text in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is text in UTF-8; found {error.reason} at byte {error.start}") from error
    if "\0" in text:
        raise DataError(f"{path} is text in UTF-8; found NUL, as in UTF-16")
    return text.rstrip().split("\n")  # not splitlines, which splits at characters that names may hold


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"an image-list folder has {path.name}; found none in {path.parent}")
    lines = text_lines(path)
    if lines == [""]:
        raise DataError(f"{path.name} holds a line an image; found none in {path.parent}")
    return lines


def _read_names(root: Path, file_name: str) -> list[str]:
    names = []
    for number, line in enumerate(_read_lines(root / file_name), 1):
        path = Path(line.strip())
        if not line.strip() or path.is_absolute() or ".." in path.parts:
            raise DataError(f"{file_name} holds a path inside its folder on each line; found {line!r} in line {number}")
        names.append(path.as_posix())
    return names


def _read_labels(path: Path, width: int) -> list[str]:
    """Return the rows as strings of 0 and 1, each as long as `width`, or as the first where that is 0."""
    rows: list[str] = []
    for number, line in enumerate(_read_lines(path), 1):
        values = line.split()
        if not values or not set(values) <= {"0", "1"}:
            raise DataError(f"{path.name} holds a row of 0 and 1 on each line; found {line[:40]!r} in line {number}")
        width = width or len(values)
        if len(values) != width:
            raise DataError(
                f"rows of labels have one width, {width}; found {len(values)} in {path.name}, line {number}"
            )
        rows.append("".join(values))
    return rows
