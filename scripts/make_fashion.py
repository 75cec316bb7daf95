"""Make the embedded Fashion-MNIST subset again from the four original files.

    python scripts/make_fashion.py --source DIR    # holds train-images-idx3-ubyte.gz, train-labels-..., t10k-...

The first 500 train images of each class are `train`, the next 500 of each class the rest of the database, the
first 100 test images of each class the queries; images whose pixels occur twice are left out. Each split is one gray
PNG sheet, 100 images a row, in class-interleaved order: the class of image i is i mod 10.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TARGET = Path(__file__).parent.parent / "src" / "saat" / "data" / "embedded"
ACROSS = 100


def read_idx(path: Path) -> NDArray[np.uint8]:
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def interleave(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], *, each: int, seen: set[bytes]
) -> NDArray[np.uint8]:
    """Take the first `each` unseen images of every class, in the order 0, 1, ..., 9, 0, 1, ..."""
    picked: list[list[int]] = [[] for _ in range(10)]
    for row, label in enumerate(labels):
        content = images[row].tobytes()
        if len(picked[label]) < each and content not in seen:
            seen.add(content)
            picked[label].append(row)
    return images[np.array(picked).T.reshape(-1)]


def write_sheet(images: NDArray[np.uint8], path: Path) -> None:
    down, (height, width) = len(images) // ACROSS, images.shape[1:]
    sheet = images.reshape(down, ACROSS, height, width).swapaxes(1, 2).reshape(down * height, ACROSS * width)
    Image.fromarray(sheet).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the four original .gz files")
    parser.add_argument("--target", type=Path, default=TARGET, help="folder of the three sheets")
    options = parser.parse_args()
    train, train_labels, test, test_labels = (
        read_idx(options.source / f"{name}-ubyte.gz")
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    )
    seen: set[bytes] = set()
    query = interleave(test, test_labels, each=100, seen=seen)
    pool = interleave(train, train_labels, each=1000, seen=seen)
    options.target.mkdir(parents=True, exist_ok=True)
    for name, images in {"query": query, "train": pool[:5000], "database": pool[5000:]}.items():
        write_sheet(images, options.target / f"{name}.png")


if __name__ == "__main__":
    main()
