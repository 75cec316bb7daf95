"""Batch norms folded into the convolutions before them: the same logits in eval mode, for less work."""

from __future__ import annotations

import torch
import torchvision
from torch import nn
from torch.fx.experimental.optimization import fuse

from saat.models.efficientnet_lite import EfficientNetLite0
from saat.models.hash_model import HashModel
from saat.models.resnet_cifar import CifarResNet

FOLDABLE = (CifarResNet, EfficientNetLite0, torchvision.models.ResNet, torchvision.models.VGG)
"""Backbones whose layers are known to do in eval mode what a trace of them does; others are left as they are."""


def folded(model: nn.Module) -> nn.Module:
    """Return a copy of `model` without batch norms, in channels-last memory, or `model` itself if that cannot be.

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
    copy = HashModel(*layers, code_length=model.code_length, mirror=model.mirror)
    copy.mean, copy.std = model.mean, model.std
    return copy.eval().to(memory_format=torch.channels_last)
