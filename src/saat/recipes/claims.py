"""Claims on folders: a run writes down what it is, so that no other mixes its results with these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import torch

from saat import __version__
from saat.bits import pack_codes
from saat.errors import ArgumentError, DataError
from saat.hamming import sign_codes
from saat.models.checkpoint import weights_checksum
from saat.recipes.kept import part_files
from saat.recipes.outcome import SubjectCodes
from saat.recipes.subject import Subject
from saat.runtime import make_folder, write_text

KINDS = ("attack", "certify", "detect", "plant", "suite")
"""Measurements that write a report.json to their folder, and a claim that is called after them."""
CODES = 100  # of queries, and as many of the database, that are written down
ROUNDED = 1e-3  # share of their bits that may differ: another machine rounds logits near zero to the other side


def claim_file(out: Path, kind: str) -> Path:
    """Return where a measurement of a kind writes down what it is."""
    return out / f"{kind}.json"


def measurement_folder(out: Path, kind: str) -> None:
    """Make the folder of a measurement, before what takes long.

    Raises:
        ArgumentError: it cannot be made, or holds a measurement of another kind, whose report would be replaced, or
            parts of one that nothing tells of any more, which would be mixed in.
    """
    rule = "`out` is a new folder or that of the same run"
    there = [other for other in KINDS if other != kind and claim_file(out, other).exists()]
    if there:
        raise ArgumentError(f"{rule}; {out} holds another (of {there[0]}, whose report.json this would replace)")
    if not claim_file(out, kind).exists() and (parts := part_files(out)):
        raise ArgumentError(f"{rule}; {parts[0].parent} holds parts of a run whose claim is gone: remove them")
    make_folder(out)


def claim_measurement(out: Path, kind: str, options: Mapping[str, Any], subject: Subject, codes: SubjectCodes) -> None:
    """Write to `out` what a measurement is that goes on where it was stopped: its options, the model and the data.

    Codes are part of it, since the program of a user's own model can change while its weights stay.

    Raises:
        ArgumentError: the folder holds another run.
        DataError: what is there is damaged.
    """
    path = claim_file(out, kind)
    identity = {
        "saat": __version__,
        **options,
        "model": subject.about["backbone"],
        "weights": subject.checksum,
        "database_weights": weights_checksum(subject.database_model),
        "purifier": subject.about.get("purifier"),
        "checksums": subject.splits.checksums(),
        **subject.frame,
        "codes": _first_codes(codes),
    }
    if path.exists() and _as_rounded(there := _read(path).get("codes"), identity["codes"]):
        identity["codes"] = there
    claim(path, identity)


def _first_codes(codes: SubjectCodes) -> str:
    """Return codes of queries and database, packed, in hexadecimal digits."""
    parts = (sign_codes(codes.query_logits[:CODES]), codes.database[:CODES])
    return pack_codes(torch.cat(parts).numpy()).tobytes().hex()


def _as_rounded(there: object, now: str) -> bool:
    """Return whether codes differ in so few bits as rounding may change.

    >>> _as_rounded("00" * 200, "01" + "00" * 199), _as_rounded("00", "01"), _as_rounded(None, "01")
    (True, False, False)
    """
    if not isinstance(there, str) or len(there) != len(now):
        return False
    return (int(there, 16) ^ int(now, 16)).bit_count() <= ROUNDED * 4 * len(now)


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
            found = ", ".join(
                f"{key}: {shortened(there[key])} there, {shortened(identity[key])} now"
                for key in changed
                if key in there
            )
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
