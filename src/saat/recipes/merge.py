"""Merge indexes: the parts of one collection, encoded on several machines, become one index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from saat.errors import ArgumentError, DataError
from saat.index.content import IndexContent
from saat.index.storage import check_new, create_index, read_index
from saat.recipes.damaged import keep_damaged, lines_without, read_damaged
from saat.recipes.encoder import WORK
from saat.runtime import progress


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Merge indexes of one model into a new one, whose items get the ids 0, 1, ... in the order of the parts.

    Args:
        parts: folders of indexes, which stay as they are; items whose path is in an earlier part are passed over.
        out: folder for the new index.
        quiet: print nothing.
    """

    parts: list[Path]
    out: Path
    quiet: bool = False

    def __post_init__(self) -> None:
        if not self.parts:
            raise ArgumentError("`parts` are folders of indexes; got none")


def merge(config: MergeConfig) -> dict[str, Any]:
    """Merge by `config`, print what was done, and return it.

    Raises:
        DataError: `out` holds an index; or a part holds none, is damaged, or is not finished.
        ArgumentError: the parts differ in their model or in the type of a column, or a path has two codes.
    """
    check_new(config.out)
    content, passed_over = _merged(config.parts, quiet=config.quiet)
    damaged = list(dict.fromkeys(chain(*map(read_damaged, config.parts))))
    if damaged and "path" in content.metadata.column_names:
        damaged = lines_without(damaged, content.metadata.column("path").drop_null().to_pylist())
    keep_damaged(config.out, damaged, [])  # before the index, so that no index lacks it
    create_index(config.out, content)
    if not config.quiet:
        known = f"; {passed_over:,} were there already" if passed_over else ""
        print(f"{config.out}: {len(content):,} items from {len(config.parts)} indexes{known}")
    return {"count": len(content), "already_there": passed_over}


def _merged(parts: Sequence[Path], *, quiet: bool) -> tuple[IndexContent, int]:
    """Return the items of all parts, and how many were passed over because their path is in an earlier part."""
    contents: list[IndexContent] = []
    for part in progress(parts, "read", unit="index", quiet=quiet):
        contents.append(_read_part(part, contents))
    packed = np.concatenate([content.packed for content in contents])
    columns = pa.concat_tables([content.metadata for content in contents], promote_options="default").drop_columns("id")
    again, first = _known_paths(columns)
    differs = (packed[again] != packed[first]).any(axis=1)
    if differs.any():
        row = int(differs.argmax())
        ends = np.cumsum([len(content) for content in contents])
        one, other = (parts[int(np.searchsorted(ends, places[row], side="right"))] for places in (first, again))
        raise ArgumentError(
            f"`parts` have one code for each path; {columns.column('path')[int(again[row])]} has one in {one}, another "
            f"in {other} (saat index remove takes an item out)"
        )
    if len(again):
        keep = np.isin(np.arange(len(packed)), again, invert=True)
        packed, columns = packed[keep], columns.filter(pa.array(keep))
    merged = IndexContent.empty(contents[0].model).added(packed, columns, model=contents[0].model)
    return merged, sum(map(len, contents)) - len(merged)


def _read_part(part: Path, before: Sequence[IndexContent]) -> IndexContent:
    """Read a part that is to stand after others."""
    for work in part.glob(f"{WORK}*"):
        raise DataError(
            f"`parts` are finished indexes; found {work}, of a build or an addition that was stopped or still runs "
            "(the same command again finishes it; or remove that folder)"
        )
    content = read_index(part, name="parts")
    try:
        for first in before[:1]:
            first.model.check(content.model)
        pa.unify_schemas([*(other.schema for other in before), content.schema])
    except (ArgumentError, pa.ArrowException) as error:
        raise ArgumentError(f"`parts` have one model and one type a column; {part} does not fit: {error}") from error
    return content


def _known_paths(columns: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places (M,) of the items whose path an item before them has, and the places (M,) of these."""
    if "path" not in columns.column_names:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    paths = columns.column("path").cast(pa.large_string())  # looked up in one array; one of `string` ends at 2 GiB
    first = pc.index_in(paths, value_set=paths, skip_nulls=True).cast(pa.int64()).fill_null(-1).to_numpy()
    again = np.flatnonzero((first >= 0) & (first != np.arange(len(first))))
    return again, first[again]
