"""What is added and removed while the service runs, in one process."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from engines import COUNT, IMAGES, make_engine
from PIL import Image

from saat.data.decoding import FORMATS
from saat.errors import DataError
from saat.index import storage
from saat.index.content import IndexContent
from saat.index.storage import (
    MANIFEST,
    State,
    create_index,
    read_files,
    read_index,
    read_state,
    update_index,
    verify_index,
)
from saat.index.uploads import UPLOADS
from saat.recipes.index import RemoveConfig, remove
from saat.recipes.items import read_items
from saat.serving import store as store_module
from saat.serving.store import Store

MEMORY = Path("/proc/self/status")


def make_store(folder: Path) -> Store:
    engine = make_engine(["even"] * COUNT)
    create_index(folder, engine.content)
    return Store(
        folder,
        engine,
        encode=lambda content: engine.encode(engine.prepare(content)[None]),
        known=read_state(folder),
    )


def anonymous_megabytes() -> float:
    lines = MEMORY.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def encoded(row: int, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGES[row]).save(buffer, kind, **options)
    return buffer.getvalue()


def test_the_disk_has_the_name_of_an_upload_before_the_index_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, synced = make_store(tmp_path), list[Path]()

    def sync(folder: Path) -> None:
        assert len(read_index(tmp_path)) == COUNT
        synced.append(folder)

    monkeypatch.setattr(store_module, "sync_folder", sync)
    store.add(encoded(3), label=None)
    assert synced == [tmp_path / UPLOADS]


def test_an_upload_that_the_index_does_not_take_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path)

    def full(folder: Path, change: Callable[[IndexContent], IndexContent], *, known: State | None) -> None:
        change(read_index(folder))
        assert list((tmp_path / UPLOADS).iterdir())
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "update_index", full)
        with pytest.raises(OSError, match="No space left"):
            store.add(encoded(3), label=None)
    assert not list((tmp_path / UPLOADS).iterdir())
    item, new = store.add(encoded(3), label=None)
    assert new
    assert [path.name for path in (tmp_path / UPLOADS).iterdir()] == [item.name]


def test_uploads_to_an_index_that_is_damaged_leave_no_file(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / MANIFEST).write_bytes(b"damaged")
    for row in (3, 4):
        with pytest.raises(RuntimeError, match="cannot be changed"):
            store.add(encoded(row), label=None)
    assert not (tmp_path / UPLOADS).exists()


def test_an_upload_that_the_index_names_stays_though_its_write_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    update = store_module.update_index

    def late(*arguments: Any, **options: Any) -> None:
        update(*arguments, **options)
        raise OSError("Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "update_index", late)
        with pytest.raises(OSError, match="Input/output error"):
            store.add(encoded(3), label=None)
    named = [path for path in read_index(tmp_path).metadata.column("path").to_pylist() if UPLOADS in path]
    assert [str(path) for path in (tmp_path / UPLOADS).iterdir()] == named


def test_removed_uploads_leave_no_file_whoever_removes_them(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    items = [store.add(encoded(row), label="odd")[0] for row in (3, 4, 5)]
    store.remove(items[0].id)
    assert {path.name for path in (tmp_path / UPLOADS).iterdir()} == {item.name for item in items[1:]}
    remove(RemoveConfig(index=tmp_path, ids=[items[1].id], quiet=True))
    assert {path.name for path in (tmp_path / UPLOADS).iterdir()} == {items[2].name}


def test_an_image_that_cannot_be_removed_does_not_undo_the_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does it keep a service from its index; it goes with the next removal that can, though that finds no item."""
    store = make_store(tmp_path)
    item, _ = store.add(encoded(3), label="odd")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        store.remove(item.id)
        assert item.id not in read_index(tmp_path).ids
        engine = make_engine(["even"] * COUNT)
        Store(tmp_path, engine, encode=engine.encode, known=read_state(tmp_path))
    assert caplog.text.count("Permission denied") == 2
    assert len(list((tmp_path / UPLOADS).iterdir())) == 1
    remove(RemoveConfig(index=tmp_path, ids=[item.id], quiet=True))
    assert not list((tmp_path / UPLOADS).iterdir())


def refuse(path: Path, missing_ok: bool = False) -> None:
    raise PermissionError(13, "Permission denied", str(path))


