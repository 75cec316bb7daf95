from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from saat.data import fashion
from saat.data.fashion import CLASS_NAMES, read_fashion, read_garments

REPOSITORY = Path(__file__).parents[2]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
SHEETS = ("train", "database", "query")


@pytest.fixture(scope="module")
def make_fashion() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_fashion", REPOSITORY / "scripts" / "make_fashion.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), 1))


def test_the_embedded_set_is_balanced_and_disjoint():
    garments = {name: read_garments(name) for name in SHEETS}
    assert {name: images.shape for name, images in garments.items()} == {
        "train": (5000, 28, 28),
        "database": (5000, 28, 28),
        "query": (1000, 28, 28),
    }
    contents = [image.tobytes() for images in garments.values() for image in images]
    assert len(set(contents)) == len(contents)
    items = read_fashion()
    for rows in items.pools.values():
        assert (items.labels[rows].sum(0) == len(rows) / 10).all()
        assert (items.labels[rows[:50]].sum(0) == 5).all()  # and so are the first of each pool
    assert set(items.pools["train"]) < set(items.pools["database"])
    assert not set(items.pools["query"]) & set(items.pools["database"])


def test_images_are_padded_and_gray():
    items = read_fashion()
    image = items.read(5003)
    assert image.shape == (32, 32, 3)
    assert np.array_equal(image[2:30, 2:30, 1], read_garments("database")[3])
    assert (image == image[:, :, :1]).all()
    assert image[[0, 1, 30, 31]].sum() + image[:, [0, 1, 30, 31]].sum() == 0


def test_the_package_carries_the_licence_and_stays_small():
    folder = Path(fashion.__file__).parent / "embedded"
    assert "Zalando" in (folder / "LICENSE").read_text()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000


def test_the_script_takes_the_first_unseen_images_of_every_class(make_fashion):
    labels = np.tile(np.arange(10, dtype=np.uint8), 4)
    images = np.arange(40, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    images[13] = images[3]  # a copy, and the first of class 4 was seen in another split
    seen = {images[4].tobytes()}
    taken = make_fashion.interleave(images, labels, each=2, seen=seen)[:, 0, 0].tolist()
    assert taken == [0, 1, 2, 3, 14, 5, 6, 7, 8, 9, 10, 11, 12, 23, 24, 15, 16, 17, 18, 19]
    assert len(seen) == 21


def test_sheets_come_back_as_they_were(make_fashion, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
    write_idx(tmp_path / "images.gz", images)
    assert np.array_equal(make_fashion.read_idx(tmp_path / "images.gz"), images)
    (tmp_path / "embedded").mkdir()
    make_fashion.write_sheet(images, tmp_path / "embedded" / "train.png")
    monkeypatch.setattr(fashion, "files", lambda _: tmp_path)
    assert np.array_equal(read_garments("train"), images)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the original files: Debian's package dataset-fashion-mnist")
def test_the_script_makes_the_embedded_set_again(make_fashion, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make_fashion", "--source", str(DEBIAN), "--target", str(tmp_path / "embedded")])
    make_fashion.main()
    embedded = {name: read_garments(name) for name in SHEETS}
    monkeypatch.setattr(fashion, "files", lambda _: tmp_path)
    assert all(np.array_equal(read_garments(name), embedded[name]) for name in SHEETS)
    labels = make_fashion.read_idx(DEBIAN / "t10k-labels-idx1-ubyte.gz")
    originals = make_fashion.read_idx(DEBIAN / "t10k-images-idx3-ubyte.gz")
    label_of = {image.tobytes(): int(label) for image, label in zip(originals, labels, strict=True)}
    assert [label_of[image.tobytes()] for image in embedded["query"]] == list(range(10)) * 100
    assert len(CLASS_NAMES) == 10
