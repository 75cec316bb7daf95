"""Conditions on metadata: what they select, and that nothing but a condition is one."""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saat.errors import ArgumentError
from saat.index.grammar import narrowed, parse
from saat.index.where import select

BERLIN = pa.timestamp("us", "Europe/Berlin")
TABLE = pa.table(
    {
        "id": [0, 1, 2, 3],
        "label": ["cat", "dog", None, "it's"],
        "price": [1.5, -2.0, 3.0, None],
        "sold": [True, False, True, False],
    }
)


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("label == 'cat'", [0]),
        ('label == "cat"', [0]),
        ("label=='cat'", [0]),
        ("label != 'cat'", [1, 3]),
        (r"label == 'it\'s'", [3]),
        ("label contains 'o'", [1]),
        ("price > -2 and price <= 1.5", [0]),
        ("price >= -2e0", [0, 1, 2]),
        ("id < 1 or id == 3", [0, 3]),
        ("sold == true", [0, 2]),
        ("id == 1 or id == 0 and sold == false", [1]),
        ("(id == 1 or id == 0) and sold == true", [0]),
        ("label == 'cat' and id > 5", []),
    ],
)
def test_selects(where: str, ids: list[int]) -> None:
    assert select(TABLE, where).column("id").to_pylist() == ids


OTHERS = pa.table(
    {
        "id": [0, 1, 2],
        "day": pa.array([date(2024, 1, 1), date(2024, 5, 31), None]),
        "taken": pa.array([datetime(2024, 1, 1, 12), datetime(2024, 5, 31), None], pa.timestamp("us")),
        "in Berlin": pa.array([datetime(2024, 1, 1, 12), datetime(2024, 5, 30, 22), None], BERLIN),
        "hour": pa.array([time(3), time(4, 30), None]),
        "price": pa.array([Decimal("1.10"), Decimal("2.00"), None], pa.decimal128(10, 2)),
        "half": pa.array([1.5, 2.0, None], pa.float16()),
        "camera-model": pa.array(["X", "Y", None]).dictionary_encode(),
        "and": [1, 2, None],
        "a`b": [1, 2, None],
        "second": pa.array([time(3), time(3, 0, 1), None], pa.time32("s")),
        "hash": pa.array([1, 2**64 - 1, None], pa.uint64()),
        "wide": pa.array([1.5, 3e8, None], pa.float32()),
        "wide price": pa.array([Decimal("1.50"), Decimal("2.25"), None], pa.decimal128(38, 2)),
        "fine price": pa.array([Decimal("1.5"), Decimal("2.25"), None], pa.decimal128(38, 18)),
    }
)


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("day >= '2024-05-31'", [1]),
        ("day == '2024-01-01'", [0]),
        ("taken < '2024-05-31'", [0]),
        ("taken <= '2024-05-31T00:00:00'", [0, 1]),
        ("`in Berlin` >= '2024-05-31'", [1]),  # 22 o'clock of the day before, in UTC
        ("`in Berlin` > '2024-05-31'", []),
        ("`in Berlin` >= '2024-05-31T00:00:00Z'", []),
        ("hour > '03:00'", [1]),
        ("price == 1.1", [0]),
        ("price >= 2", [1]),
        ("half > 1.6", [1]),
        ("half != 2", [0]),
        ("`camera-model` == 'X'", [0]),
        ("`camera-model` contains 'Y'", [1]),
        ("`camera-model` has 'Y'", [1]),
        ("`and` == 1 or `id` == 2", [0, 2]),
        ("`a``b` == 2", [1]),
        ("second < '03:00:00.7'", [0]),
        ("second == '03:00:00.7'", []),
        ("hash == 1", [0]),
        (f"hash == {2**64 - 1}", [1]),
        ("hash > 1.5", [1]),
        ("hash > -1", [0, 1]),
        (f"hash < {10**30}", [0, 1]),
        ("wide > 20000001", [1]),
        ("`wide price` > 1.125", [0, 1]),
        ("`fine price` < 1e20 and `fine price` > 2", [1]),
    ],
)
def test_compares_what_columns_of_users_hold(where: str, ids: list[int]) -> None:
    assert select(OTHERS, where).column("id").to_pylist() == ids


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("day >= 'May'", "compares a column with its own kind"),
        ("day >= 5", "compares a column with its own kind"),
        ("`in Berlin` >= 'May'", "compares a column with its own kind"),
        ("hour > 'noon'", "compares a column with its own kind"),
        ("price > 1e999", "compares a column with its own kind"),
        ("hour == '03:00+05:00'", "a column of times has no time zone"),
        ("`a`b` == 1", "wrong at"),
        ("price == 'x'", "compares a column with its own kind"),
        ("camera == 1", "`camera-model`, day, `fine price`"),
        ("`camera-model == 1", "wrong at '`camera-model"),
    ],
)
def test_refuses_what_they_do_not_hold(where: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        select(OTHERS, where)


def test_columns_of_one_name_are_no_condition() -> None:
    table = pa.table([pa.array([0]), pa.array([1]), pa.array([2])], names=["id", "a", "a"])
    with pytest.raises(ArgumentError, match="compares a column"):
        select(table, "a == 1")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("label has 'cat'", [0, 1, 2, 6]),
        ("label has 'wild cat'", [3]),
        ("label has 'ca'", []),
        ("label has '.at'", []),
        ("label has 'cat, dog'", [1]),
        ("label has 'cat' and label has 'dog'", [1, 2]),
        ("label has 'fox' or label == 'cat'", [0, 6]),
        (r"label has 'd\'og (a|b)*'", [6]),
    ],
)
def test_has_finds_a_label_among_several(kind: pa.DataType, where: str, ids: list[int]) -> None:
    labels = ["cat", "cat, dog", "dog, cat", "wild cat", "wildcat, cats", None, "d'og (a|b)*, cat, fox"]
    table = pa.table({"id": range(7), "label": pa.array(labels, kind)})
    assert select(table, where).column("id").to_pylist() == ids


