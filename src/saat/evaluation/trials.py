"""Trials: small experiments on a model whose outcome shows whether an attack on it means anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Self

import torch
from torch import Tensor, nn

from saat.attacks.autopgd import APGD
from saat.attacks.base import Probe
from saat.attacks.goals import SemanticGoal
from saat.attacks.objectives import flips_objective
from saat.attacks.threat import ThreatModel
from saat.evaluation.suite import SuiteBatch
from saat.runtime import as_channels_last, frozen
from saat.types import CodeObjective

RADII = (0.25, 0.5, 1.0, 2.0, 4.0)  # of epsilon; the last one is always that of plain gray
SWEEP_STEPS = (1, 5, 20)


@dataclass(frozen=True)
class Trials:
    """What the trials found.

    Args:
        vanished_gradients: share of the queries whose gradient is zero or not finite at the clean image.
        instability: largest difference of the logits of two passes over the same images, in mean |logit|.
        radii: average precision of the queries by radius of the attack, float64 (Q,) each, ascending from 0, no attack.
        steps: average precision of the queries by number of steps, float64 (Q,) each, ascending.
        epsilon: of the attacks by steps.
    """

    vanished_gradients: float
    instability: float
    radii: dict[float, Tensor]
    steps: dict[int, Tensor]
    epsilon: float

    def beyond_epsilon(self) -> Tensor:
        """Return the average precision of the queries at the next radius above epsilon."""
        return self.radii[min((radius for radius in self.radii if radius > self.epsilon), default=max(self.radii))]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the trials of all queries from those of their batches, at least one, which share radii and steps."""
        first = parts[0]
        sizes = [len(part.radii[0.0]) for part in parts]
        vanished = sum(size * part.vanished_gradients for size, part in zip(sizes, parts, strict=True))
        return cls(
            vanished_gradients=vanished / sum(sizes),
            instability=max(part.instability for part in parts),
            radii={radius: torch.cat([part.radii[radius] for part in parts]) for radius in first.radii},
            steps={steps: torch.cat([part.steps[steps] for part in parts]) for steps in first.steps},
            epsilon=first.epsilon,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all of this as tensors, to be kept in a file."""
        return {
            "radii": torch.tensor(list(self.radii), dtype=torch.float64),
            "steps": torch.tensor(list(self.steps)),
            "by_radius": torch.stack(list(self.radii.values())),
            "by_steps": torch.stack(list(self.steps.values())),
            "scalars": torch.tensor([self.vanished_gradients, self.instability, self.epsilon], dtype=torch.float64),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the trials that `tensors` was made of."""
        vanished, instability, epsilon = tensors["scalars"].tolist()
        return cls(
            vanished_gradients=vanished,
            instability=instability,
            radii=dict(zip(tensors["radii"].tolist(), tensors["by_radius"], strict=True)),
            steps=dict(zip(tensors["steps"].tolist(), tensors["by_steps"], strict=True)),
            epsilon=epsilon,
        )

    def to_json(self) -> dict[str, object]:
        """Return the means, ready for `json.dumps`."""
        return {
            "vanished_gradients": self.vanished_gradients,
            "instability": self.instability,
            "map_by_epsilon": {f"{radius:.6g}": values.mean().item() for radius, values in self.radii.items()},
            "map_by_steps": {str(steps): values.mean().item() for steps, values in self.steps.items()},
        }


def run_trials(batch: SuiteBatch) -> Trials:
    """Look at gradients and stability, and attack at growing radii and with growing numbers of steps.

    The attacks begin at the clean image: what they find is owed to gradients, and not to the noise of a start.

    Args:
        batch: some queries, a hundred are enough; its `best` and `steps` take no part.
    """
    epsilon, largest = batch.threat.epsilon, gray_radius(batch.threat, batch.images)
    mainstay = SemanticGoal(batch.bank, make_objective=flips_objective)(batch.model, batch.images, batch.labels)
    radii = [*(share * epsilon for share in RADII if share * epsilon < largest), largest]
    attacked = cache(partial(_attacked, batch))  # the most steps at epsilon belong to both sweeps
    return Trials(
        vanished_gradients=vanished_share(batch.model, batch.images, mainstay),
        instability=instability(batch.model, batch.images),
        radii={
            0.0: batch.average_precision(batch.images).cpu(),
            **{radius: attacked(radius, SWEEP_STEPS[-1]) for radius in radii},
        },
        steps={steps: attacked(epsilon, steps) for steps in SWEEP_STEPS},
        epsilon=epsilon,
    )


def gray_radius(threat: ThreatModel, images: Tensor) -> float:
    """Return the epsilon within which every image (B, 3, H, W) can become plain gray, so that no model can hold.

    >>> [gray_radius(ThreatModel(norm), torch.zeros(1, 3, 2, 6)) for norm in ("linf", "l2")]
    [0.5, 3.0]
    """
    return 0.5 if threat.norm == "linf" else 0.5 * math.sqrt(images[0].numel())


def vanished_share(model: nn.Module, images: Tensor, objective: CodeObjective) -> float:
    """Return the share of the images (B, 3, H, W) whose objective has no gradient, where a search begins."""
    with frozen(model):
        probe = Probe(model, as_channels_last(images), objective, precision="float32", keep_best=False)
        probe.gradient(images)
    return probe.cost.vanished_gradients / max(1, probe.cost.gradients)


def instability(model: nn.Module, images: Tensor) -> float:
    """Return the largest difference of the logits of two passes over `images`, in units of the mean |logit|.

    Above rounding, the model draws at random or remembers what it saw: attack it through an `EotView`.
    """
    with frozen(model), torch.no_grad():
        first, second = model(images).float(), model(images).float()
    return float((first - second).abs().max() / first.abs().mean().clamp(min=1e-12))


def _attacked(batch: SuiteBatch, epsilon: float, steps: int) -> Tensor:
    attack = APGD(replace(batch.threat, epsilon=epsilon), steps=steps, start=batch.images, precision=batch.precision)
    found, _ = batch.run(attack, SemanticGoal(batch.bank, make_objective=flips_objective), "trial")
    return batch.average_precision(found).cpu()