KILLED = """
import os, signal, sys
from pathlib import Path
from test_store import encoded, make_store
from saat.index import storage
store = make_store(Path(sys.argv[1]))
storage.put_file = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.add(encoded(3), label=None)
"""


def test_an_upload_whose_addition_was_killed_goes_when_a_service_starts(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False, cwd=Path(__file__).parent)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / UPLOADS).iterdir())) == 1
    engine = make_engine(["even"] * COUNT)
    Store(tmp_path, engine, encode=engine.encode, known=read_state(tmp_path))
    assert not list((tmp_path / UPLOADS).iterdir())


def test_the_index_is_read_once_and_again_where_others_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reads = make_store(tmp_path), []

    def counted(folder: Path, *arguments: Any, **options: Any) -> State:
        reads.append(folder)
        return read_files(folder, *arguments, **options)

    monkeypatch.setattr(storage, "read_files", counted)
    for number in (1, 2):
        store.remove(number)
        store.add(encoded(number), label="odd")
    assert not reads  # the engine has it
    with monkeypatch.context() as other:
        other.setattr(storage, "read_files", read_files)
        update_index(tmp_path, lambda old: old.without(np.array([7])))  # another command
    store.remove(3)
    store.remove(4)
    assert len(reads) == 1
    assert read_index(tmp_path).ids.tolist() == [0, 5, 6, *range(8, COUNT + 2)]
    assert verify_index(tmp_path) == ()


def test_an_image_that_another_command_has_removed_is_new_again(tmp_path: Path) -> None:
    """Else the answer would be an item that the disk does not have, and that is gone with the service."""
    store = make_store(tmp_path)
    first, _ = store.add(encoded(3), label="odd")
    assert store.add(encoded(3), label="odd") == (first, False)
    update_index(tmp_path, lambda old: old.without(np.array([first.id])))
    again, new = store.add(encoded(3), label="odd")
    assert new
    assert again.id > first.id
    assert again.id in read_index(tmp_path).ids
    update_index(tmp_path, lambda old: old.without(np.array([0])))
    assert store.add(encoded(3), label="odd") == (again, False)
    assert 0 not in read_index(tmp_path).ids


@pytest.mark.skipif(not MEMORY.exists(), reason="memory is read where Linux shows it")
def test_an_image_that_was_sent_before_the_folder_moved_is_the_same_item(tmp_path: Path) -> None:
    first = make_store(tmp_path / "index")
    item, _ = first.add(encoded(3), label=None)
    moved = (tmp_path / "index").rename(tmp_path / "moved")
    engine = make_engine(["even"] * COUNT)
    engine.replace(read_index(moved))
    store = Store(
        moved,
        engine,
        encode=lambda content: engine.encode(engine.prepare(content)[None]),
        known=read_state(moved),
    )
    assert store.add(encoded(3), label=None) == (item, False)


def test_a_change_keeps_no_memory_of_the_states_before(tmp_path: Path) -> None:
    few = make_engine(["even"] * COUNT)
    columns = pa.table({"path": [f"/photos/{'x' * 150}/{row:06}.png" for row in range(150_000)]})
    codes = np.zeros((len(columns), 2), np.uint8)
    create_index(tmp_path, IndexContent.empty(few.content.model).added(codes, columns, model=few.content.model))
    few.replace(read_index(tmp_path))
    store = Store(tmp_path, few, encode=lambda _: codes[:1], known=read_state(tmp_path))
    pa.default_memory_pool().release_unused()
    before = anonymous_megabytes()
    for number in range(3):
        store.remove(number)
    assert anonymous_megabytes() - before < columns.nbytes / 1e6


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_an_index_is_built_anew_from_uploads_of_every_format(kind: str, tmp_path: Path) -> None:
    options = {"save_all": True, "append_images": [Image.fromarray(IMAGES[4])]} if kind == "MPO" else {}
    store = make_store(tmp_path)
    item, new = store.add(encoded(3, kind, **options), label=None)
    assert new
    assert read_items([tmp_path / UPLOADS]).paths == [str(tmp_path / UPLOADS / item.name)]


def test_an_upload_of_a_format_that_is_not_tried_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with pytest.raises(DataError, match="not an image"):
        store.add(encoded(3, "PCX"), label=None)
    assert not (tmp_path / UPLOADS).exists()