@settings(max_examples=300, derandomize=True)
@given(labels=st.lists(st.text("ab .,*\\\n$^(é\0-", max_size=3)), label=st.text("ab .,*\\\n$^(é\0-", max_size=3))
def test_has_is_equality_with_a_label(labels: list[str], label: str) -> None:
    """A label that has the separator in it counts as several, and is found as a whole too."""
    text = ", ".join(labels)
    quoted = label.replace("\\", "\\\\")
    found = select(pa.table({"label": [text]}), f"label has '{quoted}'").num_rows
    assert found == (f", {label}, " in f", {text}, ")
    if label in labels:
        assert found


def test_a_server_is_asked_for_more_where_it_cannot_say_has() -> None:
    both = parse("a has 'x' and b == 1", ["a", "b"])
    said, exact = narrowed(
        both, lambda part: f"{part.column} {part.sign} {part.literal}", lambda _, parts: "; ".join(parts)
    )
    assert (said, exact) == ("a contains x; b == 1", False)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "wrong at 'its end'"),
        ("label", "wrong at 'its end'"),
        ("label == ", "wrong at 'its end'"),
        ("label = 'cat'", "wrong at \"= 'cat'\""),
        ("label == cat", "wrong at 'cat'"),
        ("label == 'cat", 'wrong at "\'cat"'),
        ("'cat' == label", "wrong at"),
        ("label == 'cat' label == 'dog'", "wrong at 'label'"),
        ("(label == 'cat'", "wrong at 'its end'"),
        ("lable == 'cat'", "did you mean 'label'"),
        ("label == 3", "compares a column with its own kind"),
        ("price contains 'x'", "compares a column with its own kind"),
        ("label contains 3", "wrong at '3'"),
        ("label has 3", "wrong at '3'"),
        ("price has 'x'", "compares a column with its own kind"),
        ("__import__('os').system('true') == 1", 'wrong at "\\.system'),
        ("__import__ == 1", "`where` compares columns: "),
        ("id == 1; id == 2", "wrong at '; id == 2'"),
        ("id == 12cats", "wrong at '12cats'"),
        ("(" * 1000, "wrong at '\\('"),
        (" or ".join(["id == 1"] * 20_000), "`where` has `and` and `or` at most 1,000 times"),
        (f"id == {'7' * 5000}", "wrong at '7{20}'"),
        (f"id == {'7' * 4000}", "compares a column with its own kind"),
        ("label == '\udce9'", r"`where` is UTF-8 text; got .*udce9"),  # a byte of a command line in Latin-1
    ],
)
def test_refuses(where: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        select(TABLE, where)
