"""An inner attack whose radius grows, on a linear model: every step is known."""

import pytest
import torch
from torch import Tensor, nn

from saat.attacks.gradient import PGD
from saat.attacks.threat import PatchThreat, ThreatModel
from saat.defenses.inner import CarriedInnerAttack, InnerAttack
from saat.errors import ArgumentError
from saat.types import Batch

EPSILON = 0.127  # a level of a carried perturbation is 0.001
WARMUP = 4
SHARES = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
IMAGES = torch.full((2, 3, 4, 4), 0.5)
BATCH = Batch(IMAGES, torch.ones(2, 1), torch.arange(2))


class Sum(nn.Module):
    """One logit: the sum of the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).sum(1, keepdim=True)


def attack(step_size: float = EPSILON, *, random_start: bool = False) -> PGD:
    threat = ThreatModel("linf", EPSILON)
    return PGD(threat, steps=1, step_size=step_size, random_start=random_start, keep_best=False)


def moved(inner: InnerAttack) -> Tensor:
    """Return how far one call takes the images of the batch up."""
    return inner(Sum(), BATCH, lambda logits: -logits[:, 0]) - IMAGES


def test_radius_and_step_grow_in_a_line_and_stay():
    inner = InnerAttack(attack(), warmup=WARMUP)
    for share in SHARES:
        assert torch.allclose(moved(inner), torch.tensor(share * EPSILON))
    whole = InnerAttack(attack())
    assert torch.allclose(moved(whole), torch.tensor(EPSILON))


def test_the_radius_bounds_random_starts_too():
    inner = InnerAttack(attack(0.0, random_start=True), warmup=WARMUP)
    for share in SHARES:
        assert 0.8 * share * EPSILON < moved(inner).abs().max() <= share * EPSILON + 1e-6


def test_after_a_stop_the_radius_goes_on_where_it_was():
    inner, resumed = InnerAttack(attack(), warmup=WARMUP), InnerAttack(attack(), warmup=WARMUP)
    moved(inner)
    resumed.load_state_dict(inner.state_dict())
    assert torch.allclose(moved(resumed), torch.tensor(0.5 * EPSILON))


def test_carried_perturbations_grow_with_the_radius():
    """Half a radius a step: each call adds half its share, and the stored levels are of the whole radius."""
    inner = CarriedInnerAttack(attack(EPSILON / 2), items=2, image_size=4, warmup=WARMUP)
    expected = 0.0
    for share in SHARES:
        expected = min(expected + share / 2, share)
        found = moved(inner)
        assert torch.allclose(found, torch.tensor(expected * EPSILON), atol=0.001)
        assert inner.perturbations.unique().tolist() == [pytest.approx(expected * 127, abs=1)]


def test_a_scaled_search_counts_its_cost_in_one_place_and_leaves_the_whole_one():
    whole = attack()
    half = whole.scaled(0.5)
    half(Sum(), IMAGES, lambda logits: -logits[:, 0])
    assert whole.cost.model_evaluations == half.cost.model_evaluations == 2
    assert (whole.threat, whole.step_size) == (ThreatModel("linf", EPSILON), EPSILON)
    assert (half.threat, half.step_size) == (ThreatModel("linf", EPSILON / 2), EPSILON / 2)


def test_a_threat_without_a_radius_is_not_scaled():
    with pytest.raises(ArgumentError, match="`scaled` is of threats with a radius; got PatchThreat"):
        PGD(PatchThreat()).scaled(0.5)
