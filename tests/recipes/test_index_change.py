"""`saat index add`, `remove` and `verify`."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from saat.cli import main
from saat.data.fashion import read_fashion
from saat.errors import ArgumentError, DataError
from saat.index.storage import read_index
from saat.recipes import index as index_recipe
from saat.recipes.index import AddConfig, BuildConfig, RemoveConfig, add, build, remove
from saat.recipes.search import SearchConfig, search


def test_add_remove_add(photos: Path, tiny: Path, tmp_path: Path) -> None:
    out, more = tmp_path / "index", tmp_path / "more.png"
    Image.fromarray(read_fashion().read(70)).save(more)
    build(BuildConfig(checkpoint=tiny, images=[photos / "Bag"], out=out, quiet=True))
    assert add(AddConfig(index=out, images=[photos / "Bag", more], quiet=True))["already_there"] == 4
    assert read_index(out).ids.tolist() == [0, 1, 2, 3, 4]
    assert add(AddConfig(index=out, images=[more], quiet=True))["count"] == 5  # nothing new
    assert remove(RemoveConfig(index=out, where="path contains 'more.png'", quiet=True))["removed"] == 1
    assert remove(RemoveConfig(index=out, ids=[0, 0, 99], quiet=True)) == {"removed": 1, "unknown": [99], "count": 3}
    assert add(AddConfig(index=out, images=[more], quiet=True)) == {
        "images": 1,
        "encoded": 1,
        "resumed": 0,
        "damaged": [],
        "count": 4,
        "already_there": 0,
    }
    assert read_index(out).ids.tolist() == [1, 2, 3, 5]
    with pytest.raises(ArgumentError, match="`ids` or `where`"):
        RemoveConfig(index=out)


def test_an_addition_leaves_the_batches_of_another_alone(
    photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is stopped when it has encoded all; the other begins and ends; the first goes on."""
    out = tmp_path / "index"
    build(BuildConfig(checkpoint=tiny, images=[photos / "plain.png"], out=out, quiet=True))

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index_recipe, "update_index", stopped)
        with pytest.raises(KeyboardInterrupt):
            add(AddConfig(index=out, images=[photos / "Bag"], quiet=True))
    assert add(AddConfig(index=out, images=[photos / "Dress"], quiet=True))["count"] == 5
    report = add(AddConfig(index=out, images=[photos / "Bag"], quiet=True))
    assert (report["count"], report["resumed"], report["encoded"]) == (9, 4, 0)
    assert not list(out.glob(".work*"))


def test_verify_names_the_damaged_file(
    photos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(BuildConfig(checkpoint=tiny, images=[photos / "Bag"], out=tmp_path, quiet=True))
    (codes,) = tmp_path.glob("codes-*.npy")
    codes.write_bytes(codes.read_bytes()[:-1] + b"?")
    assert main(["index", "verify", f"--index={tmp_path}"]) == 2
    assert f"{codes} is damaged" in capsys.readouterr().err
    with pytest.raises(DataError, match=codes.name):
        search(SearchConfig(index=tmp_path, image=photos / "plain.png"))
