"""`--purifier`: codes through the purifier on both sides, and attacks through its view."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from saat.attacks.views import BpdaView, EotView
from saat.cli import main
from saat.defenses.purification import PurifiedModel
from saat.defenses.purifiers import BitDepth, Jpeg, Purifier
from saat.evaluation.metrics import evaluate_retrieval
from saat.evaluation.suite import SuiteBatch
from saat.evaluation.trials import Trials, run_trials
from saat.hamming import sign_codes
from saat.models.hash_model import encode_logits
from saat.recipes.outcome import encode_subject
from saat.recipes.subject import Subject, load_subject, purified

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def subject(tiny: Path) -> Subject:
    return load_subject(tiny, None, None, device=torch.device("cpu"), quiet=True)


def report_of(out: Path, name: str = "report.json") -> dict[str, Any]:
    return dict(json.loads((out / name).read_text()))


def map_behind(subject: Subject, purifier: Purifier, images: torch.Tensor) -> float:
    model = PurifiedModel(subject.model, purifier)
    query, database = (sign_codes(encode_logits(model, part, quiet=True))
                       for part in (images, subject.splits.database.images))  # fmt: skip
    splits = subject.splits
    return evaluate_retrieval(query, splits.query.labels, database, splits.database.labels).map


def test_database_and_queries_are_purified_alike(tiny: Path, tmp_path: Path, subject: Subject) -> None:
    words = ["evaluate", f"--checkpoint={tiny}", f"--out={tmp_path}", "--quiet=true", "--purifier=bit-depth"]
    assert main(words) == 0
    expected = map_behind(subject, BitDepth(4), subject.splits.query.images)
    assert report_of(tmp_path, "metrics.json")["map"] == pytest.approx(expected)
    plain = encode_subject(subject, quiet=True)
    assert purified(subject, None, seed=0, quiet=True) is subject
    behind = encode_subject(purified(subject, "bit-depth", seed=0, quiet=True), quiet=True)
    assert not torch.equal(behind.database, plain.database)


def test_attacks_get_through_jpeg(tiny: Path, tmp_path: Path, subject: Subject) -> None:
    words = ["attack", f"--checkpoint={tiny}", f"--out={tmp_path}", "--steps=6", "--step_size=2/255", "--quiet=true"]
    assert main([*words, "--purifier=jpeg"]) == 0
    report, saved = report_of(tmp_path), load_file(tmp_path / "adversarial.safetensors")
    assert report["model"]["purifier"] == "jpeg"
    assert report["attack"]["vanished_gradients"] == 0
    assert report["attacked_map"] < report["clean_map"]
    assert report["attacked_map"] == pytest.approx(map_behind(subject, Jpeg(75), saved["images"]))
    assert report["clean_map"] == pytest.approx(map_behind(subject, Jpeg(75), subject.splits.query.images))


def test_a_suite_sees_no_vanished_gradients_and_a_purifier_is_part_of_the_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saat.evaluation.trials.RADII", ())
    monkeypatch.setattr("saat.evaluation.trials.SWEEP_STEPS", (1, 2))
    words = ["evaluate", f"--checkpoint={tiny}", f"--out={tmp_path}", "--suite=fast", "--steps=2", "--quiet=true"]
    words += ["--batch_size=8"]
    sizes: list[int] = []

    def counted(batch: SuiteBatch) -> Trials:
        sizes.append(len(batch.images))
        return run_trials(batch)

    monkeypatch.setattr("saat.recipes.suite.run_trials", counted)
    assert main([*words, "--purifier=resize-pad"]) == 0
    report = report_of(tmp_path)
    trials = report["attack"]["trials"]
    assert (trials["vanished_gradients"], trials["instability"]) == (0.0, 0.0)
    assert sizes == [8, 8, 4]
    assert report["attacked_map"] < report["clean_map"]
    searched = {name: found["model_evaluations"] for name, found in report["attack"]["members"].items()}
    assert searched == dict.fromkeys(searched, 8 * (2 + 2) * 20)  # all draws of two steps, a start and an end
    saved = load_file(tmp_path / "adversarial.safetensors")
    assert main([*words, "--purifier=resize-pad"]) == 0  # its members are there
    assert torch.equal(load_file(tmp_path / "adversarial.safetensors")["codes"], saved["codes"])
    assert report_of(tmp_path)["attacked_map"] == report["attacked_map"]
    parts = sorted((tmp_path / "members").glob("fast-*.safetensors"))
    kept = {path: load_file(path) for path in parts}
    before = {path: content["images"] for path, content in kept.items() if "images" in content}  # those of members
    for path in parts[1::2]:
        path.unlink()
    assert main([*words, "--purifier=resize-pad"]) == 0  # draws do not depend on what ran in this process
    assert all(torch.equal(load_file(path)["images"], images) for path, images in before.items())
    assert main([*words, "--purifier=bit-depth"]) == 2
    assert "purifier: 'resize-pad' there, 'bit-depth' now" in capsys.readouterr().err


def test_what_an_attacker_sees(subject: Subject) -> None:
    some = subject.splits.query.images[:3].float() / 255
    torch.testing.assert_close(subject.view(some), subject.model(some))  # the same, folded
    views = {name: purified(subject, name, seed=0, quiet=True) for name in ("jpeg", "resize-pad", "total-variation")}
    assert isinstance(views["jpeg"].view, BpdaView)
    assert isinstance(views["resize-pad"].view, EotView)
    images = subject.splits.query.images[:3].float() / 255
    smooth = views["total-variation"]
    assert torch.equal(smooth.view(images), smooth.model(images))
    assert (smooth.about["purifier"], smooth.about["defense"]) == ("total-variation",) * 2
    hardened = replace(subject, about=subject.about | {"defense": "saat"})
    assert purified(hardened, "jpeg", seed=0, quiet=True).about["defense"] == "saat + jpeg"
    assert "purifier" not in subject.about


@pytest.mark.parametrize("command", ["evaluate", "attack"])
def test_an_unknown_purifier_gets_an_answer(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--checkpoint=x", "--out=y", "--purifier=jpg"]) == 2
    assert "did you mean 'jpeg'" in capsys.readouterr().err
