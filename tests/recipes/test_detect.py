"""`saat detect`: a report whose headline is the attacker who knows the detector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from saat.cli import main
from saat.data.splits import ImageSplit, Splits
from saat.defenses.detection import Detector
from saat.evaluation.roc import area_under_curve
from saat.recipes.detect import WEIGHTS, Scored, choose_weight, codes_without_train, warn_of_few
from saat.recipes.subject import load_subject


def test_too_few_images_for_a_rate_are_said(caplog: pytest.LogCaptureFixture) -> None:
    calibration = torch.rand(60, 2, generator=torch.Generator().manual_seed(0))
    warn_of_few(Detector(torch.nn.Identity(), torch.ones(1, 8, dtype=torch.int8), calibration))
    assert "60 train images calibrate the detector, too few for a false-alarm rate of 0.01: nothing" in caplog.text
    caplog.clear()
    calibration = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    warn_of_few(Detector(torch.nn.Identity(), torch.ones(1, 8, dtype=torch.int8), calibration))
    assert caplog.text == ""


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detected")
    words = ["detect", f"--checkpoint={tiny}", f"--out={out}", "--steps=6", "--epsilon=8/255", "--quiet=true"]
    assert main(words) == 0
    return out


def test_where_no_attacker_does_better_the_standard_attack_is_both(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("saat.evaluation.deployment.Deployment.average_precision")  # for searches only: it is slow
    monkeypatch.setattr("saat.recipes.detect.WEIGHTS", ())
    words = ["detect", f"--checkpoint={tiny}", f"--out={tmp_path}", "--steps=1", "--quiet=true"]
    assert main(words) == 0
    assert report_of(tmp_path)["adaptive"]["weight"] == 0.0
    saved = load_file(tmp_path / "attacked.safetensors")
    assert torch.equal(saved["adaptive"], saved["standard"])


def report_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "report.json").read_text()))


def test_the_report_is_what_the_files_say(whole: Path, tiny: Path) -> None:
    report, saved = report_of(whole), load_file(whole / "attacked.safetensors")
    subject = load_subject(tiny, None, None, device=torch.device("cpu"), quiet=True)
    clean = subject.splits.query.images[saved["rows"]]
    detector = Detector.load(whole / "detector", subject.model)
    scores = {name: detector.score(images) for name, images in (("clean", clean), *saved.items()) if name != "rows"}
    assert (report["data"], report["model"]["checksum"]) == (subject.data_entry(), subject.checksum)
    assert report["queries"] == len(clean) == 20
    assert report["calibration_images"] == 120
    for name in ("standard", "adaptive"):
        assert saved[name].dtype == torch.uint8
        assert int((saved[name].int() - clean.int()).abs().max()) == 8
        assert report[name]["auc"] == pytest.approx(area_under_curve(scores["clean"], scores[name]))
        assert len(report[name]["roc"]) == len(report["false_alarm_grid"]) == 101
    for rate, threshold in report["thresholds"].items():
        assert threshold == pytest.approx(detector.threshold(float(rate)))
        for name, found in scores.items():
            at = report[name]["at_false_alarm_rate"][rate]
            assert at["detected"] == pytest.approx(float((found > threshold).float().mean()))
            assert at["passed"] == int((found <= threshold).sum())
            assert (at["map"] is None) == (at["passed"] == 0)
    assert report["standard"]["map"] < report["clean"]["map"]
    assert "<svg" in (whole / "roc.svg").read_text()


def test_the_headline_is_the_strongest_attack_that_still_takes_map(whole: Path) -> None:
    report = report_of(whole)
    assert list(report["weights"]) == ["0", *(f"{weight:g}" for weight in WEIGHTS)]
    weight = f"{report['adaptive']['weight']:g}"
    assert report["weights"][weight]["auc"] == report["adaptive"]["auc"] <= report["standard"]["auc"]
    taken, standard = (report["clean"]["map"] - report[name]["map"] for name in ("adaptive", "standard"))
    assert taken >= 0.8 * standard
    aucs = [found["auc"] for found in report["weights"].values()]
    assert min(aucs[1:]) < aucs[0]  # knowing the detector helps


def test_an_attack_that_takes_nothing_does_not_count() -> None:
    def scored(score: float, precision: float) -> Scored:
        return Scored(torch.zeros(4, 3, 2, 2), torch.full((4,), score), torch.full((4,), precision))

    clean = scored(0.5, 0.8)
    attacked = {0.0: scored(0.9, 0.2), 0.3: scored(0.6, 0.3), 1.0: scored(0.4, 0.32), 3.0: scored(0.1, 0.7)}
    assert choose_weight(clean, attacked) == 1.0  # 0.8 - 0.32 = 0.48 is 80 % of 0.6; the last takes 0.1
    attacked[1.0] = scored(0.4, 0.33)
    assert choose_weight(clean, {0.0: attacked[0.0], 1.0: attacked[1.0], 3.0: attacked[3.0]}) == 0.0


def test_queries_that_pass() -> None:
    precision = torch.tensor([0.1, 0.2, 0.3, 0.9])
    found = Scored(torch.zeros(4, 3, 2, 2), torch.tensor([0.1, 0.5, 0.6, 0.9]), precision)
    assert found.at(0.5) == {"detected": 0.5, "passed": 2, "map": pytest.approx(0.15)}
    assert found.at(0.05) == {"detected": 1.0, "passed": 0, "map": None}


def test_train_images_are_not_held_against_themselves() -> None:
    def split(name: str, digests: list[str]) -> ImageSplit:
        images = torch.zeros(len(digests), 3, 2, 2, dtype=torch.uint8)
        return ImageSplit(name, images, torch.ones(len(digests), 1), tuple(digests), tuple(digests))

    codes = torch.ones(14, 8, dtype=torch.int8)
    codes[[1, 4]] = -1
    names = [f"image {number}" for number in range(14)]
    train = split("train", [names[1], names[4]])
    splits = Splits(train, split("query", []), split("database", names), ("one",), ())
    assert torch.equal(codes_without_train(splits, codes), torch.ones(12, 8, dtype=torch.int8))
    splits = Splits(split("train", names), split("query", []), split("database", names), ("one",), ())
    assert torch.equal(codes_without_train(splits, codes), codes)


def test_the_table_begins_with_the_attacker_who_knows(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saat.recipes.detect.WEIGHTS", (1.0,))
    assert main(["detect", f"--checkpoint={tiny}", f"--out={tmp_path}", "--steps=1", "--norm=l2", "--epsilon=0.5"]) == 0
    shown = capsys.readouterr().out.partition("Detection")[2]  # after the flags of a model that hardly learned
    report = report_of(tmp_path)
    assert shown.index("adaptive") < shown.index("standard") < shown.index("clean")
    assert f"{report['adaptive']['auc']:.3f}" in shown
    assert f"chance MAP {report['chance_map']:.3f}" in shown


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--epsilon=8", "did you mean 8/255?"),
        ("--epsilon=0.9/255", "`epsilon` in linf is at least 1/255 here"),
        ("--steps=0", "`steps` is at least 1; got 0"),
        ("--batch_size=0", "`batch_size` is at least 1; got 0"),
        ("--norm=l1", "`norm` is one of l2, linf; got 'l1'"),
    ],
)
def test_mistakes_get_an_answer(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--checkpoint=x", "--out=y", option]) == 2
    assert message in capsys.readouterr().err
