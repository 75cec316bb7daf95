"""The ResNet family for 32x32 images (He, Zhang, Ren, Sun, *Deep Residual Learning*, CVPR 2016, section 4.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights (option A): every second pixel, new channels zero.

    Args:
        channels_in: channels that enter.
        channels_out: channels that leave.
        stride: 1, or 2 to halve height and width.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.new_channels = channels_out - channels_in

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H / stride, W / stride)."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(features)))))
        if self.new_channels:
            half = self.new_channels // 2
            features = features[:, :, :: self.stride, :: self.stride]
            features = F.pad(features, (0, 0, 0, 0, half, self.new_channels - half))
        return F.relu(residual + features)


class CifarResNet(nn.Module):
    """A ResNet of 6n + 2 layers over 16, 32 and 64 channels, ending in 64 pooled features.

    Layer names are those of the published CIFAR-10 weights, so that these load by path.

    Args:
        depth: 20, 32, 44, 56 or any other 6n + 2.
    """

    out_features = 64

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(channels_in: int, channels_out: int, blocks: int, *, stride: int) -> nn.Sequential:
        first = ResidualBlock(channels_in, channels_out, stride)
        return nn.Sequential(first, *(ResidualBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (B, 3, H, W) to features (B, 64)."""
        features: Tensor = F.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return features.mean(dim=(2, 3))
