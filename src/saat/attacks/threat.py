"""Threats: how far an image may move."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saat.errors import ArgumentError, check_choice, check_fraction

# float32 cannot hold `clean + epsilon` exactly; one part in a million of the pixel range is 0.0003 gray levels.
ROUNDING = 1e-6
NORMS = ("linf", "l2")


def flat_norm(difference: Tensor) -> Tensor:
    """Return the l2 norm of each image, (B, 1, 1, 1); float32 would lose a part in 10,000 over 150,000 values."""
    norm: Tensor = torch.linalg.vector_norm(difference, dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
    return norm.to(difference.dtype)


@dataclass(frozen=True)
class ThreatModel:
    """All images within `epsilon` of the clean one that are still images, that is in [0, 1].

    Args:
        norm: `linf`, the largest change of a pixel value, or `l2`, the Euclidean length of the flattened change.
        epsilon: the radius, in units of the pixel range [0, 1]; for linf within [0, 1], commonly 8/255.

    Raises:
        ArgumentError: the norm is unknown, or epsilon is out of range.
    """

    norm: str = "linf"
    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, NORMS)
        if self.norm == "linf":
            check_fraction("epsilon", self.epsilon)
        elif not (math.isfinite(self.epsilon) and self.epsilon >= 0.0):
            raise ArgumentError(f"`epsilon` is a finite l2 radius of at least 0; got {self.epsilon}")

    def project(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Return the images of (B, 3, H, W) moved back into the ball around `clean` and into [0, 1]."""
        change = perturbed - clean
        if self.norm == "linf":  # in place: fresh memory for large images costs more than the arithmetic
            return change.clamp_(-self.epsilon, self.epsilon).add_(clean).clamp_(0.0, 1.0)
        return self.apply(self.bound(change), clean)

    def random_start(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return images drawn in the ball around `clean`: uniform for linf, uniform in radius for l2."""
        noise = torch.empty_like(clean)
        if self.norm == "linf":
            noise.uniform_(-self.epsilon, self.epsilon, generator=generator)
        else:
            noise.normal_(generator=generator)
            radius = torch.rand(len(clean), 1, 1, 1, generator=generator, device=clean.device)
            noise = noise / flat_norm(noise).clamp(min=1e-12) * (self.epsilon * radius)
        return self.project(clean + noise, clean)

    def descend(self, perturbed: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """Return `perturbed` after one steepest-descent step of length `step_size` in this norm (not projected)."""
        if self.norm == "linf":
            return perturbed - gradient.sign().mul_(step_size)
        return perturbed - step_size * gradient / flat_norm(gradient).clamp(min=1e-12)

    def size(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Return the length of each change in this norm, float (B,)."""
        difference = perturbed - clean
        return difference.flatten(1).abs().amax(1) if self.norm == "linf" else flat_norm(difference).flatten()

    def violation(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Return how far each image lies outside the ball or the box [0, 1], float (B,); 0 inside, up to rounding."""
        beyond = self.size(perturbed, clean) - self.epsilon
        outside = torch.maximum(-perturbed, perturbed - 1.0).flatten(1).amax(1)
        excess = torch.maximum(beyond, outside)
        return torch.where(excess > self.tolerance, excess, torch.zeros_like(excess))

    @property
    def tolerance(self) -> float:
        """How far rounding alone can take a change beyond epsilon."""
        return ROUNDING * max(1.0, self.epsilon)

    def bound(self, change: Tensor) -> Tensor:
        """Return the differences (B, 3, H, W) shortened to at most epsilon."""
        if self.norm == "linf":
            return change.clamp(-self.epsilon, self.epsilon)
        return change * (self.epsilon / flat_norm(change).clamp(min=1e-12)).clamp(max=1.0)

    def apply(self, change: Tensor, clean: Tensor) -> Tensor:
        """Return `clean` (B, 3, H, W) moved by a bounded difference (1 or B, 3, H, W), in [0, 1]."""
        return (clean + change).clamp(0.0, 1.0)


@dataclass(frozen=True)
class PatchThreat:
    """All images that differ from the clean one in one square only, where pixels are free in [0, 1].

    Brown, Mané, Roy, Abadi, Gilmer, *Adversarial Patch*, 2017.
    *Differs from the paper*: the place is fixed, for random places and turns belong to a view of the model.

    Args:
        share: of the image's area that the patch covers, above 0 and at most 1; the side is rounded to pixels, at
            least 1 and at most the shorter side of the image.
        row: where the patch is, from the top (0) to the bottom (1); 0.5 is the middle.
        column: where the patch is, from the left (0) to the right (1).

    Raises:
        ArgumentError: a number is out of range.
    """

    share: float = 0.05
    row: float = 0.5
    column: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ArgumentError(f"`share` is a share of the image's area, above 0 and at most 1; got {self.share}")
        for name in ("row", "column"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ArgumentError(f"`{name}` is a place from 0 to 1; got {getattr(self, name)}")

    @property
    def epsilon(self) -> float:
        """The largest change of a pixel value: all of the range."""
        return 1.0

    def region(self, images: Tensor) -> Tensor:
        """Return where the patch is in images (B, 3, H, W), bool (1, 1, H, W).

        >>> PatchThreat(share=0.25, row=0.0, column=1.0).region(torch.zeros(1, 3, 4, 4))[0, 0].int()
        tensor([[0, 0, 1, 1],
                [0, 0, 1, 1],
                [0, 0, 0, 0],
                [0, 0, 0, 0]], dtype=torch.int32)
        """
        height, width = images.shape[-2:]
        side = min(max(round(math.sqrt(self.share * height * width)), 1), height, width)
        top, left = round(self.row * (height - side)), round(self.column * (width - side))
        region = torch.zeros(1, 1, height, width, dtype=torch.bool, device=images.device)
        region[:, :, top : top + side, left : left + side] = True
        return region

    def project(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Return the images of (B, 3, H, W) with the clean pixels outside the patch, and those inside in [0, 1]."""
        return torch.where(self.region(clean), perturbed.clamp(0.0, 1.0), clean)

    def random_start(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return `clean` under a patch of uniform noise of its own in each image."""
        return self.project(torch.empty_like(clean).uniform_(generator=generator), clean)

    def descend(self, perturbed: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """Return `perturbed` after one sign step of length `step_size` (not projected)."""
        return perturbed - step_size * gradient.sign()

    def size(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Return the share of the places (of H W) in which each image has changed, float (B,)."""
        return (perturbed != clean).any(1).float().flatten(1).mean(1)

    def violation(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Return the largest change outside the patch or step out of [0, 1], float (B,); 0 inside, up to rounding."""
        beyond = (perturbed - clean).abs().masked_fill(self.region(clean), 0.0)
        outside = torch.maximum(-perturbed, perturbed - 1.0)
        excess = torch.maximum(beyond, outside).flatten(1).amax(1)
        return torch.where(excess > ROUNDING, excess, torch.zeros_like(excess))

    def bound(self, change: Tensor) -> Tensor:
        """Return the content (B, 3, H, W) of a patch moved into [0, 1]."""
        return change.clamp(0.0, 1.0)

    def apply(self, change: Tensor, clean: Tensor) -> Tensor:
        """Return `clean` (B, 3, H, W) under a patch of bounded content (1 or B, 3, H, W)."""
        return torch.where(self.region(clean), change, clean)


Threat = ThreatModel | PatchThreat
"""How far an image may move: everywhere by a little, or in one place at will."""
