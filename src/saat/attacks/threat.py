"""ThreatModel: how far an image may move."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saat.errors import ArgumentError, check_choice, check_fraction

# float32 cannot hold `clean + epsilon` exactly; one part in a million of the pixel range is 0.0003 gray levels.
ROUNDING = 1e-6
NORMS = ("linf", "l2")


def _flat_norm(difference: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(difference, dim=(1, 2, 3), keepdim=True)
    return norm


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
        difference = perturbed - clean
        if self.norm == "linf":
            difference = difference.clamp(-self.epsilon, self.epsilon)
        else:
            difference = difference * (self.epsilon / _flat_norm(difference).clamp(min=1e-12)).clamp(max=1.0)
        return (clean + difference).clamp(0.0, 1.0)

    def random_start(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return images drawn in the ball around `clean`: uniform for linf, uniform in radius for l2."""
        noise = torch.empty_like(clean)
        if self.norm == "linf":
            noise.uniform_(-self.epsilon, self.epsilon, generator=generator)
        else:
            noise.normal_(generator=generator)
            radius = torch.rand(len(clean), 1, 1, 1, generator=generator, device=clean.device)
            noise = noise / _flat_norm(noise).clamp(min=1e-12) * (self.epsilon * radius)
        return self.project(clean + noise, clean)

    def descend(self, perturbed: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """Return `perturbed` after one steepest-descent step of length `step_size` in this norm (not projected)."""
        if self.norm == "linf":
            return perturbed - step_size * gradient.sign()
        return perturbed - step_size * gradient / _flat_norm(gradient).clamp(min=1e-12)

    def size(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Return the length of each change in this norm, float (B,)."""
        difference = (perturbed - clean).flatten(1)
        return difference.abs().amax(1) if self.norm == "linf" else torch.linalg.vector_norm(difference, dim=1)

    def violation(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Return how far each image lies outside the ball or the box [0, 1], float (B,); 0 inside, up to rounding."""
        beyond = self.size(perturbed, clean) - self.epsilon
        outside = torch.maximum(-perturbed, perturbed - 1.0).flatten(1).amax(1)
        excess = torch.maximum(beyond, outside)
        return torch.where(excess > ROUNDING, excess, torch.zeros_like(excess))
