"""Universal perturbations and patches: one change for every image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saat.attacks.base import Attack, Probe
from saat.attacks.threat import Threat
from saat.errors import ArgumentError, check_at_least
from saat.runtime import autocast, device_of, frozen, make_generator, pixels_of, progress
from saat.types import CodeObjective, Goal


class UniversalPerturbation(Attack):
    """The same change for every image; made by `fit_universal`. It searches nothing, and chooses nothing by image.

    Args:
        threat: how far images may move.
        change: (1, 3, H, W), a difference for a `ThreatModel`, the content of the patch for a `PatchThreat`.
        precision: see `runtime.autocast`.

    Raises:
        ArgumentError: the change has another shape or type.
    """

    def __init__(self, threat: Threat, change: Tensor, *, precision: str = "float32") -> None:
        super().__init__(threat, precision=precision, keep_best=False)
        if change.ndim != 4 or change.shape[:2] != (1, 3) or change.dtype != torch.float32:
            raise ArgumentError(f"`change` is float32 (1, 3, H, W); got {change.dtype} {tuple(change.shape)}")
        self.change = threat.bound(change.detach())

    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Change every image; it is shown to the probe once.

        Raises:
            ArgumentError: the images are of another size than the change.
        """
        if images.shape[2:] != self.change.shape[2:]:
            sizes = f"{tuple(images.shape[2:])} and {tuple(self.change.shape[2:])}"
            raise ArgumentError(f"`images` have the height and width of the universal change; got {sizes}")
        perturbed = self.threat.project(self.threat.apply(self.change.to(images.device), images), images)
        probe.values(perturbed)
        return perturbed


def fit_universal(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    epochs: int = 5,
    batch_size: int = 64,
    step_size: float = 1 / 255,
    seed: int = 0,
    precision: str = "float32",
    quiet: bool = False,
) -> UniversalPerturbation:
    """Fit one change that lowers the mean objective over the images of the train split.

    Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, *Universal Adversarial Perturbations*, CVPR 2017; a `PatchThreat`
    cites its own. From no change, or a black patch: one steepest-descent step a batch, then back into the threat.
    *Differs from the paper*, which adds up minimal changes of single images: here the gradient of the mean leads.

    Args:
        model: images (B, 3, H, W) in [0, 1] -> logits (B, K); left as it was.
        images: (N, 3, H, W), uint8 in 0..255, or float in [0, 1].
        labels: (N, C).
        goal: where to; called for every batch.
        threat: how far images may move.
        epochs: passes over the images, at least 1.
        batch_size: images for a step, at least 1.
        step_size: in pixel units and the threat's norm; a patch needs longer steps.
        seed: of the order of images.
        precision: see `runtime.autocast`.
        quiet: show no bar.

    Raises:
        ArgumentError: a number is too low, images and labels do not match, or the model gives no gradient.
    """
    check_at_least("epochs", epochs, 1)
    check_at_least("batch_size", batch_size, 1)
    check_at_least("step_size", step_size, 0.0)
    _check_rows(images, labels)
    generator, device = make_generator(seed, "fit_universal"), device_of(model)
    change = torch.zeros(1, *images.shape[1:], device=device)
    with frozen(model):
        for _ in progress(range(epochs), "universal", unit="epoch", quiet=quiet):
            for rows in torch.split(torch.randperm(len(images), generator=generator), batch_size):
                batch = pixels_of(images[rows], device)
                objective = goal(model, batch, labels[rows].to(device))
                gradient = _mean_gradient(model, batch, objective, threat, change, precision)
                change = threat.bound(threat.descend(change, gradient, step_size))
    return UniversalPerturbation(threat, change, precision=precision)


def _check_rows(images: Tensor, labels: Tensor) -> None:
    if not len(images) or len(images) != len(labels):
        raise ArgumentError(f"`images` and `labels` have as many rows, at least 1; got {len(images)} and {len(labels)}")


def _mean_gradient(
    model: nn.Module, batch: Tensor, objective: CodeObjective, threat: Threat, change: Tensor, precision: str
) -> Tensor:
    """Return the gradient (1, 3, H, W) of the mean objective with respect to the change; not finite becomes 0."""
    change = change.detach().requires_grad_()
    with autocast(precision, batch.device):
        logits: Tensor = model(threat.apply(change, batch))
    mean = objective(logits.float()).mean()
    if not mean.requires_grad:
        raise ArgumentError("`model` gives a gradient of its logits; this one cuts the graph (see BpdaView)")
    (gradient,) = torch.autograd.grad(mean, change)
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
