"""Move the items of a folder to a server, in steps that can be stopped at any moment and given again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saat.errors import ArgumentError
from saat.index.blocks import Blocks
from saat.index.content import IndexContent
from saat.index.remote import RemoteIndex
from saat.index.rows import rows_of
from saat.index.stored import RemoteManifest, Stored


@dataclass(frozen=True)
class Step:
    """What was done for some items.

    Args:
        action: a push compares an index that may be the same already, up to the first difference; then it pushes all.
        items: of the folder.
        written: of them, those that the place lacked, or had otherwise; in Milvus, the collection that is not searched.
        removed: items that the place had and the folder has not.
    """

    action: Literal["compare", "push"]
    items: int
    written: int
    removed: int


@dataclass(frozen=True)
class Difference:
    """How a place on a server differs from some items of a folder, whose ids follow each other.

    Args:
        items: how many these are.
        new: of them, those that the server lacks, or has otherwise.
        gone: int64 (M,), ids among theirs that the server has alone.
    """

    items: int
    new: list[Stored]
    gone: NDArray[np.int64]


def push(content: Blocks, remote: RemoteIndex[Any], *, identity: str, created: str, batch_size: int) -> Iterator[Step]:
    """Make the index on a server the same as `content`.

    What is there already is known by id and digest, so a push that was stopped goes on, and one without need writes
    nothing. Readers of a whole index have the state before until the push ends, and its own from then on. A place
    without one is filled where it is, and marked as a part until the end.

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
    manifest = RemoteManifest(content.model, identity, created, content.next_id, content.schema, complete=True)
    # what no server takes is told before a place is taken; one that is there has rows of these columns already
    for block in islice(content.blocks(batch_size), 1 if remote.exists else None):
        rows_of(block.metadata)
    if remote.exists:
        remote.manifest.model.check(content.model)
        begun = remote.manifest.complete or len(remote)  # else a first push that wrote nothing
        if begun and remote.manifest.identity != identity:
            other = f"{remote.address} has that of another folder, made {remote.manifest.created}"
            raise ArgumentError(f"an address holds the index of one folder; {other}")
        if remote.manifest == manifest:
            for each in _differences(content, remote, batch_size):
                if each.new or len(each.gone):
                    break
                yield Step("compare", each.items, 0, 0)
            else:
                return
    with remote.changing():
        remote.write(replace(manifest, complete=False))
        for each in _differences(content, remote, batch_size):
            remote.put(each.new)
            yield Step("push", each.items, len(each.new), remote.remove(each.gone) if len(each.gone) else 0)
        remote.write(manifest)


def _differences(content: Blocks, remote: RemoteIndex[Any], size: int) -> Iterator[Difference]:
    """Yield the differences of blocks of at most `size` items, at last those of the ids above all of them."""
    low = 0
    for block in chain(content.blocks(size), [IndexContent.empty(content.model)]):
        high = int(block.ids[-1]) + 1 if len(block) else None
        there = remote.digests(low, high)
        items = remote.prepared(block.packed, block.metadata)
        new = [item for item in items if there.pop(item.id, None) != item.digest]
        yield Difference(len(block), new, np.array(sorted(there), np.int64))
        low = high or low
