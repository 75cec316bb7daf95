from __future__ import annotations

from pathlib import Path

import pytest

from saat.cli import main

TINY = ["--data.train_size=120", "--data.query_size=20", "--data.database_size=150"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, trained for a moment on real images: 120 to train, 20 queries, 150 items."""
    out = tmp_path_factory.mktemp("tiny")
    words = ["train", f"--out={out}", "--backbone=resnet8", "--loss=csq", "--fit.epochs=2", "--quiet=true", *TINY]
    assert main(words) == 0
    return out


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures and the page, which take longest: tests/evaluation and test_cli.py look at those."""
    monkeypatch.setattr("saat.recipes.outcome.write_examples", lambda *_, **__: [])
    for recipe in ("attack", "evaluate"):
        monkeypatch.setattr(f"saat.recipes.{recipe}.write_report", lambda _, out: (out / "report.html", {}))
