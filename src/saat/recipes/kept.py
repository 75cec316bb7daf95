"""Parts of long runs that are kept in files, so that a run which was stopped goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from saat.runtime import atomic_write

log = logging.getLogger(__name__)
BATCHES = "batches"


def kept_tensors(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of a file; where there is none, or it is damaged, make them and write it first.

    Args:
        path: of the file.
        make: returns what it is to hold.
    """
    if path.exists():
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            log.warning("%s is damaged (%s), and made anew", path, error)
    content = make()
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(dict(content)))
    return safetensors.torch.load_file(path)


def batch_file(out: Path, number: int, *, of: str = "") -> Path:
    """Return where a batch of a run is kept until the run is done; `of` tells several searches apart."""
    return out / BATCHES / f"{of}{number:05d}.safetensors"


def drop_batches(out: Path) -> None:
    """Remove the batches of a run that is done, since its results hold what they held; other files stay."""
    for path in (out / BATCHES).glob("*[0-9][0-9][0-9][0-9][0-9].safetensors"):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty, or never made
        (out / BATCHES).rmdir()
