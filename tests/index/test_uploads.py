"""Images that clients sent go with their items; those of the user stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from saat.index.content import IndexContent, ModelKey
from saat.index.storage import create_index, read_index, update_index
from saat.index.uploads import UPLOADS, place_now

MODEL = ModelKey("weights", 16)
SENT, OTHER, ORPHAN = (f"{letter * 64}.png" for letter in "abc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two uploads, a file of the user's among them and one elsewhere, an item each; and two files of no item."""
    folder = tmp_path / "index"
    paths = [folder / UPLOADS / SENT, folder / UPLOADS / OTHER, folder / UPLOADS / "cat.png", tmp_path / UPLOADS / SENT]
    for path in (*paths, folder / UPLOADS / ORPHAN, folder / UPLOADS / f".{ORPHAN}.x1_y"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"an image")
    columns = pa.table({"path": [str(path) for path in paths[:3]] + [str(tmp_path / "cat.png")]})
    content = IndexContent.empty(MODEL).added(np.zeros((4, 2), np.uint8), columns, model=MODEL)
    create_index(folder, content)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / UPLOADS).iterdir()}


def test_uploads_go_with_their_items_and_those_of_killed_additions_with_the_next_change(folder: Path) -> None:
    assert len(names(folder)) == 5  # a new index removes nothing: what it could not read may be mended
    update_index(folder, lambda old: old.without(np.array([3])))
    assert names(folder) == {SENT, OTHER, "cat.png"}
    update_index(folder, lambda old: old.without(np.array([0, 2])))
    assert names(folder) == {OTHER, "cat.png"}
    assert names(folder.parent) == {SENT}


def test_uploads_of_an_index_that_has_moved_stay_until_they_are_removed(folder: Path, tmp_path: Path) -> None:
    moved = shutil.move(folder, tmp_path / "moved")
    update_index(moved, lambda old: old.without(np.array([0])))
    assert names(moved) == {OTHER, "cat.png"}


def test_an_upload_stays_where_the_change_fails(folder: Path) -> None:
    def fails(_: IndexContent) -> IndexContent:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        update_index(folder, fails)
    assert SENT in names(folder)
    assert len(read_index(folder)) == 4


def test_the_picture_of_an_upload_lies_in_its_index_wherever_that_is(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    paths = read_index(moved).metadata.column("path").to_pylist()
    assert [place_now(moved, path) for path in paths] == [str(moved / UPLOADS / name) for name in (SENT, OTHER)] + [
        str(folder / UPLOADS / "cat.png"),  # the user's own, not sent by a client
        str(tmp_path / "cat.png"),
    ]
