"""The networks of the attack that is trained once: a generator of changes, and a discriminator of its images."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

MAP_SIZE = 8


def _block(layer: nn.Module, channels: int) -> nn.Sequential:
    # A norm of each channel erases what is constant over the image; so the cells of a label's map differ.
    return nn.Sequential(layer, nn.InstanceNorm2d(channels), nn.ReLU())


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.body = nn.Sequential(_block(first, channels), second, nn.InstanceNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = features + self.body(features)
        return changed


def _middle(channels: int, residual_blocks: int) -> list[nn.Module]:
    if not residual_blocks:
        return [_block(nn.Conv2d(channels, channels, 3, padding=1), channels)]
    return [_Residual(channels) for _ in range(residual_blocks)]


class Generator(nn.Module):
    """From an image, and the target's labels as a map of 8 x 8 cells spread over it, to a perturbation's direction.

    Args:
        classes: C, the width of the labels.
        width: channels at full size; twice and four times as many at half and quarter size.
        residual_blocks: at quarter size, in place of one convolution.
    """

    def __init__(self, *, classes: int, width: int = 32, residual_blocks: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.label_map = nn.Linear(classes, 3 * MAP_SIZE**2)
        self.body = nn.Sequential(
            _block(nn.Conv2d(6, width, 7, padding=3), width),
            _block(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), 2 * width),
            _block(nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1), 4 * width),
            *_middle(4 * width, residual_blocks),
            _block(nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1), 2 * width),
            _block(nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1), width),
        )
        self.output = nn.Conv2d(width + 3, 3, 3, padding=1)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] and labels (B, C), multi-hot, to directions (B, 3, H, W) in [-1, 1]."""
        centered = images * 2.0 - 1.0
        cells = self.label_map((labels > 0).float()).view(-1, 3, MAP_SIZE, MAP_SIZE)
        maps = F.interpolate(cells, size=images.shape[-2:], mode="nearest")
        decoded = self.body(torch.cat([centered, maps], 1))
        return torch.tanh(self.output(torch.cat([decoded, centered], 1)))


class Discriminator(nn.Module):
    """A network that tells the labels of an image, and whether it was generated.

    Args:
        classes: C, the width of the labels.
        width: channels at half size; twice as many at each further halving.
        halvings: of the size.
    """

    def __init__(self, *, classes: int, width: int = 32, halvings: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [width * 2**halving for halving in range(halvings)]
        for channels, wider in pairwise([3, *widths]):
            layers += [spectral_norm(nn.Conv2d(channels, wider, 3, stride=2, padding=1)), nn.LeakyReLU(0.01)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes + 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to scores (B, C + 1): C labels, then 1 for generated and 0 for real."""
        scores: Tensor = self.layers(images * 2.0 - 1.0)
        return scores
