"""The items of an index block by block, so that they need not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saat.index.content import IndexContent, ModelKey
from saat.index.files import opened_for_arrow
from saat.index.storage import Manifest, read_files

BUFFER = 1 << 20  # bytes of a column that are read at a time, and not all of a group of up to a million rows


class Blocks(Protocol):
    """The items of an index; an `IndexContent` has them in memory."""

    @property
    def model(self) -> ModelKey:
        """Whose codes these are."""
        ...

    @property
    def next_id(self) -> int:
        """Above every id that was ever given."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the metadata."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def blocks(self, size: int) -> Iterator[IndexContent]:
        """Yield the items by their order, at most `size` at a time."""
        ...


@dataclass(frozen=True)
class StoredBlocks:
    """The items of a folder in the state that it had when it was opened, whatever is written to it meanwhile.

    Args:
        manifest: of that state.
        packed: uint8 (N, K/8), on the disk.
        ids: int64 (N,), ascending, on the disk.
        metadata: a row an item.
    """

    manifest: Manifest
    packed: NDArray[np.uint8]
    ids: NDArray[np.int64]
    metadata: pq.ParquetFile

    @property
    def model(self) -> ModelKey:
        """Whose codes these are."""
        return self.manifest.model

    @property
    def next_id(self) -> int:
        """Above every id that was ever given."""
        return self.manifest.next_id

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the metadata."""
        return self.metadata.schema_arrow

    def __len__(self) -> int:
        return len(self.ids)

    def blocks(self, size: int) -> Iterator[IndexContent]:
        """Yield the items by their order, at most `size` at a time."""
        start = 0
        for rows in self.metadata.iter_batches(size):
            here = slice(start, start + len(rows))
            table = pa.Table.from_batches([rows])
            yield IndexContent(self.packed[here], self.ids[here], table, self.next_id, self.model)
            start = here.stop


def open_blocks(folder: Path) -> StoredBlocks:
    """Open an index, every byte checked.

    Raises:
        DataError: there is none, or a file is missing or damaged; it is named.
    """

    def opened(manifest: Manifest, paths: Mapping[str, Path]) -> StoredBlocks:
        codes, ids = (np.load(paths[name], mmap_mode="r", allow_pickle=False) for name in ("codes", "ids"))
        metadata = pq.ParquetFile(opened_for_arrow(paths["metadata"]), buffer_size=BUFFER, pre_buffer=False)
        return StoredBlocks(manifest, codes, ids, metadata)

    return read_files(folder, opened)
