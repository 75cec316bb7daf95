"""APGD: projected gradient descent that chooses its own step sizes."""

from __future__ import annotations

import math
from typing import NamedTuple

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
        here = best = _Place(current, gradient, values)
        step = torch.full((len(images), 1, 1, 1), 2 * self.threat.epsilon, device=images.device)
        improvements = torch.zeros(len(images), device=images.device)
        halved_before = torch.ones(len(images), dtype=torch.bool, device=images.device)
        value_before = values  # of the best iterate, at the last checkpoint
        marks, last_mark, previous = checkpoints(self.steps), 0, current
        for number in range(1, self.steps + 1):
            aimed = self.threat.project(self.threat.descend(here.images, here.gradient, step), images)
            share = MOMENTUM if number > 1 else 1.0
            moved = here.images + share * (aimed - here.images) + (1 - share) * (here.images - previous)
            previous, current = here.images, self.threat.project(moved, images)
            if number == self.steps:
                break
            values, gradient = probe.gradient(current)
            improvements += values < here.values
            here = _Place(current, gradient, values)
            best = _choose(values < best.values, here, best)
            if number in marks:
                stuck = improvements < ENOUGH * (number - last_mark)
                stuck |= ~halved_before & (best.values >= value_before)
                step = torch.where(stuck.view(-1, 1, 1, 1), step / 2, step)
                here = _choose(stuck, best, here)  # where a halved step goes on
                halved_before, value_before, last_mark = stuck, best.values, number
                improvements.zero_()
        probe.values(current)
        return current


class _Place(NamedTuple):
    """An iterate, (B, 3, H, W), with its gradient and the values of the objective there, (B,)."""

    images: Tensor
    gradient: Tensor
    values: Tensor


def _choose(rows: Tensor, ours: _Place, theirs: _Place) -> _Place:
    """Return `ours` in `rows`, bool (B,), and `theirs` elsewhere."""
    wide = rows.view(-1, 1, 1, 1)
    return _Place(*(torch.where(rows if a.ndim == 1 else wide, a, b) for a, b in zip(ours, theirs, strict=True)))
