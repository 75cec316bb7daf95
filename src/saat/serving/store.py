"""Items added and removed while the service runs; on the disk before they are acknowledged."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from saat.data.collection import Content
from saat.data.decoding import FORMATS
from saat.errors import DataError
from saat.index.content import IndexContent
from saat.index.files import sync_folder
from saat.index.lock import locked
from saat.index.storage import State, read_index, read_manifest, read_state, update_index
from saat.index.uploads import UPLOADS, sweep_uploads
from saat.runtime import atomic_write
from saat.serving.engine import SearchEngine
from saat.serving.hits import Item

log = logging.getLogger(__name__)
ENDINGS = {"MPO": "jpeg", "JPEG2000": "jp2"}  # where a format is not what `saat index build` takes as a suffix


class Store:
    """The folder of an index, with the engine that searches it. One writer at a time.

    Uploads whose addition was killed before the index had them are removed.

    Args:
        folder: of the index.
        engine: gets every change.
        encode: image file -> packed code (1, K/8), by the model of the database.
        known: the state that `engine` was made of, of `read_state`; the folder is not read again while it has that.
    """

    def __init__(
        self,
        folder: Path,
        engine: SearchEngine,
        *,
        encode: Callable[[Content], NDArray[np.uint8]],
        known: State,
    ) -> None:
        self._folder, self._engine, self._encode = folder, engine, encode
        self._uploads = folder.absolute() / UPLOADS
        self._lock = threading.Lock()
        self._known = known  # then what this store wrote last
        if self._uploads.is_dir():
            try:
                with locked(folder):
                    sweep_uploads(folder, read_state(folder, known=known)[1].metadata)
            except OSError as error:  # such as a folder that only others may change: it can be searched
                log.warning("uploads without an item stay in %s: %s", self._uploads, error)

    def add(self, content: bytes, *, label: str | None) -> tuple[Item, bool]:
        """Add an image; return its item, and whether it is new. An image that was sent before is the same item.

        Raises:
            DataError: the content is damaged, too large, or no image.
            ArgumentError: the index has labels of another kind.
            RuntimeError, OSError: the index on the disk cannot be read, or not be written.
        """
        packed = self._encode(content)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            kind = str(image.format)
        path = self._uploads / f"{hashlib.sha256(content).hexdigest()}.{ENDINGS.get(kind, kind.lower())}"
        columns = {"path": pa.array([str(path)], pa.string())}
        if label is not None:
            columns["label"] = pa.array([label], pa.string())
        with self._lock:
            known = _id_of(self._engine.content, path)
            if known is not None and self._is_present():
                return self._engine.item(known), False
            is_new = True

            def change(old: IndexContent) -> IndexContent:
                nonlocal is_new
                is_new = _id_of(old, path) is None
                if not is_new:
                    return old
                new = old.added(packed, pa.table(columns), model=self._engine.content.model)
                with atomic_write(path) as file:  # here, where the index is sound and takes the item
                    file.write(content)
                sync_folder(self._uploads)  # before the index names it
                return new

            try:
                new = self._write(change)
            except Exception:
                if not self._names(path):  # else each retry would leave another image that nobody finds
                    path.unlink(missing_ok=True)
                raise
            number = _id_of(new, path)
            assert number is not None
            return self._engine.item(number), is_new

    def remove(self, number: int) -> None:
        """Remove an item, and its image if a client had sent it.

        Raises:
            KeyError: there is no item of this id.
            RuntimeError, OSError: as `add`.
        """
        with self._lock:
            self._engine.path(number)
            self._write(lambda old: old.without(np.array([number], np.int64)))

    def _is_present(self) -> bool:
        """Return whether what is searched is what the disk has: another command may have removed items."""
        try:
            return read_manifest(self._folder) == self._known[0]
        except DataError:  # told by the write that follows
            return False

    def _names(self, path: Path) -> bool:
        """Return whether the index on the disk names an image, or may: a write can fail when its state is there."""
        try:
            return _id_of(read_index(self._folder), path) is not None
        except (DataError, OSError):
            return True

    def _write(self, change: Callable[[IndexContent], IndexContent]) -> IndexContent:
        """Change the index on the disk, then what is searched."""
        written: list[IndexContent] = []

        def remembered(old: IndexContent) -> IndexContent:
            if old.model.weights != self._engine.content.model.weights:
                raise DataError(f"{self._folder} holds an index of another model now")
            written.append(change(old))
            return written[-1]

        try:
            manifest = update_index(self._folder, remembered, known=self._known)
        except DataError as error:  # no fault of the client, who is not to see where the index lies
            raise RuntimeError("the index on the disk cannot be changed") from error
        self._known = manifest, written[-1]
        self._engine.replace(written[-1])
        pa.default_memory_pool().release_unused()  # else Arrow keeps the pages of the states before this one
        return written[-1]


def _id_of(content: IndexContent, upload: Path) -> int | None:
    """Return the id of the item of an upload, known by its name: the folder may have moved since it was sent."""
    if "path" not in content.metadata.column_names:
        return None
    place = pc.index(pc.ends_with(content.metadata.column("path"), upload.name), True).as_py()
    return None if place < 0 else int(content.ids[place])
