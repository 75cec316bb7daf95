"""Metadata to JSON and back, every type that comes back as it was, and a refusal of the others."""

from __future__ import annotations

import datetime
import decimal
import json

import numpy as np
import pyarrow as pa
import pytest

from saat.errors import ArgumentError
from saat.index.grammar import Comparison
from saat.index.rows import comparable_kind, item_digest, rows_of, table_of, text_of

COLUMNS = {
    "text": pa.array(["é\n'\"\\", None, ""]),
    "large": pa.array(["a", None, "b"], pa.large_string()),
    "integer": pa.array([2**63 - 1, None, -5]),
    "small": pa.array([1, None, 2], pa.int8()),
    "unsigned": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "number": pa.array([0.1, None, float("-inf")]),
    "narrow": pa.array([0.1, None, float("inf")], pa.float32()),
    "half": pa.array(np.array([0.5, 1, 2], np.float16)),
    "flag": pa.array([True, None, False]),
    "day": pa.array([datetime.date(2024, 2, 29), None, None]),
    "moment": pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5, 6), None, None], pa.timestamp("us")),
    "zoned": pa.array([datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), None, None], pa.timestamp("ms", "UTC")),
    "price": pa.array([decimal.Decimal("1.50"), None, None]),
    "tags": pa.array([["a", None], None, []]),
    "place": pa.array([{"x": 1, "y": None}, None, {"x": 2, "y": "z"}]),
    "chosen": pa.array(["x", None, "x"]).dictionary_encode(),
    "nothing": pa.nulls(3),
}


def test_every_type_comes_back() -> None:
    ids = np.array([3, 5, 8])
    table = pa.table({"id": ids} | COLUMNS)
    texts = [text_of(row) for row in rows_of(table)]
    assert "id" not in texts[0]
    again = table_of(ids, [json.loads(text) for text in texts], table.schema)
    assert again.schema.equals(table.schema)
    assert again.to_pylist() == table.to_pylist()
    number = table_of(ids[:1], [{"number": "NaN"}], pa.schema([("id", pa.int64()), ("number", pa.float64())]))["number"]
    assert np.isnan(number[0].as_py())


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"\xff"]),
        pa.array([[float("nan")]]),
        pa.array([[datetime.date(2024, 1, 1)]]),
        pa.array([10**7], pa.date32()),
        pa.array(["a\0b"]),
    ],
)
def test_what_json_cannot_hold_is_named(column: pa.Array) -> None:
    with pytest.raises(ArgumentError, match=r"; 'odd' is [^,]*, 'day' is duration\[s\]$"):
        rows_of(pa.table({"fine": [1], "odd": column, "day": pa.array([1], pa.duration("s"))}))


def test_a_digest_tells_states_apart_and_not_nulls() -> None:
    code, row = b"\x01\x02", {"label": "cat"}
    with_null = rows_of(pa.table({"label": ["cat"], "price": pa.array([None], pa.int64())}))[0]
    assert item_digest(code, row) == item_digest(code, with_null)
    assert len({item_digest(code, row), item_digest(b"\x01\x03", row), item_digest(code, {"label": "dog"})}) == 3


def test_a_server_compares_columns_with_their_own_kind_alone() -> None:
    schema = pa.table(COLUMNS).schema

    def kind(column: str, literal: str | float | bool) -> str | None:
        return comparable_kind(Comparison(column, "==", literal), schema)

    assert [kind("integer", 1), kind("integer", 1.5), kind("integer", True), kind("integer", "1")] == [
        "integer",
        "integer",
        None,
        None,
    ]
    assert [kind("flag", True), kind("flag", 1), kind("text", "a"), kind("chosen", "x"), kind("day", "a")] == [
        "boolean",
        None,
        "text",
        None,
        None,
    ]
