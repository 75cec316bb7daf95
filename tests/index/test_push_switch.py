"""A push to an index that is whole: readers have the state before or the state after, whatever happens."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from servers import Addresses

from saat.errors import ServerError
from saat.index.catalog import open_remote
from saat.index.content import IndexContent, ModelKey
from saat.index.flat import FlatIndex
from saat.index.push import Step, push
from saat.index.remote import RemoteIndex
from saat.index.storage import create_index, read_index, read_manifest, update_index
from saat.recipes.push import PushConfig
from saat.recipes.push import push as push_command

MODEL = ModelKey("c" * 32, 24)
BATCH = 40
KILLED = """
import os, signal, sys
from pathlib import Path
from saat.index.milvus_server import MilvusServer
from saat.index.pgvector import PgvectorIndex
from saat.recipes.push import PushConfig, push
folder, place, request, number = sys.argv[1:]
owner, name = (MilvusServer, "ask") if place.startswith("milvus") else (PgvectorIndex, "_run")
real, calls = getattr(owner, name), []
def asked(server, asked_for, *values, **named):
    calls.append(asked_for)
    if sum(request in call for call in calls) == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(server, asked_for, *values, **named)
setattr(owner, name, asked)
push(PushConfig(index=Path(folder), to=place, batch_size=40, quiet=True))
"""
# In the order of a push of `after` on `before`; of each, before which one of its kind the kill falls.
REQUESTS = {
    "milvus": [
        *(("create_collection", 1), ("create_index", 1), ("upsert", 1), ("upsert", 3)),
        *(("alter_alias", 1), ("release_collection", 1)),
    ],
    "postgresql": [("FOR UPDATE", 1), ("DELETE", 1), ("INSERT INTO {table}", 1), ("INSERT INTO saat_manifests", 2)],
}


def states() -> tuple[IndexContent, IndexContent]:
    """Return a state and the next one: items removed and added, with a new column."""
    packed = np.random.default_rng(0).integers(0, 256, (130, 3), dtype=np.uint8)
    rows = pa.table({"path": [f"{row}.png" for row in range(100)]})
    before = IndexContent.empty(MODEL).added(packed[:100], rows, model=MODEL)
    more = pa.table({"path": [f"{row}.png" for row in range(30)], "height": range(30)})
    return before, before.without(np.arange(0, 100, 7)).added(packed[100:], more, model=MODEL)


def steps_of(content: IndexContent, remote: RemoteIndex[Any]) -> Iterator[Step]:
    return push(content, remote, identity="ours", created="now", batch_size=BATCH)


def answers(content: IndexContent, k: int) -> tuple[list[list[int]], list[str]]:
    """Return ids by query, and the paths of the items found by id, as an index that holds `content` finds them."""
    flat = FlatIndex(24)
    flat.add(content.packed, content.ids)
    ids = flat.search(queries(), k).ids
    return ids.tolist(), content.only(np.unique(ids)).metadata.column("path").to_pylist()


def queries() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (3, 3), dtype=np.uint8)


def found(remote: RemoteIndex[Any], k: int) -> tuple[list[list[int]], list[str]]:
    result, content = remote.find(queries(), k)
    return result.ids.tolist(), content.metadata.column("path").to_pylist()


def check_holds(remote: RemoteIndex[Any], content: IndexContent) -> None:
    remote.check_complete()
    items = remote.items(np.arange(200))
    assert len(remote) == len(content)
    assert items.ids.tolist() == content.ids.tolist()
    assert (items.packed == content.packed).all()
    assert items.metadata.select(["id", "path"]).equals(content.metadata.select(["id", "path"]))
    assert found(remote, 9) == answers(content, 9)


@pytest.fixture
def place(scheme: str, address: Addresses) -> str:
    """Return an address that holds the first of `states`."""
    place = address(scheme)
    with open_remote(place) as remote:
        assert sum(step.written for step in steps_of(states()[0], remote)) == 100
    return place


def test_readers_have_the_state_before_until_a_push_ends(place: str, scheme: str) -> None:
    before, after = states()
    with open_remote(place) as remote, open_remote(place) as reader:
        for _ in steps_of(after, remote):
            check_holds(reader, before)
            with open_remote(place) as other:
                check_holds(other, before)
        for each in (remote, reader):
            check_holds(each, after)
        # Milvus keeps the state before, so that the next push sends what differs from that one.
        back = [(step.written, step.removed) for step in steps_of(before, remote)]
        assert np.sum(back, axis=0).tolist() == ([0, 0] if scheme == "milvus" else [15, 30])
        check_holds(reader, before)


def test_an_index_that_may_be_the_same_is_compared_first(place: str, scheme: str) -> None:
    before, _ = states()
    with open_remote(place) as remote:
        assert list(steps_of(before, remote)) == [Step("compare", count, 0, 0) for count in (40, 40, 20, 0)]
        steps = list(steps_of(before.without(np.array([99])), remote))
        check_holds(remote, before.without(np.array([99])))
    assert [step.items for step in steps if step.action == "compare"] == [40, 40, 19]
    pushed = [(step.items, step.written, step.removed) for step in steps if step.action == "push"]
    new = scheme == "milvus"  # where the collection that is not searched was empty
    assert pushed == [(40, 40 * new, 0), (40, 40 * new, 0), (19, 19 * new, 0), (0, 0, 1 - new)]
    assert [step.action for step in steps] == ["compare"] * 3 + ["push"] * 4


def test_a_push_that_stops_leaves_the_state_before(place: str) -> None:
    before, after = states()
    with open_remote(place) as remote:
        steps = steps_of(after, remote)
        for _ in range(2):
            assert next(steps).items == BATCH
        steps.close()
        check_holds(remote, before)
        assert sum(step.items for step in steps_of(after, remote)) == len(after)
        check_holds(remote, after)


def test_answers_during_pushes_are_of_one_state(place: str) -> None:
    before, after = states()
    possible = [answers(before, 50), answers(after, 50)]

    def read() -> list[int]:
        with open_remote(place) as reader:
            seen = [possible.index(found(reader, 50))]
            begun.wait(60)
            while not done.is_set():
                seen.append(possible.index(found(reader, 50)))
            return [*seen, possible.index(found(reader, 50))]

    begun, done = threading.Barrier(3), threading.Event()
    with ThreadPoolExecutor(2) as pool, open_remote(place) as remote:
        readers = [pool.submit(read) for _ in range(2)]
        begun.wait(60)
        try:
            for content in (after, before, after):
                assert sum(step.items for step in steps_of(content, remote)) == len(content)
        finally:
            done.set()
        assert {state for reader in readers for state in reader.result(timeout=60)} == {0, 1}


def test_a_kill_before_any_request_leaves_one_state(scheme: str, address: Addresses, tmp_path: Path) -> None:
    """After the kill before the last request of Milvus, the new state is there; after all others, the old one."""
    before, after = states()
    folder = tmp_path / "index"
    create_index(folder, before)
    manifest = read_manifest(folder)

    def push_folder(place: str) -> None:
        with open_remote(place) as remote:
            content = read_index(folder)
            list(push(content, remote, identity=manifest.identity, created=manifest.created, batch_size=BATCH))

    for request, number in REQUESTS[scheme]:
        place = address(scheme)
        update_index(folder, lambda _: before)
        push_folder(place)
        update_index(folder, lambda _: after)
        words = [sys.executable, "-c", KILLED, str(folder), place, request, str(number)]
        assert subprocess.run(words, check=False).returncode == -signal.SIGKILL, request
        with open_remote(place) as reader:
            check_holds(reader, after if request == "release_collection" else before)
            push_folder(place)
            check_holds(reader, after)


@pytest.mark.servers
@pytest.mark.parametrize("request_", ["create_index", "create_alias"])
def test_a_first_push_goes_on_after_a_kill(request_: str, address: Addresses, tmp_path: Path) -> None:
    place, (before, _) = address("milvus"), states()
    create_index(tmp_path, before)
    words = [sys.executable, "-c", KILLED, str(tmp_path), place, request_, "1"]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    push_command(PushConfig(index=tmp_path, to=place, batch_size=BATCH, quiet=True))
    with open_remote(place) as reader:
        check_holds(reader, before)


def push_all(content: IndexContent, place: str) -> None:
    with open_remote(place) as remote:
        assert sum(step.written for step in steps_of(content, remote)) == 100


@pytest.mark.servers
def test_a_connection_lost_in_a_push_leaves_the_state_before(address: Addresses) -> None:
    place, (before, after) = address("postgresql"), states()
    push_all(before, place)
    with open_remote(place) as remote, open_remote(place) as other:
        steps = steps_of(after, remote)
        assert next(steps).written == 0
        ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %(pid)s"
        other._run(ours, pid=remote._connection.info.backend_pid)
        with pytest.raises(ServerError):
            list(steps)
        for each in (other, remote):
            check_holds(each, before)
        assert sum(step.written for step in steps_of(after, remote)) == 30
        check_holds(other, after)


@pytest.mark.servers
def test_a_push_to_a_table_waits_for_another(address: Addresses) -> None:
    place, (before, after) = address("postgresql"), states()
    push_all(before, place)
    with open_remote(place) as remote, ThreadPoolExecutor(1) as pool:
        steps = steps_of(after, remote)
        next(steps)
        with open_remote(place + "&options=-c%20statement_timeout%3D300ms") as second:
            other = pool.submit(lambda: list(steps_of(before.without(np.array([5])), second)))
            with pytest.raises(TimeoutError):
                other.result(timeout=1)
            list(steps)
            other.result(timeout=60)
        check_holds(remote, before.without(np.array([5])))
