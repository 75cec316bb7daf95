"""The codes that `bench_search.py` searches: uniform ones, clustered ones, and those that a trained model gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from saat.hamming import sign_codes
from saat.models.hash_model import encode_logits
from saat.recipes.subject import load_subject
from saat.runtime import derive_seed

ENCODED = 5000  # database images of a checkpoint
CENTERS, NOISE = 300, (0.02, 0.15)
BLOCK_ITEMS = 1 << 17


@dataclass(frozen=True)
class Source:
    """Where codes come from: a base code drawn at random, each bit flipped at its own rate.

    Args:
        base: bool (M, K); none for uniform codes.
        rates: (K,).
        note: for readers.
    """

    base: NDArray[np.bool_]
    rates: NDArray[np.float32]
    note: str

    def draw(self, count: int, *seed: int | str) -> NDArray[np.uint8]:
        """Return `count` packed codes (count, K/8)."""
        generator = np.random.default_rng(derive_seed(*seed))
        packed = np.empty((count, len(self.rates) // 8), np.uint8)
        for start in range(0, count, BLOCK_ITEMS):
            block = packed[start : start + BLOCK_ITEMS]
            flips = generator.random((len(block), len(self.rates)), dtype=np.float32) < self.rates
            bits = self.base[generator.integers(0, len(self.base), len(block))] ^ flips
            block[:] = np.packbits(bits, axis=1, bitorder="little")
        return packed


def uniform(code_length: int) -> Source:
    rates = np.full(code_length, 0.5, np.float32)
    return Source(np.zeros((1, code_length), np.bool_), rates, "independent fair bits")


def clustered(code_length: int) -> Source:
    generator = np.random.default_rng(derive_seed("planted", code_length))
    centers = generator.random((CENTERS, code_length)) < 0.5
    rates = generator.uniform(*NOISE, code_length).astype(np.float32)
    note = f"{CENTERS} random centers, bit flip rates uniform in {NOISE}"
    return Source(centers, rates, note)


def trained(checkpoint: Path) -> Source:
    """Encode a checkpoint's database. A flip rate is the share of pairs of one label that differ in the bit."""
    subject = load_subject(checkpoint, None, None, device=torch.device("cpu"), quiet=True)
    database = subject.splits.database
    bits = (sign_codes(encode_logits(subject.model, database.images[:ENCODED], quiet=True)) > 0).numpy()
    labels = database.labels[:ENCODED].numpy() > 0
    shares = np.stack([bits[of_label].mean(axis=0) for of_label in labels.T if of_label.any()])
    weights = labels.sum(axis=0)[labels.any(axis=0)]
    rates = np.average(2 * shares * (1 - shares), axis=0, weights=weights).astype(np.float32)
    note = (
        f"codes of {len(bits)} database images under {checkpoint}, more of them by flipping each bit at its rate among "
        f"items of one label ({rates.min():.4f} to {rates.max():.4f}): wider clusters than the model's own"
    )
    return Source(bits, rates, note)
