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
    """Read the three lists in `root`: one path a line, relative to `root`; one row of 0 and 1 a line.

    An image in two lists, as train images in the database, is one item. `class_names.txt`, a name a line, is optional.

    Raises:
        DataError: a file is missing, or a line breaks the layout; it names the file and the line.
    """
    check_folder("data.root", root)
    row_of: dict[str, int] = {}
    labels: list[NDArray[np.uint8]] = []
    pools: dict[str, NDArray[np.int64]] = {}
    for prefix, pool in POOLS.items():
        names, rows = _read_names(root, f"{prefix}_img.txt"), _read_labels(root / f"{prefix}_label.txt")
        if len(names) != len(rows):
            found = f"{len(names)} images and {len(rows)} rows of labels"
            raise DataError(f"{prefix}_img.txt and {prefix}_label.txt have as many lines; found {found} in {root}")
        for name, row in zip(names, rows, strict=True):
            if name not in row_of:
                row_of[name] = len(labels)
                labels.append(row)
            elif not np.array_equal(labels[row_of[name]], row):
                raise DataError(f"an image has the same labels in each list; {name} in {prefix}_label.txt has not")
        pools[pool] = np.array([row_of[name] for name in names], dtype=np.int64)
    item_names = tuple(row_of)
    widths = {len(row) for row in labels}
    if len(widths) != 1:
        raise DataError(f"all rows of labels have one width; found {sorted(widths)} in {root}")
    return Collection(
        item_names=item_names,
        labels=np.stack(labels),
        class_names=read_class_names(root, widths.pop()),
        pools=pools,
        read=lambda row: (root / item_names[row]).read_bytes(),
        image_size=IMAGE_SIZE,
    )


def read_class_names(root: Path, count: int) -> tuple[str, ...]:
    """Return the lines of `class_names.txt`, or `class 0`, `class 1`, ... where there is no such file.

    Raises:
        DataError: the file does not have `count` lines.
    """
    path = root / "class_names.txt"
    if not path.is_file():
        return tuple(f"class {number}" for number in range(count))
    names = tuple(path.read_text(encoding="utf-8").split("\n"))
    names = tuple(name.strip() for name in names if name.strip())
    if len(names) != count:
        raise DataError(f"{path} has a name a class, {count} lines; found {len(names)}")
    return names


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"an image-list folder has {path.name}; found none in {path.parent}")
    return path.read_text(encoding="utf-8").splitlines()


def _read_names(root: Path, file_name: str) -> list[str]:
    names = []
    for number, line in enumerate(_read_lines(root / file_name), 1):
        path = Path(line.strip())
        if not line.strip() or path.is_absolute() or ".." in path.parts:
            raise DataError(f"{file_name} holds a path inside its folder on each line; found {line!r} in line {number}")
        names.append(path.as_posix())
    return names


def _read_labels(path: Path) -> list[NDArray[np.uint8]]:
    rows = []
    for number, line in enumerate(_read_lines(path), 1):
        values = line.split()
        if not values or not set(values) <= {"0", "1"}:
            raise DataError(f"{path.name} holds a row of 0 and 1 on each line; found {line[:40]!r} in line {number}")
        rows.append(np.array(values, dtype=np.uint8))
    return rows
