"""EfficientNet-Lite0: ImageNet features for small machines (Tan and Le, *EfficientNet*, ICML 2019; "Lite" as released).

Lite means: no squeeze-and-excitation, ReLU6, stem and head at their width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (  # expansion, kernel, stride, channels out, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM, HEAD = 32, 1280


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def pad_to_halve(features: Tensor, kernel: int) -> Tensor:
    """Pad (B, C, H, W) so that `kernel` at stride 2 gives half of each side, rounded up; an odd pixel goes last.

    TensorFlow, where the weights come from, pads so. No branch depends on the shape, so that a trace holds for all.
    """
    height, width = features.shape[-2], features.shape[-1]
    down, across = kernel - 2 + height % 2, kernel - 2 + width % 2
    return F.pad(features, (across // 2, across - across // 2, down // 2, down - down // 2))


class InvertedResidual(nn.Module):
    """1x1 up, a convolution of each channel, 1x1 down, and the input on top where it fits.

    Args:
        channels_in: channels that enter.
        channels_out: channels that leave.
        expansion: times as many channels between.
        kernel: side of the convolution.
        stride: 1, or 2 to halve height and width.
    """

    def __init__(self, channels_in: int, channels_out: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.expands = expansion > 1
        if self.expands:
            self.expand_conv = nn.Conv2d(channels_in, inner, 1, bias=False)
            self.bn0 = _batch_norm(inner)
        padding = kernel // 2 if stride == 1 else 0
        self.depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, padding, groups=inner, bias=False)
        self.bn1 = _batch_norm(inner)
        self.project_conv = nn.Conv2d(inner, channels_out, 1, bias=False)
        self.bn2 = _batch_norm(channels_out)
        self.kernel, self.stride = kernel, stride
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        inner = F.relu6(self.bn0(self.expand_conv(features))) if self.expands else features
        if self.stride == 2:
            inner = pad_to_halve(inner, self.kernel)
        inner = F.relu6(self.bn1(self.depthwise_conv(inner)))
        projected: Tensor = self.bn2(self.project_conv(inner))
        return projected + features if self.residual else projected


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier, ending in 1,280 pooled features of mean 0 and deviation 1.

    Pooled ReLU6 features all point one way, and a pairwise loss that pushes most pairs apart then shrinks all logits to
    nothing; so they are standardized, which the published network does not do. Layer names are those of the published
    PyTorch weights, less their leading underscores.
    """

    out_features = HEAD
    unpublished = ("standardize",)
    """Layers that files of weights do not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, STEM, 3, 2, bias=False)
        self.bn0 = _batch_norm(STEM)
        blocks, channels = [], STEM
        for expansion, kernel, stride, channels_out, count in STAGES:
            for number in range(count):
                options = {"expansion": expansion, "kernel": kernel, "stride": stride if number == 0 else 1}
                blocks.append(InvertedResidual(channels, channels_out, **options))
                channels = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = nn.Conv2d(channels, HEAD, 1, bias=False)
        self.bn1 = _batch_norm(HEAD)
        self.standardize = nn.BatchNorm1d(HEAD, affine=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (B, 3, H, W) to features (B, 1280)."""
        features = F.relu6(self.bn0(self.conv_stem(pad_to_halve(images, 3))))
        features = F.relu6(self.bn1(self.conv_head(self.blocks(features))))
        standardized: Tensor = self.standardize(features.mean(dim=(2, 3)))
        return standardized
