"""The contracts: the few values that flow between the floors of the package.

Shape letters everywhere: B batch, N database, Q queries, K code length, C classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

CodeObjective = Callable[[Tensor], Tensor]
"""Logits (B, K) -> (B,): what an attacker minimizes; lower is nearer to the attacker's aim."""


@dataclass(frozen=True)
class Batch:
    """One batch of labeled images.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        labels: float (B, C), multi-hot.
        indices: int64 (B,), the rows of these images in their split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True)
class StepOutput:
    """What one train step gives back.

    Args:
        loss: scalar, to differentiate.
        parts: the terms of the loss by name, to log.
    """

    loss: Tensor
    parts: Mapping[str, float] = field(default_factory=dict)


class HashingLoss(Protocol):
    """A hashing objective. It knows no network: it sees logits (B, K), labels (B, C) and indices (B,)."""

    def __call__(self, logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Return the scalar loss of one batch."""
        ...


class Goal(Protocol):
    """Where an attack sends the code: away from something (untargeted) or toward something (targeted)."""

    @property
    def targeted(self) -> bool:
        """Whether the goal is to come near to something."""
        ...

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> CodeObjective:
        """Return the objective of this batch: images (B, 3, H, W) in [0, 1], labels (B, C)."""
        ...


class TrainStep(Protocol):
    """One step of training, usually an `nn.Module` with this forward. `fit` serves clean and adversarial training."""

    def __call__(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of `batch`, with its graph."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that the step remembers between batches, so that training can resume."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take back what `state_dict` gave."""
        ...
