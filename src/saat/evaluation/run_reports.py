"""Reports of runs, read from their folders and set side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saat.errors import ArgumentError, DataError
from saat.evaluation.charts import COLORS
from saat.evaluation.result_card import FRAME, LIST, MAP, NUMBER, OBJECT, TEXT, Rule, check_entries

Report = dict[str, Any]
CHANCE, UNRELIABLE = "chance_map", "unreliable"
RULES: Mapping[str, Rule] = {
    "attack.norm": TEXT,
    "attack.epsilon": NUMBER,
    **dict.fromkeys(("saat", "created", "data.name"), TEXT),
    **dict.fromkeys(("data.checksums.train", "data.checksums.query", "data.checksums.database"), TEXT),
    **dict.fromkeys(("clean_map", "attacked_map", "clean_map_paper", "attacked_map_paper", CHANCE), MAP),
    **dict.fromkeys(("model", "data.sizes", "clean", "attacked", "change"), OBJECT),
    **dict.fromkeys(("flags", "data.class_names", "data.damaged", "examples"), LIST),
}
"""What the entries are that tell a report of `saat attack` from another file of its name."""


def check_name(name: str) -> str:
    """Return `name` if reports and result cards can call a model so; else raise.

    Raises:
        ArgumentError: it is empty, not printable, or that of another entry of a report.
    """
    rule, holds = TEXT
    if holds(name) and name not in (CHANCE, UNRELIABLE):
        return name
    raise ArgumentError(
        f"the name of a model is {rule}, and neither {CHANCE} nor {UNRELIABLE}, entries of every report; got {name!r} "
        "(give another `name`)"
    )


def combine_reports(runs: Sequence[tuple[str, Path]]) -> Report:
    """Return the reports of several runs under their names, with `chance_map` and `unreliable`, if any is, beside.

    Args:
        runs: 1 to 6 of (name, folder of an attack or a suite), names distinct.

    Raises:
        DataError: a folder has no readable report.
        ArgumentError: names or number do not fit, or the runs ranked other data, so that their numbers cannot stand
            side by side.
    """
    names = [check_name(name) for name, _ in runs]
    if not 1 <= len(runs) <= len(COLORS) or len(set(names)) < len(names):
        raise ArgumentError(f"`runs` are 1 to {len(COLORS)}, with distinct names; got {names}")
    reports = {name: _read_report(folder) for name, folder in runs}
    first = names[0]
    for name, report in reports.items():
        for split in ("query", "database"):
            if report["data"]["checksums"][split] != reports[first]["data"]["checksums"][split]:
                raise ArgumentError(
                    f"`runs` have the same queries and database; the {split} of {name} and {first} differ"
                )
        cuts = [[each["data"].get(key) for key in FRAME] for each in (report, reports[first])]
        if cuts[0] != cuts[1]:
            raise ArgumentError(
                f"`runs` have images cut alike; {', '.join(FRAME)} of {name} and {first} are {cuts[0]} and {cuts[1]}"
            )
    flagged = any(report["flags"] for report in reports.values())
    return {UNRELIABLE: flagged, **reports, CHANCE: reports[first][CHANCE]}


def _read_report(folder: Path) -> Report:
    path, rule = folder / "report.json", "`runs` are folders that saat attack or saat evaluate --suite wrote"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{rule}; found no report.json in {folder}") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    try:
        return check_entries(content, RULES)
    except DataError as error:
        raise DataError(f"{rule}; {path} tells of no attack: {error}") from None
