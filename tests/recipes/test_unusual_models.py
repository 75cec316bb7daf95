"""Models of one's own that most do not have: without weights, with infinities, with one code for all; and no labels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from saat.cli import main
from saat.data.fashion import read_fashion
from saat.index.storage import read_index
from saat.models.hash_model import NO_CODE

DATA = ["--data.train_size=40", "--data.query_size=10", "--data.database_size=60", "--quiet=true"]


class Projection(nn.Module):
    """A fixed projection to 16 bits, in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        directions = torch.randn(3 * 32 * 32, 16, generator=torch.Generator().manual_seed(0))
        self.register_buffer("directions", directions - directions.mean(0))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.directions


def masked() -> nn.Module:
    """A model with the mask of an attention."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 16))
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    return model


def constant() -> nn.Module:
    """A model of one code for all images, which noise does not change."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.fill_(1.0)
    return model


class Standardizing(nn.Module):
    """A model that standardizes each image, which gives no number for one of a single color."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 16))

    def forward(self, images: Tensor) -> Tensor:
        mean, deviation = images.mean((1, 2, 3), keepdim=True), images.std((1, 2, 3), keepdim=True)
        logits: Tensor = self.layers((images - mean) / deviation)
        return logits


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.mark.usefixtures("no_pictures")
def test_a_model_without_weights_is_measured_and_not_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "--model=test_unusual_models:Projection"
    for number, words in enumerate(
        (
            ["attack", "--purifier=jpeg", "--steps=1"],
            ["certify", "--samples=40", "--queries=2", "--radii=[0.1]"],
            ["detect", "--steps=1"],
        )
    ):
        assert main([words[0], own, f"--out={tmp_path / str(number)}", *words[1:], *DATA]) == 0
    for words in (["harden", own], ["train", own]):
        capsys.readouterr()
        assert main([*words, f"--out={tmp_path / words[0]}", "--fit.epochs=1", *DATA]) == 2
        assert "`model` has weights that take a gradient; got none to train" in capsys.readouterr().err


def test_averaging_leaves_the_infinities_of_a_model(tmp_path: Path) -> None:
    words = ["train", "--model=test_unusual_models:masked", f"--out={tmp_path}", "--fit.epochs=1", "--fit.average=0.9"]
    assert main([*words, *DATA]) == 0
    assert load_file(tmp_path / "model.safetensors")["backbone.mask"].tolist() == [0.0, -torch.inf]


def test_a_model_of_one_code_is_flagged_where_it_seems_safe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--model=test_unusual_models:constant", *DATA[:-1]]
    certify = ["certify", "--samples=40", "--queries=6", "--radii=[0.1]"]
    for number, words in enumerate((certify, ["detect", "--steps=1"])):
        out = tmp_path / str(number)
        capsys.readouterr()
        assert main([words[0], *own, f"--out={out}", *words[1:]]) == 0
        assert capsys.readouterr().out.startswith("unreliable: collapsed-codes")
        report = json.loads((out / "report.json").read_text())
        assert report["unreliable"]
        assert (report["distinct_codes"], report["bit_entropy"]) == (1, 0.0)
        assert {"collapsed-codes", "clean-at-chance"} <= {flag["name"] for flag in report["flags"]}


def test_an_image_without_finite_logits_is_in_no_index_and_no_query(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "--model=test_unusual_models:Standardizing"
    assert main(["train", own, f"--out={tmp_path / 'model'}", "--fit.epochs=1", *DATA]) == 0
    fashion, black = read_fashion(), tmp_path / "black.png"
    photos = [tmp_path / "a.png", black, tmp_path / "c.png"]
    for row, path in enumerate(photos):
        Image.fromarray(fashion.read(row) * (path != black)).save(path)
    build = ["index", "build", f"--checkpoint={tmp_path / 'model'}", "--out", str(tmp_path / "index"), own]
    assert main([*build, "--images", *map(str, photos)]) == 0
    assert f"1 damaged images left out:\n  {black}: {NO_CODE}\n" in capsys.readouterr().out
    content = read_index(tmp_path / "index")
    assert content.metadata.column("path").to_pylist() == [str(photos[0]), str(photos[2])]
    assert main(["search", str(tmp_path / "index"), str(black), own]) == 2
    assert NO_CODE in capsys.readouterr().err


def test_goals_of_train_labels_need_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fashion, root = read_fashion(), tmp_path / "lists"
    root.mkdir()
    for row in range(12):
        Image.fromarray(fashion.read(row)).save(root / f"{row}.png")
    for prefix, rows, label in (
        ("train", range(4), "0 0"),
        ("test", range(4, 6), "1 0"),
        ("database", range(6, 12), "0 1"),
    ):
        (root / f"{prefix}_img.txt").write_text("".join(f"{row}.png\n" for row in rows))
        (root / f"{prefix}_label.txt").write_text(f"{label}\n" * len(rows))
    data = ["--data.name=image-list", f"--data.root={root}", "--data.image_size=32", "--quiet=true"]
    for words, what in (
        (["attack"], "`goal` mainstay, unlike own-code, is made of"),
        (["evaluate", "--suite=standard"], "`suite` standard is made of"),
        (["detect"], "the attack on a detector is made of"),
        (["certify"], "the attack beside a certificate is made of"),
    ):
        own = "--model=test_unusual_models:masked"
        assert main([words[0], own, f"--out={tmp_path / words[0]}", *words[1:], *data]) == 2
        assert f"{what} labels of train images; got none with one" in capsys.readouterr().err


def test_who_may_read_results_is_for_the_umask_to_say(tmp_path: Path) -> None:
    write = "import os, sys; from pathlib import Path; from saat.runtime import write_text; os.umask(0o077); "
    subprocess.run([sys.executable, "-c", f"{write} write_text(Path(sys.argv[1]), '')", tmp_path / "a"], check=True)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_reader_who_has_had_enough_ends_the_help_without_a_trace() -> None:
    run = subprocess.run(
        f"{sys.executable} -m saat --help | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert run.stderr == ""
    assert run.returncode in (0, 141)  # 0 where all was written before the reader went
