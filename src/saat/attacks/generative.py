"""A generator that is trained once and then attacks in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saat.attacks.base import Attack, Probe, check_images
from saat.attacks.generator_networks import Discriminator, Generator
from saat.attacks.goals import clean_logits_of
from saat.attacks.threat import Threat, ThreatModel
from saat.errors import ArgumentError, SaatError, check_at_least
from saat.hamming import check_codes, relaxed_codes
from saat.runtime import autocast, derive_seed, device_of, frozen, make_generator, pixels_of, progress
from saat.types import has_label

# Weights of the released code, for images in [-1, 1], and how rarely its discriminator learns.
HAMMING_WEIGHT, RECONSTRUCTION_WEIGHT, ADVERSARIAL_WEIGHT = 5.0, 50.0, 1.0
DISCRIMINATOR_EVERY = 3


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """How a generator is built and trained.

    Args:
        epochs: passes over the images.
        batch_size: images a step.
        learning_rate: of Adam, for both networks.
        falling: let the rate fall in a line to zero over the second half of the steps; if not, it stays.
        width: channels of both networks at first; see `Generator` and `Discriminator`.
        residual_blocks: of the generator.
        halvings: of the size, in the discriminator.

    Raises:
        ArgumentError: one is out of range.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    falling: bool = False
    width: int = 32
    residual_blocks: int = 0
    halvings: int = 3

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "width", "halvings"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("learning_rate", self.learning_rate, 0.0)
        check_at_least("residual_blocks", self.residual_blocks, 0)


SMALL = GeneratorOptions()
GENERATORS: Mapping[str, GeneratorOptions] = {
    "generator": SMALL,
    "published-generator": GeneratorOptions(
        epochs=100, batch_size=24, learning_rate=1e-4, falling=True, width=64, residual_blocks=6, halvings=5
    ),
}
"""Searches that train a generator first: ours, which is small and quick to train, and that of the released code."""


