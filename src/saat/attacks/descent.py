"""Gradient descent on the pixels: steps as long as the gradient says, or of one l2 length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saat.attacks.base import Attack, Probe, slopes_by_step
from saat.attacks.threat import Threat, flat_norm
from saat.errors import ArgumentError, check_at_least


class GradientDescent(Attack):
    """Steps along the gradient itself, from the clean images, with a projection after each.

    The released code of two papers searches so where others take signs: that of SAAT runs HAG (Yang, Liu, Deng, Tao,
    *Adversarial Examples for Hamming Space Search*, IEEE Transactions on Cybernetics 2020) as stochastic gradient
    descent with momentum; DHTA (Bai et al., *Targeted Attack for Deep Hashing based Retrieval*, ECCV 2020) divides the
    gradient by its length.

    For each image, with g the gradient and d = g, or d = g / |g|_2 if `unit`: v = momentum * v + d, from v = 0, and the
    step is -step_size * v, whatever the norm of the threat. A pixel that its bound held back keeps its v.

    Args:
        threat: how far images may move.
        steps: gradient steps, at least 1.
        step_size: the rate; if `unit`, the l2 length of the first step, in pixel units.
        momentum: how much of v each step keeps, in [0, 1).
        unit: divide the gradient of each image by its l2 length.
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
        step_size: float,
        momentum: float = 0.0,
        unit: bool = False,
        sharpness: Sequence[float] = (1.0,),
        precision: str = "float32",
        keep_best: bool = True,
    ) -> None:
        super().__init__(threat, precision=precision, keep_best=keep_best)
        check_at_least("steps", steps, 1)
        check_at_least("step_size", step_size, 0.0)
        if not 0.0 <= momentum < 1.0:
            raise ArgumentError(f"`momentum` lies in [0, 1), 1 excluded; got {momentum}")
        self.steps, self.step_size, self.momentum, self.unit = steps, step_size, momentum, unit
        self.slopes = slopes_by_step(sharpness, steps)

    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Take every step; return the last iterate."""
        current, velocity = images, torch.zeros_like(images)
        for sharpness in self.slopes:
            _, gradient = probe.gradient(current, sharpness=sharpness)
            if self.unit:  # no gradient stays none
                gradient = gradient / flat_norm(gradient).clamp(min=1e-12)
            velocity = self.momentum * velocity + gradient
            current = self.threat.project(current - self.step_size * velocity, images)
        if self.keep_best:
            probe.values(current)
        return current
