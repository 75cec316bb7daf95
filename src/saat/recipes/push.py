"""Move the index of a folder to a server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saat.errors import ArgumentError, check_at_least
from saat.index.address import parse_address
from saat.index.blocks import open_blocks
from saat.index.catalog import open_remote
from saat.index.push import push as push_items
from saat.index.storage import pushing
from saat.runtime import progress


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Move an index to Milvus or PostgreSQL, or bring what is there up to date. The same command goes on after a stop.

    Args:
        index: folder of the index; may be given without its name.
        to: milvus://host:19530/collection, milvus+tls for TLS, or postgresql://host/database?table=name.
        hnsw: in PostgreSQL, make the graph of approximate searches too.
        batch_size: items of a request; a stop costs at most so many, or in PostgreSQL, where an index was whole, all.
        quiet: print nothing.
    """

    index: Path
    to: str
    hnsw: bool = False
    batch_size: int = 2_000
    quiet: bool = False

    def __post_init__(self) -> None:
        check_at_least("batch_size", self.batch_size, 1)
        if not parse_address(self.to).in_postgresql and self.hnsw:
            raise ArgumentError("`hnsw` is for PostgreSQL; Milvus is searched exactly")


def push(config: PushConfig) -> dict[str, Any]:
    """Push by `config`, print what was done, and return it."""
    written = removed = 0
    nothing: Iterable[None] = ()
    with pushing(config.index), open_remote(config.to) as remote:
        content = open_blocks(config.index)
        of_folder = {"identity": content.manifest.identity, "created": content.manifest.created}
        steps = push_items(content, remote, **of_folder, batch_size=config.batch_size)
        action = "push"
        with progress(nothing, action, unit="item", total=len(content), quiet=config.quiet) as bar:
            for step in steps:
                if step.action != action:
                    action = step.action
                    bar.reset()  # after it was compared in part, all is pushed
                    bar.set_description(action)
                written, removed = written + step.written, removed + step.removed
                bar.update(step.items)
        if config.hnsw:
            remote.build_graph()
    report = {"count": len(content), "written": written, "removed": removed}
    if not config.quiet:
        print(f"{remote.address}: {len(content):,} items; {written:,} written, {removed:,} removed")
    return report
