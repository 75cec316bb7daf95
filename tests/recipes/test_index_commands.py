"""From images to search results by the command line, on real images and a small trained network."""

from __future__ import annotations

import json
import os
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
from saat.data.fashion import CLASS_NAMES, read_fashion
from saat.errors import ArgumentError, DataError
from saat.index.catalog import INDEXES
from saat.index.storage import read_index
from saat.models.checkpoint import load_checkpoint
from saat.recipes import index as index_recipe
from saat.recipes.encoder import Encoder
from saat.recipes.index import AddConfig, BuildConfig, InfoConfig, RemoveConfig, VerifyConfig, add, build, info, remove
from saat.recipes.index import verify as verify_command
from saat.recipes.items import read_item, read_items
from saat.recipes.search import SearchConfig, search

COUNT = 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 garments, four of each class in a folder of its name; one of no class; one damaged; one text."""
    root = tmp_path_factory.mktemp("photos")
    fashion = read_fashion()
    for row in range(COUNT):
        path = root / CLASS_NAMES[row % 10].replace("/", " ") / "more" / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fashion.read(row)).save(path)
    Image.fromarray(fashion.read(COUNT)).save(root / "plain.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (root / "notes.txt").write_text("no picture either")
    return root


@pytest.fixture(scope="module")
def built(photos: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "index"
    words = ["index", "build", f"--checkpoint={tiny}", f"--images=[{photos}]", f"--out={out}", "--batch_size=16"]
    assert main(words) == 0
    return out


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


@pytest.mark.parametrize("backend", INDEXES)
def test_search_finds_the_image_itself(backend: str, built: Path, photos: Path) -> None:
    image = photos / "Bag" / "more" / "08.png"
    hits = search(SearchConfig(index=built, image=image, k=50, backend=backend, quiet=True))
    zero = [hit["path"] for hit in hits if hit["distance"] == 0]
    assert str(image) in zero
    pairs = [(hit["distance"], hit["id"]) for hit in hits]
    assert pairs == sorted(pairs)
    assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
    if INDEXES[backend].exact:
        assert len(hits) == COUNT + 1
        assert pairs == [
            (hit["distance"], hit["id"])
            for hit in search(SearchConfig(index=built, image=image, k=COUNT + 1, backend="flat", quiet=True))
        ]


def test_where_searches_among_the_items_it_names(built: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    image = photos / "Bag" / "more" / "08.png"
    words = ["search", f"--index={built}", f"--image={image}", "--k=3", "--format=json"]
    assert main([*words, "--where=label == 'Coat' or label == 'Dress'"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert len(hits) == 3
    assert {hit["label"] for hit in hits} <= {"Coat", "Dress"}
    assert main([*words, "--where=label == 'Fish'"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main([*words, "--where=lable == 'Coat'"]) == 2
    assert "did you mean 'label'" in capsys.readouterr().err


def test_a_sheet_shows_query_and_results(built: Path, photos: Path, tmp_path: Path) -> None:
    """Of 7 results, with the query 8 tiles, 6 stand in the first row; the tile of the query is the image itself."""
    sheet = tmp_path / "sheet.png"
    image = photos / "Bag" / "more" / "08.png"
    search(SearchConfig(index=built, image=image, k=7, format="sheet", out=sheet, quiet=True))
    with Image.open(sheet) as picture:
        assert picture.size == (12 + 6 * 172, 12 + 2 * 208)
        tile = np.asarray(picture.crop((12, 12, 172, 172)))
    with Image.open(image) as picture:
        wanted = np.asarray(picture.resize((160, 160), Image.Resampling.LANCZOS))
    assert np.abs(tile.astype(int) - wanted).max() <= 1
    with pytest.raises(ArgumentError, match="`out` is the PNG file"):
        SearchConfig(index=built, image=image, format="sheet")


def test_an_approximate_search_says_its_recall(built: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", f"--index={built}", f"--image={photos / 'plain.png'}", "--format=json"]
    assert main([*words, "--backend=hnsw"]) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)) == 10
    assert "hnsw is approximate: it found 1.000 of the nearest" in printed.err
    assert main([*words, "--backend=multi-index"]) == 0
    assert "approximate" not in capsys.readouterr().err


def test_a_table_is_printed(built: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", f"--index={built}", f"--image={photos / 'plain.png'}", "--k=2"]) == 0
    assert "distance" in capsys.readouterr().out


def test_add_remove_add(photos: Path, tiny: Path, tmp_path: Path) -> None:
    out, more = tmp_path / "index", tmp_path / "more.png"
    Image.fromarray(read_fashion().read(70)).save(more)
    build(BuildConfig(checkpoint=tiny, images=[photos / "Bag"], out=out, quiet=True))
    assert add(AddConfig(index=out, images=[photos / "Bag", more], quiet=True))["already_there"] == 4
    assert read_index(out).ids.tolist() == [0, 1, 2, 3, 4]
    assert add(AddConfig(index=out, images=[more], quiet=True))["count"] == 5  # nothing new
    assert remove(RemoveConfig(index=out, where="path contains 'more.png'", quiet=True))["removed"] == 1
    assert remove(RemoveConfig(index=out, ids=[0, 0, 99], quiet=True)) == {"removed": 1, "count": 3}
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


def test_another_model_is_refused(
    built: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--data.train_size=20", "--data.query_size=5", "--data.database_size=20", "--fit.epochs=1"]
    for name, bits in (("other", 32), ("longer", 48)):
        train = ["train", f"--out={tmp_path / name}", "--backbone=resnet8", "--loss=csq", f"--code_length={bits}"]
        assert main([*train, *small, "--quiet=true"]) == 0
    before = (built / "manifest.json").read_bytes()
    for name, message in (("other", "codes of one model"), ("longer", "here 32 bits; got 48")):
        chosen = [f"--index={built}", f"--checkpoint={tmp_path / name}"]
        assert main(["search", *chosen, f"--image={photos / 'plain.png'}"]) == 2
        assert message in capsys.readouterr().err
        assert main(["index", "add", *chosen, f"--images=[{photos}]"]) == 2
        assert message in capsys.readouterr().err
    assert (built / "manifest.json").read_bytes() == before


def test_mistakes_get_an_answer(
    built: Path, photos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    build_words = ["index", "build", f"--checkpoint={tiny}"]
    for words, message in [
        ([*build_words, f"--images=[{photos}]", f"--out={built}"], "saat index add makes it larger"),
        ([*build_words, f"--images=[{tmp_path / 'no'}]", f"--out={tmp_path / 'x'}"], "found nothing at"),
        ([*build_words, f"--images=[{tmp_path / 'empty'}]", f"--out={tmp_path / 'x'}"], "`images` holds images"),
        ([*build_words, f"--images=[{photos / 'broken.jpg'}]", f"--out={tmp_path / 'x'}"], "all 1 failed"),
        (["index", "info", f"--index={tmp_path}"], "found no manifest.json"),
        (["index", "verify", f"--index={tmp_path}"], "found no manifest.json"),
        (["index", "frobnicate"], "no command 'index frobnicate'"),
        (["index"], "no command 'index'"),
        (["search", f"--index={built}", f"--image={photos / 'no.png'}"], "No such file"),
        (["search", f"--index={built}", f"--image={photos / 'broken.jpg'}"], "broken.jpg: not an image"),
        (["search", f"--index={built}", "--image=x", "--backend=fais"], "did you mean 'faiss'"),
    ]:
        assert main(words) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert "Traceback" not in printed


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
    encode, seen = Encoder.encode, []

    def counted(encoder: Encoder, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        seen.append(len(images))
        return encode(encoder, images)

    monkeypatch.setattr(Encoder, "encode", counted)
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


def test_an_addition_leaves_the_batches_of_another_alone(
    photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is stopped when it has encoded all; the other begins and ends; the first goes on."""
    out = tmp_path / "index"
    build(BuildConfig(checkpoint=tiny, images=[photos / "plain.png"], out=out, quiet=True))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index_recipe, "update_index", stopped)
        with pytest.raises(KeyboardInterrupt):
            add(AddConfig(index=out, images=[photos / "Bag"], quiet=True))
    assert add(AddConfig(index=out, images=[photos / "Dress"], quiet=True))["count"] == 5
    report = add(AddConfig(index=out, images=[photos / "Bag"], quiet=True))
    assert (report["count"], report["resumed"], report["encoded"]) == (9, 4, 0)
    assert not list(out.glob(".work*"))


