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

from saat.errors import ArgumentError, DataError, check_at_least, check_choice, check_default
from saat.index.address import is_address
from saat.index.base import HammingIndex, SearchResult
from saat.index.catalog import (
    BACKEND,
    INDEXES,
    check_backend,
    check_radius,
    make_index,
    nearest_within,
    open_remote,
)
from saat.index.content import IndexContent, ModelKey
from saat.index.recall import recall_at
from saat.index.storage import read_index
from saat.index.where import select
from saat.recipes.encoder import Encoder, check_model, load_encoder
from saat.recipes.items import item_reader
from saat.recipes.sheet import write_sheet
from saat.recipes.tables import print_table
from saat.runtime import RunOptions
from saat.serving.risk import load_assess
from saat.serving.rows import plain

FORMATS = ("table", "json", "sheet")
RADIUS_BACKEND = "flat"  # one query within a radius does not pay for the tables of multi-index hashing
NEAREST, WITHIN = 10, 100  # results, where `k` is not given: of a search, and of one within a radius


@dataclass(frozen=True, kw_only=True)
class SearchConfig(RunOptions):
    """Find the images of an index that are nearest to an image.

    Args:
        index: folder of the index, or the address that `saat index push` moved it to.
        image: an image file.
        k: how many results, 10 unless given; with `radius` how many at most, 100 unless given; `-k` for short.
        radius: all items whose codes differ in so many bits at most, with their number. By `backend` flat (the default)
            or multi-index.
        where: only items of this condition, such as "label == 'cat' and price < 20".
        format: table; json, which is printed with `quiet` too; or sheet: a picture of the results.
        out: PNG file of the sheet.
        backend: faiss (the default), flat or multi-index, which are exact; hnsw or ivf, which are not. An address is
            searched exactly by its server; with hnsw, by the graph of PostgreSQL.
        checkpoint: of the model that the index was built with, if its folder has moved; or of one that was hardened
            from it for queries only.
        model: your own model: package.module:factory.
        detector: folder `detector` that `saat detect` wrote for the model of queries: the query's risk is told.
        false_alarm_rate: share of clean queries that the detector may call an attack.
    """

    index: str | Path
    image: Path
    k: int | None = None
    radius: int | None = None
    where: str | None = None
    format: str = "table"
    out: Path | None = None
    backend: str | None = None
    checkpoint: Path | None = None
    model: str | None = None
    detector: Path | None = None
    false_alarm_rate: float = 0.01

    def __post_init__(self) -> None:
        check_at_least("k", self.most, 1)
        check_choice("format", self.format, FORMATS)
        check_backend(self.backend or BACKEND, self.index)
        if self.detector is None:
            check_default(self, "false_alarm_rate", of="a `detector`")
        if self.radius is not None:
            check_at_least("radius", self.radius, 0)
            check_radius(self.backend or RADIUS_BACKEND, remote=is_address(self.index))
        if (self.format == "sheet") != (self.out is not None):
            raise ArgumentError(f"`out` is the PNG file of `format` sheet; got {self.out} with {self.format}")
        if self.out is not None and self.out.suffix.lower() != ".png":
            raise ArgumentError(f"`out` is a PNG file, whose name ends in .png; got {self.out}")

    @property
    def most(self) -> int:
        """How many results there may be."""
        return (NEAREST if self.radius is None else WITHIN) if self.k is None else self.k


def search(config: SearchConfig) -> list[dict[str, Any]]:
    """Search by `config`, print or draw the results, and return them: rank, id, distance and metadata of each."""
    device = config.start()
    looking = _search_server if is_address(config.index) else _search_folder
    query, hits, where = looking(config, device)
    if config.out is not None:
        write_sheet(config.out, query, hits, read=item_reader(config.index))
    print_hits(config, hits, where)
    return hits


def _search_folder(config: SearchConfig, device: torch.device) -> tuple[bytes, list[dict[str, Any]], str]:
    """Return the query's content, the hits, and the name of the place."""
    content = read_index(Path(config.index))
    query, packed = _encoded(config, content.model, device)
    if config.where is not None:
        content = content.only(select(content.metadata, config.where).column("id").to_numpy())
    threads, default = torch.get_num_threads(), BACKEND if config.radius is None else RADIUS_BACKEND
    backend = config.backend or default
    index = filled(backend, content, threads=threads)
    if config.radius is not None:
        return query, _within(config, config.radius, content, index, packed), str(config.index)
    hits = find(content, index, packed, k=config.most)
    if len(content) and not INDEXES[backend].exact and not config.quiet:
        _tell_recall(backend, index, filled("faiss", content, threads=threads), packed, config.most)
    return query, hits, str(config.index)


