"""An index with all kinds of metadata, and how tests push it to a server."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from saat.index.content import IndexContent, ModelKey
from saat.index.push import push
from saat.index.remote import RemoteIndex

MODEL = ModelKey("a" * 32, 24, "runs/plain")
COUNT = 400
TEXTS = ["cat", "dog", None, "it's", 'do"g', "a\\b", "é%_x", "new\nline", "Z", "cab"]
TAGS = ["cat, dog", "wildcat, cats", None, 'do"g, cat', "dog"]
NUMBERS = [1.5, -2.0, None, float("nan"), float("inf"), float("-inf"), 0.1]


def content() -> IndexContent:
    """Items of seven distinct codes, so that nearly all distances are ties, of all kinds of metadata, with gaps."""
    codes = np.random.default_rng(0).integers(0, 256, (7, 3), dtype=np.uint8)
    columns = {
        "path": pa.array([f"/photos/{row}.png" for row in range(COUNT)]),
        "label": pa.array([TEXTS[row % 10] for row in range(COUNT)]),
        "tags": pa.array([TAGS[row % 5] for row in range(COUNT)]),
        "price": pa.array([NUMBERS[row % 7] for row in range(COUNT)]),
        "narrow": pa.array([[0.1, None, 3.0][row % 3] for row in range(COUNT)], pa.float32()),
        "number": pa.array([[1, 2**53 - 1, None, -5][row % 4] for row in range(COUNT)]),
        "sold": pa.array([[True, False, None][row % 3] for row in range(COUNT)]),
        "kind": pa.array([["x", "y"][row % 2] for row in range(COUNT)]).dictionary_encode(),
        "größe": pa.array([row % 3 for row in range(COUNT)]),
        "camera model": pa.array([["X 100", "Y", None][row % 3] for row in range(COUNT)]),
        'x"] == 1 or id >= 0 or metadata["': pa.array([row % 5 for row in range(COUNT)]),
        "%s and 'a\\": pa.array([row % 7 for row in range(COUNT)]),
        "a][b": pa.array([row % 4 for row in range(COUNT)]),
        "hash": pa.array([[1, 2**64 - 1][row % 2] for row in range(COUNT)], pa.uint64()),
        "taken": pa.array([date(2024, 1, 1 + row % 9) for row in range(COUNT)]),
        "half": pa.array([[0.1, None, 3.0][row % 3] for row in range(COUNT)], pa.float16()),
    }
    packed = codes[np.random.default_rng(1).integers(0, 7, COUNT)]
    return IndexContent.empty(MODEL).added(packed, pa.table(columns), model=MODEL).without(np.arange(0, COUNT, 11))


def pushed_steps(items: IndexContent, remote: RemoteIndex[Any], identity: str = "ours") -> tuple[int, int, int]:
    """Push; return how many items were looked at, written and removed."""
    steps = list(push(items, remote, identity=identity, created="now", batch_size=150))
    return sum(step.items for step in steps), sum(step.written for step in steps), sum(step.removed for step in steps)