def test_many_damaged_images_are_all_named_in_a_file(
    photos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(index_recipe.SHOWN + 1):
        (tmp_path / f"{number:02}.png").write_bytes(b"no picture")
    images = [photos / "Bag", *sorted(tmp_path.glob("*.png"))]
    build(BuildConfig(checkpoint=tiny, images=images, out=tmp_path / "index"))
    file = tmp_path / "index" / "damaged.txt"
    assert f"... and 1 more; all are in {file}" in capsys.readouterr().out
    lines = file.read_text().splitlines()
    assert lines == [f"{tmp_path}/{number:02}.png: not an image" for number in range(index_recipe.SHOWN + 1)]


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


def test_a_changed_file_is_encoded_anew_after_a_stop(tiny: Path, tmp_path: Path) -> None:
    path, fashion = tmp_path / "a.png", read_fashion()
    Image.fromarray(fashion.read(0)).save(path)
    before = read_items([path])
    Image.fromarray(fashion.read(1)).save(path)
    os.utime(path, ns=(0, 0))
    assert read_items([path]).identities != before.identities


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


def test_pictures_of_a_parquet_file_open_it_once_in_each_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened, real = tmp_path / "set.parquet", [], pq.ParquetFile

    def counted(file: Path) -> pq.ParquetFile:
        opened.append(file)
        return real(file)

    def write(images: list[bytes]) -> None:
        pq.write_table(pa.table({"image": images, "label": [0] * len(images)}), path, row_group_size=2)

    monkeypatch.setattr(pq, "ParquetFile", counted)
    write([b"a", b"b", b"c", b"d", b"e"])
    assert [read_item(f"{path}#{row}") for row in (4, 0, 3, 1, 2)] == [b"e", b"a", b"d", b"b", b"c"]
    assert len(opened) == 1
    write([b"other", b"images"])
    assert read_item(f"{path}#1") == b"images"
    assert len(opened) == 2
    with pytest.raises(DataError, match="no row 4"):
        read_item(f"{path}#4")
    path.unlink()
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_item(f"{path}#1")


def test_lists_name_paths_beside_them_and_the_database_of_a_set(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "images/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "list.txt").write_text("a.png\n\nb.png\na.png\n")
    assert read_items([tmp_path / "list.txt", tmp_path / "b.png"]).paths == [
        str(tmp_path / n) for n in ("a.png", "b.png")
    ]
    for split, name in (("train", "a.png"), ("test", "b.png"), ("database", "c.png")):
        (tmp_path / f"{split}_img.txt").write_text(f"{name}\n")
        (tmp_path / f"{split}_label.txt").write_text("1 1\n")
    items = read_items([tmp_path])
    assert items.columns.to_pylist() == [{"path": str(tmp_path / "images" / "c.png"), "label": "class 0, class 1"}]
