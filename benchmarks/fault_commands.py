"""Kill `saat index build`, `add` and `remove` themselves at random moments, and give the same command again.

Each round begins a command in a process of its own and kills it by SIGKILL. The index must then be sound, and as it was
before the command or as it is after it; the same command given again must end there. The images are real files, the
codes those of a small network; what an index should hold is worked out image by image beside it.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from saat.data.catalog import DataOptions
from saat.data.fashion import read_fashion
from saat.index.storage import MANIFEST, read_index, verify_index
from saat.recipes.encoder import load_encoder
from saat.recipes.index import AddConfig, BuildConfig, RemoveConfig, add, build, remove
from saat.recipes.train import TrainConfig, train
from saat.training import FitOptions

IMAGES = 60  # files; the first two thirds are built, the rest is added
FIRST = 0.2  # seconds within which the first kills come; then what the command takes
BATCH = 4  # images at a time, so that a command has many batches to be killed in
State = dict[str, bytes]
"""Path -> packed code."""


def make_materials(root: Path) -> tuple[Path, list[Path], State]:
    """Train a small network and write image files; return its checkpoint, the files, and the code of each."""
    data = DataOptions(train_size=100, query_size=20, database_size=100)
    fit = FitOptions(epochs=1, batch_size=50)
    checkpoint = root / "model"
    train(TrainConfig(out=checkpoint, data=data, backbone="resnet8", weights="random", fit=fit, threads=1, quiet=True))
    encoder, fashion, files = load_encoder(checkpoint, None, device=torch.device("cpu")), read_fashion(), []
    (root / "photos").mkdir()
    for row in range(IMAGES):
        files.append(root / "photos" / f"{row:03}.png")
        Image.fromarray(fashion.read(row)).save(files[-1])
    return checkpoint, files, {str(file): encoder.encode_content(file.read_bytes()).tobytes() for file in files}


def state_of(folder: Path) -> State | None:
    """Return what an index holds; none without one."""
    if not (folder / MANIFEST).exists():
        return None
    content = read_index(folder)
    paths = content.metadata.column("path").to_pylist()
    return dict(zip(paths, (code.tobytes() for code in content.packed), strict=True))


def _begin(command: Callable[[], Any]) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=command)  # which has all libraries loaded already
    process.start()
    return process


def seconds_to_run(command: Callable[[], Any]) -> float:
    """Run a command to its end in a process of its own, and return how long it took."""
    began, process = time.perf_counter(), _begin(command)
    process.join()
    assert process.exitcode == 0, f"the command ended with {process.exitcode}"
    return time.perf_counter() - began


def measure_commands(root: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Do rounds, the commands in turns, and return what was found."""
    began, drawn, total = time.perf_counter(), random.Random(seed), Counter[str]()
    checkpoint, files, codes = make_materials(root)
    first = [str(file) for file in files[: 2 * IMAGES // 3]]
    longest: dict[str, float] = {}
    folder, state = root, None
    for number in range(rounds):
        kind = ("build", "add", "remove")[number % 3]
        encoding = {"images": [root / "photos"], "batch_size": BATCH, "threads": 1, "quiet": True}
        if kind == "build":
            folder, state = root / f"index{number}", None
            some = encoding | {"images": files[: len(first)]}
            command = partial(build, BuildConfig(checkpoint=checkpoint, out=folder, **some))
            after = {path: codes[path] for path in first}
        elif kind == "add":
            command, after = partial(add, AddConfig(index=folder, **encoding)), codes
        else:
            gone = drawn.sample(range(len(first)), 5)  # a build gives ids in order
            command = partial(remove, RemoveConfig(index=folder, ids=gone, quiet=True))
            after = {path: code for path, code in codes.items() if path not in {first[row] for row in gone}}
        process = _begin(command)
        time.sleep(drawn.uniform(0.0, longest.get(kind, FIRST)))
        process.kill()
        process.join()
        total["killed"] += process.exitcode == -signal.SIGKILL
        damaged = (folder / MANIFEST).exists() and bool(verify_index(folder))
        found = None if damaged else state_of(folder)
        total["damaged"] += damaged
        total["lost"] += not damaged and found not in (state, after)
        if found != after:
            longest[kind] = seconds_to_run(command)
            total["lost"] += state_of(folder) != after
        state = after
    counted = {name: total[name] for name in ("lost", "damaged")} | {"killed_in_a_write": total["killed"]}
    return {"server": "commands", "rounds": rounds} | counted | {"seconds": round(time.perf_counter() - began, 1)}
