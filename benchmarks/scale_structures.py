"""The section of docs/scale.md on HNSW and IVF, from recall.json."""

from __future__ import annotations

from typing import Any

from markdown_tables import markdown
from scale_texts import RECALL, RECALL_TABLE, STRUCTURES
from scale_units import power, short, threads_of, time_of

STRUCTURES_OF = {"hnsw": "effort", "ivf": "share"}  # and what is set
FURTHER = (10**8, 10**9)
Row = dict[str, Any]


def recall_section(result: dict[str, Any]) -> str:
    """Return the section of recall and speed: a table a size, and what the structures cost."""
    rows = result["rows"]
    sizes = sorted({row["items"] for row in rows})
    text = RECALL.format(threads=threads_of(result), length=rows[0]["code_length"])
    tables = [recall_table([row for row in rows if row["items"] == items]) for items in sizes]
    parts = [RECALL_TABLE.format(items=power(items), table=table) for items, table in zip(sizes, tables, strict=True)]
    return "\n".join([text, *parts, STRUCTURES.format(table=structures_table(rows, sizes))])


def recall_table(rows: list[Row]) -> str:
    """Return recall and queries a second by setting, of the rows of one size, a kind of codes each."""
    columns = ("", *(column for row in rows for column in (f"{row['codes']}: recall", "a second")))
    rates = [row["faiss"]["queries_per_second"]["median"] for row in rows]
    cells = [["`faiss`", *(text for rate in rates for text in ("1", f"{rate:,.0f}"))]]
    for name, word in STRUCTURES_OF.items():
        for number, case in enumerate(rows[0][name]["settings"]):
            of_codes = [row[name]["settings"][number] for row in rows]
            values = [
                text
                for each in of_codes
                for text in (f"{each['recall']:.3f}", f"{each['queries_per_second']['median']:,.0f}")
            ]
            cells.append([f"`{name}`, {word} {case['setting']:g}", *values])
    return markdown(columns, cells, text_columns=1)


def most_bytes(rows: list[Row], name: str) -> float:
    """Return the bytes an image at the largest size, the most of all codes."""
    most = max(row["items"] for row in rows)
    return max(float(row[name]["bytes"]) / most for row in rows if row["items"] == most)


def structures_table(rows: list[Row], sizes: list[int]) -> str:
    """Return the time to build and the bytes of each structure."""
    columns = (
        "",
        *(f"to build, {power(items)}" for items in sizes),
        "memory, an image",
        *(f"memory, {power(items)}" for items in FURTHER),
    )
    cells = []
    for name in ("faiss", *STRUCTURES_OF):
        built = [max(row[name]["build_seconds"] for row in rows if row["items"] == items) for items in sizes]
        each = most_bytes(rows, name)
        memory = [f"{each:.0f} B", *(short(items * each) for items in FURTHER)]
        cells.append([f"`{name}`", *map(time_of, built), *memory])
    return markdown(columns, cells, text_columns=1)


def structures_words(result: dict[str, Any], items: int) -> str:
    """Return a sentence on the memory of each structure."""
    parts = [f"`{name}` {short(items * most_bytes(result['rows'], name))}" for name in reversed(STRUCTURES_OF)]
    return f" In memory: {' and '.join(parts)}, by the figures [measured](#recall-and-speed)."
