"""What an index is built from: image files, folders, lists and Parquet sets, with names and metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saat.data.collection import Collection, Content
from saat.data.folder import SUFFIXES, images_below
from saat.data.image_list import read_image_list, text_lines
from saat.data.table import open_parquet, parquet_files, read_parquet
from saat.errors import ArgumentError, DataError
from saat.index.address import is_address
from saat.index.content import SEPARATOR, without_views
from saat.index.uploads import place_now

LIST_FILE = "database_img.txt"
OF_SET = ("image", "label", "labels")  # columns of a Parquet set that are no metadata of the user's
OURS = ("id", "path", "rank", "distance")  # of the index and of its results; the user's columns are renamed
FILES_KEPT = 4  # Parquet files that stay open, each with a row group, for the pictures of items
Reader = Callable[[], Content]


@dataclass(frozen=True)
class Items:
    """Images not yet decoded.

    Args:
        columns: a row an item: `path`, `label` where an item has one, and the user's columns.
        identities: a hash an item, of its path and of its file's size and time of change.
        readers: a reader an item.
    """

    columns: pa.Table
    identities: tuple[str, ...]
    readers: tuple[Reader, ...]

    def __len__(self) -> int:
        return len(self.readers)

    @property
    def paths(self) -> list[str]:
        """The column `path`."""
        paths: list[str] = self.columns.column("path").to_pylist()
        return paths

    def take(self, rows: Sequence[int]) -> Items:
        """Return the items of `rows`, which ascend."""
        return Items(
            _taken(self.columns, rows),
            tuple(self.identities[row] for row in rows),
            tuple(self.readers[row] for row in rows),
        )

    def collection(self) -> Collection:
        """Return the items as decoders take them; their labels are metadata here, and no classes."""
        return Collection(
            item_names=tuple(self.paths),
            labels=np.zeros((len(self), 0), np.uint8),
            class_names=(),
            pools={"all": np.arange(len(self))},
            read=lambda row: self.readers[row](),
            image_size=0,
        )


def read_items(sources: Sequence[Path]) -> Items:
    """List the images of some sources; one that is in two of them is one item.

    Args:
        sources: an image file; a folder, whose images at any depth count, labeled by the first subfolder; a `.txt` file
            of paths; a folder of image lists as in the papers; a Parquet file or a folder of them. Of the last two, the
            images of the database, where the set names one.

    Raises:
        ArgumentError: there is no source, or columns of the same name have different types.
        DataError: a source cannot be read, or there is no image.
    """
    parts = [_read_source(_absolute(path)) for path in sources]
    if not parts or not sum(map(len, parts)):
        raise DataError(
            f"`images` holds images ({', '.join(sorted(SUFFIXES))}) or .parquet files; "
            f"found none in {list(map(str, sources))}"
        )
    try:
        columns = pa.concat_tables([part.columns for part in parts], promote_options="default").combine_chunks()
    except pa.ArrowException as error:
        raise ArgumentError(f"`images` have columns of one type under one name: {error}") from error
    identities = tuple(identity for part in parts for identity in part.identities)
    items = Items(columns, identities, tuple(reader for part in parts for reader in part.readers))
    first = {path: row for row, path in reversed(list(enumerate(items.paths)))}
    return items if len(first) == len(items) else items.take(sorted(first.values()))


def read_item(path: str) -> Content:
    """Return the content of an item by its column `path`.

    Raises:
        DataError: it cannot be read.
        OSError: as `DataError`.
    """
    file, row = _file_and_row(path)
    return file.read_bytes() if row is None else _opened(file, _stamp(file))(row)


def item_reader(index: str | Path) -> Callable[[str], Content]:
    """Return how to read the images of an index, a folder or an address, by the column `path`; see `read_item`."""
    return read_item if is_address(index) else lambda path: read_item(place_now(Path(index), path))


@lru_cache(FILES_KEPT)
def _opened(file: Path, _: str) -> Callable[[int], bytes]:
    """Return the reader of a Parquet file in a state of it; opening it anew for each picture takes long."""
    return open_parquet(file)


def _file_and_row(path: str) -> tuple[Path, int | None]:
    """Return the file of an item, and its row where that file is a Parquet file.

    >>> _file_and_row("a.parquet#7"), _file_and_row("b#7.png")
    ((PosixPath('a.parquet'), 7), (PosixPath('b#7.png'), None))
    """
    name, _, row = path.rpartition("#")
    return (Path(name), int(row)) if name.endswith(".parquet") and row.isdigit() else (Path(path), None)


def _absolute(path: Path) -> Path:
    """Return one path for one file, however it is reached by `..`; links on the way keep their names elsewhere."""
    return path.resolve() if ".." in path.parts else path.absolute()


def _read_source(path: Path) -> Items:
    if path.is_dir() and (path / LIST_FILE).is_file():
        return _from_collection(read_image_list(path), path)
    if path.is_dir():
        images = _images_in(path)
        if images and parquet_files(path):
            rule = "a folder of images or of Parquet files; give one kind of them by name"
            raise DataError(f"`images` has {rule}; found both in {path}, such as {images[0][0].name}")
        return _from_parquet(path) if parquet_files(path) else _from_folder(images)
    if parquet_files(path):
        return _from_parquet(path)
    if path.is_file() and path.suffix == ".txt":
        return _from_files([_absolute(path.parent / line.strip()) for line in text_lines(path) if line.strip()])
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return _from_files([path])
    found = "a file of another kind" if path.exists() else "nothing"
    raise DataError(f"`images` is an image, a folder, a .txt list or a Parquet set; found {found} at {path}")


def _from_files(paths: Sequence[Path], labels: Sequence[str | None] = ()) -> Items:
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise DataError(f"`images` have names in UTF-8, as an index keeps them; found {str(path)!r}") from None
    columns = {"path": pa.array([str(path) for path in paths], pa.string())}
    if any(labels):
        columns["label"] = pa.array(labels, pa.string())
    identities = tuple(_identity(str(path), _stamp(path)) for path in paths)
    return Items(pa.table(columns), identities, tuple(path.read_bytes for path in paths))


def _from_folder(images: Sequence[tuple[Path, str | None]]) -> Items:
    return _from_files([path for path, _ in images], [label for _, label in images])


def _images_in(root: Path) -> list[tuple[Path, str | None]]:
    """Return the images below `root`, each with its first subfolder."""
    found: list[tuple[Path, str | None]] = []
    for path in images_below(root):
        inside = path.relative_to(root).parts
        found.append((path, inside[0] if len(inside) > 1 else None))
    return found


def _from_parquet(path: Path) -> Items:
    collection = read_parquet(path, labeled=False)
    files = parquet_files(path)
    names = {file: [name for name in pq.read_schema(file).names if name not in OF_SET] for file in files}
    for file, given in names.items():
        if len(given) > len(set(given)):
            twice = next(name for name in given if given.count(name) > 1)
            raise DataError(f"columns of a Parquet set have a name each; {file} has {twice!r} twice")
    renamed = _renamed({name for given in names.values() for name in given})
    tables = [
        without_views(pq.read_table(file, columns=given)).rename_columns([renamed.get(name, name) for name in given])
        for file, given in names.items()
    ]
    if not any(table.column_names for table in tables):  # such ones have no rows when they are joined
        return _from_collection(collection, path if path.is_dir() else path.parent)
    try:
        columns = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise DataError(f"the files of {path} have columns of one type under one name: {error}") from error
    return _from_collection(collection, path if path.is_dir() else path.parent, columns)


def _renamed(names: set[str]) -> dict[str, str]:
    """Return the first free name for each of the user's columns that has a name of ours.

    >>> _renamed({"id", "user_id", "path", "price"})
    {'id': 'user_id_2', 'path': 'user_path'}
    """
    return {name: _free(f"user_{name}", names) for name in OURS if name in names}


def _free(name: str, names: set[str]) -> str:
    """Return `name`, or the first of `name_2`, `name_3`, ... that is not in `names`."""
    return next(free for free in chain([name], (f"{name}_{number}" for number in count(2))) if free not in names)


def _from_collection(collection: Collection, root: Path, columns: pa.Table | None = None) -> Items:
    rows = collection.pools.get("database", np.arange(len(collection.item_names))).tolist()
    paths = [_place(root, collection.item_names[row]) for row in rows]
    labels = [SEPARATOR.join(_names(collection, row)) or None for row in rows]
    table = pa.table({"path": pa.array(paths, pa.string())})
    if any(labels):
        table = table.append_column("label", pa.array(labels, pa.string()))
    if columns is not None:
        taken = _taken(columns, rows)
        for name in taken.column_names:
            table = table.append_column(name, taken.column(name))
    files = [_file_and_row(path)[0] for path in paths]
    stamps = {file: _stamp(file) for file in set(files)}  # once a file: every row of a Parquet file asks
    identities = tuple(_identity(path, stamps[file]) for path, file in zip(paths, files, strict=True))
    return Items(table, identities, tuple(partial(collection.read, row) for row in rows))


def _taken(columns: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Return some rows of a table, which ascend."""
    # `take` would first join the chunks of a column, and it fails where that is more than 2 GiB.
    kept = np.zeros(columns.num_rows, np.bool_)
    kept[list(rows)] = True
    return columns.filter(pa.array(kept))


def _place(root: Path, name: str) -> str:
    """Return the path of a named item of a set, whose images may lie in its folder `images`."""
    inside = root / "images" / name
    return str(inside if inside.is_file() and not (root / name).is_file() else root / name)


def _names(collection: Collection, row: int) -> list[str]:
    return [collection.class_names[place] for place in np.flatnonzero(collection.labels[row])]


def _identity(path: str, stamp: str) -> str:
    return hashlib.sha256(f"{path}\n{stamp}".encode()).hexdigest()[:32]


def _stamp(file: Path) -> str:
    try:
        stat = file.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size} {stat.st_mtime_ns}"
