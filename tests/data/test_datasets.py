from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import encoded, picture, write_picture

from saat.data.catalog import DATASETS, DataOptions, load_splits
from saat.data.decoding import NO_IMAGE
from saat.errors import ArgumentError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write 20 images of two classes."""
    for seed in range(20):
        write_picture(tmp_path / ("cat" if seed % 2 else "dog") / f"{seed:02}.png", seed)
    return tmp_path


def test_a_folder_becomes_splits(folder):
    options = DataOptions(name="folder", root=folder, image_size=16)
    splits = load_splits(options, quiet=True)
    assert [len(split) for split in (splits.query, splits.train, splits.database)] == [2, 9, 18]
    assert splits.class_names == ("cat", "dog")
    for split in (splits.train, splits.query, splits.database):
        assert (split.images.shape, split.images.dtype) == ((len(split), 3, 16, 16), torch.uint8)
        assert (split.labels.shape, split.labels.dtype) == ((len(split), 2), torch.uint8)
        assert [name.startswith("dog") for name in split.item_names] == split.labels[:, 1].bool().tolist()
    assert splits.overlap() == 0
    assert load_splits(options, quiet=True).manifest() == splits.manifest()


def test_images_labels_and_names_stay_together(folder):
    splits = load_splits(DataOptions(name="folder", root=folder, image_size=16), quiet=True)
    for image, name in zip(splits.database.images, splits.database.item_names, strict=True):
        expected = picture(int(Path(name).stem)).resize((16, 16), 2)
        assert np.array_equal(image.permute(1, 2, 0), np.asarray(expected))


def test_the_seed_draws_the_splits(folder):
    def names(seed: int | None) -> tuple[str, ...]:
        options = DataOptions(name="folder", root=folder, image_size=8, split_seed=seed)
        return load_splits(options, quiet=True).query.item_names

    assert names(1) == names(1)
    assert len({names(seed) for seed in range(5)}) > 1
    assert names(None) == ("cat/01.png", "cat/03.png")


def test_a_copy_under_another_name_and_format_is_found(folder):
    for seed in range(20):
        picture(seed).save(folder / "cat" / f"copy {seed}.webp", lossless=True)
    splits = load_splits(DataOptions(name="folder", root=folder, image_size=16, query_size=4), quiet=True)
    names = {Path(name).stem.removeprefix("copy ").zfill(2) for name in splits.database.item_names}
    assert splits.overlap() == sum(
        Path(name).stem.removeprefix("copy ").zfill(2) in names for name in splits.query.item_names
    )
    assert splits.overlap() > 0


def test_damaged_images_are_left_out_by_name(folder):
    picture(50, width=300, height=300).save(folder / "dog" / "good.jpg")
    jpeg = (folder / "dog" / "good.jpg").read_bytes()
    (folder / "dog" / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "cat" / "text.png").write_text("no picture")
    splits = load_splits(DataOptions(name="folder", root=folder, image_size=8), quiet=True)
    assert [line.partition(":")[0] for line in splits.damaged] == ["cat/text.png", "dog/cut.jpg"]
    assert len(splits.query) + len(splits.database) == 21
    assert splits.manifest()["damaged"] == list(splits.damaged)
    names = splits.train.item_names + splits.query.item_names + splits.database.item_names
    assert not {"cat/text.png", "dog/cut.jpg"} & set(names)


def test_what_is_odd_about_a_folder_is_said(folder, caplog):
    load_splits(DataOptions(name="folder", root=folder, image_size=8), quiet=True)
    assert not caplog.messages
    picture(1).save(folder / "beside.png")
    for path in sorted((folder / "cat").iterdir()):
        path.write_text("no picture")
    load_splits(DataOptions(name="folder", root=folder, image_size=8), quiet=True)
    beside, damaged, *empty, chance = caplog.messages
    assert beside == f"images beside the class folders of {folder} are left out, 1 in all, first beside.png"
    assert damaged.startswith(f"damaged images are left out, 10 in all: cat/01.png: {NO_IMAGE}; cat/")
    assert damaged.endswith("; and 5 more")
    assert empty == [f"{split} has no image of 1 of 2 classes: cat" for split in ("train", "database")]
    assert chance == "any ranking is good: a query shares a label with 100.0% of the items"


def test_a_root_is_kept_as_an_absolute_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert DataOptions(name="folder", root=Path(folder.name)).root == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert DataOptions(name="folder", root=Path("~") / folder.name).root == folder


def test_damage_that_leaves_nothing(folder):
    with pytest.raises(DataError, match=r"all 20 failed, first cat/01.png: 24 x 16 pixels, nothing left"):
        load_splits(DataOptions(name="folder", root=folder, crop_border=8), quiet=True)
    for path in sorted((folder / "cat").iterdir()):
        path.write_text("no picture")
    options = DataOptions(name="folder", root=folder, query_size=2, split_seed=None)  # the first two are both damaged
    with pytest.raises(DataError, match="query has none of 2"):
        load_splits(options, quiet=True)


def test_an_image_that_is_listed_but_missing(tmp_path):
    for pool, names in {"train": ["a", "b"], "test": ["q"], "database": ["a", "b", "c"]}.items():
        (tmp_path / f"{pool}_img.txt").write_text("".join(f"{name}.png\n" for name in names))
        (tmp_path / f"{pool}_label.txt").write_text("1 0\n" * len(names))
    for seed, name in enumerate("abq"):
        write_picture(tmp_path / f"{name}.png", seed)
    splits = load_splits(DataOptions(name="image-list", root=tmp_path, image_size=8), quiet=True)
    assert splits.damaged == ("c.png: file not found",)
    assert (len(splits.train), len(splits.query), len(splits.database)) == (2, 1, 2)


def test_a_row_of_a_table_without_bytes_is_left_out(tmp_path):
    contents = [encoded(picture(seed)) for seed in range(9)] + [None]
    pq.write_table(pa.table({"image": contents, "label": [seed % 2 for seed in range(10)]}), tmp_path / "all.parquet")
    splits = load_splits(DataOptions(name="parquet", root=tmp_path, split_seed=None), quiet=True)
    assert splits.damaged == ("all.parquet#9: no bytes in this row",)
    assert splits.database.images.shape == (8, 3, 32, 32)


def test_the_embedded_sets_load_with_sizes():
    sizes = {"train_size": 30, "query_size": 20, "database_size": 40}
    for name, side in (("fashion", 32), ("fashion-scenes", 64)):
        splits = load_splits(DataOptions(name=name, **sizes), quiet=True)
        assert [len(split) for split in (splits.train, splits.query, splits.database)] == [30, 20, 40]
        assert splits.query.images.shape == (20, 3, side, side)
        assert splits.overlap() == 0
        assert splits.damaged == ()
    assert load_splits(DataOptions(name="fashion", image_size=16, **sizes), quiet=True).query.images.shape[-1] == 16


def test_no_item_is_decoded_twice(folder, monkeypatch):
    reads: list[Path] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), original(path))[1])
    load_splits(DataOptions(name="folder", root=folder, image_size=8), quiet=True)
    assert len(reads) == len(set(reads)) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "fashon"}, "`data.name` is one of .* got 'fashon'; did you mean 'fashion'"),
        ({"name": "folder"}, "`data.root` says where the images of data set folder lie; got none"),
        ({"image_size": -1}, "`data.image_size` is at least 0; got -1"),
        ({"image_size": 6325}, r"`data.image_size` is 0 \(the set's own\) to 6324 pixels; got 6325"),
        ({"query_size": -5}, "`data.query_size` is at least 0; got -5"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ArgumentError, match=message):
        DataOptions(**options)


def test_sizes_beyond_the_set():
    with pytest.raises(ArgumentError, match=re.escape("`data.query_size` is 0 (all) to 1000")):
        load_splits(DataOptions(query_size=2000), quiet=True)


def test_every_entry_says_what_it_is():
    assert all(entry.about for entry in DATASETS.values())
    assert {name for name, entry in DATASETS.items() if not entry.needs_root} == {"fashion", "fashion-scenes"}
