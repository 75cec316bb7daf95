"""Search over packed codes, beside FAISS called directly: queries a second, memory, build and load time; and searches
within a radius by multi-index hashing, beside comparing all codes.

python benchmarks/bench_search.py [--quick] [--within] [--sizes N ...] [--bits K ...] [--codes KIND ...] [--threads N]
                                  [--checkpoint DIR ...] [--work DIR]

Both sides hold the same codes, are set to the same threads, and are timed in turns in one process. What is timed is a
call with numpy arrays, as a user makes it: ours, `FaissIndex.search`, checks its arguments and gives ids, not rows;
bare FAISS is `IndexBinaryFlat.search`, by counting (`use_heap = False`) and, its default, by heaps, and a ratio is
taken over the faster of the two in that case. Before timing, a sort of all distances of a few queries decides whether
ours is right to the last tie, and ours decides how FAISS breaks ties, on all queries.

Each finished row is written at once; the same command goes on after the last one. Another setting starts anew.
`--within` measures the searches within a radius, and the memory of `multi-index`, again in the rows that are there.
`--quick` writes `search-quick.json`, so that it never takes the place of the rows of a full run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from provenance import commit, machine
from search_codes import Source, clustered, trained, uniform
from search_memory import bare_index, measure_memory
from search_within import measure_within
from turns import in_turns, over_fastest, seconds, summary

from saat.bits import packed_distances
from saat.index.content import IndexContent, ModelKey
from saat.index.faiss_index import FaissIndex
from saat.index.storage import create_index, read_index
from saat.runtime import set_threads, versions, write_text

RESULT = Path(__file__).parent / "results" / "search.json"
SIZES, QUICK_SIZES = (10**5, 10**6, 10**7), (10**5,)
CODE_LENGTHS = (32, 64, 128)
KS, BATCHES = (10, 5000), (1, 256)
ROUNDS, QUICK_ROUNDS = 7, 5
ORACLE_QUERIES = 4
CODES = ("uniform", "clustered", "trained")
SIDES = ("ours", "faiss_counting", "faiss_heap")
NOTES = (
    "over_faiss: seconds of the faster of faiss_counting and faiss_heap over ours, the median over rounds. "
    "Ours checks its arguments and turns rows to ids: a fixed cost a call, which weighs most on the fewest codes, at "
    "k 10 and batch 1.",
    "exact: ours equals a stable sort of all distances (distance, then id), on some queries; faiss_counting and "
    "faiss_heap are compared with ours on all of them. Neither promises an order of ties in its documentation.",
    "bandwidth_share: bytes of all codes a second at batch 1, where a query reads each once, over the bandwidth of a "
    "copy. In a batch, queries share what they read, and the figure would mean nothing.",
    "memory: anonymous memory of a fresh process after its index was built and searched and the caller's codes and ids "
    "were freed, over N K/8; the peak is that of adding, with the caller's codes and ids (8 bytes each). Ids without a "
    "gap take no room; with gaps, as after a removal, see faiss-with-gaps.",
    "load_seconds: `read_index`, checksums of every byte included, and `add`.",
    "multi-index hashing keeps a table a piece and so several times the room of the codes: time is what it gives. "
    "Where a ball holds much of the database, all codes are compared.",
    "over_flat: over the faster of `FlatIndex.within` and FAISS's range search, which orders nothing. Its "
    "headline leaves out 32 bits, which stand in the rows: there a ball of radius 8 holds one in 286 of all possible "
    "ones, and more of a trained model's, so much of the time is that of writing down what was found.",
)


def check_exact(sides: Mapping[str, Any], packed: NDArray[np.uint8], queries: NDArray[np.uint8]) -> dict[str, Any]:
    """Raise unless ours is exact; return whether FAISS's distances, and its ids among ties, are the same."""
    same: dict[str, bool] = {}
    for k in KS:
        ours = sides["ours"].search(queries, k)
        for row, query in enumerate(queries[:ORACLE_QUERIES]):
            distances = packed_distances(query[None], packed)[0]
            order = np.argsort(distances, kind="stable")[:k]
            assert np.array_equal(ours.ids[row], order), "ours differs from the sort of all distances"
            assert np.array_equal(ours.distances[row], distances[order])
        for name in SIDES[1:]:
            distances, rows = sides[name].search(queries, k)
            assert np.array_equal(distances, ours.distances), f"{name} has other distances"
            same[f"{name}_k{k}"] = bool(np.array_equal(rows, ours.ids))
    return {"ours": True, "queries_of_oracle": ORACLE_QUERIES, "faiss_ties_by_id": same}


