"""Our PGD and Square attack against those of the Adversarial Robustness Toolbox (ART)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from saat.attacks.gradient import PGD
from saat.attacks.objectives import agreement_objective
from saat.attacks.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the library's own imports
    from art.attacks.evasion import ProjectedGradientDescentPyTorch, SquareAttack
    from art.estimators.classification import PyTorchClassifier

pytestmark = pytest.mark.filterwarnings("ignore:::art")

EPSILON, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10


def distance_loss(logits: torch.Tensor, mainstay: torch.Tensor) -> torch.Tensor:
    """Return the Hamming distance of relaxed codes to the mainstay codes, which ART carries as if they were labels."""
    return ((1.0 - logits.tanh() * mainstay) / 2.0).sum()


def classifier(subject) -> PyTorchClassifier:
    shape, classes = tuple(subject.images.shape[1:]), subject.mainstay.shape[1]
    return PyTorchClassifier(
        subject.model, loss=distance_loss, input_shape=shape, nb_classes=classes, clip_values=(0.0, 1.0)
    )


def agreement(subject, images: torch.Tensor) -> float:
    """Return the mean agreement of relaxed codes with the mainstay codes."""
    with torch.no_grad():
        return float((subject.model(images).tanh() * subject.mainstay).mean())


def test_pgd_finds_the_images_of_art(subject):
    attack = ProjectedGradientDescentPyTorch(
        classifier(subject),
        norm=np.inf,
        eps=EPSILON,
        eps_step=STEP_SIZE,
        max_iter=STEPS,
        num_random_init=0,
        batch_size=len(subject.images),
        verbose=False,
    )
    theirs = torch.from_numpy(attack.generate(subject.images.numpy(), y=subject.mainstay.numpy()))

    search = PGD(ThreatModel("linf", EPSILON), steps=STEPS, step_size=STEP_SIZE, random_start=False, keep_best=False)
    objective = agreement_objective(-subject.mainstay, subject.model(subject.images).detach())
    ours = search(subject.model, subject.images, objective)

    moved = (ours - subject.images).abs() > 1e-3
    assert float(moved.float().mean()) > 0.9  # there is something to compare
    equal = (ours - theirs).abs() <= 1e-5
    assert float(equal.float().mean()) >= 0.995


def art_square(subject, *, moves: int, seed: int) -> torch.Tensor:
    net = classifier(subject)
    np.random.seed(seed)  # ART draws from the global generator
    attack = SquareAttack(
        net,
        norm=np.inf,
        adv_criterion=lambda predicted, _: np.zeros(len(predicted), dtype=bool),  # search on to the end
        loss=lambda images, mainstay: (np.tanh(net.predict(images)) * mainstay).mean(1),
        max_iter=moves,
        eps=EPSILON,
        batch_size=len(subject.images),
        verbose=False,
    )
    return torch.from_numpy(attack.generate(subject.images.numpy(), y=subject.mainstay.numpy()))


def test_square_comes_as_far_as_that_of_art(subject):
    blackbox = pytest.importorskip("saat.attacks.blackbox")
    moves, seeds = 150, (0, 1, 2)
    objective = agreement_objective(-subject.mainstay, subject.model(subject.images).detach())
    search = blackbox.SquareAttack(ThreatModel("linf", EPSILON), queries=moves + 2)
    clean = agreement(subject, subject.images)
    ours, theirs = (
        clean - np.mean([agreement(subject, find(seed)) for seed in seeds])
        for find in (
            lambda seed: search(subject.model, subject.images, objective, seed=seed),
            lambda seed: art_square(subject, moves=moves, seed=seed),
        )
    )
    assert ours > 0.1  # of a possible 2: there is something to compare
    assert abs(ours - theirs) <= 0.15 * max(ours, theirs)
