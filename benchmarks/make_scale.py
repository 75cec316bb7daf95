"""Write docs/scale.md: bytes by arithmetic, the rest from JSON in results, each section where its file is there."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_tables import markdown
from scale_servers import servers_section, servers_words
from scale_structures import recall_section, structures_words
from scale_texts import BYTES, INTRODUCTION, KILLS, MACHINES, PROCESS, SERVING, STEPS, TIMES, WITHIN
from scale_units import SIZES, power, short, threads_of, time_of

from saat.runtime import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "scale.md"
CODE_LENGTHS = (32, 64, 128)
ID_BYTES = 8
METADATA_BYTES = 200  # of an item: a path and a label, as Arrow holds them
PHOTO_BYTES = 100_000
MACHINE_BYTES = 64 * 10**9
SPARE = 0.25  # of a machine, for the system, the model and requests underway
LENGTH = 64  # bits, for the table of machines
CHANGING = 3  # states that a service holds in a change, where another command has made one before
RADII = (2, 4, 6, 8)  # shown of searches within a radius
FAULTS = {  # of fault_index.json
    "lost": "lost",
    "damaged": "damaged",
    "falsely_complete": "falsely whole",
    "falsely_partial": "falsely a part",
    "pushed_otherwise": "differed",
    "searched_otherwise": "searched otherwise",
}


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
    return markdown(("images", "of the index", "machines", "machines, with changes"), rows, text_columns=1)


def query_seconds(row: dict[str, Any]) -> float:
    """Return the seconds that a query for 10 items, alone, takes in one row of search.json."""
    case = next(case for case in row["search"] if (case["k"], case["batch"]) == (10, 1))
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
    text = TIMES.format(
        threads=threads_of(result),
        measured=table(measured),
        largest=power(sizes[-1]),
        projected=table(further),
    )
    return text + "\n" + within_note(result["rows"])


def within_note(rows: Sequence[dict[str, Any]]) -> str:
    """Return what multi-index hashing gains at the largest size."""
    most = max(row["items"] for row in rows)
    largest = sorted((row for row in rows if row["items"] == most), key=lambda row: row["code_length"])
    columns = ("codes", *(f"radius {radius}" for radius in RADII), "over `flat`", f"within {RADII[-1]}")
    cells = []
    for kind in ("uniform", "clustered", "trained"):
        for row in largest:
            if row["codes"] == kind:
                cases = {case["radius"]: case for case in row["within"]}
                gains = [f"{cases[radius]['over_flat']['median']:.3g}" for radius in RADII]
                rates = [case["queries_per_second"] for case in row["within"]]
                least = f"{min(rate['multi_index']['median'] / rate['flat']['median'] for rate in rates):.3g}"
                found = f"{cases[RADII[-1]]['mean_found']:,.0f}"
                cells.append([f"{kind}, {row['code_length']} bits", *gains, least, found])
    return WITHIN.format(items=power(most), most=RADII[-1], table=markdown(columns, cells, text_columns=1))


def process_note(result: dict[str, Any]) -> str:
    """Return the memory of the service itself, measured."""
    most = short(result["hostile"]["memory_mb"]["most"] * 1e6)
    return PROCESS.format(items=result["items"], process=most)


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
    columns = ("server", "rounds", "in a write", "in a push", "of a whole index", *FAULTS.values())
    keys = ("rounds", "killed_in_a_write", "killed_in_a_push", "killed_in_a_switch", *FAULTS)
    rows = [[servers[run["server"]], *(str(run.get(key, "")) for key in keys)] for run in result["runs"]]
    return KILLS.format(table=markdown(columns, rows, text_columns=1))


def read(name: str) -> dict[str, Any] | None:
    """Return the results of a benchmark, if it was run."""
    path = RESULTS / name
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def main() -> None:
    searched, served, killed = read("search.json"), read("serve.json"), read("fault_index.json")
    on_servers, recalled = read("servers.json"), read("recall.json")
    sizes = {"metadata": METADATA_BYTES, "photo": PHOTO_BYTES // 1000}
    machines = {"length": LENGTH, "machine": short(MACHINE_BYTES), "spare": SPARE, "table": machines_table()}
    parts = [INTRODUCTION, BYTES.format(table=bytes_table(), **sizes), MACHINES.format(**machines, **sizes)]
    parts += [process_note(served)] if served else []
    parts += [time_section(searched)] if searched else []
    parts += [recall_section(recalled)] if recalled else []
    parts += [servers_section(on_servers)] if on_servers else []
    parts += [serving_section(served)] if served else []
    parts += [kills_section(killed)] if killed else []
    words = {
        f"{name}_{exponent}": words(result, 10**exponent) if result else ""
        for name, words, result in (("servers", servers_words, on_servers), ("structures", structures_words, recalled))
        for exponent in (8, 9)
    }
    write_text(PAGE, "\n".join([*parts, STEPS.format(**words)]))


if __name__ == "__main__":
    main()
