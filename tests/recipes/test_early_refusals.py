"""What is refused before the long work, and what is said of a model when it is done."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from saat.cli import main

TRAIN = ["train", "--fit.epochs=1", "--quiet=true"]
DATA = ["--data.train_size=40", "--data.query_size=10", "--data.database_size=60"]
LENGTH = 16


def linear() -> nn.Module:
    """A model of `LENGTH` bits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, LENGTH))


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("an image is decoded")

    monkeypatch.setattr("saat.data.catalog.decode_rows", decoded)


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["train", "--backbone=resnet9"], "`backbone` is one of"),
        (["train", "--weights=nowhere.pt"], "nowhere.pt"),
        (["train", "--model=nowhere:make"], "`model` 'nowhere:make' cannot be built"),
        (["evaluate", "--model=nowhere:make"], "`model` 'nowhere:make' cannot be built"),
    ],
)
def test_wrong_options_are_told_before_images_are_decoded(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*wrong, f"--out={tmp_path}", "--quiet=true", *DATA]) == 2
    assert message in capsys.readouterr().err


def test_a_factory_of_another_code_length_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model, made = "--model=test_early_refusals:linear", tmp_path / "made"
    import test_early_refusals

    assert main([*TRAIN, *DATA, model, f"--out={made}"]) == 0
    monkeypatch.setattr(test_early_refusals, "LENGTH", 24)
    assert main(["evaluate", f"--checkpoint={made}", model]) == 2
    assert f"found 24 there, 16 in the card of {made}" in capsys.readouterr().err


def test_a_new_model_that_tells_nothing_apart_is_flagged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([*TRAIN, *DATA, "--backbone=resnet8", "--fit.learning_rate=0", f"--out={tmp_path}"]) == 0
    assert [record.message.split(": ")[1] for record in caplog.records] == ["clean-at-chance"]
