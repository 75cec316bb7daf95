"""Move the items of a folder to a server, in steps that can be stopped at any moment and given again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from saat.errors import ArgumentError
from saat.index.content import IndexContent
from saat.index.remote import RemoteIndex
from saat.index.rows import digest_of, rows_of
from saat.index.stored import RemoteManifest


@dataclass(frozen=True)
class Step:
    """What was done for some items.

    Args:
        items: of the folder.
        written: of them, those that the server lacked, or had otherwise.
        removed: items that the server had and the folder has not.
    """

    items: int
    written: int
    removed: int


def push(
    content: IndexContent, remote: RemoteIndex[Any], *, identity: str, created: str, batch_size: int
) -> Iterator[Step]:
    """Make the index on a server the same as `content`.

    What is there already is known by id and digest, so a push that was stopped goes on, and one without need writes
    nothing. The index is marked as a part from the first change to the last.

    Args:
        content: of the folder.
        remote: index that gets the items, or a place where there is none yet.
        identity: of the folder, which the place must have where it holds an index.
        created: when the folder was made.
        batch_size: items of a step.

    Raises:
        ArgumentError: the place holds another index, or codes of another model.
        DataError: the server does not answer.
    """
    manifest = RemoteManifest(content.model, identity, created, content.next_id, content.metadata.schema, complete=True)
    if remote.exists:
        remote.manifest.model.check(content.model)
        if remote.manifest.identity != identity:
            other = f"{remote.address} has that of another folder, made {remote.manifest.created}"
            raise ArgumentError(f"an address holds the index of one folder; {other}")
    starts = list(range(0, max(1, len(content)), batch_size))
    begun = False
    for number, start in enumerate(starts):
        ids = content.ids[start : start + batch_size]
        low = int(ids[0]) if number else 0
        high = int(content.ids[starts[number + 1]]) if number + 1 < len(starts) else None
        there = remote.digests(low, high) if remote.exists else {}
        packed, rows = content.packed[start : start + len(ids)], content.metadata.slice(start, len(ids))
        digests = [digest_of(code.tobytes(), row) for code, row in zip(packed, rows_of(rows), strict=True)]
        new = np.array([there.get(int(id_)) != digest for id_, digest in zip(ids, digests, strict=True)], np.bool_)
        gone = np.setdiff1d(np.array(list(there), np.int64), ids)
        if not begun and (new.any() or len(gone) or not remote.exists):
            remote.write(replace(manifest, complete=False))
            begun = True
        if new.any():
            remote.put(packed[new], rows.filter(pa.array(new)))
        yield Step(len(ids), int(new.sum()), remote.remove(gone) if len(gone) else 0)
    if remote.manifest != manifest:
        remote.write(manifest)
