"""Recall at 10 and queries a second of HNSW and IVF at several settings, beside comparing all codes in the same run.

python benchmarks/bench_recall.py [--sizes N ...] [--bits K] [--codes KIND ...] [--checkpoint DIR] [--threads N]

Each finished row is written at once; the same command goes on after the last one. Another setting starts anew.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from code_rows import K, Row, each_codes, make_parser, one_by_one, read_settings, write_rows
from numpy.typing import NDArray
from search_codes import Source
from search_memory import anonymous_bytes
from turns import in_turns, seconds, summary

from saat.index.faiss_index import FaissIndex, HnswIndex, IvfIndex
from saat.index.recall import recall_at

RESULT = Path(__file__).parent / "results" / "recall.json"
SIZES = (10**5, 10**6)
QUERIES = 256
SETTINGS: dict[str, tuple[float, ...]] = {  # `effort` of HNSW, `share` of IVF
    "hnsw": (16, 32, 64, 128, 256, 512, 1024),
    "ivf": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
}
ENOUGH = 0.95  # of recall, in the headline
NOTES = (
    "recall: `saat.index.recall.recall_at`, where a tie counts as found whichever of its items is named; the mean of "
    f"{QUERIES} queries from the source of the items, and not among them.",
    "queries_per_second: a query a call, k = 10, all settings and `faiss` in turns, which is `FaissIndex`, exact.",
    "bytes: what the memory of the process grew by when the index was built and searched, codes and ids included.",
    f"over_faiss: the highest rate over that of `faiss` among the settings of a recall of at least {ENOUGH}; none "
    "where no setting has it.",
)


def built(index: FaissIndex, packed: NDArray[np.uint8]) -> Row:
    """Fill an index; return the time and the memory that it took."""
    before = anonymous_bytes()

    def build() -> None:
        index.add(packed, np.arange(len(packed)))
        index.search(packed[:1], K)  # IVF learns its lists at the first search

    return {"build_seconds": seconds(build), "bytes": anonymous_bytes() - before}


def search_as(index: HnswIndex | IvfIndex, setting: float, queries: NDArray[np.uint8]) -> None:
    set_to(index, setting)
    one_by_one(index, queries)


def set_to(index: HnswIndex | IvfIndex, setting: float) -> None:
    if isinstance(index, HnswIndex):
        index.effort = int(setting)
    else:
        index.share = setting


def measure(source: Source, items: int, code_length: int, *, rounds: int, threads: int) -> Row:
    """Return one row."""
    packed, queries = source.draw(items, items, "items"), source.draw(QUERIES, QUERIES, "queries")
    exact = FaissIndex(code_length, threads=threads)
    indexes: dict[str, HnswIndex | IvfIndex] = {
        "hnsw": HnswIndex(code_length, threads=threads),
        "ivf": IvfIndex(code_length, threads=threads),
    }
    row: Row = {"faiss": built(exact, packed)} | {name: built(index, packed) for name, index in indexes.items()}
    runs = {("faiss", 0.0): partial(one_by_one, exact, queries)}
    for name, index in indexes.items():
        runs |= {(name, each): partial(search_as, index, each, queries) for each in SETTINGS[name]}
    times = in_turns({f"{name} {each}": run for (name, each), run in runs.items()}, rounds)
    for name, each in runs:
        rates = summary([len(queries) / spent for spent in times[f"{name} {each}"]])
        if name == "faiss":
            row[name]["queries_per_second"] = rates
            continue
        set_to(indexes[name], each)
        recall = recall_at(indexes[name], exact, queries, k=K)
        row[name].setdefault("settings", []).append({"setting": each, "recall": recall, "queries_per_second": rates})
        print(f"  {name} {each:g}: recall {recall:.3f}, {rates['median']:,.0f} a second", flush=True)
    return row


def headline(rows: list[Row]) -> Row:
    """Return how many times as fast as `faiss` one finds enough, at the largest size."""
    largest = max(row["items"] for row in rows)
    figures: Row = {"items": largest}
    for row in rows:
        if row["items"] == largest:
            for name in SETTINGS:
                rates = [
                    each["queries_per_second"]["median"] / row["faiss"]["queries_per_second"]["median"]
                    for each in row[name]["settings"]
                    if each["recall"] >= ENOUGH
                ]
                figures[f"{name}_over_faiss_{row['codes']}"] = round(max(rates), 3) if rates else None
    return figures


def main() -> None:
    """Measure from the command line; the last line printed is one JSON object."""
    options = make_parser(__doc__, sizes=SIZES, out=RESULT).parse_args()
    settings = read_settings(options)
    limits = {"rounds": options.rounds, "threads": settings["threads"]}
    cases = (
        (about, partial(measure, source, about["items"], options.bits, **limits))
        for about, source in each_codes(options)
    )
    write_rows(options.out, settings, NOTES, cases, headline)


if __name__ == "__main__":
    main()
