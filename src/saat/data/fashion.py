"""The embedded data set: 11,000 real images of Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017; MIT licence)."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saat.data.collection import Collection, multi_hot

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IMAGE_SIZE = 32
SIDE = 28  # of a garment in its sheet


def read_garments(name: str) -> NDArray[np.uint8]:
    """Return the garments of the sheet `train`, `database` or `query`: gray, uint8 (N, 28, 28), class i mod 10."""
    with (files("saat.data") / "embedded" / f"{name}.png").open("rb") as file, Image.open(file) as image:
        sheet = np.asarray(image)
    down, across = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    return sheet.reshape(down, SIDE, across, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)


def read_fashion() -> Collection:
    """Read the set: 5,000 train images, which are in the database with 5,000 more, and 1,000 queries, disjoint.

    Images are padded from 28 to 32 pixels a side, and gray is repeated over three channels.
    """
    sheets = {name: read_garments(name) for name in ("train", "database", "query")}
    garments = np.concatenate(list(sheets.values()))
    margin = (IMAGE_SIZE - SIDE) // 2
    images = np.pad(garments, ((0, 0), (margin, margin), (margin, margin)))
    train, database = len(sheets["train"]), len(sheets["train"]) + len(sheets["database"])
    names = [f"{name} {number}" for name, sheet in sheets.items() for number in range(len(sheet))]
    return Collection(
        item_names=tuple(names),
        labels=multi_hot(np.arange(len(garments)) % 10, 10),
        class_names=CLASS_NAMES,
        pools={
            "train": np.arange(train),
            "database": np.arange(database),
            "query": np.arange(database, len(garments)),
        },
        read=lambda row: np.repeat(images[row][:, :, None], 3, axis=2),
        image_size=IMAGE_SIZE,
    )
