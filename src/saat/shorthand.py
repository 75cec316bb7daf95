"""Short forms of the command line, spelled out: names left out, lists without brackets, flags without a value."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from saat.errors import ArgumentError

FRACTION = re.compile(r"^\d+(\.\d+)?/\d+(\.\d+)?$")


def divide(text: str) -> float:
    """Return the value of a fraction such as `8/255`; NaN where it divides by zero, which every option refuses."""
    above, below = map(float, text.split("/"))
    return above / below if below else float("nan")


def decimal(word: str) -> str:
    """Return a value such as 8/255 as a decimal number; any other as it is.

    >>> decimal("1/4"), decimal("a/b")
    ('0.25', 'a/b')
    """
    return repr(divide(word)) if FRACTION.match(word) else word


def spelled_out(config: type[Any], places: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return the arguments as the parser takes them: every value behind its option, lists in brackets.

    * Values that stand first belong to the options `places`, in this order; the last of these takes all that are left,
      if it is a list. Such an option cannot be given by its name too.
    * A list in brackets, and null, stay as they are; so does a single value where the option takes one that is no list.
    * A switch without a value is on. `-k` is `--k`, and a dash in a name is an underscore.

    Args:
        config: the dataclass of the command's options.
        places: options whose names may be left out.
        arguments: as typed.

    Raises:
        ArgumentError: an option is given without its name and by it.

    >>> from saat.recipes.search import SearchConfig
    >>> spelled_out(SearchConfig, ("index", "image"), ["a-b", "c.jpg", "-k", "3", "--false-alarm-rate=0", "--quiet"])
    ['--index', 'a-b', '--image', 'c.jpg', '--k', '3', '--false_alarm_rate', '0', '--quiet', 'true']
    """
    kinds = _kinds(config, "--")
    left = list(arguments)
    spelled: list[str] = []
    placed: list[str] = []
    for name in places:
        if not left or left[0].startswith("-"):
            break
        spelled += _with_values(f"--{name}", kinds[f"--{name}"], [], left)
        placed.append(f"--{name}")
    while left:
        option, equals, value = left.pop(0).partition("=")
        if option.startswith("--"):
            option = "--" + option.removeprefix("--").replace("-", "_")
        option = "--k" if option == "-k" else option
        if option in placed:
            first = spelled[spelled.index(option) + 1]
            raise ArgumentError(f"`{option[2:]}` is given once; got {first}, which stands first, and {option} too")
        if option in kinds:
            spelled += _with_values(option, kinds[option], [value] if equals else [], left)
        else:
            spelled.append(option + equals + value)
    return spelled


def _kinds(config: type[Any], prefix: str) -> dict[str, Any]:
    """Return option -> type, of nested dataclasses too."""
    hints, kinds = get_type_hints(config), dict[str, Any]()
    for each in fields(config):
        kind = hints[each.name]
        kinds[prefix + each.name] = kind
        for part in (kind, *get_args(kind)):
            if is_dataclass(part):
                kinds |= _kinds(part, f"{prefix}{each.name}.")  # type: ignore[arg-type]
    return kinds


def _with_values(option: str, kind: Any, values: list[str], left: list[str]) -> list[str]:
    """Return the option with its values: those given and, taken from `left`, those that follow."""
    alternatives = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    items = next((get_args(part) for part in alternatives if get_origin(part) is list), ())
    while left and not left[0].startswith("--") and left[0] != "-h" and (items or not values):
        values.append(left.pop(0))
    if {int, float} & {*alternatives, *items}:
        values = [decimal(value) for value in values]  # a path such as 2024/05 is none
    if kind is bool and not values:
        return [option, "true"]
    if not items or not values:
        return [option, *values]
    if len(values) == 1 and (values[0].startswith("[") or values[0] == "null" or items[0] in alternatives):
        return [option, values[0]]
    # any other than a number may look like one, such as a folder named 2024
    return [option, f"[{', '.join(values)}]" if items[0] in (int, float) else json.dumps(values, ensure_ascii=False)]
