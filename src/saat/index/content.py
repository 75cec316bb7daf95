"""What an index holds, as a value: codes, ids, metadata, and the model they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from saat.errors import ArgumentError
from saat.index.base import check_ids, check_packed

SEPARATOR = ", "  # between the labels of an item, which are one text in its column `label`


@dataclass(frozen=True)
class ModelKey:
    """The model whose codes these are.

    Args:
        weights: checksum of its weights.
        code_length: K, in bits.
        checkpoint: folder it was loaded from; it may have moved since, and does not count in comparisons.
    """

    weights: str
    code_length: int
    checkpoint: str = ""

    def check(self, other: ModelKey) -> None:
        """Raise unless `other` is the same model.

        Raises:
            ArgumentError: the code length or the weights differ.
        """
        if other.code_length != self.code_length:
            raise ArgumentError(
                f"an index takes codes of one length, here {self.code_length} bits; got {other.code_length}"
            )
        if other.weights != self.weights:
            raise ArgumentError(
                f"an index takes codes of one model, here {self.weights} from {self.checkpoint or 'memory'}; "
                f"got {other.weights} from {other.checkpoint or 'memory'}"
            )


@dataclass(frozen=True)
class IndexContent:
    """The items of an index. `added` and `without` give a new value and leave this one as it is.

    Args:
        packed: uint8 (N, K/8).
        ids: int64 (N,), ascending.
        metadata: a row an item, its column `id` equal to `ids`.
        next_id: above every id that was ever given.
        model: whose codes these are.

    Raises:
        TypeError: `packed` is not uint8, or `ids` not int64.
        ArgumentError: the parts do not fit each other.
    """

    packed: NDArray[np.uint8]
    ids: NDArray[np.int64]
    metadata: pa.Table
    next_id: int
    model: ModelKey

    def __post_init__(self) -> None:
        check_packed(self.packed, self.model.code_length)
        check_ids(self.ids)
        if not len(self.packed) == len(self.ids) == self.metadata.num_rows:
            counts = f"{len(self.packed)}, {len(self.ids)} and {self.metadata.num_rows}"
            raise ArgumentError(f"an index has a code, an id and a row of metadata for each item; got {counts}")
        if np.any(self.ids[1:] <= self.ids[:-1]) or np.any(self.ids[-1:] >= self.next_id):
            raise ArgumentError(f"`ids` ascend and stay below `next_id`, {self.next_id}")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def empty(cls, model: ModelKey) -> IndexContent:
        """Return an index of no items."""
        packed = np.empty((0, model.code_length // 8), np.uint8)
        return cls(packed, np.empty(0, np.int64), pa.table({"id": pa.array([], pa.int64())}), next_id=0, model=model)

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the metadata."""
        return self.metadata.schema

    def blocks(self, size: int) -> Iterator[IndexContent]:
        """Yield the items by their order, `size` at a time, as views."""
        for start in range(0, len(self), size):
            here = slice(start, start + size)
            rows = self.metadata.slice(start, size)
            yield replace(self, packed=self.packed[here], ids=self.ids[here], metadata=rows)

    def rows(self, places: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return the metadata of the items at `places` (k,), in that order."""
        # Slices are views. `take` would first join the chunks of a column, all its text for a few rows, and it fails
        # where that is more than 2 GiB.
        slices = [self.metadata.slice(place, 1) for place in places.tolist()]
        table = pa.concat_tables([self.metadata.slice(0, 0), *slices])
        columns = [_values(column) for column in table.columns]
        return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]

    def added(self, packed: NDArray[np.uint8], columns: pa.Table, *, model: ModelKey) -> IndexContent:
        """Return this index with more items, which get the next ids in their order.

        Args:
            packed: uint8 (M, K/8).
            columns: M rows of metadata without `id`. A column that one side lacks is null there.
            model: whose codes these are.

        Raises:
            TypeError: `packed` is not uint8.
            ArgumentError: another model, another count, or a column of another type.
        """
        self.model.check(model)
        check_packed(packed, self.model.code_length)
        if "id" in columns.column_names:
            raise ArgumentError("`id` is given by the index; got a column of that name")
        if columns.num_rows != len(packed):
            raise ArgumentError(f"`columns` has a row a code, {len(packed)}; got {columns.num_rows}")
        ids = np.arange(self.next_id, self.next_id + len(packed), dtype=np.int64)
        rows = without_views(columns).add_column(0, "id", pa.array(ids))
        try:
            metadata = pa.concat_tables([self.metadata, rows], promote_options="default").combine_chunks()
        except pa.ArrowException as error:
            raise ArgumentError(f"`columns` have the types of the index: {error}") from error
        return replace(
            self,
            packed=np.concatenate([self.packed, packed]),
            ids=np.concatenate([self.ids, ids]),
            metadata=metadata,
            next_id=self.next_id + len(packed),
        )

    def without(self, ids: NDArray[np.int64]) -> IndexContent:
        """Return this index without the items of `ids`; ids that are not here are passed over.

        Raises:
            TypeError: `ids` is not int64.
            ArgumentError: `ids` is not (M,), or an id is negative or twice in it.
        """
        check_ids(ids)
        return self._where(np.isin(self.ids, ids, invert=True))

    def only(self, ids: NDArray[np.int64]) -> IndexContent:
        """Return the items of `ids` alone."""
        return self._where(np.isin(self.ids, ids))

    def _where(self, keep: NDArray[np.bool_]) -> IndexContent:
        return replace(
            self, packed=self.packed[keep], ids=self.ids[keep], metadata=self.metadata.filter(pa.array(keep))
        )


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column; dates and times that Python has none of, such as nanoseconds, as texts.

    >>> _values(pa.chunked_array([pa.array([10_000_000], pa.date32())]))
    ['29349-01-26']
    """
    try:
        return list(column.to_pylist())
    except (pa.ArrowException, ValueError, KeyError, OverflowError):
        local = column.cast(_with_leaves(column.type, _without_zone))  # which may be unknown here
        return list(local.cast(_with_leaves(local.type, _as_text)).to_pylist())


def labels_in(text: str) -> list[str]:
    """Return the labels of an item, which are one text in its column `label`.

    >>> labels_in("cat, dog"), labels_in("")
    (['cat', 'dog'], [])
    """
    return [name for name in text.split(SEPARATOR) if name]


def without_views(columns: pa.Table) -> pa.Table:
    """Return columns with texts and bytes in place of Arrow's views of them, which pyarrow cannot filter.

    >>> without_views(pa.table({"note": pa.array(["new"], pa.string_view())})).schema.field("note").type
    DataType(string)
    """
    schema = pa.schema([field.with_type(_with_leaves(field.type, _without_view)) for field in columns.schema])
    return columns if schema == columns.schema else columns.cast(schema)


def _with_leaves(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a type in which `change` has replaced those that hold no others."""
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_with_leaves(kind.value_type, change)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_with_leaves(kind.value_type, change)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_with_leaves(kind.value_type, change)), kind.list_size)
    if pa.types.is_map(kind):
        return pa.map_(_with_leaves(kind.key_type, change), _with_leaves(kind.item_type, change))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_leaves(field.type, change)) for field in kind])
    return change(kind)


def _without_view(kind: pa.DataType) -> pa.DataType:
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _without_zone(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) else kind


def _as_text(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_temporal(kind) else kind
