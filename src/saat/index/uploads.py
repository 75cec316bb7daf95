"""Images that clients sent to a service: the folder `uploads` of its index, files named by their content."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.compute as pc

UPLOADS = "uploads"
_SENT = re.compile(r"[0-9a-f]{64}\.[a-z0-9]+|\.[0-9a-f]{64}\..+")  # images, and what a killed write left of one


def place_now(folder: Path, path: str) -> str:
    """Return where the image of an item lies: an upload is in `uploads` of its index, which may have moved since.

    Args:
        folder: of the index.
        path: of the item's metadata.
    """
    there = PurePath(path)
    if there.parent.name != UPLOADS or not _SENT.fullmatch(there.name):
        return path
    here = folder.absolute() / UPLOADS / there.name
    return str(here) if here.is_file() else path


def sweep_uploads(folder: Path, metadata: pa.Table) -> None:
    """Remove the uploads that no item is of: its item was removed, or its addition was killed. Other files stay.

    An item names its upload by the name of the file alone, for the folder may have moved since.

    Args:
        folder: of the index, which is locked.
        metadata: of its present items.
    """
    uploads = folder / UPLOADS
    sent = [path for path in uploads.iterdir() if _SENT.fullmatch(path.name)] if uploads.is_dir() else []
    if not sent:
        return
    paths = metadata.column("path") if "path" in metadata.column_names else pa.chunked_array([], pa.string())
    near = paths.filter(pc.match_substring(paths, UPLOADS))  # few of many, mostly: a path takes a microsecond to split
    named = {PurePath(path).name for path in near.to_pylist()}
    for path in sent:
        if path.name not in named:
            path.unlink(missing_ok=True)
