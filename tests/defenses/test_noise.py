"""Noise in the place of an inner attack."""

import torch

from saat.defenses.inner import GaussianNoise, InnerAttack
from saat.types import Batch

IMAGES = torch.full((8, 3, 32, 32), 0.9)
BATCH = Batch(IMAGES, torch.ones(8, 1), torch.arange(8))


def changes(inner: InnerAttack) -> torch.Tensor:
    return inner(torch.nn.Identity(), BATCH, lambda logits: logits[:, 0]) - IMAGES


def test_noise_has_the_given_deviation_and_is_not_cut_at_white():
    found = changes(InnerAttack(GaussianNoise(0.25)))
    assert abs(found.mean().item()) < 0.01
    assert abs(found.std().item() - 0.25) < 0.01
    assert (found + IMAGES).max() > 1.5


def test_every_call_draws_anew_and_goes_on_where_it_was_saved():
    inner = InnerAttack(GaussianNoise(0.25), seed=1)
    first, second = changes(inner), changes(inner)
    assert not torch.equal(first, second)
    again = InnerAttack(GaussianNoise(0.25), seed=1)
    again.load_state_dict({"calls": torch.tensor(1)})
    assert torch.equal(changes(again), second)
    assert not torch.equal(changes(InnerAttack(GaussianNoise(0.25), seed=2)), first)