class GeneratorAttack(Attack):
    """One pass of a trained generator: amortized, so that attacking an image costs no search.

    Wang, Zhang, Wu, Shen, Lu, *Prototype-supervised Adversarial Network for Targeted Attack of Deep Hashing*
    (ProS-GAN), CVPR 2021. Made by `fit_generator`; bind the targets of a batch with `toward` before the call.

    Args:
        generator: trained under `threat`.
        threat: how far images may move; linf.
        labels: (B, C) multi-hot, the targets of the batch's images.
        precision: of the pass; see `runtime.autocast`.

    Raises:
        ArgumentError: the threat is not linf, or the labels have the wrong width or a row without one.
    """

    def __init__(
        self, generator: Generator, threat: ThreatModel, *, labels: Tensor | None = None, precision: str = "float32"
    ) -> None:
        _check_linf(threat)
        if labels is not None:
            _check_targets("labels", labels, generator.classes)
        super().__init__(threat, precision=precision, keep_best=False)
        self.threat: ThreatModel = threat
        self.generator, self.labels = generator, labels

    def toward(self, labels: Tensor) -> GeneratorAttack:
        """Return this attack for a batch whose targets have `labels` (B, C); what it costs counts here too."""
        bound = GeneratorAttack(self.generator, self.threat, labels=labels, precision=self.precision)
        bound.cost = self.cost
        return bound

    def perturb(self, probe: Probe, images: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Return the generated images; the probe sees them once.

        Raises:
            ArgumentError: no targets are bound, or not as many as images, or their size does not fit.
        """
        if self.labels is None or len(self.labels) != len(images):
            bound = "none" if self.labels is None else len(self.labels)
            raise ArgumentError(f"`labels` of toward(labels) has a row for each of {len(images)} images; got {bound}")
        _check_size(images)
        with torch.no_grad():
            found = _generate(self.generator, images, self.labels.to(images.device), self.threat, self.precision)
        probe.values(found)
        return found


def fit_generator(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    target_labels: Tensor,
    target_codes: Tensor,
    threat: ThreatModel,
    options: GeneratorOptions = SMALL,
    *,
    seed: int = 0,
    precision: str = "float32",
    quiet: bool = False,
) -> GeneratorAttack:
    """Train a generator against `model`, each image toward a random target at a time, and return it as an attack.

    Wang, Zhang, Wu, Shen, Lu, *Prototype-supervised Adversarial Network for Targeted Attack of Deep Hashing*
    (ProS-GAN), CVPR 2021. The generator minimizes

        5 (1 - mean(relaxed * target code)) + 50 mean((generated - clean)^2) + mean((D(generated) - (target, 0))^2)

    with images in [-1, 1]; at every third step the discriminator D learns scores (labels, 0) of clean images and
    (target, 1) of generated ones, by the mean square too.

    *Differs from the paper*: the perturbation is epsilon * tanh(.), projected, where the paper leaves its size to the
    second term, as an epsilon of 1 does; the generator learns its own map of the target's labels, where the paper
    takes the embedding of the prototype network; the networks fit other sizes, and with the options as they are, are
    smaller and learn at a higher rate. As in the paper, the first term has no gradient where logits have grown beyond
    the range of tanh (see `weighted_objective`).

    Args:
        model: images (B, 3, H, W) in [0, 1] -> logits (B, K); left as it is.
        images: (N, 3, H, W), uint8 in 0..255 or float32 in [0, 1]; H and W divisible by 4, at least 8.
        labels: (N, C) multi-hot, those of the images.
        target_labels: (T, C) multi-hot, the label sets that the generator learns to reach.
        target_codes: int8 (T, K), the prototype (or mainstay) codes of `target_labels`.
        threat: how far images may move; linf.
        options: of the networks and of their training.
        seed: of the first weights, the order and the targets.
        precision: of the forward passes; see `runtime.autocast`.
        quiet: show no bar.

    Raises:
        ArgumentError: shapes disagree, or the threat is not linf.
        SaatError: the loss is no longer finite.
    """
    _check_linf(threat)
    device = device_of(model)
    _check_data(model, images, labels, target_labels, target_codes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "fit_generator"))
        classes, width = labels.shape[1], options.width
        generator = Generator(classes=classes, width=width, residual_blocks=options.residual_blocks).to(device)
        discriminator = Discriminator(classes=classes, width=width, halvings=options.halvings).to(device)
    nets = (generator, discriminator)
    optimizers = [torch.optim.Adam(net.parameters(), lr=options.learning_rate, betas=(0.5, 0.999)) for net in nets]
    draws = _draws(len(images), len(target_labels), options, make_generator(seed, "fit_generator"))
    total = options.epochs * math.ceil(len(images) / options.batch_size)
    bar = progress(draws, "fit generator", unit="batch", total=total, quiet=quiet)
    with frozen(model):
        for step, (rows, targets) in enumerate(bar):
            if options.falling:
                for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                    group["lr"] = options.learning_rate * min(1.0, 2.0 * (1.0 - step / total))
            clean = pixels_of(images[rows], device)
            wanted, codes = target_labels[targets].to(device), target_codes[targets].to(device)
            generated = _generate(generator, clean, wanted, threat, precision)
            if step % DISCRIMINATOR_EVERY == 0:
                real = labels[rows].to(device)
                _update(optimizers[1], discriminator_loss(discriminator, clean, real, generated.detach(), wanted))
            with frozen(discriminator):
                with autocast(precision, device):
                    logits = model(generated)
                _update(optimizers[0], generator_loss(logits.float(), codes, discriminator, clean, generated, wanted))
    return GeneratorAttack(generator.eval().requires_grad_(False), threat, precision=precision)


def generator_loss(
    logits: Tensor, codes: Tensor, discriminator: nn.Module, clean: Tensor, generated: Tensor, target_labels: Tensor
) -> Tensor:
    """Return the scalar loss of the generator (see `fit_generator`), of images (B, 3, H, W) in [0, 1].

    Args:
        logits: (B, K) of the generated images.
        codes: (B, K) in {-1, +1}, those of the targets.
        discriminator: images -> scores (B, C + 1).
        clean: the images before.
        generated: the images after.
        target_labels: (B, C) multi-hot.
    """
    hamming = 1.0 - (relaxed_codes(logits) * codes).mean()
    reconstruction = (2.0 * (generated - clean)).square().mean()  # as if of images in [-1, 1]
    adversarial = _score_loss(discriminator(generated), target_labels, 0.0)
    return HAMMING_WEIGHT * hamming + RECONSTRUCTION_WEIGHT * reconstruction + ADVERSARIAL_WEIGHT * adversarial


def discriminator_loss(
    discriminator: nn.Module, clean: Tensor, labels: Tensor, generated: Tensor, target_labels: Tensor
) -> Tensor:
    """Return the scalar loss of the discriminator, the mean of that on clean and on generated images.

    Arguments are those of `generator_loss`; `labels` (B, C) belong to the clean images, and `generated` is detached.
    """
    real = _score_loss(discriminator(clean), labels, 0.0)
    return (real + _score_loss(discriminator(generated), target_labels, 1.0)) / 2.0


def _score_loss(scores: Tensor, labels: Tensor, generated: float) -> Tensor:
    wanted = torch.cat([(labels > 0).float(), scores.new_full((len(labels), 1), generated)], 1)
    return (scores - wanted).square().mean()


def _generate(generator: Generator, clean: Tensor, labels: Tensor, threat: ThreatModel, precision: str) -> Tensor:
    with autocast(precision, clean.device):
        direction = generator(clean, labels)
    return threat.project(clean + threat.epsilon * direction.float(), clean)


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    if not bool(torch.isfinite(loss)):
        raise SaatError("the loss of the generator is no longer finite; try a lower `learning_rate`")
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()


def _draws(
    count: int, targets: int, options: GeneratorOptions, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the rows of each batch, and a random row of the targets for each."""
    for _ in range(options.epochs):
        for rows in torch.split(torch.randperm(count, generator=generator), options.batch_size):
            yield rows, torch.randint(targets, (len(rows),), generator=generator)


def _check_data(model: nn.Module, images: Tensor, labels: Tensor, target_labels: Tensor, codes: Tensor) -> None:
    if not len(images) or labels.ndim != 2 or len(labels) != len(images):
        found = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise ArgumentError(f"`images` (N, 3, H, W) and `labels` (N, C) have as many rows, at least 1; got {found}")
    first = pixels_of(images[:1], device_of(model))
    check_images(first if images.dtype == torch.uint8 else images)
    _check_size(images)
    _check_targets("target_labels", target_labels, labels.shape[1])
    check_codes("target_codes", codes)
    wanted = len(target_labels), clean_logits_of(model, first).shape[1]
    if tuple(codes.shape) != wanted or not len(codes):
        rule = f"{wanted} as in `target_labels` and the model, with at least one row"
        raise ArgumentError(f"`target_codes` is (T, K) = {rule}; got {tuple(codes.shape)}")


def _check_targets(name: str, labels: Tensor, classes: int) -> None:
    if labels.ndim != 2 or labels.shape[1] != classes:
        raise ArgumentError(f"`{name}` is (rows, C) with C = {classes}; got {tuple(labels.shape)}")
    if not bool(has_label(labels).all()):
        raise ArgumentError(f"`{name}` has a label in every row; got a row without one, which is no target")


def _check_linf(threat: Threat) -> None:
    if not (isinstance(threat, ThreatModel) and threat.norm == "linf"):
        raise ArgumentError(f"`threat` of a generator is linf, since its tanh bounds each pixel; got {threat}")


def _check_size(images: Tensor) -> None:
    height, width = images.shape[-2:]
    if height % 4 or width % 4 or min(height, width) < 8:
        raise ArgumentError(f"`images` have a height and a width divisible by 4, at least 8; got {height} x {width}")
