"""Common corruptions of images: what happens to a query without an attacker."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from saat.data.decoding import through_jpeg
from saat.errors import check_choice
from saat.runtime import make_generator

SEVERITIES = (1, 3, 5)
NOISE = {1: 0.04, 3: 0.08, 5: 0.10}
"""Standard deviation, as a fraction of the pixel range."""
BLUR = {1: 0.4, 3: 0.7, 5: 1.0}
"""Standard deviation in pixels, of an image of 32 pixels; it grows with the image."""
JPEG = {1: 80, 3: 58, 5: 40}
"""Quality of libjpeg."""
_BLOCK = 256  # images that are numbers with a fraction at a time: these take up to fifteen times the room of bytes


def add_gaussian_noise(images: Tensor, severity: int) -> Tensor:
    """Return images (N, 3, S, S), uint8, with independent noise on each value; the same noise at each call."""
    generator, noisy = make_generator("gaussian noise"), torch.empty_like(images)
    for part, place in zip(torch.split(images, _BLOCK), torch.split(noisy, _BLOCK), strict=True):
        noise = torch.randn(part.shape, generator=generator)
        place.copy_((part + 255.0 * NOISE[severity] * noise).round().clamp(0, 255))
    return noisy


def blur(images: Tensor, severity: int) -> Tensor:
    """Return images (N, 3, S, S), uint8, blurred by a gaussian."""
    from torchvision.transforms.v2.functional import gaussian_blur  # takes a second, which most commands can do without

    sigma = BLUR[severity] * images.shape[-1] / 32.0
    width = min(2 * round(4.0 * sigma) + 1, 2 * images.shape[-1] - 1)
    blurred = (gaussian_blur(part.float(), [width, width], [sigma, sigma]) for part in torch.split(images, _BLOCK))
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in blurred])


def compress(images: Tensor, severity: int) -> Tensor:
    """Return images (N, 3, S, S), uint8, as JPEG gives them back."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(through_jpeg(pixels, quality=JPEG[severity])).permute(0, 3, 1, 2).contiguous()


CORRUPTIONS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "noise": add_gaussian_noise,
    "blur": blur,
    "jpeg": compress,
}


def corrupt(images: Tensor, name: str, *, severity: int) -> Tensor:
    """Return corrupted images.

    Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*, ICLR
    2019: three of their corruptions, with the severities for images of 32 pixels.

    Args:
        images: uint8 (N, 3, S, S).
        name: noise, blur or jpeg.
        severity: 1, 3 or 5.

    Returns:
        uint8 (N, 3, S, S).

    Raises:
        ArgumentError: the name or the severity is unknown.
    """
    check_choice("corruption", name, CORRUPTIONS)
    check_choice("severity", str(severity), tuple(map(str, SEVERITIES)))
    return CORRUPTIONS[name](images, severity)
