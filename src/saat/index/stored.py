"""What a server holds of an index, as values: its manifest, its items, an excerpt of them, and the nearest ones."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from saat.errors import DataError
from saat.index.address import Address
from saat.index.content import IndexContent, ModelKey
from saat.index.rows import Row, item_digest

FORMAT = 1
Nearest = tuple[NDArray[np.int32], NDArray[np.int64]]  # distances and ids


@dataclass(frozen=True)
class RemoteManifest:
    """What an index on a server says of itself.

    Args:
        model: whose codes these are.
        identity: of the folder that was pushed; tells it from other folders.
        created: when that folder was made.
        next_id: above every id that was ever given.
        schema: of the metadata, `id` first.
        complete: whether the last push came to its end.
    """

    model: ModelKey
    identity: str
    created: str
    next_id: int
    schema: pa.Schema
    complete: bool

    def text(self) -> str:
        """Return the manifest as JSON."""
        kept = {name: getattr(self, name) for name in ("identity", "created", "next_id", "complete")}
        schema = base64.b64encode(self.schema.serialize()).decode()
        return json.dumps({"format": FORMAT, "model": asdict(self.model), "schema": schema} | kept)

    @classmethod
    def read(cls, text: str, address: Address) -> RemoteManifest:
        """Read what `text` wrote.

        Raises:
            DataError: it is damaged, or of a later format.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise DataError(f"{address} has the format of a later saat")
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(values.pop("schema"))))
            return cls(model=ModelKey(**values.pop("model")), schema=schema, **values)
        except (ValueError, TypeError, KeyError, AttributeError, pa.ArrowException) as error:
            raise DataError(f"{address} is damaged: {error}") from error


@dataclass(frozen=True)
class Stored:
    """One item as a server keeps it.

    Args:
        id: of the item.
        code: K/8 bytes, packed.
        row: its metadata, see `saat.index.rows`.
    """

    id: int
    code: bytes
    row: Row

    @cached_property
    def digest(self) -> str:
        """What tells it from another state of itself."""
        return item_digest(self.code, self.row)


@dataclass(frozen=True)
class Excerpt(IndexContent):
    """Some items of an index on a server; its length is that of the whole.

    Args:
        total: items on the server, when the excerpt was taken.
    """

    total: int

    def __len__(self) -> int:
        return self.total


def in_order(distances: ArrayLike, ids: ArrayLike) -> Nearest:
    """Return distances and ids by distance, then by id.

    >>> in_order([2, 1, 1], [0, 9, 4])
    (array([1, 1, 2], dtype=int32), array([4, 9, 0]))
    """
    far, named = np.asarray(distances, np.int32), np.asarray(ids, np.int64)
    order = np.lexsort((named, far))
    return far[order], named[order]
