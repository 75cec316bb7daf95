"""Purifiers: changes of an image that are meant to destroy what an attacker added, and keep what it shows."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saat.attacks.views import BpdaView, EotView
from saat.data.decoding import through_jpeg
from saat.errors import ArgumentError, check_at_least
from saat.runtime import make_generator


class Purifier(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> purified images of the same shape and range.

    A purifier is of no use if it holds only against an attacker who does not know it. So each says what an attacker
    who does will look at; this base class has the answer for one without a useful gradient.
    """

    def attack_view(self, model: nn.Module) -> nn.Module:
        """Return `model` behind this purifier as an adaptive attacker sees it: exact forward, identity backward."""
        return BpdaView(model, self)


class BitDepth(Purifier):
    """Fewer bits a channel: round(x (2^bits - 1)) / (2^bits - 1). Its gradient is zero.

    Xu, Evans, Qi, *Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks*, NDSS 2018.

    Args:
        bits: of each channel, 1 to 8.

    Raises:
        ArgumentError: `bits` is out of range.

    >>> BitDepth(1)(torch.full((1, 3, 1, 1), 0.6)).flatten().tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ArgumentError(f"`bits` is 1 to 8, as images have 8; got {bits}")
        self.levels = 2**bits - 1

    def forward(self, images: Tensor) -> Tensor:
        """Round every pixel value to one of 2^bits levels."""
        rounded: Tensor = torch.round(images * self.levels) / self.levels
        return rounded


class Jpeg(Purifier):
    """JPEG compression and back, by libjpeg on 8-bit pixels. It has no gradient.

    Dziugaite, Ghahramani, Roy, *A Study of the Effect of JPG Compression on Adversarial Images*, 2016; Guo, Rana,
    Cisse, van der Maaten, *Countering Adversarial Images using Input Transformations*, ICLR 2018, with quality 75.

    Args:
        quality: of the compression, 1 to 95.

    Raises:
        ArgumentError: `quality` is out of range.
    """

    def __init__(self, quality: int = 75) -> None:
        super().__init__()
        if not 1 <= quality <= 95:
            raise ArgumentError(f"`quality` is 1 to 95, as in libjpeg; got {quality}")
        self.quality = quality

    def forward(self, images: Tensor) -> Tensor:
        """Compress and decode each image."""
        pixels = (images.detach() * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        decoded = through_jpeg(pixels, quality=self.quality)
        return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(images.device, images.dtype) / 255.0


class ResizePad(Purifier):
    """Resize to a random, slightly smaller size and put it at a random place on black.

    Xie, Wang, Zhang, Ren, Yuille, *Mitigating Adversarial Effects Through Randomization*, ICLR 2018.
    *Differs from the paper*: it enlarges the image, from 299 up to 331 pixels; here the size stays what the model
    takes, and the image shrinks by up to a tenth (one pixel at least).

    Each image has its own draw, which follows from the seed and the pixels: it cannot be foreseen without the seed, and
    is the same again for the same image, whatever its batch.

    Args:
        seed: of all draws; an attacker does not know it.
        samples: draws that an adaptive attacker takes the mean of.
    """

    def __init__(self, *, seed: int = 0, samples: int = 8) -> None:
        super().__init__()
        self.seed, self.samples = seed, samples

    def forward(self, images: Tensor) -> Tensor:
        """Resize and place each image by its own draw; differentiable, for that draw."""
        # Rounded to 16 bits: pixels from a GPU and a CPU may differ in the last bit.
        pixels = (images.detach() * 65535.0).round().to(torch.int32).cpu().contiguous().numpy()
        draws = [self._draw_of(image.tobytes()) for image in pixels]
        return resize_and_place(images, torch.stack(draws).to(images.device)) if draws else images

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Resize and place each image by draws from `generator`: what an attacker can do who knows no seed."""
        return resize_and_place(images, torch.rand(len(images), 3, generator=generator, device=images.device))

    def attack_view(self, model: nn.Module) -> nn.Module:
        """Return the mean logits of `model` over draws of the attacker's own."""
        return EotView(model, self.draw, samples=self.samples)

    def _draw_of(self, content: bytes) -> Tensor:
        digest = hashlib.sha256(content).hexdigest()
        return torch.rand(3, generator=make_generator(self.seed, "ResizePad", digest))


