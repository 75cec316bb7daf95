"""Metadata as JSON, an object an item, as servers keep it; and back, to the last type."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from saat.errors import ArgumentError
from saat.index.grammar import Comparison

Row = dict[str, Any]
# What a literal of a condition has to be for a column of a kind, so that a server compares as `saat.index.where` does.
LITERALS: Mapping[str, tuple[type, ...]] = {
    "integer": (int, float),
    "number": (int, float),
    "boolean": (bool,),
    "text": (str,),
}
NOT_FINITE = ("NaN", "Infinity", "-Infinity")  # JSON has no such numbers; they are texts there


def kind_of(kind: pa.DataType) -> str:
    """Return integer, number, boolean or text, which servers compare; or other.

    >>> kind_of(pa.float32()), kind_of(pa.date32())
    ('number', 'other')
    """
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return "integer"
    if pa.types.is_floating(kind):
        return "number"
    if pa.types.is_boolean(kind):
        return "boolean"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else "other"


def comparable_kind(part: Comparison, schema: pa.Schema) -> str | None:
    """Return the kind of the column if a server can compare it with the literal; else none."""
    kind = kind_of(schema.field(part.column).type)
    literal = part.literal
    fits = isinstance(literal, LITERALS.get(kind, ())) and isinstance(literal, bool) == (kind == "boolean")
    return kind if fits else None


def rows_of(metadata: pa.Table) -> list[Row]:
    """Return an object an item, without its id and its nulls.

    Raises:
        ArgumentError: columns have values that a server cannot hold; all of them are named.

    >>> rows_of(pa.table({"id": [4], "price": [math.inf], "label": pa.array([None], pa.string())}))
    [{'price': 'Infinity'}]
    """
    names = [name for name in metadata.column_names if name != "id"]
    columns, refused = [], []
    for name in names:
        if (values := _plain(metadata.column(name))) is None:
            refused.append(f"{name!r} is {metadata.column(name).type}")
        else:
            columns.append(values)
    if refused:
        rule = "columns on a server have values that JSON can hold, and texts without NUL"
        raise ArgumentError(f"{rule}; {', '.join(refused)}")
    return [
        {name: column[row] for name, column in zip(names, columns, strict=True) if column[row] is not None}
        for row in range(metadata.num_rows)
    ]


def table_of(ids: NDArray[np.int64], rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Return the metadata of which `rows_of` made `rows`."""
    columns = [pa.array(ids, pa.int64())]
    columns += [_typed([row.get(field.name) for row in rows], field.type) for field in schema if field.name != "id"]
    return pa.table(columns, schema=schema)


def text_of(row: Row) -> str:
    """Return the one text of a row."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False)


def item_digest(code: bytes, row: Row) -> str:
    """Return what tells an item from another state of itself."""
    return hashlib.sha256(code + text_of(row).encode()).hexdigest()[:32]


def _plain(column: pa.ChunkedArray) -> list[Any] | None:
    """Return the values of a column for JSON; none where a server would not give all of them back."""
    kind = kind_of(column.type)
    if kind == "text" and pc.any(pc.match_substring(column, "\0")).as_py():
        return None
    if kind == "number":
        return [_finite(value) for value in column.to_pylist()]
    if kind != "other":
        return list(column.to_pylist())
    try:
        given = list(column.to_pylist())
        values = given if _has_parts(column.type) else list(column.cast(pa.string()).to_pylist())
        if _typed(json.loads(json.dumps(values, allow_nan=False)), column.type).to_pylist() == given:
            return values
    except (pa.ArrowException, TypeError, ValueError, KeyError, OverflowError):
        pass
    return None


def _finite(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind_of(kind) == "number":
        return pa.array([None if value is None else float(value) for value in values], pa.float64()).cast(kind)
    if kind_of(kind) != "other" or _has_parts(kind) or pa.types.is_null(kind):
        return pa.array(values, kind)
    return pa.array(values, pa.string()).cast(kind)


def _has_parts(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or pa.types.is_dictionary(kind))
