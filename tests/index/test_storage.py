"""The directory of an index: the old state or the new one, each byte checked, no other model's codes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from servers import check_wanted

from saat.errors import ArgumentError, DataError
from saat.index import files, storage
from saat.index.content import IndexContent, ModelKey
from saat.index.storage import create_index, pushing, read_index, read_manifest, read_state, update_index, verify_index

MODEL = ModelKey("a" * 32, 16, "runs/plain")
FAULT = Path(__file__).parents[2] / "benchmarks" / "fault_index.py"


def three_items() -> IndexContent:
    columns = pa.table({"path": ["a.png", "b.png", "c.png"], "label": ["cat", "dog", None]})
    return IndexContent.empty(MODEL).added(np.array([[1, 2], [3, 4], [5, 6]], np.uint8), columns, model=MODEL)


def add_one(content: IndexContent) -> IndexContent:
    return content.added(np.array([[9, 9]], np.uint8), pa.table({"path": ["d.png"], "price": [3]}), model=MODEL)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    create_index(folder, three_items())
    content = read_index(folder)
    assert content.packed.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert (content.packed.dtype, content.ids.dtype) == (np.uint8, np.int64)
    assert content.ids.tolist() == content.metadata.column("id").to_pylist() == [0, 1, 2]
    assert content.metadata.column("label").to_pylist() == ["cat", "dog", None]
    manifest = read_manifest(folder)
    assert (manifest.count, manifest.next_id, manifest.model) == (3, 3, MODEL)
    assert verify_index(folder) == ()


def test_two_indexes_of_one_second_have_two_identities_and_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_now", lambda: "2025-01-01T00:00:00+00:00")
    first, second = (create_index(tmp_path / name, three_items()) for name in "ab")
    assert first.created == second.created
    assert first.identity != second.identity
    update_index(tmp_path / "a", add_one)
    update_index(tmp_path / "a", lambda content: content.without(content.ids))
    assert read_manifest(tmp_path / "a").identity == first.identity


def test_ids_are_never_used_again(tmp_path: Path) -> None:
    create_index(tmp_path, three_items())
    update_index(tmp_path, lambda content: content.without(np.array([1, 2, 77])))
    update_index(tmp_path, add_one)
    content = read_index(tmp_path)
    assert content.ids.tolist() == content.metadata.column("id").to_pylist() == [0, 3]
    assert content.packed.tolist() == [[1, 2], [9, 9]]
    assert content.metadata.to_pylist() == [
        {"id": 0, "path": "a.png", "label": "cat", "price": None},
        {"id": 3, "path": "d.png", "label": None, "price": 3},
    ]


def test_old_and_stray_files_go_at_the_next_write_and_those_of_others_stay(tmp_path: Path) -> None:
    create_index(tmp_path, three_items())
    for name in ("notes.txt", ".saat-x1.tmp", f"codes-{'0' * 32}.npy", "codes-mine.npy"):
        (tmp_path / name).write_bytes(b"half a write")
    assert len(read_index(tmp_path)) == 3
    update_index(tmp_path, add_one)
    named = {entry.name for entry in read_manifest(tmp_path).files.values()}
    kept = {".lock", "manifest.json", "notes.txt", "codes-mine.npy"}
    assert {path.name for path in tmp_path.iterdir()} == named | kept


@pytest.mark.parametrize("kind", ["codes", "ids", "metadata"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_is_named_and_refused(tmp_path: Path, kind: str, damage: str) -> None:
    create_index(tmp_path, three_items())
    path = tmp_path / read_manifest(tmp_path).files[kind].name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-1])
    (found,) = verify_index(tmp_path)
    assert str(path) in found
    with pytest.raises(DataError, match=path.name):
        read_index(tmp_path)
    with pytest.raises(DataError, match=path.name):
        update_index(tmp_path, add_one)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read to be hashed."""
    names, digest_of = list[str](), files.digest_of

    def counted(path: Path) -> str:
        names.append(path.name)
        return digest_of(path)

    monkeypatch.setattr(files, "digest_of", counted)
    return names


def test_files_are_read_to_be_checked_once(tmp_path: Path, hashed: list[str]) -> None:
    present = {entry.name for entry in create_index(tmp_path, three_items()).files.values()}
    hashed.clear()
    assert verify_index(tmp_path) == ()
    assert sorted(hashed) == sorted(present)
    hashed.clear()
    known = read_state(tmp_path)
    assert update_index(tmp_path, add_one, known=known).count == 4
    assert [name for name in hashed if name in present] == sorted(present)
    hashed.clear()
    assert update_index(tmp_path, add_one, known=known).count == 5  # of what another writer has made since
    assert len(hashed) == 6
    assert read_index(tmp_path).ids.tolist() == [0, 1, 2, 3, 4]


def test_a_writer_beside_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_index(tmp_path, three_items())
    digest_of, writers = files.digest_of, [add_one]

    def interrupted(path: Path) -> str:
        if writers:
            update_index(tmp_path, writers.pop())  # the files of before are gone after this
        return digest_of(path)

    monkeypatch.setattr(files, "digest_of", interrupted)
    assert verify_index(tmp_path) == ()
    assert read_manifest(tmp_path).count == 4


def test_files_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        create_index(tmp_path / name, three_items())
    update_index(tmp_path / "b", add_one)
    mine, other = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in "ab")
    mine["files"]["codes"] = other["files"]["codes"]
    shutil.copy(tmp_path / "b" / mine["files"]["codes"]["name"], tmp_path / "a")
    del mine["checksum"]
    checksum = hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest()
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(mine | {"checksum": checksum}))
    for reads in (read_index, verify_index):
        with pytest.raises(ArgumentError, match="for each item; got 4, 3 and 3"):
            reads(tmp_path / "a")


