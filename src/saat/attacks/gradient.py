"""Gradient searches."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from saat.attacks.base import Attack, Probe, slopes_by_step, warm_start
from saat.attacks.threat import Threat, ThreatModel
from saat.errors import ArgumentError, check_at_least

# The SAAT paper's slope of tanh, by tenths of the steps: soft at first, where tanh would otherwise be flat.
PAPER_SHARPNESS = (0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


class PGD(Attack):
    """Projected gradient descent with steps of fixed length.

    Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018.

    Args:
        threat: how far images may move.
        steps: gradient steps, at least 1.
        step_size: length of a step, in pixel units and the threat's norm.
        random_start: begin at a random place in the ball instead of the clean image.
        restarts: searches from as many starts; the best iterate of all is kept.
        start: where the first search begins, (B, 3, H, W), instead of elsewhere: for a batch of B images.
        sharpness: slopes of the relaxed code over the search, in equal parts of the steps.
        precision: of the search; see `runtime.autocast`.
        keep_best: return the best of the clean image and all iterates (two more forward passes), not the last.

    Raises:
        ArgumentError: a count is below 1, there is no sharpness, or restarts are asked for without `keep_best`.
    """

    def __init__(
        self,
        threat: Threat,
        *,
        steps: int = 100,
        step_size: float = 1 / 255,
        random_start: bool = True,
        restarts: int = 1,
        start: Tensor | None = None,
        sharpness: Sequence[float] = (1.0,),
        precision: str = "float32",
        keep_best: bool = True,
    ) -> None:
        super().__init__(threat, precision=precision, keep_best=keep_best)
        check_at_least("steps", steps, 1)
        check_at_least("restarts", restarts, 1)
        check_at_least("step_size", step_size, 0.0)
        if restarts > 1 and not keep_best:
            raise ArgumentError(f"`restarts` above 1 need `keep_best`; got {restarts} restarts without it")
        self.steps, self.step_size, self.restarts = steps, step_size, restarts
        self.random_start, self.start = random_start, start
        self.slopes = slopes_by_step(sharpness, steps)

    def scaled(self, share: float) -> Self:
        """Return this search with `share` of its radius and of its step; its cost counts on, here too.

        Raises:
            ArgumentError: the threat has no radius, or that becomes more than a threat model allows.
        """
        if not isinstance(self.threat, ThreatModel):
            raise ArgumentError(f"`scaled` is of threats with a radius; got {self.threat}")
        other = copy(self)
        other.threat = replace(self.threat, epsilon=share * self.threat.epsilon)
        other.step_size = share * self.step_size
        return other

    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Run every restart; return the last iterate of the last one."""
        if (self.random_start or self.start is not None) and self.keep_best:
            probe.values(images)  # so that no start can end worse than the clean image
        for restart in range(self.restarts):
            if restart == 0 and self.start is not None:
                current = warm_start(self.start, images, self.threat)
            else:
                current = self.threat.random_start(images, generator=generator) if self.random_start else images
            for sharpness in self.slopes:
                _, gradient = probe.gradient(current, sharpness=sharpness)
                current = self.threat.project(self.threat.descend(current, gradient, self.step_size), images)
            if self.keep_best:
                probe.values(current)
        return current
