"""How much images were changed, as numbers: lengths of the change, PSNR and SSIM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saat.errors import ArgumentError

WINDOW, SIGMA = 11, 1.5  # of the gaussian window, in pixels
K1, K2 = 0.01, 0.03
_BLOCK_VALUES = 1 << 21  # values of images compared at once: some 200 MB with all their maps


def linf(perturbed: Tensor, clean: Tensor) -> Tensor:
    """Return the largest change of a pixel value in each image.

    Args:
        perturbed: float (B, 3, H, W) in [0, 1].
        clean: the same.

    Returns:
        float (B,), in units of the pixel range.

    Raises:
        ArgumentError: the shapes are not two times (B, 3, H, W).

    >>> linf(torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)).tolist()
    [0.5]
    """
    return _flat_change(perturbed, clean).abs().amax(1)


def l2(perturbed: Tensor, clean: Tensor) -> Tensor:
    """Return the Euclidean length of the flattened change of each image.

    Args:
        perturbed: float (B, 3, H, W) in [0, 1].
        clean: the same.

    Returns:
        float (B,), in units of the pixel range.

    Raises:
        ArgumentError: the shapes are not two times (B, 3, H, W).

    Twelve values change by a half: the root of 12 / 4.

    >>> l2(torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)).square().tolist()
    [3.0]
    """
    change = _flat_change(perturbed, clean)
    length: Tensor = torch.linalg.vector_norm(change, dim=1, dtype=torch.float64)  # float32 loses digits
    return length.to(change.dtype)


def psnr(perturbed: Tensor, clean: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image, ``-10 log10(mean squared change)``; the peak is 1.

    Args:
        perturbed: float (B, 3, H, W) in [0, 1].
        clean: the same.

    Returns:
        float (B,), in dB; infinite where the images are equal.

    Raises:
        ArgumentError: the shapes are not two times (B, 3, H, W).

    >>> psnr(torch.full((1, 3, 2, 2), 0.1), torch.zeros(1, 3, 2, 2)).round().tolist()
    [20.0]
    """
    return -10.0 * _flat_change(perturbed, clean).square().mean(1).log10()


def ssim(perturbed: Tensor, clean: Tensor) -> Tensor:
    """Return the structural similarity of each image to the clean one, the mean over places and channels.

    Z. Wang, A. C. Bovik, H. R. Sheikh and E. P. Simoncelli, "Image Quality Assessment: From Error Visibility to
    Structural Similarity", IEEE TIP 2004. With the means m, variances v and covariance c of two images x and y under
    a gaussian window of 11 x 11 pixels, sigma 1.5, at every place where the window lies within the image::

        SSIM = (2 m_x m_y + K1^2) (2 c + K2^2) / ((m_x^2 + m_y^2 + K1^2) (v_x + v_y + K2^2)),  K1 = 0.01, K2 = 0.03

    *Differs from the paper*: that measures gray images; here the three channels are averaged, as libraries do. Moments
    are taken in float64, since in flat places the variances are small differences of large numbers.

    Args:
        perturbed: float (B, 3, H, W) in [0, 1], H and W at least 11.
        clean: the same.

    Returns:
        float (B,) in [-1, 1], 1 for equal images, in the type of `clean`.

    Raises:
        ArgumentError: the shapes are not two times (B, 3, H, W), or the images are smaller than the window.

    Of two flat images only the means differ: (2 * 0.3 * 0.6 + 0.0001) / (0.09 + 0.36 + 0.0001) = 0.80004.

    >>> flat = torch.ones(1, 3, 11, 11)
    >>> round(ssim(0.3 * flat, 0.6 * flat).item(), 5)
    0.80004
    """
    _check_images(perturbed, clean)
    height, width = clean.shape[2:]
    if min(height, width) < WINDOW:
        raise ArgumentError(f"structural similarity needs images of at least {WINDOW} pixels; got {height} x {width}")
    rows = max(1, _BLOCK_VALUES // (3 * height * width))
    blocks = [slice(start, start + rows) for start in range(0, len(clean), rows)]
    similarities = [_ssim_block(perturbed[block].double(), clean[block].double()) for block in blocks]
    return torch.cat([clean.new_zeros(0), *similarities]).to(clean.dtype)


def summarize_change(perturbed: Tensor, clean: Tensor) -> dict[str, float]:
    """Return the means of all measures over images, and the largest `linf`.

    Args:
        perturbed: float (B, 3, H, W) in [0, 1].
        clean: the same, or uint8 in 0..255, which is made float a block at a time.

    Returns:
        `linf`, `linf_maximum`, `l2`, `psnr` (over changed images only, since it is infinite for the others; infinite
        if no image is changed), `ssim` (not a number for images smaller than its window of 11 pixels).

    Raises:
        ArgumentError: the shapes are not two times (B, 3, H, W), or there is no image.

    >>> summary = summarize_change(torch.full((2, 3, 11, 11), 0.5), torch.zeros(2, 3, 11, 11))
    >>> summary["linf"], summary["linf_maximum"], round(summary["psnr"], 3)
    (0.5, 0.5, 6.021)
    """
    _check_images(perturbed, clean)
    if not len(clean):
        raise ArgumentError("`clean` holds an image at least; got none")
    rows = max(1, _BLOCK_VALUES // clean[0].numel())
    measures = (linf, l2, psnr, ssim) if min(clean.shape[2:]) >= WINDOW else (linf, l2, psnr)
    found = []
    for seen, before in zip(torch.split(perturbed, rows), torch.split(clean, rows), strict=True):
        pixels = before.float() / 255.0 if before.dtype == torch.uint8 else before
        found.append([measure(seen, pixels) for measure in measures])
    largest, lengths, ratios, *similarities = (torch.cat(parts) for parts in zip(*found, strict=True))
    changed = ratios[ratios.isfinite()]
    return {
        "linf": largest.mean().item(),
        "linf_maximum": largest.max().item(),
        "l2": lengths.mean().item(),
        "psnr": changed.mean().item() if len(changed) else float("inf"),
        "ssim": similarities[0].mean().item() if similarities else float("nan"),
    }


def _ssim_block(x: Tensor, y: Tensor) -> Tensor:
    mean_x, mean_y = _windowed(x), _windowed(y)
    variances = _windowed(x * x + y * y) - mean_x.square() - mean_y.square()
    covariance = _windowed(x * y) - mean_x * mean_y
    means = (2 * mean_x * mean_y + K1**2) / (mean_x.square() + mean_y.square() + K1**2)
    return (means * (2 * covariance + K2**2) / (variances + K2**2)).mean(dim=(1, 2, 3))


def _windowed(values: Tensor) -> Tensor:
    """Return the mean under the window, (B, 3, H - 10, W - 10): a gaussian is a product of a column and a row."""
    offsets = torch.arange(WINDOW, dtype=values.dtype, device=values.device) - WINDOW // 2
    weights = torch.softmax(-offsets.square() / (2 * SIGMA**2), dim=0)
    planes = values.flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return blurred.view(*values.shape[:2], *blurred.shape[2:])


def _flat_change(perturbed: Tensor, clean: Tensor) -> Tensor:
    _check_images(perturbed, clean)
    return (perturbed - clean).flatten(1)


def _check_images(perturbed: Tensor, clean: Tensor) -> None:
    if perturbed.shape != clean.shape or clean.ndim != 4 or clean.shape[1] != 3:
        raise ArgumentError(
            "`perturbed` and `clean` are both of shape (B, 3, H, W); "
            f"got {tuple(perturbed.shape)} and {tuple(clean.shape)}"
        )
