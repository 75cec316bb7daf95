"""An index on disk: a directory that says what it holds, and that is always the old state or the new one.

Codes, ids and metadata lie in files named by their content; `manifest.json` names the files of the present state, with
their checksums. A write makes the new files first and replaces the manifest last; that rename is the moment of change.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq

from saat import __version__
from saat.errors import DataError
from saat.index.content import IndexContent, ModelKey, without_views
from saat.index.files import FileEntry, check_file, opened_for_arrow, put_file, sync_folder, written
from saat.index.lock import locked
from saat.index.uploads import sweep_uploads

T = TypeVar("T")
log = logging.getLogger(__name__)
FORMAT = 1
MANIFEST = "manifest.json"
_OURS = re.compile(r"(codes|ids)-[0-9a-f]{32}\.npy|metadata-[0-9a-f]{32}\.parquet|\.saat-.*\.tmp")


@dataclass(frozen=True)
class Manifest:
    """What a directory says of itself.

    Args:
        count: items.
        next_id: that the next item gets; ids are never used again.
        model: whose codes these are.
        created: when the directory was made, UTC.
        changed: when it was last written, UTC.
        saat: version that wrote it.
        files: codes (uint8 (N, K/8)), ids (int64 (N,), ascending) and metadata (a row an item).
        identity: drawn at random when the directory was made, and kept by every change; tells it from all others.
    """

    count: int
    next_id: int
    model: ModelKey
    created: str
    changed: str
    saat: str
    files: Mapping[str, FileEntry]
    identity: str


State = tuple[Manifest, IndexContent]


def read_manifest(folder: Path, *, name: str = "index") -> Manifest:
    """Read the manifest of an index.

    Args:
        folder: of the index.
        name: of the argument that names the folder, for errors.

    Raises:
        DataError: there is none, it is damaged, or of a later format.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        checksum = values.pop("checksum")
        if values["format"] != FORMAT:
            raise DataError(f"{path} has format {FORMAT}; found {values['format']}, of saat {values.get('saat')}")
        if checksum != _checksum_of(values):
            raise ValueError("its checksum is not that of its content")
        files = {name: FileEntry(**entry) for name, entry in values["files"].items()}
        kept = {name: values[name] for name in ("count", "next_id", "created", "changed", "saat", "identity")}
        return Manifest(model=ModelKey(**values["model"]), files=files, **kept)
    except FileNotFoundError:
        raise DataError(
            f"`{name}` names a folder that `saat index build` wrote; found no {MANIFEST} in {folder}"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def read_index(folder: Path, *, name: str = "index") -> IndexContent:
    """Read an index, every byte checked.

    Args:
        folder: of the index.
        name: of the argument that names the folder, for errors.

    Raises:
        DataError: there is none, or a file is missing or damaged; it is named.
    """
    return read_files(folder, _load, name=name)


def read_state(folder: Path, *, name: str = "index", known: State | None = None) -> State:
    """Read an index with its manifest, which says later whether that is still the present state.

    Args:
        folder: of the index.
        name: of the argument that names the folder, for errors.
        known: what this has returned earlier; it is not read again unless a writer replaced it since.

    Raises:
        DataError: as `read_index`.
    """
    if known is not None and known[0] == read_manifest(folder, name=name):
        return known
    return read_files(folder, lambda manifest, paths: (manifest, _load(manifest, paths)), name=name)


def read_files(folder: Path, read: Callable[[Manifest, Mapping[str, Path]], T], *, name: str = "index") -> T:
    """Return what `read` makes of the manifest and the files of the present state, every byte of which was checked.

    Raises:
        DataError: there is no index, or a file is missing or damaged; it is named.
    """
    while True:
        manifest = read_manifest(folder, name=name)
        try:
            for entry in manifest.files.values():
                check_file(folder, entry)
            return _opened(folder, manifest, read)
        except DataError:
            if read_manifest(folder) == manifest:  # else a writer has replaced the state: take the new one
                raise


def _opened(folder: Path, manifest: Manifest, read: Callable[[Manifest, Mapping[str, Path]], T]) -> T:
    """Return what `read` makes of the files of a manifest, which are checked."""
    try:
        return read(manifest, {name: folder / entry.name for name, entry in manifest.files.items()})
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}") from error


def _load(manifest: Manifest, paths: Mapping[str, Path]) -> IndexContent:
    codes, ids = (np.load(paths[name], allow_pickle=False) for name in ("codes", "ids"))
    metadata = without_views(pq.read_table(opened_for_arrow(paths["metadata"])))
    return IndexContent(codes, ids, metadata, next_id=manifest.next_id, model=manifest.model)


