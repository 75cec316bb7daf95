"""Searches within a radius by multi-index hashing, beside comparing all codes, for `bench_search.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from search_memory import bare_index
from turns import in_turns, over_fastest, seconds, summary

from saat.index.flat import FlatIndex
from saat.index.multi_index import MultiIndex
from saat.runtime import derive_seed

RADII, QUERIES = tuple(range(2, 9)), 16


def near_queries(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return codes of the database with 0 to 8 bits flipped, so that each radius has something to find."""
    generator = np.random.default_rng(derive_seed("near", *packed.shape))
    bits = np.unpackbits(packed[generator.integers(0, len(packed), QUERIES)], axis=1)
    for row, flipped in enumerate(bits):
        flipped[generator.permutation(bits.shape[1])[: row % (max(RADII) + 1)]] ^= 1
    return np.packbits(bits, axis=1)


def measure_within(packed: NDArray[np.uint8], *, rounds: int) -> dict[str, Any]:
    """Check and time searches within a radius, a query a call: by tables, and of all codes in numpy and in FAISS."""
    queries, ids, code_length = near_queries(packed), np.arange(len(packed)), 8 * packed.shape[1]
    flat, multi, bare = FlatIndex(code_length), MultiIndex(code_length), bare_index(packed, use_heap=False)
    flat.add(packed, ids)
    multi.add(packed, ids)
    built, rows = seconds(lambda: multi.within(queries[:1], 2)), []
    for radius in RADII:
        wanted, found = flat.within(queries, radius), multi.within(queries, radius)
        for part in ("limits", "distances", "ids"):
            assert np.array_equal(getattr(found, part), getattr(wanted, part)), "multi-index hashing is not exact"
        assert np.array_equal(bare.range_search(queries, radius + 1)[0], wanted.limits), "FAISS finds another number"
        runs = {
            "multi_index": lambda radius=radius: [multi.within(query[None], radius) for query in queries],
            "flat": lambda radius=radius: [flat.within(query[None], radius) for query in queries],
            "faiss_range": lambda radius=radius: [bare.range_search(query[None], radius + 1) for query in queries],
        }
        times = in_turns(runs, rounds)
        rates = {name: summary([len(queries) / spent for spent in values]) for name, values in times.items()}
        ratio = over_fastest(times, "multi_index")
        about = {"radius": radius, "mean_found": len(wanted.ids) / len(queries)}
        rows.append({**about, "queries_per_second": rates, "over_flat": ratio})
        print(f"  radius {radius}: {ratio['median']:.1f} times {ratio['fastest']}", flush=True)
    return {"tables_seconds": built, "exact_within": True, "within": rows}
