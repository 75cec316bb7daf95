"""The grammar of conditions such as `label == 'cat' and width > 300`: read, never evaluated as code."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from saat.errors import ArgumentError, near_hint

COMPARATORS = ("==", "!=", "<=", ">=", "<", ">", "contains", "has")
OF_TEXTS = ("contains", "has")  # compare a column of texts with a text
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?\b)
    |(?P<sign>==|!=|<=|>=|<|>|\(|\))
    |(?P<word>[^\W\d]\w*)
    |`(?P<name>(?:[^`]|``)*)`
    )""",
    re.VERBOSE,
)
RULE = (
    "a column, in backticks if it is no word, one of "
    + " ".join(COMPARATORS)
    + ", then a number, a quoted text, true or false; joined by and, or, ( )"
)
MOST_JOINS = 1_000  # of conditions by `and` and `or`, beyond which pyarrow comes to the end of its stack
MOST_DEPTH = 50  # of parentheses, so that a long row of them is an error and no overflow
Literal = str | int | float | bool
Term = TypeVar("Term")


@dataclass(frozen=True)
class Comparison:
    """A column compared with a literal.

    Args:
        column: its name.
        sign: one of `COMPARATORS`.
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


def _as_written(column: str) -> str:
    """Return the name of a column as a condition has it.

    >>> _as_written("label"), _as_written("photo id")
    ('label', '`photo id`')
    """
    return column if re.fullmatch(r"[^\W\d]\w*", column) else "`" + column.replace("`", "``") + "`"


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
        self._depth = self._joins = 0

    def _split(self, where: str) -> list[tuple[str, str]]:
        tokens, start = [], 0
        while start < len(where.rstrip()):
            match = _TOKEN.match(where, start)
            if match is None:
                raise self._wrong(where[start:].strip()[:20])
            kind = match.lastgroup or ""
            tokens.append((kind, match[kind]))
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
            self._joins += 1
            if self._joins > MOST_JOINS:
                raise ArgumentError(f"`where` has `and` and `or` at most {MOST_JOINS:,} times; got more")
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
        if kind == "name":
            column = column.replace("``", "`")
        elif kind != "word":
            raise self._wrong(column)
        if column not in self._columns:
            known = sorted(self._columns)
            hint = near_hint(column, known)
            raise ArgumentError(f"`where` compares columns: {', '.join(map(_as_written, known))}; got {column!r}{hint}")
        _, sign = self._take()
        if sign not in COMPARATORS:
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
