"""Where a gradient search begins."""

import pytest
import torch
from torch import Tensor, nn

from saat.attacks.gradient import PGD
from saat.attacks.threat import ThreatModel
from saat.errors import ArgumentError

THREAT = ThreatModel("linf", 0.25)


def first_pixel() -> nn.Module:
    """One logit: the value of the first of three pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 0.0, 0.0]])
    return model


@pytest.mark.parametrize("random_start", [True, False])
def test_a_start_outside_the_ball_is_projected_and_restarts_begin_elsewhere(random_start):
    clean, seen = torch.full((1, 3, 1, 1), 0.5), []

    def objective(logits: Tensor) -> Tensor:
        seen.append(logits.item())
        return 0.0 * logits[:, 0]

    attack = PGD(THREAT, steps=1, restarts=3, start=torch.ones_like(clean), random_start=random_start)
    attack(first_pixel(), clean, objective)
    assert len(seen) == 1 + 3 * 2  # the clean image, and each search before and after its step
    assert seen[:2] == [0.5, 0.75]
    assert len({seen[1], seen[3], seen[5]}) == (3 if random_start else 2)
    assert all(0.25 <= value <= 0.75 for value in seen)


def test_a_step_from_the_start_by_hand():
    clean = torch.full((2, 3, 1, 1), 0.5)
    start = clean + torch.tensor([0.125, -0.25]).view(2, 1, 1, 1)
    attack = PGD(THREAT, steps=1, step_size=0.125, start=start, keep_best=False)
    found = attack(first_pixel(), clean, lambda logits: logits[:, 0])
    # Down from 0.625 and from the edge of the ball at 0.25; the pixels that do not count stay at the start.
    assert found.flatten(1).tolist() == [[0.5, 0.625, 0.625], [0.25, 0.25, 0.25]]


def test_the_start_is_for_a_batch_of_its_size():
    attack = PGD(THREAT, steps=1, start=torch.zeros(3, 3, 1, 1))
    with pytest.raises(ArgumentError, match=r"`start` has the shape of the images, \(4, 3, 1, 1\); got \(3, 3, 1, 1\)"):
        attack(first_pixel(), torch.zeros(4, 3, 1, 1), lambda logits: logits[:, 0])
