"""APGD: projected gradient descent that chooses its own step sizes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saat.attacks.base import Attack, Probe, warm_start
from saat.attacks.threat import Threat
from saat.errors import check_at_least

MOMENTUM = 0.75  # share of the new step against the last move
ENOUGH = 0.75  # share of steps between two checkpoints that must improve, or the step is halved


def checkpoints(steps: int) -> list[int]:
    """Return the steps at which APGD looks back: at 22 % of the steps, then in ever shorter intervals.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1.0:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return sorted({step for step in (math.ceil(round(share * steps, 6)) for share in shares[1:]) if step < steps})


class APGD(Attack):
    """Gradient descent with momentum that halves its step, image by image, where it makes no progress.

    Croce and Hein, *Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks*,
    ICML 2020. There is no step size to tune: it begins at twice epsilon, and a halving goes back to the best iterate.

    *Differs from the paper*: random starts are those of the threat model.

    Args:
        threat: how far images may move.
        steps: gradient steps of a search, at least 1.
        restarts: searches from as many starts; the best iterate of all is kept.
        start: where the first search begins, (B, 3, H, W), instead of at a random place: for a batch of B images.
        precision: of the search; see `runtime.autocast`.

    Raises:
        ArgumentError: a count is below 1.
    """

    def __init__(
        self,
        threat: Threat,
        *,
        steps: int = 100,
        restarts: int = 1,
        start: Tensor | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(threat, precision=precision)
        check_at_least("steps", steps, 1)
        check_at_least("restarts", restarts, 1)
        self.steps, self.restarts, self.start = steps, restarts, start

    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Run every search; return the last iterate of the last one."""
        probe.values(images)  # so that no start can end worse than the clean image
        current = images
        for restart in range(self.restarts):
            if restart == 0 and self.start is not None:
                current = warm_start(self.start, images, self.threat)
            else:
                current = self.threat.random_start(images, generator=generator)
            current = self._descend(probe, images, current)
        return current

    def _descend(self, probe: Probe, images: Tensor, current: Tensor) -> Tensor:
        """Search from `current`; return the last iterate."""
        values, gradient = probe.gradient(current)
        best = _Best(current, gradient, values)
        step = torch.full((len(images), 1, 1, 1), 2 * self.threat.epsilon, device=images.device)
        improvements = torch.zeros(len(images), device=images.device)
        halved_before = torch.ones(len(images), dtype=torch.bool, device=images.device)
        value_before = best.values.clone()  # of the best iterate, at the last checkpoint
        marks, last_mark, previous = checkpoints(self.steps), 0, current
        for number in range(1, self.steps + 1):
            aimed = self.threat.project(self.threat.descend(current, gradient, step), images)
            share = MOMENTUM if number > 1 else 1.0
            moved = current + share * (aimed - current) + (1 - share) * (current - previous)
            previous, current = current, self.threat.project(moved, images)
            if number == self.steps:
                break
            last_values = values
            values, gradient = probe.gradient(current)
            improvements += values < last_values
            best.update(current, gradient, values)
            if number in marks:
                stuck = improvements < ENOUGH * (number - last_mark)
                stuck |= ~halved_before & (best.values >= value_before)
                step = torch.where(stuck.view(-1, 1, 1, 1), step / 2, step)
                current, gradient, values = best.where(stuck, current, gradient, values)
                halved_before, value_before, last_mark = stuck, best.values.clone(), number
                improvements.zero_()
        probe.values(current)
        return current


class _Best:
    """The best iterate of one search for each image, with its gradient: where a halved step goes on."""

    def __init__(self, images: Tensor, gradient: Tensor, values: Tensor) -> None:
        self.images, self.gradient, self.values = images, gradient, values

    def update(self, images: Tensor, gradient: Tensor, values: Tensor) -> None:
        """Take over the images whose values are lower."""
        better = values < self.values
        self.images, self.gradient, self.values = _select(better, (images, gradient, values), self._all())

    def where(self, rows: Tensor, images: Tensor, gradient: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best in `rows`, bool (B,), and what is given elsewhere."""
        return _select(rows, self._all(), (images, gradient, values))

    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.images, self.gradient, self.values


def _select(
    rows: Tensor, chosen: tuple[Tensor, Tensor, Tensor], others: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    wide = rows.view(-1, 1, 1, 1)
    images, gradient = (torch.where(wide, a, b) for a, b in zip(chosen[:2], others[:2], strict=True))
    return images, gradient, torch.where(rows, chosen[2], others[2])
