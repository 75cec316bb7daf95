"""From a suite on real images to its card, and from cards to a leaderboard, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saat.cli import main
from saat.evaluation.result_card import read_result_card
from saat.models.checkpoint import load_checkpoint, weights_checksum

SMALL = ["--data.train_size=160", "--data.query_size=20", "--data.database_size=200", "--backbone=resnet8"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    train = ["train", f"--out={folder / 'plain'}", "--loss=csq", "--fit.epochs=2", "--quiet=true", *SMALL]
    assert main(train) == 0
    words = ["evaluate", f"--checkpoint={folder / 'plain'}", f"--out={folder / 'run'}", "--name=tiny"]
    assert main([*words, "--suite=fast", "--steps=2", "--quiet=true"]) == 0
    return folder / "run"


def test_a_suite_writes_its_card(evaluated: Path) -> None:
    card = read_result_card(evaluated / "result.json")
    report = json.loads((evaluated / "report.json").read_text())
    assert str(evaluated.parent) not in (evaluated / "result.json").read_text()
    assert (card["name"], card["suite"], card["steps"], card["model"]["checkpoint"]) == ("tiny", "fast", 2, "plain")
    assert card["model"]["checksum"] == weights_checksum(load_checkpoint(evaluated.parent / "plain")[0])
    assert card["members"].keys() == {"away-from-mainstay", "soft-ranking"}
    assert card["clean_map"] == report["clean_map"]
    assert card["worst_map"] == report["attacked_map"] <= min(card["clean_map"], *card["members"].values())
    assert card["worst_map_interval"] == report["attacked"]["map_interval"]
    assert card["flags"] == [flag["name"] for flag in report["flags"]]
    assert card["dataset"]["checksums"] == report["data"]["checksums"]


def test_cards_become_a_leaderboard(evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads((evaluated / "result.json").read_text())
    flat = tmp_path / "flat"
    flat.mkdir()
    best = {"name": "[/]best", "flags": [], "unreliable": False, "clean_map": 0.9, "worst_map": 0.5}
    best |= {"members": dict.fromkeys(card["members"], 0.5)}
    (flat / "best.json").write_text(json.dumps(card | best))
    (flat / "cut.json").write_text("{")
    (flat / "copy.json").write_text(json.dumps(card))
    words = ["leaderboard", f"--cards={evaluated.parent}", f"--cards+={flat}", f"--out={tmp_path / 'board'}"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    for told in ("[/]best", "tiny", "0.500", "fashion", "flat/cut.json: the file is damaged", "result card: 1"):
        assert told in printed
    assert "counts once: 1" in printed
    board = json.loads((tmp_path / "board/leaderboard.json").read_text())
    (group,) = board["groups"]
    assert [row["name"] for row in group["rows"]] == ["[/]best", "tiny"]
    assert group["rows"][0]["rank"] == 1
    assert f"{card['worst_map']:.3f}" in (tmp_path / "board/leaderboard.md").read_text()
    assert (tmp_path / "board/leaderboard.html").exists()


def test_a_folder_without_cards_is_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", f"--cards={tmp_path}", f"--out={tmp_path / 'board'}"]) == 2
    assert "found none in" in capsys.readouterr().err
    assert not (tmp_path / "board").exists()
