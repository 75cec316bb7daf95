"""An engine whose codes are known without training, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from saat.bits import pack_codes
from saat.index.content import IndexContent, ModelKey
from saat.models.hash_model import wrap_module
from saat.serving.engine import SearchEngine

SIZE, COUNT = 8, 50


class Bright(nn.Module):
    """Sixteen fixed views of an image, so that codes are known without training."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3 * SIZE * SIZE, 16, generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - 0.5).flatten(1) @ self.weight


class Stretched(nn.Module):
    """A model of images over their brightest pixel, which a black one does not have."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightest = images.amax((1, 2, 3))[:, None]
        logits: torch.Tensor = self.inner(images) * (brightest / brightest)
        return logits


IMAGES = np.random.default_rng(1).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)


def make_engine(labels: Sequence[str | None], *, threads: int = 1, backend: str = "faiss") -> SearchEngine:
    model = wrap_module(Bright(), image_size=SIZE)
    key = ModelKey("weights", 16)
    codes = model.encode(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255).numpy()
    columns = pa.table({"path": [f"/secret/{row}.png" for row in range(COUNT)], "label": pa.array(labels, pa.string())})
    content = IndexContent.empty(key).added(pack_codes(codes), columns, model=key)
    return SearchEngine(
        model, content, image_size=SIZE, threads=threads, backend=backend, read=lambda path: IMAGES[int(path[8:-4])]
    )
