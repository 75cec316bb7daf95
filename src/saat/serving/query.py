"""What a search is for, and among which items."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from saat.index.base import HammingIndex
from saat.index.content import IndexContent


@dataclass(frozen=True)
class Among:
    """The items that a search is among: all, or those of a condition. Replaced as a whole, never changed.

    Args:
        where: the condition, if there is one.
        content: these items and others; codes and metadata of results are taken from here.
        index: of these items, or of all where it takes conditions itself.
    """

    where: str | None
    content: IndexContent = field(compare=False)
    index: HammingIndex


@dataclass(frozen=True)
class Query:
    """One search.

    Args:
        aim: an image, uint8 (3, S, S), or a packed code, uint8 (K/8,).
        k: how many results, at most.
        among: the items of a condition, as `SearchEngine.among` found them; none for all.
        radius: in bits; results are the nearest of all items within it. None for the nearest of all.
        seen: the image (3, S, S) of an item whose code is `aim`, for the detector.
    """

    aim: NDArray[np.uint8]
    k: int
    among: Among | None = None
    radius: int | None = None
    seen: NDArray[np.uint8] | None = None

    @property
    def image(self) -> NDArray[np.uint8] | None:
        """What a detector looks at, if there is any."""
        return self.aim if self.aim.ndim == 3 else self.seen