def test_a_damaged_manifest_is_named_and_refused(tmp_path: Path) -> None:
    create_index(tmp_path, three_items())
    path = tmp_path / "manifest.json"
    text = path.read_text()
    for damaged in (text.replace('"count": 3', '"count": 4'), text[:-40], "[]", "{}", ""):
        path.write_text(damaged)
        assert "manifest.json is damaged" in verify_index(tmp_path)[0]
        with pytest.raises(DataError, match=r"manifest\.json is damaged"):
            read_index(tmp_path)
    path.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match="has format 1; found 2"):
        read_index(tmp_path)


def test_no_index_and_a_second_one(tmp_path: Path) -> None:
    for reads in (read_index, verify_index, lambda folder: update_index(folder, add_one)):
        with pytest.raises(DataError, match=r"found no manifest\.json"):
            reads(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    create_index(tmp_path, three_items())
    with pytest.raises(DataError, match="found one in"):
        create_index(tmp_path, three_items())


def test_a_change_that_fails_leaves_the_old_state(tmp_path: Path) -> None:
    create_index(tmp_path, three_items())
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ArgumentError):
        update_index(tmp_path, lambda content: content.without(np.array([-1])))
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert len(read_index(tmp_path)) == 3


@pytest.mark.parametrize("call", range(1, 6))
def test_a_write_that_the_disk_refuses_leaves_no_file(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes, ids, metadata, their names, the manifest: the disk is full at each of them in turn."""
    sync, calls = os.fsync, count(1)

    def fsync(handle: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    new, old = tmp_path / "new", tmp_path / "old"
    create_index(old, three_items())
    before = {path.name for path in old.iterdir()}
    for folder, write in ((new, lambda: create_index(new, three_items())), (old, lambda: update_index(old, add_one))):
        calls = count(1)
        with monkeypatch.context() as patch:
            patch.setattr(storage.os, "fsync", fsync)
            with pytest.raises(OSError, match="No space left"):
                write()
        assert {path.name for path in folder.iterdir()} == (before if folder == old else {".lock"})
    assert len(read_index(old)) == 3
    create_index(new, three_items())


def test_writers_take_turns_and_readers_see_whole_states(tmp_path: Path) -> None:
    create_index(tmp_path, IndexContent.empty(MODEL))
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(update_index, tmp_path, add_one) for _ in range(12)]
        while not all(write.done() for write in writes):
            content = read_index(tmp_path)
            assert content.ids.tolist() == list(range(len(content)))
    assert [write.exception() for write in writes] == [None] * 12
    assert read_index(tmp_path).ids.tolist() == list(range(12))
    assert verify_index(tmp_path) == ()


@pytest.mark.skipif(sys.platform == "win32", reason="pushes take no turns there")
def test_pushes_take_turns_in_a_folder_that_may_only_be_read(tmp_path: Path) -> None:
    create_index(tmp_path, three_items())
    tmp_path.chmod(0o555)
    order = []

    def second() -> None:
        with pushing(tmp_path):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with pushing(tmp_path):
            waits = pool.submit(second)
            time.sleep(0.2)
            order.append("first")
        waits.result(timeout=10)
    assert order == ["first", "second"]
    tmp_path.chmod(0o755)
    with pytest.raises(DataError, match=r"found no manifest\.json"), pushing(tmp_path / "nothing"):
        pass


def test_codes_of_another_model_are_refused() -> None:
    content, columns = three_items(), pa.table({"path": ["d.png"]})
    other = ModelKey("b" * 32, 16, "runs/other")
    with pytest.raises(ArgumentError, match=r"codes of one model.*runs/plain.*runs/other"):
        content.added(np.zeros((1, 2), np.uint8), columns, model=other)
    with pytest.raises(ArgumentError, match="here 16 bits; got 24"):
        content.added(np.zeros((1, 3), np.uint8), columns, model=ModelKey("a" * 32, 24))
    moved = ModelKey("a" * 32, 16, "elsewhere")
    assert len(content.added(np.zeros((1, 2), np.uint8), columns, model=moved)) == 4


@pytest.mark.parametrize(
    ("codes", "columns", "message"),
    [
        (np.zeros((1, 2), np.uint8), {"path": ["x", "y"]}, "a row a code, 1; got 2"),
        (np.zeros((1, 2), np.uint8), {"id": [1]}, "`id` is given by the index"),
        (np.zeros((1, 2), np.uint8), {"path": [3]}, "types of the index"),
        (np.zeros((1, 4), np.uint8), {"path": ["x"]}, r"got \(1, 4\)"),
    ],
)
def test_items_that_do_not_fit(codes: np.ndarray, columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        three_items().added(codes, pa.table(columns), model=MODEL)


@pytest.mark.parametrize("server", ["none", pytest.param("postgresql", marks=pytest.mark.servers)])
def test_kills_leave_the_old_state_or_the_new_one(server: str, tmp_path: Path) -> None:
    """SIGKILL at random moments of build, add, remove and push; `benchmarks/fault_index.py` does 200 rounds of it."""
    if server != "none":
        check_wanted(server)
    words = [sys.executable, str(FAULT), "--rounds=4", f"--servers={server}", f"--out={tmp_path / 'result.json'}"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report.pop("rounds") == 4
    assert set(report.values()) == {0}
    (run,) = json.loads((tmp_path / "result.json").read_text())["runs"]
    assert run["acknowledged_writes"] > 0
    assert server == "none" or run["acknowledged_pushes"] + run["killed_in_a_push"] > 0
