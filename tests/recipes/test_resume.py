"""A run that is killed at any moment and started again ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saat.cli import main
from saat.data.catalog import DataOptions, decode_splits
from saat.data.collection import Collection
from saat.data.splits import Splits
from saat.recipes.train import TrainConfig, identity

DATA = ["--data.train_size=300", "--data.query_size=20", "--data.database_size=100"]
TRAIN = ["train", "--backbone=resnet8", "--fit.epochs=4", "--quiet=true", *DATA]
HARDEN = ["harden", "--fit.epochs=3", "--steps=2", "--quiet=true"]


def run_and_kill(words: list[str], out: Path, *, epochs: int, delay: float) -> None:
    """Start the command in a process of its own; SIGKILL it `delay` seconds after so many epochs are on disk."""
    process = subprocess.Popen([sys.executable, "-m", "saat", *words, f"--out={out}"], env=os.environ)
    log, deadline = out / "train.jsonl", time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= epochs):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "card.json").exists()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain")
    assert main([*TRAIN, f"--out={out}"]) == 0
    return out


def test_train_resumes_to_the_same_bits(plain: Path, tmp_path: Path) -> None:
    run_and_kill(TRAIN, tmp_path, epochs=1, delay=0.05)
    assert main([*TRAIN, f"--out={tmp_path}"]) == 0
    assert (tmp_path / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_a_run_that_is_refused_writes_nothing(plain: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in plain.iterdir()}
    assert main([*TRAIN, f"--out={plain}", "--code_length=64"]) == 2
    assert before == {path.name: path.stat().st_mtime_ns for path in plain.iterdir()}


def test_a_model_of_ones_own_makes_a_run_what_it_is_and_options_that_it_replaces_do_not() -> None:
    own, longer, other = (
        TrainConfig(out=Path("x"), model=model, code_length=length)
        for model, length in (("a:b", 32), ("a:b", 64), ("a:c", 32))
    )
    cpu = torch.device("cpu")
    assert identity(own, cpu) == identity(longer, cpu) != identity(other, cpu)


@pytest.mark.parametrize("carry", ["false", "true"])
def test_harden_resumes_to_the_same_bits(carry: str, plain: Path, tmp_path: Path) -> None:
    words = [*HARDEN, f"--checkpoint={plain}", f"--carry={carry}"]
    assert main([*words, f"--out={tmp_path / 'whole'}"]) == 0
    run_and_kill(words, tmp_path / "killed", epochs=1, delay=0.1)
    assert main([*words, f"--out={tmp_path / 'killed'}"]) == 0
    whole, killed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == killed


def test_harden_goes_on_where_its_parent_is_named_otherwise(plain: Path, tmp_path: Path) -> None:
    assert main([*HARDEN, f"--checkpoint={plain}", f"--out={tmp_path / 'out'}"]) == 0
    log = (tmp_path / "out" / "train.jsonl").read_text()
    (tmp_path / "link").symlink_to(plain)
    assert main([*HARDEN, f"--checkpoint={tmp_path / 'link'}", f"--out={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "train.jsonl").read_text() == log  # nothing was trained anew


def test_another_run_in_the_same_folder_is_refused(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, f"--out={plain}", "--seed=1"]) == 2
    assert "seed: 0 there, 1 now" in capsys.readouterr().err


def test_other_images_in_the_same_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TRAIN[:2], "--fit.epochs=1", "--quiet=true", *DATA[1:], f"--out={tmp_path}"]
    assert main([*words, "--data.train_size=64"]) == 0

    def changed(collection: Collection, options: DataOptions, **more: bool) -> Splits:  # the same options, other images
        return decode_splits(collection, replace(options, train_size=80), **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saat.recipes.train.decode_splits", changed)
        assert main([*words, "--data.train_size=64"]) == 2
    assert "checksums" in capsys.readouterr().err


def test_a_damaged_resume_state_is_named(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = (plain / "resume.pt").read_bytes()
    (tmp_path / "resume.pt").write_bytes(state[: len(state) // 2])
    assert main([*TRAIN, f"--out={tmp_path}"]) == 2
    assert "resume.pt is damaged" in capsys.readouterr().err
