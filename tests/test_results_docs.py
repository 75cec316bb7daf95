"""Rows of attacks at equal evaluations: how they come about, and that what docs/results.md says of them is in them."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SIZES = {"made-up": {"query": 100, "train": 400, "database": 900}}


@pytest.fixture
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    return importlib.import_module(request.param)


def row(attack: str, evaluations: int, **more: Any) -> dict[str, Any]:
    place = {"dataset": "made-up", "model": "plain", "seed": 0, "norm": "linf", "epsilon": 8 / 255}
    return place | {"attack": attack, "model_evaluations": evaluations, "map": 0.25} | more


@pytest.mark.parametrize("module", ["attack_tables"], indirect=True)
def test_what_is_not_equal_is_counted_from_the_rows(module: ModuleType) -> None:
    rows = [row("pgd", 5200), row("hag", 5000), row("vmi-fgsm", 2300), row("nes", 9900), row("universal", 100)]
    rows.append(row("p2p", 5000, t_map_clean=0.125, t_map_attacked=0.875))
    equal, targeted = module.equal_table([{"evaluations_an_image": 50, "rows": rows}], SIZES)
    told = "- made-up: 50 to 52 times, but `vmi-fgsm` 23, `nes` 99, `universal` 1. Training: 4,800 images, 48 for each "
    assert told + "query." in " ".join(equal.split())  # 12 epochs: 50 * 100 // 400
    assert "| p2p | linf 0.0314 | 0.2500 |" in equal
    assert targeted.endswith("| none | 0.1250 |\n| p2p | 0.8750 |\n")


def test_a_row_of_attacks_has_a_key_of_its_own() -> None:
    """The same attack stands there at the papers' budget and at the equal one."""
    path = Path(__file__).parent.parent / "benchmarks" / "results" / "attacks.json"
    rows = json.loads(path.read_text())["rows"]
    keys = Counter((row["dataset"], row["model"], row["seed"], row["attack"], row["budget"]) for row in rows)
    assert rows
    assert [key for key, count in keys.items() if count > 1] == []


@pytest.mark.parametrize("module", ["every_attack"], indirect=True)
@pytest.mark.parametrize("evaluations", [20, 50])
def test_searches_that_look_around_keep_the_budget(module: ModuleType, evaluations: int) -> None:
    for search, looks in (("vmi", lambda s, n: (s - 1) * (n + 1) + 2), ("nes", lambda s, n: s * (2 * n + 1) + 1)):
        found = module.equal_settings({"search": search}, evaluations, 1)
        assert evaluations <= looks(found["steps"], found["samples"]) <= evaluations + 2


@pytest.mark.parametrize("module", ["bench_protocol"], indirect=True)
def test_rows_that_stay_keep_their_commit_and_their_budget(module: ModuleType) -> None:
    rows = [row("pgd", 5000), row("apgd", 5000, commit="first"), row("nes", 5000)]
    earlier = {"commit": "second", "evaluations_an_image": 50, "rows": rows}
    found = [(kept["attack"], kept["commit"]) for kept in module.kept_rows(earlier, ["nes"], 50)]
    assert found == [("pgd", "second"), ("apgd", "first")]
    with pytest.raises(SystemExit, match="got 20, beside rows of 50"):
        module.kept_rows(earlier, ["nes"], 20)
