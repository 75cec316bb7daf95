"""The lock of an index on disk: writers take turns."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saat.errors import DataError

LOCK = ".lock"
PATIENCE = 300.0  # seconds; the largest index is written in less
PAUSE = 0.02  # seconds between two tries


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep out other writers; or, `shared`, those who keep out others, while something is written beside the index.

    The system lets go of the lock when the process ends, however it ends. On Windows there is none.

    Raises:
        DataError: another has it for longer than a change takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("wb") as file:
        if sys.platform != "win32":
            _take(file.fileno(), folder, shared=shared)
        yield


def _take(handle: int, folder: Path, *, shared: bool) -> None:
    import fcntl

    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:  # one that hangs, or was suspended by Ctrl-Z
                raise DataError(
                    f"{folder} is being changed by another command, for more than {PATIENCE:g} s; end that one first"
                ) from None
            time.sleep(PAUSE)
        else:
            return
