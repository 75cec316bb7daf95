"""Batch norms folded into the convolutions before them: the same logits in eval mode, for less work."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from saat.models.efficientnet_lite import EfficientNetLite0
from saat.models.hash_model import HashModel
from saat.models.resnet_cifar import CifarResNet

FOLDABLE = (CifarResNet, EfficientNetLite0, torchvision.models.ResNet, torchvision.models.VGG)
"""Backbones whose layers are known to do in eval mode what a trace of them does; others are left as they are."""


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel alone, in float32 on a CPU whatever the precision of the layers around it.

    The way back through one in bfloat16 is several times slower there, and costs more than the whole rest.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) as `Conv2d` does; on a CPU the result is float32."""
        if features.device.type != "cpu":
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float())


def folded(model: nn.Module) -> nn.Module:
    """Return a copy of `model` that is faster to search, or `model` itself if that cannot be.

    It has no batch norms, channels-last memory, and depthwise convolutions that stay in float32.

    In eval mode a batch norm is one scale and one shift a channel, which the weights before it can take over:
    Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*, CVPR
    2018, section 3.2. Logits differ by float32 rounding only: enough for a search, not for codes that are kept.

    Args:
        model: in eval mode; it is not changed, and later changes of its weights do not reach the copy.

    >>> from saat.models.hash_model import build_model
    >>> small, _ = build_model("resnet8", code_length=8, weights="random")
    >>> any(isinstance(module, nn.BatchNorm2d) for module in folded(small.eval()).modules())
    False
    """
    if not isinstance(model, HashModel) or not isinstance(model.backbone, FOLDABLE) or model.training:
        return model
    layers = fuse(model.backbone), model.hash_layer
    for layer in layers[0].modules():
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels > 1:
            layer.__class__ = DepthwiseConv2d  # with the same weights; a trace would not have merged it before
    copy = HashModel(*layers, code_length=model.code_length, mirror=model.mirror)
    copy.mean, copy.std = model.mean, model.std
    return copy.eval().to(memory_format=torch.channels_last)
