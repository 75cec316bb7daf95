"""The lock of an index on disk: writers take turns."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep out other writers; or, `shared`, those who keep out others, while something is written beside the index.

    The system lets go of the lock when the process ends, however it ends. On Windows there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("wb") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
