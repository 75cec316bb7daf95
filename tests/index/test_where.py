"""Conditions on metadata: what they select, and that nothing but a condition is one."""

from __future__ import annotations

import pyarrow as pa
import pytest

from saat.errors import ArgumentError
from saat.index.where import select

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
        ("__import__('os').system('true') == 1", 'wrong at "\\.system'),
        ("__import__ == 1", "`column` is one of"),
        ("id == 1; id == 2", "wrong at '; id == 2'"),
        ("id == 12cats", "wrong at '12cats'"),
        ("(" * 1000, "wrong at '\\('"),
    ],
)
def test_refuses(where: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        select(TABLE, where)
