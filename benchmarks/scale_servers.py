"""The section of docs/scale.md on Milvus and PostgreSQL, from servers.json."""

from __future__ import annotations

from typing import Any

from markdown_tables import markdown
from scale_texts import GRAPH, SERVERS, SERVERS_FURTHER
from scale_units import SIZES, power, short, time_of

NAMES = {"milvus": "Milvus", "postgresql": "PostgreSQL"}
LOG = "rocksmq"  # part of the bytes of Milvus, see the note `bytes` in servers.json
GRAPH_PART = "bench_hnsw"  # and of PostgreSQL, of which only those who ask have it
Row = dict[str, Any]


def query_time(row: Row, case: int) -> float:
    """Return the seconds a query; case 0 is one a call, case 1 all in a call."""
    return 1 / float(row["search"][case]["queries_per_second"]["median"])


def disk_bytes(row: Row) -> int:
    """Return the bytes on the disk, without the graph."""
    return int(sum(size for part, size in row["bytes"].items() if part != GRAPH_PART))


def largest_rows(result: dict[str, Any]) -> list[Row]:
    """Return each server's row of uniform codes at its largest size."""
    uniform = [row for row in result["rows"] if row["codes"] == "uniform"]
    found = {row["server"]: row for row in sorted(uniform, key=lambda row: int(row["items"]))}
    return [found[name] for name in NAMES if name in found]


def servers_section(result: dict[str, Any]) -> str:
    """Return the section of servers: what was measured, and what follows for more images."""
    rows = sorted(result["rows"], key=lambda row: (list(NAMES).index(row["server"]), row["items"]))
    batch = rows[0]["search"][1]["batch"]
    columns = ("server", "codes", "images", "pushed a second", "disk", "memory", "query", f"of {batch}")
    cells = [
        [
            NAMES[row["server"]],
            row["codes"],
            power(row["items"]),
            f"{row['push_per_second']:,.0f}",
            f"{disk_bytes(row) / row['items']:,.0f} B",
            "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / row['items']:,.0f} B",
            *(time_of(query_time(row, case)) for case in (0, 1)),
        ]
        for row in rows
    ]
    in_milvus = [row["bytes"][LOG] / disk_bytes(row) for row in rows if row["server"] == "milvus"]
    text = SERVERS.format(
        milvus=result["settings"]["versions"].get("milvus", ""),
        length=rows[0]["code_length"],
        metadata=rows[0]["metadata_bytes"],
        cores=result["settings"]["machine"]["cores"],
        batch=batch,
        log=max(in_milvus, default=0.0),
        table=markdown(columns, cells, text_columns=2),
    )
    return "\n".join([text, *graph_note(rows), further(result, batch)])


def graph_note(rows: list[Row]) -> list[str]:
    """Return what pgvector's graph costs and finds, where one was made."""
    columns = ("codes", "images", "to build", "disk", "query", "times as fast", "recall at 10")
    cells = [
        [
            row["codes"],
            power(row["items"]),
            time_of(row["graph"]["build_seconds"]),
            f"{row['bytes'][GRAPH_PART] / row['items']:,.0f} B",
            time_of(query_time(row["graph"], 0)),
            f"{query_time(row, 0) / query_time(row['graph'], 0):.3g}",
            f"{row['graph']['recall']:.3f}",
        ]
        for row in rows
        if "graph" in row
    ]
    return [GRAPH.format(table=markdown(columns, cells, text_columns=1))] if cells else []


def further(result: dict[str, Any], batch: int) -> str:
    """Return what a push, the disk and a query come to with more images."""
    columns = ("server", "images", "to push", "on disk", "query, at most")
    cells = [
        [
            NAMES[row["server"]],
            power(items),
            time_of(items / row["push_per_second"]),
            short(items * disk_bytes(row) / row["items"]),
            time_of(query_time(row, 1) * items / row["items"]),
        ]
        for row in largest_rows(result)
        for items in SIZES
        if items > row["items"]
    ]
    return SERVERS_FURTHER.format(batch=batch, table=markdown(columns, cells, text_columns=1))


def servers_words(result: dict[str, Any], items: int) -> str:
    """Return a sentence on so many images in each server."""
    parts = [
        f"{time_of(items / row['push_per_second'])} to {NAMES[row['server']]} "
        f"({short(items * disk_bytes(row) / row['items'])} on the disk)"
        for row in largest_rows(result)
    ]
    return f" A push from one process takes {' and '.join(parts)}, by the figures [measured](#on-a-server)."