def one_by_one(index: Any, queries: NDArray[np.uint8], k: int) -> None:
    for row in range(len(queries)):
        index.search(queries[row : row + 1], k)


def measure_search(
    packed: NDArray[np.uint8], queries: NDArray[np.uint8], *, rounds: int, threads: int, bandwidth: float
) -> dict[str, Any]:
    """Check and time the k nearest."""
    index = FaissIndex(8 * packed.shape[1], threads=threads)
    index.add(packed, np.arange(len(packed)))
    bare = {f"faiss_{name}": bare_index(packed, use_heap=name == "heap") for name in ("counting", "heap")}
    sides = {"ours": index, **bare}
    faiss.omp_set_num_threads(threads)
    exact, cases = check_exact(sides, packed, queries), []
    for k in KS:
        for batch in BATCHES:
            few = queries if batch > 1 else queries[: min(len(queries), max(4, 2 * 10**7 // len(packed)))]
            call = one_by_one if batch == 1 else lambda index, queries, k: index.search(queries, k)
            times = in_turns({name: partial(call, side, few, k) for name, side in sides.items()}, rounds)
            rates = {name: summary([len(few) / spent for spent in values]) for name, values in times.items()}
            case: dict[str, Any] = {"k": k, "batch": batch, "queries_a_round": len(few), "queries_per_second": rates}
            case["over_faiss"] = over_fastest(times, "ours")
            if batch == 1:
                case["bandwidth_share"] = packed.nbytes * rates["ours"]["median"] / bandwidth
            cases.append(case)
            print(f"  k {k}, batch {batch}: {case['over_faiss']['median']:.3f} of FAISS", flush=True)
    return {"exact": exact, "search": cases}


def measure_build(packed: NDArray[np.uint8], work: Path, *, rounds: int) -> dict[str, Any]:
    """Time adding all codes to an empty index, and the way from a folder to an index."""
    ids, code_length = np.arange(len(packed)), 8 * packed.shape[1]

    def add(codes: NDArray[np.uint8], numbers: NDArray[np.int64]) -> None:
        FaissIndex(code_length).add(codes, numbers)

    def load(folder: Path) -> None:
        content = read_index(folder)
        add(content.packed, content.ids)

    model = ModelKey("benchmark", code_length)
    content = IndexContent(packed, ids, pa.table({"id": ids}), next_id=len(ids), model=model)
    with TemporaryDirectory(dir=work) as name:
        folder = Path(name) / "index"
        create_index(folder, content)
        bare = partial(bare_index, packed, use_heap=False)
        times = in_turns({"ours": partial(add, packed, ids), "faiss": bare, "load": partial(load, folder)}, rounds)
    named = {"build_seconds": "ours", "faiss_build_seconds": "faiss", "load_seconds": "load"}
    return {key: summary(times[name]) for key, name in named.items()}


def copy_bandwidth() -> float:
    """Return the bytes a second, read and written, of the fastest of ten copies of 256 MB in the threads of torch."""
    source = torch.ones(1 << 28, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return 2 * source.numel() / min(seconds(lambda: target.copy_(source)) for _ in range(10))


def measure(source: Source, items: int, settings: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Return one row."""
    rounds, threads, bandwidth = (settings[name] for name in ("rounds", "threads", "bandwidth"))
    packed, queries = (
        source.draw(number, name, items) for number, name in ((items, "items"), (max(BATCHES), "queries"))
    )
    return {
        **measure_search(packed, queries, rounds=rounds, threads=threads, bandwidth=bandwidth),
        **measure_build(packed, work, rounds=rounds),
        "memory_over_codes": measure_memory(packed, work),
        **measure_within(packed, rounds=rounds),
    }


def measure_within_again(
    row: dict[str, Any], source: Source, settings: Mapping[str, Any], work: Path
) -> dict[str, Any]:
    """Return a row with what depends on multi-index hashing measured again, and from which commit that is."""
    packed = source.draw(row["items"], "items", row["items"])
    memory = row["memory_over_codes"] | measure_memory(packed, work, ["multi-index"])
    within = measure_within(packed, rounds=settings["rounds"])
    return row | {"memory_over_codes": memory} | within | {"commit_within": commit()}


def headline(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the worst figures; those of multi-index hashing at the largest size, with 64 and 128 bits."""
    largest = max(row["items"] for row in rows)
    figures: dict[str, Any] = {
        "throughput_over_faiss": min(case["over_faiss"]["median"] for row in rows for case in row["search"]),
        "memory_over_codes": max(row["memory_over_codes"]["faiss"]["resident"] for row in rows),
        "items": largest,
    }
    for codes in CODES:
        chosen = [row for row in rows if (row["codes"], row["items"]) == (codes, largest) and row["code_length"] > 32]
        if chosen:
            worst = min(case["over_flat"]["median"] for row in chosen for case in row["within"])
            figures[f"multi_index_over_flat_{codes}"] = worst
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}


def read_rows(result: Path, settings: Mapping[str, Any]) -> tuple[list[dict[str, Any]], float | None]:
    """Return the rows of an earlier run of the same settings, and its bandwidth."""
    if not result.exists():
        return [], None
    earlier = json.loads(result.read_text())
    same = {name: earlier["settings"].get(name) for name in settings} == settings
    return (earlier["rows"], earlier["settings"]["bandwidth"]) if same else ([], None)


def main() -> None:
    """Measure from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help=f"items; {SIZES}, or with --quick {QUICK_SIZES}")
    parser.add_argument("--bits", type=int, nargs="+", default=CODE_LENGTHS, help=f"code lengths; {CODE_LENGTHS}")
    parser.add_argument("--codes", nargs="+", choices=CODES, default=CODES, help="kinds of codes; all")
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[], help="trained models, one a code length")
    parser.add_argument("--threads", type=int, default=0, help="0 for OMP_NUM_THREADS if set, else every core")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="for files of a few minutes")
    parser.add_argument("--quick", action="store_true", help="the smallest size, fewer rounds; within five minutes")
    parser.add_argument("--within", action="store_true", help="only searches within a radius, in rows that are there")
    options = parser.parse_args()
    set_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "machine": machine(),
        "versions": versions() | {"numpy": np.__version__, "faiss": faiss.__version__},
        "faiss_options": faiss.get_compile_options().strip(),
        "threads": torch.get_num_threads(),
        "rounds": QUICK_ROUNDS if options.quick else ROUNDS,
    }
    path = RESULT.with_stem(f"{RESULT.stem}-quick") if options.quick else RESULT
    rows, bandwidth = read_rows(path, settings)
    settings["bandwidth"] = bandwidth or copy_bandwidth()
    models = {len(source.rates): source for source in map(trained, options.checkpoint)}
    places = {(row["codes"], row["items"], row["code_length"]): place for place, row in enumerate(rows)}
    for items in options.sizes or (QUICK_SIZES if options.quick else SIZES):
        for code_length in options.bits:
            sources = {"uniform": uniform(code_length), "clustered": clustered(code_length)}
            sources |= {"trained": models[code_length]} if code_length in models else {}
            for codes, source in sources.items():
                place = places.get((codes, items, code_length))
                if codes not in options.codes or (place is not None) != options.within:
                    continue
                print(f"{items:,} {codes} codes of {code_length} bits", flush=True)
                if place is None:
                    about = {"codes": codes, "items": items, "code_length": code_length, "source": source.note}
                    rows.append(about | {"commit": commit()} | measure(source, items, settings, options.work))
                elif rows[place]["source"] != source.note:
                    parser.error(f"`--within` needs the codes of the row: {rows[place]['source']}; got {source.note}")
                else:
                    rows[place] = measure_within_again(rows[place], source, settings, options.work)
                result = headline(rows) | {"settings": settings, "notes": NOTES, "rows": rows}
                write_text(path, json.dumps(result, indent=1) + "\n")
    if not rows:
        parser.error(f"`--within` measures rows of {path} again; it has none of these settings")
    print(json.dumps(headline(rows)))


if __name__ == "__main__":
    main()
