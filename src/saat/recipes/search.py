"""Search an index for the images nearest to one."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saat.errors import ArgumentError, DataError, check_at_least, check_choice
from saat.index.base import HammingIndex
from saat.index.catalog import INDEXES, make_index
from saat.index.content import IndexContent
from saat.index.recall import recall_at
from saat.index.storage import read_index
from saat.index.where import select
from saat.recipes.encoder import load_encoder
from saat.recipes.sheet import write_sheet
from saat.recipes.tables import print_table
from saat.runtime import RunOptions

FORMATS = ("table", "json", "sheet")


@dataclass(frozen=True, kw_only=True)
class SearchConfig(RunOptions):
    """Find the images of an index that are nearest to an image.

    Args:
        index: folder of the index.
        image: an image file.
        k: how many results.
        where: only items of this condition, such as "label == 'cat' and price < 20".
        format: table, json, or sheet: a picture of the results.
        out: PNG file of the sheet.
        backend: faiss, flat or multi-index, which are exact; hnsw or ivf, which are not.
        checkpoint: of the model that the index was built with, if its folder has moved.
        model: your own model: package.module:factory.
    """

    index: Path
    image: Path
    k: int = 10
    where: str | None = None
    format: str = "table"
    out: Path | None = None
    backend: str = "faiss"
    checkpoint: Path | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        check_at_least("k", self.k, 1)
        check_choice("format", self.format, FORMATS)
        check_choice("backend", self.backend, INDEXES)
        if (self.format == "sheet") != (self.out is not None):
            raise ArgumentError(f"`out` is the PNG file of `format` sheet; got {self.out} with {self.format}")


def search(config: SearchConfig) -> list[dict[str, Any]]:
    """Search by `config`, print or draw the results, and return them: rank, id, distance and metadata of each."""
    device = config.start()
    content = read_index(config.index)
    encoder = load_encoder(config.checkpoint or Path(content.model.checkpoint), config.model, device=device)
    content.model.check(encoder.key)
    try:
        query = config.image.read_bytes()
        packed = encoder.encode_content(query)
    except OSError as error:
        raise DataError(f"`image` is an image file; {config.image}: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"`image` is an image file; {config.image}: {error}") from error
    if config.where is not None:
        content = content.only(select(content.metadata, config.where).column("id").to_numpy())
    threads = torch.get_num_threads()
    index = filled(config.backend, content, threads=threads)
    hits = find(content, index, packed, k=config.k)
    if len(content) and not INDEXES[config.backend].exact and not config.quiet:
        recall = recall_at(index, filled("faiss", content, threads=threads), packed, k=config.k)
        print(f"{config.backend} is approximate: it found {recall:.3f} of the nearest", file=sys.stderr)
    if config.out is not None:
        write_sheet(config.out, query, hits)
    if not config.quiet:
        print_hits(config, hits)
    return hits


def filled(name: str, content: IndexContent, *, threads: int) -> HammingIndex:
    """Return an index of the kind `name` with all items of `content`."""
    index = make_index(name, content.model.code_length, threads=threads)
    index.add(content.packed, content.ids)
    return index


def find(content: IndexContent, index: HammingIndex, packed: NDArray[np.uint8], *, k: int) -> list[dict[str, Any]]:
    """Return rank, id, distance and metadata of the `k` items nearest to one packed code (1, K/8)."""
    result = index.search(packed, min(k, max(1, len(content))))
    found = result.ids[0] >= 0
    ids, distances = result.ids[0][found], result.distances[0][found].tolist()
    rows = content.metadata.take(np.searchsorted(content.ids, ids)).to_pylist()
    return [
        {"rank": rank, "distance": distance} | row
        for rank, (distance, row) in enumerate(zip(distances, rows, strict=True), 1)
    ]


def print_hits(config: SearchConfig, hits: Sequence[Mapping[str, Any]]) -> None:
    """Print the results in the format asked for."""
    if config.format == "json":
        print(json.dumps(hits, indent=2, default=str))
    elif config.format == "sheet":
        print(f"sheet: {config.out}")
    elif not hits:
        print(f"no item of {config.index} is found")
    else:
        columns = list(hits[0])
        rows = [["" if hit[name] is None else str(hit[name]) for name in columns] for hit in hits]
        print_table(f"Nearest to {config.image}", columns, rows)
