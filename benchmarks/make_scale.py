"""Write docs/scale.md: bytes by arithmetic, the rest from search.json, serve.json and fault_index.json in results."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_tables import markdown

from saat.runtime import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "scale.md"
SIZES = tuple(10**power for power in range(6, 10))
CODE_LENGTHS = (32, 64, 128)
ID_BYTES = 8
METADATA_BYTES = 200  # of an item: a path and a label, as Arrow holds them
PHOTO_BYTES = 100_000
MACHINE_BYTES = 64 * 10**9
SPARE = 0.25  # of a machine, for the system, the model and requests underway
LENGTH = 64  # bits, for the table of machines
CHANGING = 3  # states that a service holds in a change
RADII = (2, 8)  # shown of searches within a radius
FAULTS = {  # of fault_index.json
    "lost": "lost",
    "damaged": "damaged",
    "falsely_complete": "falsely whole",
    "pushed_otherwise": "differed",
    "searched_otherwise": "searched otherwise",
}

INTRODUCTION = """\
# Scale

How many bytes, machines and milliseconds for N images and codes of K bits, and what to change at each power of ten.
Made by `benchmarks/make_scale.py` from the files in `benchmarks/results/`. What is measured is called so; the rest is
arithmetic.
"""
BYTES = """\
## Bytes

    bytes = N * K / 8          codes, one bit a bit
          + N * 8              ids, int64
          + N * metadata       path, label and your columns

Metadata are set at {metadata} bytes an item here, a path and a label. They, not the codes, fill disk and memory. The
images, at {photo} KB, lie on the disk only.

{table}
"""
MACHINES = """\
## Machines

`saat serve` on a folder holds metadata, and codes and ids twice: as they were read, and in FAISS. A change by
`POST /items` writes all three files anew and holds three states meanwhile, what is searched, what it read from the
disk, and the new one: three times the figure. Not in it are codes and ids of the items of the last few conditions.
With {length} bits and {metadata} bytes of metadata, on machines of {machine} of which {spare:.0%} stay free:

{table}

The images of a search come from the disk, a file each; {photo} KB times N is for a file server or an object store
mounted as a folder.
"""
TIMES = """\
## Time of a query

An exact search compares the query with every code, so its time grows as N * K. Measured, {threads}, k = 10, one query
a call:

{measured}

For more images, the time of the largest size measured, {largest}, times the ratio of sizes. Codes that fit in the
caches are read faster than those that do not, so a small size flatters large ones.

{projected}
"""
WITHIN = """\
Searches within a radius need not look at every code: `multi-index` against comparing all, at {items} images of
{length} bits ({kind}), a query a call, {found} as fast as the faster of numpy and FAISS.
"""
SERVING = """\
## Encoding

A search by image costs its decoding and its encoding before it costs the index. Measured on {cores}, images of about
{photo} KB, a model of {weights} weights at {size} x {size} pixels{quick}: the encoder alone {encoder}, the service
{service} with {clients} clients (half within {p50} ms, 99 % within {p99} ms). Larger models cost more; measure yours
with `benchmarks/bench_serve.py --checkpoint DIR`. At that rate the first index takes, on one such machine:

{build}

The work is divided by giving each machine a part of the images and building one index a part.
"""
KILLS = """\
## Kills

A process that builds, changes and pushes indexes was killed by SIGKILL at random moments. Counted are acknowledged
changes that were lost, folders that `verify` found damaged, addresses that passed for whole and were not, and those
that differed from their folder, or were searched otherwise, after the next push. So were `saat index build`, `add` and
`remove` on image files, each then given again, which had to end where it would have (`benchmarks/fault_index.py`).

{table}
"""
STEPS = """\
## What to change

`saat serve` searches exactly, whatever the size; `saat search --backend` and `saat.index.catalog.make_index` offer the
others. saat has no program that merges the answers of several services: a client does it, by (distance, id).

| images | what to do |
|---:|---|
| 10^6 | Nothing. A folder, one machine. |
| 10^7 | Add images in bulk, by `saat index add`, for each change writes every file. At 32 bits many items share \
a code and come in order of id: take 64. Wide metadata go to a server: `saat index push`. |
| 10^8 | One query alone takes long enough to be felt. Parts on several machines, a service each; or Milvus as a \
cluster, which divides a collection by itself. For radii of a few bits, `multi-index` with 64 or 128 bits, if your \
codes are not so clustered that a ball holds much of the database. Where some loss is allowed, `ivf` or `hnsw`: \
`saat search` prints the share found. |
| 10^9 | Parts of 10^8. A part cannot be rewritten for each change: keep new items in a small one, and build the \
others anew at night. With `ivf` or `hnsw`, measure recall on a sample by exact search. |

