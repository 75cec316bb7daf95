"""A folder in use is that of one run: of one model, with the code that it has, one suite, and no attack beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from saat.cli import main
from saat.recipes import outcome
from saat.recipes.outcome import SubjectCodes
from saat.recipes.subject import Subject

DATA = ["--data.train_size=40", "--data.query_size=10", "--data.database_size=60", "--quiet=true"]
OWN = ["--model=test_claims:Own", *DATA]
SUITE = ["evaluate", "--suite=fast", "--steps=1", "--batch_size=10"]
PLANT = ["plant", "--label=Trouser", "--count=2", "--steps=1"]
CERTIFY = ["certify", "--samples=40", "--queries=2", "--radii=[0.02]"]


class Own(nn.Module):
    """A model whose code may change while its weights stay."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(192, 16)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((self.pooled(images) - 0.5).flatten(1))

    def pooled(self, images: Tensor) -> Tensor:
        return nn.functional.max_pool2d(images, 4)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr("saat.evaluation.trials.RADII", ())
    monkeypatch.setattr("saat.evaluation.trials.SWEEP_STEPS", (1, 2))
    monkeypatch.setattr("saat.recipes.certify.ATTACK_STEPS", 1)
    monkeypatch.setattr("saat.recipes.certify.EOT_SAMPLES", 1)
    monkeypatch.setattr("saat.recipes.certify.SELECTION_SAMPLES", 10)


@pytest.mark.parametrize("command", [SUITE, CERTIFY])
def test_an_own_model_whose_code_has_changed_is_another_run(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import test_claims

    words = [*command, *OWN, f"--out={tmp_path}"]
    assert main(words) == 0
    assert main(words) == 0  # with the same code it goes on
    monkeypatch.setattr(test_claims.Own, "pooled", lambda self, images: nn.functional.avg_pool2d(images, 4))
    assert main(words) == 2
    assert "holds another (codes: '" in capsys.readouterr().err


def test_a_bit_that_another_machine_rounds_otherwise_makes_no_other_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SUITE, *OWN, f"--out={tmp_path}"]
    assert main(words) == 0
    first, encoded = (tmp_path / "suite.json").read_text(), outcome.encode_subject

    def turned(subject: Subject, *, quiet: bool) -> SubjectCodes:
        codes = encoded(subject, quiet=quiet)
        codes.query_logits[0, :bits] *= -1
        return codes

    monkeypatch.setattr("saat.recipes.evaluate.encode_subject", turned)
    bits = 1
    assert main(words) == 0  # of 70 codes of 16 bits
    assert (tmp_path / "suite.json").read_text() == first  # and does not drift away, bit by bit
    bits = 2
    assert main(words) == 2
    assert "holds another (codes: '" in capsys.readouterr().err


def test_a_folder_with_a_suite_takes_no_other_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"--out={tmp_path}"
    assert main([*SUITE, *OWN, out]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main([*SUITE, *OWN, out, "--suite=paper"]) == 2
    assert "suite: 'fast' there, 'paper' now" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", [SUITE, CERTIFY, ["attack", "--steps=1"], ["detect", "--steps=1"], PLANT])
def test_a_folder_of_one_measurement_takes_none_of_another_kind(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = "suite" if command is SUITE else command[0]
    assert main([*command, *OWN, f"--out={tmp_path}"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for other in (SUITE, CERTIFY, ["attack"], ["detect"], PLANT):
        if other[0] != command[0]:
            assert main([*other, *OWN, f"--out={tmp_path}"]) == 2
            assert f"{tmp_path} holds another (of {kind}, whose report.json" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