def resize_and_place(images: Tensor, draws: Tensor) -> Tensor:
    """Return images (B, 3, H, W) shrunk and moved on black, differentiable.

    Args:
        images: in [0, 1].
        draws: (B, 3) in [0, 1): of the size, the row and the column.

    Returns:
        (B, 3, H, W). With d0, d1, d2 the draws of an image, it has lost r = floor(d0 (m + 1)) rows and columns, with
        m = max(1, min(H, W) // 10), and begins at row floor(d1 (r + 1)) and column floor(d2 (r + 1)).
    """
    if not len(images):
        return images
    height, width = images.shape[2:]
    most = max(1, min(height, width) // 10)
    lost = (draws[:, 0] * (most + 1)).floor()
    top, left = ((draws[:, place] * (lost + 1)).floor() for place in (1, 2))
    matrices = images.new_zeros(len(images), 2, 3)  # from places in the output, -1 to 1, to places in the input
    for axis, (start, size) in enumerate(((left, width), (top, height))):
        scale = (size - lost) / size
        matrices[:, axis, axis] = 1.0 / scale
        matrices[:, axis, 2] = -(2.0 * start - lost) / size / scale
    with torch.autocast(images.device.type, enabled=False):  # it multiplies matrices; in bfloat16 it misses by a pixel
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0.0, 1.0)


class TotalVariation(Purifier):
    """A few steps of gradient descent toward a smoother image near this one; differentiable.

    Rudin, Osher, Fatemi, *Nonlinear Total Variation based Noise Removal Algorithms*, Physica D 1992; against attacks
    Guo, Rana, Cisse, van der Maaten, *Countering Adversarial Images using Input Transformations*, ICLR 2018. It lowers

        |x - image|^2 / 2 + weight * sum of sqrt(dx^2 + dy^2 + smoothing^2),

    dx and dy being the differences to the next column and row. *Differs from Guo et al.*, who also drop pixels at
    random and solve to the end. The step is the longest that is sure to descend.

    Args:
        weight: of the variation, above 0.
        steps: of the descent, at least 1.
        smoothing: differences well below it count as squares.

    Raises:
        ArgumentError: an argument is out of range.
    """

    def __init__(self, *, weight: float = 0.05, steps: int = 10, smoothing: float = 0.05) -> None:
        super().__init__()
        check_at_least("steps", steps, 1)
        for name, value in (("weight", weight), ("smoothing", smoothing)):
            if not value > 0.0:
                raise ArgumentError(f"`{name}` is above 0; got {value}")
        self.weight, self.steps, self.smoothing = weight, steps, smoothing
        self.step_size = 1.0 / (1.0 + 8.0 * weight / smoothing)  # one over the largest curvature

    def forward(self, images: Tensor) -> Tensor:
        """Descend from each image."""
        smooth = images
        for _ in range(self.steps):
            smooth = smooth - self.step_size * (smooth - images + self.weight * self._slope(smooth))
        return smooth.clamp(0.0, 1.0)

    def attack_view(self, model: nn.Module) -> nn.Module:
        """Return `model` behind this purifier, with its own gradient."""
        return nn.Sequential(self, model)

    def _slope(self, images: Tensor) -> Tensor:
        """Return the gradient of the variation."""
        across = F.pad(images[..., 1:] - images[..., :-1], (0, 1))
        down = F.pad(images[..., 1:, :] - images[..., :-1, :], (0, 0, 0, 1))
        length = torch.sqrt(across.square() + down.square() + self.smoothing**2)
        across, down = across / length, down / length
        return F.pad(across[..., :-1], (1, 0)) - across + F.pad(down[..., :-1, :], (0, 0, 1, 0)) - down
