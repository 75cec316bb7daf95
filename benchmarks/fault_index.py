"""Kill a process that builds, grows and shrinks an index, at random moments, and look at what is left.

Each round starts a process that writes one state after the other, and kills it by SIGKILL. The state that is then
on disk must be the last one that the process acknowledged, or the one it was writing; `verify` must find it sound. The
next round goes on from there, with whatever the kill left behind; every fourth starts a new index.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from saat.index.content import IndexContent, ModelKey
from saat.index.storage import MANIFEST, create_index, read_index, update_index, verify_index

MODEL = ModelKey("f" * 32, 64)
NOTHING = "nothing"  # the state of a folder without an index
NEW_EVERY = 4  # rounds
LONGEST = 0.25  # seconds that a process lives after its first write has begun


def state_of(content: IndexContent) -> str:
    """Return a digest of everything that an index holds."""
    digest = hashlib.sha256(content.packed.tobytes() + content.ids.tobytes())
    digest.update(json.dumps(content.metadata.to_pydict()).encode() + str(content.next_id).encode())
    return digest.hexdigest()


def next_state(content: IndexContent, generator: np.random.Generator) -> IndexContent:
    """Add some items, or remove some of a large index."""
    if len(content) > 400 or (len(content) and generator.random() < 0.4):
        return content.without(generator.choice(content.ids, max(1, len(content) // 3), replace=False))
    count = int(generator.integers(1, 200))
    columns = pa.table({"path": [f"{number}.jpg" for number in generator.integers(0, 10**9, count)]})
    return content.added(generator.integers(0, 256, (count, 8), dtype=np.uint8), columns, model=MODEL)


def write_until_killed(folder: Path, seed: int) -> None:
    """Write states for ever; say before each one what it will be, and after it that it is there."""
    generator = np.random.default_rng(seed)
    content = read_index(folder) if (folder / MANIFEST).exists() else None
    while True:
        wanted = next_state(IndexContent.empty(MODEL) if content is None else content, generator)
        print("begin", state_of(wanted), flush=True)
        if content is None:
            create_index(folder, wanted)
        else:
            update_index(folder, lambda _, wanted=wanted: wanted)
        print("done", state_of(wanted), flush=True)
        content = wanted


def kill_once(folder: Path, seed: int, state: str) -> tuple[str, str, int]:
    """Run a process and kill it; return the acknowledged state, the one it was writing, and how many it finished."""
    words = [sys.executable, __file__, f"--write={folder}", f"--seed={seed}"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline()]  # the first write has begun
    timer = threading.Timer(np.random.default_rng(seed).uniform(0, LONGEST), process.kill)
    timer.start()
    lines += process.stdout.readlines()
    timer.join()
    process.wait()
    assert process.returncode == -9, f"the writer ended by itself with {process.returncode}"
    words_of = [line.split() for line in lines if line.endswith("\n")]
    done = [digest for word, digest in words_of if word == "done"]
    begun = [digest for word, digest in words_of if word == "begin"]
    return (done[-1] if done else state), begun[-1], len(done)


def measure(rounds: int, seed: int) -> dict[str, int | float]:
    start = time.perf_counter()
    lost = damaged = written = mid_write = 0
    with tempfile.TemporaryDirectory() as root:
        folder, state, sound = Path(root), NOTHING, True
        for number in range(rounds):
            if number % NEW_EVERY == 0 or not sound:
                folder, state = Path(root) / str(number), NOTHING
            acknowledged, begun, finished = kill_once(folder, seed * 100_000 + number, state)
            written += finished
            mid_write += acknowledged != begun
            there = (folder / MANIFEST).exists()
            sound = not (there and verify_index(folder))
            damaged += not sound
            if sound:
                state = state_of(read_index(folder)) if there else NOTHING
                lost += state not in (acknowledged, begun)
    return {
        "rounds": rounds,
        "lost": lost,
        "damaged": damaged,
        "acknowledged_writes": written,
        "killed_mid_write": mid_write,
        "seconds": round(time.perf_counter() - start, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        write_until_killed(options.write, options.seed)
    report = measure(options.rounds, options.seed)
    print(json.dumps(report))
    sys.exit(bool(report["lost"] or report["damaged"]))
