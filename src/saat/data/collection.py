"""Collection: what every reader gives, images that are named and labeled but not yet decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Content = bytes | NDArray[np.uint8]
"""One image: an encoded file, or decoded pixels (H, W, 3)."""


@dataclass(frozen=True)
class Collection:
    """Images not yet decoded.

    Args:
        item_names: a name an item, for people.
        labels: uint8 (N, C) multi-hot.
        class_names: C names.
        pools: pool name -> rows int64. Either `all`; or `train` and `query`, with or without `database` (which may
            share rows with `train`). A set without a `database` pool draws its database from the rest.
        read: row -> content of that item.
        image_size: height and width that images get when the user does not say.
    """

    item_names: tuple[str, ...]
    labels: NDArray[np.uint8]
    class_names: tuple[str, ...]
    pools: Mapping[str, NDArray[np.int64]]
    read: Callable[[int], Content]
    image_size: int


def multi_hot(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.uint8]:
    """Return the class numbers (N,) as uint8 (N, C)."""
    return np.eye(num_classes, dtype=np.uint8)[labels]
