"""Hardening a model of one's own that is trained already, and images that have no label at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from saat.cli import main
from saat.data.fashion import read_fashion
from saat.errors import ArgumentError
from saat.models.checkpoint import read_card
from saat.recipes.harden import HardenConfig

OWN = "--model=test_harden_own:make"
HARDEN = ["harden", OWN, "--steps=1", "--fit.epochs=1", "--quiet=true"]
SPLITS = ["--data.train_size=40", "--data.query_size=10", "--data.database_size=60"]


def make() -> nn.Module:
    """A model of 16 bits, the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 16))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def unlabeled(tmp_path: Path) -> Path:
    """Lists of 30 garments, none with a label: 20 to train, 4 queries, and all but those in the database."""
    root, fashion = tmp_path / "lists", read_fashion()
    root.mkdir()
    names = [f"{row:02}.png" for row in range(30)]
    for row, name in enumerate(names):
        Image.fromarray(fashion.read(row)).save(root / name)
    for prefix, chosen in (("train", names[:20]), ("test", names[26:]), ("database", names[:26])):
        (root / f"{prefix}_img.txt").write_text("".join(f"{name}\n" for name in chosen))
        (root / f"{prefix}_label.txt").write_text("0 0\n" * len(chosen))
    return root


@pytest.mark.parametrize("defense", ["saat", "query-side"])
def test_a_trained_model_of_ones_own_is_hardened_without_a_checkpoint(defense: str, tmp_path: Path) -> None:
    out = tmp_path / "hard"
    assert main([*HARDEN, f"--defense={defense}", f"--out={out}", *SPLITS]) == 0
    card = read_card(out)
    assert (card.backbone, card.parent, card.code_length, card.loss) == ("test_harden_own:make", None, 16, "dph")
    assert card.manifest["sizes"] == {"train": 40, "query": 10, "database": 60}
    assert (card.database_model is not None) == (defense == "query-side")
    assert main(["evaluate", f"--checkpoint={out}", OWN, f"--out={tmp_path / 'measured'}", "--quiet=true"]) == 0
    measured = json.loads((tmp_path / "measured" / "metrics.json").read_text())
    assert measured["map"] == card.metrics["map"]
    assert main([*HARDEN, f"--defense={defense}", f"--out={out}", *SPLITS]) == 0  # which has nothing left to do
    if card.database_model is not None:
        assert main(["evaluate", f"--checkpoint={out / 'database'}", OWN, "--quiet=true"]) == 0


def test_images_without_any_label_harden_a_model(
    unlabeled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.name=image-list", f"--data.root={unlabeled}", "--data.image_size=32"]
    for defense in ("distill", "trades"):
        out = tmp_path / defense
        assert main([*HARDEN, f"--defense={defense}", "--fit.learning_rate=0.1", f"--out={out}", *data]) == 0
        assert read_card(out).metrics == {}
        assert caplog.messages[-1] == "no query has a label, so nothing is measured"
        again = [
            "harden",
            f"--checkpoint={out}",
            *HARDEN[1:],
            f"--defense={defense}",
            f"--out={tmp_path / defense / 'again'}",
        ]
        assert main(again) == 0
    assert main([*HARDEN, f"--out={tmp_path / 'saat'}", *data]) == 2
    rule = "`defense` saat learns from labels, and distill and trades do without; no train image has one"
    assert rule in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "give `checkpoint`, a folder that train or harden wrote, or `model`"),
        ({"checkpoint": Path("here"), "out": Path("there/../here")}, "`out` is another folder than `checkpoint`"),
        ({"model": "m:f", "adversarial_weight": -1.0}, r"`adversarial_weight` is at least 0.0; got -1.0"),
        ({"model": "m:f", "quantization_weight": -1.0}, r"`quantization_weight` is at least 0.0; got -1.0"),
        ({"model": "m:f", "step_size": -1.0}, r"`step_size` is at least 0.0; got -1.0"),
        ({"model": "m:f", "epsilon": 0.25, "robustness": 5.0}, "`robustness` is at most 4, where `epsilon` times it"),
        ({"model": "m:f", "noise": 0.5, "robustness": 5.0}, "`robustness` is at most 2, where `noise` times it"),
    ],
)
def test_options_that_do_not_fit_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        HardenConfig(**({"out": Path("new")} | wrong))  # type: ignore[arg-type]
