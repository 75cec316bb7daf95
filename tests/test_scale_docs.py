"""docs/scale.md is what `benchmarks/make_scale.py` writes from the files in benchmarks/results."""

from __future__ import annotations

import doctest
import importlib
import math
from pathlib import Path
from types import ModuleType

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
    assert doctest.testmod(make_scale).failed == 0
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
