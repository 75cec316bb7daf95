"""What `bench_serve.py` serves and sends: a model, an index of embedded garments, and photos of about 100 KB."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from saat.cli import main as saat
from saat.data.catalog import DataOptions
from saat.data.fashion import CLASS_NAMES, read_fashion
from saat.models.checkpoint import CARD_FILE
from saat.recipes.encoder import load_encoder
from saat.recipes.train import TrainConfig, train
from saat.training import FitOptions

ITEMS = 2000
PHOTOS = 64
PHOTO_BYTES = 100_000


def trained(out: Path) -> Path:
    """Return a checkpoint of a ResNet-20 on embedded garments, trained once: what it knows costs no time."""
    if not (out / CARD_FILE).exists():
        data = DataOptions(train_size=2000, query_size=100, database_size=2000)
        fit = FitOptions(epochs=2, batch_size=64, learning_rate=0.1)
        train(TrainConfig(out=out, data=data, loss="csq", fit=fit, quiet=True))
    return out


def make_photos(folder: Path) -> list[bytes]:
    """Return JPEGs of 640 x 480 and about 100 KB: twelve real garments each, enlarged, with the noise of a sensor."""
    fashion = read_fashion()
    photos = []
    for number in range(PHOTOS):
        path = folder / f"{number:02}.jpg"
        if not path.exists():
            write_photo(path, [fashion.read(number * 12 + place) for place in range(12)], seed=number)
        photos.append(path.read_bytes())
    return photos


def write_photo(path: Path, garments: list[Any], *, seed: int) -> None:
    """Write a picture at the quality whose file comes nearest to 100 KB."""
    canvas = Image.new("RGB", (640, 480))
    for place, garment in enumerate(garments):
        tile = Image.fromarray(garment).convert("RGB").resize((160, 160), Image.Resampling.BICUBIC)
        canvas.paste(tile, (place % 4 * 160, place // 4 * 160))
    noise = np.random.default_rng(seed).normal(0, 12, (480, 640, 1))
    image = Image.fromarray((np.asarray(canvas) + noise).clip(0, 255).astype(np.uint8))
    files = []
    for quality in range(70, 97):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(min(files, key=lambda file: abs(len(file) - PHOTO_BYTES)))


def build_index(work: Path, checkpoint: Path) -> Path:
    """Return an index of garments, built once for each checkpoint."""
    index = work / f"index-{checkpoint.absolute().name}"
    if not (index / "manifest.json").exists():
        fashion = read_fashion()
        for row in range(ITEMS):
            path = work / "items" / CLASS_NAMES[row % 10].replace("/", " ") / f"{row:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(fashion.read(row)).save(path)
        words = ["index", "build", f"--checkpoint={checkpoint}", f"--images=[{work / 'items'}]", f"--out={index}"]
        assert saat([*words, "--quiet=true"]) == 0
    return index


def describe(checkpoint: Path) -> dict[str, Any]:
    encoder = load_encoder(checkpoint, None, device=torch.device("cpu"))
    weights = sum(weight.numel() for weight in encoder.model.parameters())
    return {"image_size": encoder.image_size, "code_length": encoder.key.code_length, "weights": weights}
