from __future__ import annotations

import hashlib
import pickle
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torchvision
from pictures import picture

from saat.data.catalog import DataOptions, load_splits
from saat.data.torchvision_sets import reader_of
from saat.errors import DataError


def pixels(count: int, seed: int) -> np.ndarray:
    return np.stack([np.asarray(picture(seed + row, width=32, height=32)) for row in range(count)])


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a CIFAR-10 of nine images in the original layout, and tell torchvision its checksums."""

    def write(name: str, entry: dict[str, object]) -> str:
        path = tmp_path / "cifar-10-batches-py" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(entry))
        return hashlib.md5(path.read_bytes()).hexdigest()

    def batch(count: int, seed: int) -> dict[str, object]:
        return {"data": pixels(count, seed).transpose(0, 3, 1, 2).reshape(count, -1), "labels": list(range(count))}

    dataset = torchvision.datasets.CIFAR10
    monkeypatch.setattr(dataset, "train_list", [["data_batch_1", write("data_batch_1", batch(6, 0))]])
    monkeypatch.setattr(dataset, "test_list", [["test_batch", write("test_batch", batch(3, 100))]])
    names = {"label_names": [f"name {number}" for number in range(10)]}
    monkeypatch.setattr(
        dataset, "meta", {"filename": "batches.meta", "key": "label_names", "md5": write("batches.meta", names)}
    )
    return tmp_path


def test_cifar_from_a_folder(cifar):
    items = reader_of("CIFAR10")(cifar, False)
    assert {name: rows.tolist() for name, rows in items.pools.items()} == {"train": list(range(6)), "query": [6, 7, 8]}
    assert items.class_names[9] == "name 9"
    assert items.labels.argmax(1).tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert np.array_equal(items.read(7), pixels(3, 100)[1])


def test_the_protocol_by_options(cifar):
    options = DataOptions(name="cifar10", root=cifar, train_size=2, train_in_database=False, split_seed=None)
    splits = load_splits(options, quiet=True)
    assert splits.train.item_names == ("train 0", "train 1")
    assert splits.database.item_names == ("train 2", "train 3", "train 4", "train 5")
    assert splits.query.images.shape == (3, 3, 32, 32)
    assert splits.overlap() == 0


def test_fashion_mnist_is_padded_and_gray(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 4), ("t10k", 2)):
        header = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + b"\x07" * (count * 784))
        labels = b"\x00\x00\x08\x01" + count.to_bytes(4, "big") + bytes(range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    items = reader_of("FashionMNIST")(tmp_path, False)
    image = items.read(5)
    assert image.shape == (32, 32, 3)
    assert (image[2:30, 2:30] == 7).all()
    assert image.sum() == 7 * 3 * 784
    assert items.class_names[0] == "T-shirt/top"


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"put the folder cifar-100-python there, or set `data.download`"):
        reader_of("CIFAR100")(tmp_path, False)


@pytest.mark.parametrize("name", ["CIFAR10", "FashionMNIST"])
def test_a_failed_download_says_what_to_put_where(tmp_path, monkeypatch, name):
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(DataError, match=f"`data.root` holds {name}; at .*To mend it, put"):
        reader_of(name)(tmp_path, True)
