"""Conditions on metadata, applied to a table."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import time
from decimal import Decimal
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from saat.errors import ArgumentError
from saat.index.content import SEPARATOR
from saat.index.grammar import Comparison, Condition, parse

OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "contains": lambda column, literal: pc.match_substring(column, literal),
    "has": lambda column, literal: pc.match_substring_regex(column, _label_pattern(literal)),
}


def select(table: pa.Table, where: str) -> pa.Table:
    """Return the rows of `table` that satisfy `where`; a null satisfies nothing.

    `and` binds tighter than `or`. `contains` looks for a text in a column of texts, `has` for a label among those that
    `SEPARATOR` joins. Dates and times are compared with texts in ISO 8601; without an offset in the column's zone.

    Raises:
        ArgumentError: `where` breaks the grammar, names no column of the table, or compares unlike kinds.

    >>> table = pa.table({"id": [1, 2, 3], "label": ["cat", "dog", None]})
    >>> select(table, "label != 'dog' or id > 2").column("id").to_pylist()
    [1, 3]
    """
    condition = parse(where, table.column_names)
    try:
        return table.filter(_expression(condition, table.schema))
    except (pa.ArrowException, TypeError, ValueError, KeyError, OverflowError) as error:
        kinds = ", ".join(f"{field.name} is {field.type}" for field in table.schema)
        raise ArgumentError(f"`where` compares a column with its own kind ({kinds}); got {where!r}: {error}") from error


def select_ids(table: pa.Table, where: str) -> NDArray[np.int64]:
    """Return the column `id` of the rows that satisfy `where`; no other columns are copied than those it compares.

    Raises:
        ArgumentError: as `select`.
    """
    needed = sorted(compared(where, table.column_names) | {"id"})
    ids: NDArray[np.int64] = select(table.select(needed), where).column("id").to_numpy()
    return ids


def compared(where: str, columns: Sequence[str]) -> set[str]:
    """Return the names of the columns that a condition compares.

    Raises:
        ArgumentError: as `parse`.
    """
    return _columns(parse(where, columns))


def _label_pattern(label: str) -> str:
    """Return the regular expression of the texts that have a label among those that `SEPARATOR` joins.

    >>> [bool(re.search(_label_pattern("a.b"), text)) for text in ("c, a.b", "a.b", "a.bc", "a-b, c")]
    [True, True, False, False]
    """
    return rf"(?:^|{SEPARATOR}){re.escape(label)}(?:{SEPARATOR}|$)"


def _columns(condition: Condition) -> set[str]:
    if isinstance(condition, Comparison):
        return {condition.column}
    return {name for part in condition.parts for name in _columns(part)}


def _expression(condition: Condition, schema: pa.Schema) -> Any:
    """Return the condition as pyarrow filters by it."""
    if isinstance(condition, Comparison):
        return OPERATORS[condition.sign](*_sides(condition, schema.field(condition.column).type))
    parts = [_expression(part, schema) for part in condition.parts]
    return reduce({"and": operator.and_, "or": operator.or_}[condition.word], parts)


def _sides(part: Comparison, kind: pa.DataType) -> tuple[Any, Any]:
    """Return column and literal as pyarrow can compare them."""
    column, literal = pc.field(part.column), part.literal
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if isinstance(literal, int | float) and not isinstance(literal, bool):
        return _numbers(column, literal, kind)
    if pa.types.is_temporal(kind) and isinstance(literal, str):
        return (column.cast(pa.time64("us")) if pa.types.is_time32(kind) else column), _moment(literal, kind)
    return column, literal


def _numbers(column: Any, literal: float, kind: pa.DataType) -> tuple[Any, Any]:
    """Return a column of numbers and a number as pyarrow can compare them, where it would choose too narrow a type."""
    if pa.types.is_decimal(kind):
        return column.cast(pa.decimal256(kind.precision, kind.scale)), pa.scalar(Decimal(str(literal)))
    if pa.types.is_floating(kind):
        return column.cast(pa.float64()), float(literal)
    if kind == pa.uint64() and isinstance(literal, int) and 0 <= literal < 2**64:
        return column, pa.scalar(literal, kind)
    if kind == pa.uint64() or (pa.types.is_integer(kind) and isinstance(literal, float)):
        return column.cast(pa.float64(), safe=False), float(literal)
    return column, literal


def _moment(text: str, kind: pa.DataType) -> pa.Scalar:
    """Return a date or time as a value of `kind`, a time of seconds or thousandths as one of millionths.

    >>> _moment("2024-05-31", pa.timestamp("s", "Europe/Berlin")).as_py().isoformat()
    '2024-05-31T00:00:00+02:00'
    """
    if pa.types.is_time(kind):
        moment = time.fromisoformat(text)
        if moment.tzinfo is not None:
            raise ValueError("a column of times has no time zone")
        return pa.scalar(moment, pa.time64("us") if pa.types.is_time32(kind) else kind)
    if pa.types.is_timestamp(kind) and kind.tz:
        try:
            return pc.assume_timezone(pa.scalar(text).cast(pa.timestamp(kind.unit)), kind.tz)
        except pa.ArrowInvalid:  # it has an offset of its own
            pass
    return pa.scalar(text).cast(kind)
