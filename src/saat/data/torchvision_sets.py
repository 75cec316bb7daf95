"""torchvision's CIFAR-10, CIFAR-100 and Fashion-MNIST, from a local folder or by download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saat.data.collection import Collection, multi_hot
from saat.errors import DataError

IMAGE_SIZE = 32
FILES = {
    "CIFAR10": "the folder cifar-10-batches-py",
    "CIFAR100": "the folder cifar-100-python",
    "FashionMNIST": "the four unpacked idx files in FashionMNIST/raw",
}


def reader_of(class_name: str) -> Callable[[Path, bool], Collection]:
    """Return the reader of torchvision's `class_name`: its train and test parts are the pools train and query."""

    def read_set(root: Path, download: bool) -> Collection:
        import torchvision  # takes a second, which most commands can do without

        dataset = getattr(torchvision.datasets, class_name)
        try:
            parts = [dataset(str(root), train=train, download=download) for train in (True, False)]
        except (RuntimeError, OSError, ValueError, AssertionError) as error:  # not there, damaged, or no network
            found = " ".join(str(error).split())  # torchvision reports over several lines
            hint = f"put {FILES[class_name]} there, or set `data.download` where there is a network"
            raise DataError(f"`data.root` holds {class_name}; at {root}: {found}. To mend it, {hint}") from error
        return _collect(parts)

    return read_set


def _collect(parts: list[Any]) -> Collection:
    images: list[NDArray[np.uint8]] = [np.asarray(part.data) for part in parts]
    labels = np.concatenate([np.asarray(part.targets) for part in parts])
    together = np.concatenate(images)
    train = len(images[0])

    def read(row: int) -> NDArray[np.uint8]:
        image = together[row]
        return image if image.ndim == 3 else np.pad(np.repeat(image[:, :, None], 3, axis=2), ((2, 2), (2, 2), (0, 0)))

    names = [
        f"{split} {row}" for split, part in zip(("train", "test"), images, strict=True) for row in range(len(part))
    ]
    return Collection(
        item_names=tuple(names),
        labels=multi_hot(labels, len(parts[0].classes)),
        class_names=tuple(parts[0].classes),
        pools={"train": np.arange(train), "query": np.arange(train, len(together))},
        read=read,
        image_size=IMAGE_SIZE,
    )
