"""Data sets by name, and the options that every recipe takes for them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from saat.data.collection import Collection
from saat.data.decoding import UPLOAD_PIXELS, decode_rows
from saat.data.fashion import read_fashion
from saat.data.folder import read_folder
from saat.data.image_list import read_image_list
from saat.data.scenes import read_scenes
from saat.data.splits import Splits, gather_split, select_rows
from saat.data.table import read_parquet
from saat.data.torchvision_sets import reader_of
from saat.errors import ArgumentError, DataError, check_at_least, check_choice

LARGEST = math.isqrt(UPLOAD_PIXELS)  # height and width, in pixels; a service takes no larger images either

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """An entry of the catalog.

    Args:
        about: one line for people.
        needs_root: whether `data.root` must be given.
        read: (root, download) -> collection.
    """

    about: str
    needs_root: bool
    read: Callable[[Path, bool], Collection]


DATASETS: Mapping[str, DataSet] = {
    "fashion": DataSet("10,000 + 1,000 embedded images of Fashion-MNIST, 10 classes", False, lambda *_: read_fashion()),
    "fashion-scenes": DataSet(
        "5,000 + 500 scenes of one to three garments, multi-label", False, lambda *_: read_scenes()
    ),
    "folder": DataSet("your images, one subfolder a class", True, lambda root, _: read_folder(root)),
    "image-list": DataSet(
        "{train,test,database}_img.txt and _label.txt, as in the papers", True, lambda root, _: read_image_list(root)
    ),
    "parquet": DataSet("columns image and label or labels, as on the hub", True, lambda root, _: read_parquet(root)),
    "cifar10": DataSet("torchvision's CIFAR-10", True, reader_of("CIFAR10")),
    "cifar100": DataSet("torchvision's CIFAR-100", True, reader_of("CIFAR100")),
    "fashion-mnist": DataSet("torchvision's Fashion-MNIST, all 70,000 images", True, reader_of("FashionMNIST")),
}


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images, and how they are split.

    Args:
        name: of the data set; `saat data list` shows all.
        root: its folder or file, where it is not embedded; kept as an absolute path.
        image_size: height and width of the images, in pixels, at most 6,324; 0 for the set's own.
        crop_border: pixels cut off each side before resizing.
        train_size: images of the train split; 0 for all that the set has for it, or, where it has no splits, half of
            what the queries leave, at most 5,000.
        query_size: images of the query split; 0 for all that the set has for it, or, where it has no splits, a tenth,
            at most 1,000.
        database_size: images of the database; 0 for all that is left for it.
        train_in_database: whether train images are part of the database, where the set does not fix it.
        split_seed: draws the splits; null takes the first images, in the order of the set.
        download: let torchvision fetch its sets.
    """

    name: str = "fashion"
    root: Path | None = None
    image_size: int = 0
    crop_border: int = 0
    train_size: int = 0
    query_size: int = 0
    database_size: int = 0
    train_in_database: bool = True
    split_seed: int | None = 0
    download: bool = False

    def __post_init__(self) -> None:
        check_choice("data.name", self.name, DATASETS)
        for name in ("image_size", "crop_border", "train_size", "query_size", "database_size"):
            check_at_least(f"data.{name}", getattr(self, name), 0)
        if self.split_seed is not None:
            check_at_least("data.split_seed", self.split_seed, 0)
        if self.image_size > LARGEST:
            raise ArgumentError(f"`data.image_size` is 0 (the set's own) to {LARGEST} pixels; got {self.image_size}")
        if DATASETS[self.name].needs_root and self.root is None:
            raise ArgumentError(f"`data.root` says where the images of data set {self.name} lie; got none")
        if self.root is not None:  # cards and reports hold it, and are read from other folders
            root = self.root.expanduser() if self.root.parts[:1] == ("~",) else self.root
            object.__setattr__(self, "root", root.absolute())


def load_splits(options: DataOptions, *, quiet: bool = False) -> Splits:
    """Read, select and decode the three splits. Each image is decoded once. What is odd about them is logged.

    Raises:
        DataError: the set cannot be read, or every image of a split is damaged.
        ArgumentError: a split is larger than what there is.
    """
    return decode_splits(read_collection(options), options, quiet=quiet)


def read_collection(options: DataOptions) -> Collection:
    """Read what there is, without decoding an image, with the size that `options` ask for.

    Raises:
        DataError: the set cannot be read.
    """
    collection = DATASETS[options.name].read(options.root or Path(), options.download)
    return replace(collection, image_size=options.image_size or collection.image_size)


def decode_splits(collection: Collection, options: DataOptions, *, quiet: bool = False) -> Splits:
    """Select and decode the three splits, as `load_splits` does, of what `read_collection` has read."""
    rows = select_rows(
        collection,
        train_size=options.train_size,
        query_size=options.query_size,
        database_size=options.database_size,
        train_in_database=options.train_in_database,
        split_seed=options.split_seed,
    )
    everything = np.unique(np.concatenate(list(rows.values())))
    size, crop_border = collection.image_size, options.crop_border
    decoded = decode_rows(collection, everything, size=size, crop_border=crop_border, quiet=quiet)
    if len(decoded.damaged) == len(everything):
        raise DataError(f"at least one image can be decoded; all {len(everything)} failed, first {decoded.damaged[0]}")
    splits = {name: gather_split(name, collection, chosen, decoded) for name, chosen in rows.items()}
    for name, split in splits.items():
        if not len(split):
            raise DataError(f"each split has an image that can be decoded; {name} has none of {len(rows[name])}")
    whole = Splits(
        train=splits["train"],
        query=splits["query"],
        database=splits["database"],
        class_names=collection.class_names,
        damaged=decoded.damaged,
    )
    for found in whole.defects():
        log.warning(found)
    return whole
