"""Files of an index: on the disk for good when they are written, and known by their content."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from saat.errors import DataError

SUFFIXES = {"codes": "npy", "ids": "npy", "metadata": "parquet"}


@dataclass(frozen=True)
class FileEntry:
    """A file of the present state.

    Args:
        name: in the directory.
        bytes: its length.
        sha256: of its content.
    """

    name: str
    bytes: int
    sha256: str


def put_file(folder: Path, kind: str, save: Callable[[IO[bytes]], object]) -> FileEntry:
    """Write a file and name it by its content, so that it never takes the place of a file of the present state."""
    temporary = written(folder, save)
    digest, size = digest_of(temporary), temporary.stat().st_size
    name = f"{kind}-{digest[:32]}.{SUFFIXES[kind]}"
    temporary.replace(folder / name)
    return FileEntry(name, size, digest)


def written(folder: Path, save: Callable[[IO[bytes]], object]) -> Path:
    """Write a file under a name of no meaning, and return its path when the disk has it."""
    path = folder / f".saat-{secrets.token_hex(8)}.tmp"
    with path.open("xb") as file:  # who may read it is the user's umask to say
        save(file)
        file.flush()
        os.fsync(file.fileno())
    return path


def opened_for_arrow(path: Path) -> pa.NativeFile:
    """Return a file, open for reading; Arrow by itself takes paths in UTF-8 alone."""
    return pa.OSFile(os.fsencode(path))


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the content of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(folder: Path, entry: FileEntry) -> None:
    """Raise unless a file has the content that its entry says.

    Raises:
        DataError: it is missing, damaged, or cannot be read.
    """
    path = folder / entry.name
    try:
        size, digest = path.stat().st_size, digest_of(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if size != entry.bytes:
        raise DataError(f"{path} is damaged: {size} bytes instead of {entry.bytes}")
    if digest != entry.sha256:
        raise DataError(f"{path} is damaged: its checksum differs from that of the manifest")


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in `folder`."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
