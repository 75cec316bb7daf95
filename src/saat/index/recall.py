"""How much an approximate index finds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saat.errors import ArgumentError
from saat.index.base import HammingIndex


def recall_at(index: HammingIndex, exact: HammingIndex, packed: NDArray[np.uint8], *, k: int) -> float:
    """Return the mean share of the k results of a query that are as near as the k nearest items.

    A tie counts as found whichever of its items is named, since they are equally near.

    Args:
        index: whose results are judged.
        exact: an exact index with the same items.
        packed: uint8 (Q, K/8), the queries.
        k: at least 1.

    Raises:
        ArgumentError: there is no query, or the exact index is empty.
    """
    if not len(packed) or not len(exact):
        raise ArgumentError(f"recall needs queries and items; got {len(packed)} and {len(exact)}")
    found, nearest = index.search(packed, k), exact.search(packed, k)
    wanted = min(k, len(exact))
    farthest = nearest.distances[:, wanted - 1 : wanted]
    hits = (found.ids >= 0) & (found.distances <= farthest)
    return float(hits.sum(axis=1).mean() / wanted)
