"""The memory of an index over that of its codes, for `bench_search.py`; each is measured in a process of its own."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from saat.index.catalog import make_index

MEMORY_OF = ("faiss", "faiss-with-gaps", "bare", "flat", "multi-index")


def bare_index(packed: NDArray[np.uint8], *, use_heap: bool) -> Any:
    index: Any = faiss.IndexBinaryFlat(8 * packed.shape[1])
    index.use_heap = use_heap
    index.add(packed)
    return index


def anonymous_bytes() -> int:
    """Return the memory of this process that no file backs; freed memory is given back first."""
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def measure_alone(kind: str, path: Path) -> None:
    """Print the memory of an index over that of its codes; run in a process of its own."""

    def build(packed: NDArray[np.uint8]) -> Any:
        if kind == "bare":
            index = bare_index(packed, use_heap=False)
        else:
            index = make_index(kind.removesuffix("-with-gaps"), 8 * packed.shape[1])
            ids = np.arange(len(packed))
            index.add(packed, ids + (ids > 0) if kind.endswith("-with-gaps") else ids)
        index.search(np.zeros((1, packed.shape[1]), np.uint8), 10)
        return index

    build(np.zeros((1000, np.load(path, mmap_mode="r").shape[1]), np.uint8))  # loads what every index needs
    before = anonymous_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    peak_before = peak_bytes()
    packed = np.load(path)
    index, size = build(packed), packed.nbytes
    peak = peak_bytes() - peak_before
    del packed
    print(json.dumps({"resident": (anonymous_bytes() - before) / size, "peak": peak / size}))
    del index


def measure_memory(
    packed: NDArray[np.uint8], work: Path, kinds: Sequence[str] = MEMORY_OF
) -> dict[str, dict[str, float]]:
    """Return what `measure_alone` prints of each kind, each in a fresh process."""
    with TemporaryDirectory(dir=work) as folder:
        path = Path(folder) / "codes.npy"
        np.save(path, packed)
        commands = {kind: [sys.executable, __file__, kind, str(path)] for kind in kinds}
        return {
            kind: json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for kind, command in commands.items()
        }


if __name__ == "__main__":
    measure_alone(sys.argv[1], Path(sys.argv[2]))
