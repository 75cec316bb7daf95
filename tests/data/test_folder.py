from __future__ import annotations

import os
from pathlib import Path

import pytest
from pictures import write_picture

from saat.data.folder import images_below, read_folder
from saat.errors import DataError


def test_classes_are_the_subfolders_in_order(tmp_path):
    for name in ("dog/1.png", "cat/b.JPG", "cat/deep/a.webp", "bird/0.gif"):
        write_picture(tmp_path / name, 1)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "README.md").write_text("no class")
    (tmp_path / ".cache").mkdir()
    items = read_folder(tmp_path)
    assert items.class_names == ("bird", "cat", "dog")
    assert items.item_names == ("bird/0.gif", "cat/b.JPG", "cat/deep/a.webp", "dog/1.png")
    assert items.labels.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert items.pools["all"].tolist() == [0, 1, 2, 3]
    assert items.read(3) == (tmp_path / "dog" / "1.png").read_bytes()


def test_errors(tmp_path):
    with pytest.raises(DataError, match=r"`data.root` is an existing folder; found nothing at .*missing"):
        read_folder(tmp_path / "missing")
    with pytest.raises(DataError, match="one subfolder a class, at least two; found none in"):
        read_folder(tmp_path)
    write_picture(tmp_path / "cat" / "1.png", 1)
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"found none in .*dog"):
        read_folder(tmp_path)


def test_a_folder_with_one_class_is_refused_with_what_was_probably_meant(tmp_path):
    for name in ("photos/cat/1.png", "photos/dog/1.png", "other/images/1.png"):
        write_picture(tmp_path / name, 1)
    with pytest.raises(DataError, match=r"at least two; found only images in .*other$"):
        read_folder(tmp_path / "other")
    with pytest.raises(DataError, match=r"found none in .*cat$"):
        read_folder(tmp_path / "photos" / "cat")
    (tmp_path / "other" / "train_img.txt").write_text("images/1.png\n")
    with pytest.raises(DataError, match=r"found only images in .*; its lists are read by --data.name image-list"):
        read_folder(tmp_path / "other")
    (tmp_path / "above").mkdir()
    (tmp_path / "photos").rename(tmp_path / "above" / "photos")
    with pytest.raises(DataError, match=r"found only photos in .*; is it --data.root .*above/photos\?"):
        read_folder(tmp_path / "above")


def test_classes_with_the_same_folders_in_them_are_warned_of(tmp_path, caplog):
    for name in ("train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png"):
        write_picture(tmp_path / name, 1)
    assert read_folder(tmp_path).class_names == ("train", "val")
    warned = f"the classes of {tmp_path} are train, val, each with the same folders, cat, dog: are these the classes?"
    assert caplog.messages == [warned]
    write_picture(tmp_path / "val" / "5.png", 1)  # images right in a class folder: it is the class
    read_folder(tmp_path)
    assert len(caplog.messages) == 1


def test_links_are_followed_once_and_nothing_hidden_counts(tmp_path):
    for name in ("set/cat/1.png", "set/cat/._1.png", "set/cat/.cache/1.png", "elsewhere/deep/2.png"):
        write_picture(tmp_path / name, 1)
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "around").symlink_to(tmp_path / "elsewhere")
    assert read_folder(tmp_path / "set").item_names == ("cat/1.png", "dog/deep/2.png")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    for name in ("cat/1.png", "dog/2.png", "dog/closed/3.png"):
        write_picture(tmp_path / name, 1)
    scan = os.scandir

    def refusing(path):  # the tests may run as root, who can read all
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"folders of images can be read; .*closed: Permission denied"):
        read_folder(tmp_path)


def test_a_link_to_a_folder_around_its_class_has_no_end(tmp_path):
    for name in ("set/cat/1.png", "set/dog/2.png"):
        write_picture(tmp_path / name, 1)
    for number, around in enumerate((tmp_path / "set", tmp_path)):
        (tmp_path / "set" / "cat" / f"link{number}").symlink_to(around)
    assert read_folder(tmp_path / "set").item_names == ("cat/1.png", "dog/2.png")
    assert images_below(tmp_path / "set" / "cat") == [tmp_path / "set" / "cat" / "1.png"]


def test_each_suffix_of_a_format_that_is_read_counts_and_others_are_told(tmp_path, caplog):
    names = ("cat/1.pgm", "cat/2.j2k", "dog/3.jpe", "dog/4.pbm", "dog/5.pnm")
    for name in names:
        write_picture(tmp_path / name, 1)
    for name in ("6.HEIC", "7.avif"):
        (tmp_path / "dog" / name).write_bytes(b"another format")
    assert read_folder(tmp_path).item_names == names
    warned = f"images of formats that saat does not read are left out, 2 below {tmp_path}: .avif, .heic"
    assert caplog.messages == [warned]


def test_a_link_to_nothing_is_an_item_and_what_is_no_file_is_none(tmp_path):
    for name in ("cat/1.png", "dog/2.png"):
        write_picture(tmp_path / name, 1)
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    assert read_folder(tmp_path).item_names == ("cat/1.png", "cat/gone.png", "dog/2.png")
