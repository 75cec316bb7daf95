"""The detector at a search: which are refused, and what `saat search` says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from saat.cli import main
from saat.defenses.detection import Detector
from saat.errors import ArgumentError, CheckpointError
from saat.models.checkpoint import load_checkpoint
from saat.recipes.serve import ServeConfig
from saat.serving.risk import load_assess


def test_a_rate_at_which_nothing_would_raise_an_alarm_is_refused(served: Any) -> None:
    model, _ = load_checkpoint(served.checkpoint)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8).numpy()
    lowest = Detector.load(served.detector, model).lowest_rate()
    assert 1 / 121 < lowest < 0.05
    assert all(0 <= risk.score <= 1 for risk in load_assess(served.detector, model, false_alarm_rate=lowest)(images))
    with pytest.raises(ArgumentError, match=rf"at least {lowest:.4f} .* calibrated on 120 images; got 0\.008$"):
        load_assess(served.detector, model, false_alarm_rate=0.008)
    with pytest.raises(ArgumentError, match="above 0 and below 1"):
        load_assess(served.detector, model, false_alarm_rate=1.0)


def test_a_detector_of_another_model_is_refused(served: Any) -> None:
    model, _ = load_checkpoint(served.checkpoint)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(CheckpointError, match="of another model"):
        load_assess(served.detector, model, false_alarm_rate=0.01)


def test_the_hardened_detector_needs_its_model() -> None:
    with pytest.raises(ArgumentError, match="`hardened_detector` is that of the hardened model"):
        ServeConfig(index="index", hardened_detector=Path("detector"))


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_saat_search_tells_the_risk_beside_the_results(
    served: Any, capsys: pytest.CaptureFixture[str], rate: float
) -> None:
    photo = sorted((served.photos / "Dress").glob("*.png"))[0]
    words = ["search", f"--index={served.index}", f"--image={photo}", "--k=3", "--format=json"]
    assert main(words) == 0
    alone = capsys.readouterr()
    assert main([*words, f"--detector={served.detector}", f"--false_alarm_rate={rate}"]) == 0
    watched = capsys.readouterr()
    assert json.loads(watched.out) == json.loads(alone.out)
    assert "score" not in alone.err
    found = re.search(r"the query looks (ordinary|like an attack): score (\S+), threshold (\S+)", watched.err)
    assert found, watched.err
    assert (found[1] == "like an attack") == (float(found[2]) > float(found[3]))
    assert float(found[3]) == round(
        Detector.load(served.detector, load_checkpoint(served.checkpoint)[0]).threshold(rate), 4
    )
