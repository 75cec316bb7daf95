"""fashion-scenes: color canvases with one to three real garments each, so that multi-label work runs offline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saat.data.collection import Collection
from saat.data.fashion import CLASS_NAMES, read_garments

IMAGE_SIZE = 64
SIZES = {"train": 2500, "database": 2500, "query": 500}  # scenes; those of train are in the database too
SLOTS = ((0, 0), (0, 32), (32, 0), (32, 32))  # a garment lies in a quarter of the canvas, moved a little


def read_scenes(seed: int = 0) -> Collection:
    """Make the set: 2,500 train scenes, which are in the database with 2,500 more, and 500 query scenes.

    Scenes of a split use the garments of that split of `fashion` only. A scene depends on `seed` and its row alone.
    """
    garments = {split: read_garments(split) for split in SIZES}
    scenes = [(split, number) for split, size in SIZES.items() for number in range(size)]

    def choose(row: int) -> tuple[NDArray[np.int64], np.random.Generator]:
        split, number = scenes[row]
        generator = np.random.default_rng([seed, list(SIZES).index(split), number])
        return generator.choice(len(garments[split]), size=generator.integers(1, 4), replace=False), generator

    def read(row: int) -> NDArray[np.uint8]:
        chosen, generator = choose(row)
        return draw_scene(garments[scenes[row][0]][chosen], generator)

    labels = np.zeros((len(scenes), len(CLASS_NAMES)), dtype=np.uint8)
    for row in range(len(scenes)):
        labels[row, choose(row)[0] % len(CLASS_NAMES)] = 1
    train, database = SIZES["train"], SIZES["train"] + SIZES["database"]
    return Collection(
        item_names=tuple(f"{split} scene {number}" for split, number in scenes),
        labels=labels,
        class_names=CLASS_NAMES,
        pools={"train": np.arange(train), "database": np.arange(database), "query": np.arange(database, len(scenes))},
        read=read,
        image_size=IMAGE_SIZE,
    )


def draw_scene(garments: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return a canvas uint8 (64, 64, 3): a soft two-color background with `garments` (G, 28, 28), tinted, on it."""
    ends = generator.uniform(0.15, 0.6, size=(2, 3))
    angle = generator.uniform(0, 2 * np.pi)
    down, across = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] / (IMAGE_SIZE - 1) - 0.5
    blend = (0.5 + 0.7 * (np.cos(angle) * across + np.sin(angle) * down)).clip(0, 1)[:, :, None]
    canvas = (1 - blend) * ends[0] + blend * ends[1] + generator.normal(0, 0.02, (IMAGE_SIZE, IMAGE_SIZE, 1))
    for slot, garment in zip(generator.permutation(len(SLOTS)), garments, strict=False):
        side = int(generator.integers(26, 37))
        top, left = (int(np.clip(at + generator.integers(-3, 4), 0, IMAGE_SIZE - side)) for at in SLOTS[slot])
        gray = np.asarray(Image.fromarray(garment).resize((side, side), Image.Resampling.BILINEAR)) / 255.0
        tint = generator.uniform(0.55, 1.0, 3)
        cover = (gray * 4.0).clip(0, 1)[:, :, None]  # the garment's own black ground lets the canvas through
        place = canvas[top : top + side, left : left + side]
        place[:] = (1 - cover) * place + cover * (0.15 + 0.85 * gray[:, :, None]) * tint
    scene: NDArray[np.uint8] = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    return scene
