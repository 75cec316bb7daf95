"""What is refused before the long work, and what is said of a model when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from saat.cli import main

TRAIN = ["train", "--fit.epochs=1", "--quiet=true"]
DATA = ["--data.train_size=40", "--data.query_size=10", "--data.database_size=60"]
LINEAR = "--model=test_early_refusals:linear"
LENGTH = 16


def linear() -> nn.Module:
    """A model of `LENGTH` bits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, LENGTH))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The checkpoint of `linear`, which can be imported meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        out = tmp_path_factory.mktemp("linear")
        assert main([*TRAIN, *DATA, LINEAR, f"--out={out}"]) == 0
        yield out


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
        (["train", "--backbone=alexnet", "--weights=random"], "a size that the model takes; got 32 pixels"),
        (["train", LINEAR, "--code_length=64"], "early_refusals:linear, 16 bits, or left out; got 64"),
        (["train", "--backbone=resnet8", "--out=FILE"], "`out` is a folder that can be written to"),
        (["evaluate", "--model=nowhere:make"], "`model` 'nowhere:make' cannot be built"),
        (["evaluate", LINEAR, "--norm=l2"], "`norm` is that of a `suite`; got l2 without one"),
        (["evaluate", LINEAR, "--steps=7"], "`steps` is that of a `suite`; got 7 without one"),
        (["evaluate", LINEAR, "--name=mine"], "`name` is that of a `suite`; got mine without one"),
        (["evaluate", LINEAR, "--batch_size=8"], "`batch_size` is that of a `suite`; got 8 without one"),
        (["evaluate", LINEAR, "--suite=fast", "--name=a\tb"], "a model is printable text, and neither"),
        (["evaluate", "--checkpoint=x/chance_map", "--suite=fast"], "(give another `name`)"),
        (["attack", LINEAR, "--name=unreliable"], "and neither chance_map nor unreliable, entries of"),
        (["evaluate", LINEAR, "--out=FILE"], "`out` is a folder that can be written to"),
        (["evaluate", "--checkpoint=MADE", LINEAR, "--data.image_size=16"], "the model takes; got 16 pixels"),
        (["attack", "--checkpoint=MADE", LINEAR, "--surrogate=[nowhere]"], "found no card.json in nowhere"),
        (["certify", "--checkpoint=MADE", LINEAR, "--out=FILE"], "`out` is a folder that can be written to"),
        (["harden", "--checkpoint=MADE", LINEAR, "--data.image_size=16"], "the model takes; got 16 pixels"),
        (["harden", "--checkpoint=MADE", LINEAR, "--out=FILE"], "`out` is a folder that can be written to"),
    ],
)
def test_wrong_options_are_told_before_images_are_decoded(
    wrong: list[str],
    message: str,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    given = [word.replace("MADE", str(made)).replace("FILE", str(tmp_path / "file")) for word in wrong]
    assert main([given[0], f"--out={tmp_path / 'new'}", "--quiet=true", *DATA, *given[1:]]) == 2
    assert message in capsys.readouterr().err


def test_a_factory_of_another_code_length_is_named(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import test_early_refusals

    monkeypatch.setattr(test_early_refusals, "LENGTH", 24)
    assert main(["evaluate", f"--checkpoint={made}", LINEAR]) == 2
    assert f"found 24 there, 16 in the card of {made}" in capsys.readouterr().err


def test_a_new_model_that_tells_nothing_apart_is_flagged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([*TRAIN, *DATA, "--backbone=resnet8", "--fit.learning_rate=0", f"--out={tmp_path}"]) == 0
    assert [record.message.split(": ")[1] for record in caplog.records] == ["clean-at-chance"]
