"""Conditions on metadata, such as `label == 'cat' and width > 300`: a small grammar, never evaluated as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from saat.errors import ArgumentError, near_hint
from saat.index.content import SEPARATOR

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
OF_TEXTS = ("contains", "has")  # compare a column of texts with a text
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
Literal = str | int | float | bool
Term = TypeVar("Term")


@dataclass(frozen=True)
class Comparison:
    """A column compared with a literal.

    Args:
        column: its name.
        sign: one of `OPERATORS`.
        literal: that stands right.
    """

    column: str
    sign: str
    literal: Literal


@dataclass(frozen=True)
class Joined:
    """Conditions joined by one word.

    Args:
        word: and, or.
        parts: at least two.
    """

    word: str
    parts: tuple[Condition, ...]


Condition = Comparison | Joined


def select(table: pa.Table, where: str) -> pa.Table:
    """Return the rows of `table` that satisfy `where`; a null satisfies nothing.

    `and` binds tighter than `or`. `contains` looks for a text in a column of texts, `has` for a label among those that
    `SEPARATOR` joins.

    Raises:
        ArgumentError: `where` breaks the grammar, names no column of the table, or compares unlike kinds.

    >>> table = pa.table({"id": [1, 2, 3], "label": ["cat", "dog", None]})
    >>> select(table, "label != 'dog' or id > 2").column("id").to_pylist()
    [1, 3]
    """
    condition = parse(where, table.column_names)
    try:
        return table.filter(_expression(condition, table.schema))
    except (pa.ArrowException, TypeError, OverflowError) as error:
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


def parse(where: str, columns: Sequence[str]) -> Condition:
    """Return the condition that `where` says.

    Raises:
        ArgumentError: `where` breaks the grammar, or names none of `columns`.

    >>> parse("label == 'cat'", ["label"])
    Comparison(column='label', sign='==', literal='cat')
    """
    return _Parser(where, columns).parse()


def narrowed(
    condition: Condition, term: Callable[[Comparison], Term | None], join: Callable[[str, list[Term]], Term]
) -> tuple[Term | None, bool]:
    """Translate a condition to another language, as far as that can say it.

    Args:
        condition: to translate.
        term: a comparison -> its translation, or none where there is none. In the place of `has` it gets `contains`,
            which holds for all items of that and for others.
        join: (and or or, translations) -> them joined.

    Returns:
        A translation that holds for every item of the condition, none if that is all items; and whether it holds for no
        others. There is no `not` in the grammar, so leaving out a part of an `and` can only widen it.

    >>> both = parse("a == 1 and b contains 'x'", ["a", "b"])
    >>> narrowed(both, lambda part: part.column if part.sign == "==" else None, lambda word, parts: word.join(parts))
    ('a', False)
    """

    def translate(condition: Condition) -> tuple[Term | None, bool]:
        if isinstance(condition, Comparison):
            wider = replace(condition, sign="contains") if condition.sign == "has" else condition
            said = term(wider)
            return said, said is not None and wider == condition
        parts = [translate(part) for part in condition.parts]
        exact = all(whole for _, whole in parts)
        kept = [said for said, _ in parts if said is not None]
        if not kept or (condition.word == "or" and len(kept) < len(parts)):
            return None, exact
        return (kept[0] if len(kept) == 1 else join(condition.word, kept)), exact

    return translate(condition)


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
        column, literal = pc.field(condition.column), condition.literal
        if isinstance(literal, float) and pa.types.is_integer(schema.field(condition.column).type):
            column = column.cast(pa.float64(), safe=False)  # pyarrow would take float32, and refuse large integers
        return OPERATORS[condition.sign](column, literal)
    parts = [_expression(part, schema) for part in condition.parts]
    return reduce({"and": operator.and_, "or": operator.or_}[condition.word], parts)


class _Parser:
    def __init__(self, where: str, columns: Sequence[str]) -> None:
        try:
            where.encode()
        except UnicodeEncodeError:  # bytes of a command line that are in no encoding
            raise ArgumentError(f"`where` is UTF-8 text; got {where!r}") from None
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

    def parse(self) -> Condition:
        condition = self._any()
        if self._place < len(self._tokens):
            raise self._wrong(self._tokens[self._place][1])
        return condition

    def _any(self) -> Condition:
        return self._joined("or", self._all)

    def _all(self) -> Condition:
        return self._joined("and", self._one)

    def _joined(self, word: str, part: Callable[[], Condition]) -> Condition:
        parts = [part()]
        while self._follows(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Joined(word, tuple(parts))

    def _one(self) -> Condition:
        if self._follows("("):
            self._depth += 1
            if self._depth > MOST_DEPTH:
                raise self._wrong("(")
            condition = self._any()
            if not self._follows(")"):
                raise self._wrong(self._take()[1])
            self._depth -= 1
            return condition
        kind, column = self._take()
        if kind != "word":
            raise self._wrong(column)
        if column not in self._columns:
            known = sorted(self._columns)
            hint = near_hint(column, known)
            raise ArgumentError(f"`where` compares columns: {', '.join(known)}; got {column!r}{hint}")
        _, sign = self._take()
        if sign not in OPERATORS:
            raise self._wrong(sign)
        literal = self._literal()
        if sign in OF_TEXTS and not isinstance(literal, str):
            raise self._wrong(str(literal))
        return Comparison(column, sign, literal)

    def _literal(self) -> Literal:
        kind, text = self._take()
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        if kind == "number":
            try:
                return float(text) if set(text) & set(".eE") else int(text)
            except ValueError:  # more digits than Python takes
                raise self._wrong(text[:20]) from None
        if kind == "word" and text in ("true", "false"):
            return text == "true"
        raise self._wrong(text)
