"""Parquet: a column `image` (struct with `bytes`, or binary) and `label`, a class by number or name, or `labels`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saat.data.collection import Collection
from saat.data.image_list import numbered_class, read_class_names
from saat.errors import DataError

POOLS = {"train": "train", "test": "query", "query": "query", "validation": "query", "database": "database"}
IMAGE_SIZE = 32
MOST_CLASSES = 100_000  # by number; more are ids of another kind, and a column each would fill the memory
ROW_GROUPS_KEPT = 4  # rows are decoded in ascending order, so few row groups are in use at a time


def parquet_files(root: Path) -> list[Path]:
    """Return `root` itself, or the `*.parquet` in that folder, or, as a set from the hub has them, in its `data`.

    Where there are other folders beside `data`, it is a class of images, and holds none.
    """
    if root.is_dir():
        folders = [path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        return sorted(root.glob("*.parquet")) or (sorted(root.glob("data/*.parquet")) if folders == ["data"] else [])
    return [root] if root.suffix == ".parquet" else []


Label = int | str


def read_parquet(root: Path, *, labeled: bool = True) -> Collection:
    """Read the files of `parquet_files`; of the images, only the row groups that are wanted.

    Files named `train-...`, `test-...` and `database-...` are those pools; without `train-`, train images come from the
    database. Files of one kind make a single pool. Labels are numbers or names of classes; one that is null, negative
    or empty is none, as on the hub.

    Args:
        root: a folder or a file.
        labeled: whether there must be a column of labels, whose numbers count from 0. Without, there are only the
            classes that some image has.

    Raises:
        DataError: there is no such file, it is damaged, or a column is missing or of another type.
    """
    paths = parquet_files(root) or [root]
    if not paths[0].is_file():
        raise DataError(f"`data.root` is a Parquet file or a folder of such files; found none at {root}")
    try:
        tables = [pq.ParquetFile(path) for path in paths]
        label_lists = [_labels_of(table, path, labeled=labeled) for table, path in zip(tables, paths, strict=True)]
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{root} cannot be read as Parquet: {error}") from error
    read = _image_reader(tables, kept=ROW_GROUPS_KEPT)
    return _collect(root if root.is_dir() else root.parent, paths, label_lists, read, labeled=labeled)


def open_parquet(path: Path) -> Callable[[int], bytes]:
    """Return a reader of the images of one file: row -> image file. Labels and what else the file has are not read.

    Raises:
        DataError: there is no such file, or it is damaged; the reader raises it too, where there is no image in a row.
    """
    try:
        return _image_reader([pq.ParquetFile(path)], kept=1)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _image_reader(tables: Sequence[Any], *, kept: int) -> Callable[[int], bytes]:
    """Return a reader of the images of some files, one after another, that keeps the last row groups."""
    groups = [(table, group) for table in tables for group in range(table.num_row_groups)]
    ends = np.cumsum([table.metadata.row_group(group).num_rows for table, group in groups])
    lock = Lock()

    @lru_cache(kept)
    def images_of(place: int) -> Any:
        table, group = groups[place]
        try:
            column = table.read_row_group(group, columns=["image"]).column("image").combine_chunks()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DataError(f"row group {group} is damaged: {error}") from error
        return column.field("bytes") if pa.types.is_struct(column.type) else column

    def read(row: int) -> bytes:
        place = int(np.searchsorted(ends, row, side="right"))
        if place == len(groups):
            raise DataError(f"no row {row}")
        with lock:
            content = images_of(place)[row - int(ends[place - 1] if place else 0)].as_py()
        if content is None:
            raise DataError("no bytes in this row")
        return bytes(content)

    return read


def _labels_of(table: Any, path: Path, *, labeled: bool) -> list[list[Label]]:
    names = set(table.schema_arrow.names)
    column = next((name for name in ("label", "labels") if name in names), None)
    if "image" not in names or (labeled and column is None):
        raise DataError(f"{path.name} has columns image and label, or labels (a list); found {sorted(names)}")
    image_type = table.schema_arrow.field("image").type
    if pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0:
        image_type = image_type.field("bytes").type
    if not (pa.types.is_binary(image_type) or pa.types.is_large_binary(image_type)):
        raise DataError(f"column image of {path.name} holds bytes, or a struct with bytes; found {image_type}")
    if column is None:
        return [[] for _ in range(table.metadata.num_rows)]
    label_type = table.schema_arrow.field(column).type
    is_list = pa.types.is_list(label_type) or pa.types.is_large_list(label_type)
    kind = label_type.value_type if is_list else label_type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"column {column} of {path.name} holds class numbers from 0, or names; found {label_type}")
    values = table.read(columns=[column]).column(column).to_pylist()
    rows = [(value or []) if is_list else [value] for value in values]
    return [[label for label in row if label is not None and _is_class(label)] for row in rows]


def _is_class(label: Label) -> bool:
    return label != "" if isinstance(label, str) else label >= 0


def _classes(used: set[Label], folder: Path, given: tuple[str, ...], *, labeled: bool) -> dict[Label, str]:
    """Return the name of each class, in order: of all numbers up to the largest, or without `labeled` of those used."""
    numbers = [label for label in used if isinstance(label, int)]
    if len(numbers) < len(used):
        if numbers:
            raise DataError(f"labels of {folder} are numbers of classes in all files, or names in all; found both")
        return {name: name for name in sorted(map(str, used))}
    largest = max(numbers, default=0)
    if given and largest >= len(given):
        raise DataError(f"class_names.txt in {folder} names every class; found {len(given)} for label {largest}")
    if labeled and largest >= MOST_CLASSES:
        raise DataError(f"labels of {folder} are class numbers from 0 to {MOST_CLASSES - 1}; found {largest}")
    wanted = range(len(given) or largest + 1) if labeled else sorted(numbers)
    return {number: given[number] if given else numbered_class(number) for number in wanted}


def _collect(
    folder: Path, paths: list[Path], label_lists: list[list[list[Label]]], read: Any, *, labeled: bool
) -> Collection:
    flat = [classes for part in label_lists for classes in part]
    if not flat:
        raise DataError(f"`data.root` holds rows; found none in {folder}")
    given = read_class_names(folder) or read_class_names(paths[0].parent)
    classes = _classes({label for row in flat for label in row}, folder, given, labeled=labeled)
    column_of = {label: column for column, label in enumerate(classes)}
    labels = np.zeros((len(flat), len(classes)), dtype=np.uint8)
    for row, own in enumerate(flat):
        labels[row, [column_of[label] for label in own]] = 1
    starts = np.cumsum([0] + [len(part) for part in label_lists])
    parts: dict[str, list[Any]] = {}
    for number, path in enumerate(paths):
        pool = POOLS.get(path.stem.split("-")[0].split("_")[0], "all")
        parts.setdefault(pool, []).append(np.arange(starts[number], starts[number + 1]))
    if len(parts) == 1:
        parts = {"all": [np.arange(len(flat))]}
    elif "all" in parts or "query" not in parts:
        found = ", ".join(path.name for path in paths[:8])
        raise DataError(
            f"either all files are named train-, test- or database-, with a test-, or none is; found {found}"
        )
    else:
        parts.setdefault("train", parts.get("database", []))
    places = [path.relative_to(folder).as_posix() for path in paths]
    names = [f"{place}#{row}" for place, part in zip(places, label_lists, strict=True) for row in range(len(part))]
    return Collection(
        item_names=tuple(names),
        labels=labels,
        class_names=tuple(classes.values()),
        pools={pool: np.concatenate(rows) for pool, rows in parts.items()},
        read=read,
        image_size=IMAGE_SIZE,
    )
