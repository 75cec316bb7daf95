"""A radius that grows, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from saat.attacks.gradient import PGD
from saat.cli import main

QUICK = ["--fit.epochs=4", "--fit.batch_size=64", "--steps=2", "--quiet=true"]


@pytest.mark.parametrize("carry", ["false", "true"])
def test_the_radius_grows_over_a_share_of_all_batches(
    carry: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    radii = []
    call = PGD.__call__

    def watched(self, *arguments, **options):
        radii.append((self.threat.epsilon, self.step_size))
        return call(self, *arguments, **options)

    monkeypatch.setattr(PGD, "__call__", watched)
    words = ["harden", f"--checkpoint={tiny}", f"--out={tmp_path}", *QUICK, f"--carry={carry}"]
    assert main([*words, "--epsilon=0.1", "--step_size=0.05", "--epsilon_warmup=0.5"]) == 0
    batches, grown = 8, (0.25, 0.5, 0.75, 1.0)  # two batches an epoch
    shares = [*grown, *[1.0] * (batches - len(grown))]
    assert radii == [(pytest.approx(share * 0.1), pytest.approx(share * 0.05)) for share in shares]


@pytest.mark.parametrize("given", ["-0.1", "1.5"])
def test_a_warmup_that_cannot_be_gets_an_answer(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["harden", "--checkpoint=x", "--out=y", f"--epsilon_warmup={given}"]) == 2
    assert "`epsilon_warmup` is a share of the training, from 0 to 1; got" in capsys.readouterr().err
