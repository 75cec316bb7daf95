"""Parts of long runs that are kept in files, so that a run which was stopped goes on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from saat.runtime import atomic_write

log = logging.getLogger(__name__)
BATCHES, OF_MEMBERS, VOTES = "batches", "members", "votes"  # folders of parts
PARTS = "*[0-9][0-9][0-9][0-9][0-9].safetensors"
CHECKSUM = "sha256"  # in the metadata of a part


def kept_tensors(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of a file; where there is none, or it is damaged, make them and write it first.

    Args:
        path: of the file.
        make: returns what it is to hold.
    """
    if path.exists():
        try:
            return _read(path)
        except safetensors.SafetensorError as error:
            log.warning("%s is damaged (%s), and made anew", path, error)
    content = dict(make())
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(content, {CHECKSUM: _checksum(path, content)}))
    return safetensors.torch.load_file(path)


def _read(path: Path) -> dict[str, Tensor]:
    content = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        there = (file.metadata() or {}).get(CHECKSUM)
    if there != _checksum(path, content):
        raise safetensors.SafetensorError("its checksum is not that of its name and content")
    return content


def _checksum(path: Path, content: dict[str, Tensor]) -> str:
    """Return a hash of a part's name and tensors, so that none stands in for another."""
    return hashlib.sha256(path.name.encode() + safetensors.torch.save(content)).hexdigest()


def part_files(out: Path) -> list[Path]:
    """Return the parts of runs that a folder holds."""
    return [path for name in (BATCHES, OF_MEMBERS, VOTES) for path in (out / name).glob(PARTS)]


def batch_file(out: Path, number: int, *, of: str = "") -> Path:
    """Return where a batch of a run is kept until the run is done; `of` tells several searches apart."""
    return out / BATCHES / f"{of}{number:05d}.safetensors"


def drop_batches(out: Path) -> None:
    """Remove the batches of a run that is done, since its results hold what they held; other files stay."""
    for pattern in (PARTS, f".{PARTS}.*"):  # and what a write that was killed left of one
        for path in (out / BATCHES).glob(pattern):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty, or never made
        (out / BATCHES).rmdir()
