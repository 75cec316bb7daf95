"""Result cards: one small JSON file a claim of robustness, with all that it takes to compare it with others."""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from saat.attacks.threat import ThreatModel
from saat.errors import ArgumentError, DataError
from saat.runtime import versions

ResultCard = dict[str, Any]
RESULT_FILE = "result.json"
LARGEST_FILE = 1 << 20  # bytes; a card has a few thousand
ROUNDING = 1e-6
Rule = tuple[str, Callable[[object], bool]]
"""What an entry is, in words, and whether a value is that."""
FRAME = ("image_size", "crop_border")
"""Entries of a data set that say how its images were cut; cards of older versions lack them."""


def result_card(report: Mapping[str, Any]) -> ResultCard:
    """Return the card of a report that `saat evaluate --suite` made; it names no place on this machine.

    Args:
        report: with the `members` and the `any_code_map` of a suite under `attack`.
    """
    attack = report["attack"]
    return {
        "unreliable": report["unreliable"],
        "flags": [flag["name"] for flag in report["flags"]],
        "saat": report["saat"],
        "created": report["created"],
        "name": report["name"],
        "dataset": {key: report["data"].get(key) for key in ("name", "sizes", "checksums", *FRAME)},
        "model": without_paths(report["model"]),
        "threat": {"norm": attack["norm"], "epsilon": attack["epsilon"]},
        "suite": attack["suite"],
        "steps": attack["steps"],
        "surrogates": attack["surrogate_weights"],
        "seed": attack["seed"],
        "clean_map": report["clean_map"],
        "worst_map": report["attacked_map"],
        "worst_map_interval": list(report["attacked"]["map_interval"]),
        "worst_map_paper": report["attacked_map_paper"],
        "chance_map": report["chance_map"],
        "chance_map_paper": report["chance_map_paper"],
        "any_code_map": attack["any_code_map"],
        "members": {name: member["map"] for name, member in attack["members"].items()},
        "model_evaluations": attack["model_evaluations"],
        "seconds": attack["seconds"],
        "versions": versions() | {"saat": report["saat"]},
    }


def without_paths(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report says of its model, with each path cut to its last name.

    >>> without_paths({"checkpoint": "/home/me/runs/hard/", "weights": "imagenet", "parent": None})
    {'checkpoint': 'hard', 'weights': 'imagenet', 'parent': None}
    """
    paths = [key for key in ("checkpoint", "parent", "weights") if model.get(key)]
    return {**model, **{key: PureWindowsPath(model[key]).name for key in paths}}  # it splits at / and at \


def read_result_card(path: Path) -> ResultCard:
    """Read the card in the file `path`.

    Raises:
        DataError: the file cannot be read, is damaged, or is no result card; the error names the file, the rule and
            what was found.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise DataError(f"{path} is no result card: a card has at most {LARGEST_FILE:,} bytes; found {size:,}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    try:
        return check_result_card(content)
    except DataError as error:
        raise DataError(f"{path} is no result card: {error}") from None


def check_result_card(content: object) -> ResultCard:
    """Return `content` if it keeps every rule of a result card; else raise.

    Raises:
        DataError: it does not; the error names the entry, the rule and what was found.

    >>> check_result_card({"saat": "0.1.0", "created": 3})
    Traceback (most recent call last):
    ...
    saat.errors.DataError: `created` is printable text; found 3
    """
    content = check_entries(content, RULES)
    try:
        ThreatModel(content["threat"]["norm"], content["threat"]["epsilon"])
    except ArgumentError as error:
        raise DataError(str(error)) from None
    if content["unreliable"] != bool(content["flags"]):
        raise DataError(f"it is unreliable where it has flags, and only there; found {content['flags']}")
    lowest = min(content["clean_map"], *content["members"].values())
    if content["worst_map"] > lowest + ROUNDING:
        # The worst case of each query is over its clean image and every member, so no mean of one of them is lower.
        raise DataError(f"`worst_map` is at most every other MAP, {lowest} here; found {content['worst_map']}")
    return content


def check_entries(content: object, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Return `content` if it is an object whose entries keep their rules; else raise.

    Args:
        content: of a JSON file.
        rules: by the place of the entry, names joined by dots; an entry that is not there counts as null.

    Raises:
        DataError: it is not; the error names the entry, the rule and what was found.
    """
    if not isinstance(content, dict):
        raise DataError(f"it is a JSON object; found {reprlib.repr(content)}")
    for place, (rule, holds) in rules.items():
        value: Any = content
        for key in place.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not holds(value):
            raise DataError(f"`{place}` is {rule}; found {reprlib.repr(value)}")
    return content


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and value != ""


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _is_count(value: object) -> bool:
    return _is_number(value) and isinstance(value, int)


def _is_map(value: object) -> bool:
    return isinstance(value, int | float) and _is_number(value) and value <= 1 + ROUNDING


def _is_interval(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_map, value)) and value[0] <= value[1]


def _are_members(value: object) -> bool:
    return isinstance(value, dict) and value != {} and all(map(_is_text, value)) and all(map(_is_map, value.values()))


TEXT: Rule = ("printable text", _is_text)
TEXT_OR_NULL: Rule = ("printable text or null", lambda value: value is None or _is_text(value))
COUNT: Rule = ("a whole number of at least 0", _is_count)
COUNT_OR_NULL: Rule = ("a whole number of at least 0, or null", lambda value: value is None or _is_count(value))
NUMBER: Rule = ("a finite number of at least 0", _is_number)
MAP: Rule = ("a MAP in [0, 1]", _is_map)
MAP_OR_NULL: Rule = ("a MAP in [0, 1] or null", lambda value: value is None or _is_map(value))
OBJECT: Rule = ("an object", lambda value: isinstance(value, dict))
LIST: Rule = ("a list", lambda value: isinstance(value, list))
RULES: Mapping[str, Rule] = {
    "saat": TEXT,
    "created": TEXT,
    "name": TEXT,
    "unreliable": ("true or false", lambda value: isinstance(value, bool)),
    "flags": ("a list of names", _are_texts),
    "dataset.name": TEXT,
    "dataset.sizes.query": COUNT,
    "dataset.sizes.database": COUNT,
    "dataset.checksums.query": TEXT,
    "dataset.checksums.database": TEXT,
    **{f"dataset.{key}": COUNT_OR_NULL for key in FRAME},
    "model.backbone": TEXT,
    "model.code_length": COUNT,
    "model.loss": TEXT_OR_NULL,
    "model.defense": TEXT_OR_NULL,
    "model.checksum": TEXT_OR_NULL,  # cards of older versions lack it, as they lack `surrogates`
    "threat.norm": TEXT,
    "threat.epsilon": NUMBER,
    "suite": TEXT,
    "steps": COUNT,
    "surrogates": ("a list of checksums, or null", lambda value: value is None or _are_texts(value)),
    "seed": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "clean_map": MAP,
    "worst_map": MAP,
    "worst_map_interval": ("two MAPs, the lower one first", _is_interval),
    "worst_map_paper": MAP,
    "chance_map": MAP,
    "chance_map_paper": MAP_OR_NULL,  # cards of older versions lack it
    "any_code_map": MAP,
    "members": ("a MAP for each name of an attack, at least one", _are_members),
    "model_evaluations": COUNT,
    "seconds": NUMBER,
    "versions": OBJECT,
}
"""What each entry of a card is, by its place."""
