"""Adam on the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saat.attacks.base import Attack, Probe, slopes_by_step
from saat.attacks.threat import Threat
from saat.errors import ArgumentError, check_at_least

SMALLEST_SCALE = 1e-8  # Adam's guard against a division by zero


class AdamSearch(Attack):
    """Adam on the images, from the clean ones, with a projection after each step.

    Lu et al., *A Smart Adversarial Attack on Deep Hashing Based Image Retrieval* (SDHA), ICMR 2021, searches so. The
    optimizer: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015.

    *Differs from the paper*: only the threat model bounds the change; SDHA also adds its mean square to the objective.

    With g the gradient at step t, for each pixel value: m = b1 m + (1 - b1) g, s = b2 s + (1 - b2) g^2, and the step is
    -learning_rate * (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + 1e-8). No value depends on another pixel or image.

    Args:
        threat: how far images may move.
        steps: gradient steps, at least 1.
        learning_rate: about the length of a step of each pixel value, in pixel units.
        betas: how much of the mean gradient and of the mean squared gradient each step keeps, in [0, 1).
        sharpness: slopes of the relaxed code over the search, in equal parts of the steps.
        precision: of the search; see `runtime.autocast`.
        keep_best: return the best of the clean image and all iterates (one more forward pass), not the last.

    Raises:
        ArgumentError: an option is out of range, or there is no sharpness.
    """

    def __init__(
        self,
        threat: Threat,
        *,
        steps: int = 100,
        learning_rate: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        sharpness: Sequence[float] = (1.0,),
        precision: str = "float32",
        keep_best: bool = True,
    ) -> None:
        super().__init__(threat, precision=precision, keep_best=keep_best)
        check_at_least("steps", steps, 1)
        check_at_least("learning_rate", learning_rate, 0.0)
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ArgumentError(f"`betas` lie in [0, 1), 1 excluded; got {betas}")
        self.steps, self.learning_rate, self.betas = steps, learning_rate, betas
        self.slopes = slopes_by_step(sharpness, steps)

    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Take every step; return the last iterate."""
        mean_beta, square_beta = self.betas
        current, mean, square = images, torch.zeros_like(images), torch.zeros_like(images)
        for step, sharpness in enumerate(self.slopes):
            _, gradient = probe.gradient(current, sharpness=sharpness)
            mean = mean_beta * mean + (1.0 - mean_beta) * gradient
            square = square_beta * square + (1.0 - square_beta) * gradient.square()
            # Both means began at zero: these divisions take that out.
            scale = (square / (1.0 - square_beta ** (step + 1))).sqrt() + SMALLEST_SCALE
            move = mean / (1.0 - mean_beta ** (step + 1)) / scale
            current = self.threat.project(current - self.learning_rate * move, images)
        if self.keep_best:
            probe.values(current)
        return current
