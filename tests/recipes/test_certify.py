"""`saat certify`: bounds that its own attacks respect, a run that goes on where it stopped, errors that say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parts import replace_part
from safetensors.torch import load_file

from saat.attacks.autopgd import APGD
from saat.cli import main
from saat.runtime import RunOptions

RADII = ["0.02", "0.06"]


def words(tiny: Path, out: Path, *more: str) -> list[str]:
    quick = ["--samples=40", "--queries=6", "--batch_size=3", f"--radii=[{','.join(RADII)}]", "--quiet=true"]
    return ["certify", f"--checkpoint={tiny}", f"--out={out}", *quick, *more]


@pytest.fixture(scope="module", autouse=True)
def short_attacks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("saat.evaluation.deployment.Deployment.average_precision")  # for searches only: it is slow
        patch.setattr("saat.recipes.certify.ATTACK_STEPS", 2)
        patch.setattr("saat.recipes.certify.EOT_SAMPLES", 2)
        patch.setattr("saat.recipes.certify.SELECTION_SAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("certified")
    assert main(words(tiny, out)) == 0
    return out


def report_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "report.json").read_text()))


def test_the_report_holds_bounds_that_the_attacks_respect(whole: Path) -> None:
    report = report_of(whole)
    assert list(report["certified_map"]) == RADII
    assert list(report["violations"].values()) == [0, 0]
    for radius in RADII:
        assert 0.0 < report["certified_map"][radius] <= report["attacked_map"][radius]
        assert report["certified_map"][radius] <= report["smoothed_map"] <= 1.0
    small, large = RADII
    assert report["certified_bits"][small] >= report["certified_bits"][large] > 0
    assert report["certified_map"][small] >= report["certified_map"][large]
    assert (report["queries"], report["samples"], report["confidence"]) == (6, 40, 0.999)
    assert report["confidence_of_all"] == pytest.approx(0.994)
    assert 0.0 < report["chance_map"] < 1.0
    assert report["seconds"] > 0 < report["attack_seconds"]
    assert report["data"].items() >= {"options": {}, "image_size": 32, "crop_border": 0}.items()


def test_a_stopped_run_goes_on_and_alpha_needs_no_new_votes(
    whole: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("certify.json", "votes/00000.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    assert main(words(tiny, tmp_path)) == 0
    first, again = (
        {key: value for key, value in report_of(out).items() if "seconds" not in key} for out in (whole, tmp_path)
    )
    assert again == first

    def no_votes(*_: Any, **__: Any) -> None:
        raise AssertionError("all votes are there")

    monkeypatch.setattr("saat.recipes.certify.count_votes", no_votes)
    assert main(words(tiny, tmp_path, "--alpha=0.1")) == 0
    bolder = report_of(tmp_path)
    assert bolder["certified_bits"][RADII[1]] > first["certified_bits"][RADII[1]]
    assert bolder["smoothed_map"] == first["smoothed_map"]


def test_bits_that_break_their_certificate_are_counted(whole: Path, tiny: Path, tmp_path: Path) -> None:
    for name in ("certify.json", "votes/00000.safetensors", "votes/00001.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    path = tmp_path / "votes" / "00000.safetensors"
    votes = load_file(path)
    votes["attacked"][:, 0] = 40 - votes["clean"]  # every bit of three queries, at the smaller radius
    replace_part(path, votes)
    assert main(words(tiny, tmp_path)) == 0
    found = report_of(tmp_path)
    assert 0 < found["violations"][RADII[0]] <= 3
    assert found["violations"][RADII[1]] == 0
    assert found["certified_map"] == report_of(whole)["certified_map"]


def test_votes_that_have_collapsed_are_flagged(whole: Path, tiny: Path, tmp_path: Path) -> None:
    for name in ("certify.json", "votes/00000.safetensors", "votes/00001.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    for path in (tmp_path / "votes").iterdir():
        votes = load_file(path)
        votes["selection"][:], votes["clean"][:] = 20, 40  # all noisy copies, for every bit
        replace_part(path, votes)
    assert main(words(tiny, tmp_path)) == 0
    told = {flag["name"]: flag["message"] for flag in report_of(tmp_path)["flags"]}
    assert "1 distinct query codes" in told["collapsed-codes"]


def test_each_batch_and_radius_is_attacked_from_starts_of_its_own(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def attack(self: APGD, view: object, images: torch.Tensor, objective: object, *, seed: int) -> torch.Tensor:
        seeds.append(seed)
        return images

    monkeypatch.setattr(APGD, "__call__", attack)
    assert main(words(tiny, tiny.parent / "seeds")) == 0
    assert len(set(seeds)) == len(seeds) == 2 * len(RADII)


def test_another_run_does_not_mix_with_this(whole: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tiny, whole, "--sigma=0.5")) == 2
    assert "sigma: 0.25 there, 0.5 now" in capsys.readouterr().err
    other = {"float32": "bfloat16", "bfloat16": "float32"}[RunOptions().precision_on(torch.device("cpu"))]
    assert main(words(tiny, whole, f"--precision={other}")) == 2  # than `auto` means on this machine
    assert f"'{other}' now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--sigma=0", "`sigma` is a finite standard deviation above 0; got 0"),
        ("--radii=[]", "`radii` is a list of finite radii above 0; got []"),
        ("--radii=[0.1, -1]", "`radii` is a list of finite radii above 0; got [0.1, -1"),
        ("--alpha=1", "`alpha` is a probability above 0 and below 1; got 1"),
        ("--samples=0", "`samples` is at least 1; got 0"),
        ("--queries=0", "`queries` is at least 1; got 0"),
        ("--batch_size=0", "`batch_size` is at least 1; got 0"),
        ("--samples=1", "at alpha 0.001, since fewer votes certify nothing; got 1"),
        ("--radii=[0.1, 0.1000000001]", "`radii` differ from each other in six digits; got [0.1, 0.1000000001"),
        ("--radii=[0.1, 2.0]", "all that 40 samples with sigma 0.25 can certify for"),
    ],
)
def test_bad_options_say_what_is_wrong(
    option: str, message: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tiny, tmp_path, option)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "certify.json").exists()


def test_the_table_shows_bounds_beside_attacks(whole: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tiny, whole, "--quiet=false")) == 0
    shown = capsys.readouterr().out
    report = report_of(whole)
    for text in ("certified MAP", "violations", *(f"{value:.3f}" for value in report["certified_map"].values())):
        assert text in shown
    assert f"chance {report['chance_map']:.3f}" in shown
