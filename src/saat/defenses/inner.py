"""What train steps share: how a batch is changed before the model learns from it, and logits in their precision."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from saat.attacks.gradient import PGD
from saat.models.smoothing import add_noise
from saat.runtime import autocast, derive_seed, make_generator
from saat.types import Batch, CodeObjective

LEVELS = 127  # of a stored perturbation, each way: int8
ATTACK_MODES = ("eval", "train")


class GaussianNoise:
    """Noise in the place of an attack, for a model whose bits are to vote over noise (`saat certify`).

    Cohen, Rosenfeld, Kolter, *Certified Adversarial Robustness via Randomized Smoothing*, ICML 2019: the model learns
    from images with the noise that its votes will have.

    Args:
        sigma: standard deviation, in units of the pixel range [0, 1].
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, model: nn.Module, images: Tensor, objective: CodeObjective, *, seed: int = 0) -> Tensor:  # noqa: ARG002
        """Return noisy images (B, 3, H, W), which may leave [0, 1] as the copies that vote do."""
        return add_noise(images, make_generator(seed, "noise", device=images.device), sigma=self.sigma)


class ModelInTraining(nn.Module):
    """A view of a model that keeps the mode it is in, whatever mode the view is put in.

    What attacks it sees batch statistics and dropout as they are in training, and moves the running statistics.

    Args:
        model: images (B, 3, H, W) -> logits (B, K).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> Self:
        """Note the mode, and leave that of the model."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's logits (B, K) of images (B, 3, H, W)."""
        return logits_of_batch(self.model, images)


class InnerAttack(nn.Module):
    """An attack whose every call has a random start of its own, also after training has been stopped and resumed.

    Args:
        attack: how to search, or noise.
        mode: `eval`, which leaves the model's batch statistics as they are, or `train`: see `ModelInTraining`.
        seed: of all random starts.
        warmup: calls in which radius and step of the search grow in a line, up to those of `attack`. Pang, Yang, Dong,
            Su, Zhu, *Bag of Tricks for Adversarial Training*, ICLR 2021.
    """

    calls: Tensor

    def __init__(self, attack: PGD | GaussianNoise, *, mode: str = "eval", seed: int = 0, warmup: int = 0) -> None:
        super().__init__()
        self.attack, self.mode, self.seed, self.warmup = attack, mode, seed, warmup
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, model: nn.Module, batch: Batch, objective: CodeObjective) -> Tensor:
        """Return adversarial images (B, 3, H, W) of the images of `batch`."""
        self.calls += 1
        attacked = ModelInTraining(model) if self.mode == "train" else model
        attack = self.attack
        if isinstance(attack, PGD) and int(self.calls) < self.warmup:
            attack = attack.scaled(int(self.calls) / self.warmup)
        return attack(attacked, batch.images, objective, seed=derive_seed(self.seed, "inner", int(self.calls)))


class CarriedInnerAttack(InnerAttack):
    """An inner attack that starts each image from its perturbation of the last epoch, in the first one at random.

    Zheng et al., *Efficient Adversarial Training with Transferable Adversarial Examples*, CVPR 2020 (ATTA); Jia et al.,
    *Prior-Guided Adversarial Initialization for Fast Adversarial Training*, ECCV 2022. The model changes little in an
    epoch, so that one step from there reaches what takes several from a random place.

    A perturbation is kept in the frame of the stored image. Crop and flip move it along with the image; what the attack
    finds goes back, pixels that the crop leaves out keep what they had, and padding has none.

    *Differs from the papers*: nothing is reset after some epochs, as in the first, and the loss has no term that holds
    a perturbation to the last one, as in the second.

    Memory: the resume state and the device hold 3 S^2 + 1 bytes an image, 3,073 at 32 x 32 and 150,529 at 224 x 224:
    the perturbation in steps of epsilon / 127, and whether there is one.

    Args:
        attack: how to search. Its `start` is set anew for each batch.
        items: N, the images that are trained on.
        image_size: S, their side in pixels.
        mode: see `InnerAttack`.
        seed: of the random starts.
        warmup: see `InnerAttack`.
    """

    attack: PGD
    perturbations: Tensor
    visited: Tensor

    def __init__(
        self, attack: PGD, *, items: int, image_size: int, mode: str = "eval", seed: int = 0, warmup: int = 0
    ) -> None:
        super().__init__(attack, mode=mode, seed=seed, warmup=warmup)
        shape = (items, 3, image_size, image_size)
        self.register_buffer("perturbations", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("visited", torch.zeros(items, dtype=torch.bool))

    def forward(self, model: nn.Module, batch: Batch, objective: CodeObjective) -> Tensor:
        """Return adversarial images (B, 3, H, W) of the images of `batch`, and keep their perturbations."""
        rows, drawn = batch.indices, batch.augmentation
        level = max(self.attack.threat.epsilon, 1e-12) / LEVELS
        kept = self.perturbations[rows]
        carried = kept if drawn is None else drawn.follow(kept)
        # An epoch visits each image once, so a batch has perturbations for all of its images or for none.
        self.attack.start = batch.images + level * carried if bool(self.visited[rows].all()) else None
        found = super().forward(model, batch, objective)
        changes = ((found - batch.images) / level).round().clamp(-LEVELS, LEVELS).to(torch.int8)
        self.perturbations[rows] = changes if drawn is None else drawn.undo(changes, kept)
        self.visited[rows] = True
        return found


def train_logits(model: nn.Module, images: Tensor, *, precision: str) -> Tensor:
    """Return the logits of images (B, 3, H, W) with their graph, computed in `precision`, as float32 (B, K)."""
    with autocast(precision, images.device):
        return logits_of_batch(model, images).float()


def logits_of_batch(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (B, K) of images (B, 3, H, W); one alone is shown twice, as a batch norm in training needs."""
    logits: Tensor = model(images if len(images) > 1 else images.repeat(2, 1, 1, 1))
    return logits[: len(images)]
