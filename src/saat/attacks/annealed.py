"""Annealed PGD: momentum, and steps that shrink from the whole radius to a small part of it."""

from __future__ import annotations

import torch
from torch import Tensor

from saat.attacks.base import Attack, Probe, warm_start
from saat.attacks.threat import Threat
from saat.attacks.transfer import normalize_gradient
from saat.errors import check_at_least

MOMENTUM = 0.75
LAST_STEP = 1 / 32  # of the first one, which is epsilon


def step_shares(steps: int) -> list[float]:
    """Return the length of each step in units of epsilon: the first is 1, and each is shorter by the same factor.

    >>> [round(1 / share, 6) for share in step_shares(6)]
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    """
    return [LAST_STEP ** (step / max(1, steps - 1)) for step in range(steps)]


class AnnealedPGD(Attack):
    """Gradient descent along a momentum of gradients, with steps that fall by one factor from epsilon to epsilon / 32.

    The momentum is that of MI-FGSM (Dong et al., *Boosting Adversarial Attacks with Momentum*, CVPR 2018),
    v = 0.75 v + g / mean |g|. Where the gradient turns from step to step, as in deep stacks of depthwise convolutions,
    it goes on where APGD, which follows each gradient and halves its step only where it stops improving, does not.
    No step depends on the values of the objective, so these may be flat; they only choose the image that is kept.

    Args:
        threat: how far images may move.
        steps: gradient steps of a search, at least 1.
        start: where the search begins, (B, 3, H, W), instead of the clean image: for a batch of B images.
        precision: of the search; see `runtime.autocast`.

    Raises:
        ArgumentError: `steps` is below 1.
    """

    def __init__(
        self, threat: Threat, *, steps: int = 100, start: Tensor | None = None, precision: str = "float32"
    ) -> None:
        super().__init__(threat, precision=precision)
        check_at_least("steps", steps, 1)
        self.steps, self.start = steps, start

    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Take every step; return the last iterate."""
        current, velocity = images, torch.zeros_like(images)
        if self.start is not None:
            probe.values(images)  # so that no start can end worse than the clean image
            current = warm_start(self.start, images, self.threat)
        for share in step_shares(self.steps):
            _, gradient = probe.gradient(current)
            velocity = MOMENTUM * velocity + normalize_gradient(gradient)
            moved = self.threat.descend(current, velocity, share * self.threat.epsilon)
            current = self.threat.project(moved, images)
        probe.values(current)
        return current
