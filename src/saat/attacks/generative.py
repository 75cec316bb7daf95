"""A generator that is trained once and then attacks in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from saat.attacks.base import Attack, Probe, check_images
from saat.attacks.goals import clean_logits_of
from saat.attacks.threat import Threat, ThreatModel
from saat.codes.semantic import has_label
from saat.errors import ArgumentError, SaatError, check_at_least
from saat.hamming import check_codes, relaxed_codes
from saat.runtime import as_channels_last, autocast, derive_seed, frozen, make_generator, progress

# Weights of the released code, for images in [-1, 1], and how rarely its discriminator learns.
HAMMING_WEIGHT, RECONSTRUCTION_WEIGHT, ADVERSARIAL_WEIGHT = 5.0, 50.0, 1.0
DISCRIMINATOR_EVERY = 3
MAP_SIZE = 8


def _block(layer: nn.Module, channels: int) -> nn.Sequential:
    # A norm of each channel erases what is constant over the image; so the cells of a label's map differ.
    return nn.Sequential(layer, nn.InstanceNorm2d(channels), nn.ReLU())


class Generator(nn.Module):
    """From an image, and the target's labels as a map of 8 x 8 cells spread over it, to a perturbation's direction.

    Args:
        classes: C, the width of the labels.
        width: channels at full size; twice and four times as many at half and quarter size.
    """

    def __init__(self, *, classes: int, width: int = 32) -> None:
        super().__init__()
        self.classes = classes
        self.label_map = nn.Linear(classes, 3 * MAP_SIZE**2)
        self.body = nn.Sequential(
            _block(nn.Conv2d(6, width, 7, padding=3), width),
            _block(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), 2 * width),
            _block(nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1), 4 * width),
            _block(nn.Conv2d(4 * width, 4 * width, 3, padding=1), 4 * width),
            _block(nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1), 2 * width),
            _block(nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1), width),
        )
        self.output = nn.Conv2d(width + 3, 3, 3, padding=1)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] and labels (B, C), multi-hot, to directions (B, 3, H, W) in [-1, 1]."""
        centered = images * 2.0 - 1.0
        cells = self.label_map((labels > 0).float()).view(-1, 3, MAP_SIZE, MAP_SIZE)
        maps = F.interpolate(cells, size=images.shape[-2:], mode="nearest")
        decoded = self.body(torch.cat([centered, maps], 1))
        return torch.tanh(self.output(torch.cat([decoded, centered], 1)))


class Discriminator(nn.Module):
    """A network that tells the labels of an image, of C = `classes`, and whether it was generated."""

    def __init__(self, *, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, wider in pairwise((3, 32, 64, 128)):
            layers += [spectral_norm(nn.Conv2d(channels, wider, 3, stride=2, padding=1)), nn.LeakyReLU(0.01)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes + 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to scores (B, C + 1): C labels, then 1 for generated and 0 for real."""
        scores: Tensor = self.layers(images * 2.0 - 1.0)
        return scores


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
    *,
    epochs: int = 20,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
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
    second term; the generator learns its own map of the target's labels, where the paper takes the embedding of the
    prototype network; the networks are smaller, fit other sizes and learn at a higher rate. As in the paper, the first
    term has no gradient where logits have grown beyond the range of tanh (see `weighted_objective`).

    Args:
        model: images (B, 3, H, W) in [0, 1] -> logits (B, K); left as it is.
        images: (N, 3, H, W), uint8 in 0..255 or float32 in [0, 1]; H and W divisible by 4, at least 8.
        labels: (N, C) multi-hot, those of the images.
        target_labels: (T, C) multi-hot, the label sets that the generator learns to reach.
        target_codes: int8 (T, K), the prototype (or mainstay) codes of `target_labels`.
        threat: how far images may move; linf.
        epochs: passes over the images.
        batch_size: images a step.
        learning_rate: of Adam, for both networks.
        seed: of the first weights, the order and the targets.
        precision: of the forward passes; see `runtime.autocast`.
        quiet: show no bar.

    Raises:
        ArgumentError: shapes disagree, an option is out of range, or the threat is not linf.
        SaatError: the loss is no longer finite.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        check_at_least(name, value, 1)
    check_at_least("learning_rate", learning_rate, 0.0)
    _check_linf(threat)
    device = next(iter(model.parameters()), images).device
    _check_data(model, images, labels, target_labels, target_codes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "fit_generator"))
        generator = Generator(classes=labels.shape[1]).to(device)
        discriminator = Discriminator(classes=labels.shape[1]).to(device)
    nets = (generator, discriminator)
    optimizers = [torch.optim.Adam(net.parameters(), lr=learning_rate, betas=(0.5, 0.999)) for net in nets]
    draws = _draws(len(images), len(target_labels), epochs, batch_size, make_generator(seed, "fit_generator"))
    total = epochs * math.ceil(len(images) / batch_size)
    bar = progress(draws, "fit generator", unit="batch", total=total, quiet=quiet)
    with frozen(model):
        for step, (rows, targets) in enumerate(bar):
            clean = _to_pixels(images[rows], device)
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
    count: int, targets: int, epochs: int, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the rows of each batch, and a random row of the targets for each."""
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(count, generator=generator), batch_size):
            yield rows, torch.randint(targets, (len(rows),), generator=generator)


def _to_pixels(images: Tensor, device: torch.device) -> Tensor:
    return as_channels_last(images.to(device, torch.float32) / (255.0 if images.dtype == torch.uint8 else 1.0))


def _check_data(model: nn.Module, images: Tensor, labels: Tensor, target_labels: Tensor, codes: Tensor) -> None:
    if not len(images) or labels.ndim != 2 or len(labels) != len(images):
        found = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise ArgumentError(f"`images` (N, 3, H, W) and `labels` (N, C) have as many rows, at least 1; got {found}")
    first = _to_pixels(images[:1], next(iter(model.parameters()), images).device)
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
