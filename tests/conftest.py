"""A trained model, its detector, an index of real images, and `saat serve` as a process, to test what is served."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from PIL import Image
from servers import address, milvus, postgresql, remote, scheme

from saat.cli import main
from saat.data.fashion import CLASS_NAMES, read_fashion
from service import Server, Start

__all__ = ["address", "milvus", "postgresql", "remote", "scheme"]  # fixtures: servers, started when a test first asks
collect_ignore_glob = ["conftest.py", "*/conftest.py"]  # for doctests: all have one name, so one hides the others
settings.register_profile("slow machines", deadline=None)
settings.load_profile("slow machines")
COUNT = 60


@dataclass(frozen=True)
class Served:
    """A checkpoint, its detector, the images of its index, and the index."""

    checkpoint: Path
    detector: Path
    photos: Path
    index: Path


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    root = tmp_path_factory.mktemp("served")
    sizes = ["--data.train_size=120", "--data.query_size=20", "--data.database_size=150"]
    words = ["train", f"--out={root / 'model'}", "--backbone=resnet8", "--loss=csq", "--fit.epochs=2", "--quiet=true"]
    assert main([*words, *sizes]) == 0
    fashion = read_fashion()
    for row in range(COUNT):
        path = root / "photos" / CLASS_NAMES[row % 10].replace("/", " ") / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fashion.read(row)).save(path)
    return _with_detector_and_index(root / "model", root / "photos", root)


@pytest.fixture(scope="session")
def hardened(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A model hardened from that of `served`, over the same photos, with a detector and an index of its own."""
    root = tmp_path_factory.mktemp("hardened")
    words = ["harden", f"--checkpoint={served.checkpoint}", f"--out={root / 'model'}", "--fit.epochs=1", "--steps=1"]
    assert main([*words, "--quiet=true"]) == 0
    return _with_detector_and_index(root / "model", served.photos, root)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `make demo` leaves there, of a small demo."""
    root = tmp_path_factory.mktemp("demo")
    small = ["--train_size=100", "--query_size=10", "--database_size=100", "--attack_steps=2", "--train_epochs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["demo", *small, "--harden_epochs=1", "--quiet=true"]) == 0  # to where `make demo` writes
    return root


def _with_detector_and_index(checkpoint: Path, photos: Path, root: Path) -> Served:
    detect = ["detect", f"--checkpoint={checkpoint}", f"--out={root / 'detected'}", "--steps=1", "--quiet=true"]
    assert main(detect) == 0
    build = ["index", "build", f"--checkpoint={checkpoint}", f"--images=[{photos}]", f"--out={root / 'index'}"]
    assert main([*build, "--quiet=true"]) == 0
    return Served(checkpoint, root / "detected" / "detector", photos, root / "index")


@pytest.fixture(scope="session")
def serve() -> Start:
    """Return a way to start `saat serve` with options, on a free port; it ends with the block."""

    @contextmanager
    def start(*options: str) -> Iterator[Server]:
        words = [sys.executable, "-m", "saat", "serve", *options, "--port=0"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                found = re.search(r"http://\S+", line)
                assert found, f"no address in {line!r}"
                yield Server(found.group(), process)
            finally:
                process.kill()

    return start


@pytest.fixture(scope="session")
def url(served: Served, hardened: Served, serve: Start) -> Iterator[str]:
    """The address of a service with the lab, a second model beside the first, and a detector of each."""
    second = (f"--hardened={hardened.checkpoint}", f"--hardened_index={hardened.index}")
    watch = "--false_alarm_rate=0.05"  # 120 images calibrate no lower rate of much use
    detectors = (f"--detector={served.detector}", f"--hardened_detector={hardened.detector}", watch)
    with serve(f"--index={served.index}", "--lab=true", *second, *detectors, "--rate=0") as server:
        yield server.url
