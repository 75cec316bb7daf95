"""Attack: how to search. The only place of guarantees, so that whoever adds an attack cannot break the budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from saat.attacks.threat import Threat
from saat.errors import ArgumentError, SaatError
from saat.runtime import as_channels_last, autocast, frozen, make_generator, weights_cast
from saat.types import CodeObjective

Transform = Callable[[Tensor], Tensor]
"""A differentiable change of images (B, 3, H, W) before the model sees them."""


@dataclass
class SearchCost:
    """What a search used. What a goal looks at before it, such as the codes of the clean images, does not count.

    Args:
        model_evaluations: images that went through the model, or through those that a view holds, all draws counted.
        gradients: images whose gradient was taken.
        vanished_gradients: those whose gradient was zero everywhere, or not finite somewhere.
    """

    model_evaluations: int = 0
    gradients: int = 0
    vanished_gradients: int = 0

    def __iadd__(self, other: SearchCost) -> SearchCost:
        self.model_evaluations += other.model_evaluations
        self.gradients += other.gradients
        self.vanished_gradients += other.vanished_gradients
        return self

    def since(self, before: SearchCost) -> SearchCost:
        """Return what was used since `before`."""
        return SearchCost(**{name: value - getattr(before, name) for name, value in vars(self).items()})


def evaluations_an_image(model: nn.Module) -> int:
    """Return how many images models see for one that comes in: what a view says of itself, and 1 for a plain model."""
    return int(getattr(model, "evaluations_an_image", 1))


class Probe:
    """The window through which a search sees the model: it counts, and remembers the best iterate of each image.

    Args:
        model: images -> logits, frozen.
        clean: (B, 3, H, W) in [0, 1].
        objective: logits (B, K) -> (B,), lower is better for the attacker.
        precision: see `runtime.autocast`.
        keep_best: remember the best iterate, instead of leaving the choice to the search.

    Attributes:
        best: (B, 3, H, W), the best iterate so far.
        cost: what the search has used so far.
    """

    def __init__(
        self, model: nn.Module, clean: Tensor, objective: CodeObjective, *, precision: str, keep_best: bool
    ) -> None:
        self._model, self._objective, self._precision = model, objective, precision
        self._evaluations = evaluations_an_image(model)
        self._keep_best = keep_best
        self._best_values = torch.full((len(clean),), torch.inf, device=clean.device)
        self.best = clean.clone()
        self.cost = SearchCost()

    def values(self, perturbed: Tensor) -> Tensor:
        """Return the objective of each image, float (B,), without a graph."""
        with torch.no_grad():
            logits = self._logits(perturbed)
            return self._remember(perturbed, self._objective(logits))

    def gradient(
        self, perturbed: Tensor, *, sharpness: float = 1.0, transform: Transform | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the objective (B,) and its gradient (B, 3, H, W); entries that are not finite become 0.

        Args:
            perturbed: (B, 3, H, W).
            sharpness: multiplies the logits before the objective in the gradient; values are always at 1.
            transform: what the model sees instead of the images. Its values say nothing of the images themselves, so
                they are not remembered.
        """
        perturbed = perturbed.detach().requires_grad_()
        logits = self._logits(perturbed if transform is None else transform(perturbed))
        values = self._objective(logits)
        driving = values if sharpness == 1.0 else self._objective(sharpness * logits)
        if driving.requires_grad:
            (gradient,) = torch.autograd.grad(driving.sum(), perturbed, materialize_grads=True)
        else:  # something in the model cuts the graph
            gradient = torch.zeros_like(perturbed)
        largest = torch.linalg.vector_norm(gradient, torch.inf, dim=(1, 2, 3))
        broken = ~torch.isfinite(largest)
        if bool(broken.any()):
            gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        self.cost.gradients += len(gradient)
        self.cost.vanished_gradients += int((broken | (largest == 0.0)).sum())
        values = values.detach()
        return (values if transform is not None else self._remember(perturbed.detach(), values)), gradient

    def _logits(self, images: Tensor) -> Tensor:
        self.cost.model_evaluations += self._evaluations * len(images)
        with autocast(self._precision, images.device):
            logits: Tensor = self._model(images)
        return logits.float()

    def _remember(self, perturbed: Tensor, values: Tensor) -> Tensor:
        if self._keep_best:
            better = values < self._best_values
            self._best_values = torch.where(better, values, self._best_values)
            self.best = torch.where(better.view(-1, 1, 1, 1), perturbed, self.best)
        return values


