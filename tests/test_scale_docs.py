"""docs/scale.md is what `benchmarks/make_scale.py` writes from the files in benchmarks/results."""

from __future__ import annotations

import doctest
import importlib
import json
import math
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def make_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, writing to another place."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("make_scale")
    monkeypatch.setattr(module, "PAGE", tmp_path / "scale.md")
    return module


def test_the_page_is_what_the_script_writes(make_scale: ModuleType) -> None:
    make_scale.main()
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert page == make_scale.PAGE.read_text(encoding="utf-8"), "run `python benchmarks/make_scale.py`"


def test_a_round_counts_as_a_kill_only_where_the_process_was_killed(make_scale: ModuleType) -> None:
    run = {"server": "commands", "rounds": 200, "killed_in_a_write": 136, "lost": 0, "damaged": 0}
    head, _, row = make_scale.kills_section({"runs": [run]}).split("\n\n")[2].splitlines()
    assert head.startswith("| server | rounds | in a write |")
    assert row.startswith("| none: `saat index` itself | 200 | 136 |")


def test_its_arithmetic(make_scale: ModuleType) -> None:
    examples = doctest.testmod(importlib.import_module("scale_units"))
    assert examples.attempted > 0
    assert examples.failed == 0
    row = next(line for line in make_scale.bytes_table().splitlines() if line.startswith("| 10^9 "))
    assert [cell.strip() for cell in row.split("|")[2:6]] == ["4 GB", "8 GB", "16 GB", "8 GB"]  # N K / 8, and N * 8
    memory = next(line for line in make_scale.machines_table().splitlines() if line.startswith("| 10^9 "))
    held = 10**9 * (2 * 64 // 8 + 2 * 8 + 200)  # codes and ids are held twice
    machines = [math.ceil(times * held / 48e9) for times in (1, 3)]  # in a change, three states
    assert [int(cell) for cell in memory.split("|")[3:5]] == machines


def test_times_beyond_what_was_measured_grow_with_the_images(make_scale: ModuleType) -> None:
    case = {"k": 10, "batch": 1, "queries_per_second": {"ours": {"median": 100.0}}}
    row = {"codes": "uniform", "items": 10**6, "code_length": 64, "search": [case]}
    rates = {"multi_index": {"median": 60.0}, "flat": {"median": 2.5}}
    within = [
        {"radius": radius, "over_flat": {"median": 24 / radius}, "mean_found": 1234.5, "queries_per_second": rates}
        for radius in range(2, 9)
    ]
    text = make_scale.time_section({"rows": [row | {"within": within}], "settings": {"threads": 1}})
    assert "| 10^6 | 10 ms |" in text
    assert "| 10^8 | 1 s |" in text


def test_searches_within_a_radius_are_shown_of_every_kind_at_the_largest_size(make_scale: ModuleType) -> None:
    def row(codes: str, items: int, code_length: int, gain: float) -> dict[str, object]:
        cases = [
            {
                "radius": radius,
                "over_flat": {"median": gain * radius},
                "mean_found": 1e4,
                "queries_per_second": {"multi_index": {"median": 90.0 * radius}, "flat": {"median": 3.0}},
            }
            for radius in range(2, 9)
        ]
        return {"codes": codes, "items": items, "code_length": code_length, "within": cases}

    rows = [row("trained", 10**6, 64, 1.0), row("uniform", 10**7, 128, 2.0), row("uniform", 10**7, 32, 0.25)]
    lines = make_scale.within_note(rows).splitlines()
    assert [line for line in lines if line.startswith("| ") and "bits" in line] == [
        "| uniform, 32 bits | 0.5 | 1 | 1.5 | 2 | 60 | 10,000 |",
        "| uniform, 128 bits | 4 | 8 | 12 | 16 | 60 | 10,000 |",
    ]


def rate(median: float) -> dict[str, object]:
    return {"n": 1, "median": median, "spread": [median, median]}


def search_at(median: float) -> list[dict[str, object]]:
    """Queries a second one a call, and twice as many in a batch."""
    return [{"k": 10, "batch": batch, "queries_per_second": rate(times * median)} for batch, times in ((1, 1), (32, 2))]


def a_run_on_servers() -> dict[str, Any]:
    about = {"codes": "uniform", "items": 10**6, "code_length": 64, "metadata_bytes": 55.2}
    milvus = {
        "server": "milvus",
        "push_per_second": 1000.0,
        "search": search_at(5.0),
        "memory_bytes": 3 * 10**8,
    }
    postgresql = {"server": "postgresql", "push_per_second": 4000.0, "search": search_at(10.0)}
    graph = {"build_seconds": 90.0, "recall": 0.8125, "search": search_at(200.0)}
    table = {"table": 150 * 10**6, "bench_pkey": 25 * 10**6, "bench_hnsw": 330 * 10**6}
    rows = [
        milvus | {"bytes": {"insert_log": 60 * 10**6, "rocksmq": 40 * 10**6}},
        postgresql | {"bytes": table, "memory_bytes": None, "graph": graph},
    ]
    settings = {"threads": 1, "machine": {"cores": 2}, "versions": {"milvus": "2.3.5"}}
    return {"settings": settings, "rows": [about | row for row in rows]}


def test_the_section_of_servers(make_scale: ModuleType) -> None:
    lines = make_scale.servers_section(a_run_on_servers()).splitlines()
    for row in (
        "| Milvus | uniform | 10^6 | 1,000 | 100 B | 300 B | 200 ms | 100 ms |",
        "| PostgreSQL | uniform | 10^6 | 4,000 | 175 B |  | 100 ms | 50 ms |",  # without its graph
        "| uniform | 10^6 | 90 s | 330 B | 5 ms | 20 | 0.812 |",
        "| Milvus | 10^8 | 27.8 h | 10 GB | 10 s |",  # a query is one of a batch
        "| PostgreSQL | 10^9 | 2.89 days | 175 GB | 50 s |",
    ):
        assert row in lines
    assert "40% are its log" in " ".join(lines)


def test_the_section_of_recall(make_scale: ModuleType) -> None:
    def row(codes: str, items: int, each: int) -> dict[str, object]:
        settings = [{"setting": 16, "recall": 0.5, "queries_per_second": rate(8000.0)}]
        structure = {"build_seconds": 30.0, "bytes": each * items, "settings": settings}
        return {"codes": codes, "items": items, "code_length": 64, "hnsw": structure, "ivf": structure} | {
            "faiss": {"build_seconds": 0.01, "bytes": 8 * items, "queries_per_second": rate(1250.0)}
        }

    result = {"settings": {"threads": 1}, "rows": [row("uniform", 10**6, 300), row("trained", 10**6, 310)]}
    lines = make_scale.recall_section(result).splitlines()
    assert "| `faiss` | 1 | 1,250 | 1 | 1,250 |" in lines
    assert "| `hnsw`, effort 16 | 0.500 | 8,000 | 0.500 | 8,000 |" in lines
    assert "| `hnsw` | 30 s | 310 B | 31 GB | 310 GB |" in lines  # the most of all codes
    assert "| `faiss` | 10 ms | 8 B | 800 MB | 8 GB |" in lines


def test_what_to_change_has_the_measured_figures(
    make_scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("search", "serve", "fault_index"):
        shutil.copy(ROOT / "benchmarks" / "results" / f"{name}.json", tmp_path)
    monkeypatch.setattr(make_scale, "RESULTS", tmp_path)
    make_scale.main()
    assert "measured](#on-a-server)" not in make_scale.PAGE.read_text()
    (tmp_path / "servers.json").write_text(json.dumps(a_run_on_servers()))
    make_scale.main()
    page = make_scale.PAGE.read_text()
    (line,) = (line for line in page.splitlines() if line.startswith("| 10^8 | One query"))
    assert "27.8 h to Milvus (10 GB on the disk) and 6.94 h to PostgreSQL (17.5 GB on the disk)" in line
    assert "\n## On a server\n" in page
