"""Our PGD against foolbox's: another implementation, the same images. (Foolbox 3 has no Square attack.)"""

from __future__ import annotations

import warnings

import pytest
import torch

from saat.attacks.gradient import PGD
from saat.attacks.objectives import agreement_objective
from saat.attacks.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the library's own imports
    import foolbox

pytestmark = pytest.mark.filterwarnings("ignore:::(foolbox|eagerpy)")

STEPS = 10
ATTACKS = {
    "linf": (foolbox.attacks.LinfProjectedGradientDescentAttack, 8 / 255, 2 / 255),
    "l2": (foolbox.attacks.L2ProjectedGradientDescentAttack, 1.0, 0.25),
}


def leaving(attack, mainstay: torch.Tensor):
    """Return foolbox's class `attack` with another loss: the Hamming distance of relaxed codes to `mainstay`."""

    class Leaving(attack):
        def get_loss_fn(self, model, labels):
            return lambda inputs: ((1.0 - model(inputs).tanh() * mainstay) / 2.0).sum()

    return Leaving


@pytest.mark.parametrize("norm", ATTACKS)
def test_pgd_finds_the_images_of_foolbox(norm, subject):
    attack, epsilon, step_size = ATTACKS[norm]
    net = foolbox.PyTorchModel(subject.model, bounds=(0, 1), device="cpu")
    theirs_search = leaving(attack, subject.mainstay)(abs_stepsize=step_size, steps=STEPS, random_start=False)
    nobody = foolbox.criteria.Misclassification(torch.zeros(len(subject.images), dtype=torch.int64))
    theirs, _, _ = theirs_search(net, subject.images, nobody, epsilons=epsilon)

    search = PGD(ThreatModel(norm, epsilon), steps=STEPS, step_size=step_size, random_start=False, keep_best=False)
    objective = agreement_objective(-subject.mainstay, subject.model(subject.images).detach())
    ours = search(subject.model, subject.images, objective)

    moved = (ours - subject.images).abs() > 1e-3
    assert float(moved.float().mean()) > 0.9  # there is something to compare
    equal = (ours - theirs).abs() <= 1e-5
    assert float(equal.float().mean()) >= 0.995
