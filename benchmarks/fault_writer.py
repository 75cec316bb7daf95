"""The process that `fault_index.py` kills: it writes states of an index, and pushes each, for as long as it lives.

It says before each step what the state will be, and after it that it is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from saat.index.blocks import open_blocks
from saat.index.catalog import open_remote
from saat.index.content import IndexContent, ModelKey
from saat.index.push import push
from saat.index.storage import MANIFEST, create_index, pushing, read_index, update_index

MODEL = ModelKey("f" * 32, 64)
BATCH = 50  # items of a step of a push, so that most have several
MANY = 400  # items, from which on only removals follow


def state_of(content: IndexContent) -> str:
    """Return a digest of everything that an index holds."""
    digest = hashlib.sha256(content.packed.tobytes() + content.ids.tobytes())
    digest.update(json.dumps(content.metadata.to_pydict()).encode() + str(content.next_id).encode())
    return digest.hexdigest()


def next_state(content: IndexContent, generator: np.random.Generator) -> IndexContent:
    """Add some items, or remove some of a large index."""
    if len(content) > MANY or (len(content) and generator.random() < 0.4):
        return content.without(generator.choice(content.ids, max(1, len(content) // 3), replace=False))
    count = int(generator.integers(1, 200))
    columns = pa.table({"path": [f"{number}.jpg" for number in generator.integers(0, 10**9, count)]})
    return content.added(generator.integers(0, 256, (count, 8), dtype=np.uint8), columns, model=MODEL)


def push_folder(folder: Path, address: str) -> None:
    """Do what `saat index push` does."""
    with pushing(folder), open_remote(address) as remote:
        content = open_blocks(folder)
        of_folder = {"identity": content.manifest.identity, "created": content.manifest.created}
        for _ in push(content, remote, **of_folder, batch_size=BATCH):
            pass


def write_until_killed(folder: Path, address: str | None, seed: int) -> None:
    generator = np.random.default_rng(seed)
    content = read_index(folder) if (folder / MANIFEST).exists() else None
    if address is not None:
        open_remote(address).close()  # loads the client, so that kills do not fall on its imports
    while True:
        wanted = next_state(IndexContent.empty(MODEL) if content is None else content, generator)
        print("write", state_of(wanted), flush=True)
        if content is None:
            create_index(folder, wanted)
        else:
            update_index(folder, lambda _, wanted=wanted: wanted)
        print("written", state_of(wanted), flush=True)
        if address is not None:
            print("push", state_of(wanted), flush=True)
            push_folder(folder, address)
            print("pushed", state_of(wanted), flush=True)
        content = wanted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", help="where each state is pushed to; none for nowhere")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_until_killed(options.folder, options.address, options.seed)
