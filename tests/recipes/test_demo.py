"""The demo in small: every step of the story, and a report with the keys that others read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from saat.data.folder import read_folder
from saat.errors import ArgumentError
from saat.recipes.demo import DemoConfig, demo


def test_the_story_in_small(tmp_path: Path) -> None:
    config = DemoConfig(
        out=tmp_path,
        train_size=600,
        query_size=40,
        database_size=400,
        train_epochs=3,
        harden_epochs=1,
        attack_steps=8,
        quiet=True,
    )
    report = demo(config)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["plain"]["attacked_map"] < report["plain"]["clean_map"]
    assert 0 < report["chance_map"] < report["hardened"]["clean_map"] <= 1
    assert report["hardened"]["model"]["defense"] == "saat"
    assert report["plain"]["attack"]["epsilon"] == report["hardened"]["attack"]["epsilon"] == 16 / 255
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") > 100
    assert (tmp_path / "report.md").exists()
    collection = read_folder(tmp_path / "database")  # the images that an index is built of
    labels = Counter(collection.class_names[place] for place in collection.labels.argmax(1))
    counts = report["plain"]["data"]["class_counts"]
    assert labels == {name.replace("/", " "): count for name, count in counts.items()}


def test_a_database_of_ones_own_stays(tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    (tmp_path / "database" / "mine.png").write_text("a picture")
    with pytest.raises(ArgumentError, match=r"`out` is a new folder or that of an earlier demo; got .*something else"):
        demo(DemoConfig(out=tmp_path, quiet=True))
    assert [path.name for path in tmp_path.rglob("*")] == ["database", "mine.png"]