Robustness does not grow with N. The more images, the more of them lie within any distance of a query, attacked or not:
measure with a database of the size that you will serve.
"""


def short(number: float) -> str:
    """Return a number of bytes in decimal units.

    >>> short(4e6), short(2.16e11)
    ('4 MB', '216 GB')
    """
    for name, unit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number / 1e3:.3g} KB"


def power(number: int) -> str:
    """Return a size for a table.

    >>> power(10**6), power(250_000)
    ('10^6', '250,000')
    """
    exponent = round(math.log10(number))
    return f"10^{exponent}" if 10**exponent == number else f"{number:,}"


def time_of(seconds: float) -> str:
    """Return a time in the unit that one reads best.

    >>> time_of(0.00021), time_of(0.123), time_of(2.5), time_of(7200.0), time_of(1e6)
    ('0.21 ms', '123 ms', '2.5 s', '2 h', '11.6 days')
    """
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    for name, unit, least in (("days", 86_400, 172_800), ("h", 3600, 3600)):
        if seconds >= least:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


def bytes_table() -> str:
    """Return bytes by size and code length, and of what comes with the codes."""
    columns = ("images", *(f"codes, {length} bits" for length in CODE_LENGTHS), "ids", "metadata", "images on disk")
    rows = [
        [
            power(items),
            *(short(items * length / 8) for length in CODE_LENGTHS),
            *(short(items * each) for each in (ID_BYTES, METADATA_BYTES, PHOTO_BYTES)),
        ]
        for items in SIZES
    ]
    return markdown(columns, rows, text_columns=1)


def machines_table() -> str:
    """Return the memory of a service on a folder, and the machines that hold it, without and with changes."""
    rows = []
    for items in SIZES:
        held = items * (2 * LENGTH / 8 + 2 * ID_BYTES + METADATA_BYTES)
        counts = (math.ceil(times * held / (MACHINE_BYTES * (1 - SPARE))) for times in (1, CHANGING))
        rows.append([power(items), short(held), *map(str, counts)])
    return markdown(("images", "memory", "machines", "machines, with changes"), rows, text_columns=1)


def query_seconds(row: dict[str, Any], *, batch: int = 1, k: int = 10) -> float:
    """Return the seconds a query of one row of search.json."""
    case = next(case for case in row["search"] if (case["k"], case["batch"]) == (k, batch))
    return 1 / float(case["queries_per_second"]["ours"]["median"])


def time_section(result: dict[str, Any]) -> str:
    """Return the section of query times; those of uniform codes, whose distances are the most even."""
    rows = [row for row in result["rows"] if row["codes"] == "uniform"]
    found = {(row["items"], row["code_length"]): query_seconds(row) for row in rows}
    sizes, lengths = sorted({items for items, _ in found}), sorted({length for _, length in found})
    columns = ("images", *(f"{length} bits" for length in lengths))

    def table(cells: Sequence[tuple[int, Sequence[str]]]) -> str:
        return markdown(columns, [[power(items), *times] for items, times in cells], text_columns=1)

    def projected(items: int, length: int) -> str:
        most = max(size for size, other in found if other == length)
        return time_of(found[most, length] * items / most)

    measured = [
        (items, [time_of(found[items, length]) if (items, length) in found else "" for length in lengths])
        for items in sizes
    ]
    further = [(items, [projected(items, length) for length in lengths]) for items in SIZES if items > sizes[-1]]
    count = result["settings"]["threads"]
    text = TIMES.format(
        threads="one thread" if count == 1 else f"{count} threads",
        measured=table(measured),
        largest=power(sizes[-1]),
        projected=table(further),
    )
    return text + "\n" + within_note(result["rows"])


def within_note(rows: Sequence[dict[str, Any]]) -> str:
    """Return what multi-index hashing gains at the largest size and its longest codes."""
    largest = max(rows, key=lambda row: (row["items"], row["code_length"], row["codes"] == "uniform"))
    gains = {case["radius"]: case["over_flat"] for case in largest["within"]}
    found = ", ".join(f"{gains[radius]['median']:.3g} times (radius {radius})" for radius in RADII if radius in gains)
    items, kind = power(largest["items"]), f"{largest['codes']} codes"
    return WITHIN.format(items=items, length=largest["code_length"], kind=kind, found=found)


def serving_section(result: dict[str, Any]) -> str:
    """Return the section of encoding."""
    full, model, machine = result["load"][-1], result["model"], result["machine"]
    rate = result["encoder_per_second"]["median"]
    rows = [[power(items), time_of(items / rate)] for items in SIZES]
    cores = machine["server_cores"]
    return SERVING.format(
        cores="one core" if cores == 1 else f"{cores} cores",
        photo=round(result["photo_bytes"]["median"] / 1000),
        weights=f"{model['weights']:,}",
        size=model["image_size"],
        quick=", in a short run" if result["quick"] else "",
        encoder=f"{rate:.0f} a second",
        service=f"{full['requests_per_second']['median']:.0f} a second",
        clients=full["clients"],
        p50=f"{full['p50_ms']:.0f}",
        p99=f"{full['p99_ms']:.0f}",
        build=markdown(("images", "to encode"), rows, text_columns=1),
    )


def kills_section(result: dict[str, Any]) -> str:
    """Return the section of kills, of the folder alone and with each server."""
    servers = {"none": "none", "commands": "none: `saat index` itself", "postgresql": "PostgreSQL", "milvus": "Milvus"}
    columns = ("server", "kills", "in a write", "in a push", *FAULTS.values())
    keys = ("rounds", "killed_in_a_write", "killed_in_a_push", *FAULTS)
    rows = [[servers[run["server"]], *(str(run.get(key, "")) for key in keys)] for run in result["runs"]]
    return KILLS.format(table=markdown(columns, rows, text_columns=1))


def read(name: str) -> dict[str, Any] | None:
    """Return the results of a benchmark, if it was run."""
    path = RESULTS / name
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def main() -> None:
    searched, served, killed = read("search.json"), read("serve.json"), read("fault_index.json")
    sizes = {"metadata": METADATA_BYTES, "photo": PHOTO_BYTES // 1000}
    machines = {"length": LENGTH, "machine": short(MACHINE_BYTES), "spare": SPARE, "table": machines_table()}
    parts = [INTRODUCTION, BYTES.format(table=bytes_table(), **sizes), MACHINES.format(**machines, **sizes)]
    parts += [time_section(searched)] if searched else []
    parts += [serving_section(served)] if served else []
    parts += [kills_section(killed)] if killed else []
    write_text(PAGE, "\n".join([*parts, STEPS]))


if __name__ == "__main__":
    main()
