import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saat.cli import main
from saat.data.splits import Splits
from saat.recipes import plant
from saat.recipes.plant import PlantConfig, code_of_queries, found_shares
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


def splits_of(tiny: Path) -> Splits:
    return load_subject(tiny, None, None, device=torch.device("cpu"), quiet=True).splits


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("chosen", [["--label=Trouser"], ["--queries", "4", "12"]], ids=["label", "queries"])
def test_items_are_found_or_hidden(chosen: list[str], hide: bool, tiny: Path, tmp_path: Path) -> None:
    words = ["plant", f"--checkpoint={tiny}", f"--out={tmp_path}", *chosen, "--count=20"]
    words += [f"--hide={str(hide).lower()}", "--epsilon=32/255", "--steps=10", "--quiet=true"]
    assert main(words) == 0
    files = {f"items/{path.name}" for path in (tmp_path / "items").iterdir()}
    report = json.loads((tmp_path / "report.json").read_text())
    before, after = report["found_in_top"]["before"]["10"], report["found_in_top"]["after"]["10"]
    assert after < before if hide else after > before
    splits = splits_of(tiny)
    assert len(report["images"]) == report["items"] == 20
    assert files == set(report["images"])
    for file, name in report["images"].items():
        row = int(Path(file).stem)
        assert splits.database.item_names[row] == name
        planted = torch.from_numpy(np.array(Image.open(tmp_path / file))).permute(2, 0, 1)
        change = planted.int() - splits.database.images[row].int()
        assert 0 < change.abs().max() <= 32


@pytest.mark.parametrize("hide", [False, True])
def test_chosen_queries_are_reported_and_share_no_label_with_items_to_be_found(
    hide: bool, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plant", str(tiny), f"--out={tmp_path}", "--queries", "3", "17", "17", "--count=150", "--steps=1"]
    assert main([*words, f"--hide={str(hide).lower()}"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["label"], report["query_rows"], report["queries"]) == (None, [3, 17, 17], 2)
    title = f"{'hide from' if hide else 'want to be found by'} queries 3, 17"
    assert title in " ".join(capsys.readouterr().out.split())
    splits = splits_of(tiny)
    theirs = splits.query.labels[[3, 17]].bool().any(0)
    shared = splits.database.labels[:, theirs].bool().any(1)
    wanted = torch.nonzero(shared if hide else ~shared).flatten().tolist()
    assert sorted(int(Path(file).stem) for file in report["images"]) == wanted


def test_the_code_of_chosen_queries_is_their_vote(tiny: Path, tmp_path: Path) -> None:
    queries = codes((1, -1, 1, -1), (1, -1, -1, 1), (1, 1, -1, -1))
    config = PlantConfig(out=tmp_path, queries=[0, 1, 2])
    splits = splits_of(tiny)
    assert code_of_queries(config, splits, -queries, queries).tolist() == [[1, -1, -1, -1]]
    # of a label the train split votes, whatever the queries
    trouser = splits.train.labels[:, 1] > 0
    train = torch.where(trouser[:, None], queries[:1], -queries[:1])
    for hide in (False, True):
        config = PlantConfig(out=tmp_path, label="Trouser", hide=hide)
        assert code_of_queries(config, splits, train, -queries).tolist() == queries[:1].tolist()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([], "give either `label` or `queries`, rows of the query split; got neither"),
        (["--label=Trouser", "--queries=3"], "give either `label` or `queries`, rows of the query split; got both"),
        (["--queries", "3", "20"], "`queries` is rows of the query split, 0 to 19; got [3, 20]"),
        (["--queries=[-1]"], "`queries` is rows of the query split, 0 to 19; got [-1]"),
        (["--queries=[]"], "`queries` is rows of the query split, 0 to 19; got []"),
        (["--data.query_size=60", "--queries", *map(str, range(60))], "`queries` leave items to change; every item"),
    ],
)
def test_queries_that_cannot_be_chosen_get_an_answer(
    chosen: list[str], message: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plant", f"--checkpoint={tiny}", f"--out={tmp_path}", "--quiet=true", *chosen]) == 2
    assert message in capsys.readouterr().err


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


def test_a_folder_with_items_of_ones_own_stays_as_it_is(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "9.png").write_text("a picture of the shop")
    assert main(["plant", str(tiny), f"--out={tmp_path}", "--label=Trouser", "--quiet=true"]) == 2
    assert f"`out` is a folder without items, where images are written; got {tmp_path}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["items", "9.png"]


def test_a_planting_that_was_stopped_goes_on_and_mixes_with_no_other(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["plant", str(tiny), "--label=Trouser", "--count=20", "--steps=2", "--quiet=true"]
    monkeypatch.setattr(plant, "images_at_once", lambda *_, **__: 6)
    assert main([*words, f"--out={tmp_path / 'whole'}"]) == 0
    again = [*words, f"--out={tmp_path / 'stopped'}"]
    search, calls = plant.APGD, []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return search(*arguments, **options)

    monkeypatch.setattr(plant, "APGD", stopping)
    assert main(again) == 130
    assert "goes on from what was saved" in capsys.readouterr().err
    assert main([*again, "--hide"]) == 2
    assert "hide: False there, True now" in capsys.readouterr().err
    assert main(again) == 0
    assert len(calls) == 3 + 2  # of 4 batches, 2 were done
    folders = (tmp_path / "whole", tmp_path / "stopped")
    whole, stopped = ({path.name: path.read_bytes() for path in folder.rglob("*.*")} for folder in folders)
    assert whole == stopped
