"""Batch norms folded into the convolutions before them: the same logits in eval mode, for less work."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from saat.models.efficientnet_lite import EfficientNetLite0
from saat.models.hash_model import HashModel
from saat.models.resnet_cifar import CifarResNet


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


class UnshuffledConv2d(nn.Conv2d):
    """A convolution of images with a wide kernel and a stride, on a CPU as one without a stride.

    Blocks of stride x stride pixels become channels, and the kernel is cut in the same way, the inverse of what Shi et
    al., *Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network*,
    CVPR 2016, do. The way back to three channels takes two to four times as long otherwise.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) as `Conv2d` does, up to rounding."""
        if images.device.type != "cpu":
            return super().forward(images)
        if torch.is_autocast_enabled("cpu"):
            images = images.to(torch.get_autocast_dtype("cpu"))
        stride, kernel, border = self.stride[0], self.kernel_size[0], int(self.padding[0])
        wider = -kernel % stride  # zeros that make the kernel whole blocks
        right, below = (self._beyond(size, kernel + wider) for size in (images.shape[-1], images.shape[-2]))
        blocks = F.pixel_unshuffle(F.pad(images, (border, right, border, below)), stride)
        weight = F.pixel_unshuffle(F.pad(self.weight, (0, wider, 0, wider)), stride)
        return F.conv2d(blocks.contiguous(memory_format=torch.channels_last), weight, self.bias)

    def _beyond(self, size: int, kernel: int) -> int:
        """Return the padding after an image of this size, negative to cut: just what the last kernel reaches."""
        stride, border = self.stride[0], int(self.padding[0])
        last = (size + 2 * border - self.kernel_size[0]) // stride * stride
        return last + kernel - size - border

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Return whether `layer` is such a convolution; below 5 pixels nothing is won."""
        if type(layer) is not nn.Conv2d or layer.groups > 1 or layer.in_channels > 4 or layer.padding_mode != "zeros":
            return False
        square = all(len({*pair}) == 1 for pair in (layer.kernel_size, layer.stride, layer.padding))
        return square and layer.dilation == (1, 1) and layer.stride[0] > 1 and layer.kernel_size[0] >= 5


class FoldedModel(HashModel):
    """A HashModel whose first layer takes images in units of the pixel range, around their mean."""

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.hash_layer(self.backbone(images - self.mean))
        return logits


def folded(model: nn.Module) -> nn.Module:
    """Return a copy of `model` that is faster to search, or `model` itself if that cannot be.

    It has no batch norms, no division of pixels, channels-last memory, and convolutions in the form that is fast on a
    CPU.

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
    if not isinstance(model, HashModel) or not _is_foldable(model.backbone) or model.training:
        return model
    backbone = fuse(model.backbone)
    first = next(layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        first.weight.div_(model.std)  # its padding, zeros, is so in any unit
    for layer in backbone.modules():
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels > 1:
            layer.__class__ = DepthwiseConv2d  # with the same weights; a trace would not have merged it before
        elif UnshuffledConv2d.fits(layer):
            layer.__class__ = UnshuffledConv2d
    copy = FoldedModel(backbone, deepcopy(model.hash_layer), code_length=model.code_length, mirror=model.mirror)
    copy.mean = model.mean
    return copy.eval().to(memory_format=torch.channels_last)


def _is_foldable(backbone: nn.Module) -> bool:
    """Return whether the layers of a backbone are known to do in eval mode what a trace of them does."""
    if isinstance(backbone, CifarResNet | EfficientNetLite0):
        return True
    from torchvision import models  # takes a second, which most commands can do without

    return isinstance(backbone, models.AlexNet | models.ResNet | models.VGG)
