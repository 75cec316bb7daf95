"""A file of rows, as `bench_servers.py` and `bench_recall.py` write it, goes on where it stopped."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
Row = dict[str, Any]


@pytest.fixture
def code_rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("code_rows")


def test_rows_that_are_there_are_not_measured_again(
    code_rows: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, measured = tmp_path / "rows.json", []

    def write(settings: Row, sizes: list[int], stop: int = 0) -> Row:
        def measure(items: int) -> Row:
            if items == stop:
                raise KeyboardInterrupt
            measured.append(items)
            return {"figure": [items]}

        cases = (({"codes": "uniform", "items": items}, lambda items=items: measure(items)) for items in sizes)
        code_rows.write_rows(path, settings, ["a note"], cases, lambda rows: {"rows_measured": len(rows)})
        return dict(json.loads(path.read_text()))

    with pytest.raises(KeyboardInterrupt):
        write({"threads": 1}, [10, 100, 1000], stop=1000)
    assert len(json.loads(path.read_text())["rows"]) == 2
    result = write({"threads": 1}, [10, 100, 1000])
    assert measured == [10, 100, 1000]
    assert [row["figure"] for row in result["rows"]] == [[10], [100], [1000]]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"rows_measured": 3}
    assert len(write({"threads": 2}, [10])["rows"]) == 1  # other settings start anew
    with pytest.raises(SystemExit, match="no codes"):
        write({"threads": 3}, [])
