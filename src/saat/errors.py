"""Errors for people: each names the argument, the rule and what was found."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path


class SaatError(Exception):
    """Anything a user can mend. The command line prints its text without a traceback and exits with 2."""


class ArgumentError(SaatError, ValueError):
    """An argument breaks its rule."""


class DataError(SaatError):
    """A data set cannot be read, or does not hold what it should."""


class ServerError(DataError):
    """A server that holds an index does not answer, or answers with an error."""


class CheckpointError(SaatError):
    """A checkpoint or a resume state is missing, damaged, or of another model."""


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`; else raise and list the near ones.

    Raises:
        ArgumentError: `value` is not among `choices`.
    """
    known = sorted(choices)
    if value in known:
        return value
    raise ArgumentError(f"`{name}` is one of {', '.join(known)}; got {value!r}{near_hint(value, known)}")


def check_default(options: object, name: str, *, of: str) -> None:
    """Raise unless a field of a dataclass, which belongs to what is not given, is as it is by default.

    Raises:
        ArgumentError: it has another value.
    """
    value = getattr(options, name)
    if value != getattr(type(options), name):
        raise ArgumentError(f"`{name}` is that of {of}; got {value} without one")


def near_hint(value: str, known: Sequence[str]) -> str:
    """Return the end of an error: which of `known` was probably meant; nothing if none is near.

    >>> near_hint("lable", ["id", "label"])
    "; did you mean 'label'?"
    """
    near = difflib.get_close_matches(value, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def check_fraction(name: str, value: float) -> float:
    """Return `value` if it lies in [0, 1], the pixel range; else raise.

    Raises:
        ArgumentError: `value` is not a finite number in [0, 1].

    >>> check_fraction("epsilon", 8.0)
    Traceback (most recent call last):
    ...
    saat.errors.ArgumentError: `epsilon` is a fraction of the pixel range [0, 1]; got 8.0 (did you mean 8/255?)
    """
    if math.isfinite(value) and 0.0 <= value <= 1.0:
        return value
    hint = f" (did you mean {value:g}/255?)" if math.isfinite(value) and 1.0 < value <= 255.0 else ""
    raise ArgumentError(f"`{name}` is a fraction of the pixel range [0, 1]; got {value}{hint}")


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise unless `value` is a number of at least `minimum`.

    Raises:
        ArgumentError: `value` is below `minimum`, or not a number.
    """
    if not value >= minimum:
        raise ArgumentError(f"`{name}` is at least {minimum}; got {value}")


def check_code_length(code_length: int) -> int:
    """Return `code_length` if it is a positive multiple of 8; else raise, since codes are packed in bytes.

    Raises:
        ArgumentError: `code_length` is not a positive multiple of 8.

    >>> check_code_length(50)
    Traceback (most recent call last):
    ...
    saat.errors.ArgumentError: `code_length` is a positive multiple of 8; got 50 (the nearest are 48 and 56)
    """
    if code_length > 0 and code_length % 8 == 0:
        return code_length
    below = max(8, code_length // 8 * 8)
    hint = f" (the nearest are {below} and {below + 8})" if code_length > 8 else " (the smallest is 8)"
    raise ArgumentError(f"`code_length` is a positive multiple of 8; got {code_length}{hint}")


def check_folder(name: str, path: Path) -> Path:
    """Return `path` if it is a folder; else raise.

    Raises:
        DataError: there is no folder at `path`.
    """
    if path.is_dir():
        return path
    found = "a file" if path.exists() else "nothing"
    raise DataError(f"`{name}` is an existing folder; found {found} at {path}")
