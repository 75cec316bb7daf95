import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saat.cli import main
from saat.recipes.plant import found_shares
from saat.recipes.subject import load_subject


def codes(*rows: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int8)


def test_found_shares_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saat.recipes.plant.TOP", (1, 2))
    queries = codes((1, 1, 1, 1))
    database = codes((1, 1, 1, 1), (1, 1, 1, -1), (1, -1, -1, -1))
    rows = torch.tensor([2])
    # As it is, the last item stands third of three.
    assert found_shares(queries, database[rows], database, rows) == {"1": 0.0, "2": 0.0}
    # Planted at distance 0, it is level with the first: first by half a chance, and surely among two.
    assert found_shares(queries, queries, database, rows) == {"1": 0.5, "2": 1.0}
    # At distance 1 it shares places two and three.
    assert found_shares(queries, database[1:2], database, rows) == {"1": 0.0, "2": 0.5}
    # An item that takes its own place is not counted against itself.
    assert found_shares(queries, database[:1], database, torch.tensor([0])) == {"1": 1.0, "2": 1.0}


@pytest.mark.parametrize("hide", [False, True])
def test_items_are_found_or_hidden(hide: bool, tiny: Path, tmp_path: Path) -> None:
    words = ["plant", f"--checkpoint={tiny}", f"--out={tmp_path}", "--label=Trouser", "--count=20"]
    words += [f"--hide={str(hide).lower()}", "--epsilon=32/255", "--steps=10", "--quiet=true"]
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "9.png").write_text("of an earlier run")
    assert main(words) == 0
    files = {f"items/{path.name}" for path in (tmp_path / "items").iterdir()}
    report = json.loads((tmp_path / "report.json").read_text())
    before, after = report["found_in_top"]["before"]["10"], report["found_in_top"]["after"]["10"]
    assert after < before if hide else after > before
    splits = load_subject(tiny, None, None, device=torch.device("cpu"), quiet=True).splits
    assert len(report["images"]) == report["items"] == 20
    assert files == set(report["images"])
    for file, name in report["images"].items():
        row = int(Path(file).stem)
        assert splits.database.item_names[row] == name
        planted = torch.from_numpy(np.array(Image.open(tmp_path / file))).permute(2, 0, 1)
        change = planted.int() - splits.database.images[row].int()
        assert 0 < change.abs().max() <= 32


def test_an_unknown_label_lists_the_near_ones(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plant", f"--checkpoint={tiny}", f"--out={tmp_path}", "--label=Trousers", "--quiet=true"]
    assert main(words) == 2
    assert "did you mean 'Trouser'?" in capsys.readouterr().err


def test_a_label_that_no_train_item_has_gets_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    splits = load_subject(tiny, None, None, device=torch.device("cpu"), quiet=True)
    splits.splits.train.labels[:, 1] = 0
    monkeypatch.setattr("saat.recipes.plant.load_subject", lambda *_, **__: splits)
    assert main(["plant", f"--checkpoint={tiny}", f"--out={tmp_path}", "--label=Trouser", "--quiet=true"]) == 2
    assert "`label` is one that a train item has; no train item has Trouser" in capsys.readouterr().err