def _search_server(config: SearchConfig, device: torch.device) -> tuple[bytes, list[dict[str, Any]], str]:
    """Return the query's content, the hits, and the name of the place."""
    approximate = config.backend == "hnsw"
    with open_remote(str(config.index), approximate=approximate) as remote:
        remote.check_complete()
        query, packed = _encoded(config, remote.manifest.model, device)
        result, content = remote.find(packed, config.most, where=config.where)
        if approximate and config.where is not None and not config.quiet:
            print("hnsw is approximate: items may be missing", file=sys.stderr)
        elif approximate and len(remote) and not config.quiet:
            with open_remote(str(config.index)) as exact:
                _tell_recall("hnsw", remote, exact, packed, config.most)
        return query, _rows(content, result), str(remote.address)


def _within(
    config: SearchConfig, radius: int, content: IndexContent, index: HammingIndex, packed: NDArray[np.uint8]
) -> list[dict[str, Any]]:
    """Return the nearest items within the radius, having told how many there are."""
    result, count = nearest_within(index, packed, radius, k=config.most)
    if not config.quiet:
        shown = f"; the nearest {config.most:,} follow, -k gives more" if count > config.most else ""
        print(f"{count:,} of {len(content):,} items within {radius} bits{shown}", file=sys.stderr)
    return _rows(content, result)


def _encoded(config: SearchConfig, model: ModelKey, device: torch.device) -> tuple[bytes, NDArray[np.uint8]]:
    """Return the content of the query, and its packed code (1, K/8) by the model of the index."""
    encoder = load_encoder(config.checkpoint or Path(model.checkpoint), config.model, device=device)
    check_model(encoder, model)
    try:
        query = config.image.read_bytes()
        image = encoder.prepare(query)[None]
    except OSError as error:
        raise DataError(f"`image` is an image file; {config.image}: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"`image` is an image file; {config.image}: {error}") from error
    if config.detector is not None and not config.quiet:
        _tell_risk(config, config.detector, encoder, image)
    return query, encoder.encode(image)


def _tell_risk(config: SearchConfig, detector: Path, encoder: Encoder, image: NDArray[np.uint8]) -> None:
    (risk,) = load_assess(detector, encoder.model, false_alarm_rate=config.false_alarm_rate)(image)
    text = f"the query {risk.sentence}: score {risk.score:.4f}, threshold {risk.threshold:.4f}"
    print(text, file=sys.stderr)


def _tell_recall(name: str, index: HammingIndex, exact: HammingIndex, packed: NDArray[np.uint8], k: int) -> None:
    recall = recall_at(index, exact, packed, k=k)
    print(f"{name} is approximate: it found {recall:.3f} of the nearest", file=sys.stderr)


def filled(name: str, content: IndexContent, *, threads: int) -> HammingIndex:
    """Return an index of the kind `name` with all items of `content`."""
    index = make_index(name, content.model.code_length, threads=threads)
    index.add(content.packed, content.ids)
    return index


def find(content: IndexContent, index: HammingIndex, packed: NDArray[np.uint8], *, k: int) -> list[dict[str, Any]]:
    """Return rank, id, distance and metadata of the `k` items nearest to one packed code (1, K/8)."""
    return _rows(content, index.search(packed, min(k, max(1, len(content)))))


def _rows(content: IndexContent, result: SearchResult) -> list[dict[str, Any]]:
    found = result.ids[0] >= 0
    ids, distances = result.ids[0][found], result.distances[0][found].tolist()
    rows = content.rows(np.searchsorted(content.ids, ids))
    return [
        {"rank": rank, "distance": distance} | row
        for rank, (distance, row) in enumerate(zip(distances, rows, strict=True), 1)
    ]


def print_hits(config: SearchConfig, hits: Sequence[Mapping[str, Any]], where: str) -> None:
    """Print the results in the format asked for; with `quiet`, JSON alone."""
    if config.format == "json":
        print(json.dumps(plain(list(hits)), indent=2, allow_nan=False))
    elif config.quiet:
        return
    elif config.format == "sheet":
        print(f"sheet: {config.out}")
    elif not hits:
        print(f"no item of {where} is found")
    else:
        columns = list(hits[0])
        rows = [["" if hit[name] is None else str(hit[name]) for name in columns] for hit in hits]
        print_table(f"Nearest to {config.image}", columns, rows)
