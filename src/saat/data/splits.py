"""Splits: train, query and database, written down with checksums and checked for overlap."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saat.data.collection import Collection
from saat.data.decoding import Decoded, allocate
from saat.errors import ArgumentError
from saat.types import has_label

NAMED = 5  # damaged images and empty classes that a warning names
BLOCK = 256  # label sets at a time
ANY_RANKING = 0.95  # chance MAP above which no model can be told from another


@dataclass(frozen=True)
class ImageSplit:
    """The decoded images of one split.

    Args:
        name: `train`, `query` or `database`.
        images: uint8 (N, 3, S, S), RGB.
        labels: uint8 (N, C) multi-hot.
        item_names: N paths or row names, for people.
        digests: N content hashes of the decoded pixels: a PNG and a WebP copy of an image are the same.
    """

    name: str
    images: Tensor
    labels: Tensor
    item_names: tuple[str, ...]
    digests: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def checksum(self) -> str:
        """Return a hash of all contents and labels, in order."""
        digest = hashlib.sha256("".join(self.digests).encode())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set.

    Args:
        train: what models learn from; it may be part of the database.
        query: what is searched for.
        database: what is ranked.
        class_names: C names.
        damaged: "name: reason" of each image left out.
    """

    train: ImageSplit
    query: ImageSplit
    database: ImageSplit
    class_names: tuple[str, ...]
    damaged: tuple[str, ...]

    def overlap(self) -> int:
        """Return the number of queries whose content is in the database too, whatever its name there."""
        database = set(self.database.digests)
        return sum(digest in database for digest in self.query.digests)

    @cached_property
    def relevant_share(self) -> float:
        """Return the mean share of database items that share a label with a query that has one, 0 without such.

        The MAP of a random ranking, but for what chance adds to a short one: see `RetrievalMetrics.chance_map`. Counted
        over distinct label sets, a block at a time: 10,000 queries by 45,000 items would fill the memory.
        """
        labeled = self.query.labels[has_label(self.query.labels)]
        queries, query_counts = torch.unique(labeled, dim=0, return_counts=True)
        items, item_counts = torch.unique(self.database.labels, dim=0, return_counts=True)
        items, item_counts = items.float().T, item_counts.double()
        parts = zip(queries.float().split(BLOCK), query_counts.double().split(BLOCK), strict=True)
        pairs = sum(float(counts @ ((part @ items > 0).double() @ item_counts)) for part, counts in parts)
        return pairs / max(1, len(labeled) * len(self.database))

    def checksums(self) -> dict[str, str]:
        """Return the checksum of each split, by its name."""
        return {split.name: split.checksum() for split in (self.train, self.query, self.database)}

    def defects(self) -> list[str]:
        """Return what a user would want to know before trusting these images, a sentence each."""
        found = []
        if self.damaged:
            shown = "; ".join(self.damaged[:NAMED])
            more = f"; and {len(self.damaged) - NAMED} more" if len(self.damaged) > NAMED else ""
            found.append(f"damaged images are left out, {len(self.damaged)} in all: {shown}{more}")
        for split in (self.train, self.database):
            empty = [self.class_names[place] for place in torch.nonzero(split.labels.sum(0) == 0).flatten().tolist()]
            if empty:
                shown = ", ".join(empty[:NAMED]) + (", ..." if len(empty) > NAMED else "")
                found.append(f"{split.name} has no image of {len(empty)} of {len(self.class_names)} classes: {shown}")
        if (share := self.relevant_share) > ANY_RANKING:
            found.append(f"any ranking is good: a query shares a label with {share:.1%} of the items")
        return found

    def manifest(self) -> dict[str, Any]:
        """Return sizes, checksums, label statistics, overlap, share of relevant items and damaged images, for JSON."""
        splits = (self.train, self.query, self.database)
        return {
            "class_names": list(self.class_names),
            "sizes": {split.name: len(split) for split in splits},
            "checksums": self.checksums(),
            "labels_per_image": {split.name: float(split.labels.sum(1).float().mean()) for split in splits},
            "unlabeled": {split.name: int((split.labels.sum(1) == 0).sum()) for split in splits},
            "class_counts": dict(zip(self.class_names, self.database.labels.sum(0).tolist(), strict=True)),
            "overlap": self.overlap(),
            "relevant_share": self.relevant_share,
            "damaged": list(self.damaged),
        }


def select_rows(
    collection: Collection,
    *,
    train_size: int,
    query_size: int,
    database_size: int,
    train_in_database: bool,
    split_seed: int | None,
) -> dict[str, NDArray[np.int64]]:
    """Choose the rows of each split.

    Args:
        collection: names the pools.
        train_size: 0 for all of the train pool (of a single pool: half of what the queries leave, at most 5,000).
        query_size: 0 for all of the query pool (of a single pool: a tenth, at most 1,000).
        database_size: 0 for all.
        train_in_database: whether train rows are part of the database, where the set itself does not fix it.
        split_seed: draws the rows; none takes the first ones, in the order of the set.

    Raises:
        ArgumentError: a split is larger than what there is, or would be empty.
    """
    generator = np.random.default_rng(split_seed) if split_seed is not None else None

    def ordered(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if generator is None else generator.permutation(rows)

    def take(name: str, rows: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        if not len(rows):
            left = "see `data.query_size`, `data.train_size` and `data.train_in_database`"
            raise ArgumentError(f"each split has an image; the others leave none for {name} ({left})")
        if size < 0 or size > len(rows):
            raise ArgumentError(f"`data.{name}_size` is 0 (all) to {len(rows)}, what there is for {name}; got {size}")
        return rows[:size] if size else rows

    pools = collection.pools
    if "all" in pools:
        everything = ordered(pools["all"])
        query = take("query", everything, query_size or max(1, min(1000, len(everything) // 10)))
        train_pool = everything[len(query) :]
        train = take("train", train_pool, train_size or max(1, min(5000, len(train_pool) // 2)))
    else:
        query = take("query", ordered(pools["query"]), query_size)
        train_pool = ordered(pools["train"])
        train = take("train", train_pool, train_size)
    if "database" in pools:
        database_pool = ordered(pools["database"])
    else:
        database_pool = train_pool if train_in_database else train_pool[len(train) :]
    return {"train": train, "query": query, "database": take("database", database_pool, database_size)}


def gather_split(name: str, collection: Collection, rows: NDArray[np.int64], decoded: Decoded) -> ImageSplit:
    """Return the split of those `rows` that were decoded, in their order."""
    places = np.searchsorted(decoded.rows, rows)
    kept = np.array([bool(decoded.digests[place]) for place in places], dtype=bool)
    places, rows = places[kept], rows[kept]
    images = allocate((len(places), *decoded.images.shape[1:]))
    np.take(decoded.images, places, axis=0, out=images, mode="clip")  # the default mode would buffer a whole copy
    return ImageSplit(
        name=name,
        images=torch.from_numpy(images),
        labels=torch.from_numpy(collection.labels[rows]),
        item_names=tuple(collection.item_names[row] for row in rows),
        digests=tuple(decoded.digests[place] for place in places),
    )