class Attack(ABC):
    """A search for images within a threat model that minimize an objective on the model's logits.

    Args:
        threat: how far images may move.
        precision: of the search; see `runtime.autocast`. Codes are always taken in float32 afterwards.
        keep_best: return the best iterate of each image that the search looked at, not its last one.

    Attributes:
        cost: what was used so far, over all calls.
    """

    def __init__(self, threat: Threat, *, precision: str = "float32", keep_best: bool = True) -> None:
        self.threat = threat
        self.precision = precision
        self.keep_best = keep_best
        self.cost = SearchCost()

    @final
    def __call__(self, model: nn.Module, images: Tensor, objective: CodeObjective, *, seed: int = 0) -> Tensor:
        """Return adversarial images (B, 3, H, W) in [0, 1], inside the threat model, detached.

        The model is in eval mode during the search (batch statistics and dropout take no part, unless it is the view
        of an inner attack in train mode) and is left as it was; gradients reach the images only.

        Args:
            model: images (B, 3, H, W) in [0, 1] -> logits (B, K).
            images: the clean images, float32.
            objective: logits -> (B,), lower is nearer to the attacker's aim.
            seed: the same seed gives the same result.

        Raises:
            ArgumentError: `images` have the wrong shape, type or range.
            SaatError: the search left the threat model or produced values that are not finite: a defect of it.
        """
        check_images(images)
        clean = as_channels_last(images.detach())
        generator = make_generator(seed, type(self).__name__, device=clean.device)
        with frozen(model), weights_cast(model, self.precision, clean.device):
            probe = Probe(model, clean, objective, precision=self.precision, keep_best=self.keep_best)
            last = self.perturb(probe, clean, generator=generator)
        self.cost += probe.cost
        found = self.threat.project(probe.best if self.keep_best else last, clean).detach()
        if not bool(torch.isfinite(found).all()) or bool((self.threat.violation(found, clean) > 0).any()):
            raise SaatError(f"{type(self).__name__} left its threat model {self.threat}: please report this")
        return found

    @abstractmethod
    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Search, looking at the model through `probe` only; return the last iterate (B, 3, H, W).

        This is all that a new attack writes. Show the probe only projected images: what it remembers is returned.
        """


def warm_start(start: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """Return `start` as the first iterate of a search around `images`: on their device, and within the threat model.

    Raises:
        ArgumentError: it has not the shape of the images.
    """
    if start.shape != images.shape:
        raise ArgumentError(f"`start` has the shape of the images, {tuple(images.shape)}; got {tuple(start.shape)}")
    return threat.project(start.to(images), images)


def slopes_by_step(sharpness: Sequence[float], steps: int) -> tuple[float, ...]:
    """Return the slope of the relaxed code in each step of a search: those of `sharpness`, in equal parts of the steps.

    Raises:
        ArgumentError: there is no sharpness.

    >>> slopes_by_step((0.1, 1.0), 4)
    (0.1, 0.1, 1.0, 1.0)
    """
    if not sharpness:
        raise ArgumentError("`sharpness` has at least one slope; got none")
    return tuple(sharpness[step * len(sharpness) // steps] for step in range(steps))


def check_images(images: Tensor) -> None:
    """Raise unless `images` is float32 (B, 3, H, W), finite and in [0, 1].

    Raises:
        ArgumentError: naming what was found.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.float32:
        raise ArgumentError(f"`images` is float32 (B, 3, H, W); got {images.dtype} {tuple(images.shape)}")
    if images.numel() and not (float(images.min()) >= 0.0 and float(images.max()) <= 1.0):
        raise ArgumentError(
            f"`images` lie in [0, 1], before normalization; got {float(images.min()):.3g} to {float(images.max()):.3g}"
        )
