"""A fault planted in a model is named by `saat evaluate`: in its files, and before any number on the console."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted import SIDE, Constant, Linear, Masked, Randomized
from torch import nn

from saat.cli import main

DATA = [f"--data.image_size={2 * SIDE}", "--data.train_size=120", "--data.query_size=100", "--data.database_size=150"]
BUDGET = ["--epsilon=16/255", "--steps=50"]  # enough for a search without gradients to lead by more than noise


def sees(model: nn.Module) -> nn.Module:
    """A model of images of twice the side: reports measure structure, for which those of `planted` are too small."""
    return nn.Sequential(nn.AvgPool2d(2), model)


def sound() -> nn.Module:
    return sees(Linear())


def grown() -> nn.Module:
    """The sound model with its logits scaled by 1,000."""
    return sees(Linear(scale=100.0))


def constant() -> nn.Module:
    return sees(Constant())


def masked() -> nn.Module:
    return sees(Masked())


def randomized() -> nn.Module:
    return sees(Randomized())


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures and the page, which take longest and say nothing here."""
    monkeypatch.setattr("saat.recipes.outcome.write_examples", lambda *_, **__: [])
    monkeypatch.setattr("saat.recipes.evaluate.write_report", lambda _, out: (out / "report.html", {}))


@pytest.mark.parametrize(
    ("model", "suite", "expected"),
    [
        ("sound", "standard", []),
        ("grown", "fast", ["saturated-logits"]),
        ("constant", "fast", ["collapsed-codes", "clean-at-chance", "vanished-gradients"]),
        (
            "masked",
            "standard",  # the smallest with a member that sees no gradient
            ["black-box-wins", "vanished-gradients", "more-steps-no-stronger", "large-epsilon-above-chance"],
        ),
        ("randomized", "fast", ["unstable-model"]),
    ],
)
def test_evaluate_names_the_fault_first(
    model: str, suite: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", f"--model={__name__}:{model}", f"--out={tmp_path}", f"--suite={suite}"]
    assert main([*words, *BUDGET, *DATA]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [flag["name"] for flag in report["flags"]] == expected
    assert report["unreliable"] is bool(expected)
    first = [f"unreliable: {flag['name']}: {flag['message']}" for flag in report["flags"]]
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(first)] == first
    assert not printed[len(first)].startswith("unreliable")
