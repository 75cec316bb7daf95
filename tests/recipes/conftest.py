from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from saat.cli import main
from saat.data.fashion import CLASS_NAMES, read_fashion

TINY = ["--data.train_size=120", "--data.query_size=20", "--data.database_size=150"]
COUNT = 40  # garments in folders


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, trained for a moment on real images: 120 to train, 20 queries, 150 items."""
    out = tmp_path_factory.mktemp("tiny")
    words = ["train", f"--out={out}", "--backbone=resnet8", "--loss=csq", "--fit.epochs=2", "--quiet=true", *TINY]
    assert main(words) == 0
    return out


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 garments, four of each class in a folder of its name; one of no class; one damaged; one text."""
    root = tmp_path_factory.mktemp("photos")
    fashion = read_fashion()
    for row in range(COUNT):
        path = root / CLASS_NAMES[row % 10].replace("/", " ") / "more" / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fashion.read(row)).save(path)
    Image.fromarray(fashion.read(COUNT)).save(root / "plain.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (root / "notes.txt").write_text("no picture either")
    return root


@pytest.fixture(scope="session")
def built(photos: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "index"
    words = ["index", "build", f"--checkpoint={tiny}", f"--images=[{photos}]", f"--out={out}", "--batch_size=16"]
    assert main(words) == 0
    return out


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures and the page, which take longest: tests/evaluation and test_cli.py look at those."""
    monkeypatch.setattr("saat.recipes.outcome.write_examples", lambda *_, **__: [])
    for recipe in ("attack", "evaluate"):
        monkeypatch.setattr(f"saat.recipes.{recipe}.write_report", lambda _, out: (out / "report.html", {}))
