"""A folder of images with one subfolder a class."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from saat.data.collection import Collection, multi_hot
from saat.errors import DataError, check_folder

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".j2k"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
}
OTHER_FORMATS = {".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".tga", ".ico", ".dng", ".cr2", ".nef", ".arw"}
IMAGE_SIZE = 224

log = logging.getLogger(__name__)


def read_folder(root: Path) -> Collection:
    """Read `root/CLASS/**/IMAGE`; classes in alphabetical order. Other files are ignored; images among them are logged.

    Raises:
        DataError: there is no such folder, less than two classes, or a class without images.
    """
    check_folder("data.root", root)
    classes = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        there = f"only {classes[0].name}" if classes else "none"
        raise DataError(f"`data.root` has one subfolder a class, at least two; found {there} in {root}{_hint(root)}")
    images = images_below(root)
    beside = [path.name for path in images if path.parent == root]
    if beside:
        log.warning(f"images beside the class folders of {root} are left out, {len(beside)} in all, first {beside[0]}")
    _warn_of_splits(root, classes)
    paths = [path for path in images if path.parent != root]
    numbers = {folder.name: number for number, folder in enumerate(classes)}
    labels = [numbers[path.parts[len(root.parts)]] for path in paths]
    filled = set(labels)
    for number, folder in enumerate(classes):
        if number not in filled:
            raise DataError(f"each class folder holds images ({', '.join(sorted(SUFFIXES))}); found none in {folder}")
    return Collection(
        item_names=tuple(path.relative_to(root).as_posix() for path in paths),
        labels=multi_hot(np.array(labels), len(classes)),
        class_names=tuple(path.name for path in classes),
        pools={"all": np.arange(len(paths))},
        read=lambda row: paths[row].read_bytes(),
        image_size=IMAGE_SIZE,
    )


def images_below(root: Path) -> list[Path]:
    """Return the files below `root` that end as images do, ascending; links are followed, and nothing hidden counts.

    A link to nothing is among them, to be named when it cannot be read. Images of formats that are not read are logged.

    Raises:
        DataError: a folder cannot be read.
    """
    found: list[Path] = []
    place = root.resolve()
    above = {str(root): {place, *place.parents}}  # of each folder, itself and those around it, links followed
    for name, folders, files in os.walk(root, followlinks=True, onerror=_refuse):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        for inner in list(folders):
            path = Path(name, inner)
            place = path.resolve()
            if place in above[name]:
                folders.remove(inner)  # a link to a folder around it, which has no end
            else:
                above[str(path)] = above[name] | {place}
        found += [Path(name, file) for file in files if not file.startswith(".")]
    others = [suffix for path in found if (suffix := path.suffix.lower()) in OTHER_FORMATS]
    if others:
        kinds = ", ".join(sorted(set(others)))
        log.warning(f"images of formats that saat does not read are left out, {len(others)} below {root}: {kinds}")
    images = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    return [path for path in images if path.is_file() or not path.exists()]


def _refuse(error: OSError) -> None:
    raise DataError(f"folders of images can be read; {error.filename}: {error.strerror}") from error


def _warn_of_splits(root: Path, classes: list[Path]) -> None:
    """Warn where every class has the same folders in it, as `train/cat` and `val/cat`: these may be the classes."""
    inner = {tuple(sorted(path.name for path in folder.glob("[!.]*"))) for folder in classes}
    names = min(inner)
    if len(inner) == 1 and len(names) > 1 and all((classes[0] / name).is_dir() for name in names):
        taken, deeper = (", ".join(each[:3]) for each in ([path.name for path in classes], names))
        log.warning(f"the classes of {root} are {taken}, each with the same folders, {deeper}: are these the classes?")


def _hint(root: Path) -> str:
    """Return what was probably meant by a folder without classes."""
    if any(root.glob("*_img.txt")):
        return "; its lists are read by --data.name image-list"
    for path in filter(Path.is_dir, sorted(root.iterdir())):
        if sum(below.is_dir() for below in path.iterdir()) > 1:
            return f"; is it --data.root {path}?"
    return ""
