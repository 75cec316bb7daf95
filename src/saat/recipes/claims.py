"""Claims on folders: a run writes down what it is, so that no other mixes its results with these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saat import __version__
from saat.errors import ArgumentError, DataError
from saat.models.checkpoint import weights_checksum
from saat.recipes.outcome import SubjectCodes
from saat.recipes.subject import Subject
from saat.runtime import write_text


def claim_measurement(path: Path, options: Mapping[str, Any], subject: Subject, codes: SubjectCodes) -> None:
    """Write to `path` what a measurement is that goes on where it was stopped: its options, the model and the data.

    The codes are part of it, since the code of a user's own model can change while its weights stay.

    Raises:
        ArgumentError: the folder holds another run.
        DataError: what is there is damaged.
    """
    identity = {
        "saat": __version__,
        **options,
        "model": subject.about["backbone"],
        "weights": weights_checksum(subject.model),
        "database_weights": weights_checksum(subject.database_model),
        "purifier": subject.about.get("purifier"),
        "checksums": subject.splits.manifest()["checksums"],
        **subject.frame,
        "codes": codes.checksum(),
    }
    claim(path, identity)


def claim(path: Path, identity: Mapping[str, Any]) -> None:
    """Write the identity of a run to `path`, in the folder of its results.

    Raises:
        ArgumentError: the folder holds another run.
        DataError: what is there is damaged.
    """
    if path.exists():
        there = _read(path)
        changed = sorted(key for key in identity if there.get(key) != identity[key])
        if changed:
            found = ", ".join(f"{key}: {there[key]!r} there, {identity[key]!r} now" for key in changed if key in there)
            found = found or f"of an earlier version of saat, which did not write down {', '.join(changed)}"
            rule = "`out` is a new folder or that of the same run"
            raise ArgumentError(f"{rule}; {path.parent} holds another ({found})")
    write_text(path, json.dumps(identity, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; take a new `out`") from error
    if not isinstance(there, dict):
        raise DataError(f"{path} is damaged: no object; take a new `out`")
    return there
