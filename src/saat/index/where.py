"""Conditions on metadata, such as `label == 'cat' and width > 300`: a small grammar, never evaluated as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from saat.errors import ArgumentError, check_choice

OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "contains": lambda column, literal: pc.match_substring(column, literal),
}
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?\b)
    |(?P<sign>==|!=|<=|>=|<|>|\(|\))
    |(?P<word>[^\W\d]\w*)
    )""",
    re.VERBOSE,
)
RULE = "column, one of " + " ".join(OPERATORS) + ", then a number, a quoted text, true or false; joined by and, or, ( )"
MOST_DEPTH = 50  # of parentheses, so that a long row of them is an error and no overflow


def select(table: pa.Table, where: str) -> pa.Table:
    """Return the rows of `table` that satisfy `where`; a null satisfies nothing.

    `and` binds tighter than `or`. `contains` looks for a text in a column of texts.

    Raises:
        ArgumentError: `where` breaks the grammar, names no column of the table, or compares unlike kinds.

    >>> table = pa.table({"id": [1, 2, 3], "label": ["cat", "dog", None]})
    >>> select(table, "label != 'dog' or id > 2").column("id").to_pylist()
    [1, 3]
    """
    expression = _Parser(where, table.column_names).parse()
    try:
        return table.filter(expression)
    except (pa.ArrowException, TypeError) as error:
        kinds = ", ".join(f"{field.name} is {field.type}" for field in table.schema)
        raise ArgumentError(f"`where` compares a column with its own kind ({kinds}); got {where!r}: {error}") from error


class _Parser:
    def __init__(self, where: str, columns: Sequence[str]) -> None:
        self._where = where
        self._columns = columns
        self._tokens = self._split(where)
        self._place = 0
        self._depth = 0

    def _split(self, where: str) -> list[tuple[str, str]]:
        tokens, start = [], 0
        while start < len(where.rstrip()):
            match = _TOKEN.match(where, start)
            if match is None:
                raise self._wrong(where[start:].strip()[:20])
            tokens.append((match.lastgroup or "", match.group().strip()))
            start = match.end()
        return tokens

    def _wrong(self, found: str) -> ArgumentError:
        return ArgumentError(f"`where` is {RULE}; got {self._where!r}, wrong at {found or 'its end'!r}")

    def _take(self) -> tuple[str, str]:
        token = self._tokens[self._place] if self._place < len(self._tokens) else ("end", "")
        self._place += 1
        return token

    def _follows(self, word: str) -> bool:
        if self._place < len(self._tokens) and self._tokens[self._place] in (("word", word), ("sign", word)):
            self._place += 1
            return True
        return False

    def parse(self) -> Any:
        expression = self._any()
        if self._place < len(self._tokens):
            raise self._wrong(self._tokens[self._place][1])
        return expression

    def _any(self) -> Any:
        expression = self._all()
        while self._follows("or"):
            expression = expression | self._all()
        return expression

    def _all(self) -> Any:
        expression = self._one()
        while self._follows("and"):
            expression = expression & self._one()
        return expression

    def _one(self) -> Any:
        if self._follows("("):
            self._depth += 1
            if self._depth > MOST_DEPTH:
                raise self._wrong("(")
            expression = self._any()
            if not self._follows(")"):
                raise self._wrong(self._take()[1])
            self._depth -= 1
            return expression
        kind, column = self._take()
        if kind != "word":
            raise self._wrong(column)
        check_choice("column", column, self._columns)
        _, sign = self._take()
        if sign not in OPERATORS:
            raise self._wrong(sign)
        literal = self._literal()
        if sign == "contains" and not isinstance(literal, str):
            raise self._wrong(str(literal))
        return OPERATORS[sign](pc.field(column), literal)

    def _literal(self) -> str | int | float | bool:
        kind, text = self._take()
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        if kind == "number":
            return float(text) if set(text) & set(".eE") else int(text)
        if kind == "word" and text in ("true", "false"):
            return text == "true"
        raise self._wrong(text)