def verify_index(folder: Path) -> tuple[str, ...]:
    """Return what is damaged, "path: reason" each; nothing for a sound index.

    Raises:
        DataError: there is no index in `folder`.
        ArgumentError: its files are sound and do not fit each other.
    """
    if not (folder / MANIFEST).exists():
        read_manifest(folder)
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return (str(error),)
    damaged = []
    for entry in manifest.files.values():
        try:
            check_file(folder, entry)
        except DataError as error:
            damaged.append(str(error))
    if not damaged:
        try:
            _opened(folder, manifest, _load)
        except DataError as error:
            damaged.append(str(error))
    if damaged and read_manifest(folder) != manifest:  # a writer replaced the state meanwhile
        return verify_index(folder)
    return tuple(damaged)


def check_new(folder: Path) -> None:
    """Raise if a folder holds an index.

    Raises:
        DataError: it does.
    """
    if (folder / MANIFEST).exists():
        raise DataError(f"`out` is a folder without an index; found one in {folder} (saat index add makes it larger)")


def create_index(folder: Path, content: IndexContent) -> Manifest:
    """Write a new index.

    Raises:
        DataError: `folder` holds one already.
    """
    with locked(folder):
        check_new(folder)
        manifest = _write(folder, content, before=None)
        sync_folder(folder.absolute().parent)
        return manifest


def update_index(
    folder: Path, change: Callable[[IndexContent], IndexContent], *, known: State | None = None
) -> Manifest:
    """Replace an index by what `change` makes of it; other writers wait meanwhile. Uploads of removed items go.

    Args:
        folder: of the index.
        change: the present content -> the new one.
        known: as of `read_state`.

    Raises:
        DataError: there is no index, or it is damaged.
    """
    read_manifest(folder)
    with locked(folder):
        present = read_state(folder, known=known)
        content = change(present[1])
        manifest = _write(folder, content, before=present[0])
        if len(content) <= len(present[1]):  # else items were added, and uploads have no reason to go
            try:
                sweep_uploads(folder, content.metadata)
            except OSError as error:  # the change is made
                log.warning("the image of a removed item stays on the disk: %s", error)
        return manifest


@contextmanager
def pushing(folder: Path) -> Iterator[None]:
    """Keep other pushes of an index out, so that no address gets two states at once; the right to read is enough.

    Raises:
        DataError: there is no index.
    """
    read_manifest(folder)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems have no locks on folders
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(folder: Path, content: IndexContent, *, before: Manifest | None) -> Manifest:
    """Write a state after `before`, or the first one. If that fails, nothing of it stays to fill the disk further."""
    try:
        manifest, temporary = _prepared(folder, content, before)
    except Exception:
        with suppress(OSError):  # what went wrong first is what is told
            _clean(folder, keep=before)
        raise
    temporary.replace(folder / MANIFEST)
    sync_folder(folder)
    _clean(folder, keep=manifest)
    return manifest


def _prepared(folder: Path, content: IndexContent, before: Manifest | None) -> tuple[Manifest, Path]:
    """Write the files of a state; return its manifest, and where that lies until it takes its name."""
    files = {
        "codes": put_file(folder, "codes", lambda file: np.save(file, content.packed, allow_pickle=False)),
        "ids": put_file(folder, "ids", lambda file: np.save(file, content.ids, allow_pickle=False)),
        "metadata": put_file(folder, "metadata", lambda file: pq.write_table(content.metadata, file)),
    }
    created, identity = (_now(), secrets.token_hex(16)) if before is None else (before.created, before.identity)
    manifest = Manifest(len(content), content.next_id, content.model, created, _now(), __version__, files, identity)
    values = {"format": FORMAT} | asdict(manifest)
    text = json.dumps(values | {"checksum": _checksum_of(values)}, indent=2) + "\n"
    sync_folder(folder)
    return manifest, written(folder, lambda file: file.write(text.encode()))


def _clean(folder: Path, *, keep: Manifest | None) -> None:
    """Remove files of other states and of writes that were cut off; files that are not ours stay."""
    names = set() if keep is None else {entry.name for entry in keep.files.values()}
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in names:
            with suppress(PermissionError):  # Windows keeps a file that a push reads; the next write removes it
                path.unlink(missing_ok=True)


def _checksum_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
