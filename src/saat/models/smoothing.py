"""Smoothing: the votes of a model's bits over gaussian noise on an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saat.errors import check_at_least
from saat.hamming import sign_codes
from saat.runtime import as_channels_last, autocast, frozen


def add_noise(images: Tensor, generator: torch.Generator, *, sigma: float) -> Tensor:
    """Return images (B, 3, H, W) with gaussian noise of standard deviation `sigma`; they may leave [0, 1]."""
    noise = torch.empty_like(images).normal_(generator=generator)
    return images + sigma * noise


@torch.no_grad()
def count_votes(
    model: nn.Module,
    image: Tensor,
    *,
    sigma: float,
    samples: int,
    generator: torch.Generator,
    batch_size: int = 250,
    precision: str = "float32",
) -> Tensor:
    """Return how many noisy copies of an image have each bit at +1, in eval mode. Cohen et al., ICML 2019.

    Args:
        model: images -> logits (B, K).
        image: float32 (3, H, W) in [0, 1], on the model's device.
        sigma: standard deviation of the noise, in units of the pixel range [0, 1].
        samples: how many copies, at least 1.
        generator: of the noise, on the same device.
        batch_size: copies at a time.
        precision: see `runtime.autocast`. The model that votes is the one in this precision.

    Returns:
        int64 (K,) in 0..samples, on the CPU.

    Raises:
        ArgumentError: there are fewer than 1 samples.
    """
    check_at_least("samples", samples, 1)
    votes = []
    with frozen(model), autocast(precision, image.device):
        for start in range(0, samples, batch_size):
            copies = image.expand(min(batch_size, samples - start), -1, -1, -1).contiguous()
            logits = model(as_channels_last(add_noise(copies, generator, sigma=sigma)))
            votes.append((logits >= 0).sum(0))
    return torch.stack(votes).sum(0).cpu()


def majority_codes(votes: Tensor, *, samples: int) -> Tensor:
    """Return the codes of votes int64 (B, K) for +1 among `samples`, int8 (B, K) in {-1, +1}; even votes are +1.

    >>> majority_codes(torch.tensor([[0, 2, 3]]), samples=4).tolist()
    [[-1, 1, 1]]
    """
    return sign_codes(2 * votes - samples)
