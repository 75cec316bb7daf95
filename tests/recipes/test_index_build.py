"""`saat index build`: what becomes of a folder and of a Parquet set, and of a build that is stopped."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from saat.bits import unpack_codes
from saat.cli import main
from saat.data.decoding import NO_IMAGE
from saat.data.fashion import read_fashion
from saat.errors import DataError
from saat.index.storage import read_index
from saat.models.checkpoint import load_checkpoint
from saat.models.hash_model import HashModel, encode_packed
from saat.recipes import index as index_recipe
from saat.recipes.damaged import SHOWN
from saat.recipes.index import AddConfig, BuildConfig, InfoConfig, VerifyConfig, add, build, info
from saat.recipes.index import verify as verify_command
from saat.recipes.items import read_item
from saat.recipes.search import SearchConfig, search

COUNT = 40  # garments in folders, of the fixture `photos`


def test_a_folder_becomes_an_index(built: Path, photos: Path, tiny: Path) -> None:
    content = read_index(built)
    assert content.ids.tolist() == list(range(COUNT + 1))
    rows = {Path(row["path"]).name: row for row in content.metadata.to_pylist()}
    assert rows["03.png"]["label"] == "Dress"
    assert rows["plain.png"]["label"] is None
    assert "broken.jpg" not in rows
    model, _ = load_checkpoint(tiny)
    pixels = torch.from_numpy(read_fashion().read(3)).permute(2, 0, 1)[None].float() / 255
    code = unpack_codes(content.packed[rows["03.png"]["id"]][None])
    assert (torch.from_numpy(code) == model.encode(pixels)).all()
    assert not list(built.glob(".work*"))
    assert verify_command(VerifyConfig(index=built)) == {"count": COUNT + 1}
    report = info(InfoConfig(index=built))
    assert report["columns"] == {"id": "int64", "path": "string", "label": "string"}
    assert report["model"]["code_length"] == 32


def test_damaged_images_are_named_with_a_count(
    photos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = build(BuildConfig(checkpoint=tiny, images=[photos], out=tmp_path / "index"))
    assert (report["count"], report["encoded"], report["resumed"]) == (COUNT + 1, COUNT + 2, 0)
    assert len(report["damaged"]) == 1
    printed = capsys.readouterr().out
    assert f"{COUNT + 1} items; {COUNT + 1} images encoded" in printed
    assert "1 damaged images left out" in printed
    assert "broken.jpg: not an image" in printed


def test_many_damaged_images_are_all_named_in_a_file(
    photos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(SHOWN + 1):
        (tmp_path / f"{number:02}.png").write_bytes(b"no picture")
    images = [photos / "Bag", *sorted(tmp_path.glob("*.png"))]
    build(BuildConfig(checkpoint=tiny, images=images, out=tmp_path / "index"))
    file = tmp_path / "index" / "damaged.txt"
    assert f"... and 1 more; all are in {file}" in capsys.readouterr().out
    lines = file.read_text().splitlines()
    assert lines == [f"{tmp_path}/{number:02}.png: {NO_IMAGE}" for number in range(SHOWN + 1)]


def test_damaged_images_stay_named_until_they_are_mended(photos: Path, tiny: Path, tmp_path: Path) -> None:
    one, other, file = tmp_path / "one: a.png", tmp_path / "other.png", tmp_path / "index" / "damaged.txt"
    for path in (one, other):
        path.write_bytes(b"no picture")
    build(BuildConfig(checkpoint=tiny, images=[photos / "Bag", one], out=tmp_path / "index", quiet=True))
    add(AddConfig(index=tmp_path / "index", images=[other], quiet=True))
    add(AddConfig(index=tmp_path / "index", images=[other, photos / "Coat"], quiet=True))
    assert file.read_text().splitlines() == [f"{path}: {NO_IMAGE}" for path in (one, other)]
    for path, left in ((one, [f"{other}: {NO_IMAGE}"]), (other, None)):
        shutil.copy(photos / "plain.png", path)
        add(AddConfig(index=tmp_path / "index", images=[path], quiet=True))
        assert (file.read_text().splitlines() if file.exists() else None) == left


KILLED = """
import os, signal, sys
from saat.cli import main
from saat.recipes import encoder
real, calls = encoder.atomic_write, []
def write(path):
    calls.append(path)
    if len(calls) == 6:
        path.with_name(".half").write_bytes(b"half a batch")
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path)
encoder.atomic_write = write
main(sys.argv[1:])
"""


KILLED_LATE = """
import os, signal, sys
from saat.cli import main
from saat.recipes import index
index.remove_work = lambda _: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_a_killed_build_goes_on_without_encoding_an_image_twice(
    photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it writes the sixth batch of four images: the five before it are kept."""
    out = tmp_path / "index"
    words = ["index", "build", f"--checkpoint={tiny}", f"--images=[{photos}]", f"--out={out}", "--batch_size=4"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words, "--quiet=true"], check=False)
    assert killed.returncode == -signal.SIGKILL
    encode, seen = encode_packed, []

    def counted(model: HashModel, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        seen.append(len(images))
        return encode(model, images)

    monkeypatch.setattr("saat.recipes.encoder.encode_packed", counted)
    report = build(BuildConfig(checkpoint=tiny, images=[photos], out=out, quiet=True))
    assert (report["resumed"], report["encoded"]) == (20, COUNT + 2 - 20)
    assert sum(seen) in (COUNT + 1 - 20, COUNT + 2 - 20)  # the damaged image is in the part before, or after
    again = build(BuildConfig(checkpoint=tiny, images=[photos], out=tmp_path / "again", quiet=True))
    assert again["resumed"] == 0
    first, second = read_index(out), read_index(tmp_path / "again")
    assert (first.packed == second.packed).all()
    assert first.metadata.equals(second.metadata)
    assert not list(out.glob(".work*"))


def test_a_build_killed_when_its_index_is_there_is_done(
    photos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    words = ["index", "build", f"--checkpoint={tiny}", f"--images=[{photos}]", f"--out={out}", "--batch_size=16"]
    killed = subprocess.run([sys.executable, "-c", KILLED_LATE, *words, "--quiet=true"], check=False)
    assert killed.returncode == -signal.SIGKILL
    before = read_index(out)
    assert list(out.glob(".work*"))
    with pytest.raises(DataError, match="found one in"):  # a part of the images is another build
        build(BuildConfig(checkpoint=tiny, images=[photos / "Bag"], out=out, quiet=True))
    assert main(words) == 0
    assert (
        f"{COUNT + 1} items; {COUNT + 1} images encoded, {COUNT + 1} of them before a stop" in capsys.readouterr().out
    )
    after = read_index(out)
    assert (after.packed == before.packed).all()
    assert after.metadata.equals(before.metadata)
    assert not list(out.glob(".work*"))
    with pytest.raises(DataError, match="found one in"):
        build(BuildConfig(checkpoint=tiny, images=[photos], out=out, quiet=True))


def test_an_image_that_could_not_be_read_is_tried_again(
    photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails at the first image, and the build is stopped before the index is there."""
    images, read = sorted((photos / "Bag" / "more").iterdir()), Path.read_bytes

    def fails(path: Path) -> bytes:
        if path == images[0]:
            raise OSError(5, "Input/output error")
        return read(path)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    config = BuildConfig(checkpoint=tiny, images=images, out=tmp_path / "index", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        patch.setattr(index_recipe, "create_index", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(config)
    kept = {path.name for path in config.out.glob(".work*/*")}
    with monkeypatch.context() as patch:
        patch.setattr(index_recipe, "create_index", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(config)
    assert kept < {path.name for path in config.out.glob(".work*/*")}  # the codes of before are there beside the new
    report = build(config)
    assert (report["count"], report["resumed"], report["damaged"]) == (len(images), len(images), [])
    assert read_index(config.out).metadata.column("path").to_pylist() == [str(path) for path in images]


def test_parquet_keeps_the_columns_of_the_user(tiny: Path, tmp_path: Path) -> None:
    fashion, root = read_fashion(), tmp_path / "set"
    root.mkdir()
    files = []
    for row in range(6):
        Image.fromarray(fashion.read(row)).save(tmp_path / "one.png")
        files.append({"bytes": (tmp_path / "one.png").read_bytes(), "path": None})
    table = {"image": files, "label": [0, 1, 0, 1, 0, -1], "price": [1.5, 2, 3, 4, 5, 6], "id": list("abcdef")}
    table |= {"path": list("ghijkl"), "user_path": list("mnopqr")}
    pq.write_table(pa.table(table), root / "train.parquet")
    (root / "class_names.txt").write_text("top\ntrouser\n")
    report = build(BuildConfig(checkpoint=tiny, images=[root], out=tmp_path / "index", quiet=True))
    assert report["count"] == 6
    rows = read_index(tmp_path / "index").metadata.to_pylist()
    assert rows[1] == {
        "id": 1,
        "path": f"{root}/train.parquet#1",
        "label": "trouser",
        "price": 2.0,
        "user_id": "b",
        "user_path_2": "h",
        "user_path": "n",
    }
    assert rows[5]["label"] is None
    assert read_item(rows[1]["path"]) == files[1]["bytes"]
    query = tmp_path / "query.png"
    Image.fromarray(fashion.read(1)).save(query)
    hits = search(SearchConfig(index=tmp_path / "index", image=query, where="price > 1.9 and price < 4", quiet=True))
    assert sorted(hit["price"] for hit in hits) == [2.0, 3.0]
